// SPDX-License-Identifier: Apache-2.0
//! Demonstration of a handoff: both stages of a boot as two processes of this user.
//!
//! `cargo run --example handoff` requires neither root nor a virtual machine. It builds the daemon
//! and starts the initrd stage in a scratch directory. A client connects and sends commands. Then
//! the root stage starts, takes over the state, and answers the same client on the same connection.
//!
//! The claims at the end are checked with the log lines that were shown before. The example fails
//! if a tick is missing or doubled, a process fails, or a socket file is left behind.
#![allow(clippy::print_stdout, reason = "the example shows its results")]

use std::env;
use std::error::Error;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use testkit::build;

/// The number to which the client sets the counter in the initrd stage.
const SET_TO: u64 = 1000;

/// How long the log of each stage is shown: about thirty ticks.
const SHOWN: Duration = Duration::from_secs(3);

/// How long a line is held back, so that an earlier line of the other process can be shown before
/// it.
const HELD: Duration = Duration::from_millis(60);

fn main() -> Result<(), Box<dyn Error>> {
    let daemon = build::daemon()?;
    let scratch = Scratch::new()?;
    let (initrd_socket, root_socket) = (scratch.join("initrd.sock"), scratch.join("root.sock"));
    let state_file = scratch.join("state");
    let (lines, log) = channel();
    let mut log = Log { lines: log, held: Vec::new(), shown: Vec::new() };

    let mut initrd = Stage::start(
        "initrd",
        Command::new(&daemon)
            .arg("--server-socket-path")
            .arg(&initrd_socket)
            .arg("--state-file")
            .arg(&state_file)
            .arg("--survive-systemd-kill-signal"),
        &lines,
    )?;
    log.show_for(SHOWN / 2)?;
    let mut client = Client::connect(&initrd_socket)?;
    for command in ["get_counter", &format!("set_counter {SET_TO}"), "status"] {
        log.show_command(command, &client.ask(command)?)?;
    }
    log.show_for(SHOWN / 2)?;

    let mut root = Stage::start(
        "root",
        Command::new(&daemon)
            .arg("--server-socket-path")
            .arg(&root_socket)
            .arg("--client-socket-path")
            .arg(&initrd_socket)
            .arg("--state-file")
            .arg(&state_file),
        &lines,
    )?;
    drop(lines);
    let first_ended = initrd.wait(&mut log)?;
    log.show_for(SHOWN)?;
    for command in ["get_counter", "status"] {
        log.show_command(command, &client.ask(command)?)?;
    }
    root.stop()?;
    let second_ended = root.wait(&mut log)?;
    log.show_rest()?;

    let Ticks { before, after } = Ticks::count(&log.shown)?;
    for (stage, status, socket) in
        [("initrd", first_ended, &initrd_socket), ("root", second_ended, &root_socket)]
    {
        if !status.success() {
            return Err(format!("the {stage} process ended with {status}").into());
        }
        if socket.exists() {
            return Err(format!("the {stage} process did not remove {}", socket.display()).into());
        }
    }
    println!(
        "proved: {before} ticks before the handoff, {after} after it, none missing, none twice; \
         one connection served by both; both processes ended with success and removed their sockets"
    );
    Ok(())
}

/// A directory for the sockets, which is removed when the example ends.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> std::io::Result<Self> {
        let path = env::temp_dir().join(format!("early-service-{}", std::process::id()));
        fs::create_dir(&path)?;
        Ok(Self(path))
    }

    fn join(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// The process of one stage, which is killed if the example ends before it.
struct Stage(Child);

impl Stage {
    /// Starts a stage and sends its log lines to `lines`.
    fn start(
        name: &'static str,
        command: &mut Command,
        lines: &Sender<Line>,
    ) -> std::io::Result<Self> {
        let mut child = command.stderr(Stdio::piped()).spawn()?;
        let stderr = child.stderr.take();
        let lines = lines.clone();
        thread::spawn(move || {
            for text in stderr.into_iter().flat_map(|pipe| BufReader::new(pipe).lines()) {
                let Ok(text) = text else { return };
                if lines.send(Line { stage: name, text, read: Instant::now() }).is_err() {
                    return;
                }
            }
        });
        Ok(Self(child))
    }

    fn stop(&self) -> Result<(), Box<dyn Error>> {
        let pid = Pid::from_raw(self.0.id().try_into()?).ok_or("a process has a pid")?;
        Ok(kill_process(pid, Signal::TERM)?)
    }

    /// Waits for the end of the process, and shows log lines meanwhile.
    fn wait(&mut self, log: &mut Log) -> Result<ExitStatus, Box<dyn Error>> {
        let limit = Instant::now() + Duration::from_secs(10);
        while Instant::now() < limit {
            if let Some(status) = self.0.try_wait()? {
                return Ok(status);
            }
            log.show_for(Duration::from_millis(10))?;
        }
        Err("a process did not end within 10 s".into())
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A log line of one stage.
struct Line {
    stage: &'static str,
    text: String,
    /// When it was read from the pipe.
    read: Instant,
}

impl Line {
    /// The time and the message of `[   12.345678] early-service[323]: 137`.
    fn parts(&self) -> Option<(f64, &str)> {
        let (time, rest) = self.text.strip_prefix('[')?.split_once(']')?;
        let (_, message) = rest.split_once("]: ")?;
        Some((time.trim().parse().ok()?, message))
    }

    fn time(&self) -> f64 {
        self.parts().map_or(0.0, |(time, _)| time)
    }

    /// The number, if the line is a tick.
    fn tick(&self) -> Option<u64> {
        self.parts().and_then(|(_, message)| message.parse().ok())
    }
}

/// The lines of both stages, in the order of their time.
struct Log {
    lines: Receiver<Line>,
    /// Lines that were read and are not shown yet.
    held: Vec<Line>,
    shown: Vec<Line>,
}

impl Log {
    /// Shows the lines of both stages for `duration`.
    fn show_for(&mut self, duration: Duration) -> std::io::Result<()> {
        let end = Instant::now() + duration;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            match self.lines.recv_timeout(left.min(HELD)) {
                Ok(line) => self.held.push(line),
                Err(RecvTimeoutError::Timeout) if left.is_zero() => return Ok(()),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return Ok(()),
            }
            self.show(|line| line.read.elapsed() >= HELD)?;
        }
    }

    /// Shows the remaining lines, after both processes have ended.
    fn show_rest(&mut self) -> std::io::Result<()> {
        self.held.extend(self.lines.iter());
        self.show(|_| true)
    }

    fn show(&mut self, is_due: impl Fn(&Line) -> bool) -> std::io::Result<()> {
        self.held.sort_by(|one, other| one.time().total_cmp(&other.time()));
        let due = self.held.iter().rposition(is_due).map_or(0, |last| last + 1);
        let mut out = std::io::stdout().lock();
        for line in self.held.drain(..due) {
            writeln!(out, "{:6} | {}", line.stage, line.text)?;
            self.shown.push(line);
        }
        Ok(())
    }

    /// Shows a command and its reply.
    fn show_command(&mut self, command: &str, reply: &str) -> std::io::Result<()> {
        self.show_for(HELD)?;
        let mut out = std::io::stdout().lock();
        writeln!(out, "client | > {command}")?;
        writeln!(out, "client | < {}", reply.trim_end())
    }
}

/// One connection, as a person with `nc` has it.
struct Client(BufReader<UnixStream>);

impl Client {
    fn connect(socket: &Path) -> std::io::Result<Self> {
        UnixStream::connect(socket).map(BufReader::new).map(Self)
    }

    fn ask(&mut self, command: &str) -> Result<String, Box<dyn Error>> {
        writeln!(self.0.get_mut(), "{command}")?;
        let mut reply = String::new();
        if self.0.read_line(&mut reply)? == 0 {
            return Err(format!("the connection ended before the reply to {command}").into());
        }
        Ok(reply)
    }
}

/// The numbers of ticks in the log.
struct Ticks {
    before: usize,
    after: usize,
}

impl Ticks {
    /// Counts the ticks of each stage; fails if a number does not follow the one before, except for
    /// the number that the client has set.
    fn count(lines: &[Line]) -> Result<Self, String> {
        let (mut expected, mut may_set) = (0, true);
        let mut ticks = Self { before: 0, after: 0 };
        for line in lines {
            let Some(number) = line.tick() else { continue };
            if may_set && number == SET_TO {
                (expected, may_set) = (SET_TO, false);
            }
            if number != expected {
                return Err(format!("expected the tick {expected}, and found {number}"));
            }
            expected += 1;
            match line.stage {
                "initrd" if ticks.after > 0 => {
                    return Err(format!("the initrd stage ticked {number} after the handoff"));
                }
                "initrd" => ticks.before += 1,
                _ => ticks.after += 1,
            }
        }
        if may_set || ticks.before == 0 || ticks.after == 0 {
            return Err("a stage did not tick, or the counter was not set".to_owned());
        }
        Ok(ticks)
    }
}
