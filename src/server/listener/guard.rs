// SPDX-License-Identifier: Apache-2.0
//! Guard: a lock that two processes of this program take before they bind or remove one socket.
//!
//! Without it, a process can remove a live socket as stale: one bound after its check, or not yet
//! listening. In 4 of 150 trials with three processes started at once, two survived.
//!
//! The lock is on a file that only this user can open, because other users could hold a lock on the
//! directory and delay the start. The file is created for the guard and removed with it. If the
//! guard cannot be taken, the socket is bound without it.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use rustix::fs::{FileType, FlockOperation, Mode, OFlags, flock, fstat, open};
use rustix::io::Errno;
use rustix::process::geteuid;

use crate::platform::files::{identity, remove, with_suffix};

/// The suffix of the file's name, after that of the socket.
const SUFFIX: &str = ".lock";

/// How often the lock is tried again, and after which pause. A holder needs less than a
/// millisecond. Fewer tries: two processes can bind at once on a busy machine. More: a holder that
/// hangs delays the start further.
const TRIES: u32 = 100;
const RETRY: Duration = Duration::from_millis(5);

/// Held until it is dropped.
pub(super) struct Guard {
    file: OwnedFd,
    path: PathBuf,
}

impl Guard {
    /// Blocks while another process of this user holds the guard; to be called only at the start.
    pub(super) fn take(socket: &Path) -> Option<Self> {
        let path = with_suffix(socket, SUFFIX);
        for _ in 0..TRIES {
            match Self::lock(&path) {
                Ok(guard) => return Some(guard),
                Err(Errno::WOULDBLOCK) => thread::sleep(RETRY),
                // The previous holder removed the file after it was opened here.
                Err(Errno::STALE) => {}
                Err(_) => return None,
            }
        }
        None
    }

    /// Takes the guard unless another process holds it.
    pub(super) fn try_take(socket: &Path) -> Option<Self> {
        Self::lock(&with_suffix(socket, SUFFIX)).ok()
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
        // Before the unlock, so that a process that has opened the file can see that it was
        // removed.
        if is_at(&self.file, &self.path) {
            remove(&self.path);
        }
    }
}

/// Opens, or creates, a file that only this user can open.
fn open_private(path: &Path) -> Option<OwnedFd> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let file = open(path, flags | OFlags::CLOEXEC, Mode::RUSR | Mode::WUSR).ok()?;
    let status = fstat(&file).ok()?;
    let is_file = FileType::from_raw_mode(status.st_mode) == FileType::RegularFile;
    let is_private = status.st_uid == geteuid().as_raw() && status.st_mode & 0o077 == 0;
    (is_file && is_private).then_some(file)
}

/// Whether `path` names this file.
fn is_at(file: &OwnedFd, path: &Path) -> bool {
    let opened = fstat(file).ok();
    opened.is_some_and(|opened| identity(path) == Some((opened.st_dev, opened.st_ino)))
}
