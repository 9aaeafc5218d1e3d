// SPDX-License-Identifier: Apache-2.0
//! Tick schedule: absolute deadlines, one period apart.
//!
//! A timer that is set anew after each tick drifts by what the tick took, and loses ticks while the
//! process is stopped, which PID 1 does to every process around the switch of root.
//! A schedule knows when each tick *should* happen; the caller comes as often as it can and is told
//! which ones are due.
//!
//! **Invariant:** deadlines leave [`Schedule::due`] in order, each once, none missing, whatever
//! times it is asked at.

use core::num::NonZeroU64;

/// A point in time on `CLOCK_MONOTONIC`, in nanoseconds (`clock_gettime(2)`).
///
/// Both stages of a boot share this clock, so a deadline means the same in either.
/// It stands still while the machine is suspended, and so do the ticks.
/// The range is 584 years from boot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Monotonic(u64);

impl Monotonic {
    /// The point that lies `nanoseconds` after the clock's zero.
    #[must_use]
    pub const fn from_nanos(nanoseconds: u64) -> Self {
        Self(nanoseconds)
    }

    /// Nanoseconds since the clock's zero.
    #[must_use]
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// Nanoseconds from `earlier` to here; 0 where `earlier` is the later one.
    #[must_use]
    pub const fn nanos_since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

/// The time between two ticks; never zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Period(NonZeroU64);

impl Period {
    /// A period of `milliseconds`, 1 to 4,294,967,295 (49 days); `None` for 0.
    #[must_use]
    pub fn from_millis(milliseconds: u32) -> Option<Self> {
        NonZeroU64::new(u64::from(milliseconds).saturating_mul(1_000_000)).map(Self)
    }

    /// A period of `nanoseconds`, 1 to 18,446,744,073,709,551,615; `None` for 0.
    #[must_use]
    pub fn from_nanos(nanoseconds: u64) -> Option<Self> {
        NonZeroU64::new(nanoseconds).map(Self)
    }

    /// The period in nanoseconds.
    #[must_use]
    pub const fn as_nanos(self) -> u64 {
        self.0.get()
    }
}

/// When ticks are due.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Schedule {
    deadline: Monotonic,
    /// The period of the ticks that were missed before this schedule began, until they are taken.
    missed: Option<Period>,
    period: Period,
}

impl Schedule {
    /// A schedule whose first tick is due one period after `now`.
    #[must_use]
    pub const fn starting(now: Monotonic, period: Period) -> Self {
        let deadline = Monotonic(now.0.saturating_add(period.as_nanos()));
        Self { deadline, missed: None, period }
    }

    /// A schedule that goes on at `deadline`.
    ///
    /// What is due at `now` was missed and comes at the period of `until_now`; later ticks come at
    /// `period`.
    #[must_use]
    pub const fn resuming(
        deadline: Monotonic,
        until_now: Period,
        now: Monotonic,
        period: Period,
    ) -> Self {
        let missed = if deadline.0 <= now.0 { Some(until_now) } else { None };
        Self { deadline, missed, period }
    }

    /// The time between two ticks now.
    #[must_use]
    pub const fn period(&self) -> Period {
        match self.missed {
            Some(period) => period,
            None => self.period,
        }
    }

    /// How many ticks are due at `now`, each of which [`Schedule::due`] would hand out.
    #[must_use]
    pub fn count_due(&self, now: Monotonic) -> u64 {
        if now.0 < self.deadline.0 {
            return 0;
        }
        let missed = now.nanos_since(self.deadline) / self.period().0;
        // With the end of time the ticks end, too.
        let left = Monotonic(u64::MAX).nanos_since(self.deadline) / self.period().0;
        missed.saturating_add(1).min(left)
    }

    /// When the next tick is due.
    #[must_use]
    pub const fn deadline(&self) -> Monotonic {
        self.deadline
    }

    /// Takes one tick that is due at `now`: its deadline, or `None` when all are taken.
    ///
    /// Called until it says `None`, it hands out every tick that was missed.
    pub fn due(&mut self, now: Monotonic) -> Option<Monotonic> {
        let deadline = self.deadline;
        let next = Monotonic(deadline.0.checked_add(self.period().as_nanos())?);
        if now < deadline {
            return None;
        }
        self.deadline = next;
        // With the last one that was missed, the old rhythm ends.
        self.missed = self.missed.filter(|_| next <= now);
        Some(deadline)
    }

    /// Whether a tick with this deadline comes too late at `now`: its successor is due as well.
    #[must_use]
    pub const fn is_late(&self, deadline: Monotonic, now: Monotonic) -> bool {
        now.nanos_since(deadline) >= self.period().as_nanos()
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
    fn a_late_caller_does_not_move_the_deadlines_that_follow() {
        let mut schedule = every_100_ms_from(0);
        assert_eq!(take_all(&mut schedule, at(199)), [100]);
        assert_eq!(take_all(&mut schedule, at(200)), [200]);
        assert_eq!(schedule.deadline(), at(300));
    }

    #[test]
    fn ticks_missed_while_stopped_are_handed_out_each_once() {
        let mut schedule = every_100_ms_from(0);
        assert_eq!(take_all(&mut schedule, at(350)), [100, 200, 300]);
        assert_eq!(take_all(&mut schedule, at(350)), []);
    }

    #[test]
    fn an_hour_has_36_000_ticks_however_irregular_the_calls() {
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
    fn a_tick_is_late_once_its_successor_is_due() {
        let schedule = every_100_ms_from(0);
        assert!(!schedule.is_late(at(100), at(199)));
        assert!(schedule.is_late(at(100), at(200)));
        assert!(!schedule.is_late(at(100), at(50)), "a clock that went back is not late");
    }

    #[test]
    fn a_schedule_resumes_without_a_shift_and_counts_what_was_missed() {
        let period = |ms| Period::from_millis(ms).expect("not zero");
        let mut same = Schedule::resuming(at(200), period(100), at(450), period(100));
        assert_eq!(same.count_due(at(450)), 3);
        assert_eq!(take_all(&mut same, at(450)), [200, 300, 400]);
        assert_eq!((same.count_due(at(499)), same.count_due(at(500))), (0, 1));

        let mut faster = Schedule::resuming(at(200), period(100), at(450), period(10));
        assert_eq!(take_all(&mut faster, at(450)), [200, 300, 400]);
        assert_eq!(take_all(&mut faster, at(525)), [500, 510, 520]);

        let mut not_yet_due = Schedule::resuming(at(200), period(100), at(150), period(10));
        assert_eq!(take_all(&mut not_yet_due, at(215)), [200, 210]);
    }

    #[test]
    fn the_end_of_time_ends_the_ticks_instead_of_repeating_them() {
        let mut schedule = every_100_ms_from((u64::MAX - 1) / MS);
        assert_eq!(schedule.count_due(Monotonic::from_nanos(u64::MAX)), 0);
        assert_eq!(schedule.due(Monotonic::from_nanos(u64::MAX)), None);
    }

    #[test]
    fn a_period_of_zero_does_not_exist() {
        assert_eq!(Period::from_millis(0), None);
        assert_eq!(Period::from_millis(u32::MAX).map(Period::as_nanos), Some(4_294_967_295 * MS));
    }
}
