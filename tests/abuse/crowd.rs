// SPDX-License-Identifier: Apache-2.0
//! Crowd: many connections at once, and what can be sent on all of them.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};

use testkit::LIMIT;

/// Connects as most programs do: waits while the backlog is full.
#[track_caller]
pub(crate) fn one(socket: &Path) -> UnixStream {
    let stream = UnixStream::connect(socket).expect("a server that listens");
    stream.set_read_timeout(Some(LIMIT)).expect("not zero");
    stream
}

/// Connects `count` clients.
#[track_caller]
pub(crate) fn many(socket: &Path, count: usize) -> Vec<UnixStream> {
    (0..count).map(|_| one(socket)).collect()
}

/// Connects without waiting: EAGAIN if the backlog is full.
pub(crate) fn at_once(socket: &Path) -> Result<UnixStream, Errno> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let ours = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    connect(&ours, &SocketAddrUnix::new(socket)?)?;
    Ok(ours.into())
}

/// Requests the counter; false if the connection is closed.
pub(crate) fn ask(stream: &mut UnixStream) -> bool {
    stream.write_all(b"get_counter\n").is_ok()
}

/// Reads one line and nothing beyond it, byte by byte. Fails if it is not a number.
pub(crate) fn number(mut stream: &UnixStream) -> Result<u64, String> {
    let (mut line, mut byte) = (Vec::new(), [0]);
    while !line.ends_with(b"\n") {
        match stream.read(&mut byte) {
            Ok(0) => return Err("closed before a reply".to_owned()),
            Ok(_) => line.extend(byte),
            Err(error) => return Err(format!("no reply: {error}")),
        }
    }
    let line = String::from_utf8_lossy(&line);
    line.trim_end().parse().map_err(|_| format!("told {line:?}"))
}

/// Sends a request and reads the reply.
pub(crate) fn exchange(stream: &mut UnixStream) -> Result<u64, String> {
    if !ask(stream) {
        return Err("cannot ask".to_owned());
    }
    number(stream)
}

/// The errors among these.
pub(crate) fn lost<T>(results: impl IntoIterator<Item = Result<T, String>>) -> Vec<String> {
    results.into_iter().filter_map(Result::err).collect()
}

/// Whether the server has closed the connection; discards earlier input.
pub(crate) fn is_closed(stream: &mut UnixStream) -> bool {
    stream.set_nonblocking(true).expect("a socket");
    let mut rest = [0; 4096];
    loop {
        match stream.read(&mut rest) {
            Ok(0) => return true,
            Ok(_) => {}
            Err(error) => return error.kind() != std::io::ErrorKind::WouldBlock,
        }
    }
}
