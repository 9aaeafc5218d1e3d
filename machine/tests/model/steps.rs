// SPDX-License-Identifier: Apache-2.0
//! Steps: the effect of an action on a world.

use std::cmp::Ordering;

use early_service_machine::device::{self, Device};
use early_service_machine::lifecycle::takeover::{self, Origin, Received, Start};
use early_service_machine::lifecycle::{self, Event};

use crate::atlas::Atlas;
use crate::list::List;
use crate::order::Order;
use crate::possible::Action;
use crate::world::Who::{First, Predecessor, Second};
use crate::world::{
    Bounds, Client, Daemon, Exchange, Life, Process, Record, Rules, Session, Stage, ToPredecessor,
    ToSuccessor, Who, Wire, World, Wrong,
};

impl World {
    /// Takes one possible action.
    pub(crate) fn take(&mut self, action: Action, daemon: &Daemon) {
        let was_open = self.device_is_open();
        match action {
            Action::Start(who) => {
                let is_child = daemon.bounds.reload && who != Predecessor;
                let started = match who {
                    Predecessor => lifecycle::Local::StartedAlone,
                    First | Second if is_child => lifecycle::Local::StartedByOwner,
                    First | Second => lifecycle::Local::StartedAsSuccessor,
                };
                *self.process_mut(who) = Process { life: Life::Up, ..Process::DOWN };
                if is_child {
                    self.process_mut(who).silent = true;
                    self.wires.push(Wire { server: Some(Predecessor), ..Wire::of(who) });
                } else if self.stored[who as usize] {
                    let process = self.process_mut(who);
                    (process.luggage, process.restored) = (true, true);
                    self.device(who, device::Event::Received, daemon);
                }
                self.post(who, started);
            }
            Action::Step(who) => self.step(who, daemon),
            Action::Try(who) => self.try_lock(who, daemon),
            Action::ReadRequest(who, number) => self.read_request(who, number),
            Action::ReadSuccessor(who) => self.read_successor(who, daemon.rules),
            Action::ReadPredecessor(who) => self.read_predecessor(who, daemon),
            Action::Expire(who) => {
                self.process_mut(who).timer = false;
                self.post(who, lifecycle::Successor::TimedOut);
            }
            Action::Silence(who) => self.give_up_asking(who, lifecycle::Predecessor::Absent),
            Action::Tick(who) => self.tick(who, daemon),
            Action::Save(who) => {
                self.file = self.process(who).counter;
                self.process_mut(who).unsaved = false;
            }
            Action::Log(who) => self.log(who),
            Action::Accept(who) => {
                self.client.stage = Stage::Accepted;
                self.process_mut(who).session = Some(Session::IDLE);
                if self.process(who).stopping {
                    self.record_failure(true, &daemon.atlas);
                }
            }
            Action::ReadClient(who) => {
                self.client.unread -= 1;
                self.change_session(who, |session| session.input += 1);
            }
            Action::CarryOut(who) => {
                let record = self.process(who).counter.unwrap_or(Record::FRESH);
                self.change(who, Record { set: record.set + 1, ..record }, daemon);
                self.change_session(who, |session| {
                    session.input -= 1;
                    session.replies += 1;
                });
            }
            Action::Answer(who) => {
                self.client.answered += 1;
                self.change_session(who, |session| session.replies -= 1);
            }
            Action::Finish(who) => {
                self.close(who);
                *self.process_mut(who) = Process::DOWN;
            }
            Action::SwitchRoot => {
                self.root_switched = true;
                // A process never returns to Booting, and all other phases ignore the event.
                let Process { life, place, .. } = *self.process(Predecessor);
                if life == Life::Up && place == Atlas::BEGIN {
                    self.post(Predecessor, lifecycle::Local::RootSwitched);
                }
            }
            Action::KillLockFirst(who) => self.kill(who, true, &daemon.atlas),
            Action::KillLockLast(who) => self.kill(who, false, &daemon.atlas),
            Action::Stop(who) => {
                self.faults += 1;
                let accountable = self.is_accountable(who, &daemon.atlas);
                self.process_mut(who).stopping = true;
                self.post(who, Event::StopRequested);
                self.record_failure(accountable, &daemon.atlas);
            }
            Action::Mismatch(who) => {
                self.faults += 1;
                self.refuse(who);
                self.record_failure(false, &daemon.atlas);
            }
            Action::Open(who) => {
                let process = self.process_mut(who);
                (process.luggage, process.restored) = (true, false);
                self.released = false;
                self.device(who, device::Event::Opened, daemon);
            }
            Action::SeeLeft(who) => {
                self.process_mut(who).follows = false;
                self.speak(who, daemon);
                self.device(who, device::Event::PredecessorLeft, daemon);
            }
            Action::Forget(who) => self.stored[who as usize] = false,
            Action::Fail(who) => {
                self.faults += 1;
                let predecessor_leaves = self.process(who).follows;
                self.device(who, device::Event::Failed { predecessor_leaves }, daemon);
            }
        }
        self.settle();
        if was_open && !self.device_is_open() && !self.may_close_device(action) {
            self.wrong = Some(Wrong::DeviceClosed);
        }
    }

    /// Whether this action may close the last copy of the device: its holders died, it failed or
    /// was released, or its process was told to stop while a successor might have continued.
    fn may_close_device(&self, action: Action) -> bool {
        let failed =
            |process: &Process| matches!(process.device, Device::Opening(_) | Device::Postponed(_));
        let stops = |process: &Process| process.stopping || process.is_leaving();
        !matches!(action, Action::Step(_) | Action::Try(_) | Action::ReadPredecessor(_))
            || self.released
            || self.processes.iter().any(failed)
            || (self.faults > 0 && self.processes.iter().all(|process| !process.may_tick()))
            || (self.faults > 0 && self.processes.iter().any(stops))
    }

    fn device(&mut self, who: Who, event: device::Event, daemon: &Daemon) {
        if !daemon.bounds.device {
            return;
        }
        let (device, effects) = (daemon.device)(self.process(who).device, event);
        self.process_mut(who).device = device;
        for effect in effects {
            match effect {
                // The attempts follow as actions.
                device::Effect::Open | device::Effect::Freeze => {}
                // The store may return copies after another process has released the device, if
                // their unit crashed just before.
                device::Effect::Thaw => {
                    if self.released && !self.process(who).restored {
                        self.wrong = Some(Wrong::UsedAfterRelease);
                    }
                    self.released = false;
                }
                // Of what the predecessor has, PID 1 has copies already.
                device::Effect::Store if self.process(who).silent => {}
                device::Effect::Store => self.stored[daemon.bounds.unit(who)] = true,
                device::Effect::Unstore if self.process(who).silent => {
                    self.process_mut(who).unstores = daemon.rules.speaks_as_main;
                    self.stored[daemon.bounds.unit(who)] &= daemon.rules.speaks_as_main;
                }
                device::Effect::Unstore => self.stored[daemon.bounds.unit(who)] = false,
                device::Effect::Close => self.process_mut(who).luggage = false,
                device::Effect::Release => {
                    self.process_mut(who).luggage = false;
                    self.released = true;
                    if self.processes.iter().any(Process::uses_or_keeps_device) {
                        self.wrong = Some(Wrong::UsedAfterRelease);
                    }
                }
            }
        }
    }

    fn post(&mut self, who: Who, event: impl Into<Event>) {
        self.process_mut(who).mailbox.push(event.into().into());
    }

    fn step(&mut self, who: Who, daemon: &Daemon) {
        let process = self.process_mut(who);
        if process.orders.is_empty() {
            let Some(fact) = process.mailbox.pop() else { return };
            (process.orders, process.place) = daemon.atlas.take(process.place, fact);
        }
        if self.waits_for_lock(who) {
            return;
        }
        if let Some(order) = self.process_mut(who).orders.pop() {
            self.execute(who, order, daemon);
        }
    }

    fn execute(&mut self, who: Who, order: Order, daemon: &Daemon) {
        let has_file = self.has_file(who, daemon);
        match order {
            Order::Lock if has_file => self.process_mut(who).trying = true,
            Order::Lock => self.post(who, lifecycle::Lock::AcquiredWithoutState),
            Order::Ask => self.ask(who, daemon.bounds),
            Order::ReportPrepared => {
                self.process_mut(who).exchange = Exchange::Prepared;
                self.write_up(who, ToPredecessor::Prepared);
            }
            Order::Discard => {
                let process = self.process_mut(who);
                (process.copy, process.session, process.received) = (false, None, None);
                process.exchange = Exchange::Idle;
                self.device(who, device::Event::Discarded, daemon);
            }
            Order::Abort | Order::CloseSilently => {
                let aborts = order == Order::Abort;
                if let Some(wire) = self.asker_mut(who) {
                    if aborts {
                        wire.write_down(ToSuccessor::Abort);
                    }
                    wire.close_to();
                } else if aborts {
                    self.write_up(who, ToPredecessor::Abort);
                }
                self.close_wire(who);
                let process = self.process_mut(who);
                (process.offered, process.timer) = (false, false);
            }
            Order::Load => self.load(who, daemon),
            Order::ReportServing => {
                self.write_up(who, ToPredecessor::Done);
                self.close_wire(who);
            }
            Order::Listen => {
                // Only a broken machine has another message to send.
                if self.process(who).orders.is_empty() {
                    self.close_wire(who);
                }
                self.begun = true;
                self.process_mut(who).listening = true;
                if self.process(who).stopping {
                    self.record_failure(true, &daemon.atlas);
                } else if self.process(who).session.is_some() {
                    (self.client.owner_failed, self.client.may_end) = (false, false);
                }
            }
            Order::Freeze | Order::FreezeClients => {
                let process = self.process_mut(who);
                process.listening = false;
                process.frozen = order == Order::Freeze;
                self.device(who, device::Event::Frozen, daemon);
                self.post(who, lifecycle::Local::Frozen);
            }
            Order::Offer => self.offer(who),
            Order::End => {
                self.device(who, device::Event::Offered, daemon);
                let Process { luggage, .. } = *self.process(who);
                let lock = self.process(who).holds_lock() && daemon.rules.passes_lock;
                if let Some(wire) = self.asker_mut(who) {
                    wire.write_down(ToSuccessor::End { lock, luggage });
                }
                let process = self.process_mut(who);
                (process.offered, process.timer, process.lent) = (true, true, luggage);
            }
            Order::Commit => {
                self.device(who, device::Event::Committed, daemon);
                if let Some(wire) = self.asker_mut(who) {
                    wire.write_down(ToSuccessor::Commit);
                }
                let process = self.process_mut(who);
                (process.timer, process.replaced) = (false, daemon.bounds.reload);
            }
            Order::Leave => self.leave(who, daemon),
            Order::Exit => {
                self.close(who);
                *self.process_mut(who) = Process::DOWN;
            }
            Order::Peek => {
                let file = self.file;
                self.process_mut(who).peeked = file;
            }
            Order::Run => {
                let process = self.process_mut(who);
                let record = process.peeked.unwrap_or(Record::FRESH);
                (process.counter, process.frozen) = (Some(record), false);
            }
            Order::Resume => self.process_mut(who).frozen = false,
            Order::Unlock => self.process_mut(who).lock = false,
            Order::Take => self.process_mut(who).lock = true,
        }
    }

    /// Stops the process and releases its lock. Everything else is closed in the next step.
    fn leave(&mut self, who: Who, daemon: &Daemon) {
        let Process { follows: predecessor_leaves, replaced: is_replaced, .. } = *self.process(who);
        self.device(who, device::Event::Ended { predecessor_leaves, is_replaced }, daemon);
        while self.process(who).queued != 0 {
            self.log(who);
        }
        let orders = [Order::Exit].into_iter().collect();
        let process = self.process_mut(who);
        let Process { life, place, session, listening, counter, device, luggage, .. } = *process;
        *process = Process { life, place, session, orders, device, luggage, ..Process::DOWN };
        if !daemon.rules.leaves_at_once {
            (process.listening, process.counter) = (listening, counter);
        }
    }

    /// The process dies; the kernel releases the first of its two parts at once.
    fn kill(&mut self, who: Who, lock_first: bool, atlas: &Atlas) {
        self.faults += 1;
        let accountable = self.is_accountable(who, atlas);
        let Process { lock, copy, session, queued, luggage, .. } = *self.process(who);
        self.lost |= queued;
        if lock_first {
            *self.process_mut(who) =
                Process { life: Life::Dying, session, luggage, ..Process::DOWN };
        } else {
            *self.process_mut(who) = Process { life: Life::Dying, lock, copy, ..Process::DOWN };
            self.close(who);
        }
        if !self.has_pieces(who) {
            *self.process_mut(who) = Process::DOWN;
        }
        self.record_failure(accountable, atlas);
    }

    /// Whether the kernel has something of a dead process left to release.
    fn has_pieces(&self, who: Who) -> bool {
        let process = self.process(who);
        let connected = |wire: &Wire| {
            (wire.server == Some(who) && wire.to) || (wire.successor == who && wire.from)
        };
        process.holds_lock()
            || process.session.is_some()
            || process.luggage
            || self.wires.iter().any(connected)
    }

    /// The kernel closes the process's end of every connection.
    fn close(&mut self, who: Who) {
        let process = self.process_mut(who);
        (process.session, process.luggage) = (None, false);
        for wire in self.wires.iter_mut() {
            if wire.server == Some(who) {
                wire.close_to();
            }
            if wire.successor == who {
                wire.close_from();
            }
        }
    }

    /// Closes a successor's connection if it is open.
    fn close_wire(&mut self, who: Who) {
        self.process_mut(who).exchange = Exchange::Idle;
        if let Some(wire) = self.wire_mut(who) {
            wire.close_from();
        }
    }

    fn write_up(&mut self, who: Who, message: ToPredecessor) {
        if let Some(wire) = self.wire_mut(who) {
            wire.write_up(message);
        }
    }

    fn try_lock(&mut self, who: Who, daemon: &Daemon) {
        let (free, file) = (self.lock_is_free(), self.file);
        let process = self.process_mut(who);
        if !free {
            let is_first = !std::mem::replace(&mut process.told, true);
            if is_first && daemon.rules.drops_stored {
                self.device(who, device::Event::Discarded, daemon);
            }
            return self.post(who, lifecycle::Lock::HeldElsewhere);
        }
        (process.lock, process.trying) = (true, false);
        let stateful = file.is_some();
        let event = if stateful {
            lifecycle::Lock::AcquiredWithState
        } else {
            lifecycle::Lock::AcquiredWithoutState
        };
        self.post(who, event);
    }

    fn ask(&mut self, who: Who, bounds: Bounds) {
        let takeover = bounds.takeover;
        if bounds.reload {
            // A successor asks once, on the connection with which it was started.
            if self.wire(who).is_none() {
                return self.post(who, lifecycle::Predecessor::Unreachable);
            }
            self.process_mut(who).exchange = Exchange::Asking;
            return self.write_up(who, ToPredecessor::Request);
        }
        self.close_wire(who);
        self.tidy();
        // The socket exists from the start of the process until the kernel has closed it.
        if !takeover && self.process(Predecessor).life == Life::Down {
            return self.post(who, lifecycle::Predecessor::Absent);
        }
        self.process_mut(who).exchange = Exchange::Asking;
        let server = (!takeover).then_some(Predecessor);
        let up = [ToPredecessor::Request].into_iter().collect();
        self.wires.push(Wire { server, up, ..Wire::of(who) });
    }

    fn read_request(&mut self, who: Who, number: usize) {
        let taken = self.asker(who).is_some();
        let Some(wire) = self.wires.iter_mut().nth(number) else { return };
        if taken {
            wire.write_down(ToSuccessor::Busy);
            return wire.close_to();
        }
        wire.up.pop();
        (wire.server, wire.asker) = (Some(who), true);
        self.post(who, lifecycle::Successor::Requested);
    }

    fn offer(&mut self, who: Who) {
        let Process { session, counter: record, .. } = *self.process(who);
        let Some(wire) = self.asker_mut(who) else {
            return self.post(who, lifecycle::Successor::Gone);
        };
        if wire.from {
            wire.down.push(ToSuccessor::State);
            (wire.session, wire.record) = (session, record);
        }
        self.process_mut(who).orders.push_front(Order::End);
    }

    fn read_successor(&mut self, who: Who, rules: Rules) {
        let Some(wire) = self.asker_mut(who) else { return };
        if !rules.reads_out && !wire.from {
            wire.up = List::EMPTY;
        }
        let event = match wire.up.pop() {
            Some(ToPredecessor::Request) => return,
            Some(ToPredecessor::Prepared) => lifecycle::Successor::Prepared,
            Some(ToPredecessor::Done) => lifecycle::Successor::Serving,
            Some(ToPredecessor::Abort) | None => lifecycle::Successor::Gone,
        };
        if event == lifecycle::Successor::Gone {
            wire.close_to();
        }
        if event != lifecycle::Successor::Prepared {
            let process = self.process_mut(who);
            (process.offered, process.timer) = (false, false);
        }
        self.post(who, event);
    }

    fn read_predecessor(&mut self, who: Who, daemon: &Daemon) {
        let rules = daemon.rules;
        let exchange = self.process(who).exchange;
        let Some(wire) = self.wire_mut(who) else { return };
        if !rules.reads_out && !wire.to {
            wire.down = List::EMPTY;
        }
        match (exchange, wire.down.pop()) {
            (_, None) => self.give_up_asking(who, lifecycle::Predecessor::Gone),
            (_, Some(ToSuccessor::Abort | ToSuccessor::Busy)) => {
                self.give_up_asking(who, lifecycle::Predecessor::Refused);
            }
            (Exchange::Prepared, Some(ToSuccessor::Commit)) => {
                self.process_mut(who).exchange = Exchange::Committed;
                self.post(who, lifecycle::Predecessor::Committed);
            }
            (Exchange::Asking, Some(ToSuccessor::State)) => {
                let (session, record) = (wire.session.take(), wire.record.take());
                let process = self.process_mut(who);
                (process.session, process.received) = (session, record);
            }
            (Exchange::Asking, Some(ToSuccessor::End { lock, luggage }))
                if lock || self.process(who).lock || !rules.needs_lock =>
            {
                let process = self.process_mut(who);
                (process.copy, process.exchange) = (lock, Exchange::Whole);
                if luggage {
                    (process.luggage, process.restored) = (true, false);
                    self.device(who, device::Event::Received, daemon);
                }
                self.post(who, lifecycle::Predecessor::SentState);
            }
            // An unexpected message.
            (_, Some(_)) => self.refuse(who),
        }
    }

    /// Drops an inconsistent state and aborts. The order to ask again follows.
    fn refuse(&mut self, who: Who) {
        let process = self.process_mut(who);
        (process.session, process.received) = (None, None);
        self.write_up(who, ToPredecessor::Abort);
        self.give_up_asking(who, lifecycle::Predecessor::Refused);
    }

    fn give_up_asking(&mut self, who: Who, event: lifecycle::Predecessor) {
        self.close_wire(who);
        self.post(who, event);
    }

    fn load(&mut self, who: Who, daemon: &Daemon) {
        let has_file = self.has_file(who, daemon);
        let Process { received, counter, exchange, .. } = *self.process(who);
        let recorded = self.file.filter(|_| has_file);
        let reads_again = daemon.rules.reads_again;
        let (start, origin) = match (counter, received) {
            // The process froze this state, and its offer failed.
            (Some(frozen), _) => {
                // The file contains its last record, unless another process has written since.
                let written = recorded.filter(|record| reads_again && *record != frozen);
                let written = written.map(Record::recorded);
                (takeover::take_back(written, frozen.snapshot()), Origin::Recovered)
            }
            (None, received) => {
                let received = received.map(|record| Received::Snapshot(record.snapshot()));
                let is_committed = exchange == Exchange::Committed;
                let recorded = recorded.map(Record::recorded);
                let chosen = takeover::take_over(recorded, received, is_committed);
                (chosen.start, chosen.origin)
            }
        };
        let record = Record::at(start);
        if record == Record::FRESH && (self.ticked > 0 || self.client.answered > 0) {
            self.wrong = Some(Wrong::StartedAnew);
        }
        if has_file && matches!(start, Start::After { .. }) && daemon.rules.keeps_received {
            self.file = Some(record);
        }
        let process = self.process_mut(who);
        (process.counter, process.frozen, process.received) = (Some(record), false, None);
        (process.lent, process.replaced) = (false, false);
        process.follows |= exchange == Exchange::Committed && daemon.bounds.device;
        let predecessor_leaves = process.follows;
        if !predecessor_leaves {
            self.speak(who, daemon);
        }
        self.device(who, device::Event::Owned { origin, predecessor_leaves }, daemon);
    }

    /// The process becomes the main one of its unit, and sends PID 1 what waited for that.
    fn speak(&mut self, who: Who, daemon: &Daemon) {
        let process = self.process_mut(who);
        process.silent = false;
        if std::mem::take(&mut process.unstores) {
            self.stored[daemon.bounds.unit(who)] = false;
        }
    }

    /// Takes one due tick: first in the file, then visible.
    fn tick(&mut self, who: Who, daemon: &Daemon) {
        let Some(record) = self.process(who).counter else { return };
        self.change(who, Record { next: record.next + 1, ..record }, daemon);
        match record.next.cmp(&self.ticked) {
            Ordering::Less => self.wrong = Some(Wrong::TickedTwice),
            Ordering::Equal => self.ticked += 1,
            Ordering::Greater => self.wrong = Some(Wrong::TickMissing),
        }
        if daemon.bounds.journal {
            self.process_mut(who).queued |= 1 << record.next;
        }
    }

    fn change(&mut self, who: Who, record: Record, daemon: &Daemon) {
        let has_file = self.has_file(who, daemon);
        let process = self.process_mut(who);
        process.counter = Some(record);
        if !has_file {
            return;
        }
        if daemon.rules.writes_first {
            self.file = Some(record);
        } else {
            process.unsaved = true;
        }
    }

    /// Writes the oldest queued line to the log.
    fn log(&mut self, who: Who) {
        let line = 1 << self.process(who).queued.trailing_zeros();
        self.process_mut(who).queued &= !line;
        if self.logged & line != 0 {
            self.wrong = Some(Wrong::LoggedTwice);
        }
        self.logged |= line;
    }

    fn change_session(&mut self, who: Who, change: impl FnOnce(&mut Session)) {
        if let Some(session) = &mut self.process_mut(who).session {
            change(session);
        }
    }

    /// What the kernel does by itself and at once.
    fn settle(&mut self) {
        self.tidy();
        let held = self.processes.iter().any(|process| process.session.is_some())
            || self.wires.iter().any(|wire| wire.session.is_some());
        if self.client.stage == Stage::Accepted && !held {
            if !self.client.may_end {
                self.wrong = Some(Wrong::ClientDropped);
            }
            self.client = Client {
                stage: Stage::Ended,
                unread: 0,
                owner_failed: false,
                may_end: false,
                ..self.client
            };
        }
    }

    /// Removes connections that are closed at both ends. The order of the others does not matter.
    fn tidy(&mut self) {
        self.wires.retain(|wire| wire.from || wire.to);
        self.wires.sort();
    }
}
