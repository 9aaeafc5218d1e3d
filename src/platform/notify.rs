// SPDX-License-Identifier: Apache-2.0
//! Interface to systemd: passed sockets and notifications (`sd_listen_fds(3)`, `sd_notify(3)`).
//!
//! If systemd did not start the process, no socket is passed and no notification is sent.
//!
//! A notification that fails is not logged: it fails while PID 1 switches root, and when its queue
//! is full. Functions that return a `bool` return whether PID 1 has received the notification or
//! expects none; the supervisor repeats the others. Sending never waits, because PID 1 may be busy
//! for seconds with its queue full, and a tick must not wait for that. No crate for notifications
//! offers this.

use std::env;
use std::fmt;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, IntoRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::process;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use early_service_machine::lifecycle::Phase;
use early_service_machine::wire::request::Accepts;
use rustix::fs::fstat;
use rustix::io::{Errno, FdFlags, fcntl_getfd, fcntl_setfd};
use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix,
    SocketFlags, SocketType, sendmsg_addr, socket_with,
};
use rustix::process::{PidfdFlags, Resource, getpid, getrlimit, pidfd_open};
use smol::Timer;

use crate::handoff::bundle::Named;
use crate::handoff::launch;
use crate::platform::socket;

/// Whether this process says nothing to PID 1, because its unit has another main process: PID 1
/// accepts messages of the main process only, and would take them for messages of that one.
static IS_SILENT: AtomicBool = AtomicBool::new(false);

/// The pause before PID 1 is told again which process is the main one.
const MAIN_AGAIN: Duration = Duration::from_millis(10);

/// How long PID 1 waits for a sign of life before it kills a process that survived the switch of
/// root.
///
/// The unit in the initrd cannot set a watchdog, because signs of life are lost around the switch,
/// so the process requests one afterwards. Too long: a process that hangs delays its successor. Too
/// short: load alone gets the process killed.
const SURVIVOR_WATCHDOG: Duration = Duration::from_secs(3);

/// How long PID 1 waits for the next sign of life of a process that is starting and has used up the
/// `TimeoutStartSec=` of its unit. Too long: a successor that hangs as the owner without a watchdog
/// stops the service for longer. Too short: on a busy machine, PID 1 kills a healthy process that
/// waits for its predecessor.
const START: Duration = Duration::from_secs(5);

/// The number of signs of life within the limit of a watchdog; sd_watchdog_enabled(3) advises two.
const SIGNS_OF_LIFE: u32 = 3;

/// The shortest limit of a watchdog that is met. Shorter: the process only sends signs of life.
/// Longer: fewer units can use a watchdog.
const SHORTEST_WATCHDOG: Duration = Duration::from_millis(30);

/// The descriptors that systemd passes in `$LISTEN_FDS`.
#[derive(Default)]
pub(crate) struct Passed {
    /// The sockets to serve.
    pub(crate) sockets: Vec<OwnedFd>,
    /// The descriptors of the device that PID 1's store returned.
    pub(crate) stored: Vec<Named>,
    /// The process of the same unit that has started this one to replace it.
    pub(crate) predecessor: Option<UnixStream>,
    /// The number and the name of each descriptor with another purpose.
    left_alone: Vec<(usize, String)>,
}

impl Passed {
    /// Takes the sockets to serve, or refuses all if one of them cannot be served. Takes also the
    /// open descriptors in `names`. Others stay open and unchanged, because they belong to another
    /// part of the service. The variables stay set; [`launch`] removes them for another process.
    pub(crate) fn take(names: Accepts<'_>) -> Result<Self, String> {
        if let Some(predecessor) = launch::predecessor()? {
            IS_SILENT.store(true, Relaxed);
            return Ok(Self { predecessor: Some(predecessor), ..Self::default() });
        }
        if !is_pidfd_ours() {
            return Ok(Self::default());
        }
        let count = env::var("LISTEN_FDS").unwrap_or_default();
        let limit = || getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
        if count.parse::<u64>().is_ok_and(|count| count > limit()) {
            return Err(format!(
                "cannot understand $LISTEN_FDS: {count} is more than the limit of open files"
            ));
        }
        let passed = sd_listen_fds::get()
            .map_err(|error| format!("cannot understand $LISTEN_FDS: {error}"))?
            .into_iter();
        let passed = passed.enumerate().map(|(at, (name, descriptor))| {
            let descriptor = descriptor.into_std();
            let is_open = fcntl_getfd(&descriptor).is_ok();
            // A descriptor that is not open must not be closed: its number may be reused.
            let descriptor = if is_open { Ok(descriptor) } else { Err(descriptor.into_raw_fd()) };
            (FIRST_PASSED + at, name, descriptor)
        });
        let mut all = Self::default();
        // Checks every descriptor before it refuses the first one, because that closes the others.
        for (number, name, descriptor) in passed.collect::<Vec<_>>() {
            if let Some(name) = name.as_ref().filter(|name| names.has(name)) {
                let stored = descriptor.ok().inspect(keep_from_children);
                let stored = stored.map(|descriptor| Named { name: name.clone(), descriptor });
                all.stored.extend(stored);
                continue;
            }
            if let Some(name) = name.as_ref().filter(|name| !is_for_us(name)) {
                all.left_alone.push((number, name.clone()));
                let _ = descriptor.map(IntoRawFd::into_raw_fd);
                continue;
            }
            let socket = descriptor.map_err(|_| "it is not open");
            let socket =
                socket.and_then(|socket| socket::check_listening(&socket).map(|()| socket));
            let socket = socket.inspect(keep_from_children);
            all.sockets.push(socket.map_err(|cause| {
                let name = name.map(|name| format!("'{name}', ")).unwrap_or_default();
                format!("cannot serve {name}descriptor {number} of $LISTEN_FDS: {cause}")
            })?);
        }
        Ok(all)
    }

    /// Logs which descriptors are not used.
    pub(crate) fn log_left_alone(&self) {
        for (number, name) in &self.left_alone {
            log::info!("Leaving alone descriptor {number} of $LISTEN_FDS, which is named '{name}'");
        }
    }
}

/// PID 1 passes descriptors that children inherit. A successor that this process starts receives
/// them in the handoff, and would never close another copy.
fn keep_from_children(descriptor: &OwnedFd) {
    let _ = fcntl_setfd(descriptor, FdFlags::CLOEXEC);
}

/// The number of the first passed descriptor (`SD_LISTEN_FDS_START` in sd_listen_fds(3)).
const FIRST_PASSED: usize = 3;

/// Whether a descriptor with this name is a socket to serve.
///
/// A socket unit names its sockets after itself, unless `FileDescriptorName=` sets another name; a
/// descriptor without a name is called `unknown`. Other names have another purpose: `stored` or
/// `FDNAME=` is a descriptor that PID 1 keeps for a service, `connection` is one client.
fn is_for_us(name: &str) -> bool {
    matches!(name, "" | "unknown") || name.ends_with(".socket")
}

/// Whether `$LISTEN_PIDFDID` names this process and not an earlier one with the same process id.
/// Newer versions of systemd set it besides `$LISTEN_PID`.
fn is_pidfd_ours() -> bool {
    let Some(id) = env::var("LISTEN_PIDFDID").ok().and_then(|id| id.parse::<u64>().ok()) else {
        return true;
    };
    let ours = pidfd_open(getpid(), PidfdFlags::empty()).and_then(fstat);
    ours.map_or(true, |ours| ours.st_ino == id)
}

/// Logs which settings in the environment cannot be used.
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

/// Reports the phase, with a sentence for `systemctl status`. In Serving, the unit is ready if
/// `is_ready`.
#[must_use]
pub(crate) fn report_phase(phase: Phase, is_ready: bool, sentence: &str) -> bool {
    let change = match phase {
        Phase::Serving if is_ready => "READY=1\n",
        Phase::Booting | Phase::Adopting | Phase::Serving | Phase::Draining => "",
        Phase::Ended => "STOPPING=1\n",
    };
    notify(&format!("{change}STATUS={sentence}"))
}

/// Reports for `systemctl status` what the process waits for.
pub(crate) fn status(what: fmt::Arguments<'_>) {
    let _ = notify(&format!("STATUS={what}"));
}

/// Starts the unit's watchdog now, instead of when the unit is ready.
///
/// The start timeout also covers what PID 1 does before it executes the program. It must be long
/// for a slow machine, and cannot be shortened later (`EXTEND_TIMEOUT_USEC=` in sd_notify(3)). The
/// first sign of life starts the watchdog even during the start, and the watchdog ends a start that
/// hangs.
pub(crate) fn watch_start() {
    if watchdog().is_ok_and(|limit| limit.is_some()) {
        feed_watchdog();
    }
}

/// Extends the start timeout by [`START`] (`EXTEND_TIMEOUT_USEC=` in sd_notify(3)), and gives PID 1
/// a sign of life.
pub(crate) fn extend_start() {
    let _ = notify(&format!("EXTEND_TIMEOUT_USEC={}\nWATCHDOG=1", START.as_micros()));
}

/// The interval between signs of life, short enough for a long start and for the unit's watchdog if
/// there is one; `None` if PID 1 is not notified.
pub(crate) fn rounds() -> Option<Duration> {
    notify_socket()?.ok()?;
    let watchdog = watchdog().ok().flatten().unwrap_or(START);
    Some(watchdog.clamp(SHORTEST_WATCHDOG, START) / SIGNS_OF_LIFE)
}

/// The limit of the unit's watchdog (sd_watchdog_enabled(3)), or an error with the invalid value.
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

/// The interval between signs of life after [`arm_watchdog`].
pub(crate) fn survivor_rounds() -> Duration {
    SURVIVOR_WATCHDOG / SIGNS_OF_LIFE
}

/// Asks PID 1 for a watchdog of [`SURVIVOR_WATCHDOG`].
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

/// Gives PID 1's store a copy of a descriptor, which it returns under this name when the unit
/// starts again (`FDSTORE=1` in sd_notify(3)). PID 1 does not poll it, because it would remove a
/// CAN socket whose link is down.
#[must_use]
pub(crate) fn store(name: &str, descriptor: impl AsFd) -> bool {
    let message = format!("FDSTORE=1\nFDPOLL=0\nFDNAME={name}");
    match notify_socket() {
        _ if IS_SILENT.load(Relaxed) => false,
        Some(Ok(address)) => send(&address, &message, &[descriptor.as_fd()]).is_ok(),
        Some(Err(_)) | None => true,
    }
}

/// Removes the descriptors of this name from PID 1's store.
#[must_use]
pub(crate) fn unstore(name: &str) -> bool {
    notify(&format!("FDSTOREREMOVE=1\nFDNAME={name}"))
}

/// Speaks to PID 1 from now on, as the main process.
pub(crate) fn speak() {
    IS_SILENT.store(false, Relaxed);
}

/// Makes the process `pid` the main process of the unit (`MAINPID=` in sd_notify(3)). Returns once
/// PID 1 has the message, because it would otherwise take the end of this process for the end of
/// the service.
///
/// The message is also a sign of life. The next one is due a third of the watchdog's time after the
/// start of `pid`, and another reload may come before, so that no process would send any.
pub(crate) async fn until_main_process(pid: i32) {
    while !notify(&format!("MAINPID={pid}\nWATCHDOG=1")) {
        Timer::after(MAIN_AGAIN).await;
    }
    IS_SILENT.store(true, Relaxed);
}

fn notify(message: &str) -> bool {
    match notify_socket() {
        _ if IS_SILENT.load(Relaxed) => false,
        Some(Ok(address)) => send(&address, message, &[]).is_ok(),
        Some(Err(_)) | None => true,
    }
}

/// The socket of PID 1: a path, or a name in the abstract namespace that begins with `@` (unix(7)).
fn notify_socket() -> Option<Result<SocketAddrUnix, Errno>> {
    let path = env::var_os("NOTIFY_SOCKET")?;
    Some(match path.as_bytes() {
        [b'@', name @ ..] => SocketAddrUnix::new_abstract_name(name),
        [b'/', ..] => SocketAddrUnix::new(&*path),
        _ => Err(Errno::AFNOSUPPORT),
    })
}

fn send(address: &SocketAddrUnix, message: &str, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, SocketType::DGRAM, flags, None)?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() {
        ancillary.push(SendAncillaryMessage::ScmRights(descriptors));
    }
    let message = [IoSlice::new(message.as_bytes())];
    sendmsg_addr(&socket, address, &message, &mut ancillary, SendFlags::NOSIGNAL)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_a_descriptor_tells_its_purpose() {
        for (name, is_ours) in [
            ("early-service.socket", true),
            ("meter.socket", true),
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
