// SPDX-License-Identifier: Apache-2.0
//! Schedule of the ticks: absolute deadlines, one period apart.
//!
//! A timer that is set again after each tick drifts, and loses ticks while the process is stopped.
//! PID 1 stops every process around the switch of root. A schedule knows the deadline of each tick;
//! the caller asks at any time which ticks are due. Never reads a clock.
//!
//! **Invariant:** [`Schedule::due`] returns the deadlines in order, each once and none missing, at
//! whatever times it is called.
//!
//! **Invariant:** once all due ticks are taken, the next deadline is at most one period ahead.

use core::fmt;
use core::num::NonZeroU64;

/// A point in time on `CLOCK_MONOTONIC`, in nanoseconds (`clock_gettime(2)`).
///
/// Both stages of a boot share this clock, so a deadline means the same in both. The clock stops
/// while the machine is suspended, and so do the ticks. The range is 584 years from boot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Monotonic(u64);

impl Monotonic {
    /// The point `nanoseconds` after the clock's zero.
    #[must_use]
    pub const fn from_nanos(nanoseconds: u64) -> Self {
        Self(nanoseconds)
    }

    /// Nanoseconds since the clock's zero.
    #[must_use]
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// The point `nanoseconds` later, or the last one of the clock.
    #[must_use]
    pub const fn after_nanos(self, nanoseconds: u64) -> Self {
        Self(self.0.saturating_add(nanoseconds))
    }

    const fn after(self, period: Period) -> Self {
        self.after_nanos(period.as_nanos())
    }

    /// Nanoseconds since `earlier`; 0 if `earlier` is later.
    #[must_use]
    pub const fn nanos_since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

/// The time between two ticks: at least [`Period::SHORTEST`], at most [`Period::LONGEST`].
///
/// A period from a file or a line has these bounds too, so at most one tick is due for each
/// millisecond since the deadline.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Period(NonZeroU64);

/// One millisecond in nanoseconds.
const MILLISECOND: u64 = 1_000_000;

impl Period {
    /// The shortest period in nanoseconds: one millisecond.
    pub const SHORTEST: u64 = MILLISECOND;

    /// The longest period in nanoseconds: 4,294,967,295 milliseconds (49 days).
    #[allow(clippy::as_conversions, reason = "u64::from is not const")]
    pub const LONGEST: u64 = (u32::MAX as u64).saturating_mul(MILLISECOND);

    /// A period of `milliseconds`, 1 to 4,294,967,295 (49 days); `None` for 0.
    #[must_use]
    pub fn from_millis(milliseconds: u32) -> Option<Self> {
        Self::from_nanos(u64::from(milliseconds).saturating_mul(MILLISECOND))
    }

    /// A period of `nanoseconds`; `None` outside of [`Period::SHORTEST`] to [`Period::LONGEST`].
    #[must_use]
    pub fn from_nanos(nanoseconds: u64) -> Option<Self> {
        let is_within = (Self::SHORTEST..=Self::LONGEST).contains(&nanoseconds);
        NonZeroU64::new(nanoseconds).filter(|_| is_within).map(Self)
    }

    /// The period in nanoseconds.
    #[must_use]
    pub const fn as_nanos(self) -> u64 {
        self.0.get()
    }
}

impl fmt::Display for Period {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nanoseconds = self.as_nanos();
        match nanoseconds.checked_rem(MILLISECOND) {
            Some(0) => write!(f, "{} ms", nanoseconds / MILLISECOND),
            _ => write!(f, "{nanoseconds} ns"),
        }
    }
}

/// The deadlines of the ticks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Schedule {
    deadline: Monotonic,
    /// The ticks that were missed before this schedule was resumed, until they are taken.
    missed: Option<Missed>,
    period: Period,
}

/// Ticks that were due before a schedule was resumed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Missed {
    /// The time between two of them.
    period: Period,
    /// When the schedule was resumed. Ticks with a later deadline were not missed.
    until: Monotonic,
}

impl Schedule {
    /// A schedule whose first tick is due one period after `now`.
    #[must_use]
    pub const fn starting(now: Monotonic, period: Period) -> Self {
        Self { deadline: now.after(period), missed: None, period }
    }

    /// A schedule that continues at `deadline`.
    ///
    /// Ticks that are due at `now` were missed and are `until_now` apart. Later ticks are `period`
    /// apart, the first of them at its old deadline or one `period` after `now`, whichever is
    /// earlier.
    #[must_use]
    pub fn resuming(
        deadline: Monotonic,
        until_now: Period,
        now: Monotonic,
        period: Period,
    ) -> Self {
        if deadline <= now {
            let missed = Some(Missed { period: until_now, until: now });
            return Self { deadline, missed, period };
        }
        Self { deadline: deadline.min(now.after(period)), missed: None, period }
    }

    /// The time between two ticks now.
    #[must_use]
    pub const fn period(&self) -> Period {
        match self.missed {
            Some(missed) => missed.period,
            None => self.period,
        }
    }

    /// How many ticks are due at `now`.
    #[must_use]
    pub fn count_due(&self, now: Monotonic) -> u64 {
        let mut schedule = *self;
        let missed = schedule.skip(now, u64::MAX);
        // The first call stops after the missed ticks, where the period changes.
        missed.saturating_add(schedule.skip(now, u64::MAX))
    }

    /// When the next tick is due.
    #[must_use]
    pub const fn deadline(&self) -> Monotonic {
        self.deadline
    }

    /// Takes one tick that is due at `now` and returns its deadline; `None` if none is due.
    pub fn due(&mut self, now: Monotonic) -> Option<Monotonic> {
        let deadline = self.deadline;
        (self.skip(now, 1) > 0).then_some(deadline)
    }

    /// Takes up to `at_most` ticks that are due at `now` and have the same period, missed ticks
    /// first. Returns their number, 0 once no tick is due. Takes constant time.
    pub fn skip(&mut self, now: Monotonic, at_most: u64) -> u64 {
        let last = self.missed.map_or(now, |missed| missed.until.min(now));
        if last < self.deadline {
            return 0;
        }
        let period = self.period().0;
        let due = (last.nanos_since(self.deadline) / period).saturating_add(1);
        // No tick is due at or after the clock's last point.
        let left = Monotonic(u64::MAX).nanos_since(self.deadline) / period;
        let count = due.min(left).min(at_most);
        let passed = count.saturating_mul(period.get());
        self.deadline = Monotonic(self.deadline.0.saturating_add(passed));
        // The new period applies after the last missed tick.
        if let Some(until) = self.missed.map(|missed| missed.until) {
            if until < self.deadline {
                self.missed = None;
                self.deadline = self.deadline.min(until.after(self.period));
            }
        }
        count
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;

    const MS: u64 = 1_000_000;

    fn at(ms: u64) -> Monotonic {
        Monotonic::from_nanos(ms * MS)
    }

    fn every_100_ms_from(ms: u64) -> Schedule {
        Schedule::starting(at(ms), Period::from_millis(100).expect("100 is not 0"))
    }

    fn take_all(schedule: &mut Schedule, now: Monotonic) -> Vec<u64> {
        core::iter::from_fn(|| schedule.due(now)).map(|d| d.as_nanos() / MS).collect()
    }

    #[test]
    fn the_first_tick_is_due_one_period_after_the_start() {
        let mut schedule = every_100_ms_from(7);
        assert_eq!(take_all(&mut schedule, at(106)), []);
        assert_eq!(take_all(&mut schedule, at(107)), [107]);
        assert_eq!(take_all(&mut schedule, at(107)), []);
    }

    #[test]
    fn a_late_call_does_not_shift_later_deadlines() {
        let mut schedule = every_100_ms_from(0);
        assert_eq!(take_all(&mut schedule, at(199)), [100]);
        assert_eq!(take_all(&mut schedule, at(200)), [200]);
        assert_eq!(schedule.deadline(), at(300));
    }

    #[test]
    fn each_missed_tick_is_returned_once() {
        let mut schedule = every_100_ms_from(0);
        assert_eq!(take_all(&mut schedule, at(350)), [100, 200, 300]);
        assert_eq!(take_all(&mut schedule, at(350)), []);
    }

    #[test]
    fn an_hour_has_36_000_ticks_at_irregular_calls() {
        let mut schedule = every_100_ms_from(0);
        let (mut now, mut taken, mut step) = (0_u64, 0, 1_u64);
        while now < 3_600_000 {
            step = (step * 7919 + 13) % 263 + 1;
            now = (now + step).min(3_600_000);
            taken += take_all(&mut schedule, at(now)).len();
        }
        assert_eq!(taken, 36_000);
    }

    #[test]
    fn a_resumed_schedule_counts_missed_ticks_without_a_shift() {
        let period = |ms| Period::from_millis(ms).expect("not zero");
        let mut same = Schedule::resuming(at(200), period(100), at(450), period(100));
        assert_eq!(same.count_due(at(450)), 3);
        assert_eq!(take_all(&mut same, at(450)), [200, 300, 400]);
        assert_eq!((same.count_due(at(499)), same.count_due(at(500))), (0, 1));

        let mut faster = Schedule::resuming(at(200), period(100), at(450), period(10));
        assert_eq!(take_all(&mut faster, at(450)), [200, 300, 400]);
        assert_eq!(take_all(&mut faster, at(485)), [460, 470, 480]);

        let mut not_yet_due = Schedule::resuming(at(200), period(100), at(195), period(10));
        assert_eq!(take_all(&mut not_yet_due, at(215)), [200, 210]);
    }

    #[test]
    fn another_period_applies_at_once_and_without_a_burst() {
        let period = |ms| Period::from_millis(ms).expect("not zero");
        let resuming = |deadline, old, now, new| {
            Schedule::resuming(at(deadline), period(old), at(now), period(new))
        };
        // From one hour to 100 ms: nothing is due, and the first tick is one new period from now.
        let mut corrected = resuming(3_600_000, 3_600_000, 500, 100);
        assert_eq!(corrected.period(), period(100));
        assert_eq!(take_all(&mut corrected, at(850)), [600, 700, 800]);
        // The same with one tick due: it is taken once, and the time since then adds no others.
        let mut missed = resuming(3_600_000, 3_600_000, 5_000_000, 100);
        assert_eq!(missed.count_due(at(5_000_000)), 1);
        assert_eq!(missed.count_due(at(5_000_250)), 3);
        assert_eq!(take_all(&mut missed, at(5_000_250)), [3_600_000, 5_000_100, 5_000_200]);
        // A longer period: the next tick keeps its deadline, the second one uses the new period.
        let mut longer = resuming(200, 100, 150, 3_600_000);
        assert_eq!(take_all(&mut longer, at(4_000_000)), [200, 3_600_200]);
        // Ticks that become due while missed ones are taken have the new period.
        let mut slowly = resuming(100, 1, 103, 1000);
        assert_eq!(slowly.due(at(103)), Some(at(100)));
        assert_eq!(take_all(&mut slowly, at(2000)), [101, 102, 103, 104, 1104]);
    }

    #[test]
    fn the_next_deadline_is_at_most_one_period_ahead() {
        let periods = [1, 2, 7, 100, 1000, 3_600_000].map(Period::from_millis);
        let periods = periods.map(|period| period.expect("not zero"));
        for (old, new) in periods.into_iter().flat_map(|old| periods.map(|new| (old, new))) {
            for deadline in [0, 1, 90, 100, 101, 110, 4_000_000] {
                let mut schedule = Schedule::resuming(at(deadline), old, at(100), new);
                let due = schedule.count_due(at(100));
                assert_eq!(take_all(&mut schedule, at(100)).len() as u64, due);
                let ahead = schedule.deadline().nanos_since(at(100));
                assert!(ahead > 0 && ahead <= new.as_nanos(), "{ahead} ns, {schedule:?}");
                assert_eq!(schedule.period(), new);
            }
        }
    }

    #[test]
    fn skipping_takes_the_same_ticks_as_taking_them_one_by_one() {
        let period = |ms| Period::from_millis(ms).expect("not zero");
        let one_by_one = Schedule::resuming(at(200), period(100), at(1000), period(10));
        for at_most in [1, 2, 3, 8, 9, 10, 1000, u64::MAX] {
            for now in [199, 200, 999, 1000, 1009, 1010, 1050] {
                let (mut skipping, mut taking) = (one_by_one, one_by_one);
                let skipped = skipping.skip(at(now), at_most);
                let taken = core::iter::from_fn(|| taking.due(at(now)));
                let count = taken.take(usize::try_from(skipped).expect("few")).count();
                assert_eq!(u64::try_from(count), Ok(skipped), "{at_most} at {now}");
                assert_eq!(skipping, taking, "{at_most} at {now}");
                assert!(skipped <= at_most && (skipped > 0 || now < 200), "{at_most} at {now}");
            }
        }
        // Two months at 1 ms, at once.
        let mut schedule = every_100_ms_from(0);
        assert_eq!(schedule.skip(at(5_184_000_000), u64::MAX), 51_840_000);
        assert_eq!(schedule.deadline(), at(5_184_000_100));
    }

    #[test]
    fn the_last_point_of_the_clock_ends_the_ticks() {
        let mut schedule = every_100_ms_from((u64::MAX - 1) / MS);
        assert_eq!(schedule.count_due(Monotonic::from_nanos(u64::MAX)), 0);
        assert_eq!(schedule.due(Monotonic::from_nanos(u64::MAX)), None);
    }

    #[test]
    fn a_period_is_within_its_bounds() {
        assert_eq!(Period::from_millis(0), None);
        assert_eq!(Period::from_millis(u32::MAX).map(Period::as_nanos), Some(4_294_967_295 * MS));
        for (nanoseconds, text) in [
            (0, None),
            (1, None),
            (MS - 1, None),
            (MS, Some("1 ms")),
            (MS + 1, Some("1000001 ns")),
            (4_294_967_295 * MS, Some("4294967295 ms")),
            (4_294_967_295 * MS + 1, None),
            (u64::MAX, None),
        ] {
            let period = Period::from_nanos(nanoseconds);
            let shown = period.map(|period| std::string::ToString::to_string(&period));
            assert_eq!(shown.as_deref(), text, "{nanoseconds}");
        }
    }
}
