// SPDX-License-Identifier: Apache-2.0
//! Possible actions: what can happen next in a world.
//!
//! Every [`Action`] is one atomic step of an actor, of the kernel or of the world outside. Each
//! possible action is taken from every world. Actions that would only multiply the worlds are left
//! out:
//!
//! - No other process can observe that a supervisor takes an event. Taking it is one step with the
//!   order that follows.
//! - An action that can be delayed for any time needs no clock. Ticks are due and commands are sent
//!   from the beginning, and a process that is stopped for a while (SIGSTOP) is a slow one.
//! - A process that was killed before the kernel closes anything is a slow one, too. The kernel
//!   releases what it has in two parts, the lock and everything else; the kill is one step with the
//!   first part.
//! - A process that leaves and has released the lock is like one that was killed.

use early_service_machine::device::Device;
use early_service_machine::lifecycle;

use crate::order::Order;
use crate::world::Who::{First, Predecessor, Second};
use crate::world::{
    Bounds, Daemon, EVERYBODY, Exchange, Life, Process, SUCCESSORS, Stage, ToPredecessor,
    ToSuccessor, Who, World,
};

/// One atomic step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    Start(Who),
    /// The supervisor: the next order, or the next event with the first order that follows.
    Step(Who),
    /// The lock is tried.
    Try(Who),
    /// A server reads a request; the number is the connection's.
    ReadRequest(Who, usize),
    /// The predecessor reads a message of its successor.
    ReadSuccessor(Who),
    /// A successor reads a message of its predecessor.
    ReadPredecessor(Who),
    /// The timeout of an offer.
    Expire(Who),
    /// A successor that has the lock and receives no answer stops waiting.
    Silence(Who),
    Tick(Who),
    /// A broken machine writes a change that it should have written first.
    Save(Who),
    /// The oldest queued line reaches the log.
    Log(Who),
    Accept(Who),
    ReadClient(Who),
    CarryOut(Who),
    Answer(Who),
    /// The second part of a death.
    Finish(Who),
    /// The device is opened.
    Open(Who),
    /// The predecessor's connection has ended.
    SeeLeft(Who),
    /// PID 1 gives up a unit that is not started again, and closes what its store has.
    Forget(Who),
    SwitchRoot,
    /// Killed; the kernel frees the lock first, and closes the rest later.
    KillLockFirst(Who),
    /// Killed; the kernel closes everything first, and frees the lock later.
    KillLockLast(Who),
    Stop(Who),
    /// The received state is not consistent.
    Mismatch(Who),
    /// The device fails.
    Fail(Who),
}

impl Action {
    /// Whether the system does this by itself, given time.
    ///
    /// This excludes faults, restarts, what the world outside may or may not do, and the timeout of
    /// an offer.
    pub(crate) fn is_progress(self) -> bool {
        match self {
            Self::Step(_)
            | Self::Try(_)
            | Self::ReadRequest(..)
            | Self::ReadSuccessor(_)
            | Self::ReadPredecessor(_)
            | Self::Silence(_)
            | Self::Tick(_)
            | Self::Save(_)
            | Self::Log(_)
            | Self::Accept(_)
            | Self::ReadClient(_)
            | Self::CarryOut(_)
            | Self::Answer(_)
            | Self::Finish(_)
            | Self::Open(_)
            | Self::SeeLeft(_)
            | Self::Forget(_) => true,
            Self::Start(_)
            | Self::Expire(_)
            | Self::SwitchRoot
            | Self::KillLockFirst(_)
            | Self::KillLockLast(_)
            | Self::Stop(_)
            | Self::Mismatch(_)
            | Self::Fail(_) => false,
        }
    }
}

impl World {
    /// Everything that can happen next.
    pub(crate) fn actions(&self, daemon: &Daemon, actions: &mut Vec<Action>) {
        if self.wrong.is_some() {
            return;
        }
        let mut may = |possible: bool, action: Action| {
            if possible {
                actions.push(action);
            }
        };
        let Bounds { ticks, faults, successors, lockable, .. } = daemon.bounds;
        let free = self.lock_is_free();
        for who in EVERYBODY.into_iter().take(1 + successors) {
            let process = self.process(who);
            match process.life {
                Life::Down => {
                    may(self.may_start(who, daemon.bounds), Action::Start(who));
                    let is_inactive = !daemon.bounds.reload
                        || !EVERYBODY.into_iter().any(|who| self.process(who).is_up());
                    may(self.stored[who as usize] && is_inactive, Action::Forget(who));
                }
                Life::Dying => may(true, Action::Finish(who)),
                Life::Up => {
                    let busy = !process.orders.is_empty() || !process.mailbox.is_empty();
                    may(busy && !self.waits_for_lock(who), Action::Step(who));
                    let tries = matches!(process.exchange, Exchange::Idle | Exchange::Asking);
                    let changes = process.trying && (free || !process.told);
                    may(tries && changes, Action::Try(who));
                    let due = process.counter.is_some_and(|record| record.next < ticks);
                    may(process.may_tick() && due, Action::Tick(who));
                    may(process.unsaved, Action::Save(who));
                    may(process.queued != 0, Action::Log(who));
                    self.device_actions(who, &mut may);
                    self.client_actions(who, &mut may);
                    self.predecessor_actions(who, &mut may);
                    let gives_up = lockable && daemon.rules.gives_up && !daemon.bounds.reload;
                    self.successor_actions(who, gives_up, &mut may);
                }
            }
        }
        may(!self.root_switched && !daemon.bounds.reload, Action::SwitchRoot);
        if self.faults < faults {
            for who in EVERYBODY {
                self.fault_actions(who, lockable, &mut may);
            }
        }
    }

    /// Whether the next order must wait for the lock. Only broken machines give such an order.
    pub(crate) fn waits_for_lock(&self, who: Who) -> bool {
        let process = self.process(who);
        let takes = process.orders.first() == Some(Order::Take);
        takes && !self.lock_is_free() && !process.holds_lock()
    }

    fn may_start(&self, who: Who, bounds: Bounds) -> bool {
        let Bounds { lockable, reload, .. } = bounds;
        match who {
            // PID 1 starts a unit again when all of its processes have ended.
            Predecessor if reload && self.process(First).life != Life::Down => false,
            First | Second if reload => self.process(Predecessor).may_answer(),
            // The initrd's unit is not started from the root filesystem.
            Predecessor => !self.root_switched && (lockable || !self.begun),
            // Without a lock, only the socket shows that an owner exists.
            First | Second => lockable || self.begun,
        }
    }

    fn device_actions(&self, who: Who, may: &mut impl FnMut(bool, Action)) {
        let process = self.process(who);
        // A driver that allows one open file refuses another one until then.
        let opens = matches!(process.device, Device::Opening(_));
        may(opens && !self.device_is_open(), Action::Open(who));
        let leaves = |process: &Process| process.frozen && process.is_up();
        may(process.follows && !self.processes.iter().any(leaves), Action::SeeLeft(who));
    }

    fn client_actions(&self, who: Who, may: &mut impl FnMut(bool, Action)) {
        let process = self.process(who);
        if !process.listening {
            return;
        }
        let waits = self.client.stage == Stage::Backlog;
        may(waits, Action::Accept(who));
        let Some(session) = process.session else { return };
        may(self.client.unread > 0, Action::ReadClient(who));
        may(session.input > 0, Action::CarryOut(who));
        may(session.replies > 0, Action::Answer(who));
    }

    fn predecessor_actions(&self, who: Who, may: &mut impl FnMut(bool, Action)) {
        let process = self.process(who);
        if process.is_leaving() {
            return;
        }
        let asker = self.asker(who);
        for (number, wire) in self.wires.iter().enumerate() {
            let reaches = wire.to && wire.server.is_none_or(|server| server == who);
            let asks = reaches && wire.up.first() == Some(ToPredecessor::Request);
            may(asks && (asker.is_some() || process.listening), Action::ReadRequest(who, number));
        }
        let heard = asker.is_some_and(|wire| !wire.up.is_empty() || !wire.from);
        may(process.offered && heard, Action::ReadSuccessor(who));
        may(process.timer, Action::Expire(who));
    }

    fn successor_actions(&self, who: Who, gives_up: bool, may: &mut impl FnMut(bool, Action)) {
        let (process, wire) = (self.process(who), self.wire(who));
        let reads = matches!(process.exchange, Exchange::Asking | Exchange::Prepared);
        let Some(wire) = wire.filter(|_| reads) else { return };
        may(!wire.down.is_empty() || !wire.to, Action::ReadPredecessor(who));
        // A successor with the lock may treat silence as death: no other process can serve.
        let silent = process.exchange == Exchange::Asking && wire.to && wire.down.is_empty();
        may(silent && process.lock && gives_up, Action::Silence(who));
    }

    fn fault_actions(&self, who: Who, lockable: bool, may: &mut impl FnMut(bool, Action)) {
        let process = self.process(who);
        if !process.is_up() || process.is_leaving() || !self.may_fail(who, lockable) {
            return;
        }
        may(process.holds_lock(), Action::KillLockFirst(who));
        may(true, Action::KillLockLast(who));
        may(!process.stopping, Action::Stop(who));
        may(process.device == Device::Running, Action::Fail(who));
        let last = self.wire(who).and_then(|wire| wire.down.first());
        let whole = matches!(last, Some(ToSuccessor::End { .. }));
        may(whole && process.exchange == Exchange::Asking, Action::Mismatch(who));
    }

    /// Whether the promises cover a failure of this process.
    ///
    /// Without a file, the state dies with the predecessor unless a successor has all of it and may
    /// continue. Without a lock, two owners would not know of each other.
    fn may_fail(&self, who: Who, lockable: bool) -> bool {
        let predecessor = self.process(Predecessor);
        let goes_on = |who| {
            let Process { exchange, stopping, .. } = *self.process(who);
            let whole = matches!(exchange, Exchange::Whole | Exchange::Prepared);
            whole && !stopping && self.wire(who).is_some_and(|wire| wire.asker)
        };
        match who {
            _ if lockable => true,
            Predecessor => {
                let offers =
                    predecessor.offered && !predecessor.expects(lifecycle::Successor::TimedOut);
                offers && SUCCESSORS.into_iter().any(goes_on)
            }
            First | Second if predecessor.is_up() => {
                let stays = !predecessor.stopping && !predecessor.is_leaving();
                stays && self.process(who).counter.is_none()
            }
            First | Second => self.file.is_some(),
        }
    }
}
