// SPDX-License-Identifier: Apache-2.0
//! Phases: one type for each state of a process, and the transitions that each allows.
//!
//! A transition consumes its phase and returns the next one, so that a forbidden transition does
//! not compile. A phase can be neither copied nor constructed elsewhere.
//!
//! **Invariant:** every way to [`Serving`] leads through a phase that holds the lock or a copy of
//! it, or that has just acquired the lock ([`Booting::serve`]).

use core::fmt;

/// The process starts and has not locked the state file yet. Owns nothing.
#[derive(Debug, PartialEq, Eq, Hash)]
#[must_use]
pub struct Booting(());

/// The process waits for the state of its predecessor. Owns nothing yet.
#[derive(Debug, PartialEq, Eq, Hash)]
#[must_use]
pub struct Adopting<Stage>(Stage);

/// Stage of [`Adopting`]: it is not known yet who holds the lock.
#[derive(Debug, PartialEq, Eq, Hash)]
pub struct Waiting;

/// Stage of [`Adopting`]: the owner has started this process, and it is not known yet who holds the
/// lock. Even with the lock, the process is not the owner: the owner may have no file to lock.
#[derive(Debug, PartialEq, Eq, Hash)]
pub struct Called;

/// Stage of [`Adopting`]: the predecessor is asked, or will be after a pause.
#[derive(Debug, PartialEq, Eq, Hash)]
pub struct Asking<Holder>(Holder);

/// Stage of [`Adopting`]: the whole state has arrived; the predecessor may still be the owner.
#[derive(Debug, PartialEq, Eq, Hash)]
pub struct Prepared<Holder>(Holder);

/// Holder of the lock: this process, because the predecessor is a legacy program or could not open
/// the file. No other process can start to serve.
#[derive(Debug, PartialEq, Eq, Hash)]
pub struct Ours;

/// Holder of the lock: another process, normally the predecessor, which passes a copy of the lock
/// with the state.
#[derive(Debug, PartialEq, Eq, Hash)]
pub struct Theirs;

/// The process is the owner: it ticks and answers clients.
#[derive(Debug, PartialEq, Eq, Hash)]
#[must_use]
pub struct Serving(());

/// The process hands its state over to a successor.
#[derive(Debug, PartialEq, Eq, Hash)]
#[must_use]
pub struct Draining<Stage>(Stage);

/// Stage of [`Draining`]: still the owner; the actors have been told to stop.
#[derive(Debug, PartialEq, Eq, Hash)]
pub struct Freezing;

/// Stage of [`Draining`]: still the owner, but frozen; the state has been offered.
#[derive(Debug, PartialEq, Eq, Hash)]
pub struct Offered;

/// Stage of [`Draining`]: no longer the owner. Keeps lock and clients in case the successor dies.
#[derive(Debug, PartialEq, Eq, Hash)]
pub struct Committed;

/// The process only has to exit.
#[derive(Debug, PartialEq, Eq, Hash)]
#[must_use]
pub struct Ended(());

impl Booting {
    /// The phase in which every process begins.
    pub(super) const fn new() -> Self {
        Self(())
    }

    /// Becomes the owner: the lock is acquired, and there is no predecessor.
    pub fn serve(self) -> Serving {
        Serving(())
    }

    /// Waits for a predecessor's state.
    pub fn adopt(self) -> Adopting<Waiting> {
        Adopting(Waiting)
    }

    /// Waits for the state of the owner that has started this process.
    pub fn answer(self) -> Adopting<Called> {
        Adopting(Called)
    }

    /// Gives up.
    pub fn end(self) -> Ended {
        Ended(())
    }
}

impl Adopting<Called> {
    /// Asks the owner, which holds the lock.
    pub fn ask(self) -> Adopting<Asking<Theirs>> {
        Adopting(Asking(Theirs))
    }

    /// Has acquired the lock, which the owner does not hold.
    pub fn lock(self) -> Adopting<Asking<Ours>> {
        Adopting(Asking(Ours))
    }
}

impl Adopting<Waiting> {
    /// Asks the predecessor, because another process holds the lock.
    pub fn ask(self) -> Adopting<Asking<Theirs>> {
        Adopting(Asking(Theirs))
    }

    /// Has acquired the lock.
    pub fn lock(self) -> Adopting<Asking<Ours>> {
        Adopting(Asking(Ours))
    }
}

impl Adopting<Asking<Theirs>> {
    /// Has acquired the lock, because its holder died or stopped.
    pub fn lock(self) -> Adopting<Asking<Ours>> {
        Adopting(Asking(Ours))
    }
}

impl Adopting<Asking<Ours>> {
    /// Becomes the owner without a commit, because no other process is the owner or can become it.
    pub fn serve(self) -> Serving {
        Serving(())
    }
}

impl<Holder> Adopting<Asking<Holder>> {
    /// Has the whole state.
    pub fn prepare(self) -> Adopting<Prepared<Holder>> {
        Adopting(Prepared(self.0.0))
    }
}

impl<Holder> Adopting<Prepared<Holder>> {
    /// Becomes the owner: the predecessor committed or died, and a copy of its lock is here.
    pub fn serve(self) -> Serving {
        Serving(())
    }

    /// Asks again, because the predecessor withdrew its offer.
    pub fn ask_again(self) -> Adopting<Asking<Holder>> {
        Adopting(Asking(self.0.0))
    }
}

impl<Stage> Adopting<Stage> {
    /// Gives up; the predecessor stays the owner.
    pub fn end(self) -> Ended {
        Ended(())
    }
}

impl Serving {
    /// Begins to hand over.
    pub fn freeze(self) -> Draining<Freezing> {
        Draining(Freezing)
    }

    /// Stops without a successor.
    pub fn end(self) -> Ended {
        Ended(())
    }
}

impl Draining<Freezing> {
    /// Offers the state, because nothing changes it any more.
    pub fn offer(self) -> Draining<Offered> {
        Draining(Offered)
    }
}

impl Draining<Offered> {
    /// Transfers ownership to the successor, which is prepared.
    pub fn commit(self) -> Draining<Committed> {
        Draining(Committed)
    }

    /// Serves again, because the successor does not take the state.
    pub fn serve(self) -> Serving {
        Serving(())
    }
}

impl Draining<Committed> {
    /// Becomes the owner again: the successor died, and this process still holds the lock.
    pub fn serve(self) -> Serving {
        Serving(())
    }
}

impl<Stage> Draining<Stage> {
    /// Leaves: the successor has the state, or the process was told to stop.
    pub fn end(self) -> Ended {
        Ended(())
    }
}

/// The name of a phase, as the log and `status` show it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Phase {
    /// See [`Booting`].
    Booting,
    /// See [`Adopting`].
    Adopting,
    /// See [`Serving`].
    Serving,
    /// See [`Draining`].
    Draining,
    /// See [`Ended`].
    Ended,
}

impl Phase {
    /// Every phase, in the order in which a process passes through them.
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

    #[test]
    fn phases_have_the_names_of_the_protocol() {
        let names = Phase::ALL.map(Phase::name);
        assert_eq!(names, ["booting", "adopting", "serving", "draining", "ended"]);
        assert!(Phase::ALL.iter().enumerate().all(|(at, phase)| *phase as usize == at));
    }
}
