// SPDX-License-Identifier: Apache-2.0
//! systemd: what PID 1 gives us and what we tell it (`sd_listen_fds(3)`, `sd_notify(3)`).
//!
//! Where the process was not started by systemd, nothing was given and nobody is told.
//! A notification that fails is not worth a log line: it does while PID 1 switches root, and what
//! follows says the same.

use std::os::fd::OwnedFd;
use std::time::Duration;

use early_service_machine::lifecycle::Phase;
use sd_notify::{NotifyState, notify, watchdog_enabled};

/// How long PID 1 waits for a sign of life before it ends the survivor of the switch.
///
/// The unit in the initrd cannot ask for a watchdog, because its signs of life get lost around the
/// switch; so the survivor asks for one afterwards.
/// Longer, and a hung one holds up its successor for longer; shorter, and a busy machine kills a
/// sound one.
const SURVIVOR_WATCHDOG: Duration = Duration::from_secs(3);

/// How often a watchdog is fed within its limit; sd_watchdog_enabled(3) says at least twice.
const SIGNS_OF_LIFE: u32 = 3;

/// The sockets that a `.socket` unit passes on (`$LISTEN_FDS`).
pub(crate) fn listeners() -> Result<Vec<OwnedFd>, sd_listen_fds::Error> {
    let passed = sd_listen_fds::get()?;
    Ok(passed.into_iter().map(|(_, socket)| socket.into_std()).collect())
}

/// Tells the phase, as `systemctl status` shows it; in Serving the unit is ready.
pub(crate) fn tell(phase: Phase) {
    let status = NotifyState::Status(phase.name());
    let _ = match phase {
        Phase::Booting | Phase::Adopting | Phase::Draining => notify(&[status]),
        Phase::Serving => notify(&[NotifyState::Ready, status]),
        Phase::Ended => notify(&[NotifyState::Stopping, status]),
    };
}

/// How often PID 1 wants a sign of life, where its unit has a watchdog.
pub(crate) fn watchdog() -> Option<Duration> {
    watchdog_enabled().map(|limit| limit / SIGNS_OF_LIFE)
}

/// Asks PID 1 for a watchdog, and says how often to feed it.
pub(crate) fn arm_watchdog() -> Duration {
    let microseconds = u32::try_from(SURVIVOR_WATCHDOG.as_micros()).unwrap_or(u32::MAX);
    let _ = notify(&[NotifyState::WatchdogUsec(microseconds), NotifyState::Watchdog]);
    SURVIVOR_WATCHDOG / SIGNS_OF_LIFE
}

/// Gives PID 1 a sign of life.
pub(crate) fn feed_watchdog() {
    let _ = notify(&[NotifyState::Watchdog]);
}
