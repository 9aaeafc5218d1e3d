// SPDX-License-Identifier: Apache-2.0
//! Clock: the only reader of `CLOCK_MONOTONIC` and `CLOCK_REALTIME`.
//!
//! The crate `machine` counts nanoseconds, the executor uses [`Instant`]s. On Linux both are
//! the same clock, so a deadline is translated by its distance from now.

use std::time::{Duration, Instant};

use early_service_machine::realtime::Realtime;
use early_service_machine::schedule::Monotonic;
use rustix::time::{ClockId, Timespec, clock_gettime};

/// The time now, in nanoseconds of `CLOCK_MONOTONIC`.
pub(crate) fn now() -> Monotonic {
    let now = clock_gettime(ClockId::Monotonic);
    Monotonic::from_nanos(nanoseconds(now))
}

/// The time now on the wall clock, for a person who reads it.
pub(crate) fn realtime() -> Realtime {
    Realtime::from_nanos(nanoseconds(clock_gettime(ClockId::Realtime)))
}

fn nanoseconds(time: Timespec) -> u64 {
    let seconds = u64::try_from(time.tv_sec).unwrap_or_default();
    let rest = u64::try_from(time.tv_nsec).unwrap_or_default();
    seconds.saturating_mul(1_000_000_000).saturating_add(rest)
}

/// The time from `earlier` to `later`; zero if `later` is not later.
pub(crate) fn between(earlier: Monotonic, later: Monotonic) -> Duration {
    Duration::from_nanos(later.nanos_since(earlier))
}

/// The time from `earlier` to now.
pub(crate) fn since(earlier: Monotonic) -> Duration {
    between(earlier, now())
}

/// The instant of `deadline` for a timer, or one shortly after it; now, if the deadline has passed.
pub(crate) fn instant(deadline: Monotonic) -> Instant {
    // The clocks are read in this order, so that the instant is never before the deadline.
    let left = between(now(), deadline);
    Instant::now() + left
}
