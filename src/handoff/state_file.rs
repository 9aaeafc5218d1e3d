// SPDX-License-Identifier: Apache-2.0
//! State file: the lock that makes a process the owner, and the state for the next owner.
//!
//! Both stages use one file, in a directory that survives the switch of root. The process that
//! holds its lock (flock(2)) is the owner. The lock belongs to the open file description, so a copy
//! of the descriptor carries it. The file contains one [`Record`], which the owner writes at each
//! change, before the change is visible.
//!
//! Only the user of the service can open the file: anyone who can lock it can block start-up, and
//! anyone who can write it can change the state. Release 0.1.0 created files that other users could
//! open; such a file is replaced once it is locked.
//!
//! Owns the descriptor; the lock is released when its last copy is closed. Never blocks on the
//! lock, and never unlocks.
//!
//! **Invariant:** a process that writes the file holds the lock.
//!
//! **Invariant:** an error is never taken for the absence of a file, a lock or a record.

use std::fmt;
use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use early_service_machine::State;
use early_service_machine::bounds::RECORD_SIZE;
use early_service_machine::record::{BootId, DecodeError, Record, Unlogged};
use early_service_machine::slots::SLOTS;
use early_service_machine::timeline::Snapshot;
use rustix::fs::{
    CWD, FallocateFlags, FileType, FlockOperation, Mode, OFlags, Stat, fallocate, fchmod,
    fcntl_getfl, fcntl_setfl, flock, fstat, ftruncate, openat, stat,
};
use rustix::io::{Errno, pread, pwrite, retry_on_intr};

use crate::handoff::authorize;
use crate::handoff::users::User;
use crate::journal::message_id::Id;
use crate::platform::clock;
use crate::platform::files::{is_same, with_suffix};

/// A state file that cannot be used, now or at all.
#[derive(Debug)]
pub(crate) enum Error {
    BootId(io::Error),
    Open(PathBuf, Errno),
    NotAFile(PathBuf),
    /// It belongs to this user.
    Foreign(PathBuf, u32),
    Lock(PathBuf, Errno),
    Read(PathBuf, Errno),
}

impl Error {
    /// Whether no such file can exist, so that no other process can lock it and be the owner. Any
    /// other error may be temporary, and the file may belong to an owner that runs.
    pub(crate) fn is_final(&self) -> bool {
        match self {
            Self::BootId(error) => Errno::from_io_error(error).is_some_and(names_no_file),
            Self::Open(_, error) => names_no_file(*error),
            Self::NotAFile(_) | Self::Foreign(..) => true,
            Self::Lock(..) | Self::Read(..) => false,
        }
    }
}

/// Whether this error of open(2) proves that no regular file can have this name.
fn names_no_file(error: Errno) -> bool {
    // NXIO is the error of a socket, or of a device without a driver.
    matches!(
        error,
        Errno::NOENT
            | Errno::NOTDIR
            | Errno::LOOP
            | Errno::ISDIR
            | Errno::NXIO
            | Errno::NAMETOOLONG
            | Errno::ROFS
            | Errno::ACCESS
    )
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
            Self::Foreign(path, uid) => {
                write!(f, "cannot use state file {}: it belongs to user {uid}", path.display())
            }
            Self::Lock(path, error) => write!(f, "cannot lock {}: {error}", path.display()),
            Self::Read(path, error) => write!(f, "cannot read {}: {error}", path.display()),
        }
    }
}

const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// Only the user of the service can read and write the file.
const MODE: Mode = Mode::RUSR.union(Mode::WUSR);

/// The suffix of a new file, before it replaces the state file.
const FRESH: &str = ".new";

pub(crate) struct StateFile {
    file: OwnedFd,
    path: PathBuf,
    boot: BootId,
    /// How many bytes the records of this state take.
    size: usize,
    /// The sequence number of the next record.
    sequence: u64,
    /// Whether the last write failed; only the first failure is logged.
    failing: bool,
    is_new: bool,
    /// Whether other users could open it before, and may still have it open.
    was_shared: bool,
}

impl StateFile {
    /// Opens `path` without locking it. Creates a missing file, with room for the record. A file of
    /// another user is trusted only if that user is root or `successor`.
    pub(crate) fn open(path: &Path, size: usize, successor: Option<&User>) -> Result<Self, Error> {
        let boot = boot_id().map_err(Error::BootId)?;
        let fails = |error| Error::Open(path.to_owned(), error);
        let (file, is_new) = open_or_make(path).map_err(fails)?;
        let status = retry_on_intr(|| fstat(&file)).map_err(fails)?;
        if FileType::from_raw_mode(status.st_mode) != FileType::RegularFile {
            return Err(Error::NotAFile(path.to_owned()));
        }
        if !authorize::may_own_the_file(status.st_uid, successor) {
            return Err(Error::Foreign(path.to_owned(), status.st_uid));
        }
        make_room(&file, &status, size);
        let mode = Mode::from_raw_mode(status.st_mode);
        let was_shared = mode.intersects(Mode::RWXG | Mode::RWXO);
        if was_shared {
            // If this is not permitted, the file is replaced as soon as it is locked.
            let _ = retry_on_intr(|| fchmod(&file, MODE));
        }
        let path = path.to_owned();
        Ok(Self { file, path, boot, size, sequence: 0, failing: false, is_new, was_shared })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether this process created the file, so that an empty record needs no log line.
    pub(crate) fn is_new(&self) -> bool {
        self.is_new
    }

    /// Tries to lock the file; returns false while another process holds the lock. The path must
    /// still name this file, because a lock on a replaced file excludes no process.
    pub(crate) fn try_lock(&mut self, successor: Option<&User>) -> Result<bool, Error> {
        if !self.is_the_file_of_its_path()? {
            *self = Self::open(&self.path, self.size, successor)?;
            return Ok(false);
        }
        match try_flock(&self.file) {
            Ok(true) if self.is_the_file_of_its_path()? => {}
            Ok(_) => return Ok(false),
            Err(error) => return Err(Error::Lock(self.path.clone(), error)),
        }
        self.make_private()?;
        Ok(true)
    }

    /// Replaces a file that other users may have open. Only this process may hold the lock.
    ///
    /// # Errors
    ///
    /// If a later attempt may succeed.
    pub(crate) fn make_private(&mut self) -> Result<(), Error> {
        if !self.was_shared {
            return Ok(());
        }
        match self.replace() {
            Ok(()) => {}
            // No space, or no permission to create a file beside it: keeps the old file.
            Err(error) if error == Errno::NOSPC || error == Errno::PERM || names_no_file(error) => {
                log::warn!(
                    "cannot replace {}, which others may have open: {}",
                    self.path.display(),
                    io::Error::from(error)
                );
            }
            Err(error) => return Err(Error::Lock(self.path.clone(), error)),
        }
        self.was_shared = false;
        Ok(())
    }

    /// Renames a new file over the locked one; the new file is locked and has the same record. A
    /// process that locks the old file later finds that the path names the new one.
    fn replace(&mut self) -> Result<(), Errno> {
        let name = with_suffix(&self.path, FRESH);
        let name = name.as_path();
        // Only the holder of the lock creates this file, so an old one is of a process that died.
        let _ = fs::remove_file(name);
        let fresh = open(name, OFlags::CREATE | OFlags::EXCL)?;
        let renamed = self.copy_to(&fresh).and_then(|()| rustix::fs::rename(name, &self.path));
        if renamed.is_err() {
            let _ = fs::remove_file(name);
            return renamed;
        }
        self.file = fresh;
        Ok(())
    }

    fn copy_to(&self, fresh: &OwnedFd) -> Result<(), Errno> {
        let mut record = vec![0; SLOTS];
        let length = retry_on_intr(|| pread(&self.file, &mut record, 0))?;
        // A truncated record stays truncated, and is ignored.
        let record = record.get(..length).unwrap_or_default();
        if retry_on_intr(|| pwrite(fresh, record, 0))? != length {
            return Err(Errno::NOSPC);
        }
        make_room(fresh, &retry_on_intr(|| fstat(fresh))?, self.size);
        if try_flock(fresh)? { Ok(()) } else { Err(Errno::WOULDBLOCK) }
    }

    fn is_the_file_of_its_path(&self) -> Result<bool, Error> {
        let looked = retry_on_intr(|| fstat(&self.file))
            .map(|ours| (ours, retry_on_intr(|| stat(&self.path))));
        match looked {
            Ok((ours, Ok(theirs))) => Ok(is_same(&ours, &theirs)),
            Ok((_, Err(Errno::NOENT))) => Ok(false),
            Err(error) | Ok((_, Err(error))) => Err(Error::Lock(self.path.clone(), error)),
        }
    }

    /// The file whose lock the predecessor handed over; `ours` is the one that this process opened.
    ///
    /// # Errors
    ///
    /// If it is not `ours`, not a state file, or not locked by this descriptor.
    pub(crate) fn handed_over(
        ours: Option<&Self>,
        locked: OwnedFd,
        size: usize,
    ) -> Result<Self, String> {
        let look = |file: &OwnedFd| {
            retry_on_intr(|| fstat(file)).map_err(|error| format!("cannot check its lock: {error}"))
        };
        let status = look(&locked)?;
        if FileType::from_raw_mode(status.st_mode) != FileType::RegularFile {
            return Err("its lock is not on a regular file".to_owned());
        }
        if let Some(ours) = ours {
            if !is_same(&look(&ours.file)?, &status) {
                return Err(format!("its lock is not that of {}", ours.path.display()));
            }
        }
        let flags =
            fcntl_getfl(&locked).map_err(|error| format!("cannot check its lock: {error}"))?;
        if !flags.contains(OFlags::RDWR) {
            return Err("its lock is on a file that is not open for reading and writing".to_owned());
        }
        // Succeeds for the open file description that holds the lock, and for any if none does.
        match try_flock(&locked) {
            Ok(true) => {}
            Ok(false) => return Err("its descriptor does not hold the lock".to_owned()),
            Err(error) => return Err(format!("cannot check its lock: {error}")),
        }
        let (path, boot) = match ours {
            Some(ours) => (ours.path.clone(), ours.boot),
            None => {
                let boot = boot_id().map_err(|error| Error::BootId(error).to_string())?;
                let path = fs::read_link(format!("/proc/self/fd/{}", locked.as_raw_fd()));
                (path.unwrap_or_default(), boot)
            }
        };
        let is_new = false;
        let mode = Mode::from_raw_mode(status.st_mode);
        let is_shared = mode.intersects(Mode::RWXG | Mode::RWXO);
        let was_shared = is_shared || ours.is_some_and(|ours| ours.was_shared);
        let file = Self {
            file: locked,
            path,
            boot,
            size,
            sequence: 0,
            failing: false,
            is_new,
            was_shared,
        };
        file.reset_flags();
        Ok(file)
    }

    /// A state file on any open file.
    #[cfg(test)]
    pub(crate) fn on(file: OwnedFd) -> Self {
        let boot = boot_id().expect("Linux");
        let (path, sequence, failing) = (PathBuf::new(), 0, false);
        let size = RECORD_SIZE;
        Self { file, path, boot, size, sequence, failing, is_new: false, was_shared: false }
    }

    /// Takes the file back from a successor, which had a copy of the descriptor and may have
    /// unlocked it or changed its flags.
    ///
    /// # Errors
    ///
    /// If another process holds the lock now and is therefore the owner.
    pub(crate) fn take_back(&self) -> Result<(), Error> {
        self.reset_flags();
        match try_flock(&self.file) {
            Ok(true) => Ok(()),
            Ok(false) => Err(Error::Lock(self.path.clone(), Errno::WOULDBLOCK)),
            Err(error) => Err(Error::Lock(self.path.clone(), error)),
        }
    }

    /// Resets the flags, which all copies of the descriptor share: with O_APPEND each record would
    /// be written behind the previous one.
    fn reset_flags(&self) {
        // If this fails, the next write fails too, and is logged.
        let _ = fcntl_setfl(&self.file, OFlags::NONBLOCK);
    }

    /// Reads the record, or returns why it is ignored. Also returns whether another process wrote
    /// it after this one's last record.
    pub(crate) fn load<S: State>(
        &mut self,
    ) -> Result<Result<(Record<S>, bool), DecodeError>, Error> {
        // A byte more shows that there are slots.
        let (mut small, mut large) = ([0; RECORD_SIZE + 1], Vec::new());
        let mut bytes = self.read(&mut small)?;
        if bytes.len() > RECORD_SIZE {
            large.resize(SLOTS, 0);
            bytes = self.read(&mut large)?;
        }
        let record = if bytes.len() > RECORD_SIZE {
            Record::newest(bytes, &self.boot, clock::now())
        } else {
            Record::decode(bytes, &self.boot, clock::now()).map(|record| (record, false))
        };
        Ok(record.map(|(record, is_second)| {
            let is_newer = record.sequence >= self.sequence;
            self.sequence = self.sequence.max(record.next_sequence(is_second));
            (record, is_newer)
        }))
    }

    /// The bytes at the beginning of the file that fit `room`.
    fn read<'a>(&self, room: &'a mut [u8]) -> Result<&'a [u8], Error> {
        let length = retry_on_intr(|| pread(&self.file, &mut *room, 0))
            .map_err(|error| Error::Read(self.path.clone(), error))?;
        Ok(room.get(..length).unwrap_or_default())
    }

    pub(crate) fn is_failing(&self) -> bool {
        self.failing
    }

    /// Writes a record. Only the first failure is logged, and the ticks continue.
    pub(crate) fn store<S: State>(&mut self, snapshot: Snapshot<S>, unlogged: Unlogged) {
        let realtime = Some(clock::realtime());
        let record = Record { sequence: self.sequence, unlogged, realtime, snapshot };
        let result = if Record::<S>::IS_SMALL {
            write(&self.file, &record.encode(&self.boot), 0)
        } else {
            let slot = record.encode_slot(&self.boot);
            write(&self.file, slot.bytes(), slot.offset())
        };
        // After a failure the same slot is written again: the other one has the last record.
        self.sequence = self.sequence.saturating_add(u64::from(result.is_ok()));
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

    /// Clears the record, because the state continues in a program that does not use the file.
    pub(crate) fn withdraw(&self) {
        // The file of a release with a larger state.
        let size = u64::try_from(self.size).unwrap_or_default();
        let cut = retry_on_intr(|| ftruncate(&self.file, size)).map_err(io::Error::from);
        if let Err(error) = cut.and_then(|()| write(&self.file, &vec![0; self.size], 0)) {
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

/// Opens the file, and creates it if there is none; also returns whether it was created.
fn open_or_make(path: &Path) -> Result<(OwnedFd, bool), Errno> {
    match open(path, OFlags::CREATE | OFlags::EXCL) {
        Err(Errno::EXIST) => match open(path, OFlags::empty()) {
            // It was removed between the two calls, so the next attempt may succeed.
            Err(Errno::NOENT) => Err(Errno::AGAIN),
            opened => Ok((opened?, false)),
        },
        made => Ok((made?, true)),
    }
}

fn open(path: &Path, create: OFlags) -> Result<OwnedFd, Errno> {
    // NONBLOCK, because the path may name something else, such as a pipe without a reader.
    let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
    retry_on_intr(|| openat(CWD, path, flags | create, MODE))
}

/// Reserves room for the record, because the file system may be full at a later write.
fn make_room(file: &OwnedFd, status: &Stat, size: usize) {
    let length = u64::try_from(size).unwrap_or_default();
    if u64::try_from(status.st_size).unwrap_or_default() < length {
        let _ = retry_on_intr(|| fallocate(file, FallocateFlags::empty(), 0, length));
    }
}

/// Locks the file unless another open file holds its lock.
fn try_flock(file: &OwnedFd) -> Result<bool, Errno> {
    match retry_on_intr(|| flock(file, FlockOperation::NonBlockingLockExclusive)) {
        Ok(()) => Ok(true),
        Err(Errno::WOULDBLOCK) => Ok(false),
        Err(error) => Err(error),
    }
}

fn write(file: &OwnedFd, record: &[u8], offset: usize) -> io::Result<()> {
    let offset = u64::try_from(offset).unwrap_or_default();
    let written = retry_on_intr(|| pwrite(file, record, offset))?;
    if written == record.len() { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
}
