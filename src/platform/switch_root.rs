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
//! CAP_SYS_CHROOT. Each thread has its own capabilities (capabilities(7)), and inherits those of
//! the thread that starts it. So the main thread, which runs the service, drops them before it
//! calls the service, and the thread of the reactor keeps them and looks: the only code of this
//! program that it runs is wakers. It changes the root directory of all threads, and drops the
//! capabilities afterwards, or as soon as looking is not allowed. A move by the kernel requires
//! neither.
//!
//! **Invariant:** once the actors run, only the reactor's thread has the two capabilities, and no
//! thread has them once the new root is entered.

use std::io;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Wake, Waker};
use std::thread;
use std::time::Duration;

use futures_lite::future;
use rustix::fs::{Access, CWD, Mode, OFlags, Stat, access, fstat, openat, stat};
use rustix::io::Errno;
use rustix::process::{chdir, chroot, fchdir};
use rustix::thread::{CapabilitySet, capabilities, set_capabilities};
use smol::Timer;

use crate::platform::files::is_same;
use crate::server::limits::is_shortage;

/// The delay of a look that cannot wait; not zero, because a timer that is due at once does not
/// wake the reactor's thread.
pub(crate) const SOON: Duration = Duration::from_millis(1);

/// The name of the reactor's thread.
const REACTOR: &str = "async-io";

/// The file that marks the root directory of an initrd (`os-release(5)`).
const INITRD_RELEASE: &str = "/etc/initrd-release";

/// Has the reactor's thread look at the root directories.
pub(crate) struct Follower {
    looking: Arc<Looking>,
    can_look: bool,
}

/// The part of the reactor's thread.
struct Looking {
    /// Locked by that thread only.
    root: Mutex<OldRoot>,
    /// What was found, until the follower takes it. No mailbox, which would be 2 kB of code.
    found: Mutex<Option<io::Result<Switch>>>,
}

/// The root directory in which the process was started.
struct OldRoot {
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

impl Follower {
    /// Remembers the root directory, and drops the capabilities of this thread. The reactor's
    /// thread exists already, and keeps them.
    pub(crate) fn start() -> Option<Self> {
        let root = OldRoot::remember();
        if let Err(error) = drop_capabilities() {
            log::warn!("cannot drop capabilities: {error}");
        }
        let root = root?;
        let can_look = root.init.is_some();
        let looking = Looking { root: Mutex::new(root), found: Mutex::new(None) };
        Some(Self { looking: Arc::new(looking), can_look })
    }

    /// Whether PID 1's root can be looked at; if not, only a move by the kernel is noticed.
    pub(crate) fn can_look(&self) -> bool {
        self.can_look
    }

    /// Waits for `timer`; the reactor's thread looks when it is due.
    pub(crate) async fn wait(&self, timer: &mut Timer) {
        future::poll_fn(|context| {
            let (looking, waiting) = (Arc::clone(&self.looking), context.waker().clone());
            let waker = Waker::from(Arc::new(Look { looking, waiting }));
            Pin::new(&mut *timer).poll(&mut Context::from_waker(&waker))
        })
        .await;
    }

    /// What the last look found, if that is worth a report. After a failure that is not
    /// temporary, PID 1's root cannot be looked at any more.
    pub(crate) fn found(&mut self) -> io::Result<Switch> {
        let found = self.looking.found.lock().ok().and_then(|mut found| found.take());
        let found = found.unwrap_or(Ok(Switch::Awaited));
        self.can_look &= found.as_ref().err().is_none_or(is_temporary);
        found
    }
}

/// Whether looking may succeed later.
pub(crate) fn is_temporary(error: &io::Error) -> bool {
    Errno::from_io_error(error).is_some_and(is_shortage)
}

/// Looks, and then wakes the task that waits for the timer.
struct Look {
    looking: Arc<Looking>,
    waiting: Waker,
}

impl Wake for Look {
    fn wake(self: Arc<Self>) {
        // Another thread that waits for the reactor has no capabilities. The next timer is likely
        // to be handled by the right one.
        if thread::current().name() == Some(REACTOR) {
            self.looking.look();
        }
        self.waiting.wake_by_ref();
    }
}

impl Looking {
    fn look(&self) {
        let Ok(mut root) = self.root.lock() else { return };
        if self.found.lock().is_ok_and(|found| found.is_some()) {
            return;
        }
        let found = root.follow();
        let is_over = match &found {
            Ok(switch) => *switch == Switch::ToRoot,
            Err(error) => !is_temporary(error),
        };
        if is_over {
            root.init = None;
        }
        if root.init.is_none() {
            // Cannot fail in a thread that has the capabilities.
            let _ = drop_capabilities();
        }
        if !matches!(found, Ok(Switch::Awaited)) {
            if let Ok(mut last) = self.found.lock() {
                *last = Some(found);
            }
        }
    }
}

impl OldRoot {
    /// Opens `/proc/1`; logs a line if looking at PID 1's root is not allowed. The line is no
    /// warning, because a user who tries the initrd stage by hand need not be root.
    fn remember() -> Option<Self> {
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

    /// Enters PID 1's root directory if it differs from ours; returns whether there was a switch.
    /// Looks at our own first: if the kernel has moved this process, it need not look at PID 1's,
    /// which a security policy of the new root may forbid.
    fn follow(&mut self) -> io::Result<Switch> {
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
fn drop_capabilities() -> io::Result<()> {
    let not_needed = CapabilitySet::SYS_CHROOT | CapabilitySet::SYS_PTRACE;
    let mut sets = capabilities(None)?;
    sets.effective -= not_needed;
    sets.permitted -= not_needed;
    sets.inheritable -= not_needed;
    Ok(set_capabilities(None, sets)?)
}
