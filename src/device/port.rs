// SPDX-License-Identifier: Apache-2.0
//! Port: the functions of the process that a device can call.

use std::env;
use std::ffi::OsString;
use std::io;
use std::rc::Rc;

use async_channel::Sender;
use early_service_machine::schedule::Monotonic;
use futures_lite::future;
use smol::Timer;

use crate::messages::{Answer, Question};
use crate::platform::clock;
use crate::service::Service;
use crate::status::Status;
use crate::trial;
use crate::trial::clock::Clock;

/// The device's connection to the state, the clock and PID 1.
pub struct Port<S: Service> {
    pub(super) questions: Sender<Question<S>>,
    pub(super) status: Rc<Status>,
    pub(super) status_changed: Sender<()>,
    /// The clock of a trial, if this is one.
    pub(super) trial: Option<Rc<Clock>>,
}

impl<S: Service> Port<S> {
    /// Executes a command on the state.
    ///
    /// The change is in the state file when this returns, so it outlives a crash. A command that
    /// was given is executed even if the future is dropped meanwhile, for example because the
    /// process hands over. Clients cannot give a command that
    /// [`State::command`](crate::State::command) does not read.
    pub async fn apply(&self, command: S::Command) -> S::Reply {
        match self.ask(Some(command)).await.1 {
            Some(reply) => reply,
            // Never: every command has a reply.
            None => future::pending().await,
        }
    }

    /// The state, after all ticks that are due.
    pub async fn state(&self) -> S {
        self.ask(None).await.0
    }

    async fn ask(&self, command: Option<S::Command>) -> Answer<S> {
        let (answer, answers) = async_channel::bounded(1);
        // If this fails, so does the next line.
        let _ = self.questions.send(Question { command, answer }).await;
        match answers.recv().await {
            Ok(answer) => answer,
            // The ticker has left, and this future is about to be dropped.
            Err(_) => future::pending().await,
        }
    }

    /// The time of the clock that ticks follow (`CLOCK_MONOTONIC`).
    #[must_use]
    pub fn now(&self) -> Monotonic {
        self.trial.as_ref().map_or_else(clock::now, |trial| trial.now())
    }

    /// Waits until `deadline`.
    pub async fn until(&self, deadline: Monotonic) {
        match &self.trial {
            Some(trial) => trial.until(deadline).await,
            None => {
                Timer::at(clock::instant(deadline)).await;
            }
        }
    }

    /// A setting of the environment, such as the path of the device; `default` if there is none.
    ///
    /// `Environment=` of the unit sets it, and [`trial::set`] in a test.
    ///
    /// # Errors
    ///
    /// Names a setting that is no text.
    pub fn setting(&self, name: &str, default: &str) -> io::Result<String> {
        let value = match &self.trial {
            Some(_) => trial::setting(name),
            None => env::var_os(name),
        };
        let text = value.map_or_else(|| Ok(default.to_owned()), OsString::into_string);
        text.map_err(|value| {
            io::Error::other(format!("{name}={} is no text", value.to_string_lossy()))
        })
    }

    /// Reports whether the device does its work.
    ///
    /// After an error, PID 1 receives no signs of life, so that the unit's watchdog restarts the
    /// service, until the device reports that it works again. The error is shown by `status` and by
    /// `systemctl status`.
    pub fn health(&self, health: Result<(), &str>) {
        self.status.set_health(health);
        let _ = self.status_changed.try_send(());
    }
}
