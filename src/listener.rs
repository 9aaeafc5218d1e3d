// SPDX-License-Identifier: Apache-2.0
//! Listener: the socket file that clients connect to.
//!
//! Bound before the actors exist, so that clients can connect, and wait in the backlog, from the
//! first moment on; accepted from in Serving only.
//!
//! It is bound here, or passed by a `.socket` unit, whose file is systemd's business.
//!
//! Owns the socket and, where it bound it, its file.
//! Never removes a file that is not its own: not a live socket, not something else than a socket,
//! not the socket of a successor that took the path over.
//! Ends by being dropped, which removes the file.

use std::ffi::OsString;
use std::fmt;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::task::{Context, Poll};
use std::thread;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{CWD, FlockOperation, Mode, OFlags, RenameFlags, flock, open, renameat_with};
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
    Exchange(PathBuf, Errno),
    Passed(&'static str),
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
            Self::Exchange(path, error) => {
                write!(f, "cannot take over {}: {error}", path.display())
            }
        }
    }
}

/// A bound socket.
pub(crate) struct Listener {
    socket: Async<UnixListener>,
    path: PathBuf,
    /// Bound by systemd, whose business its file is.
    is_passed: bool,
    /// Device and inode of the file, by which it is known to be ours.
    file: Option<(u64, u64)>,
    /// Where the predecessor's socket stands while we hold its place.
    aside: Option<PathBuf>,
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
        let (path, file) = (path.to_owned(), identity(path));
        Ok(Self { socket, path, is_passed: false, file, aside: None })
    }

    /// Binds `path` in the place of the process that serves it now; also says where that one can be
    /// reached from now on.
    ///
    /// The two sockets exchange their names in one step (`renameat2(2)`), so that there is no
    /// moment at which a client finds none.
    pub(crate) fn take_over(path: &Path) -> Result<(Self, PathBuf), Error> {
        let mut aside = OsString::from(path);
        aside.push(".predecessor");
        let aside = PathBuf::from(aside);
        let _alone = lock_directory(path);
        if !is_live(path) {
            // Nobody is there, unless one who took over before us died while it held the place.
            return Ok((Self::bind_alone(path)?, aside));
        }
        let mut listener = Self::bind_alone(&aside)?;
        renameat_with(CWD, &aside, CWD, path, RenameFlags::EXCHANGE)
            .map_err(|error| Error::Exchange(path.to_owned(), error))?;
        path.clone_into(&mut listener.path);
        listener.aside = Some(aside.clone());
        Ok((listener, aside))
    }

    /// Takes a socket that systemd passed.
    pub(crate) fn passed(socket: OwnedFd) -> Result<Self, Error> {
        if socket_domain(&socket) != Ok(AddressFamily::UNIX) {
            return Err(Error::Passed("it is not a UNIX socket"));
        }
        if socket_acceptconn(&socket) != Ok(true) {
            return Err(Error::Passed("it does not listen"));
        }
        let socket = UnixListener::from(socket);
        let address = socket.local_addr().ok();
        let path = address.and_then(|address| address.as_pathname().map(Path::to_owned));
        let path = path.unwrap_or_default();
        let socket = Async::new(socket).map_err(|error| Error::Bind(path.clone(), error))?;
        Ok(Self { socket, path, is_passed: true, file: None, aside: None })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Has the task woken when a client waits; ready when one may wait.
    pub(crate) fn poll_accept(&self, context: &mut Context<'_>) -> Poll<()> {
        // An error shows again where the client is accepted.
        self.socket.poll_readable(context).map(drop)
    }

    /// Accepts a client that waits; `WouldBlock` where none does.
    ///
    /// That a passed socket does not block is not ours to say: O_NONBLOCK belongs to all who hold
    /// it, and PID 1 takes it away when it starts the successor, unless that unit says
    /// `NonBlocking=yes`.
    /// A predecessor then stood in accept(2) until its watchdog ended it (seen on systemd 252 and
    /// 257).
    /// So it is asked first; nobody else accepts while we do, so a client that waits stays.
    /// That also tells a lack of descriptors (EMFILE) with somebody waiting from one without.
    pub(crate) fn accept(&self) -> io::Result<UnixStream> {
        let mut socket = [PollFd::new(&self.socket, PollFlags::IN)];
        if poll(&mut socket, Some(&Timespec::default()))? == 0 {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        self.socket.get_ref().accept().map(|(stream, _)| stream)
    }

    /// The place is ours for good: clients see our credentials, the predecessor's name goes.
    pub(crate) fn settle(&mut self) {
        // SO_PEERCRED shows a client whoever called listen(2) last: for a passed socket, PID 1.
        // The kernel cuts the backlog to net.core.somaxconn.
        if self.is_passed {
            if let Err(error) = listen(&self.socket, i32::MAX) {
                log::warn!("cannot renew the credentials of {}: {error}", self.path.display());
            }
        }
        if let Some(aside) = self.aside.take() {
            remove(&aside);
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        match self.aside.take() {
            // We never became the owner: the predecessor gets its place back.
            Some(aside) => {
                if let Err(error) = fs::rename(&aside, &self.path) {
                    log::error!("cannot move {} back: {error}", aside.display());
                }
            }
            None if self.file.is_some() && identity(&self.path) == self.file => remove(&self.path),
            None => {}
        }
    }
}

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
