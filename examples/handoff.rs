// SPDX-License-Identifier: Apache-2.0
//! Both stages of a boot as two processes: ticks, commands, the handoff, and what it proves.
//!
//! `cargo run --example handoff` needs neither root nor a virtual machine.
//! It builds the daemon, starts the initrd stage in a scratch directory, talks to it, starts the
//! root stage, which adopts the count, talks to that one on the same connection, and reads
//! everything that it reports off the log lines that it has just shown.
#![allow(clippy::print_stdout, reason = "an example is there to show something")]

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

/// What the count is set to while the first stage serves.
const SET_TO: u64 = 1000;

/// How long each stage is watched: some thirty ticks.
const WATCHED: Duration = Duration::from_secs(3);

/// How long a line waits for an earlier one from the other process, so that both read in order.
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
    log.show_for(WATCHED / 2)?;
    let mut client = Client::connect(&initrd_socket)?;
    for command in ["get_counter", &format!("set_counter {SET_TO}"), "status"] {
        log.say(command, &client.ask(command)?)?;
    }
    log.show_for(WATCHED / 2)?;

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
    log.show_for(WATCHED)?;
    for command in ["get_counter", "status"] {
        log.say(command, &client.ask(command)?)?;
    }
    root.stop()?;
    let second_ended = root.wait(&mut log)?;
    log.show_rest()?;

    let proof = Proof::read(&log.shown)?;
    for (stage, status, socket) in
        [("initrd", first_ended, &initrd_socket), ("root", second_ended, &root_socket)]
    {
        if !status.success() {
            return Err(format!("the {stage} process ended with {status}").into());
        }
        if socket.exists() {
            return Err(format!("the {stage} process left {} behind", socket.display()).into());
        }
    }
    let Proof { before, after } = proof;
    println!(
        "proved: {before} ticks before the handoff, {after} after it, none missing, none twice; \
         one connection served by both; both processes ended with success and removed their sockets"
    );
    Ok(())
}

/// A directory for the sockets, gone when the example ends.
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

/// One process, killed if the example ends before it.
struct Stage(Child);

impl Stage {
    /// Starts a stage whose log lines go to `lines`.
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

    /// Waits for the end while its lines are shown.
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

/// A line of one stage's log.
struct Line {
    stage: &'static str,
    text: String,
    /// When it came out of the pipe.
    read: Instant,
}

impl Line {
    /// `[   12.345678] early-service[323]: 137` in its parts.
    fn parts(&self) -> Option<(f64, &str)> {
        let (time, rest) = self.text.strip_prefix('[')?.split_once(']')?;
        let (_, message) = rest.split_once("]: ")?;
        Some((time.trim().parse().ok()?, message))
    }

    fn time(&self) -> f64 {
        self.parts().map_or(0.0, |(time, _)| time)
    }

    /// The number, where the line is a tick.
    fn tick(&self) -> Option<u64> {
        self.parts().and_then(|(_, message)| message.parse().ok())
    }
}

/// The lines of both stages, in the order of their time.
struct Log {
    lines: Receiver<Line>,
    /// Read, and waiting for earlier ones.
    held: Vec<Line>,
    shown: Vec<Line>,
}

impl Log {
    /// Shows what the stages log for this long.
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

    /// Shows what is left once both processes have ended.
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

    /// Shows a command and its reply between the lines.
    fn say(&mut self, command: &str, reply: &str) -> std::io::Result<()> {
        self.show_for(HELD)?;
        let mut out = std::io::stdout().lock();
        writeln!(out, "client | > {command}")?;
        writeln!(out, "client | < {}", reply.trim_end())
    }
}

/// One connection, as somebody holds it who sits at `nc`.
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

/// What the lines say about the ticks.
struct Proof {
    before: usize,
    after: usize,
}

impl Proof {
    /// Counts the ticks of each stage, and fails unless every number follows the one before, but
    /// for the one that was set.
    fn read(lines: &[Line]) -> Result<Self, String> {
        let (mut expected, mut may_set) = (0, true);
        let mut proof = Self { before: 0, after: 0 };
        for line in lines {
            let Some(number) = line.tick() else { continue };
            if may_set && number == SET_TO {
                (expected, may_set) = (SET_TO, false);
            }
            if number != expected {
                return Err(format!("after {} came {number}", expected.wrapping_sub(1)));
            }
            expected += 1;
            match line.stage {
                "initrd" if proof.after > 0 => return Err("the first one ticked on".to_owned()),
                "initrd" => proof.before += 1,
                _ => proof.after += 1,
            }
        }
        if may_set || proof.before == 0 || proof.after == 0 {
            return Err("one of the stages did not tick, or the count was not set".to_owned());
        }
        Ok(proof)
    }
}
