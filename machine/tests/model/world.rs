// SPDX-License-Identifier: Apache-2.0
//! World: three processes, the kernel between them, and one client.
//!
//! **The process.** A supervisor takes one event at a time from its mailbox, asks the machine, and
//! has the orders carried out one after another before it takes the next.
//!
//! **The lock.** It belongs to the open file of whoever took it, so it is held as long as anything
//! refers to that file: a process, one that the kernel is still taking apart, or a message that
//! waits for a reader who lives.
//! All that refer to a locked file refer to the same one, so it is enough to know who does.
//!
//! **The connection.** A queue of messages each way.
//! Its end is seen once the queue is empty and the other side is closed, and as late as can be.
//!
//! **The client.** It connects once and sends a few `set_counter`.
//! A request is unread, then read by a session, then carried out, then answered; the session is
//! copied into the offer, and both copies count from there.

use std::hash::{Hash, Hasher};

use early_service_machine::lifecycle::Event;

use crate::atlas::{Atlas, Place};
use crate::list::List;
use crate::order::{Fact, Order, Orders};

/// How far the search goes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    /// Ticks that come due.
    pub(crate) ticks: u8,
    /// Kills, stops and states that do not add up.
    pub(crate) faults: u8,
    /// Processes that start from the root filesystem: 1 or 2.
    pub(crate) successors: usize,
    /// Commands that the client sends.
    pub(crate) requests: u8,
    /// Whether the predecessor can open the state file; else it says `lock=0`.
    pub(crate) lockable: bool,
    /// Whether all serve one socket that PID 1 keeps, so that a successor asks whoever serves it;
    /// else successors ask the predecessor on a socket that lives and dies with it.
    pub(crate) takeover: bool,
    /// Whether lines of the log are queued in the process and leave it later.
    pub(crate) journal: bool,
}

/// What the actors hold to, beside the machine; a broken daemon does not.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rules {
    /// A descriptor of the lock travels with the state.
    pub(crate) passes_lock: bool,
    /// A change is in the file before anybody can see it.
    pub(crate) writes_first: bool,
    /// A state without the lock is refused by who has not got the lock himself.
    pub(crate) needs_lock: bool,
    /// What was loaded from anywhere but the file is written to it.
    pub(crate) keeps_received: bool,
    /// What was said before the end of a connection is read before it.
    pub(crate) reads_out: bool,
    /// Who holds the lock does not wait for ever for an answer.
    pub(crate) gives_up: bool,
    /// Who leaves does nothing else any more.
    pub(crate) leaves_at_once: bool,
}

impl Rules {
    /// As the daemon is.
    pub(crate) const KEPT: Self = Self {
        passes_lock: true,
        writes_first: true,
        needs_lock: true,
        keeps_received: true,
        reads_out: true,
        gives_up: true,
        leaves_at_once: true,
    };
}

/// A machine, and the rules around it.
pub(crate) struct Daemon {
    pub(crate) atlas: Atlas,
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

/// The two that start from the root filesystem; they differ in nothing but the name.
pub(crate) const SUCCESSORS: [Who; 2] = [First, Second];
pub(crate) const EVERYBODY: [Who; 3] = [Predecessor, First, Second];

/// The state, in memory and in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Record {
    /// The tick that comes next.
    pub(crate) next: u8,
    /// How many commands have been carried out.
    pub(crate) set: u8,
}

impl Record {
    /// Where there is nothing to go on from.
    pub(crate) const FRESH: Self = Self { next: 0, set: 0 };
}

/// What a server knows of the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Session {
    /// Read and not carried out.
    pub(crate) input: u8,
    /// Carried out and not sent.
    pub(crate) replies: u8,
}

impl Session {
    pub(crate) const IDLE: Self = Self { input: 0, replies: 0 };
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Life {
    /// Not there, or not there any more.
    Down,
    Up,
    /// Killed; the kernel has not finished with it.
    Dying,
}

/// How far the handoff actor of a successor is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Exchange {
    /// Reads nothing.
    Idle,
    /// Asked, and reads the answer.
    Asking,
    /// Has read the whole state, and waits for the order to go on.
    Whole,
    /// Reads the predecessor's last word.
    Prepared,
}

/// A process and its actors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Process {
    pub(crate) life: Life,
    /// The lifecycle.
    pub(crate) place: Place,
    /// Reported, and not yet taken by the supervisor.
    pub(crate) mailbox: List<Fact, 6>,
    /// Given, and not yet carried out.
    pub(crate) orders: Orders,
    /// Its own open file holds the lock.
    pub(crate) lock: bool,
    /// It has a received descriptor of the file that holds the lock.
    pub(crate) copy: bool,
    /// Has still to get the lock.
    pub(crate) trying: bool,
    /// Has reported that another holds the lock.
    pub(crate) told: bool,
    pub(crate) counter: Option<Record>,
    pub(crate) frozen: bool,
    /// A change that is not in the file; only where the rules are broken.
    pub(crate) unsaved: bool,
    pub(crate) listening: bool,
    /// Has the client's connection: accepted, or received.
    pub(crate) session: Option<Session>,
    /// The state as it came in the message, where it was not in the file.
    pub(crate) received: Option<Record>,
    /// What a broken machine has read before its time.
    pub(crate) peeked: Option<Record>,
    pub(crate) exchange: Exchange,
    /// Has offered, and reads what the successor says.
    pub(crate) offered: bool,
    /// The offer's timer runs.
    pub(crate) timer: bool,
    /// Was told to stop.
    pub(crate) stopping: bool,
    /// Ticks whose lines wait for the log's writer; a bit each.
    pub(crate) queued: u8,
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

    /// Nothing is left but to exit.
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
    /// The last part of the offer, and whether a descriptor of the lock comes with it.
    End {
        lock: bool,
    },
    Busy,
    Commit,
    Abort,
}

/// One connection of a successor to the one that it asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Wire {
    pub(crate) successor: Who,
    /// Open at the successor's end; it has one such connection at most.
    pub(crate) from: bool,
    /// Open at the other end, in a backlog too.
    pub(crate) to: bool,
    /// Who has the other end; none while it waits in the backlog of PID 1's socket.
    pub(crate) server: Option<Who>,
    /// The one that the server hands over to.
    pub(crate) asker: bool,
    pub(crate) up: List<ToPredecessor, 4>,
    pub(crate) down: List<ToSuccessor, 5>,
    /// What [`ToSuccessor::State`] carries, while it is under way.
    pub(crate) session: Option<Session>,
    pub(crate) record: Option<Record>,
}

impl Wire {
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

    /// Closes the successor's end; what waits there is freed.
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
    /// Nobody has accepted it: it waits in the listener's backlog.
    Backlog,
    Accepted,
    /// Has seen the end.
    Ended,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Client {
    pub(crate) stage: Stage,
    /// Sent and not read.
    pub(crate) unread: u8,
    /// Replies that the client has.
    pub(crate) answered: u8,
    /// Its owner was killed or stopped, and nobody serves it again yet.
    pub(crate) bereaved: bool,
    /// Bereaved, and nobody was left who could go on: the end may come.
    pub(crate) forsaken: bool,
}

/// What has happened and must not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Wrong {
    TickedTwice,
    TickMissing,
    LoggedTwice,
    /// The count began at its beginning, though somebody has seen more of it.
    StartedAnew,
    /// The client saw the end, and nobody is to blame.
    ClientDropped,
}

/// All of it, at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct World {
    pub(crate) faults: u8,
    pub(crate) root_switched: bool,
    /// Somebody has served.
    pub(crate) begun: bool,
    /// What the state file holds; nothing at first.
    pub(crate) file: Option<Record>,
    /// How many ticks have come, by whomever.
    pub(crate) ticked: u8,
    /// Ticks whose lines are in the log; a bit each.
    pub(crate) logged: u8,
    /// Ticks whose lines were queued in a process that died; a bit each.
    pub(crate) lost: u8,
    pub(crate) client: Client,
    pub(crate) processes: [Process; 3],
    pub(crate) wires: List<Wire, 5>,
    pub(crate) wrong: Option<Wrong>,
}

/// All fields in one piece, because hashing hundreds of bytes one by one takes most of the time.
impl Hash for World {
    fn hash<H: Hasher>(&self, state: &mut H) {
        let Self { faults, root_switched, begun, file, ticked, logged, lost, .. } = *self;
        let mut pieces = Pieces { bytes: [0; 512], length: 0 };
        (faults, root_switched, begun, file, ticked, logged, lost).hash(&mut pieces);
        (self.client, self.processes, self.wires, self.wrong).hash(&mut pieces);
        state.write(&pieces.bytes[..pieces.length]);
    }
}

/// Gathers what is hashed; every piece of a world fits a byte.
struct Pieces {
    bytes: [u8; 512],
    length: usize,
}

impl Hasher for Pieces {
    fn finish(&self) -> u64 {
        unreachable!("only gathers")
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
            bereaved: false,
            forsaken: false,
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
            wire.down.iter().any(|message| *message == ToSuccessor::End { lock: true })
        };
        !self.processes.iter().any(Process::holds_lock) && !self.wires.iter().any(in_flight)
    }

    /// The open connection of a successor.
    pub(crate) fn wire(&self, successor: Who) -> Option<&Wire> {
        self.wires.iter().find(|wire| wire.successor == successor && wire.from)
    }

    pub(crate) fn wire_mut(&mut self, successor: Who) -> Option<&mut Wire> {
        self.wires.iter_mut().find(|wire| wire.successor == successor && wire.from)
    }

    /// The connection of the one that this process hands over to.
    pub(crate) fn asker(&self, server: Who) -> Option<&Wire> {
        self.wires.iter().find(|wire| wire.asker && wire.server == Some(server))
    }

    pub(crate) fn asker_mut(&mut self, server: Who) -> Option<&mut Wire> {
        self.wires.iter_mut().find(|wire| wire.asker && wire.server == Some(server))
    }

    /// Whether this process reads from and writes to the file.
    pub(crate) fn has_file(&self, who: Who, daemon: &Daemon) -> bool {
        who != Predecessor || daemon.bounds.lockable
    }

    /// Of two worlds that differ only in which successor is called the first, one.
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
        self.min(other)
    }
}
