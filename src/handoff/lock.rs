// SPDX-License-Identifier: Apache-2.0
//! Locking: opens the state file, and tries to lock it until this process holds the lock.
//!
//! Owns the file until the handoff actor takes it. Retries instead of blocking, because a blocking
//! flock(2) would stop every actor. Never treats an error as a free lock: logs an error that may be
//! temporary, and tries again. Ends when this process holds the lock, or when no file can exist.

use std::path::PathBuf;
use std::time::Duration;

use early_service_machine::lifecycle::Lock;
use early_service_machine::record::DecodeError;
use early_service_machine::timeline::FieldError;
use futures_lite::future;
use smol::Timer;

use crate::handoff::state_file::{Error, StateFile};
use crate::handoff::users::User;
use crate::journal::message_id::Id;
use crate::platform::notify;
use crate::service::Service;

/// The pause between two attempts. Longer: after the death of an owner, the next one serves later.
/// Shorter: the processor is busy while other services start.
pub(crate) const RETRY: Duration = Duration::from_millis(50);

/// The file, and the state of its lock.
pub(crate) struct Locking {
    /// The file to open; `None` if the state ends with the process.
    path: Option<PathBuf>,
    /// How many bytes the records of the state take.
    size: usize,
    /// A user whose file is trusted, besides root and the user of this process.
    successor: Option<User>,
    pub(crate) file: Option<StateFile>,
    progress: Progress,
    retry: Timer,
    logged: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Progress {
    /// Not trying: not started, or the predecessor has sent its lock.
    Paused,
    /// Started, without an attempt yet.
    First,
    /// Another process holds it.
    Held,
    /// This process holds it, or there is no file to lock.
    Ours,
}

impl Locking {
    pub(crate) fn new(path: Option<PathBuf>, size: usize, successor: Option<User>) -> Self {
        let (progress, retry) = (Progress::Paused, Timer::never());
        Self { path, size, successor, file: None, progress, retry, logged: None }
    }

    pub(crate) fn start(&mut self) {
        self.progress = Progress::First;
    }

    /// Stops trying, because the predecessor has sent its lock.
    pub(crate) fn pause(&mut self) {
        if !self.is_ours() {
            self.progress = Progress::Paused;
        }
    }

    /// Continues to try after the predecessor's bundle was dropped.
    pub(crate) fn resume(&mut self) {
        if self.progress == Progress::Paused {
            self.progress = Progress::Held;
        }
    }

    /// Whether no other process can be the owner: this one holds the lock, or no file can exist.
    pub(crate) fn is_ours(&self) -> bool {
        self.progress == Progress::Ours
    }

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

    /// Waits for a result to report; may be dropped at any point.
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
                    // It is still unknown whether another process holds the lock.
                    self.retry.set_after(RETRY);
                }
            }
        }
    }

    /// Tries once; returns true if this process holds the lock, or if no file can exist.
    fn try_lock(&mut self) -> Result<bool, Error> {
        let Some(path) = &self.path else {
            return Ok(true);
        };
        let successor = self.successor.as_ref();
        if let Some(file) = &mut self.file {
            return file.try_lock(successor);
        }
        match StateFile::open(path, self.size, successor) {
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

    /// Logs an error, unless it is the same as the last one.
    pub(crate) fn say_again(&mut self, error: &Error) {
        let line = format!("{error}: trying again");
        if self.logged.as_ref() != Some(&line) {
            log::error!(MESSAGE_ID = Id::StateFileUnusable; "{line}");
            notify::status(format_args!("{line}"));
            self.logged = Some(line);
        }
    }

    /// Reads the file, which no other process writes any more.
    fn found<S: Service>(&mut self) -> Result<Lock, Error> {
        let Some(file) = &mut self.file else {
            return Ok(Lock::AcquiredWithoutState);
        };
        match file.load::<S>()? {
            Ok(_) => Ok(Lock::AcquiredWithState),
            // The other service may have died, and needs the record when it starts again.
            Err(other @ DecodeError::Field(FieldError::Service(_))) => {
                log::error!(
                    MESSAGE_ID = Id::StateFileUnusable;
                    "cannot use state file {}: {other}; the state will not outlive us",
                    file.path().display()
                );
                (self.file, self.path) = (None, None);
                Ok(Lock::AcquiredWithoutState)
            }
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
