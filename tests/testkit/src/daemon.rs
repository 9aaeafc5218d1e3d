// SPDX-License-Identifier: Apache-2.0
//! Daemon: one process under test, and the lines that it logs.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::build;
use crate::host::Stopwatch;
pub use crate::line::Line;
use crate::starting;
pub use crate::starting::detach;
use crate::{LIMIT, until};

/// A period that is longer than any test: the daemon does not tick.
pub const STILL: [&str; 2] = ["--timer-delay-ms", "3600000"];

/// The process; killed if the test ends first.
pub struct Daemon {
    child: Child,
    log: Arc<Log>,
    pub socket: PathBuf,
}

#[derive(Default)]
struct Log {
    lines: Mutex<Vec<Line>>,
    grown: Condvar,
    /// Whether no process is left that could write another line.
    is_whole: AtomicBool,
}

/// The program under test: cargo builds it for integration tests, or `EARLY_SERVICE_PROGRAM` names
/// another build, such as one with a planted fault.
pub fn binary() -> OsString {
    env::var_os("EARLY_SERVICE_PROGRAM").unwrap_or_else(|| {
        let profile = build::profile().expect("a target directory");
        profile.join("early-service").into()
    })
}

/// The program, without anything inherited from the test.
pub fn program() -> Command {
    let mut program = Command::new(binary());
    detach(&mut program);
    program
}

/// The program as a `.socket` unit starts it: `socket` is descriptor 3.
pub fn started_with(socket: &UnixListener) -> Command {
    starting::with(binary(), socket)
}

/// Copies the program to a path where any user can start it.
///
/// Another process makes the copy. If this one did, a concurrent fork would keep the file open for
/// writing, and the program could not be started (ETXTBSY).
pub fn copy_program(to: &Path) {
    let status = Command::new("cp").arg(binary()).arg(to).status();
    assert!(status.is_ok_and(|status| status.success()), "room for a copy");
}

impl Daemon {
    /// Starts the program on `socket`, and waits until it serves.
    pub fn serve(socket: impl AsRef<Path>, options: &[&str]) -> Self {
        let daemon = Self::start(socket, options);
        daemon.wait_for("Listening on UNIX socket");
        daemon
    }

    /// Starts the program on `socket`.
    pub fn start(socket: impl AsRef<Path>, options: &[&str]) -> Self {
        let socket = socket.as_ref().to_owned();
        Self::spawn_at(program().arg("--server-socket-path").arg(&socket).args(options), socket)
    }

    /// Starts a command and reads its standard error.
    pub fn spawn(command: &mut Command) -> Self {
        let mut daemon = Self::spawn_unread(command.stderr(Stdio::piped()));
        let log = Arc::clone(&daemon.log);
        let stderr = daemon.child.stderr.take().expect("a pipe");
        thread::spawn(move || log.read(stderr));
        daemon
    }

    /// Starts a command that serves `socket`.
    pub fn spawn_at(command: &mut Command, socket: PathBuf) -> Self {
        let mut daemon = Self::spawn(command);
        daemon.socket = socket;
        daemon
    }

    /// The same, and waits until clients can connect.
    #[track_caller]
    pub fn listen_at(command: &mut Command, socket: PathBuf) -> Self {
        let daemon = Self::spawn_at(command, socket);
        daemon.wait_for("Listening on UNIX socket");
        daemon
    }

    /// Waits until a client can connect, for a process that says so in its log only later.
    ///
    /// The file exists a moment before: the process binds the socket, and then listens.
    #[track_caller]
    pub fn until_it_listens(&self) {
        until("a server", || UnixStream::connect(&self.socket).is_ok());
    }

    /// Starts a command whose standard error nobody reads.
    pub fn spawn_unread(command: &mut Command) -> Self {
        let child = command.spawn().expect("the program starts");
        Self { child, log: Arc::default(), socket: PathBuf::new() }
    }

    /// Begins to read the standard error of a process from [`Self::spawn_unread`].
    pub fn read_at_last(&mut self) {
        let stderr = self.child.stderr.take().expect("a pipe");
        let log = Arc::clone(&self.log);
        thread::spawn(move || log.read(stderr));
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.pid()).ok().and_then(Pid::from_raw).expect("a process id");
        kill_process(pid, signal).expect("the process is there");
    }

    /// Stops the process, and waits until all its threads have stopped.
    pub fn stop(&self) {
        self.signal(Signal::STOP);
        until("stopped", || self.status("State").starts_with('T'));
    }

    /// A field of `/proc/PID/status`.
    pub fn status(&self, field: &str) -> String {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("a process");
        let mut lines = status.lines().filter_map(|line| line.split_once(':'));
        let (_, value) = lines.find(|(name, _)| *name == field).expect("a field of that name");
        value.trim().to_owned()
    }

    pub fn threads(&self) -> usize {
        fs::read_dir(format!("/proc/{}/task", self.pid())).expect("a process").count()
    }

    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("our own child").is_none()
    }

    /// Waits for the end; returns its duration without the machine's delays.
    #[track_caller]
    pub fn ended(&mut self) -> (ExitStatus, Duration) {
        let watch = Stopwatch::start();
        until("ended", || !self.is_running());
        let status = self.child.wait().expect("our own child");
        (status, watch.elapsed())
    }

    /// Waits for a line that contains `text`.
    #[track_caller]
    pub fn wait_for(&self, text: &str) -> Line {
        self.wait_until(text, |lines| {
            lines.iter().find(|line| line.message.contains(text)).cloned()
        })
    }

    /// Waits until `look` accepts the lines so far.
    #[track_caller]
    pub fn wait_until<T>(&self, what: &str, look: impl Fn(&[Line]) -> Option<T>) -> T {
        let (start, mut lines) = (Instant::now(), self.log.lines.lock().expect("the log"));
        loop {
            if let Some(found) = look(&lines) {
                return found;
            }
            let left = LIMIT.saturating_sub(start.elapsed());
            assert!(!left.is_zero(), "still waiting for {what:?} in {lines:#?}");
            // Wakes often enough to notice the limit if no line arrives.
            let step = left.min(Duration::from_millis(100));
            (lines, _) = self.log.grown.wait_timeout(lines, step).expect("the log");
        }
    }

    /// Waits until `count` ticks were logged; returns all numbers.
    #[track_caller]
    pub fn ticks(&self, count: usize) -> Vec<u64> {
        let enough = |lines: &[Line]| Some(numbers(lines)).filter(|ticks| ticks.len() >= count);
        self.wait_until(&format!("{count} ticks"), enough)
    }

    /// The messages logged so far.
    pub fn messages(&self) -> Vec<String> {
        // Also after a failed wait, to show the log.
        let lines = self.log.lines.lock().unwrap_or_else(PoisonError::into_inner);
        lines.iter().map(|line| line.message.clone()).collect()
    }

    /// Every line of a process that has ended.
    pub fn whole_log(&self) -> Vec<Line> {
        let is_whole = || self.log.is_whole.load(Ordering::Acquire);
        self.wait_until("the end of the log", |lines| is_whole().then(|| lines.to_vec()))
    }

    /// Every number logged by a process that has ended.
    pub fn all_ticks(&self) -> Vec<u64> {
        numbers(&self.whole_log())
    }
}

fn numbers(lines: &[Line]) -> Vec<u64> {
    lines.iter().filter_map(|line| line.message.parse().ok()).collect()
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking() {
            eprintln!("the log of process {}: {:#?}", self.pid(), self.messages());
        }
    }
}

impl Log {
    fn read(&self, stderr: ChildStderr) {
        for line in BufReader::new(stderr).lines().map_while(Result::ok) {
            self.lines.lock().expect("the log").push(Line::read(&line));
            self.grown.notify_all();
        }
        self.is_whole.store(true, Ordering::Release);
        self.grown.notify_all();
    }
}
