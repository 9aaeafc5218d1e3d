// SPDX-License-Identifier: Apache-2.0
//! Process under trial, and its clients.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::victim::Victim;

/// The longest wait for anything. Reached only if something is wrong.
pub(crate) const LIMIT: Duration = Duration::from_secs(30);

/// Waits until `is_done`.
pub(crate) fn until(otherwise: &str, mut is_done: impl FnMut() -> bool) -> Result<(), String> {
    let begin = Instant::now();
    while !is_done() {
        if begin.elapsed() > LIMIT {
            return Err(format!("{otherwise} within {} s", LIMIT.as_secs()));
        }
        thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

/// A process; killed when it is dropped.
pub(crate) struct Process {
    child: Child,
    pub(crate) victim: Victim,
    name: &'static str,
    pub(crate) socket: PathBuf,
}

impl Process {
    /// Starts the program, which adopts from `predecessor`. Its log is in `name.log`.
    pub(crate) fn start(
        mut command: Command,
        directory: &Path,
        name: &'static str,
        predecessor: Option<&Path>,
    ) -> Self {
        let socket = directory.join(name);
        command.arg("--server-socket-path").arg(&socket);
        command.arg("--state-file").arg(directory.join("state"));
        if let Some(predecessor) = predecessor {
            command.arg("--client-socket-path").arg(predecessor);
        }
        // The log is that file, and PID 1 is not told of a trial.
        for variable in ["JOURNAL_STREAM", "LISTEN_PID", "NOTIFY_SOCKET", "WATCHDOG_PID"] {
            command.env_remove(variable);
        }
        let log = File::create(socket.with_extension("log")).expect("a directory for the log");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let child = command.spawn().expect("the program can be started");
        let victim = Victim::new(child.id());
        Self { child, victim, name, socket }
    }

    pub(crate) fn has_ended(&mut self) -> bool {
        self.child.try_wait().is_ok_and(|status| status.is_some())
    }

    /// Whether the exit status of the ended process is 0.
    pub(crate) fn has_succeeded(&mut self) -> Result<(), String> {
        match self.child.wait() {
            Ok(status) if status.success() => Ok(()),
            Ok(status) => Err(format!("the {} process ended with {status}", self.name)),
            Err(error) => Err(error.to_string()),
        }
    }

    /// Waits until it owns the state.
    pub(crate) fn serves(&mut self) -> Result<(), String> {
        let mut has_ended = false;
        until(&format!("the {} process has not served", self.name), || {
            has_ended = self.has_ended();
            let status = || Client::connect(&self.socket).ok()?.ask("status").ok();
            has_ended || status().is_some_and(|status| status.contains(" phase=serving "))
        })?;
        if has_ended { Err(format!("the {} process has ended", self.name)) } else { Ok(()) }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A connection.
pub(crate) struct Client(BufReader<UnixStream>);

impl Client {
    pub(crate) fn connect(socket: &Path) -> Result<Self, String> {
        let stream = UnixStream::connect(socket)
            .map_err(|error| format!("cannot connect to {}: {error}", socket.display()))?;
        stream.set_read_timeout(Some(LIMIT)).map_err(|error| error.to_string())?;
        Ok(Self(BufReader::new(stream)))
    }

    /// Sends a line; returns the reply.
    pub(crate) fn ask(&mut self, line: &str) -> Result<String, String> {
        let failed = |error| format!("no reply to {line:?}: {error}");
        self.0.get_mut().write_all(format!("{line}\n").as_bytes()).map_err(failed)?;
        let mut reply = String::new();
        match self.0.read_line(&mut reply).map_err(failed)? {
            0 => Err(format!("no reply to {line:?}: the connection was closed")),
            _ => Ok(reply.trim_end().to_owned()),
        }
    }
}
