// SPDX-License-Identifier: Apache-2.0
//! Locking: tries the lock on the state file until it is ours.
//!
//! Owns the file, open and not yet locked, until it is taken out.
//! Never waits for the lock (flock(2) would stop every actor): tries it again and again.
//! Ends when the lock is ours, or when there is no file to lock.

use std::time::Duration;

use early_service_machine::lifecycle::Event;
use futures_lite::future;
use rustix::io::Errno;
use smol::Timer;

use crate::catalog::Id;
use crate::service::Service;
use crate::state_file::{Error, StateFile};
use crate::systemd;

/// How often the lock is tried.
///
/// Longer, and a state whose owner died goes on that much later; shorter keeps the processor from
/// those who wait with us.
const RETRY: Duration = Duration::from_millis(50);

/// The file and what is known of its lock.
pub(crate) struct Locking {
    pub(crate) file: Option<StateFile>,
    progress: Progress,
    retry: Timer,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Progress {
    /// Not to be tried: not yet, or not while the predecessor's lock is with us.
    Paused,
    /// To be tried, and not tried before.
    First,
    /// Another process holds it.
    Held,
    /// The lock is ours, or there is none.
    Ours,
}

impl Locking {
    pub(crate) fn new(file: Option<StateFile>) -> Self {
        Self { file, progress: Progress::Paused, retry: Timer::never() }
    }

    /// Tries from now on.
    pub(crate) fn start(&mut self) {
        self.progress = Progress::First;
    }

    /// Tries no more, as long as what the predecessor sent is with us.
    pub(crate) fn pause(&mut self) {
        if !self.is_ours() {
            self.progress = Progress::Paused;
        }
    }

    /// Tries again, after what the predecessor sent was dropped.
    pub(crate) fn resume(&mut self) {
        if self.progress == Progress::Paused {
            self.progress = Progress::Held;
        }
    }

    /// Whether nobody else can own: the lock is ours, or there is none.
    pub(crate) fn is_ours(&self) -> bool {
        self.progress == Progress::Ours
    }

    /// Says that there is nothing to do but to wait for another process.
    pub(crate) fn say_held(&self) {
        if let Some(file) = &self.file {
            let path = file.path().display();
            log::warn!(
                MESSAGE_ID = Id::LockHeld;
                "{path} is locked by another process: waiting for it"
            );
            systemd::status(format_args!("booting: another process holds the lock of {path}"));
        }
    }

    /// Waits until there is something to report; may be dropped at any point.
    pub(crate) async fn next<S: Service>(&mut self) -> Event {
        loop {
            match self.progress {
                Progress::Paused | Progress::Ours => future::pending().await,
                Progress::Held => {
                    if !self.retry.will_fire() {
                        self.retry.set_after(RETRY);
                    }
                    (&mut self.retry).await;
                    self.retry.clear();
                }
                Progress::First => {}
            }
            if self.try_lock() {
                self.progress = Progress::Ours;
                return self.found::<S>();
            }
            if self.progress == Progress::First {
                self.progress = Progress::Held;
                return Event::LockHeld;
            }
        }
    }

    /// Tries once; a file that cannot be locked at all is given up.
    fn try_lock(&mut self) -> bool {
        match self.file.as_mut().map(StateFile::try_lock) {
            None => true,
            Some(Ok(is_ours)) => is_ours,
            // Around the switch of root the file cannot be named for a moment.
            Some(Err(Error::BootId(_) | Error::Open(_, Errno::NOENT))) => false,
            Some(Err(error)) => {
                log::error!(
                    MESSAGE_ID = Id::StateFileUnusable;
                    "{error}; the state will not outlive us"
                );
                self.file = None;
                true
            }
        }
    }

    /// Looks into the file, now that nobody else writes it.
    fn found<S: Service>(&mut self) -> Event {
        match self.file.as_mut().map(|file| (file.load::<S>(), file.path().display().to_string())) {
            Some((Ok(_), _)) => Event::LockedWithState,
            Some((Err(ignored), path)) => {
                if !self.file.as_ref().is_some_and(StateFile::is_new) {
                    log::warn!(MESSAGE_ID = Id::StateIgnored; "Ignoring {path}: {ignored}");
                }
                Event::LockedWithoutState
            }
            None => Event::LockedWithoutState,
        }
    }
}
