// SPDX-License-Identifier: Apache-2.0
//! Process: one of the chain, with its log lines and its use of resources.

use std::fs::{self, File};
use std::io::Read;
use std::mem;
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use early_service_trial::victim::Victim;

use testkit::judge::tick;
use testkit::line::Line;
use testkit::scratch::Scratch;
use testkit::{orphan, starting};

/// In milliseconds; short, so that a fault spans ticks and most exchanges contain one.
const PERIOD: &str = "10";

/// The process; killed if the soak ends first.
pub(crate) struct Process {
    pub(crate) victim: Victim,
    /// The socket at which its successor asks; empty once a reload has passed it on.
    pub(crate) private: PathBuf,
    log: File,
    /// Empty once a reload has passed it on.
    log_path: PathBuf,
    /// The part of the log after its last whole line.
    rest: Vec<u8>,
    /// Read, but not yet judged.
    lines: Vec<Line>,
    is_serving: bool,
    /// Whether it was killed, and therefore need not end cleanly.
    pub(crate) is_killed: bool,
}

/// A process's use of resources.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Figures {
    /// The peak of its memory, in kB.
    pub(crate) memory: u64,
    pub(crate) descriptors: u64,
}

impl Process {
    /// Starts number `number` of the chain, as systemd would with a `.socket` unit.
    pub(crate) fn start(
        program: &Path,
        scratch: &Scratch,
        public: &UnixListener,
        predecessor: Option<&Path>,
        number: usize,
    ) -> Self {
        let (private, log_path) =
            (scratch.join(number.to_string()), scratch.join(format!("{number}.log")));
        let mut command = starting::with(program, public);
        command.arg("--server-socket-path").arg(&private);
        command.arg("--state-file").arg(scratch.join("state")).args(["--timer-delay-ms", PERIOD]);
        if let Some(predecessor) = predecessor {
            command.arg("--client-socket-path").arg(predecessor);
        }
        let written = File::create_new(&log_path).expect("a new log");
        // Its own process group, because Ctrl-C is meant for the soak only.
        let child = command.stderr(Stdio::from(written)).process_group(0).spawn();
        Self::new(child.expect("the program starts").id(), private, log_path)
    }

    fn new(pid: u32, private: PathBuf, log_path: PathBuf) -> Self {
        let (victim, log) = (Victim::new(pid), File::open(&log_path).expect("the log"));
        let (rest, lines, is_serving, is_killed) = (Vec::new(), Vec::new(), false, false);
        Self { victim, private, log, log_path, rest, lines, is_serving, is_killed }
    }

    /// The successor that this process has started. It writes to the same log.
    pub(crate) fn reloaded(&mut self, pid: u32) -> Self {
        Self::new(pid, mem::take(&mut self.private), mem::take(&mut self.log_path))
    }

    pub(crate) fn pid(&self) -> u32 {
        self.victim.pid()
    }

    /// Kills it and waits for its end.
    pub(crate) fn kill(&mut self) {
        self.is_killed = true;
        self.victim.kill();
    }

    /// Reads the lines that it has logged since.
    pub(crate) fn read(&mut self) -> &[Line] {
        self.log.read_to_end(&mut self.rest).expect("a file of our own");
        if let Some(end) = self.rest.iter().rposition(|byte| *byte == b'\n') {
            let whole: Vec<_> = self.rest.drain(..=end).collect();
            let lines = String::from_utf8_lossy(&whole);
            let lines = lines.lines().map(Line::read);
            let pid = self.pid();
            self.lines.extend(lines.filter(|line| line.pid == pid));
        }
        &self.lines
    }

    /// Whether it has logged that it serves.
    pub(crate) fn serves(&mut self) -> bool {
        self.is_serving |= self.served_at().is_some();
        self.is_serving
    }

    /// When it logged that it serves, if that line is not yet judged.
    pub(crate) fn served_at(&mut self) -> Option<u64> {
        self.read().iter().find(|line| line.message.ends_with(" => serving")).map(|line| line.time)
    }

    /// Whether a line contains this text.
    pub(crate) fn says(&mut self, text: &str) -> bool {
        self.read().iter().any(|line| line.message.contains(text))
    }

    /// Whether this number is logged.
    pub(crate) fn has_logged(&mut self, number: u64) -> bool {
        self.read().iter().any(|line| tick(line) == Some(number))
    }

    /// Removes and returns the lines up to this number's.
    pub(crate) fn lines_to(&mut self, number: u64) -> Vec<Line> {
        let end = self.read().iter().position(|line| tick(line) == Some(number));
        self.lines.drain(..end.map_or(0, |last| last + 1)).collect()
    }

    /// Removes and returns the remaining lines of an ended process; deletes its log.
    pub(crate) fn last_lines(&mut self) -> Vec<Line> {
        self.read();
        mem::take(&mut self.lines)
    }

    /// Waits for the end of a process that nobody killed; fails if it did not end cleanly.
    pub(crate) fn end(&mut self) -> Result<(), String> {
        self.victim.wait_for_end();
        let (pid, status) = (self.pid(), orphan::succeeds(self.pid()));
        if self.is_killed {
            let _ = fs::remove_file(&self.private);
            return Ok(());
        }
        status?;
        if self.private.exists() {
            return Err(format!("process {pid} left {} behind", self.private.display()));
        }
        Ok(())
    }

    /// Removes the log of a process that has ended.
    pub(crate) fn forget(self) {
        let _ = fs::remove_file(&self.log_path);
    }

    pub(crate) fn figures(&self) -> Figures {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap_or_default();
        let most = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let memory = most.and_then(|most| most.trim().strip_suffix(" kB")?.parse().ok());
        let descriptors = fs::read_dir(format!("/proc/{}/fd", self.pid())).map(Iterator::count);
        Figures {
            memory: memory.unwrap_or_default(),
            descriptors: descriptors.unwrap_or_default() as u64,
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.victim.kill_at_once();
    }
}
