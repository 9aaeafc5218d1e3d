// SPDX-License-Identifier: Apache-2.0
//! UNIX stream sockets: functions that the standard library does not offer.
//!
//! No function here blocks, even if another holder of a socket changes its flags: O_NONBLOCK is a
//! property of the open file description, so each process that has a copy can change it.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags, fcntl_getfl, open};
use rustix::io::Errno;
use rustix::net::sockopt::{
    Timeout, set_socket_timeout, socket_acceptconn, socket_domain, socket_type,
};
use rustix::net::{
    AddressFamily, SendFlags, SocketAddrUnix, SocketFlags, SocketType, connect as connect_to,
    socket_with,
};

/// The most bytes of a path in an address, without the NUL (`sun_path` in unix(7)).
pub(crate) const MAX_PATH: usize = 107;

/// The directory in which each descriptor of this process is a path.
pub(crate) const DESCRIPTORS: &str = "/proc/self/fd";

/// How long accept(2) may block: the resolution of the kernel's timer. Longer: a tick is late.
/// Shorter: the kernel rounds the time up.
const MAX_ACCEPT: Duration = Duration::from_millis(1);

/// The state of a listening socket's queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Backlog {
    Empty,
    /// A client is waiting.
    Waiting,
    /// No client can connect: another holder has shut the socket down.
    Shut,
}

/// Connects to `path`; `EAGAIN` if the backlog is full.
pub(crate) fn connect(path: &Path) -> Result<UnixStream, Errno> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    if path.as_os_str().len() <= MAX_PATH {
        connect_to(&socket, &SocketAddrUnix::new(path)?)?;
    } else {
        // The descriptor of the file is a path that is always short enough.
        let file = open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
        let short = Path::new(DESCRIPTORS).join(file.as_raw_fd().to_string());
        connect_to(&socket, &SocketAddrUnix::new(short)?)?;
    }
    Ok(socket.into())
}

/// Sends as many of `bytes` as the kernel takes at once.
pub(crate) fn send(stream: impl AsFd, bytes: &[u8]) -> io::Result<usize> {
    Ok(rustix::net::send(stream, bytes, SendFlags::NOSIGNAL | SendFlags::DONTWAIT)?)
}

/// Accepts a client, or fails with `EAGAIN`.
///
/// accept(2) has no flag like MSG_DONTWAIT. PID 1 clears O_NONBLOCK when it starts the successor,
/// unless that unit has `NonBlocking=yes`; a predecessor then blocked in accept(2) until its
/// watchdog ended it (seen on systemd 252 and 257). So the flag is checked before each call.
/// Another holder can clear the flag and accept the client between check and call. Therefore
/// accept(2) gets a time limit (SO_RCVTIMEO in socket(7)) once the flag was found cleared.
pub(crate) fn accept(listener: &UnixListener) -> io::Result<UnixStream> {
    if !fcntl_getfl(listener)?.contains(OFlags::NONBLOCK) {
        let _ = set_socket_timeout(listener, Timeout::Recv, Some(MAX_ACCEPT));
        listener.set_nonblocking(true)?;
    }
    listener.accept().map(|(stream, _)| stream)
}

/// Whether data, the end of the connection, or a client is waiting.
pub(crate) fn is_readable(socket: impl AsFd) -> bool {
    let mut socket = [PollFd::new(&socket, PollFlags::IN)];
    poll(&mut socket, Some(&Timespec::default())).is_ok_and(|ready| ready > 0)
}

/// The state of the backlog.
pub(crate) fn backlog(listener: impl AsFd) -> Backlog {
    let mut socket = [PollFd::new(&listener, PollFlags::IN | PollFlags::RDHUP)];
    if !poll(&mut socket, Some(&Timespec::default())).is_ok_and(|ready| ready > 0) {
        return Backlog::Empty;
    }
    let [socket] = socket;
    let is_shut = socket.revents().intersects(PollFlags::RDHUP | PollFlags::HUP);
    if is_shut { Backlog::Shut } else { Backlog::Waiting }
}

/// Checks that clients can be accepted from this socket.
pub(crate) fn check_listening(socket: &OwnedFd) -> Result<(), &'static str> {
    if check_stream(socket)? { Ok(()) } else { Err("it does not listen") }
}

/// Checks that this is a UNIX stream socket; returns whether it listens.
pub(crate) fn check_stream(socket: &OwnedFd) -> Result<bool, &'static str> {
    if socket_domain(socket) != Ok(AddressFamily::UNIX) {
        return Err("it is not a UNIX socket");
    }
    if socket_type(socket) != Ok(SocketType::STREAM) {
        return Err("it is not a stream socket");
    }
    Ok(socket_acceptconn(socket) == Ok(true))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;
    use std::{env, fs, process, thread};

    #[test]
    fn accept_does_not_block_after_the_flag_was_cleared() {
        let path = env::temp_dir().join(format!("early-service-{}-flag.sock", process::id()));
        let socket = UnixListener::bind(&path).expect("a scratch socket");
        let _ = fs::remove_file(&path);
        let (results, accepted) = mpsc::channel();
        thread::spawn(move || {
            let at_once = accept(&socket).map(drop);
            // Another holder clears the flag between the check and the call.
            socket.set_nonblocking(false).expect("a socket");
            results.send([at_once, socket.accept().map(drop)])
        });
        let accepted = accepted.recv_timeout(Duration::from_secs(30)).expect("neither blocks");
        for accepted in accepted {
            assert_eq!(accepted.map_err(|error| error.kind()), Err(io::ErrorKind::WouldBlock));
        }
    }
}
