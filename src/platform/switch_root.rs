// SPDX-License-Identifier: Apache-2.0
//! Root directory: follows PID 1 across the switch of root, in the initrd stage only.
//!
//! Up to Linux 6, a process that survives the switch keeps the old root directory, in which `/run`,
//! `/proc` and `/dev` are then empty. The journal, the notification socket of systemd and the
//! socket file of the service then have no name. Open descriptors still work, so `/proc/1` is
//! opened at the start. When the root directory of PID 1 differs from that of this process, this
//! process enters it. From Linux 7.0 on, the initramfs is on a file system that pivot_root(2) can
//! exchange. That call moves the root directory of every process together with PID 1's, so the two
//! are equal before and after the switch. Therefore the root directory at the start is remembered
//! too, and a change of it shows the switch.
//!
//! Following requires CAP_SYS_PTRACE, to look at the root of PID 1 (`proc_pid_root(5)`), and
//! CAP_SYS_CHROOT. Both are dropped afterwards, or as soon as looking is not allowed. A move by the
//! kernel requires neither.
//!
//! **Invariant:** only the main thread has the two capabilities, apart from the first moment of
//! other threads, and no thread has them once the new root is entered. (Each thread has its own
//! capabilities; see capabilities(7).)

use std::io;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Wake, Waker};
use std::thread::{self, ThreadId};
use std::time::Duration;

use rustix::fs::{Access, CWD, Mode, OFlags, Stat, access, fstat, openat, stat};
use rustix::process::{chdir, chroot, fchdir};
use rustix::thread::{CapabilitySet, capabilities, set_capabilities};
use smol::Timer;

use crate::platform::files::is_same;

/// When the reactor's thread drops the capabilities; not zero, because a timer that is due at once
/// does not wake the thread.
const SOON: Duration = Duration::from_millis(1);

/// The file that marks the root directory of an initrd (`os-release(5)`).
const INITRD_RELEASE: &str = "/etc/initrd-release";

/// The root directory in which the process was started.
pub(crate) struct OldRoot {
    /// `/proc/1`, usable when `/proc` no longer is; `None` if PID 1's root cannot be looked at.
    init: Option<OwnedFd>,
    /// The root directory at the start, or after the last switch from one initrd to another.
    ours: Stat,
}

/// The outcome of a look at the root directories.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Switch {
    /// There was no switch yet.
    Awaited,
    /// From one initrd to another: there will be one more switch.
    ToInitrd,
    /// To the root filesystem, in which this process is now.
    ToRoot,
}

impl OldRoot {
    /// Opens `/proc/1`; logs a line if looking at PID 1's root is not allowed. The line is no
    /// warning, because a user who tries the initrd stage by hand need not be root.
    pub(crate) fn remember() -> Option<Self> {
        let init = || {
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let init = openat(CWD, "/proc/1", flags, Mode::empty())?;
            stat("/proc/1/root/").map(|_| init)
        };
        let init = init()
            .inspect_err(|error| log::info!("Cannot follow PID 1 to another root: {error}"))
            .ok();
        Some(Self { init, ours: stat("/").ok()? })
    }

    /// Whether PID 1's root can be looked at; if not, only a move by the kernel is noticed.
    pub(crate) fn can_look(&self) -> bool {
        self.init.is_some()
    }

    pub(crate) fn stop_looking(&mut self) {
        self.init = None;
    }

    /// Enters PID 1's root directory if it differs from ours; returns whether there was a switch.
    /// Looks at our own first: if the kernel has moved this process, it need not look at PID 1's,
    /// which a security policy of the new root may forbid.
    pub(crate) fn follow(&mut self) -> io::Result<Switch> {
        let ours = stat("/")?;
        if is_same(&ours, &self.ours) {
            let Some(init) = &self.init else { return Ok(Switch::Awaited) };
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let root = openat(init, "root", flags, Mode::empty())?;
            let theirs = fstat(&root)?;
            if is_same(&theirs, &ours) {
                return Ok(Switch::Awaited);
            }
            fchdir(&root)?;
            chroot(".")?;
            self.ours = theirs;
        } else {
            // The kernel has moved the working directory only if it was the old root.
            chdir("/")?;
            self.ours = ours;
        }
        let is_initrd = access(INITRD_RELEASE, Access::EXISTS).is_ok();
        Ok(if is_initrd { Switch::ToInitrd } else { Switch::ToRoot })
    }
}

/// Drops the capabilities that following requires, in this thread.
pub(crate) fn drop_capabilities() -> io::Result<()> {
    let not_needed = CapabilitySet::SYS_CHROOT | CapabilitySet::SYS_PTRACE;
    let mut sets = capabilities(None)?;
    sets.effective -= not_needed;
    sets.permitted -= not_needed;
    sets.inheritable -= not_needed;
    Ok(set_capabilities(None, sets)?)
}

/// Starts the reactor. Its thread inherits the capabilities from this thread, and drops them soon;
/// the timer must be kept.
///
/// A waker drops them, because wakers are the only code of this program that the thread runs.
/// Starting the reactor from another thread without them would cost a third of the time from exec
/// to the first reply, 12 kB and 23 system calls (measured).
pub(crate) fn disarm_reactor() -> Timer {
    let waker = Waker::from(Arc::new(Disarm { follower: thread::current().id() }));
    let mut timer = Timer::after(SOON);
    let _ = Pin::new(&mut timer).poll(&mut Context::from_waker(&waker));
    timer
}

/// Drops the capabilities of the thread that wakes it.
struct Disarm {
    /// The thread that keeps them.
    follower: ThreadId,
}

impl Wake for Disarm {
    fn wake(self: Arc<Self>) {
        if thread::current().id() != self.follower {
            // Cannot fail in a thread that has the capabilities.
            let _ = drop_capabilities();
        }
    }
}
