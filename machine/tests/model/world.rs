// SPDX-License-Identifier: Apache-2.0
//! World: three processes, the kernel between them, and one client.
//!
//! **Process.** A supervisor takes one event at a time from its mailbox, calls `Lifecycle::step`,
//! and executes all orders in sequence before it takes the next event.
//!
//! **Lock.** It belongs to an open file description. It is held while anything refers to this
//! description: a process, a dead process that the kernel has not yet released, or a message whose
//! receiver lives. There is only one such description, so the model records which processes refer
//! to it.
//!
//! **Connection.** A queue of messages in each direction. A process sees the end of a connection
//! after it has read all messages and the other end is closed, with any delay.
//!
//! **Device.** It has one open file, as most drivers allow. Copies are in processes, in offers, and
//! in PID 1's store, which keeps those of a unit that was killed until PID 1 gives the unit up.
//!
//! **Client.** It connects once and sends a few `set_counter`. A request is unread, then read by a
//! session, then executed, then answered. An offer contains a copy of the session.

use std::hash::{Hash, Hasher};

use early_service_machine::Counter;
use early_service_machine::device::{self, Device};
use early_service_machine::lifecycle::Event;
use early_service_machine::lifecycle::takeover::Start;
use early_service_machine::record::{self, Unlogged};
use early_service_machine::schedule::{Monotonic, Period};
use early_service_machine::timeline::Snapshot;

use crate::atlas::{Atlas, Place};
use crate::list::List;
use crate::order::{Fact, Order, Orders};

/// The size of a search.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    /// Ticks that come due.
    pub(crate) ticks: u8,
    /// Kills, stops and inconsistent states.
    pub(crate) faults: u8,
    /// Processes that start from the root filesystem: 1 or 2.
    pub(crate) successors: usize,
    /// Commands that the client sends.
    pub(crate) requests: u8,
    /// Whether the predecessor can open the state file; if not, it sends `lock=0`.
    pub(crate) lockable: bool,
    /// Whether all processes serve one socket of PID 1, so that a successor asks the process that
    /// serves it. If not, successors ask the predecessor on a socket that ends with it.
    pub(crate) takeover: bool,
    /// Whether log lines are queued in the process before they are written.
    pub(crate) journal: bool,
    /// Whether the service has a device.
    pub(crate) device: bool,
    /// Whether the predecessor starts its only successor itself, in the same unit, over the only
    /// connection between them.
    pub(crate) reload: bool,
}

impl Bounds {
    /// The unit of a process: PID 1's store belongs to a unit.
    pub(crate) fn unit(&self, who: Who) -> usize {
        if self.reload { Predecessor as usize } else { who as usize }
    }
}

/// The rules that the actors follow. A broken daemon violates one of them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rules {
    /// A descriptor of the lock travels with the state.
    pub(crate) passes_lock: bool,
    /// A change is in the file before it is visible.
    pub(crate) writes_first: bool,
    /// A successor without the lock refuses an offer that lacks it.
    pub(crate) needs_lock: bool,
    /// A state that was not loaded from the file is written to it.
    pub(crate) keeps_received: bool,
    /// An owner that withdraws its offer reads what the successor has written to the file.
    pub(crate) reads_again: bool,
    /// Messages are read before the end of the connection is seen.
    pub(crate) reads_out: bool,
    /// A process that holds the lock does not wait for an answer forever.
    pub(crate) gives_up: bool,
    /// A process that leaves does nothing else.
    pub(crate) leaves_at_once: bool,
    /// A process that finds another owner drops what PID 1's store returned.
    pub(crate) drops_stored: bool,
    /// Only the main process of a unit speaks to PID 1.
    pub(crate) speaks_as_main: bool,
}

impl Rules {
    /// The rules of the daemon.
    pub(crate) const KEPT: Self = Self {
        passes_lock: true,
        writes_first: true,
        needs_lock: true,
        keeps_received: true,
        reads_again: true,
        reads_out: true,
        gives_up: true,
        leaves_at_once: true,
        drops_stored: true,
        speaks_as_main: true,
    };
}

/// The step function of a device: the real one, or one that is broken on purpose.
pub(crate) type DeviceStep = fn(Device, device::Event) -> (Device, Vec<device::Effect>);

/// The step function that the daemon calls.
pub(crate) fn true_device(device: Device, event: device::Event) -> (Device, Vec<device::Effect>) {
    let (next, effects) = device.step(event);
    (next, effects.to_vec())
}

/// A lifecycle, a device and the rules of the actors.
pub(crate) struct Daemon {
    pub(crate) atlas: Atlas,
    pub(crate) device: DeviceStep,
    pub(crate) rules: Rules,
    pub(crate) bounds: Bounds,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Who {
    Predecessor,
    First,
    Second,
}
use Who::{First, Predecessor, Second};

/// The processes from the root filesystem, which differ only in their names.
pub(crate) const SUCCESSORS: [Who; 2] = [First, Second];
pub(crate) const EVERYBODY: [Who; 3] = [Predecessor, First, Second];

/// The state, in memory and in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Record {
    /// The tick that comes next.
    pub(crate) next: u8,
    /// How many commands have been executed.
    pub(crate) set: u8,
}

impl Record {
    /// A new state.
    pub(crate) const FRESH: Self = Self { next: 0, set: 0 };

    /// The state as the daemon has it: the ticks are its deadline, one nanosecond each.
    pub(crate) fn snapshot(self) -> Snapshot<Counter> {
        let Self { next, set } = self;
        let state = Counter { next: u64::from(set) << 8 | u64::from(next) };
        let period = Period::from_nanos(Period::SHORTEST).expect("the shortest that there is");
        Snapshot { state, deadline: Monotonic::from_nanos(next.into()), period }
    }

    /// The state as the state file has it.
    pub(crate) fn recorded(self) -> record::Record<Counter> {
        record::Record {
            sequence: 0,
            unlogged: Unlogged::default(),
            realtime: None,
            snapshot: self.snapshot(),
        }
    }

    /// The state of an owner that starts there.
    pub(crate) fn at(start: Start<Counter>) -> Self {
        let Counter { next } = start.state();
        Self { next: (next & 0xff) as u8, set: (next >> 8) as u8 }
    }
}

/// A server's data about the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Session {
    /// Commands that were read and not executed.
    pub(crate) input: u8,
    /// Replies that were not sent.
    pub(crate) replies: u8,
}

impl Session {
    pub(crate) const IDLE: Self = Self { input: 0, replies: 0 };
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Life {
    /// The process does not exist.
    Down,
    Up,
    /// Killed, but not yet released completely by the kernel.
    Dying,
}

/// The progress of a successor's handoff actor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Exchange {
    /// Reads nothing.
    Idle,
    /// Asked, and reads the answer.
    Asking,
    /// Has read the whole state, and waits for an order.
    Whole,
    /// Waits for the commit.
    Prepared,
    /// Has read that it is the owner.
    Committed,
}

/// A process and its actors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Process {
    pub(crate) life: Life,
    /// The number of its lifecycle.
    pub(crate) place: Place,
    /// Reported events that the supervisor has not taken.
    pub(crate) mailbox: List<Fact, 6>,
    /// Orders that were not executed.
    pub(crate) orders: Orders,
    /// Its open file description holds the lock.
    pub(crate) lock: bool,
    /// It received a descriptor of the description that holds the lock.
    pub(crate) copy: bool,
    /// Tries to acquire the lock.
    pub(crate) trying: bool,
    /// Has reported that another process holds the lock.
    pub(crate) told: bool,
    pub(crate) counter: Option<Record>,
    pub(crate) frozen: bool,
    /// Has a change that is not in the file; only if rules are broken.
    pub(crate) unsaved: bool,
    pub(crate) listening: bool,
    /// The client's connection, if it was accepted or received.
    pub(crate) session: Option<Session>,
    /// The state as it arrived in the message.
    pub(crate) received: Option<Record>,
    /// The record that a broken machine has read too early.
    pub(crate) peeked: Option<Record>,
    pub(crate) exchange: Exchange,
    /// Has offered, and reads messages of the successor.
    pub(crate) offered: bool,
    /// The offer's timer runs.
    pub(crate) timer: bool,
    /// Was told to stop.
    pub(crate) stopping: bool,
    /// Ticks whose log lines are queued, one bit each.
    pub(crate) queued: u8,
    pub(crate) device: Device,
    /// Has copies of the device's descriptors.
    pub(crate) luggage: bool,
    /// The copies came from PID 1's store.
    pub(crate) restored: bool,
    /// Has sent a successor copies of the descriptors.
    pub(crate) lent: bool,
    /// A successor in the same unit owns the state.
    pub(crate) replaced: bool,
    /// Says nothing to PID 1, because it is not the main process of its unit.
    pub(crate) silent: bool,
    /// Has an order for PID 1's store that waits for the end of that.
    pub(crate) unstores: bool,
    /// The predecessor committed, and the end of its connection was not seen yet.
    pub(crate) follows: bool,
}

impl Process {
    pub(crate) const DOWN: Self = Self {
        life: Life::Down,
        place: Atlas::BEGIN,
        mailbox: List::EMPTY,
        orders: List::EMPTY,
        lock: false,
        copy: false,
        trying: false,
        told: false,
        counter: None,
        frozen: false,
        unsaved: false,
        listening: false,
        session: None,
        received: None,
        peeked: None,
        exchange: Exchange::Idle,
        offered: false,
        timer: false,
        stopping: false,
        queued: 0,
        device: Device::Unowned,
        luggage: false,
        restored: false,
        lent: false,
        replaced: false,
        silent: false,
        unstores: false,
        follows: false,
    };

    pub(crate) fn is_up(&self) -> bool {
        self.life == Life::Up
    }

    pub(crate) fn may_tick(&self) -> bool {
        self.is_up() && self.counter.is_some() && !self.frozen
    }

    pub(crate) fn may_answer(&self) -> bool {
        self.is_up() && self.listening
    }

    pub(crate) fn holds_lock(&self) -> bool {
        self.lock || self.copy
    }

    /// Whether it uses the device, or keeps it alive for a successor.
    pub(crate) fn uses_or_keeps_device(&self) -> bool {
        matches!(self.device, Device::Running | Device::Frozen | Device::Lent | Device::Given)
    }

    /// Whether only the exit is left.
    pub(crate) fn is_leaving(&self) -> bool {
        self.orders.first() == Some(Order::Exit)
    }

    pub(crate) fn expects(&self, event: impl Into<Event>) -> bool {
        let event = Fact::from(event.into());
        self.mailbox.iter().any(|fact| *fact == event)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum ToPredecessor {
    Request,
    Prepared,
    Done,
    Abort,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum ToSuccessor {
    State,
    /// The last part of the offer, and which descriptors come with it.
    End {
        lock: bool,
        luggage: bool,
    },
    Busy,
    Commit,
    Abort,
}

/// A connection from a successor to the process that it asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Wire {
    pub(crate) successor: Who,
    /// Whether the successor's end is open. A successor has at most one such connection.
    pub(crate) from: bool,
    /// Whether the other end is open, even if it is in a backlog.
    pub(crate) to: bool,
    /// The process with the other end; none while it is in the backlog of PID 1's socket.
    pub(crate) server: Option<Who>,
    /// Whether the server hands over to this successor.
    pub(crate) asker: bool,
    pub(crate) up: List<ToPredecessor, 4>,
    pub(crate) down: List<ToSuccessor, 5>,
    /// The content of [`ToSuccessor::State`] while it is in flight.
    pub(crate) session: Option<Session>,
    pub(crate) record: Option<Record>,
}

impl Wire {
    /// A new connection of a successor, on which nothing was sent.
    pub(crate) fn of(successor: Who) -> Self {
        Self {
            successor,
            from: true,
            to: true,
            server: None,
            asker: false,
            up: List::EMPTY,
            down: List::EMPTY,
            session: None,
            record: None,
        }
    }

    pub(crate) fn write_up(&mut self, message: ToPredecessor) {
        if self.to {
            self.up.push(message);
        }
    }

    pub(crate) fn write_down(&mut self, message: ToSuccessor) {
        if self.from {
            self.down.push(message);
        }
    }

    /// Closes the successor's end and drops what it has not read.
    pub(crate) fn close_from(&mut self) {
        self.from = false;
        self.down = List::EMPTY;
        (self.session, self.record) = (None, None);
    }

    pub(crate) fn close_to(&mut self) {
        (self.to, self.asker) = (false, false);
        self.up = List::EMPTY;
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Stage {
    /// Waits in the listener's backlog.
    Backlog,
    Accepted,
    /// Was disconnected.
    Ended,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Client {
    pub(crate) stage: Stage,
    /// Commands that were sent and not read.
    pub(crate) unread: u8,
    /// Replies that the client has received.
    pub(crate) answered: u8,
    /// Whether its owner was killed or stopped, and no process serves it again yet.
    pub(crate) owner_failed: bool,
    /// Whether no process could continue after that, so that it may be disconnected.
    pub(crate) may_end: bool,
}

/// A violation that has happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Wrong {
    TickedTwice,
    TickMissing,
    LoggedTwice,
    /// The state began anew after ticks or replies were visible.
    StartedAnew,
    /// The client was disconnected although its owner did not fail.
    ClientDropped,
    /// The last copy of the device was closed although nothing failed.
    DeviceClosed,
    /// The device was used after it had been released.
    UsedAfterRelease,
}

/// The whole model at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct World {
    pub(crate) faults: u8,
    pub(crate) root_switched: bool,
    /// Whether any process has served.
    pub(crate) begun: bool,
    /// The content of the state file; nothing at first.
    pub(crate) file: Option<Record>,
    /// How many ticks were visible, of all processes.
    pub(crate) ticked: u8,
    /// Ticks whose lines are in the log, one bit each.
    pub(crate) logged: u8,
    /// Ticks whose lines were queued in a process that died, one bit each.
    pub(crate) lost: u8,
    pub(crate) client: Client,
    pub(crate) processes: [Process; 3],
    pub(crate) wires: List<Wire, 5>,
    /// Whether PID 1's store has copies of the device, by the unit that stored them.
    pub(crate) stored: [bool; 3],
    /// Whether the device was released since it was opened last.
    pub(crate) released: bool,
    pub(crate) wrong: Option<Wrong>,
}

/// Hashes all fields in one piece: hashing hundreds of bytes one by one takes most of the time.
impl Hash for World {
    fn hash<H: Hasher>(&self, state: &mut H) {
        let Self { faults, root_switched, begun, file, ticked, logged, lost, .. } = *self;
        let mut pieces = Pieces { bytes: [0; 512], length: 0 };
        (faults, root_switched, begun, file, ticked, logged, lost).hash(&mut pieces);
        (self.client, self.processes, self.wires, self.wrong).hash(&mut pieces);
        (self.stored, self.released).hash(&mut pieces);
        state.write(&pieces.bytes[..pieces.length]);
    }
}

/// Collects the bytes to hash. Every piece of a world fits into one byte.
struct Pieces {
    bytes: [u8; 512],
    length: usize,
}

impl Hasher for Pieces {
    fn finish(&self) -> u64 {
        unreachable!("only collects bytes")
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.write_u8(*byte));
    }

    fn write_u8(&mut self, byte: u8) {
        self.bytes[self.length] = byte;
        self.length += 1;
    }

    /// The number of a variant.
    fn write_isize(&mut self, number: isize) {
        self.write_u8(number as u8);
    }

    /// The length of an array or a slice.
    fn write_usize(&mut self, number: usize) {
        self.write_u8(number as u8);
    }
}

impl World {
    pub(crate) fn new(bounds: Bounds) -> Self {
        let client = Client {
            stage: Stage::Backlog,
            unread: bounds.requests,
            answered: 0,
            owner_failed: false,
            may_end: false,
        };
        Self {
            faults: 0,
            root_switched: false,
            begun: false,
            file: None,
            ticked: 0,
            logged: 0,
            lost: 0,
            client,
            processes: [Process::DOWN; 3],
            wires: List::EMPTY,
            stored: [false; 3],
            released: false,
            wrong: None,
        }
    }

    pub(crate) fn process(&self, who: Who) -> &Process {
        &self.processes[who as usize]
    }

    pub(crate) fn process_mut(&mut self, who: Who) -> &mut Process {
        &mut self.processes[who as usize]
    }

    pub(crate) fn lock_is_free(&self) -> bool {
        let in_flight = |wire: &Wire| {
            wire.down.iter().any(|message| matches!(message, ToSuccessor::End { lock: true, .. }))
        };
        !self.processes.iter().any(Process::holds_lock) && !self.wires.iter().any(in_flight)
    }

    /// Whether any copy of the device is open.
    pub(crate) fn device_is_open(&self) -> bool {
        let in_flight = |wire: &Wire| {
            wire.down
                .iter()
                .any(|message| matches!(message, ToSuccessor::End { luggage: true, .. }))
        };
        self.processes.iter().any(|process| process.luggage)
            || self.stored.contains(&true)
            || self.wires.iter().any(in_flight)
    }

    /// The open connection of a successor.
    pub(crate) fn wire(&self, successor: Who) -> Option<&Wire> {
        self.wires.iter().find(|wire| wire.successor == successor && wire.from)
    }

    pub(crate) fn wire_mut(&mut self, successor: Who) -> Option<&mut Wire> {
        self.wires.iter_mut().find(|wire| wire.successor == successor && wire.from)
    }

    /// The connection to the successor that this process hands over to.
    pub(crate) fn asker(&self, server: Who) -> Option<&Wire> {
        self.wires.iter().find(|wire| wire.asker && wire.server == Some(server))
    }

    pub(crate) fn asker_mut(&mut self, server: Who) -> Option<&mut Wire> {
        self.wires.iter_mut().find(|wire| wire.asker && wire.server == Some(server))
    }

    /// Whether this process reads and writes the file.
    pub(crate) fn has_file(&self, who: Who, daemon: &Daemon) -> bool {
        who != Predecessor || daemon.bounds.lockable
    }

    /// One of the two worlds that differ only in the names of the successors.
    pub(crate) fn representative(self) -> Self {
        let mut other = self;
        other.processes.swap(First as usize, Second as usize);
        let swap = |who| match who {
            Predecessor => Predecessor,
            First => Second,
            Second => First,
        };
        for wire in other.wires.iter_mut() {
            wire.successor = swap(wire.successor);
            wire.server = wire.server.map(swap);
        }
        other.wires.sort();
        other.stored.swap(First as usize, Second as usize);
        self.min(other)
    }
}
