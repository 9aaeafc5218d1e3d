// SPDX-License-Identifier: Apache-2.0
//! Waiting: for a condition, with a limit; never for a time.

use std::thread;
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

/// Maximum time for a condition on the busiest machine; only a failing test waits this long.
pub const LIMIT: Duration = Duration::from_secs(30);

/// Waits until `condition` holds.
#[track_caller]
pub fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < LIMIT, "still waiting: {what}");
        thread::sleep(Duration::from_millis(2));
    }
}

/// `CLOCK_MONOTONIC` in nanoseconds: the clock that the daemon logs.
pub fn now() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    let nanoseconds = now.tv_sec * 1_000_000_000 + now.tv_nsec;
    nanoseconds.try_into().expect("a clock that began at boot")
}
