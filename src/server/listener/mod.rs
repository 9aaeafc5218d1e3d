// SPDX-License-Identifier: Apache-2.0
//! Listener: the socket that clients connect to.
//!
//! It is bound by this process, passed by a `.socket` unit, or received from the predecessor with
//! its file. It is bound before the actors exist, so that clients can connect from the first moment
//! and wait in the backlog. Clients are accepted only while the server serves.
//!
//! Files are compared by device and inode, paths after symbolic links are resolved, and sockets by
//! the kernel's address, because each side of a handoff may spell a path differently.
//!
//! Owns the socket, and its file if it bound or adopted it. A drop removes the file. Never removes
//! a live socket, a file that is not a socket, or the socket of a successor that took over the
//! path.

pub(crate) mod bind;
mod guard;
pub(crate) mod keep;
pub(crate) mod names;

use std::fs;
use std::future::poll_fn;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::task::{Context, Poll};

use rustix::fs::fstat;
use smol::Async;

use crate::platform::files::{self, identity};
use crate::platform::socket::{self, Backlog, backlog};
use crate::server::listener::bind::{Error, bind, check_length, is_live, restore_passed};
use crate::server::listener::guard::Guard;
use crate::server::listener::names::{
    abstract_name, are_same, path_of, saved_name, successor_name,
};

/// How many successors may wait for the same path. A working setup has one; this many are a mistake
/// in a unit. Fewer: successors that were started by mistake keep the right one from starting.
/// More: sockets fill the directory.
const MAX_WAITING: u32 = 9;

pub(crate) struct Listener {
    socket: Async<UnixListener>,
    /// The socket that systemd passed, after a fresh one took its place. Clients that connected
    /// before wait in its backlog, and it is renamed back at the end.
    passed: Option<Async<UnixListener>>,
    /// The socket whose name disappeared, until its backlog is empty.
    nameless: Option<Async<UnixListener>>,
    /// The path by which clients connect, without symbolic links; `@NAME` in the abstract
    /// namespace; empty for a socket without an address.
    path: PathBuf,
    origin: Origin,
    /// The path of its file: `path` or a name beside it; empty if it has no file.
    name: PathBuf,
    /// Device and inode of its file.
    file: Option<(u64, u64)>,
    /// Whether the file is removed when the listener is dropped.
    owns_file: bool,
    /// Owner, group and mode of the file at the last check.
    access: Option<(u32, u32, u32)>,
    /// The line that was logged because clients do not find it by its name.
    lost: Option<String>,
    /// Whether its directory was missing at the last check.
    was_without_directory: bool,
}

/// The source of a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Origin {
    Bound,
    /// Bound under a name beside its path, which a predecessor still serves.
    BoundBeside,
    /// Bound by systemd, which owns the file.
    Passed,
    /// Passed, and to be exchanged for a fresh one when the server serves.
    PassedToRebind,
    /// The fresh one, at its path.
    Rebound,
    /// Received from the predecessor together with its file.
    Adopted,
    /// Received from the predecessor, which removes the file when it leaves.
    Inherited,
}

impl Listener {
    /// Binds `path`; replaces a socket there on which no process listens.
    pub(crate) fn bind(path: &Path) -> Result<Self, Error> {
        check_length("bind", path)?;
        let path = files::resolve(path);
        let _guard = Guard::take(&path);
        Self::bind_guarded(&path)
    }

    fn bind_guarded(path: &Path) -> Result<Self, Error> {
        let socket = bind(path)?;
        let mut listener = Self::at(socket, path.to_owned(), path.to_owned(), Origin::Bound);
        (listener.file, listener.owns_file) = (identity(path), true);
        Ok(listener)
    }

    /// Binds a socket for `path`; also returns whether a predecessor still serves that path. If so,
    /// the socket gets a name beside `path`. It is closed if the predecessor hands over its own
    /// socket. Otherwise rename(2) puts it in place, so that clients always find a socket.
    pub(crate) fn take_over(path: &Path) -> Result<(Self, bool), Error> {
        check_length("take over", path)?;
        let path = files::resolve(path);
        let _guard = Guard::take(&path);
        if !is_live(&path) {
            return Ok((Self::bind_guarded(&path)?, false));
        }
        let mut others = 0;
        let mut listener = loop {
            match Self::bind_guarded(&successor_name(&path, others)) {
                Err(Error::InUse(_)) if others < MAX_WAITING => others += 1,
                bound => break bound?,
            }
        };
        listener.path = path;
        listener.origin = Origin::BoundBeside;
        Ok((listener, true))
    }

    /// Takes a socket that systemd passed and that was checked to listen. `rebind` means that a
    /// fresh one is to replace it when the server serves.
    pub(crate) fn passed(socket: OwnedFd, rebind: bool) -> Result<Self, Error> {
        let mut listener = Self::of(socket)?;
        if rebind {
            if listener.name.as_os_str().is_empty() {
                return Err(Error::Passed("it has no path at which to rebind it"));
            }
            listener.origin = Origin::PassedToRebind;
            // A killed process may have left a dead socket at the path. Once the passed socket is
            // back in place, clients wait instead of being refused.
            let _guard = Guard::take(&listener.path);
            if is_live(&saved_name(&listener.path)) && !is_live(&listener.path) {
                restore_passed(&listener.path);
            }
        }
        Ok(listener)
    }

    fn of(socket: OwnedFd) -> Result<Self, Error> {
        let socket = UnixListener::from(socket);
        let address = socket.local_addr();
        let name = path_of(&address);
        let is_known = !name.as_os_str().is_empty() && !name.starts_with(socket::DESCRIPTORS);
        let name = if is_known { files::resolve(&name) } else { PathBuf::new() };
        let path = if is_known { name.clone() } else { abstract_name(&address) };
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
            was_without_directory: false,
        }
    }

    /// Takes a socket of the process that this one replaces in the same unit, with its file if
    /// `is_owned`; PID 1 has passed it otherwise.
    pub(crate) fn reloaded(socket: OwnedFd, is_owned: bool) -> Result<Self, Error> {
        socket::check_listening(&socket).map_err(Error::HandedOver)?;
        let mut listener = Self::of(socket)?;
        listener.origin = match is_owned {
            false => Origin::Passed,
            true if saved_name(&listener.path).exists() => Origin::Rebound,
            true => Origin::Adopted,
        };
        Ok(listener)
    }

    /// Takes a socket that the predecessor handed over on `connection`. If `connection` was made to
    /// this socket, its file at `in_place` now belongs to this process.
    pub(crate) fn handed_over(
        socket: OwnedFd,
        in_place: Option<&Path>,
        connection: &Async<UnixStream>,
    ) -> Result<Self, Error> {
        socket::check_listening(&socket).map_err(Error::HandedOver)?;
        let mut listener = Self::of(socket)?;
        listener.origin = Origin::Inherited;
        let address = listener.socket.get_ref().local_addr();
        if !path_of(&address).is_absolute() {
            // It is relative to the predecessor's working directory, which is not known here.
            listener.name = PathBuf::new();
        }
        let is_same = are_same(&address, &connection.get_ref().peer_addr());
        if let Some(path) = in_place.filter(|_| is_same) {
            listener.origin = Origin::Adopted;
            listener.path = files::resolve(path);
            listener.path.clone_into(&mut listener.name);
        }
        Ok(listener)
    }

    /// Whether clients find this listener at `path`, however `path` is spelled.
    pub(crate) fn is_at(&self, path: &Path) -> bool {
        !self.name.as_os_str().is_empty() && files::are_same_path(&self.name, path)
    }

    /// Whether `other` is the same socket.
    pub(crate) fn is_same_as(&self, other: &Self) -> bool {
        let socket = |listener: &Self| fstat(&listener.socket).map(|open| open.st_ino);
        socket(self).is_ok_and(|ours| socket(other) == Ok(ours))
    }

    /// Whether `stream` was accepted from this listener.
    pub(crate) fn has_accepted(&self, stream: &Async<UnixStream>) -> bool {
        let address = stream.get_ref().local_addr();
        self.sockets().any(|socket| are_same(&socket.get_ref().local_addr(), &address))
    }

    /// The user that owns its file; `None` if its name leads to another file or to none.
    pub(crate) fn owner(&self) -> Option<u32> {
        let file = fs::symlink_metadata(&self.name).ok()?;
        let is_its_own =
            file.file_type().is_socket() && self.file == Some((file.dev(), file.ino()));
        is_its_own.then(|| file.uid())
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Ready if a client may be waiting; otherwise wakes the task when one connects. Polls the
    /// backlog first: async-io ignores an event in the round in which it was asked, so a client
    /// would wait for the next round, up to 0.2 s on a busy machine (measured).
    pub(crate) fn poll_accept(&self, context: &mut Context<'_>) -> Poll<()> {
        if self.has_client() {
            return Poll::Ready(());
        }
        // An error is reported again when the client is accepted.
        let ready = self.sockets().map(|socket| socket.poll_readable(context).is_ready());
        if ready.fold(false, |any, ready| any | ready) { Poll::Ready(()) } else { Poll::Pending }
    }

    pub(crate) fn has_client(&self) -> bool {
        self.with_client().is_some()
    }

    /// The socket on which a client is waiting: the older one first, because it gets no new
    /// clients.
    fn with_client(&self) -> Option<&Async<UnixListener>> {
        self.sockets().find(|socket| socket::is_readable(socket))
    }

    /// The sockets to accept from, without an older one that was shut down: it is readable forever,
    /// and no client can connect to it.
    fn sockets(&self) -> impl Iterator<Item = &Async<UnixListener>> {
        let older = self.passed.iter().chain(&self.nameless);
        older.filter(|socket| backlog(socket) != Backlog::Shut).chain([&self.socket])
    }

    /// Accepts a client, after [`has_client`](Self::has_client) returned true. Because of that
    /// check, `EMFILE` means that a client is waiting for a descriptor. `InvalidInput` means that
    /// the socket was shut down.
    pub(crate) fn accept(&self) -> io::Result<UnixStream> {
        let socket = self.with_client().unwrap_or(&self.socket);
        socket::accept(socket.get_ref()).map_err(|error| match error.kind() {
            // For a socket that was shut down, accept(2) returns EAGAIN, and poll(2) reports it
            // ready.
            io::ErrorKind::WouldBlock if backlog(socket) == Backlog::Shut => {
                io::ErrorKind::InvalidInput.into()
            }
            _ => error,
        })
    }

    /// Whether its name disappears when the predecessor leaves.
    pub(crate) fn is_inherited(&self) -> bool {
        self.origin == Origin::Inherited
    }

    /// Whether this process removes the file at its end.
    pub(crate) fn owns_file(&self) -> bool {
        self.owns_file
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
        if self.origin == Origin::Rebound {
            restore_passed(&self.path);
        } else {
            files::remove(&self.name);
        }
    }
}

/// Waits until a client connects to one of the listeners; returns its number. Begins at `first`, so
/// that clients on one listener cannot starve a successor on another.
pub(crate) async fn next_connection(listeners: &[Listener], first: usize) -> usize {
    poll_fn(|context| {
        let count = listeners.len();
        let ready = (0..count).map(|step| (first + step) % count).find(|number| {
            let listener = listeners.get(*number);
            listener.is_some_and(|listener| listener.poll_accept(context).is_ready())
        });
        ready.map_or(Poll::Pending, Poll::Ready)
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::task::Waker;
    use std::{env, process};

    #[test]
    fn a_waiting_client_is_seen_at_the_first_poll() {
        let socket = format!("early-service-{}-first-look.sock", process::id());
        let listener = Listener::bind(&env::temp_dir().join(socket)).expect("a scratch socket");
        let mut context = Context::from_waker(Waker::noop());
        assert!(listener.poll_accept(&mut context).is_pending());
        let _client = UnixStream::connect(listener.path()).expect("a listener");
        assert!(listener.poll_accept(&mut context).is_ready());
    }
}
