// SPDX-License-Identifier: Apache-2.0
//! Clock: the one place that reads `CLOCK_MONOTONIC`.
//!
//! The machine speaks of absolute nanoseconds, the executor of [`Instant`]s; on Linux both are the
//! same clock, so a deadline is translated by its distance from now.

use std::time::{Duration, Instant};

use early_service_machine::schedule::Monotonic;
use rustix::time::{ClockId, clock_gettime};

/// The time now, in nanoseconds of `CLOCK_MONOTONIC`.
pub(crate) fn now() -> Monotonic {
    let now = clock_gettime(ClockId::Monotonic);
    let seconds = u64::try_from(now.tv_sec).unwrap_or_default();
    let nanoseconds = u64::try_from(now.tv_nsec).unwrap_or_default();
    Monotonic::from_nanos(seconds.saturating_mul(1_000_000_000).saturating_add(nanoseconds))
}

/// The moment of `deadline` for a timer, or one shortly after; now, where it has passed.
pub(crate) fn instant(deadline: Monotonic) -> Instant {
    // Read in this order, so that the moment is never before the deadline.
    let left = Duration::from_nanos(deadline.nanos_since(now()));
    Instant::now() + left
}
