// SPDX-License-Identifier: Apache-2.0
//! Events and effects: the vocabulary of the lifecycle.
//!
//! An event is a fact, named in the past tense. Events are grouped by their subject, so that a
//! phase can ignore a whole subject by name. No event contains the state. An effect is an order,
//! named in the imperative.

/// A fact that an actor reports to the supervisor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Event {
    /// An event of this process.
    Local(Local),
    /// The result of an attempt to lock the state file.
    Lock(Lock),
    /// A message or a failure of the predecessor, as the successor sees it.
    Predecessor(Predecessor),
    /// A message or a failure of the successor, as the predecessor sees it.
    Successor(Successor),
    /// A signal asked the process to stop.
    StopRequested,
}

/// An event of this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Local {
    /// It started, and no predecessor is configured.
    StartedAlone,
    /// It started, and a predecessor is configured.
    StartedAsSuccessor,
    /// It was started by the owner, to replace it.
    StartedByOwner,
    /// None of its actors ticks, reads, writes or accepts any more.
    Frozen,
    /// The root filesystem has replaced the initrd.
    RootSwitched,
}

/// Who holds the lock on the state file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Lock {
    /// This process; the file contains a state of this boot, so its owner died or stopped.
    AcquiredWithState,
    /// This process, or no process because no file can be locked; there is no state of this boot.
    AcquiredWithoutState,
    /// Another process. The actor tries again without an order.
    HeldElsewhere,
}

/// What the successor learned about its predecessor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Predecessor {
    /// No process listens where the predecessor was expected.
    Absent,
    /// It runs but does not hand over to this process now: it refused, was busy or aborted.
    Refused,
    /// It closed the connection without a message.
    Gone,
    /// Its whole state has arrived and is valid.
    SentState,
    /// It supports only a legacy protocol, sent its state and terminates.
    SentLegacyState,
    /// It made this process the owner.
    Committed,
    /// It cannot be asked again: it started this process for one handoff, which has failed.
    Unreachable,
}

/// What the predecessor learned about its successor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Successor {
    /// An authorized process requested the state.
    Requested,
    /// It has the whole state and waits for the commit.
    Prepared,
    /// It supports only a legacy protocol and has the state, which cannot be withdrawn.
    TookLegacyState,
    /// It serves.
    Serving,
    /// It aborted, or its connection ended before it reported that it serves.
    Gone,
    /// It did not prepare in time.
    TimedOut,
}

macro_rules! into_event {
    ($($subject:ident)*) => {$(
        impl From<$subject> for Event {
            fn from(event: $subject) -> Self {
                Self::$subject(event)
            }
        }
    )*};
}
into_event!(Local Lock Predecessor Successor);

impl Event {
    /// Every event.
    pub const ALL: [Self; 22] = [
        Self::Local(Local::StartedAlone),
        Self::Local(Local::StartedAsSuccessor),
        Self::Local(Local::StartedByOwner),
        Self::Local(Local::Frozen),
        Self::Local(Local::RootSwitched),
        Self::Lock(Lock::AcquiredWithState),
        Self::Lock(Lock::AcquiredWithoutState),
        Self::Lock(Lock::HeldElsewhere),
        Self::Predecessor(Predecessor::Absent),
        Self::Predecessor(Predecessor::Refused),
        Self::Predecessor(Predecessor::Gone),
        Self::Predecessor(Predecessor::SentState),
        Self::Predecessor(Predecessor::SentLegacyState),
        Self::Predecessor(Predecessor::Committed),
        Self::Predecessor(Predecessor::Unreachable),
        Self::Successor(Successor::Requested),
        Self::Successor(Successor::Prepared),
        Self::Successor(Successor::TookLegacyState),
        Self::Successor(Successor::Serving),
        Self::Successor(Successor::Gone),
        Self::Successor(Successor::TimedOut),
        Self::StopRequested,
    ];
}

/// An order to the actors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Effect {
    /// Try to lock the state file until that succeeds, without blocking.
    Lock,
    /// Request the state from the predecessor; after a pause, unless this is the first request.
    Ask,
    /// Tell the predecessor that its whole state has arrived.
    ReportPrepared,
    /// Drop everything that was received, including the copy of the lock.
    Discard,
    /// Tell the other process that the handoff is cancelled, and read nothing more from it.
    Abort,
    /// Load the state from its file or as it was received, and tick. This process holds the lock.
    Load,
    /// Tell the predecessor that this process serves. A failure to send this is ignored.
    ReportServing,
    /// Accept and answer clients, including those that were handed over.
    Listen,
    /// Stop ticking, reading, writing and accepting, and confirm it.
    Freeze,
    /// Send the successor the state, the clients and a copy of the lock.
    Offer,
    /// Tell the successor that it is the owner.
    Commit,
    /// Release the lock, write all log records and end the process with success.
    Leave,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The place of an event in [`Event::ALL`]: a new event does not compile until it has one.
    fn place(event: Event) -> usize {
        match event {
            Event::Local(Local::StartedAlone) => 0,
            Event::Local(Local::StartedAsSuccessor) => 1,
            Event::Local(Local::StartedByOwner) => 2,
            Event::Local(Local::Frozen) => 3,
            Event::Local(Local::RootSwitched) => 4,
            Event::Lock(Lock::AcquiredWithState) => 5,
            Event::Lock(Lock::AcquiredWithoutState) => 6,
            Event::Lock(Lock::HeldElsewhere) => 7,
            Event::Predecessor(Predecessor::Absent) => 8,
            Event::Predecessor(Predecessor::Refused) => 9,
            Event::Predecessor(Predecessor::Gone) => 10,
            Event::Predecessor(Predecessor::SentState) => 11,
            Event::Predecessor(Predecessor::SentLegacyState) => 12,
            Event::Predecessor(Predecessor::Committed) => 13,
            Event::Predecessor(Predecessor::Unreachable) => 14,
            Event::Successor(Successor::Requested) => 15,
            Event::Successor(Successor::Prepared) => 16,
            Event::Successor(Successor::TookLegacyState) => 17,
            Event::Successor(Successor::Serving) => 18,
            Event::Successor(Successor::Gone) => 19,
            Event::Successor(Successor::TimedOut) => 20,
            Event::StopRequested => 21,
        }
    }

    #[test]
    fn the_list_of_all_events_has_each_once() {
        assert!(Event::ALL.into_iter().map(place).eq(0..Event::ALL.len()));
    }
}
