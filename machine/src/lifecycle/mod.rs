// SPDX-License-Identifier: Apache-2.0
//! Lifecycle: who owns the state, and when a process hands over, serves or leaves.
//!
//! The same program runs twice in one boot.
//! The *predecessor* hands over, the *successor* adopts; the *owner* is the one that may tick and
//! answer.
//! Each phase is a type of its own whose methods consume it and return only phases that may follow,
//! so that a forbidden step does not compile; [`Lifecycle`] only dispatches.
//! Events are facts in the past tense, effects are orders to the actors, carried out in their order.
//!
//! Ownership is the lock on the state file, which holds the state at every instant.
//! The lock belongs to the open file, and a descriptor of it travels in the handoff, so it is held
//! without a gap as long as either process, or the message between them, lives (flock(2)).
//! No event carries the state itself: whoever becomes the owner has the lock first and then loads
//! the state.
//!
//! | from | event | effects | to |
//! | --- | --- | --- | --- |
//! | Booting | StartedAlone | Lock | Booting |
//! | Booting | StartedAsSuccessor | Lock | Adopting (waiting) |
//! | Booting | LockedWithState | Load, Listen | Serving |
//! | Booting | LockedWithoutState | Load, Listen | Serving |
//! | Booting | RootSwitched | Leave | Ended |
//! | Booting | StopRequested | Leave | Ended |
//! | Adopting (waiting) | LockHeld | Ask | Adopting (asking, theirs) |
//! | Adopting (waiting) | LockedWithoutState | Ask | Adopting (asking, ours) |
//! | Adopting (waiting) | LockedWithState | Load, Listen | Serving |
//! | Adopting (waiting) | StopRequested | Leave | Ended |
//! | Adopting (asking, theirs) | LockedWithState | Discard, Load, Listen | Serving |
//! | Adopting (asking, theirs) | LockedWithoutState | | Adopting (asking, ours) |
//! | Adopting (asking, theirs) | PredecessorAbsent | Ask | Adopting (asking, theirs) |
//! | Adopting (asking, theirs) | PredecessorRefused | Discard, Ask | Adopting (asking, theirs) |
//! | Adopting (asking, theirs) | PredecessorGone | Discard, Ask | Adopting (asking, theirs) |
//! | Adopting (asking, theirs) | StateReceived | Prepare | Adopting (prepared, theirs) |
//! | Adopting (asking, theirs) | StopRequested | Discard, Abort, Leave | Ended |
//! | Adopting (asking, ours) | PredecessorAbsent | Discard, Load, Listen | Serving |
//! | Adopting (asking, ours) | PredecessorRefused | Discard, Ask | Adopting (asking, ours) |
//! | Adopting (asking, ours) | PredecessorGone | Discard, Ask | Adopting (asking, ours) |
//! | Adopting (asking, ours) | OlderStateReceived | Load, Listen | Serving |
//! | Adopting (asking, ours) | StateReceived | Prepare | Adopting (prepared, ours) |
//! | Adopting (asking, ours) | StopRequested | Discard, Abort, Leave | Ended |
//! | Adopting (prepared, theirs) | Committed | Load, Done, Listen | Serving |
//! | Adopting (prepared, theirs) | PredecessorGone | Load, Listen | Serving |
//! | Adopting (prepared, theirs) | PredecessorRefused | Discard, Ask | Adopting (asking, theirs) |
//! | Adopting (prepared, theirs) | StopRequested | Discard, Abort, Leave | Ended |
//! | Adopting (prepared, ours) | Committed | Load, Done, Listen | Serving |
//! | Adopting (prepared, ours) | PredecessorGone | Load, Listen | Serving |
//! | Adopting (prepared, ours) | PredecessorRefused | Discard, Ask | Adopting (asking, ours) |
//! | Adopting (prepared, ours) | StopRequested | Discard, Abort, Leave | Ended |
//! | Serving | HandoffRequested | Freeze | Draining (freezing) |
//! | Serving | StopRequested | Leave | Ended |
//! | Draining (freezing) | Frozen | Offer | Draining (offered) |
//! | Draining (freezing) | StopRequested | Leave | Ended |
//! | Draining (offered) | SuccessorPrepared | Commit | Draining (committed) |
//! | Draining (offered) | SuccessorGone | Load, Listen | Serving |
//! | Draining (offered) | OfferExpired | Abort, Load, Listen | Serving |
//! | Draining (offered) | OlderSuccessorServed | Leave | Ended |
//! | Draining (offered) | StopRequested | Leave | Ended |
//! | Draining (committed) | SuccessorDone | Leave | Ended |
//! | Draining (committed) | SuccessorGone | Load, Listen | Serving |
//! | Draining (committed) | StopRequested | Leave | Ended |
//!
//! Every other event leaves the phase as it is and orders nothing: it is a fact that came too late
//! to matter, such as the end of a connection that was given up already.
//! A test walks every phase with every event and holds the outcome against this table.
//!
//! Who asks holds the lock himself (*ours*) where the predecessor does not, because it is an older
//! program or could not open the file; else the predecessor holds it (*theirs*), and lends it with
//! the state.
//! No order saves the state: the owner writes each change to the file before anybody can see it, and
//! who is not the owner has nothing to save.
//!
//! What the older, one-line exchange cannot promise: a state that was sent to a successor which dies
//! before it has read it is lost with its clients, and a successor that gives up on an older
//! predecessor which only stood still owns beside it.
//!
//! **Invariant:** a process may tick in Serving and Draining (freezing) only; answers clients in
//! Serving only; and enters Serving only with the lock, with the orders to load the state and to
//! listen.
//!
//! **Invariant:** between the order to commit and the successor's end nothing makes a predecessor
//! the owner again, no timeout in particular.

use core::fmt;

/// A fact that the supervisor learnt from an actor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Event {
    /// The process is up, and no predecessor is configured.
    StartedAlone,
    /// The process is up, and a predecessor is configured.
    StartedAsSuccessor,
    /// The lock is ours, and the file holds a state of this boot: its owner died or stopped.
    LockedWithState,
    /// The lock is ours, or there is no file to lock, and there is no state of this boot in it.
    LockedWithoutState,
    /// Another process holds the lock; it is tried again without being told.
    LockHeld,
    /// The root filesystem took the initrd's place.
    RootSwitched,
    /// Nobody is there where a predecessor was expected.
    PredecessorAbsent,
    /// The predecessor lives and does not hand over, to us or now: refused, busy or aborted.
    PredecessorRefused,
    /// The connection to the predecessor ended without a word.
    PredecessorGone,
    /// The whole state is here: counted, checked, nothing cut off.
    StateReceived,
    /// A predecessor that speaks only an older line gave its state and terminates.
    OlderStateReceived,
    /// The predecessor is no longer the owner: we are.
    Committed,
    /// A peer that may do so asked for the state.
    HandoffRequested,
    /// No actor ticks, reads, writes or accepts any more.
    Frozen,
    /// The successor has the whole state and waits for the word.
    SuccessorPrepared,
    /// A successor that speaks only an older line has the state, which cannot be taken back.
    OlderSuccessorServed,
    /// The successor serves.
    SuccessorDone,
    /// The successor aborted, or its connection ended before it said that it was done.
    SuccessorGone,
    /// The successor took too long to prepare.
    OfferExpired,
    /// A signal asked the process to stop.
    StopRequested,
}

impl Event {
    /// Every event.
    pub const ALL: [Self; 20] = [
        Self::StartedAlone,
        Self::StartedAsSuccessor,
        Self::LockedWithState,
        Self::LockedWithoutState,
        Self::LockHeld,
        Self::RootSwitched,
        Self::PredecessorAbsent,
        Self::PredecessorRefused,
        Self::PredecessorGone,
        Self::StateReceived,
        Self::OlderStateReceived,
        Self::Committed,
        Self::HandoffRequested,
        Self::Frozen,
        Self::SuccessorPrepared,
        Self::OlderSuccessorServed,
        Self::SuccessorDone,
        Self::SuccessorGone,
        Self::OfferExpired,
        Self::StopRequested,
    ];
}

/// An order to the actors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Effect {
    /// Try to lock the state file until it is ours; never wait for it.
    Lock,
    /// Ask the predecessor for its state; after a pause, where it was asked before.
    Ask,
    /// Tell the predecessor that its whole state is here.
    Prepare,
    /// Drop all that was received, a copy of the lock included.
    Discard,
    /// Tell the other side that the handoff is off, and read nothing more from it.
    Abort,
    /// With the lock held, load the state from its file, or as it was received, and tick.
    Load,
    /// Tell the predecessor that it may leave; whether that succeeds does not matter.
    Done,
    /// Accept and answer clients, those that were handed over included.
    Listen,
    /// Stop ticking, reading, writing and accepting, and confirm it.
    Freeze,
    /// Send the successor the state, the clients and a copy of the lock.
    Offer,
    /// Tell the successor that it is the owner.
    Commit,
    /// Drop the lock, write out the log, end the process with success.
    Leave,
}

/// The orders of one step, in the order in which they are carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Effects([Option<Effect>; 3]);

impl Effects {
    const NONE: Self = Self([None; 3]);
    const LOAD_AND_LISTEN: Self = Self::two(Effect::Load, Effect::Listen);
    const ASK_AGAIN: Self = Self::two(Effect::Discard, Effect::Ask);

    const fn one(effect: Effect) -> Self {
        Self([Some(effect), None, None])
    }

    const fn two(first: Effect, second: Effect) -> Self {
        Self([Some(first), Some(second), None])
    }

    const fn three(first: Effect, second: Effect, third: Effect) -> Self {
        Self([Some(first), Some(second), Some(third)])
    }
}

impl IntoIterator for Effects {
    type Item = Effect;
    type IntoIter = core::iter::Flatten<core::array::IntoIter<Option<Effect>, 3>>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter().flatten()
    }
}

/// Starting: owns nothing, and waits for the lock.
#[derive(Debug, PartialEq, Eq, Hash)]
pub struct Booting(());

/// Waiting for a predecessor's state: owns nothing yet.
#[derive(Debug, PartialEq, Eq, Hash)]
pub struct Adopting(Adopt);

/// How far a handoff has come on the successor's side.
#[derive(Debug, PartialEq, Eq, Hash)]
enum Adopt {
    /// Whose the lock is, is not known yet.
    Waiting,
    /// The predecessor is being asked, or will be after a pause.
    Asking(Lock),
    /// Its whole state is here; it may still be the owner.
    Prepared(Lock),
}

/// Who held the lock before anything was received.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Lock {
    /// We; nobody else may start.
    Ours,
    /// Another process: the predecessor, unless there is a third.
    Theirs,
}

/// The owner: ticks and answers.
#[derive(Debug, PartialEq, Eq, Hash)]
pub struct Serving(());

/// Handing over.
#[derive(Debug, PartialEq, Eq, Hash)]
pub struct Draining(Drain);

/// How far a handoff has come on the predecessor's side.
#[derive(Debug, PartialEq, Eq, Hash)]
enum Drain {
    /// Still the owner: the actors have been told to stop.
    Freezing,
    /// Still the owner, and frozen: the state has been offered to the successor.
    Offered,
    /// No longer the owner; holds the lock, the state and the clients should the successor die.
    Committed,
}

/// The process has nothing left to do but exit.
#[derive(Debug, PartialEq, Eq, Hash)]
pub struct Ended(());

impl Booting {
    /// Where every process begins.
    #[must_use]
    pub const fn new() -> Self {
        Self(())
    }

    /// Becomes the owner: the lock is ours, and there is nobody to adopt from.
    #[must_use]
    pub fn serve(self) -> Serving {
        Serving(())
    }

    /// Turns to the predecessor.
    #[must_use]
    pub fn adopt(self) -> Adopting {
        Adopting(Adopt::Waiting)
    }

    /// Gives up before it began.
    #[must_use]
    pub fn end(self) -> Ended {
        Ended(())
    }

    fn step(self, event: Event) -> (Lifecycle, Effects) {
        match event {
            Event::StartedAlone => (self.into(), Effects::one(Effect::Lock)),
            Event::StartedAsSuccessor => (self.adopt().into(), Effects::one(Effect::Lock)),
            Event::LockedWithState | Event::LockedWithoutState => {
                (self.serve().into(), Effects::LOAD_AND_LISTEN)
            }
            // Whoever holds the lock after the switch of root will not give it back to the initrd.
            Event::RootSwitched | Event::StopRequested => leave(self.end()),
            Event::LockHeld
            | Event::PredecessorAbsent
            | Event::PredecessorRefused
            | Event::PredecessorGone
            | Event::StateReceived
            | Event::OlderStateReceived
            | Event::Committed
            | Event::HandoffRequested
            | Event::Frozen
            | Event::SuccessorPrepared
            | Event::OlderSuccessorServed
            | Event::SuccessorDone
            | Event::SuccessorGone
            | Event::OfferExpired => (self.into(), Effects::NONE),
        }
    }
}

impl Default for Booting {
    fn default() -> Self {
        Self::new()
    }
}

impl Adopting {
    /// Becomes the owner: the lock is ours, by whichever way.
    #[must_use]
    pub fn serve(self) -> Serving {
        Serving(())
    }

    /// Gives up; the predecessor stays the owner.
    #[must_use]
    pub fn end(self) -> Ended {
        Ended(())
    }

    fn step(self, event: Event) -> (Lifecycle, Effects) {
        match self.0 {
            Adopt::Waiting => self.step_waiting(event),
            Adopt::Asking(Lock::Theirs) => self.step_asking_them(event),
            Adopt::Asking(Lock::Ours) => self.step_asking_with_lock(event),
            Adopt::Prepared(lock) => self.step_prepared(lock, event),
        }
    }

    fn step_waiting(self, event: Event) -> (Lifecycle, Effects) {
        match event {
            Event::LockHeld => (asking(Lock::Theirs), Effects::one(Effect::Ask)),
            Event::LockedWithoutState => (asking(Lock::Ours), Effects::one(Effect::Ask)),
            Event::LockedWithState => (self.serve().into(), Effects::LOAD_AND_LISTEN),
            Event::StopRequested => leave(self.end()),
            Event::StartedAlone
            | Event::StartedAsSuccessor
            | Event::RootSwitched
            | Event::PredecessorAbsent
            | Event::PredecessorRefused
            | Event::PredecessorGone
            | Event::StateReceived
            | Event::OlderStateReceived
            | Event::Committed
            | Event::HandoffRequested
            | Event::Frozen
            | Event::SuccessorPrepared
            | Event::OlderSuccessorServed
            | Event::SuccessorDone
            | Event::SuccessorGone
            | Event::OfferExpired => (self.into(), Effects::NONE),
        }
    }

    fn step_asking_them(self, event: Event) -> (Lifecycle, Effects) {
        match event {
            Event::LockedWithState => (self.serve().into(), DISCARD_AND_SERVE),
            Event::LockedWithoutState => (asking(Lock::Ours), Effects::NONE),
            // It dies or starts at this moment: the lock tells which.
            Event::PredecessorAbsent => (self.into(), Effects::one(Effect::Ask)),
            Event::PredecessorRefused | Event::PredecessorGone => (self.into(), Effects::ASK_AGAIN),
            Event::StateReceived => (prepared(Lock::Theirs), Effects::one(Effect::Prepare)),
            Event::StopRequested => want_out(self.end()),
            Event::StartedAlone
            | Event::StartedAsSuccessor
            | Event::LockHeld
            | Event::RootSwitched
            | Event::OlderStateReceived
            | Event::Committed
            | Event::HandoffRequested
            | Event::Frozen
            | Event::SuccessorPrepared
            | Event::OlderSuccessorServed
            | Event::SuccessorDone
            | Event::SuccessorGone
            | Event::OfferExpired => (self.into(), Effects::NONE),
        }
    }

    fn step_asking_with_lock(self, event: Event) -> (Lifecycle, Effects) {
        match event {
            Event::PredecessorAbsent => (self.serve().into(), DISCARD_AND_SERVE),
            Event::PredecessorRefused | Event::PredecessorGone => (self.into(), Effects::ASK_AGAIN),
            Event::OlderStateReceived => (self.serve().into(), Effects::LOAD_AND_LISTEN),
            Event::StateReceived => (prepared(Lock::Ours), Effects::one(Effect::Prepare)),
            Event::StopRequested => want_out(self.end()),
            Event::StartedAlone
            | Event::StartedAsSuccessor
            | Event::LockedWithState
            | Event::LockedWithoutState
            | Event::LockHeld
            | Event::RootSwitched
            | Event::Committed
            | Event::HandoffRequested
            | Event::Frozen
            | Event::SuccessorPrepared
            | Event::OlderSuccessorServed
            | Event::SuccessorDone
            | Event::SuccessorGone
            | Event::OfferExpired => (self.into(), Effects::NONE),
        }
    }

    fn step_prepared(self, lock: Lock, event: Event) -> (Lifecycle, Effects) {
        match event {
            Event::Committed => {
                let effects = Effects::three(Effect::Load, Effect::Done, Effect::Listen);
                (self.serve().into(), effects)
            }
            // It closes without a word only by dying, and what it held is with us.
            Event::PredecessorGone => (self.serve().into(), Effects::LOAD_AND_LISTEN),
            Event::PredecessorRefused => (asking(lock), Effects::ASK_AGAIN),
            Event::StopRequested => want_out(self.end()),
            Event::StartedAlone
            | Event::StartedAsSuccessor
            | Event::LockedWithState
            | Event::LockedWithoutState
            | Event::LockHeld
            | Event::RootSwitched
            | Event::PredecessorAbsent
            | Event::StateReceived
            | Event::OlderStateReceived
            | Event::HandoffRequested
            | Event::Frozen
            | Event::SuccessorPrepared
            | Event::OlderSuccessorServed
            | Event::SuccessorDone
            | Event::SuccessorGone
            | Event::OfferExpired => (self.into(), Effects::NONE),
        }
    }
}

/// What was received counts no longer: the lock is ours, and with it the state in the file.
const DISCARD_AND_SERVE: Effects = Effects::three(Effect::Discard, Effect::Load, Effect::Listen);

fn asking(lock: Lock) -> Lifecycle {
    Adopting(Adopt::Asking(lock)).into()
}

fn prepared(lock: Lock) -> Lifecycle {
    Adopting(Adopt::Prepared(lock)).into()
}

/// Leaves the state to the predecessor; all of it is dropped before the predecessor can know.
fn want_out(ended: Ended) -> (Lifecycle, Effects) {
    (ended.into(), Effects::three(Effect::Discard, Effect::Abort, Effect::Leave))
}

impl Serving {
    /// Begins to hand over.
    #[must_use]
    pub fn drain(self) -> Draining {
        Draining(Drain::Freezing)
    }

    /// Stops without a successor.
    #[must_use]
    pub fn end(self) -> Ended {
        Ended(())
    }

    fn step(self, event: Event) -> (Lifecycle, Effects) {
        match event {
            Event::HandoffRequested => (self.drain().into(), Effects::one(Effect::Freeze)),
            Event::StopRequested => leave(self.end()),
            Event::StartedAlone
            | Event::StartedAsSuccessor
            | Event::LockedWithState
            | Event::LockedWithoutState
            | Event::LockHeld
            | Event::RootSwitched
            | Event::PredecessorAbsent
            | Event::PredecessorRefused
            | Event::PredecessorGone
            | Event::StateReceived
            | Event::OlderStateReceived
            | Event::Committed
            | Event::Frozen
            | Event::SuccessorPrepared
            | Event::OlderSuccessorServed
            | Event::SuccessorDone
            | Event::SuccessorGone
            | Event::OfferExpired => (self.into(), Effects::NONE),
        }
    }
}

impl Draining {
    /// Goes back to serving: the successor went away, and the lock never did.
    #[must_use]
    pub fn serve(self) -> Serving {
        Serving(())
    }

    /// Leaves: the successor serves, or the process was told to stop.
    #[must_use]
    pub fn end(self) -> Ended {
        Ended(())
    }

    fn step(self, event: Event) -> (Lifecycle, Effects) {
        match self.0 {
            Drain::Freezing => self.step_freezing(event),
            Drain::Offered => self.step_offered(event),
            Drain::Committed => self.step_committed(event),
        }
    }

    fn step_freezing(self, event: Event) -> (Lifecycle, Effects) {
        match event {
            Event::Frozen => (Self(Drain::Offered).into(), Effects::one(Effect::Offer)),
            Event::StopRequested => leave(self.end()),
            // A successor that is gone by now shows when the state is offered.
            Event::StartedAlone
            | Event::StartedAsSuccessor
            | Event::LockedWithState
            | Event::LockedWithoutState
            | Event::LockHeld
            | Event::RootSwitched
            | Event::PredecessorAbsent
            | Event::PredecessorRefused
            | Event::PredecessorGone
            | Event::StateReceived
            | Event::OlderStateReceived
            | Event::Committed
            | Event::HandoffRequested
            | Event::SuccessorPrepared
            | Event::OlderSuccessorServed
            | Event::SuccessorDone
            | Event::SuccessorGone
            | Event::OfferExpired => (self.into(), Effects::NONE),
        }
    }

    fn step_offered(self, event: Event) -> (Lifecycle, Effects) {
        match event {
            Event::SuccessorPrepared => {
                (Self(Drain::Committed).into(), Effects::one(Effect::Commit))
            }
            Event::SuccessorGone => (self.serve().into(), Effects::LOAD_AND_LISTEN),
            Event::OfferExpired => {
                let effects = Effects::three(Effect::Abort, Effect::Load, Effect::Listen);
                (self.serve().into(), effects)
            }
            Event::OlderSuccessorServed | Event::StopRequested => leave(self.end()),
            Event::StartedAlone
            | Event::StartedAsSuccessor
            | Event::LockedWithState
            | Event::LockedWithoutState
            | Event::LockHeld
            | Event::RootSwitched
            | Event::PredecessorAbsent
            | Event::PredecessorRefused
            | Event::PredecessorGone
            | Event::StateReceived
            | Event::OlderStateReceived
            | Event::Committed
            | Event::HandoffRequested
            | Event::Frozen
            | Event::SuccessorDone => (self.into(), Effects::NONE),
        }
    }

    fn step_committed(self, event: Event) -> (Lifecycle, Effects) {
        match event {
            Event::SuccessorDone | Event::StopRequested => leave(self.end()),
            Event::SuccessorGone => (self.serve().into(), Effects::LOAD_AND_LISTEN),
            Event::StartedAlone
            | Event::StartedAsSuccessor
            | Event::LockedWithState
            | Event::LockedWithoutState
            | Event::LockHeld
            | Event::RootSwitched
            | Event::PredecessorAbsent
            | Event::PredecessorRefused
            | Event::PredecessorGone
            | Event::StateReceived
            | Event::OlderStateReceived
            | Event::Committed
            | Event::HandoffRequested
            | Event::Frozen
            | Event::SuccessorPrepared
            | Event::OlderSuccessorServed
            | Event::OfferExpired => (self.into(), Effects::NONE),
        }
    }
}

fn leave(ended: Ended) -> (Lifecycle, Effects) {
    (ended.into(), Effects::one(Effect::Leave))
}

/// A process in whichever phase it is.
#[derive(Debug, PartialEq, Eq, Hash)]
pub enum Lifecycle {
    /// See [`Booting`].
    Booting(Booting),
    /// See [`Adopting`].
    Adopting(Adopting),
    /// See [`Serving`].
    Serving(Serving),
    /// See [`Draining`].
    Draining(Draining),
    /// See [`Ended`].
    Ended(Ended),
}

impl Lifecycle {
    /// A process that begins.
    #[must_use]
    pub const fn new() -> Self {
        Self::Booting(Booting::new())
    }

    /// Takes one event: the phase that follows, and what is to be done now.
    #[must_use]
    pub fn step(self, event: Event) -> (Self, Effects) {
        match self {
            Self::Booting(phase) => phase.step(event),
            Self::Adopting(phase) => phase.step(event),
            Self::Serving(phase) => phase.step(event),
            Self::Draining(phase) => phase.step(event),
            Self::Ended(phase) => (phase.into(), Effects::NONE),
        }
    }

    /// The phase without what it holds, for people to read.
    #[must_use]
    pub const fn phase(&self) -> Phase {
        match self {
            Self::Booting(_) => Phase::Booting,
            Self::Adopting(_) => Phase::Adopting,
            Self::Serving(_) => Phase::Serving,
            Self::Draining(_) => Phase::Draining,
            Self::Ended(_) => Phase::Ended,
        }
    }
}

impl Default for Lifecycle {
    fn default() -> Self {
        Self::new()
    }
}

macro_rules! phase_into_lifecycle {
    ($($phase:ident)*) => {$(
        impl From<$phase> for Lifecycle {
            fn from(phase: $phase) -> Self {
                Self::$phase(phase)
            }
        }
    )*};
}
phase_into_lifecycle!(Booting Adopting Serving Draining Ended);

/// The name of a phase, as the log and `status` show it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Phase {
    /// Starting.
    Booting,
    /// Waiting for a predecessor's state.
    Adopting,
    /// Ticking and answering.
    Serving,
    /// Handing over.
    Draining,
    /// About to exit.
    Ended,
}

impl Phase {
    /// Every phase, in the order in which a process may pass through them.
    pub const ALL: [Self; 5] =
        [Self::Booting, Self::Adopting, Self::Serving, Self::Draining, Self::Ended];

    /// The name in lower case.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Booting => "booting",
            Self::Adopting => "adopting",
            Self::Serving => "serving",
            Self::Draining => "draining",
            Self::Ended => "ended",
        }
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;
    use std::format;
    use std::string::{String, ToString};
    use std::vec::Vec;

    fn every_phase() -> [Lifecycle; 11] {
        [
            Lifecycle::Booting(Booting(())),
            Lifecycle::Adopting(Adopting(Adopt::Waiting)),
            Lifecycle::Adopting(Adopting(Adopt::Asking(Lock::Theirs))),
            Lifecycle::Adopting(Adopting(Adopt::Asking(Lock::Ours))),
            Lifecycle::Adopting(Adopting(Adopt::Prepared(Lock::Theirs))),
            Lifecycle::Adopting(Adopting(Adopt::Prepared(Lock::Ours))),
            Lifecycle::Serving(Serving(())),
            Lifecycle::Draining(Draining(Drain::Freezing)),
            Lifecycle::Draining(Draining(Drain::Offered)),
            Lifecycle::Draining(Draining(Drain::Committed)),
            Lifecycle::Ended(Ended(())),
        ]
    }

    /// `Adopting(Adopting(Asking(Theirs)))` as the table writes it: `Adopting (asking, theirs)`.
    fn row_name(lifecycle: &Lifecycle) -> String {
        let inner = match lifecycle {
            Lifecycle::Adopting(Adopting(inner)) => format!("{inner:?}"),
            Lifecycle::Draining(Draining(inner)) => format!("{inner:?}"),
            Lifecycle::Booting(_) | Lifecycle::Serving(_) | Lifecycle::Ended(_) => {
                return variant(lifecycle);
            }
        };
        let inner = inner.to_lowercase().replace('(', ", ").replace(')', "");
        format!("{} ({inner})", variant(lifecycle))
    }

    /// The name of a variant without what it holds.
    fn variant(value: &impl fmt::Debug) -> String {
        let text = format!("{value:?}");
        text.split('(').next().unwrap_or_default().to_string()
    }

    /// The documented table: (from, event) to (effects, to).
    fn documented() -> BTreeMap<(String, String), (String, String)> {
        let rows = include_str!("mod.rs").lines().filter_map(|line| line.strip_prefix("//! | "));
        rows.skip(2)
            .map(|row| {
                let cells: Vec<_> = row
                    .trim_end_matches('|')
                    .split('|')
                    .map(|cell| cell.trim().to_string())
                    .collect();
                let [from, event, effects, to] = cells.try_into().expect("four columns");
                ((from, event), (effects, to))
            })
            .collect()
    }

    #[test]
    fn every_phase_answers_every_event_as_the_documented_table_says() {
        let mut table = documented();
        assert_eq!(table.len(), 43, "the table was not read");
        for event in Event::ALL {
            for phase in every_phase() {
                let from = row_name(&phase);
                let (to, effects) = phase.step(event);
                let effects: Vec<_> = effects.into_iter().map(|effect| variant(&effect)).collect();
                let outcome = (effects.join(", "), row_name(&to));
                let ignored = (String::new(), from.clone());
                let row = (from, variant(&event));
                let expected = table.remove(&row).unwrap_or(ignored);
                assert_eq!(outcome, expected, "{row:?}");
            }
        }
        assert!(table.is_empty(), "rows that no phase and event made: {table:?}");
    }

    #[test]
    fn phases_have_the_names_of_the_protocol() {
        let names = Phase::ALL.map(Phase::name);
        assert_eq!(names, ["booting", "adopting", "serving", "draining", "ended"]);
        assert!(Phase::ALL.iter().enumerate().all(|(at, phase)| *phase as usize == at));
    }
}
