// SPDX-License-Identifier: Apache-2.0
//! Listener: the socket file that clients connect to.
//!
//! Bound before the actors exist, so that clients can connect, and wait in the backlog, from the
//! first moment on; accepted from in Serving only.
//!
//! It is bound here, passed by a `.socket` unit, whose file is systemd's business, or comes from the
//! predecessor with its file.
//! Where it is bound is compared by what is there and not by how a path is spelled: paths are taken
//! without symbolic links ([`place`]), files are known by device and inode, and the predecessor's
//! listener by the address that the kernel keeps for it.
//! `--rebind` puts a fresh one in the place of the passed one, and its name back in the end.
//!
//! Owns the socket and, where it bound or adopted it, its file.
//! Never removes a file that is not its own: not a live socket, not something else than a socket,
//! not the socket of a successor that took the path over.
//! Ends by being dropped, which removes the file.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::fs;
use std::io;
use std::mem;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, lchown};
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process;
use std::task::{Context, Poll};
use std::thread;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{
    AtFlags, CWD, FileType, FlockOperation, Mode, OFlags, RenameFlags, fcntl_getfl, flock, fstat,
    open, renameat_with, unlinkat,
};
use rustix::io::Errno;
use rustix::net::sockopt::{
    Timeout, set_socket_timeout, socket_acceptconn, socket_domain, socket_peercred, socket_type,
};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, listen, socket_with};
use rustix::process::{geteuid, getpid};
use smol::Async;

use crate::platform::files::with_suffix;

/// A path that cannot be served.
#[derive(Debug)]
pub(crate) enum Error {
    TooLong(&'static str, PathBuf),
    InUse(PathBuf),
    NotASocket(PathBuf),
    Bind(PathBuf, io::Error),
    Rebind(PathBuf, io::Error),
    Passed(&'static str),
    PassedAlready(PathBuf),
    HandedOver(&'static str),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLong(what, path) => write!(
                f,
                "cannot {what} {}: the path of a socket has at most {MAX_PATH} bytes, and this one \
                 has {}",
                path.display(),
                path.as_os_str().len()
            ),
            Self::InUse(path) => {
                write!(f, "cannot serve {}: another process is listening on it", path.display())
            }
            Self::NotASocket(path) => {
                write!(f, "cannot bind {}: the file there is not a socket", path.display())
            }
            Self::Bind(path, error) => write!(f, "cannot bind {}: {error}", path.display()),
            Self::Rebind(path, error) => write!(f, "cannot rebind {}: {error}", path.display()),
            Self::Passed(cause) => write!(f, "cannot serve a socket of $LISTEN_FDS: {cause}"),
            Self::PassedAlready(path) => write!(
                f,
                "cannot take over {}: systemd passes that socket, and its server is to be named by \
                 --client-socket-path",
                path.display()
            ),
            Self::HandedOver(cause) => {
                write!(f, "cannot serve a socket of the predecessor: {cause}")
            }
        }
    }
}

/// A bound socket.
pub(crate) struct Listener {
    socket: Async<UnixListener>,
    /// The one that systemd passed, once `socket` has taken its place: who connected before waits in
    /// its queue, and it is what the name stands for again in the end.
    passed: Option<Async<UnixListener>>,
    /// The one whose name disappeared, until nobody waits in its queue any more.
    nameless: Option<Async<UnixListener>>,
    /// Where clients find it, without symbolic links; `@NAME` for one in the abstract namespace, and
    /// empty for one that is nowhere.
    path: PathBuf,
    origin: Origin,
    /// Where its file is: at `path`, or beside it; empty where it has none.
    name: PathBuf,
    /// Device and inode of the file, by which it is known to be this socket's.
    file: Option<(u64, u64)>,
    /// Whether the file is removed in the end.
    owns_file: bool,
    /// Owner, group and mode of the file when it was last seen.
    access: Option<(u32, u32, u32)>,
    /// Why clients do not find it by its name, if that is so and nothing can be done about it.
    lost: Option<String>,
    /// Whether its directory was missing at the last look.
    misses_directory: bool,
}

/// What a look at the name of a listener came to.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Name {
    /// Clients find it, or there is none to be found by.
    Stands,
    /// It was gone, and stands for a fresh socket now.
    Renewed,
    /// It stands for something else. Holds the line to log, if that changed.
    Lost(Option<String>),
}

/// Where a socket comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Origin {
    Bound,
    /// Bound under a name beside its own, which another process still serves.
    BoundBeside,
    /// Bound by systemd, whose business its file is.
    Passed,
    /// The same, and a fresh one is to take its place.
    PassedToRebind,
    /// The fresh one, in its place.
    Rebound,
    /// The predecessor's, and in its place.
    Adopted,
    /// The predecessor's, which removes the file when it leaves.
    Inherited,
}

impl Listener {
    /// Binds `path`; a socket that nobody listens on any more is replaced.
    pub(crate) fn bind(path: &Path) -> Result<Self, Error> {
        check_length("bind", path)?;
        let path = place(path);
        let _guard = Guard::take(&path);
        Self::bind_alone(&path)
    }

    fn bind_alone(path: &Path) -> Result<Self, Error> {
        let socket = bind(path)?;
        let (path, name, file) = (path.to_owned(), path.to_owned(), identity(path));
        let mut listener = Self::at(socket, path, name, Origin::Bound);
        (listener.file, listener.owns_file) = (file, true);
        Ok(listener)
    }

    /// Binds a socket for `path`, which a predecessor may still serve; also says whether one does.
    ///
    /// Where it does, the socket waits under a name beside it until the predecessor hands over its
    /// own, or, if it is a program that cannot, takes its place in one step (rename(2)), so that
    /// there is no moment at which a client finds none.
    pub(crate) fn take_over(path: &Path) -> Result<(Self, bool), Error> {
        check_length("take over", path)?;
        let path = place(path);
        let _guard = Guard::take(&path);
        if !is_live(&path) {
            return Ok((Self::bind_alone(&path)?, false));
        }
        let mut listener = Self::bind_beside(&path)?;
        listener.path = path;
        listener.origin = Origin::BoundBeside;
        Ok((listener, true))
    }

    /// Binds the first name beside `path` under which no other successor waits.
    fn bind_beside(path: &Path) -> Result<Self, Error> {
        let mut others = 0;
        loop {
            match Self::bind_alone(&beside(path, others)) {
                Err(Error::InUse(_)) if others < MAX_WAITING => others += 1,
                bound => return bound,
            }
        }
    }

    /// Takes a socket that systemd passed, and that was checked; a fresh one may be to take its place once we serve.
    pub(crate) fn passed(socket: OwnedFd, rebind: bool) -> Result<Self, Error> {
        let mut listener = Self::of(socket)?;
        if rebind {
            if listener.name.as_os_str().is_empty() {
                return Err(Error::Passed("it has no path at which to rebind it"));
            }
            listener.origin = Origin::PassedToRebind;
            // A process that was killed has left a dead socket in the place: from now on clients
            // wait again instead of being refused.
            let _guard = Guard::take(&listener.path);
            if is_live(&aside(&listener.path)) && !is_live(&listener.path) {
                put_back(&listener.path);
            }
        }
        Ok(listener)
    }

    fn of(socket: OwnedFd) -> Result<Self, Error> {
        let socket = UnixListener::from(socket);
        let address = socket.local_addr();
        let name = named(&address);
        let is_known = !name.as_os_str().is_empty() && !name.starts_with(DESCRIPTORS);
        let name = if is_known { place(&name) } else { PathBuf::new() };
        let path = if name.as_os_str().is_empty() { abstract_name(&address) } else { name.clone() };
        let socket = Async::new(socket).map_err(|error| Error::Bind(path.clone(), error))?;
        Ok(Self::at(socket, path, name, Origin::Passed))
    }

    fn at(socket: Async<UnixListener>, path: PathBuf, name: PathBuf, origin: Origin) -> Self {
        Self {
            socket,
            passed: None,
            nameless: None,
            path,
            origin,
            name,
            file: None,
            owns_file: false,
            access: None,
            lost: None,
            misses_directory: false,
        }
    }

    /// Takes a socket that the predecessor handed over on `connection`.
    ///
    /// If it is the one by which we came, its file at `in_place` becomes ours: we know it by the
    /// address that both have in the kernel, for the predecessor may spell its path otherwise.
    pub(crate) fn handed_over(
        socket: OwnedFd,
        in_place: Option<&Path>,
        connection: &Async<UnixStream>,
    ) -> Result<Self, Error> {
        check(&socket).map_err(Error::HandedOver)?;
        let mut listener = Self::of(socket)?;
        listener.origin = Origin::Inherited;
        if !named(&listener.socket.get_ref().local_addr()).is_absolute() {
            // It is relative to the predecessor's directory, which is not known here.
            listener.name = PathBuf::new();
        }
        let is_same =
            are_same(&listener.socket.get_ref().local_addr(), &connection.get_ref().peer_addr());
        if let Some(path) = in_place.filter(|_| is_same) {
            listener.origin = Origin::Adopted;
            listener.path = place(path);
            listener.path.clone_into(&mut listener.name);
        }
        Ok(listener)
    }

    /// Whether clients find this listener at `path`, however that is spelled.
    pub(crate) fn is_at(&self, path: &Path) -> bool {
        !self.name.as_os_str().is_empty() && are_one_place(&self.name, path)
    }

    /// Whether `other` is the same socket.
    pub(crate) fn is_same_as(&self, other: &Self) -> bool {
        let socket = |listener: &Self| fstat(&listener.socket).map(|open| open.st_ino);
        socket(self).is_ok_and(|ours| socket(other) == Ok(ours))
    }

    /// Whether the client on the other end of `stream` connected to this listener.
    pub(crate) fn has_accepted(&self, stream: &Async<UnixStream>) -> bool {
        let address = stream.get_ref().local_addr();
        self.sockets().any(|socket| are_same(&socket.get_ref().local_addr(), &address))
    }

    /// The owner of its file; `None` if there is another file under its name, or none.
    pub(crate) fn owner(&self) -> Option<u32> {
        let file = fs::symlink_metadata(&self.name).ok()?;
        let is_its_own =
            file.file_type().is_socket() && self.file == Some((file.dev(), file.ino()));
        is_its_own.then(|| file.uid())
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
        let ready = self.sockets().map(|socket| socket.poll_readable(context).is_ready());
        if ready.fold(false, |any, ready| any | ready) { Poll::Ready(()) } else { Poll::Pending }
    }

    /// Whether a client waits.
    pub(crate) fn has_client(&self) -> bool {
        self.with_client().is_some()
    }

    /// The socket on which a client waits; the older one first, for nobody new comes to it.
    fn with_client(&self) -> Option<&Async<UnixListener>> {
        self.sockets().find(|socket| {
            let mut socket = [PollFd::new(socket, PollFlags::IN)];
            poll(&mut socket, Some(&Timespec::default())).is_ok_and(|ready| ready > 0)
        })
    }

    /// The sockets to accept from: an older one that somebody has shut down stays readable for ever,
    /// and nobody comes by it any more.
    fn sockets(&self) -> impl Iterator<Item = &Async<UnixListener>> {
        let older = self.passed.iter().chain(&self.nameless);
        older.filter(|socket| state_of(socket) != State::Shut).chain([&self.socket])
    }

    /// Accepts a client that waits, as [`has_client`](Self::has_client) has just said.
    ///
    /// That also tells a lack of descriptors (EMFILE) with somebody waiting from one without.
    /// `InvalidInput` says that somebody has shut the socket down.
    pub(crate) fn accept(&self) -> io::Result<UnixStream> {
        let socket = self.with_client().unwrap_or(&self.socket);
        accept_at_once(socket.get_ref()).map_err(|error| match error.kind() {
            // accept(2) says EAGAIN there, and poll(2) that a client waits: both for ever.
            io::ErrorKind::WouldBlock if state_of(socket) == State::Shut => {
                io::ErrorKind::InvalidInput.into()
            }
            _ => error,
        })
    }

    /// Whether its name goes with the predecessor.
    pub(crate) fn is_inherited(&self) -> bool {
        self.origin == Origin::Inherited
    }

    /// The place is ours for good: clients see our credentials, and find us under the name.
    pub(crate) fn settle(&mut self) {
        if self.origin == Origin::PassedToRebind {
            self.origin = Origin::Rebound;
            if let Err(error) = self.rebind() {
                log::error!("{error}; the socket that systemd passed is served as it is");
                self.origin = Origin::Passed;
            }
        }
        match self.origin {
            Origin::Bound | Origin::Rebound | Origin::PassedToRebind => {}
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
                if self.file.is_none() && is_socket(&self.name) {
                    self.file = identity(&self.name);
                }
            }
        }
        self.owns_file |= self.origin == Origin::Adopted;
    }

    /// Puts a fresh socket in the place of the passed one, in one step: there is no moment at which a
    /// client finds none.
    ///
    /// Without the guard, for which this process would have to wait: other processes of ours look at
    /// `PATH.passed` at their start, and leave it alone while this socket is live.
    ///
    /// The two exchange their names.
    /// So the old one keeps one, and can have its place again when we are gone: PID 1 listens on it, and
    /// lets clients wait.
    fn rebind(&mut self) -> Result<(), Error> {
        let aside = aside(&self.path);
        let fresh = bind(&aside)?;
        let exchanged = fs::symlink_metadata(&self.path)
            .and_then(|old| fs::set_permissions(&aside, old.permissions()))
            .and_then(|()| Ok(renameat_with(CWD, &aside, CWD, &self.path, RenameFlags::EXCHANGE)?));
        if let Err(error) = exchanged {
            remove(&aside);
            return Err(Error::Rebind(self.path.clone(), error));
        }
        self.passed = Some(mem::replace(&mut self.socket, fresh));
        self.file = identity(&self.path);
        self.owns_file = true;
        Ok(())
    }

    /// Looks whether clients find this listener by its name; if the name is gone, binds a fresh socket
    /// there, and serves from the old one whoever waits in its queue.
    ///
    /// `is_alone` says that no predecessor has a copy: then it is also tried whether a passed socket
    /// is what its name stands for, which PID 1 does not look at.
    pub(crate) fn keep_name(&mut self, is_alone: bool) -> Name {
        self.nameless = self.nameless.take().filter(|socket| state_of(socket) == State::Waited);
        let may_look = match self.origin {
            Origin::Bound | Origin::Adopted | Origin::Passed | Origin::Rebound => true,
            Origin::BoundBeside | Origin::PassedToRebind | Origin::Inherited => false,
        };
        if !may_look || self.name.as_os_str().is_empty() {
            return Name::Stands;
        }
        let is_shut = state_of(&self.socket) == State::Shut;
        let there = fs::symlink_metadata(&self.name).ok();
        match &there {
            Some(file) if self.file == Some((file.dev(), file.ino())) && !is_shut => {
                let is_tried = is_alone && self.origin == Origin::Passed;
                if !is_tried || self.is_reachable() {
                    self.access = Some((file.uid(), file.gid(), file.mode() & 0o7777));
                    self.lost = None;
                    return Name::Stands;
                }
            }
            // A survivor that has not followed PID 1 yet sees no file at all.
            None if !Path::new("/proc/self").exists() => return Name::Stands,
            None if !self.name.parent().is_some_and(Path::exists) => {
                // While mounts are moved, for a moment; so it counts at the second look.
                if !mem::replace(&mut self.misses_directory, true) {
                    return Name::Stands;
                }
            }
            Some(_) | None => {}
        }
        self.misses_directory = false;
        match self.renew(is_shut) {
            Ok(()) => {
                self.lost = None;
                Name::Renewed
            }
            Err(error) => {
                let path = self.path.display();
                let line = format!("the name of the socket {path} is gone: {error}");
                let is_news = self.lost.as_ref() != Some(&line);
                self.lost = Some(line.clone());
                Name::Lost(is_news.then_some(line))
            }
        }
    }

    /// Whether whoever connects to the name comes to us: we have called listen(2) last.
    fn is_reachable(&self) -> bool {
        match connect(&self.name) {
            Ok(stream) => socket_peercred(&stream).is_ok_and(|peer| peer.pid == getpid()),
            Err(error) => !matches!(error, Errno::CONNREFUSED | Errno::NOENT),
        }
    }

    /// Binds a fresh socket at the name, which nobody else has.
    fn renew(&mut self, is_shut: bool) -> Result<(), Error> {
        // Without waiting for another process of ours that is about to bind it.
        let _guard = Guard::try_take(&self.name);
        let fresh = bind(&self.name)?;
        if let Some((owner, group, mode)) = self.access {
            // Without the right to give it away, the group alone may be one of ours.
            let _ = lchown(&self.name, Some(owner), Some(group))
                .or_else(|_| lchown(&self.name, None, Some(group)));
            let _ = fs::set_permissions(&self.name, fs::Permissions::from_mode(mode));
        }
        let old = mem::replace(&mut self.socket, fresh);
        // From one that was shut down nobody can be accepted any more.
        self.nameless = (!is_shut).then_some(old);
        self.file = identity(&self.name);
        self.owns_file = true;
        if self.origin == Origin::Passed {
            self.origin = Origin::Bound;
        }
        Ok(())
    }

    /// Whether clients do not find it by its name.
    pub(crate) fn is_lost(&self) -> bool {
        self.lost.is_some()
    }

    /// Leaves the file to the successor.
    pub(crate) fn leave_file(&mut self) {
        self.owns_file = false;
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if !self.owns_file || self.file.is_none() || identity(&self.name) != self.file {
            return;
        }
        if self.passed.is_some() {
            put_back(&self.path);
        } else {
            remove(&self.name);
        }
    }
}

/// Accepts a client, or fails with EAGAIN.
///
/// accept(2) has no flag like MSG_DONTWAIT: whether it waits is up to O_NONBLOCK, which belongs to all
/// who hold the socket, and PID 1 clears it when it starts the successor, unless that unit says
/// `NonBlocking=yes`.
/// A predecessor then stood in accept(2) until its watchdog ended it (seen on systemd 252 and 257).
/// So the flag is looked at before each call.
/// Whoever clears it may do so again before the call, and take the client that waits; so from then on
/// the wait has a limit (SO_RCVTIMEO in socket(7)), which is left unset on a socket that nobody meddles
/// with.
fn accept_at_once(listener: &UnixListener) -> io::Result<UnixStream> {
    if !fcntl_getfl(listener)?.contains(OFlags::NONBLOCK) {
        let _ = set_socket_timeout(listener, Timeout::Recv, Some(MOST_WAIT));
        listener.set_nonblocking(true)?;
    }
    listener.accept().map(|(stream, _)| stream)
}

/// How long accept(2) may wait: the shortest that the kernel counts, one of its clock's ticks.
const MOST_WAIT: Duration = Duration::from_millis(1);

/// What can be accepted from a listening socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Idle,
    /// Somebody waits.
    Waited,
    /// Nobody will ever come: another holder of the socket has shut it down.
    Shut,
}

fn state_of(socket: &Async<UnixListener>) -> State {
    let mut socket = [PollFd::new(socket, PollFlags::IN | PollFlags::RDHUP)];
    if !poll(&mut socket, Some(&Timespec::default())).is_ok_and(|ready| ready > 0) {
        return State::Idle;
    }
    let [socket] = socket;
    let is_shut = socket.revents().intersects(PollFlags::RDHUP | PollFlags::HUP);
    if is_shut { State::Shut } else { State::Waited }
}

/// Binds `path`, and replaces a socket there that nobody listens on.
fn bind(path: &Path) -> Result<Async<UnixListener>, Error> {
    let fails = |error| Error::Bind(path.to_owned(), error);
    let socket = match bind_new(path) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            remove_stale(path)?;
            bind_new(path).map_err(fails)?
        }
        bound => bound.map_err(fails)?,
    };
    Async::new(socket).map_err(fails)
}

/// Binds `path` if nothing is there; EADDRINUSE otherwise.
///
/// A path that is longer than an address of the kernel's, such as one with a suffix or in a directory
/// that was named by a symbolic link, is bound by a short name in its directory first and then renamed;
/// the short name is what the kernel shows of it.
fn bind_new(path: &Path) -> io::Result<UnixListener> {
    if path.as_os_str().len() <= MAX_PATH {
        return UnixListener::bind(path);
    }
    let (Some(directory), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = open(directory, flags, Mode::empty())?;
    let short = format!(".early-service.{}", process::id());
    let reachable = Path::new(DESCRIPTORS).join(directory.as_raw_fd().to_string());
    // One of a process that was killed in between, and had our number.
    let _ = unlinkat(&directory, &short, AtFlags::empty());
    let socket = UnixListener::bind(reachable.join(&short))?;
    let renamed = renameat_with(&directory, &short, &directory, name, RenameFlags::NOREPLACE);
    renamed.map(|()| socket).map_err(|error| {
        let _ = unlinkat(&directory, &short, AtFlags::empty());
        if error == Errno::EXIST { io::ErrorKind::AddrInUse.into() } else { error.into() }
    })
}

/// Where a descriptor is a path, of this process alone.
const DESCRIPTORS: &str = "/proc/self/fd";

/// The most bytes of a path that an address has room for (`sun_path` in unix(7)), without the NUL.
pub(crate) const MAX_PATH: usize = 107;

/// Refuses a path by which no client could connect.
pub(crate) fn check_length(what: &'static str, path: &Path) -> Result<(), Error> {
    let fits = path.as_os_str().len() <= MAX_PATH;
    if fits { Ok(()) } else { Err(Error::TooLong(what, path.to_owned())) }
}

/// Where the socket file that `path` names is, or is to be: an absolute path without symbolic links.
///
/// A path that leads nowhere stays as it is, for whatever is done with it then says why.
pub(crate) fn place(path: &Path) -> PathBuf {
    let mut place = path.to_owned();
    for _ in 0..MAX_LINKS {
        let Some(name) = place.file_name() else { break };
        let directory = place.parent().filter(|directory| !directory.as_os_str().is_empty());
        let Ok(directory) = fs::canonicalize(directory.unwrap_or(Path::new("."))) else { break };
        let found = directory.join(name);
        match followed(&found) {
            Some(target) => place = directory.join(target),
            None => return found,
        }
    }
    path.to_owned()
}

/// What the kernel allows too.
const MAX_LINKS: u32 = 40;

/// Where a symbolic link leads; one of a stranger is not followed, for it may lead anywhere.
fn followed(link: &Path) -> Option<PathBuf> {
    let target = fs::read_link(link).ok()?;
    let owner = fs::symlink_metadata(link).ok()?.uid();
    (owner == 0 || owner == geteuid().as_raw()).then_some(target)
}

/// Whether both paths name one socket, or the place of one.
pub(crate) fn are_one_place(one: &Path, other: &Path) -> bool {
    let file = |path| fs::metadata(path).ok().map(|file| (file.dev(), file.ino()));
    one == other
        || place(one) == place(other)
        || file(one).is_some_and(|one| file(other) == Some(one))
}

/// Whether both are the address of one socket: the one that it was bound by.
fn are_same(one: &io::Result<SocketAddr>, other: &io::Result<SocketAddr>) -> bool {
    let (Ok(one), Ok(other)) = (one, other) else { return false };
    match (one.as_pathname(), one.as_abstract_name()) {
        (Some(path), _) => other.as_pathname() == Some(path),
        (None, Some(name)) => other.as_abstract_name() == Some(name),
        (None, None) => false,
    }
}

/// Gives a passed socket its place again.
fn put_back(path: &Path) {
    if let Err(error) = fs::rename(aside(path), path) {
        log::error!("cannot put the passed socket back at {}: {error}", path.display());
    }
}

/// Whether clients could be accepted from this.
pub(crate) fn check(socket: &OwnedFd) -> Result<(), &'static str> {
    match check_stream(socket)? {
        true => Ok(()),
        false => Err("it does not listen"),
    }
}

/// Whether this is a socket as clients have it; also says whether it listens.
pub(crate) fn check_stream(socket: &OwnedFd) -> Result<bool, &'static str> {
    if socket_domain(socket) != Ok(AddressFamily::UNIX) {
        return Err("it is not a UNIX socket");
    }
    if socket_type(socket) != Ok(SocketType::STREAM) {
        return Err("it is not a stream socket");
    }
    Ok(socket_acceptconn(socket) == Ok(true))
}

/// The name of a socket that waits, as so many others do, to take the place of the one at `path`.
fn beside(path: &Path, others: u32) -> PathBuf {
    let mut beside = OsString::from(path);
    beside.push(SUCCESSOR_SUFFIX);
    if others > 0 {
        beside.push(others.to_string());
    }
    beside.into()
}

/// The path that the server on the other end knows its listener by; empty where it has none.
pub(crate) fn path_of_peer(stream: &Async<UnixStream>) -> PathBuf {
    named(&stream.get_ref().peer_addr())
}

/// The path that an address stands for.
///
/// A socket that was bound beside its place has taken it since, and keeps the old name in the
/// kernel.
fn named(address: &io::Result<SocketAddr>) -> PathBuf {
    let path = address.as_ref().ok().and_then(|address| address.as_pathname().map(in_place_of));
    path.unwrap_or_default()
}

/// The name of a socket in the abstract namespace, as systemd writes it.
fn abstract_name(address: &io::Result<SocketAddr>) -> PathBuf {
    let name = address.as_ref().ok().and_then(SocketAddr::as_abstract_name);
    name.map(|name| format!("@{}", name.escape_ascii()).into()).unwrap_or_default()
}

/// The name of a passed socket while a fresh one has its place, and the one that this was bound by.
fn aside(path: &Path) -> PathBuf {
    with_suffix(path, SAVED_SUFFIX)
}

/// The name whose place [`beside`] or [`aside`] this one is; any other is its own.
fn in_place_of(path: &Path) -> PathBuf {
    let bytes = path.as_os_str().as_bytes();
    if let Some(in_place) = bytes.strip_suffix(SAVED_SUFFIX.as_bytes()) {
        return Path::new(OsStr::from_bytes(in_place)).to_owned();
    }
    let digits = bytes.iter().rev().take_while(|byte| byte.is_ascii_digit()).count();
    let named = bytes.get(..bytes.len() - digits).unwrap_or(bytes);
    let in_place = named.strip_suffix(SUCCESSOR_SUFFIX.as_bytes()).unwrap_or(bytes);
    Path::new(OsStr::from_bytes(in_place)).to_owned()
}

const SUCCESSOR_SUFFIX: &str = ".successor";
const SAVED_SUFFIX: &str = ".passed";

/// How many others may wait beside the same socket: more are a mistake in somebody's unit.
const MAX_WAITING: u32 = 9;

/// Keeps out other processes of ours that start at the same time on the same path, until the guard is
/// dropped.
///
/// Between a look at a socket and its removal, and between bind(2) and listen(2), another process
/// that starts at the same time would take a live socket for a stale one (three at once left two
/// alive in 4 of 150 tries).
///
/// It is the lock of a file that only our own user can open, made for the purpose and removed again: a
/// lock that strangers can hold, such as that of the directory, would let them delay the start.
/// If the guard cannot be had, the socket is bound without it.
struct Guard {
    file: OwnedFd,
    path: PathBuf,
}

impl Guard {
    /// Waits for other processes of our own, and for nobody else; only to be called at the start.
    fn take(path: &Path) -> Option<Self> {
        let path = with_suffix(path, GUARD);
        for _ in 0..GUARD_TRIES {
            match Self::lock(&path) {
                Ok(guard) => return Some(guard),
                Err(Errno::WOULDBLOCK) => thread::sleep(GUARD_RETRY),
                // The process that had it before has removed the file that we opened.
                Err(Errno::STALE) => {}
                Err(_) => return None,
            }
        }
        None
    }

    /// Takes the guard unless another process has it now.
    fn try_take(path: &Path) -> Option<Self> {
        Self::lock(&with_suffix(path, GUARD)).ok()
    }

    fn lock(path: &Path) -> Result<Self, Errno> {
        let file = open_private(path).ok_or(Errno::PERM)?;
        flock(&file, FlockOperation::NonBlockingLockExclusive)?;
        let path = path.to_owned();
        if is_at(&file, &path) { Ok(Self { file, path }) } else { Err(Errno::STALE) }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        // While it is locked: whoever opened it sees that it is no longer there.
        if is_at(&self.file, &self.path) {
            remove(&self.path);
        }
    }
}

/// Opens a file that belongs to us and that nobody else can open, and makes it if it is not there.
fn open_private(path: &Path) -> Option<OwnedFd> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let file = open(path, flags | OFlags::CLOEXEC, Mode::RUSR | Mode::WUSR).ok()?;
    let status = fstat(&file).ok()?;
    let is_file = FileType::from_raw_mode(status.st_mode) == FileType::RegularFile;
    let is_private = status.st_uid == geteuid().as_raw() && status.st_mode & 0o077 == 0;
    (is_file && is_private).then_some(file)
}

/// Whether the name stands for this file.
fn is_at(file: &OwnedFd, path: &Path) -> bool {
    let opened = fstat(file).ok();
    opened.is_some_and(|opened| identity(path) == Some((opened.st_dev, opened.st_ino)))
}

/// The name of the guard's file, after that of the socket.
const GUARD: &str = ".lock";

/// How long to wait for other processes of ours that bind: they need less than a millisecond.
const GUARD_TRIES: u32 = 100;
const GUARD_RETRY: Duration = Duration::from_millis(5);

/// Removes the socket that two processes of a handoff had, once both have closed it.
///
/// Each calls it after it has closed its own copy, so the last one finds that nobody listens.
/// A process that starts at the same moment has the guard, and replaces the file itself.
pub(crate) fn remove_if_dead(path: &Path) {
    // A link of ours stays, and what it leads to goes.
    let path = place(path);
    // Looked at first: the guard of one that finds the other alive would keep that one from removing
    // the file a moment later.
    if is_live(&path) {
        return;
    }
    if let Some(_guard) = Guard::try_take(&path) {
        // It fails for a socket that somebody listens on by now.
        let _ = remove_stale(&path);
    }
}

/// Removes a socket that nobody listens on.
fn remove_stale(path: &Path) -> Result<(), Error> {
    match fs::symlink_metadata(path) {
        Ok(file) if file.file_type().is_socket() => {}
        Ok(_) => return Err(Error::NotASocket(path.to_owned())),
        // Its owner has just removed it.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(Error::Bind(path.to_owned(), error)),
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
    if path.as_os_str().len() <= MAX_PATH {
        rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)?;
    } else {
        // As the path itself would, this leads to the file, whatever its name's length.
        let file = open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
        let reachable = Path::new(DESCRIPTORS).join(file.as_raw_fd().to_string());
        rustix::net::connect(&socket, &SocketAddrUnix::new(reachable)?)?;
    }
    Ok(socket.into())
}

fn is_socket(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|file| file.file_type().is_socket())
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
    use std::sync::mpsc;
    use std::task::Waker;

    #[test]
    fn accepting_does_not_wait_though_another_holder_cleared_the_flag() {
        let socket = format!("early-service-{}-flag.sock", process::id());
        let listener = Listener::bind(&env::temp_dir().join(socket)).expect("a scratch socket");
        listener.socket.get_ref().set_nonblocking(false).expect("a socket");
        let (told, accepted) = mpsc::channel();
        thread::spawn(move || {
            let socket = listener.socket.get_ref();
            let at_once = accept_at_once(socket).map(drop);
            // As if it had been cleared again just before the call.
            socket.set_nonblocking(false).expect("a socket");
            told.send([at_once, socket.accept().map(drop)])
        });
        let accepted = accepted.recv_timeout(Duration::from_secs(30)).expect("neither waits");
        for accepted in accepted {
            assert_eq!(accepted.map_err(|error| error.kind()), Err(io::ErrorKind::WouldBlock));
        }
    }

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
