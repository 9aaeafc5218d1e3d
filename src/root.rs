// SPDX-License-Identifier: Apache-2.0
//! Root directory: follows PID 1 across the switch of root.
//!
//! A process that survives the switch keeps the old root directory, in which `/run`, `/proc` and
//! `/dev` are empty afterwards: the journal, systemd's notification socket and our own socket file
//! can no longer be named.
//! Open descriptors still work, so one on `/proc/1` is opened at the start; when PID 1 has another
//! root directory than we have, we enter it.
//! That takes CAP_SYS_PTRACE, to look at PID 1's root (`proc_pid_root(5)`), and CAP_SYS_CHROOT;
//! afterwards both are given up.
//!
//! Never used outside the initrd stage.
//!
//! **Invariant:** only the main thread ever has the two capabilities, and none has them once the
//! new root is entered. (Capabilities are a thread's own; see capabilities(7).)

use std::io;
use std::os::fd::OwnedFd;
use std::thread;

use rustix::fs::{CWD, Mode, OFlags, fstat, openat, stat};
use rustix::process::{chroot, fchdir};
use rustix::thread::{CapabilitySet, capabilities, set_capabilities};

use crate::journal;

/// The root directory that the process was started in.
pub(crate) struct OldRoot {
    /// `/proc/1`, reachable when `/proc` no longer is.
    init: OwnedFd,
}

impl OldRoot {
    /// To be called while `/proc` is there; `None`, with a line in the log, where we may not look.
    ///
    /// Not a warning: somebody who tries the initrd stage by hand need not be root.
    pub(crate) fn remember() -> Option<Self> {
        let remember = || {
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let init = openat(CWD, "/proc/1", flags, Mode::empty())?;
            stat("/proc/1/root/").map(|_| Self { init })
        };
        remember()
            .inspect_err(|error| log::info!("Cannot follow PID 1 to another root: {error}"))
            .ok()
    }

    /// Enters PID 1's root directory if it is another one than ours; false while it is the same.
    pub(crate) fn follow(&self) -> io::Result<bool> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = openat(&self.init, "root", flags, Mode::empty())?;
        let (theirs, ours) = (fstat(&root)?, stat("/")?);
        if (theirs.st_dev, theirs.st_ino) == (ours.st_dev, ours.st_ino) {
            return Ok(false);
        }
        fchdir(&root)?;
        chroot(".")?;
        Ok(true)
    }
}

/// Gives up, in this thread, the capabilities that following takes.
pub(crate) fn drop_capabilities() -> io::Result<()> {
    let not_needed = CapabilitySet::SYS_CHROOT | CapabilitySet::SYS_PTRACE;
    let mut sets = capabilities(None)?;
    sets.effective -= not_needed;
    sets.permitted -= not_needed;
    sets.inheritable -= not_needed;
    Ok(set_capabilities(None, sets)?)
}

/// Does `work` in a thread without the capabilities: threads that it starts do not have them
/// either.
///
/// Its stack has the size of the log writer's, which then takes it over: glibc keeps the stack of a
/// thread that has ended for the next one that needs no larger one.
pub(crate) fn without_capabilities<T: Send>(
    work: impl FnOnce() -> io::Result<T> + Send,
) -> io::Result<T> {
    thread::scope(|scope| {
        let thread = thread::Builder::new().stack_size(journal::STACK);
        let unprivileged = thread.spawn_scoped(scope, || {
            drop_capabilities()?;
            work()
        })?;
        unprivileged.join().unwrap_or_else(|_| Err(io::Error::other("the thread panicked")))
    })
}
