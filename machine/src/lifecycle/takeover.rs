// SPDX-License-Identifier: Apache-2.0
//! Take-over: with which state a new owner continues, and when its first tick is due.
//!
//! Responsible for the choice between a new state, the predecessor's state, and the state file's.
//! The daemon, the model and the fuzz targets call these functions at the same point: when the
//! process has the lock and no other process can write the file.
//!
//! | received | in the state file | continues with | origin |
//! | --- | --- | --- | --- |
//! | nothing | nothing | a new state | new |
//! | nothing | a record | the record | recovered |
//! | a value, from a legacy program | anything | the value, from now on | adopted |
//! | a snapshot, committed | anything | the snapshot | adopted |
//! | a snapshot, not committed | nothing, or an older record | the snapshot | adopted |
//! | a snapshot, not committed | a record that is as late or later | the record | recovered |
//!
//! A predecessor that did not commit was the owner until it died. It may have withdrawn its offer,
//! ticked again and written the file, so the later of the two states is valid. A predecessor that
//! committed has written nothing since its offer, and its file may lack the last changes (a full
//! disk).
//!
//! An owner that withdraws its offer, before or after the commit:
//!
//! | in the state file | continues with |
//! | --- | --- |
//! | nothing, or its own last record | the state that it froze |
//! | a record that the successor wrote later | the record: the successor was the owner, and died |
//!
//! Never reads a clock or a file.

use crate::record::{Record, Unlogged};
use crate::state::State;
use crate::timeline::Snapshot;

/// A state received from another process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Received<S> {
    /// The value alone, from a legacy program.
    Value(S),
    /// The state with its deadline.
    Snapshot(Snapshot<S>),
}

impl<S: Copy> Received<S> {
    /// The state without its deadline.
    pub const fn state(&self) -> S {
        match self {
            Self::Value(state) | Self::Snapshot(Snapshot { state, .. }) => *state,
        }
    }
}

/// How the ticks begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start<S> {
    /// With a state that has no deadline: the first tick is due one period from now.
    Anew(S),
    /// Where a living owner stopped. That owner may still log its last ticks.
    After {
        /// The state and its deadline.
        snapshot: Snapshot<S>,
        /// The owner's last ticks that are not known to be in the log.
        unlogged: Unlogged,
    },
    /// Where an owner died.
    AfterDeath {
        /// The state and its deadline.
        snapshot: Snapshot<S>,
        /// The owner's last ticks that are not known to be in the log.
        unlogged: Unlogged,
    },
}

impl<S: Copy> Start<S> {
    /// The state without its deadline.
    pub const fn state(&self) -> S {
        match self {
            Self::Anew(state) => *state,
            Self::After { snapshot, .. } | Self::AfterDeath { snapshot, .. } => snapshot.state,
        }
    }
}

/// The source of an owner's state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Origin {
    /// None: it is a new state.
    New,
    /// A predecessor that handed it over.
    Adopted,
    /// The state file of an owner that died or stopped.
    Recovered,
}

/// The state with which a new owner continues.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Takeover<S> {
    /// How its ticks begin.
    pub start: Start<S>,
    /// The source of its state.
    pub origin: Origin,
}

/// Chooses for a process that becomes the owner for the first time.
///
/// `recorded` is the record of this boot in the state file. `is_committed` is whether the
/// predecessor has given up ownership.
#[must_use]
pub fn take_over<S: State>(
    recorded: Option<Record<S>>,
    received: Option<Received<S>>,
    is_committed: bool,
) -> Takeover<S> {
    let died = |Record { snapshot, unlogged, .. }| Takeover {
        start: Start::AfterDeath { snapshot, unlogged },
        origin: Origin::Recovered,
    };
    match (recorded, received) {
        (None, None) => Takeover { start: Start::Anew(S::default()), origin: Origin::New },
        (Some(record), None) => died(record),
        (_, Some(Received::Value(state))) => {
            Takeover { start: Start::Anew(state), origin: Origin::Adopted }
        }
        (Some(record), Some(Received::Snapshot(snapshot)))
            if !is_committed && record.snapshot.deadline >= snapshot.deadline =>
        {
            died(record)
        }
        (recorded, Some(Received::Snapshot(snapshot))) => {
            // The record describes the log only if it was written with this state.
            let same = recorded.filter(|record| record.snapshot == snapshot);
            let unlogged = same.map_or(Unlogged::default(), |record| record.unlogged);
            Takeover { start: Start::After { snapshot, unlogged }, origin: Origin::Adopted }
        }
    }
}

/// Chooses for an owner whose successor did not adopt `frozen`.
///
/// `written` is the record in the state file if another process wrote it after this owner's last
/// one.
#[must_use]
pub fn take_back<S: State>(written: Option<Record<S>>, frozen: Snapshot<S>) -> Start<S> {
    match written {
        Some(Record { snapshot, unlogged, .. }) => Start::AfterDeath { snapshot, unlogged },
        None => Start::After { snapshot: frozen, unlogged: Unlogged::default() },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::counter::Counter;
    use crate::schedule::{Monotonic, Period};

    fn snapshot(next: u64) -> Snapshot<Counter> {
        let period = Period::from_millis(100).expect("not zero");
        Snapshot { state: Counter { next }, deadline: Monotonic::from_nanos(next), period }
    }

    fn record(next: u64) -> Record<Counter> {
        Record {
            sequence: 7,
            unlogged: Unlogged { ticks: 2, unbroken: 1 },
            realtime: None,
            snapshot: snapshot(next),
        }
    }

    const NONE: Unlogged = Unlogged { ticks: 0, unbroken: 0 };
    const TWO: Unlogged = Unlogged { ticks: 2, unbroken: 1 };

    fn after(next: u64, unlogged: Unlogged) -> Start<Counter> {
        Start::After { snapshot: snapshot(next), unlogged }
    }

    fn died(next: u64) -> Start<Counter> {
        Start::AfterDeath { snapshot: snapshot(next), unlogged: TWO }
    }

    #[test]
    fn a_new_owner_goes_on_as_the_table_says() {
        let (value, whole) =
            (Received::Value(Counter { next: 5 }), |next| Received::Snapshot(snapshot(next)));
        for (recorded, received, is_committed, start, origin) in [
            (None, None, false, Start::Anew(Counter { next: 0 }), Origin::New),
            (Some(8), None, false, died(8), Origin::Recovered),
            (None, Some(value), false, Start::Anew(Counter { next: 5 }), Origin::Adopted),
            (Some(8), Some(value), false, Start::Anew(Counter { next: 5 }), Origin::Adopted),
            (None, Some(whole(8)), true, after(8, NONE), Origin::Adopted),
            (Some(8), Some(whole(8)), true, after(8, TWO), Origin::Adopted),
            (Some(7), Some(whole(8)), true, after(8, NONE), Origin::Adopted),
            (Some(9), Some(whole(8)), true, after(8, NONE), Origin::Adopted),
            (None, Some(whole(8)), false, after(8, NONE), Origin::Adopted),
            (Some(7), Some(whole(8)), false, after(8, NONE), Origin::Adopted),
            (Some(8), Some(whole(8)), false, died(8), Origin::Recovered),
            (Some(9), Some(whole(8)), false, died(9), Origin::Recovered),
        ] {
            let chosen = take_over(recorded.map(record), received, is_committed);
            let case = (recorded, received, is_committed);
            assert_eq!(chosen, Takeover { start, origin }, "{case:?}");
        }
    }

    #[test]
    fn an_offer_that_is_taken_back_goes_on_with_the_last_owners_state() {
        assert_eq!(take_back(None, snapshot(8)), after(8, NONE));
        assert_eq!(take_back(Some(record(9)), snapshot(8)), died(9));
    }
}
