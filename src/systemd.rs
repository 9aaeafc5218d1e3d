// SPDX-License-Identifier: Apache-2.0
//! systemd: what PID 1 gives us and what we tell it (`sd_listen_fds(3)`, `sd_notify(3)`).
//!
//! Where the process was not started by systemd, nothing was given and nobody is told.
//! A notification that fails is not worth a log line: it does while PID 1 switches root, and where
//! its queue is full; what is said only once is said again on the next round.
//! It is sent without waiting, which the crates for it do not offer: a PID 1 that is busy for
//! seconds, and its socket full, must not stop a tick.

use std::env;
use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::process;
use std::time::Duration;

use early_service_machine::lifecycle::Phase;
use rustix::net::{
    AddressFamily, SendFlags, SocketAddrUnix, SocketFlags, SocketType, sendto, socket_with,
};

use crate::standing;

/// How long PID 1 waits for a sign of life before it ends the survivor of the switch.
///
/// The unit in the initrd cannot ask for a watchdog, because its signs of life get lost around the
/// switch; so the survivor asks for one afterwards.
/// Longer, and a hung one holds up its successor for longer; shorter, and a busy machine kills a
/// sound one.
const SURVIVOR_WATCHDOG: Duration = Duration::from_secs(3);

/// How long PID 1 waits for the next word of a process that starts and has used up the
/// `TimeoutStartSec=` of its unit.
///
/// Too long: a successor without a watchdog that hangs as the owner holds up everything. Too short: a
/// busy machine kills a healthy one that waits for its predecessor.
const START: Duration = Duration::from_secs(5);

/// How often a watchdog is fed within its limit; sd_watchdog_enabled(3) says at least twice.
const SIGNS_OF_LIFE: u32 = 3;

/// The sockets that a `.socket` unit passes on (`$LISTEN_FDS`).
pub(crate) fn listeners() -> Result<Vec<OwnedFd>, sd_listen_fds::Error> {
    let passed = sd_listen_fds::get()?;
    Ok(passed.into_iter().map(|(_, socket)| socket.into_std()).collect())
}

/// Tells the phase, as `systemctl status` shows it; in Serving the unit is ready.
///
/// False where it was not heard, like all that says whether it was.
#[must_use]
pub(crate) fn tell(phase: Phase) -> bool {
    let change = match phase {
        Phase::Booting | Phase::Adopting | Phase::Draining => "",
        Phase::Serving => "READY=1\n",
        Phase::Ended => "STOPPING=1\n",
    };
    notify(&format!("{change}STATUS={}", standing::sentence(phase)))
}

/// Tells what the process waits for, as `systemctl status` shows it.
pub(crate) fn status(what: fmt::Arguments<'_>) {
    let _ = notify(&format!("STATUS={what}"));
}

/// Has PID 1 watch this process from now on, and not only once it is ready.
///
/// The start timeout also covers what PID 1 does before it executes the program, so on a slow machine
/// it must be long; it can be extended but not shortened (`EXTEND_TIMEOUT_USEC=` in sd_notify(3)).
/// The first sign of life starts the unit's watchdog even during the start, and that one ends a start
/// that hangs.
pub(crate) fn watch_start() {
    if watchdog().is_some() {
        feed_watchdog();
    }
}

/// Tells PID 1 that the start takes so much longer (`EXTEND_TIMEOUT_USEC=` in sd_notify(3)), and
/// gives it a sign of life.
pub(crate) fn extend_start() {
    let _ = notify(&format!("EXTEND_TIMEOUT_USEC={}\nWATCHDOG=1", START.as_micros()));
}

/// How often PID 1 wants to hear of this process: by the unit's watchdog if there is one, and often
/// enough for a start that takes long; `None` where nobody listens.
pub(crate) fn rounds() -> Option<Duration> {
    env::var_os("NOTIFY_SOCKET")?;
    Some(watchdog().unwrap_or(START).min(START) / SIGNS_OF_LIFE)
}

/// The limit of the unit's watchdog (sd_watchdog_enabled(3)).
fn watchdog() -> Option<Duration> {
    let is_ours = |pid: String| pid == process::id().to_string();
    let limit = Duration::from_micros(env::var("WATCHDOG_USEC").ok()?.parse().ok()?);
    (!limit.is_zero() && env::var("WATCHDOG_PID").map_or(true, is_ours)).then_some(limit)
}

/// How often the survivor gives a sign of life.
pub(crate) fn survivor_rounds() -> Duration {
    SURVIVOR_WATCHDOG / SIGNS_OF_LIFE
}

/// Asks PID 1 for the survivor's watchdog.
#[must_use]
pub(crate) fn arm_watchdog() -> bool {
    notify(&format!("WATCHDOG_USEC={}\nWATCHDOG=1", SURVIVOR_WATCHDOG.as_micros()))
}

/// Gives PID 1 a sign of life.
pub(crate) fn feed_watchdog() {
    let _ = notify("WATCHDOG=1");
}

/// The same from one that serves, with how many clients it has now.
pub(crate) fn feed_watchdog_with(clients: usize) {
    let sentence = standing::sentence(Phase::Serving);
    let _ = notify(&format!("WATCHDOG=1\nSTATUS={sentence}; clients: {clients}"));
}

/// Whether it was heard, or there is nobody to hear it.
fn notify(message: &str) -> bool {
    env::var_os("NOTIFY_SOCKET").is_none_or(|path| send(path.as_bytes(), message).is_ok())
}

/// Sends to a socket in the file system, or in the abstract namespace where the path begins with
/// `@` (unix(7)).
fn send(path: &[u8], message: &str) -> io::Result<()> {
    let address = match path.strip_prefix(b"@") {
        Some(name) => SocketAddrUnix::new_abstract_name(name)?,
        None => SocketAddrUnix::new(path)?,
    };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, SocketType::DGRAM, flags, None)?;
    sendto(&socket, message.as_bytes(), SendFlags::NOSIGNAL, &address)?;
    Ok(())
}
