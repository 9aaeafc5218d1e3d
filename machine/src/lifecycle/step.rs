// SPDX-License-Identifier: Apache-2.0
//! Steps: the next phase and the effects for each phase and event.
//!
//! Each phase answers every event by name. An event that it ignores has arrived too late to matter,
//! such as the end of a connection that was already given up. A new subject, or a new event of a
//! subject that a phase deals with, does not compile until that phase answers it.

use super::event::Effect::{
    self, Abort, Ask, Commit, Discard, Freeze, Leave, Listen, Load, Offer, ReportPrepared,
    ReportServing,
};
use super::event::{Event, Local, Lock, Predecessor, Successor};
use super::phases::{
    Adopting, Asking, Booting, Called, Committed, Draining, Ended, Freezing, Offered, Ours, Phase,
    Prepared, Serving, Theirs, Waiting,
};

/// A process in any of its phases.
#[derive(Debug, PartialEq, Eq, Hash)]
#[must_use]
#[allow(missing_docs, reason = "each variant is the type in it")]
pub enum Lifecycle {
    Booting(Booting),
    Waiting(Adopting<Waiting>),
    Called(Adopting<Called>),
    AskingWithoutLock(Adopting<Asking<Theirs>>),
    AskingWithLock(Adopting<Asking<Ours>>),
    PreparedWithoutLock(Adopting<Prepared<Theirs>>),
    PreparedWithLock(Adopting<Prepared<Ours>>),
    Serving(Serving),
    Freezing(Draining<Freezing>),
    Offered(Draining<Offered>),
    Committed(Draining<Committed>),
    Ended(Ended),
}

/// The result of an event: the next phase, and the effects in the order of their execution.
pub type Outcome = (Lifecycle, &'static [Effect]);

impl Lifecycle {
    /// A process that starts.
    pub const fn new() -> Self {
        Self::Booting(Booting::new())
    }

    /// Takes one event.
    pub fn step(self, event: Event) -> Outcome {
        match self {
            Self::Booting(phase) => phase.step(event),
            Self::Waiting(phase) => phase.step(event),
            Self::Called(phase) => phase.step(event),
            Self::AskingWithoutLock(phase) => phase.step(event),
            Self::AskingWithLock(phase) => phase.step(event),
            Self::PreparedWithoutLock(phase) => phase.step(event),
            Self::PreparedWithLock(phase) => phase.step(event),
            Self::Serving(phase) => phase.step(event),
            Self::Freezing(phase) => phase.step(event),
            Self::Offered(phase) => phase.step(event),
            Self::Committed(phase) => phase.step(event),
            Self::Ended(phase) => ignored(phase),
        }
    }

    /// The name of the phase.
    #[must_use]
    pub const fn phase(&self) -> Phase {
        match self {
            Self::Booting(_) => Phase::Booting,
            Self::Waiting(_)
            | Self::Called(_)
            | Self::AskingWithoutLock(_)
            | Self::AskingWithLock(_)
            | Self::PreparedWithoutLock(_)
            | Self::PreparedWithLock(_) => Phase::Adopting,
            Self::Serving(_) => Phase::Serving,
            Self::Freezing(_) | Self::Offered(_) | Self::Committed(_) => Phase::Draining,
            Self::Ended(_) => Phase::Ended,
        }
    }
}

impl Default for Lifecycle {
    fn default() -> Self {
        Self::new()
    }
}

macro_rules! into_lifecycle {
    ($($variant:ident: $phase:ty,)*) => {$(
        impl From<$phase> for Lifecycle {
            fn from(phase: $phase) -> Self {
                Self::$variant(phase)
            }
        }
    )*};
}
into_lifecycle! {
    Booting: Booting,
    Waiting: Adopting<Waiting>,
    Called: Adopting<Called>,
    AskingWithoutLock: Adopting<Asking<Theirs>>,
    AskingWithLock: Adopting<Asking<Ours>>,
    PreparedWithoutLock: Adopting<Prepared<Theirs>>,
    PreparedWithLock: Adopting<Prepared<Ours>>,
    Serving: Serving,
    Freezing: Draining<Freezing>,
    Offered: Draining<Offered>,
    Committed: Draining<Committed>,
    Ended: Ended,
}

fn to(phase: impl Into<Lifecycle>, effects: &'static [Effect]) -> Outcome {
    (phase.into(), effects)
}

fn ignored(phase: impl Into<Lifecycle>) -> Outcome {
    to(phase, &[])
}

impl Booting {
    fn step(self, event: Event) -> Outcome {
        match event {
            Event::Local(Local::StartedAlone) => to(self, &[Effect::Lock]),
            Event::Local(Local::StartedAsSuccessor) => to(self.adopt(), &[Effect::Lock]),
            Event::Local(Local::StartedByOwner) => to(self.answer(), &[Effect::Lock]),
            Event::Lock(Lock::AcquiredWithState | Lock::AcquiredWithoutState) => {
                to(self.serve(), &[Load, Listen])
            }
            // After the switch of root, the holder of the lock does not return it to the initrd.
            Event::Local(Local::RootSwitched) | Event::StopRequested => to(self.end(), &[Leave]),
            Event::Local(Local::Frozen)
            | Event::Lock(Lock::HeldElsewhere)
            | Event::Predecessor(_)
            | Event::Successor(_) => ignored(self),
        }
    }
}

impl Adopting<Waiting> {
    fn step(self, event: Event) -> Outcome {
        match event {
            Event::Lock(Lock::HeldElsewhere) => to(self.ask(), &[Ask]),
            Event::Lock(Lock::AcquiredWithoutState) => to(self.lock(), &[Ask]),
            Event::Lock(Lock::AcquiredWithState) => to(self.lock().serve(), &[Load, Listen]),
            Event::StopRequested => to(self.end(), &[Leave]),
            Event::Local(_) | Event::Predecessor(_) | Event::Successor(_) => ignored(self),
        }
    }
}

impl Adopting<Called> {
    fn step(self, event: Event) -> Outcome {
        match event {
            Event::Lock(Lock::HeldElsewhere) => to(self.ask(), &[Ask]),
            // The owner may have no file to lock, so only its answer makes another owner.
            Event::Lock(Lock::AcquiredWithState | Lock::AcquiredWithoutState) => {
                to(self.lock(), &[Ask])
            }
            Event::StopRequested => to(self.end(), &[Leave]),
            Event::Local(_) | Event::Predecessor(_) | Event::Successor(_) => ignored(self),
        }
    }
}

impl Adopting<Asking<Theirs>> {
    fn step(self, event: Event) -> Outcome {
        match event {
            Event::Lock(Lock::AcquiredWithState) => {
                to(self.lock().serve(), &[Discard, Load, Listen])
            }
            Event::Lock(Lock::AcquiredWithoutState) => to(self.lock(), &[]),
            // The predecessor is stopping or starting at this moment; the lock shows which.
            Event::Predecessor(Predecessor::Absent) => to(self, &[Ask]),
            Event::Predecessor(Predecessor::Refused | Predecessor::Gone) => {
                to(self, &[Discard, Ask])
            }
            Event::Predecessor(Predecessor::SentState) => to(self.prepare(), &[ReportPrepared]),
            Event::Predecessor(Predecessor::Unreachable) => to(self.end(), &[Discard, Leave]),
            Event::StopRequested => to(self.end(), &[Discard, Abort, Leave]),
            Event::Predecessor(Predecessor::SentLegacyState | Predecessor::Committed)
            | Event::Lock(Lock::HeldElsewhere)
            | Event::Local(_)
            | Event::Successor(_) => ignored(self),
        }
    }
}

impl Adopting<Asking<Ours>> {
    fn step(self, event: Event) -> Outcome {
        match event {
            Event::Predecessor(Predecessor::Absent) => to(self.serve(), &[Discard, Load, Listen]),
            Event::Predecessor(Predecessor::Refused | Predecessor::Gone) => {
                to(self, &[Discard, Ask])
            }
            Event::Predecessor(Predecessor::SentLegacyState) => to(self.serve(), &[Load, Listen]),
            Event::Predecessor(Predecessor::SentState) => to(self.prepare(), &[ReportPrepared]),
            Event::Predecessor(Predecessor::Unreachable) => to(self.end(), &[Discard, Leave]),
            Event::StopRequested => to(self.end(), &[Discard, Abort, Leave]),
            Event::Predecessor(Predecessor::Committed)
            | Event::Local(_)
            | Event::Lock(_)
            | Event::Successor(_) => ignored(self),
        }
    }
}

impl<Holder> Adopting<Prepared<Holder>>
where
    Lifecycle: From<Self> + From<Adopting<Asking<Holder>>>,
{
    fn step(self, event: Event) -> Outcome {
        match event {
            Event::Predecessor(Predecessor::Committed) => {
                to(self.serve(), &[Load, ReportServing, Listen])
            }
            // It closes without a message only if it died, and this process has its whole state.
            Event::Predecessor(Predecessor::Gone) => to(self.serve(), &[Load, Listen]),
            Event::Predecessor(Predecessor::Refused) => to(self.ask_again(), &[Discard, Ask]),
            // Discards before it aborts: everything is dropped before the predecessor serves again.
            Event::StopRequested => to(self.end(), &[Discard, Abort, Leave]),
            Event::Predecessor(
                Predecessor::Absent
                | Predecessor::SentState
                | Predecessor::SentLegacyState
                | Predecessor::Unreachable,
            )
            | Event::Local(_)
            | Event::Lock(_)
            | Event::Successor(_) => ignored(self),
        }
    }
}

impl Serving {
    fn step(self, event: Event) -> Outcome {
        match event {
            Event::Successor(Successor::Requested) => to(self.freeze(), &[Freeze]),
            Event::StopRequested => to(self.end(), &[Leave]),
            Event::Successor(
                Successor::Prepared
                | Successor::TookLegacyState
                | Successor::Serving
                | Successor::Gone
                | Successor::TimedOut,
            )
            | Event::Local(_)
            | Event::Lock(_)
            | Event::Predecessor(_) => ignored(self),
        }
    }
}

impl Draining<Freezing> {
    fn step(self, event: Event) -> Outcome {
        match event {
            Event::Local(Local::Frozen) => to(self.offer(), &[Offer]),
            Event::StopRequested => to(self.end(), &[Leave]),
            // If the successor is gone by now, sending the offer fails.
            Event::Local(
                Local::StartedAlone
                | Local::StartedAsSuccessor
                | Local::StartedByOwner
                | Local::RootSwitched,
            )
            | Event::Lock(_)
            | Event::Predecessor(_)
            | Event::Successor(_) => ignored(self),
        }
    }
}

impl Draining<Offered> {
    fn step(self, event: Event) -> Outcome {
        match event {
            Event::Successor(Successor::Prepared) => to(self.commit(), &[Commit]),
            Event::Successor(Successor::Gone) => to(self.serve(), &[Load, Listen]),
            Event::Successor(Successor::TimedOut) => to(self.serve(), &[Abort, Load, Listen]),
            Event::Successor(Successor::TookLegacyState) | Event::StopRequested => {
                to(self.end(), &[Leave])
            }
            Event::Successor(Successor::Requested | Successor::Serving)
            | Event::Local(_)
            | Event::Lock(_)
            | Event::Predecessor(_) => ignored(self),
        }
    }
}

impl Draining<Committed> {
    fn step(self, event: Event) -> Outcome {
        match event {
            Event::Successor(Successor::Serving) | Event::StopRequested => to(self.end(), &[Leave]),
            Event::Successor(Successor::Gone) => to(self.serve(), &[Load, Listen]),
            Event::Successor(
                Successor::Requested
                | Successor::Prepared
                | Successor::TookLegacyState
                | Successor::TimedOut,
            )
            | Event::Local(_)
            | Event::Lock(_)
            | Event::Predecessor(_) => ignored(self),
        }
    }
}
