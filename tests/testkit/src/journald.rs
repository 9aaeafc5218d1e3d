// SPDX-License-Identifier: Apache-2.0
//! Journald: a socket in its place, visible only to the process under test.
//!
//! The path is fixed, so the process runs in its own mount namespace, in which a directory of the
//! test covers `/run`. The format is that of <https://systemd.io/JOURNAL_NATIVE_PROTOCOL/>.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::geteuid;

use crate::daemon::{self, Daemon};
use crate::scratch::Scratch;
use crate::{LIMIT, until};

/// One record, as journald would receive it.
pub type Entry = BTreeMap<String, String>;

/// The socket and everything received.
pub struct Journald {
    socket: UnixDatagram,
    run: PathBuf,
    stderr: PathBuf,
    pub entries: Vec<Entry>,
}

impl Journald {
    pub fn new(scratch: &Scratch) -> Self {
        let run = scratch.join("run");
        let directory = run.join("systemd/journal");
        fs::create_dir_all(&directory).expect("a directory");
        let socket = UnixDatagram::bind(directory.join("socket")).expect("a socket");
        socket.set_read_timeout(Some(Duration::from_millis(100))).expect("not zero");
        Self { socket, run, stderr: scratch.join("stderr"), entries: Vec::new() }
    }

    /// Removes the socket, so that the process finds no journald.
    pub fn remove(&self) {
        fs::remove_file(self.run.join("systemd/journal/socket")).expect("our own socket");
    }

    /// Starts the program as systemd would: standard error is the journal, as `$JOURNAL_STREAM`
    /// says.
    pub fn start(&self, socket: PathBuf, options: &[&str]) -> Daemon {
        self.start_by(&[], socket, options)
    }

    /// Like [`Self::start`], but the command `before` runs first in the same process and sees its
    /// `/run`.
    pub fn start_by(&self, before: &[&str], socket: PathBuf, options: &[&str]) -> Daemon {
        let mut daemon = self.spawn_by(before, &socket, options);
        until("a server (this test needs util-linux and the right to mount)", || {
            assert!(daemon.is_running(), "cannot start with our own /run: {}", self.complaint());
            UnixStream::connect(&socket).is_ok()
        });
        daemon.socket = socket;
        daemon
    }

    /// Like [`Self::start_by`], but waits for nothing.
    pub fn spawn_by(&self, before: &[&str], socket: &Path, options: &[&str]) -> Daemon {
        let stderr = OpenOptions::new().create(true).append(true).open(&self.stderr);
        let file = stderr.and_then(|stderr| stderr.metadata()).expect("an open file");
        let stream = format!("{}:{}", file.dev(), file.ino());
        self.spawn_with(before, socket, &self.stderr, options, |command| {
            command.env("JOURNAL_STREAM", stream);
        })
    }

    /// Starts the program as systemd would, with this `$JOURNAL_STREAM` and standard error.
    pub fn spawn_as_systemd(
        &self,
        socket: &Path,
        stream: Option<&str>,
        stderr: &Path,
        options: &[&str],
    ) -> Daemon {
        let before = ["sh", "-c", r#"SYSTEMD_EXEC_PID=$$ exec "$@""#, "sh"];
        self.spawn_with(&before, socket, stderr, options, |command| {
            command.envs(stream.map(|stream| ("JOURNAL_STREAM", stream)));
        })
    }

    fn spawn_with(
        &self,
        before: &[&str],
        socket: &Path,
        stderr: &Path,
        options: &[&str],
        told: impl FnOnce(&mut Command),
    ) -> Daemon {
        let stderr = OpenOptions::new().create(true).append(true).open(stderr);
        let stderr = stderr.expect("a file");
        let mut unshare = Command::new("unshare");
        daemon::detach(&mut unshare);
        if !geteuid().is_root() {
            unshare.args(["--user", "--map-root-user"]);
        }
        unshare
            .args(["--mount", "sh", "-c"])
            .arg(r#"mount --bind "$1" /run && shift && exec "$@""#)
            .arg("sh")
            .arg(&self.run)
            .args(before)
            .arg(daemon::binary())
            .arg("--server-socket-path")
            .arg(socket)
            .args(options)
            .stderr(Stdio::from(stderr));
        told(&mut unshare);
        Daemon::spawn_unread(&mut unshare)
    }

    /// The output on standard error.
    pub fn complaint(&self) -> String {
        fs::read_to_string(&self.stderr).expect("our own file")
    }

    /// Reads until `look` accepts the entries so far.
    #[track_caller]
    pub fn read_until<T>(&mut self, what: &str, look: impl Fn(&[Entry]) -> Option<T>) -> T {
        let start = Instant::now();
        loop {
            if let Some(found) = look(&self.entries) {
                return found;
            }
            let count = self.entries.len();
            assert!(start.elapsed() < LIMIT, "still waiting for {what} after {count} entries");
            self.receive();
        }
    }

    /// Reads up to a tick whose number is at least `number`.
    #[track_caller]
    pub fn read_to_tick(&mut self, number: u64) {
        let is_there = |entries: &[Entry]| {
            let last = entries.iter().rev().find_map(Tick::of);
            last.filter(|tick| tick.number >= number)
        };
        self.read_until(&format!("tick {number}"), is_there);
    }

    pub fn ticks(&self) -> Vec<Tick> {
        self.entries.iter().filter_map(Tick::of).collect()
    }

    /// Reads one record, if one arrives within a moment.
    pub fn receive(&mut self) {
        let mut datagram = [0; 4096];
        match self.socket.recv(&mut datagram) {
            // An empty datagram, which a new client sends.
            Ok(0) => {}
            Ok(count) => self.entries.push(parse(&datagram[..count])),
            Err(error)
                if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
            Err(error) => panic!("cannot receive: {error}"),
        }
    }
}

/// The content of a tick's record.
#[derive(Clone, Copy, Debug)]
pub struct Tick {
    pub number: u64,
    pub deadline: u64,
    pub actual: u64,
}

impl Tick {
    pub fn of(entry: &Entry) -> Option<Self> {
        let field = |name| entry.get(name).map(|value| value.parse().expect("digits"));
        Some(Self {
            number: field("COUNTER")?,
            deadline: field("DEADLINE_NS").expect("a tick has a deadline"),
            actual: field("ACTUAL_NS").expect("a tick has a time"),
        })
    }
}

/// Reads one datagram: `NAME=value` lines, and `NAME`, a length and that many bytes.
fn parse(mut datagram: &[u8]) -> Entry {
    let mut entry = Entry::new();
    while !datagram.is_empty() {
        let end = datagram.iter().position(|byte| *byte == b'\n').expect("a field ends in newline");
        let (line, rest) = (&datagram[..end], &datagram[end + 1..]);
        let (name, value);
        if let Some(equals) = line.iter().position(|byte| *byte == b'=') {
            (name, value) = (&line[..equals], &line[equals + 1..]);
            datagram = rest;
        } else {
            let (length, rest) = rest.split_at(8);
            let length = u64::from_le_bytes(length.try_into().expect("eight bytes"));
            let (bytes, rest) = rest.split_at(length.try_into().expect("a length that fits"));
            (name, value) = (line, bytes);
            datagram = rest.strip_prefix(b"\n").expect("a newline after the value");
        }
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("text");
        let is_new = entry.insert(text(name), text(value)).is_none();
        assert!(is_new, "{} comes twice", text(name));
    }
    entry
}
