// SPDX-License-Identifier: Apache-2.0
//! Binding: puts a socket at a path, and removes the sockets of dead processes.
//!
//! Never removes a live socket or a file that is not a socket.

use std::fmt;
use std::fs;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process;

use rustix::fs::{AtFlags, Mode, OFlags, RenameFlags, open, renameat_with, unlinkat};
use rustix::io::Errno;
use smol::Async;

use crate::platform::files;
use crate::platform::socket::{DESCRIPTORS, MAX_PATH, connect};
use crate::server::listener::guard::Guard;
use crate::server::listener::names::saved_name;

/// Why a socket cannot be served.
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
            Self::TooLong(what, path) => {
                let (length, path) = (path.as_os_str().len(), path.display());
                write!(
                    f,
                    "cannot {what} {path}: the path of a socket has at most {MAX_PATH} bytes, and \
                     this one has {length}"
                )
            }
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
                "cannot take over {}: systemd passes that socket; name the predecessor's socket \
                 with --client-socket-path",
                path.display()
            ),
            Self::HandedOver(cause) => {
                write!(f, "cannot serve a socket of the predecessor: {cause}")
            }
        }
    }
}

/// Checks that clients can connect by this path.
pub(crate) fn check_length(what: &'static str, path: &Path) -> Result<(), Error> {
    let fits = path.as_os_str().len() <= MAX_PATH;
    if fits { Ok(()) } else { Err(Error::TooLong(what, path.to_owned())) }
}

/// Binds `path`; replaces a socket there on which no process listens.
pub(super) fn bind(path: &Path) -> Result<Async<UnixListener>, Error> {
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

/// Binds `path`; `EADDRINUSE` if there is a file.
///
/// A path with a suffix, or with its symbolic links resolved, can be longer than an address. Such a
/// socket is bound by a short name in the same directory, which its address keeps, and is then
/// renamed.
fn bind_new(path: &Path) -> io::Result<UnixListener> {
    if path.as_os_str().len() <= MAX_PATH {
        return UnixListener::bind(path);
    }
    let (Some(directory), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = open(directory, flags, Mode::empty())?;
    let short = format!(".new-socket.{}", process::id());
    let reachable = Path::new(DESCRIPTORS).join(directory.as_raw_fd().to_string());
    // A process with the same PID may have died before it renamed its socket.
    let _ = unlinkat(&directory, &short, AtFlags::empty());
    let socket = UnixListener::bind(reachable.join(&short))?;
    let renamed = renameat_with(&directory, &short, &directory, name, RenameFlags::NOREPLACE);
    renamed.map(|()| socket).map_err(|error| {
        let _ = unlinkat(&directory, &short, AtFlags::empty());
        if error == Errno::EXIST { io::ErrorKind::AddrInUse.into() } else { error.into() }
    })
}

/// Whether a process listens on `path`.
pub(super) fn is_live(path: &Path) -> bool {
    // Any other error, such as a full backlog, comes from a live socket.
    !matches!(connect(path), Err(Errno::CONNREFUSED | Errno::NOENT))
}

/// Removes a socket on which no process listens.
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

/// Removes the socket that both processes of a handoff had, once both have closed it. Each process
/// calls this after it has closed its copy, so the last one finds the socket dead. A process that
/// starts at the same moment holds the guard, and replaces the file itself.
pub(crate) fn remove_if_dead(path: &Path) {
    // A symbolic link stays; its target is removed.
    let path = files::resolve(path);
    // Checked before the guard is taken, because the process that leaves a moment later needs the
    // guard to remove the file.
    if is_live(&path) {
        return;
    }
    if let Some(_guard) = Guard::try_take(&path) {
        // Fails if another process listens by now.
        let _ = remove_stale(&path);
    }
}

/// Renames a passed socket from its saved name back to its path.
pub(super) fn restore_passed(path: &Path) {
    if let Err(error) = fs::rename(saved_name(path), path) {
        log::error!("cannot rename the passed socket back to {}: {error}", path.display());
    }
}
