// SPDX-License-Identifier: Apache-2.0
//! Root directory: follows PID 1 across the switch of root.
//!
//! Up to Linux 6, a process that survives the switch keeps the old root directory, in which `/run`,
//! `/proc` and `/dev` are empty afterwards: the journal, systemd's notification socket and our own
//! socket file can no longer be named.
//! Open descriptors still work, so one on `/proc/1` is opened at the start; when PID 1 has another
//! root directory than we have, we enter it.
//! From Linux 7.0 on, the initramfs lies on a file system that pivot_root(2) can exchange, and that
//! call moves the root directory of every process along with PID 1's: the two are equal before and
//! after the switch. So our own root directory is remembered too, and the switch is noticed when it
//! is another one than at the start.
//!
//! To follow takes CAP_SYS_PTRACE, to look at PID 1's root (`proc_pid_root(5)`), and CAP_SYS_CHROOT;
//! both are given up afterwards, and as soon as we may not look. To be moved along takes neither.
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

use rustix::fs::{Access, CWD, Mode, OFlags, Stat, access, fstat, openat, stat};
use rustix::process::{chdir, chroot, fchdir};
use rustix::thread::{CapabilitySet, capabilities, set_capabilities};
use smol::Timer;

use crate::platform::files::is_same;

/// When the reactor's thread gives up the capabilities: a timer that is due at once wakes nobody.
const SOON: Duration = Duration::from_millis(1);

/// What marks a root directory as an initrd's (`os-release(5)`).
const INITRD: &str = "/etc/initrd-release";

/// The root directory that the process was started in.
pub(crate) struct OldRoot {
    /// `/proc/1`, reachable when `/proc` no longer is; `None` where we may not look at PID 1's root.
    init: Option<OwnedFd>,
    /// Our root directory at the start, or after the last switch from one initrd to another.
    ours: Stat,
}

/// What a look at the root directories has shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Switch {
    /// There was none yet.
    Awaited,
    /// From one initrd to another: there will be one more.
    ToInitrd,
    /// To the root filesystem, where we are now.
    ToRoot,
}

impl OldRoot {
    /// To be called while `/proc` is there; a line in the log tells where we may not look.
    ///
    /// Not a warning: somebody who tries the initrd stage by hand need not be root.
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

    /// Whether we can only notice that we have been moved along.
    pub(crate) fn is_blind(&self) -> bool {
        self.init.is_none()
    }

    /// Looks at PID 1's root directory no more.
    pub(crate) fn give_up_looking(&mut self) {
        self.init = None;
    }

    /// Enters PID 1's root directory if it is another one than ours, and says whether there was a
    /// switch of root.
    ///
    /// Ours is looked at first: where the kernel moves us along we need not look at PID 1's, which a
    /// security policy that comes with the new root may forbid.
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
            // The kernel has moved the working directory along only if it was the old root.
            chdir("/")?;
            self.ours = ours;
        }
        let is_initrd = access(INITRD, Access::EXISTS).is_ok();
        Ok(if is_initrd { Switch::ToInitrd } else { Switch::ToRoot })
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
