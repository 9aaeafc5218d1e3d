// SPDX-License-Identifier: Apache-2.0
//! State file: the lock that makes a process the owner, and the state for whoever owns next.
//!
//! One file for both stages, in a directory that outlives the switch of root.
//! Whoever holds its lock (flock(2)) is the owner; the lock belongs to the open file, so a copy of
//! the descriptor that travels to the successor carries it along.
//! One [`Record`] stands in it, written anew at each change before anybody can see the change.
//!
//! Owns the descriptor; the lock goes when the last copy of it is closed.
//! Never waits for the lock, never unlocks, never renames, removes or replaces the file.
//!
//! **Invariant:** who writes holds the lock.

use std::fmt;
use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use early_service_machine::State;
use early_service_machine::record::{BootId, Ignored, Record, SIZE, Unlogged};
use early_service_machine::rhythm::Snapshot;
use rustix::fs::{
    CWD, FallocateFlags, FileType, FlockOperation, Mode, OFlags, fallocate, flock, fstat, openat,
    stat,
};
use rustix::io::{Errno, pread, pwrite};

use crate::catalog::Id;

/// A state file that cannot be used.
#[derive(Debug)]
pub(crate) enum Error {
    BootId(io::Error),
    Open(PathBuf, Errno),
    NotAFile(PathBuf),
    Allocate(PathBuf, Errno),
    Lock(PathBuf, Errno),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BootId(error) => write!(f, "cannot read {BOOT_ID}: {error}"),
            Self::Open(path, error) => {
                write!(f, "cannot open state file {}: {error}", path.display())
            }
            Self::NotAFile(path) => {
                write!(f, "cannot use state file {}: it is not a regular file", path.display())
            }
            Self::Allocate(path, error) => {
                write!(f, "cannot allocate {SIZE} bytes for {}: {error}", path.display())
            }
            Self::Lock(path, error) => write!(f, "cannot lock {}: {error}", path.display()),
        }
    }
}

const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// The open file.
pub(crate) struct StateFile {
    file: OwnedFd,
    path: PathBuf,
    boot: BootId,
    /// That of the record to be written next.
    sequence: u64,
    /// Whether the last write failed, which is said once.
    failing: bool,
    /// Made by us.
    is_new: bool,
}

impl StateFile {
    /// Opens `path`, not yet locked; a file that is not there is made, with room for the record, so
    /// that a file system that fills up later changes nothing.
    pub(crate) fn open(path: &Path) -> Result<Self, Error> {
        let boot = boot_id().map_err(Error::BootId)?;
        let fails = |error| Error::Open(path.to_owned(), error);
        // Open, whoever made it; a file that we make first is not there for anybody before.
        let (file, is_new) = match open(path, OFlags::CREATE | OFlags::EXCL) {
            Err(Errno::EXIST) => (open(path, OFlags::empty()).map_err(fails)?, false),
            made => (made.map_err(fails)?, true),
        };
        let status = fstat(&file).map_err(fails)?;
        if FileType::from_raw_mode(status.st_mode) != FileType::RegularFile {
            return Err(Error::NotAFile(path.to_owned()));
        }
        let length = u64::try_from(SIZE).unwrap_or_default();
        if u64::try_from(status.st_size).unwrap_or_default() < length {
            fallocate(&file, FallocateFlags::empty(), 0, length)
                .map_err(|error| Error::Allocate(path.to_owned(), error))?;
        }
        Ok(Self { file, path: path.to_owned(), boot, sequence: 0, failing: false, is_new })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether we made the file, so that it is no news that it is empty.
    pub(crate) fn is_new(&self) -> bool {
        self.is_new
    }

    /// Tries to lock the file; false while another process holds the lock.
    ///
    /// The path must still name this file: a lock on one that was replaced would keep nobody out.
    pub(crate) fn try_lock(&mut self) -> Result<bool, Error> {
        if !self.is_the_file_of_its_path()? {
            let Self { file, is_new, .. } = Self::open(&self.path)?;
            (self.file, self.is_new) = (file, is_new);
            return Ok(false);
        }
        match flock(&self.file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => self.is_the_file_of_its_path(),
            Err(Errno::WOULDBLOCK) => Ok(false),
            Err(error) => Err(Error::Lock(self.path.clone(), error)),
        }
    }

    fn is_the_file_of_its_path(&self) -> Result<bool, Error> {
        match (fstat(&self.file), stat(&self.path)) {
            (Ok(ours), Ok(theirs)) => {
                Ok((ours.st_dev, ours.st_ino) == (theirs.st_dev, theirs.st_ino))
            }
            (Ok(_), Err(Errno::NOENT)) => Ok(false),
            (Err(error), _) | (_, Err(error)) => Err(Error::Lock(self.path.clone(), error)),
        }
    }

    /// Whether `other` is open on the same file.
    pub(crate) fn is_open_on(&self, other: &OwnedFd) -> bool {
        match (fstat(&self.file), fstat(other)) {
            (Ok(ours), Ok(other)) => (ours.st_dev, ours.st_ino) == (other.st_dev, other.st_ino),
            _ => false,
        }
    }

    /// Puts the descriptor that a predecessor handed over, and its lock, in the place of our own.
    ///
    /// Without a file of our own, the predecessor's is used; one that is another than ours, whose
    /// lock we hold, is let go.
    pub(crate) fn handed_over(ours: Option<Self>, locked: OwnedFd) -> Option<Self> {
        match ours {
            Some(ours) if ours.is_open_on(&locked) => Some(Self { file: locked, ..ours }),
            Some(ours) => Some(ours),
            None => {
                let boot = boot_id().ok()?;
                let path = fs::read_link(format!("/proc/self/fd/{}", locked.as_raw_fd()));
                let path = path.unwrap_or_default();
                Some(Self { file: locked, path, boot, sequence: 0, failing: false, is_new: false })
            }
        }
    }

    /// Reads the record; also says whether it is the one that we wrote last.
    pub(crate) fn load<S: State>(&mut self) -> Result<(Record<S>, bool), Ignored> {
        let mut bytes = [0; SIZE];
        let length = pread(&self.file, &mut bytes, 0).unwrap_or(0);
        let record = Record::decode(bytes.get(..length).unwrap_or_default(), &self.boot)?;
        let next = record.sequence.wrapping_add(1);
        let is_ours = std::mem::replace(&mut self.sequence, next) == next;
        Ok((record, is_ours))
    }

    /// Whether the last change could not be written.
    pub(crate) fn is_failing(&self) -> bool {
        self.failing
    }

    /// Writes a record; one that cannot be written is said in the log, and the ticks go on.
    pub(crate) fn store<S: State>(&mut self, snapshot: Snapshot<S>, unlogged: Unlogged) {
        let record = Record { sequence: self.sequence, unlogged, snapshot };
        self.sequence = self.sequence.wrapping_add(1);
        let result = write(&self.file, &record.encode(&self.boot));
        if let Err(error) = &result {
            if !self.failing {
                let path = self.path.display();
                log::error!(
                    MESSAGE_ID = Id::StateFileUnusable;
                    "cannot write the state to {path}: {error}"
                );
            }
        }
        self.failing = result.is_err();
    }

    /// Withdraws the record: the state goes on in a program that knows nothing of the file.
    pub(crate) fn withdraw(&self) {
        if let Err(error) = write(&self.file, &[0; SIZE]) {
            log::error!("cannot withdraw the state from {}: {error}", self.path.display());
        }
    }
}

impl AsFd for StateFile {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

fn boot_id() -> io::Result<BootId> {
    let text = fs::read(BOOT_ID)?;
    BootId::parse(text.trim_ascii_end()).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

fn open(path: &Path, create: OFlags) -> Result<OwnedFd, Errno> {
    // NONBLOCK for what turns out to be no file at all, such as a pipe that nobody reads.
    let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
    // Not for everybody to lock: who holds the lock keeps the service from starting.
    openat(CWD, path, flags | create, Mode::from_raw_mode(0o660))
}

fn write(file: &OwnedFd, record: &[u8; SIZE]) -> io::Result<()> {
    let written = pwrite(file, record, 0)?;
    if written == SIZE { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
}
