// SPDX-License-Identifier: Apache-2.0
//! Catching up: taking ticks that became due while the process could not run.
//!
//! | ticks due | taken | logged |
//! | --- | --- | --- |
//! | up to [`ONE_BY_ONE`] | [`PORTION`] in each turn | one line each |
//! | more | as many as [`TURN`] allows in each turn | one line for all of them |
//!
//! Between two turns the ticker rests for [`REST`], so every other actor has a turn.

use std::time::Duration;

use early_service_machine::schedule::Monotonic;
use early_service_machine::timeline::{Tick, Ticking};

use crate::platform::clock;
use crate::service::Service;

/// The maximum number of ticks that one turn logs, before the log's writer can run.
pub(super) const PORTION: usize = 64;

/// The maximum number of missed ticks that are logged one by one: eight times the log's queue,
/// because the writer has [`RoomWait`](crate::journal::RoomWait) to write most of them out. More:
/// catching up takes long. Fewer: a stop of some seconds at a short period leaves one line instead
/// of one for each tick.
pub(super) const ONE_BY_ONE: u64 = 2048;

/// The time that one turn takes at most, except for its last step, which may double it. Too long:
/// the other actors wait. Too short: writing the state file after each turn takes most of the time.
pub(super) const TURN: Duration = Duration::from_millis(5);

/// The pause between two turns. Not a mere yield, because the supervisor is polled only when no
/// task is ready or after 200 turns of tasks, which would take a second.
pub(super) const REST: Duration = Duration::from_micros(100);

/// The time after which a state that is still catching up logs its progress.
pub(super) const PROGRESS: Duration = Duration::from_secs(5);

/// Takes due ticks without a line for each: all of them at once if the state can skip ticks,
/// otherwise as many as [`TURN`] allows. Returns the number taken and the last of them; `None` if
/// no tick is due.
pub(super) fn skip<S: Service>(ticking: &mut Ticking<S>, now: Monotonic) -> Option<(u64, Tick<S>)> {
    let begin = clock::now();
    // Each step is twice the previous one, so it takes about as long as all before it.
    let (mut taken, mut step) = (0_u64, 1_u64);
    while clock::since(begin) < TURN {
        // Skips all but the last tick, because the line has the fields of that one.
        let skipped = ticking.skip(now, step.min(ticking.due(now).saturating_sub(1)));
        if skipped == 0 {
            break;
        }
        taken = taken.saturating_add(skipped);
        step = step.saturating_mul(2);
    }
    ticking.tick(now).map(|last| (taken.saturating_add(1), last))
}
