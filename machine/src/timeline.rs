// SPDX-License-Identifier: Apache-2.0
//! Timeline: a state that ticks, and its snapshot for the next owner.
//!
//! Responsible for the snapshot, its text form and its checks, and for the count of late ticks.
//! Never reads a clock.
//!
//! **Invariant:** [`Ticking::tick`] returns a state once for each deadline. Between two ticks only
//! a command changes the state.

use core::fmt;

use crate::bounds::MAX_STATUS_FIELDS;
use crate::contract;
use crate::schedule::{Monotonic, Period, Schedule};
use crate::state::State;
use crate::wire::fields::{Fields, MissingField, UnknownKey};
use crate::wire::service::{OtherService, ServiceField};

/// A state at one instant with its deadline, as the state file and a handoff contain it.
///
/// Its text form consists of fields: `counter=137 deadline_ns=… period_ns=…`, and the name of the
/// service if it is not [`DEFAULT`](crate::wire::service::DEFAULT).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Snapshot<S> {
    /// The state.
    pub state: S,
    /// When the next tick is due.
    pub deadline: Monotonic,
    /// The time between two ticks until now.
    pub period: Period,
}

/// A field that is missing, malformed, unknown, or has a value that no owner can have written.
///
/// Its text form names the field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FieldError {
    /// A field is missing or malformed.
    MissingField(MissingField),
    /// A newer release has added a key that must be understood.
    UnknownKey(UnknownKey),
    /// The state is of another service.
    Service(OtherService),
    /// `period_ns`, in nanoseconds, is not within [`Period::SHORTEST`] to [`Period::LONGEST`].
    Period(u64),
    /// `deadline_ns` is this many nanoseconds ahead, more than the period.
    Deadline(u64, Period),
}

impl From<MissingField> for FieldError {
    fn from(missing: MissingField) -> Self {
        Self::MissingField(missing)
    }
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::MissingField(missing) => missing.fmt(f),
            Self::UnknownKey(key) => key.fmt(f),
            Self::Service(other) => write!(f, "its state is of {other}"),
            Self::Period(nanoseconds) => write!(
                f,
                "a period_ns of {nanoseconds}, which is not within {} to {}",
                Period::SHORTEST,
                Period::LONGEST
            ),
            Self::Deadline(ahead, period) => {
                write!(
                    f,
                    "a deadline_ns {ahead} ns ahead, which is more than one period ({period})"
                )
            }
        }
    }
}

impl<S: State> Snapshot<S> {
    /// Reads a snapshot from its fields. The deadline has to be checked with
    /// [`check`](Self::check).
    ///
    /// # Errors
    ///
    /// Returns which field is missing or invalid, or that the state is of another service.
    pub fn read(fields: Fields<'_>) -> Result<Self, FieldError> {
        if let Some(other) = OtherService::find_in::<S>(fields) {
            return Err(FieldError::Service(other));
        }
        if let Some(key) = fields.unknown_key() {
            return Err(FieldError::UnknownKey(UnknownKey::new(key)));
        }
        let (state, deadline) = (S::read(fields)?, fields.number("deadline_ns")?);
        let period = fields.number("period_ns")?;
        Ok(Self {
            state,
            deadline: Monotonic::from_nanos(deadline),
            period: Period::from_nanos(period).ok_or(FieldError::Period(period))?,
        })
    }

    /// Checks that an owner can have written this by `now`.
    ///
    /// The deadline may have passed long ago, because the owner may have died then. A deadline more
    /// than one period ahead was written by no owner, or in another time namespace
    /// (time_namespaces(7)). Waiting for it could take forever.
    ///
    /// # Errors
    ///
    /// Returns how far ahead the deadline is.
    pub const fn check(&self, now: Monotonic) -> Result<(), FieldError> {
        let ahead = self.deadline.nanos_since(now);
        if ahead > self.period.as_nanos() {
            return Err(FieldError::Deadline(ahead, self.period));
        }
        Ok(())
    }
}

impl<S: State> fmt::Display for Snapshot<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        contract::hold(&self.state);
        self.state.write_fields(f)?;
        let (deadline, period) = (self.deadline.as_nanos(), self.period.as_nanos());
        write!(f, " deadline_ns={deadline} period_ns={period}{}", ServiceField(S::NAME))
    }
}

/// One tick.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Tick<S> {
    /// The state to log, as it was before the tick.
    pub state: S,
    /// When the tick was due.
    pub deadline: Monotonic,
}

/// A state that ticks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Ticking<S> {
    state: S,
    schedule: Schedule,
    late: u64,
}

impl<S: State> Ticking<S> {
    /// Begins with `state`; the first tick is due one period after `now`.
    #[must_use]
    pub const fn starting(state: S, now: Monotonic, period: Period) -> Self {
        Self { state, schedule: Schedule::starting(now, period), late: 0 }
    }

    /// Continues from `snapshot` without a shift of its deadlines.
    ///
    /// Ticks that are due at `now` have the period of the snapshot; later ones have `period`, the
    /// first of them at most one `period` after `now`.
    #[must_use]
    pub fn resuming(snapshot: Snapshot<S>, now: Monotonic, period: Period) -> Self {
        let Snapshot { state, deadline, period: until_now } = snapshot;
        Self { state, schedule: Schedule::resuming(deadline, until_now, now, period), late: 0 }
    }

    /// Takes one tick that is due at `now`; `None` if there is none.
    pub fn tick(&mut self, now: Monotonic) -> Option<Tick<S>> {
        let deadline = self.schedule.due(now)?;
        self.count_late(1, now);
        let state = self.state;
        self.state.tick();
        Some(Tick { state, deadline })
    }

    /// Takes up to `at_most` ticks that are due at `now` and have the same period. Returns their
    /// number, 0 if none is due. Takes constant time if the state supports [`State::tick_many`].
    pub fn skip(&mut self, now: Monotonic, at_most: u64) -> u64 {
        let count = self.schedule.skip(now, at_most);
        self.count_late(count, now);
        if !self.state.tick_many(count) {
            for _ in 0..count {
                self.state.tick();
            }
        }
        count
    }

    /// Counts the late ones of the last `count` ticks. A tick is late if the next one is due as
    /// well.
    fn count_late(&mut self, count: u64, now: Monotonic) {
        let in_time = u64::from(now < self.schedule.deadline());
        self.late = self.late.saturating_add(count.saturating_sub(in_time));
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

    /// The snapshot for the next owner.
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

    /// How many ticks were taken when the next one was already due.
    #[must_use]
    pub const fn late(&self) -> u64 {
        self.late
    }
}

/// The state's part of a status line: `counter=137 ticks_late=0`. The fields of a large state are
/// left out, because they do not fit a session's buffer.
impl<S: State> fmt::Display for Ticking<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if S::MAX_FIELDS <= MAX_STATUS_FIELDS {
            self.state.write_fields(f)?;
            f.write_str(" ")?;
        }
        write!(f, "ticks_late={}", self.late)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::counter::Counter;
    use std::format;
    use std::vec::Vec;

    fn at(ms: u64) -> Monotonic {
        Monotonic::from_nanos(ms * 1_000_000)
    }

    fn counter_from(next: u64) -> Ticking<Counter> {
        let period = Period::from_millis(100).expect("100 is not 0");
        Ticking::starting(Counter { next }, at(0), period)
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
    fn a_counter_resumes_with_every_missed_tick() {
        let mut first = counter_from(137);
        assert_eq!(first.tick(at(120)).map(|tick| tick.state.next), Some(137));
        let period = Period::from_millis(100).expect("not zero");
        let mut second = Ticking::resuming(first.snapshot(), at(420), period);
        assert_eq!(second.due(at(420)), 3);
        let ticks: Vec<_> = core::iter::from_fn(|| second.tick(at(420))).collect();
        let expected = [(138, 200), (139, 300), (140, 400)]
            .map(|(number, ms)| Tick { state: Counter { next: number }, deadline: at(ms) });
        assert_eq!(ticks, expected);
        assert_eq!(second.deadline(), at(500));
    }

    /// A state without [`State::tick_many`].
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
    struct Slow(Counter);

    impl State for Slow {
        type Command = <Counter as State>::Command;
        type Reply = <Counter as State>::Reply;

        fn read(fields: Fields<'_>) -> Result<Self, MissingField> {
            Counter::read(fields).map(Self)
        }
        fn write_fields(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            self.0.write_fields(f)
        }
        fn apply(&mut self, command: Self::Command) -> Self::Reply {
            self.0.apply(command)
        }
        fn tick(&mut self) {
            self.0.tick();
        }
    }

    /// Compares `at_most` ticks at a time with one tick at a time.
    #[track_caller]
    fn assert_skips_as_it_ticks<S: State>(state: S) {
        let period = |ms| Period::from_millis(ms).expect("not zero");
        for (new, now, at_most) in [(100, 2550, 1), (100, 2550, 7), (30, 2550, 7), (1, 2600, 999)] {
            let snapshot = Snapshot { state, deadline: at(100), period: period(100) };
            let mut ticking = Ticking::resuming(snapshot, at(2540), period(new));
            let mut skipping = ticking;
            let taken = core::iter::from_fn(|| ticking.tick(at(now))).count();
            let portions = core::iter::from_fn(|| match skipping.skip(at(now), at_most) {
                0 => None,
                count => Some(count),
            });
            assert_eq!(portions.sum::<u64>(), u64::try_from(taken).expect("few"));
            assert_eq!(skipping, ticking);
        }
    }

    #[test]
    fn many_ticks_at_once_equal_the_same_ticks_one_by_one() {
        assert_skips_as_it_ticks(Counter { next: 137 });
        assert_skips_as_it_ticks(Slow(Counter { next: 137 }));
    }

    #[test]
    fn a_day_of_missed_milliseconds_is_taken_at_once() {
        let period = Period::from_millis(1).expect("not zero");
        let snapshot = Snapshot { state: Counter { next: 137 }, deadline: at(1), period };
        let mut counter = Ticking::resuming(snapshot, at(86_400_000), period);
        assert_eq!(counter.skip(at(86_400_000), u64::MAX), 86_400_000);
        assert_eq!(format!("{counter}"), "counter=86400137 ticks_late=86399999");
        assert_eq!((counter.due(at(86_400_000)), counter.deadline()), (0, at(86_400_001)));
    }

    #[test]
    fn an_impossible_snapshot_is_refused_by_its_field() {
        for (text, error) in [
            (
                "counter=5 deadline_ns=1 period_ns=18446744073709551615",
                "a period_ns of 18446744073709551615, which is not within 1000000 to \
                 4294967295000000",
            ),
            (
                "counter=5 deadline_ns=1 period_ns=0",
                "a period_ns of 0, which is not within 1000000 to 4294967295000000",
            ),
            (
                "counter=5 deadline_ns=1 period_ns=999999",
                "a period_ns of 999999, which is not within 1000000 to 4294967295000000",
            ),
            (
                "counter=5 deadline_ns=2000000001 period_ns=100000000",
                "a deadline_ns 100000001 ns ahead, which is more than one period (100 ms)",
            ),
            (
                "counter=5 deadline_ns=18446744073709551615 period_ns=4294967295000000",
                "a deadline_ns 18446744071809551615 ns ahead, which is more than one period \
                 (4294967295 ms)",
            ),
            ("counter=5 deadline_ns=18446744073709551616 period_ns=1", "no valid deadline_ns"),
            ("counter=5 deadline_ns=2000000000 period_ns=100000000", ""),
            ("counter=5 deadline_ns=0 period_ns=1000000", ""),
            ("counter=18446744073709551615 deadline_ns=0 period_ns=4294967295000000", ""),
        ] {
            let read = Snapshot::<Counter>::read(Fields::new(text.as_bytes()));
            let checked = read.and_then(|snapshot| snapshot.check(at(1900)));
            let actual = checked.err().map(|error| format!("{error}"));
            assert_eq!(actual.unwrap_or_default(), error, "{text}");
        }
    }

    #[test]
    fn the_snapshot_of_an_owner_is_always_accepted() {
        let periods = [1, 100, 3_600_000, u32::MAX].map(Period::from_millis);
        let periods = periods.map(|period| period.expect("not zero"));
        for (old, new) in periods.into_iter().flat_map(|old| periods.map(|new| (old, new))) {
            let first = Ticking::starting(Counter { next: 0 }, at(5), old).snapshot();
            assert_eq!(first.check(at(5)), Ok(()));
            for resumed in [5, 6, 105, 106, 7_200_000] {
                let mut running = Ticking::resuming(first, at(resumed), new);
                assert_eq!(running.snapshot().check(at(resumed)), Ok(()), "{old} to {new}");
                while running.skip(at(resumed), 1000) > 0 {}
                assert_eq!(running.snapshot().check(at(resumed)), Ok(()), "{old} to {new}");
            }
        }
    }

    #[test]
    fn a_snapshot_decodes_to_what_was_encoded() {
        let counter = counter_from(137);
        let text = format!("{}", counter.snapshot());
        assert_eq!(text, "counter=137 deadline_ns=100000000 period_ns=100000000");
        assert_eq!(Snapshot::read(Fields::new(text.as_bytes())), Ok(counter.snapshot()));
    }
}
