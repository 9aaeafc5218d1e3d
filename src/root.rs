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
//! **Invariant:** only the main thread has the two capabilities, but for the first moment of the
//! others, and none has them once the new root is entered.
//! (Capabilities are a thread's own; see capabilities(7).)

use std::io;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Wake, Waker};
use std::thread::{self, ThreadId};
use std::time::Duration;

use rustix::fs::{CWD, Mode, OFlags, fstat, openat, stat};
use rustix::process::{chroot, fchdir};
use rustix::thread::{CapabilitySet, capabilities, set_capabilities};
use smol::Timer;

/// When the reactor's thread gives up the capabilities: a timer that is due at once wakes nobody.
const SOON: Duration = Duration::from_millis(1);

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

/// Has the reactor's thread give them up soon, which inherits them from the thread that starts it; the
/// timer must be kept.
///
/// That thread runs nobody's code but wakers, so a waker does it.
/// To start the reactor from a thread without them, which is ended then, costs a third of the time from
/// exec to the first reply, 12 kB and 23 system calls (measured).
pub(crate) fn disarm_reactor() -> Timer {
    let waker = Waker::from(Arc::new(Disarm { follower: thread::current().id() }));
    let mut timer = Timer::after(SOON);
    let _ = Pin::new(&mut timer).poll(&mut Context::from_waker(&waker));
    timer
}

/// Takes the capabilities from the thread that wakes it.
struct Disarm {
    /// Whoever is to keep them.
    follower: ThreadId,
}

impl Wake for Disarm {
    fn wake(self: Arc<Self>) {
        if thread::current().id() != self.follower {
            // It cannot fail for one who has them, and one who has none loses nothing.
            let _ = drop_capabilities();
        }
    }
}
