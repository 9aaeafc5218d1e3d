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
use std::os::fd::{IntoRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::process;
use std::time::Duration;

use early_service_machine::lifecycle::Phase;
use rustix::fs::fstat;
use rustix::io::{Errno, fcntl_getfd};
use rustix::net::{
    AddressFamily, SendFlags, SocketAddrUnix, SocketFlags, SocketType, sendto, socket_with,
};
use rustix::process::{PidfdFlags, Resource, getpid, getrlimit, pidfd_open};

use crate::platform::socket;

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

/// The shortest watchdog that is served in time, and so the most often that signs of life are sent.
///
/// Shorter: the process does nothing else. Longer: a watchdog that works today is missed.
const SHORTEST_WATCHDOG: Duration = Duration::from_millis(30);

/// What systemd passes in `$LISTEN_FDS`.
#[derive(Default)]
pub(crate) struct Passed {
    /// The sockets to serve.
    pub(crate) sockets: Vec<OwnedFd>,
    /// The number and the name of each descriptor that is for something else.
    left_alone: Vec<(usize, String)>,
}

/// What cannot be served of `$LISTEN_FDS`.
#[derive(Debug)]
pub(crate) enum NotPassed {
    Variables(sd_listen_fds::Error),
    TooMany(String),
    Descriptor(usize, Option<String>, &'static str),
}

impl fmt::Display for NotPassed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Variables(error) => write!(f, "cannot understand $LISTEN_FDS: {error}"),
            Self::TooMany(count) => write!(
                f,
                "cannot understand $LISTEN_FDS: {count} is more than the limit of open files"
            ),
            Self::Descriptor(number, None, cause) => {
                write!(f, "cannot serve descriptor {number} of $LISTEN_FDS: {cause}")
            }
            Self::Descriptor(number, Some(name), cause) => {
                write!(f, "cannot serve '{name}', descriptor {number} of $LISTEN_FDS: {cause}")
            }
        }
    }
}

impl Passed {
    /// Takes over the sockets that are to be served.
    ///
    /// All other descriptors stay open and as they are, unless one is refused, which ends the process:
    /// they belong to another part of the service.
    /// The variables stay set, because the process starts no other program.
    pub(crate) fn take() -> Result<Self, NotPassed> {
        if !is_pidfd_ours() {
            return Ok(Self::default());
        }
        let count = env::var("LISTEN_FDS").unwrap_or_default();
        let limit = || getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
        if count.parse::<u64>().is_ok_and(|count| count > limit()) {
            return Err(NotPassed::TooMany(count));
        }
        let passed = sd_listen_fds::get().map_err(NotPassed::Variables)?.into_iter();
        let passed = passed.enumerate().map(|(at, (name, descriptor))| {
            let descriptor = descriptor.into_std();
            let is_open = fcntl_getfd(&descriptor).is_ok();
            // One that is not open is nobody's to close: its number may come to be another file's.
            let descriptor = if is_open { Ok(descriptor) } else { Err(descriptor.into_raw_fd()) };
            (FIRST_PASSED + at, name, descriptor)
        });
        let mut all = Self::default();
        // Every descriptor is looked at before the first one is refused.
        for (number, name, descriptor) in passed.collect::<Vec<_>>() {
            match (descriptor, name) {
                (descriptor, Some(name)) if !is_for_us(&name) => {
                    all.left_alone.push((number, name));
                    let _ = descriptor.map(IntoRawFd::into_raw_fd);
                }
                (Err(_), name) => {
                    return Err(NotPassed::Descriptor(number, name, "it is not open"));
                }
                (Ok(socket), name) => {
                    socket::check_listening(&socket)
                        .map_err(|cause| NotPassed::Descriptor(number, name, cause))?;
                    all.sockets.push(socket);
                }
            }
        }
        Ok(all)
    }

    /// Logs what is left alone.
    pub(crate) fn say_left_alone(&self) {
        for (number, name) in &self.left_alone {
            log::info!("Leaving alone descriptor {number} of $LISTEN_FDS, which is named '{name}'");
        }
    }
}

/// The number of the first passed descriptor (`SD_LISTEN_FDS_START` in sd_listen_fds(3)).
const FIRST_PASSED: usize = 3;

/// Whether a descriptor of this name is passed to be served.
///
/// A socket unit names its sockets after itself, unless `FileDescriptorName=` says otherwise; a
/// descriptor without a name is called `unknown`.
/// Any other name was given for another purpose: `stored` or `FDNAME=` to a descriptor that a service
/// has PID 1 keep, `connection` to one client.
fn is_for_us(name: &str) -> bool {
    matches!(name, "" | "unknown") || name.ends_with(".socket")
}

/// Whether `$LISTEN_PIDFDID`, which newer versions of systemd set beside `$LISTEN_PID`, names this
/// process and not an earlier one of the same process id.
fn is_pidfd_ours() -> bool {
    let Some(id) = env::var("LISTEN_PIDFDID").ok().and_then(|id| id.parse::<u64>().ok()) else {
        return true;
    };
    let ours = pidfd_open(getpid(), PidfdFlags::empty()).and_then(fstat);
    ours.map_or(true, |ours| ours.st_ino == id)
}

/// Logs what of the environment cannot be followed.
pub(crate) fn check_environment() {
    if let (Some(path), Some(Err(error))) = (env::var_os("NOTIFY_SOCKET"), notify_socket()) {
        log::warn!("cannot notify PID 1: $NOTIFY_SOCKET is '{}': {error}", path.to_string_lossy());
    }
    match watchdog() {
        Ok(Some(limit)) if limit < SHORTEST_WATCHDOG => log::warn!(
            "cannot keep up with a watchdog of {} us: $WATCHDOG_USEC should be at least {}",
            limit.as_micros(),
            SHORTEST_WATCHDOG.as_micros()
        ),
        Ok(_) => {}
        Err(limit) => log::warn!("cannot feed the watchdog: $WATCHDOG_USEC is '{limit}'"),
    }
}

/// Reports the phase, and a sentence about it for `systemctl status`; in Serving the unit is ready.
///
/// Returns whether PID 1 has received it, as every function here that returns a `bool`.
#[must_use]
pub(crate) fn report_phase(phase: Phase, sentence: &str) -> bool {
    let change = match phase {
        Phase::Booting | Phase::Adopting | Phase::Draining => "",
        Phase::Serving => "READY=1\n",
        Phase::Ended => "STOPPING=1\n",
    };
    notify(&format!("{change}STATUS={sentence}"))
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
    if watchdog().is_ok_and(|limit| limit.is_some()) {
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
    notify_socket()?.ok()?;
    let watchdog = watchdog().ok().flatten().unwrap_or(START);
    Some(watchdog.clamp(SHORTEST_WATCHDOG, START) / SIGNS_OF_LIFE)
}

/// The limit of the unit's watchdog (sd_watchdog_enabled(3)); an error is what it says instead.
fn watchdog() -> Result<Option<Duration>, String> {
    let is_ours = |pid: String| pid == process::id().to_string();
    let Some(limit) = env::var_os("WATCHDOG_USEC") else {
        return Ok(None);
    };
    if !env::var("WATCHDOG_PID").map_or(true, is_ours) {
        return Ok(None);
    }
    let limit = limit.to_string_lossy();
    match limit.parse() {
        Ok(0) | Err(_) => Err(limit.into_owned()),
        Ok(limit) => Ok(Some(Duration::from_micros(limit))),
    }
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

/// Gives PID 1 a sign of life, and a sentence for `systemctl status`.
pub(crate) fn feed_watchdog_with(sentence: fmt::Arguments<'_>) {
    let _ = notify(&format!("WATCHDOG=1\nSTATUS={sentence}"));
}

/// Whether it was heard, or there is nobody to hear it.
fn notify(message: &str) -> bool {
    match notify_socket() {
        Some(Ok(address)) => send(&address, message).is_ok(),
        Some(Err(_)) | None => true,
    }
}

/// Where PID 1 is notified: a socket in the file system, or in the abstract namespace where the name
/// begins with `@` (unix(7)).
fn notify_socket() -> Option<Result<SocketAddrUnix, Errno>> {
    let path = env::var_os("NOTIFY_SOCKET")?;
    Some(match path.as_bytes() {
        [b'@', name @ ..] => SocketAddrUnix::new_abstract_name(name),
        [b'/', ..] => SocketAddrUnix::new(&*path),
        _ => Err(Errno::AFNOSUPPORT),
    })
}

fn send(address: &SocketAddrUnix, message: &str) -> io::Result<()> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, SocketType::DGRAM, flags, None)?;
    sendto(&socket, message.as_bytes(), SendFlags::NOSIGNAL, address)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_says_what_a_descriptor_is_for() {
        for (name, is_ours) in [
            ("early-service.socket", true),
            ("camera.socket", true),
            ("unknown", true),
            ("", true),
            ("stored", false),
            ("connection", false),
            ("watchdog", false),
            ("early-service", false),
            ("socket", false),
        ] {
            assert_eq!(is_for_us(name), is_ours, "{name:?}");
        }
    }
}
