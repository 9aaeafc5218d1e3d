// SPDX-License-Identifier: Apache-2.0
//! Possible: what may happen next in a world.
//!
//! Every [`Action`] is one atomic step of one actor, of the kernel or of the world outside, and
//! each that is possible is taken from every world.
//!
//! What would only multiply the worlds is left out:
//!
//! - Nobody sees that a supervisor takes an event, so that is one step with the order that follows.
//! - Whoever may be late as long as it likes needs no clock: ticks are due and commands are sent
//!   from the beginning, and a process that is stopped for a while (SIGSTOP) is a slow one.
//! - A process that was killed and of which nothing is closed yet is a slow one too, so the kill
//!   comes with the first of the two pieces in which the kernel takes it apart: the lock, and all
//!   else.
//! - Once it has let go of the lock, a process that leaves is one that was killed.

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
    /// Who hands over reads from the connection of the one that asked.
    ReadSuccessor(Who),
    ReadPredecessor(Who),
    /// The offer's timer.
    Expire(Who),
    /// Who has the lock and is not answered waits no longer.
    Silence(Who),
    Tick(Who),
    /// What should have been written first is written.
    Save(Who),
    /// The oldest queued line reaches the log.
    Log(Who),
    Accept(Who),
    ReadClient(Who),
    CarryOut(Who),
    Answer(Who),
    /// The second piece of a death.
    Finish(Who),
    SwitchRoot,
    /// Killed; the kernel frees the lock first, and closes the rest later.
    KillLockFirst(Who),
    /// Killed; the kernel closes everything first, and frees the lock later.
    KillLockLast(Who),
    Stop(Who),
    /// The state has come, and does not add up.
    Mismatch(Who),
}

impl Action {
    /// Whether the system does this of itself, given time.
    ///
    /// Not so faults and restarts, nor what the world outside may do or leave alone; and no timer
    /// that is only there for impatience.
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
            | Self::Finish(_) => true,
            Self::Start(_)
            | Self::Expire(_)
            | Self::SwitchRoot
            | Self::KillLockFirst(_)
            | Self::KillLockLast(_)
            | Self::Stop(_)
            | Self::Mismatch(_) => false,
        }
    }
}

impl World {
    /// Everything that may happen next.
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
                Life::Down => may(self.may_start(who, lockable), Action::Start(who)),
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
                    self.client_actions(who, &mut may);
                    self.predecessor_actions(who, &mut may);
                    let gives_up = lockable && daemon.rules.gives_up;
                    self.successor_actions(who, gives_up, &mut may);
                }
            }
        }
        may(!self.root_switched, Action::SwitchRoot);
        if self.faults < faults {
            for who in EVERYBODY {
                self.fault_actions(who, lockable, &mut may);
            }
        }
    }

    /// Whether the next order cannot be carried out; no machine but a broken one gives such.
    pub(crate) fn waits_for_lock(&self, who: Who) -> bool {
        let process = self.process(who);
        let takes = process.orders.first() == Some(Order::Take);
        takes && !self.lock_is_free() && !process.holds_lock()
    }

    fn may_start(&self, who: Who, lockable: bool) -> bool {
        match who {
            // The initrd's unit is not started from the root filesystem.
            Predecessor => !self.root_switched && (lockable || !self.begun),
            // Without a lock nothing but the socket tells that somebody is there.
            First | Second => lockable || self.begun,
        }
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
        // Who has the lock may take silence for death, where without it nobody can serve.
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
        let last = self.wire(who).and_then(|wire| wire.down.first());
        let whole = matches!(last, Some(ToSuccessor::End { .. }));
        may(whole && process.exchange == Exchange::Asking, Action::Mismatch(who));
    }

    /// Whether the promises hold beyond a failure of this process.
    ///
    /// What a predecessor without a file has, dies with it, unless another has the whole of it and
    /// may go on; and of two owners without a lock between them neither knows.
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
