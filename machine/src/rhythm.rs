// SPDX-License-Identifier: Apache-2.0
//! Rhythm: a state that runs, and what a successor needs to run on.
//!
//! **Invariant:** a state leaves [`Running::tick`] once for each deadline; between two ticks only a
//! command changes it.

use core::fmt;

use crate::fields::{Fields, Lacking};
use crate::schedule::{Monotonic, Period, Schedule};
use crate::state::State;

/// A state at one instant, with its rhythm: what goes into the state file and over the wire.
///
/// Its text form is fields: `counter=137 deadline_ns=… period_ns=…`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Snapshot<S> {
    /// The state.
    pub state: S,
    /// When the next tick is due.
    pub deadline: Monotonic,
    /// The time between two ticks up to now.
    pub period: Period,
}

impl<S: State> Snapshot<S> {
    /// Reads a snapshot out of its fields.
    ///
    /// # Errors
    ///
    /// Names the field that is missing or wrong.
    pub fn read(fields: Fields<'_>) -> Result<Self, Lacking> {
        Ok(Self {
            state: S::read(fields)?,
            deadline: Monotonic::from_nanos(fields.number("deadline_ns")?),
            period: Period::from_nanos(fields.number("period_ns")?).ok_or(Lacking("period_ns"))?,
        })
    }
}

impl<S: State> fmt::Display for Snapshot<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.state.write_fields(f)?;
        let (deadline, period) = (self.deadline.as_nanos(), self.period.as_nanos());
        write!(f, " deadline_ns={deadline} period_ns={period}")
    }
}

/// One tick.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Tick<S> {
    /// The state to log: as it was before the tick.
    pub state: S,
    /// When it was due.
    pub deadline: Monotonic,
}

/// A state that runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Running<S> {
    state: S,
    schedule: Schedule,
    late: u64,
}

impl<S: State> Running<S> {
    /// Goes on from `state`; the first tick is due one period after `now`.
    #[must_use]
    pub const fn starting(state: S, now: Monotonic, period: Period) -> Self {
        Self { state, schedule: Schedule::starting(now, period), late: 0 }
    }

    /// Goes on where the owner of `snapshot` was, with every deadline where it would have been.
    ///
    /// The ticks that are due at `now` come at the snapshot's period, those that follow at ours.
    #[must_use]
    pub const fn resuming(snapshot: Snapshot<S>, now: Monotonic, period: Period) -> Self {
        let Snapshot { state, deadline, period: until_now } = snapshot;
        Self { state, schedule: Schedule::resuming(deadline, until_now, now, period), late: 0 }
    }

    /// Takes one tick that is due at `now`; `None` when all are taken.
    pub fn tick(&mut self, now: Monotonic) -> Option<Tick<S>> {
        let deadline = self.schedule.due(now)?;
        if self.schedule.is_late(deadline, now) {
            self.late = self.late.saturating_add(1);
        }
        let state = self.state;
        self.state.tick();
        Some(Tick { state, deadline })
    }

    /// Carries out one command.
    pub fn apply(&mut self, command: S::Command) -> S::Reply {
        self.state.apply(command)
    }

    /// The state as it is now.
    #[must_use]
    pub const fn state(&self) -> S {
        self.state
    }

    /// What a successor needs to go on from here.
    #[must_use]
    pub const fn snapshot(&self) -> Snapshot<S> {
        let (deadline, period) = (self.schedule.deadline(), self.schedule.period());
        Snapshot { state: self.state, deadline, period }
    }

    /// How many ticks are due at `now`.
    #[must_use]
    pub fn due(&self, now: Monotonic) -> u64 {
        self.schedule.count_due(now)
    }

    /// When the next tick is due.
    #[must_use]
    pub const fn deadline(&self) -> Monotonic {
        self.schedule.deadline()
    }

    /// How many ticks came so late that their successor was due already.
    #[must_use]
    pub const fn late(&self) -> u64 {
        self.late
    }
}

/// The state's part of a status line: `counter=137 ticks_late=0`.
impl<S: State> fmt::Display for Running<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.state.write_fields(f)?;
        write!(f, "{TICKS_LATE}{}", self.late)
    }
}

/// Precedes the count of late ticks in a status line.
const TICKS_LATE: &str = " ticks_late=";

/// The longest text form of a [`Running`] state, in bytes without the state's fields.
pub const MAX_STATUS: usize = TICKS_LATE.len() + 20;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::counter::Counter;
    use std::format;
    use std::vec::Vec;

    fn at(ms: u64) -> Monotonic {
        Monotonic::from_nanos(ms * 1_000_000)
    }

    fn counter_from(next: u64) -> Running<Counter> {
        let period = Period::from_millis(100).expect("100 is not 0");
        Running::starting(Counter { next }, at(0), period)
    }

    #[test]
    fn ticks_count_on_from_the_state_and_keep_their_deadlines() {
        let mut counter = counter_from(137);
        let ticks: Vec<_> = core::iter::from_fn(|| counter.tick(at(250))).collect();
        let expected = [
            Tick { state: Counter { next: 137 }, deadline: at(100) },
            Tick { state: Counter { next: 138 }, deadline: at(200) },
        ];
        assert_eq!(ticks, expected);
        assert_eq!(counter.state(), Counter { next: 139 });
        assert_eq!(format!("{counter}"), "counter=139 ticks_late=1");
    }

    #[test]
    fn a_counter_resumes_with_every_tick_that_the_clock_implies() {
        let mut first = counter_from(137);
        assert_eq!(first.tick(at(120)).map(|tick| tick.state.next), Some(137));
        let period = Period::from_millis(100).expect("not zero");
        let mut second = Running::resuming(first.snapshot(), at(420), period);
        assert_eq!(second.due(at(420)), 3);
        let ticks: Vec<_> = core::iter::from_fn(|| second.tick(at(420))).collect();
        let expected = [(138, 200), (139, 300), (140, 400)]
            .map(|(number, ms)| Tick { state: Counter { next: number }, deadline: at(ms) });
        assert_eq!(ticks, expected);
        assert_eq!(second.deadline(), at(500));
    }

    #[test]
    fn a_snapshot_reads_as_it_was_written() {
        let counter = counter_from(137);
        let text = format!("{}", counter.snapshot());
        assert_eq!(text, "counter=137 deadline_ns=100000000 period_ns=100000000");
        assert_eq!(Snapshot::read(Fields::new(text.as_bytes())), Ok(counter.snapshot()));
    }
}
