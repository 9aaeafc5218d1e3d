// SPDX-License-Identifier: Apache-2.0
//! Locking: opens the state file, and tries its lock until it is ours.
//!
//! Owns the file until it is taken out.
//! Never waits for the lock (flock(2) would stop every actor): tries it again and again.
//! Never takes an error for a free lock: an error that may pass is logged and tried again.
//! Ends when the lock is ours, or when there can be no file to lock.

use std::path::PathBuf;
use std::time::Duration;

use early_service_machine::lifecycle::Lock;
use futures_lite::future;
use smol::Timer;

use crate::handoff::state_file::{Error, StateFile};
use crate::handoff::users::User;
use crate::journal::message_id::Id;
use crate::platform::notify;
use crate::service::Service;

/// How often the lock is tried.
///
/// Longer, and a state whose owner died goes on that much later; shorter keeps the processor from
/// those who wait with us.
pub(crate) const RETRY: Duration = Duration::from_millis(50);

/// The file and what is known of its lock.
pub(crate) struct Locking {
    /// The file to open; `None` where the state is to end with the process.
    path: Option<PathBuf>,
    /// A user whose file is believed, beside root and our own.
    successor: Option<User>,
    pub(crate) file: Option<StateFile>,
    progress: Progress,
    retry: Timer,
    /// The last error that was logged.
    logged: Option<String>,
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
    pub(crate) fn new(path: Option<PathBuf>, successor: Option<User>) -> Self {
        let (progress, retry) = (Progress::Paused, Timer::never());
        Self { path, successor, file: None, progress, retry, logged: None }
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
            notify::status(format_args!("booting: another process holds the lock of {path}"));
        }
    }

    /// Waits until there is something to report; may be dropped at any point.
    pub(crate) async fn next<S: Service>(&mut self) -> Lock {
        loop {
            match self.progress {
                Progress::Paused | Progress::Ours => future::pending().await,
                Progress::Held if !self.retry.will_fire() => self.retry.set_after(RETRY),
                Progress::Held | Progress::First => {}
            }
            if self.retry.will_fire() {
                (&mut self.retry).await;
                self.retry.clear();
            }
            match self.try_lock().and_then(|is_ours| is_ours.then(|| self.found::<S>()).transpose())
            {
                Ok(Some(event)) => {
                    self.progress = Progress::Ours;
                    return event;
                }
                Ok(None) if self.progress == Progress::First => {
                    self.progress = Progress::Held;
                    return Lock::HeldElsewhere;
                }
                Ok(None) => {}
                Err(error) => {
                    self.say_again(&error);
                    // At first, whether somebody holds the lock stays unknown.
                    self.retry.set_after(RETRY);
                }
            }
        }
    }

    /// Tries once; true if the lock is ours, or if there can be no file.
    fn try_lock(&mut self) -> Result<bool, Error> {
        let Some(path) = &self.path else {
            return Ok(true);
        };
        let successor = self.successor.as_ref();
        if let Some(file) = &mut self.file {
            return file.try_lock(successor);
        }
        match StateFile::open(path, successor) {
            Ok(file) => self.file.insert(file).try_lock(successor),
            Err(error) if error.is_final() => {
                log::error!(
                    MESSAGE_ID = Id::StateFileUnusable;
                    "{error}; the state will not outlive us"
                );
                self.path = None;
                Ok(true)
            }
            Err(error) => Err(error),
        }
    }

    /// Logs an error once, until there is another one.
    pub(crate) fn say_again(&mut self, error: &Error) {
        let line = format!("{error}: trying again");
        if self.logged.as_ref() != Some(&line) {
            log::error!(MESSAGE_ID = Id::StateFileUnusable; "{line}");
            notify::status(format_args!("{line}"));
            self.logged = Some(line);
        }
    }

    /// Looks into the file, now that nobody else writes it.
    fn found<S: Service>(&mut self) -> Result<Lock, Error> {
        let Some(file) = &mut self.file else {
            return Ok(Lock::AcquiredWithoutState);
        };
        match file.load::<S>()? {
            Ok(_) => Ok(Lock::AcquiredWithState),
            Err(ignored) => {
                if !file.is_new() {
                    let path = file.path().display();
                    log::warn!(MESSAGE_ID = Id::StateIgnored; "Ignoring {path}: {ignored}");
                }
                Ok(Lock::AcquiredWithoutState)
            }
        }
    }
}
