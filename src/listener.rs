// SPDX-License-Identifier: Apache-2.0
//! Listener: the socket file that clients connect to.
//!
//! Bound before the actors exist, so that clients can connect, and wait in the backlog, from the
//! first moment on; accepted from in Serving only.
//!
//! It is bound here, passed by a `.socket` unit, whose file is systemd's business, or comes from the
//! predecessor with its file.
//!
//! Owns the socket and, where it bound or adopted it, its file.
//! Never removes a file that is not its own: not a live socket, not something else than a socket,
//! not the socket of a successor that took the path over.
//! Ends by being dropped, which removes the file.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::task::{Context, Poll};
use std::thread;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{FlockOperation, Mode, OFlags, flock, open};
use rustix::io::Errno;
use rustix::net::sockopt::{socket_acceptconn, socket_domain};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, listen, socket_with};
use smol::Async;

/// A path that cannot be served.
#[derive(Debug)]
pub(crate) enum Error {
    InUse(PathBuf),
    NotASocket(PathBuf),
    Bind(PathBuf, io::Error),
    Passed(&'static str),
    HandedOver(&'static str),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::InUse(path) => {
                write!(f, "cannot serve {}: another process is listening on it", path.display())
            }
            Self::NotASocket(path) => {
                write!(f, "cannot bind {}: the file there is not a socket", path.display())
            }
            Self::Bind(path, error) => write!(f, "cannot bind {}: {error}", path.display()),
            Self::Passed(cause) => write!(f, "cannot serve a socket of $LISTEN_FDS: {cause}"),
            Self::HandedOver(cause) => {
                write!(f, "cannot serve a socket of the predecessor: {cause}")
            }
        }
    }
}

/// A bound socket.
pub(crate) struct Listener {
    socket: Async<UnixListener>,
    path: PathBuf,
    origin: Origin,
    /// Where its file is: at `path`, or beside it.
    name: PathBuf,
    /// Device and inode of the file, by which it is known to be ours.
    file: Option<(u64, u64)>,
}

/// Where a socket comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Origin {
    Bound,
    /// Bound under a name beside its own, which another process still serves.
    BoundBeside,
    /// Bound by systemd, whose business its file is.
    Passed,
    /// The predecessor's, and in its place.
    Adopted,
    /// The predecessor's, which removes the file when it leaves.
    Inherited,
}

impl Listener {
    /// Binds `path`; a socket that nobody listens on any more is replaced.
    pub(crate) fn bind(path: &Path) -> Result<Self, Error> {
        let _alone = lock_directory(path);
        Self::bind_alone(path)
    }

    fn bind_alone(path: &Path) -> Result<Self, Error> {
        let fails = |error| Error::Bind(path.to_owned(), error);
        let socket = match UnixListener::bind(path) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                remove_stale(path)?;
                UnixListener::bind(path).map_err(fails)?
            }
            bound => bound.map_err(fails)?,
        };
        let socket = Async::new(socket).map_err(fails)?;
        let (path, name, file) = (path.to_owned(), path.to_owned(), identity(path));
        Ok(Self { socket, path, origin: Origin::Bound, name, file })
    }

    /// Binds a socket for `path`, which a predecessor may still serve; also says whether one does.
    ///
    /// Where it does, the socket waits under a name beside it until the predecessor hands over its
    /// own, or, if it is a program that cannot, takes its place in one step (rename(2)), so that
    /// there is no moment at which a client finds none.
    pub(crate) fn take_over(path: &Path) -> Result<(Self, bool), Error> {
        let _alone = lock_directory(path);
        if !is_live(path) {
            return Ok((Self::bind_alone(path)?, false));
        }
        let mut listener = Self::bind_beside(path)?;
        path.clone_into(&mut listener.path);
        listener.origin = Origin::BoundBeside;
        Ok((listener, true))
    }

    /// Binds the first name beside `path` under which no other successor waits.
    fn bind_beside(path: &Path) -> Result<Self, Error> {
        let mut others = 0;
        loop {
            match Self::bind_alone(&beside(path, others)) {
                Err(Error::InUse(_)) if others < BESIDES => others += 1,
                bound => return bound,
            }
        }
    }

    /// Takes a socket that systemd passed.
    pub(crate) fn passed(socket: OwnedFd) -> Result<Self, Error> {
        check(&socket).map_err(Error::Passed)?;
        Self::of(socket)
    }

    fn of(socket: OwnedFd) -> Result<Self, Error> {
        let socket = UnixListener::from(socket);
        let path = named(socket.local_addr());
        let socket = Async::new(socket).map_err(|error| Error::Bind(path.clone(), error))?;
        let name = path.clone();
        Ok(Self { socket, path, origin: Origin::Passed, name, file: None })
    }

    /// Takes a socket that the predecessor handed over; the file of `in_place` becomes ours.
    pub(crate) fn handed_over(socket: OwnedFd, in_place: Option<&Path>) -> Result<Self, Error> {
        check(&socket).map_err(Error::HandedOver)?;
        let mut listener = Self::of(socket)?;
        let is_in_place = in_place == Some(&listener.path);
        listener.origin = if is_in_place { Origin::Adopted } else { Origin::Inherited };
        Ok(listener)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Has the task woken when a client waits; ready when one may wait.
    ///
    /// It is looked first: async-io does not count what it has seen in the round in which it was asked,
    /// and asks again in the next, which is the round in which it then sees it.
    /// On a busy machine a client waited for up to 0.2 s (measured) until the two threads got out of
    /// step.
    pub(crate) fn poll_accept(&self, context: &mut Context<'_>) -> Poll<()> {
        if self.has_client() {
            return Poll::Ready(());
        }
        // An error shows again where the client is accepted.
        self.socket.poll_readable(context).map(drop)
    }

    /// Whether a client waits.
    pub(crate) fn has_client(&self) -> bool {
        let mut socket = [PollFd::new(&self.socket, PollFlags::IN)];
        poll(&mut socket, Some(&Timespec::default())).is_ok_and(|ready| ready > 0)
    }

    /// Accepts a client that waits, as [`has_client`](Self::has_client) has just said.
    ///
    /// That a passed socket does not block is not ours to say: O_NONBLOCK belongs to all who hold
    /// it, and PID 1 takes it away when it starts the successor, unless that unit says
    /// `NonBlocking=yes`.
    /// A predecessor then stood in accept(2) until its watchdog ended it (seen on systemd 252 and
    /// 257).
    /// So it is asked first; nobody else accepts while we do, so a client that waits stays.
    /// That also tells a lack of descriptors (EMFILE) with somebody waiting from one without.
    pub(crate) fn accept(&self) -> io::Result<UnixStream> {
        self.socket.get_ref().accept().map(|(stream, _)| stream)
    }

    /// Whether its name goes with the predecessor.
    pub(crate) fn is_inherited(&self) -> bool {
        self.origin == Origin::Inherited
    }

    /// The place is ours for good: clients see our credentials, and find us under the name.
    pub(crate) fn settle(&mut self) {
        match self.origin {
            Origin::Bound => {}
            Origin::BoundBeside => match fs::rename(&self.name, &self.path) {
                Ok(()) => {
                    self.origin = Origin::Bound;
                    self.path.clone_into(&mut self.name);
                }
                Err(error) => log::error!("cannot take over {}: {error}", self.path.display()),
            },
            // SO_PEERCRED shows a client whoever called listen(2) last: PID 1, or the predecessor.
            // The kernel cuts the backlog to net.core.somaxconn.
            Origin::Passed | Origin::Adopted | Origin::Inherited => {
                if let Err(error) = listen(&self.socket, i32::MAX) {
                    log::warn!("cannot renew the credentials of {}: {error}", self.path.display());
                }
            }
        }
        if self.origin == Origin::Adopted {
            self.file = identity(&self.path);
        }
    }

    /// Leaves the file to the successor.
    pub(crate) fn leave_file(&mut self) {
        self.file = None;
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if self.file.is_some() && identity(&self.name) == self.file {
            remove(&self.name);
        }
    }
}

/// Whether clients could be accepted from this.
fn check(socket: &OwnedFd) -> Result<(), &'static str> {
    if socket_domain(socket) != Ok(AddressFamily::UNIX) {
        return Err("it is not a UNIX socket");
    }
    if socket_acceptconn(socket) != Ok(true) {
        return Err("it does not listen");
    }
    Ok(())
}

/// The name of a socket that waits, as so many others do, to take the place of the one at `path`.
fn beside(path: &Path, others: u32) -> PathBuf {
    let mut beside = OsString::from(path);
    beside.push(BESIDE);
    if others > 0 {
        beside.push(others.to_string());
    }
    beside.into()
}

/// The listener's path that a client connected to; empty where it has none.
pub(crate) fn path_of(stream: &Async<UnixStream>) -> PathBuf {
    named(stream.get_ref().local_addr())
}

/// The path that an address stands for.
///
/// A socket that was bound beside its place has taken it since, and keeps the old name in the
/// kernel.
fn named(address: io::Result<SocketAddr>) -> PathBuf {
    let path = address.ok().and_then(|address| address.as_pathname().map(in_place_of));
    path.unwrap_or_default()
}

/// The name whose place [`beside`] this one is; any other is its own.
fn in_place_of(path: &Path) -> PathBuf {
    let bytes = path.as_os_str().as_bytes();
    let digits = bytes.iter().rev().take_while(|byte| byte.is_ascii_digit()).count();
    let named = bytes.get(..bytes.len() - digits).unwrap_or(bytes);
    let in_place = named.strip_suffix(BESIDE.as_bytes()).unwrap_or(bytes);
    Path::new(OsStr::from_bytes(in_place)).to_owned()
}

const BESIDE: &str = ".successor";

/// How many others may wait beside the same socket: more are a mistake in somebody's unit.
const BESIDES: u32 = 9;

/// Keeps others who bind in the same directory out, until the lock is dropped.
///
/// Between a look at a socket and its removal, and between bind(2) and listen(2), another process
/// that starts at the same time would take a live socket for a stale one (three at once left two
/// alive in 4 of 150 tries).
/// Where the lock is not to be had, the socket is bound without: whoever may read the directory
/// can hold it, and must not keep the service from starting.
fn lock_directory(path: &Path) -> Option<OwnedFd> {
    let directory = path.parent().filter(|directory| !directory.as_os_str().is_empty());
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = open(directory.unwrap_or(Path::new(".")), flags, Mode::empty()).ok()?;
    for _ in 0..LOCK_TRIES {
        if flock(&directory, FlockOperation::NonBlockingLockExclusive).is_ok() {
            return Some(directory);
        }
        thread::sleep(LOCK_RETRY);
    }
    None
}

/// How long to wait for others who bind: they need less than a millisecond.
const LOCK_TRIES: u32 = 100;
const LOCK_RETRY: Duration = Duration::from_millis(5);

/// Removes a socket that nobody listens on.
fn remove_stale(path: &Path) -> Result<(), Error> {
    let is_socket = fs::symlink_metadata(path).is_ok_and(|file| file.file_type().is_socket());
    if !is_socket {
        return Err(Error::NotASocket(path.to_owned()));
    }
    if is_live(path) {
        return Err(Error::InUse(path.to_owned()));
    }
    fs::remove_file(path).map_err(|error| Error::Bind(path.to_owned(), error))
}

/// Whether somebody listens on `path`.
///
/// Tried without waiting: a server that hangs, with a full backlog, is there all the same.
fn is_live(path: &Path) -> bool {
    // Connected, or the backlog is full, or we may not ask: only these two say that it is gone.
    !matches!(connect(path), Err(Errno::CONNREFUSED | Errno::NOENT))
}

/// Connects to `path` without waiting: EAGAIN where the backlog is full.
pub(crate) fn connect(path: &Path) -> Result<UnixStream, Errno> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)?;
    Ok(socket.into())
}

fn identity(path: &Path) -> Option<(u64, u64)> {
    let file = fs::symlink_metadata(path).ok()?;
    Some((file.dev(), file.ino()))
}

fn remove(path: &Path) {
    if let Err(error) = fs::remove_file(path) {
        if error.kind() != io::ErrorKind::NotFound {
            log::error!("cannot remove {}: {error}", path.display());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::env;
    use std::process;
    use std::task::Waker;

    #[test]
    fn a_client_that_waits_is_seen_at_the_first_look() {
        let socket = format!("early-service-{}-first-look.sock", process::id());
        let listener = Listener::bind(&env::temp_dir().join(socket)).expect("a scratch socket");
        let mut context = Context::from_waker(Waker::noop());
        assert!(listener.poll_accept(&mut context).is_pending());
        let _client = UnixStream::connect(listener.path()).expect("a listener");
        assert!(listener.poll_accept(&mut context).is_ready());
    }
}
