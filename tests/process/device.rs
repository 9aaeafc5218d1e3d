// SPDX-License-Identifier: Apache-2.0
//! Device: the watchdog of `examples/watchdog`, with a [`Pipe`] in the place of the hardware.

use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use rustix::process::Signal;

use crate::stage::state_file;
use testkit::client::{Client, status};
use testkit::daemon::{Daemon, STILL, detach};
use testkit::pipe::Pipe;
use testkit::scratch::Scratch;
use testkit::{build, until};

fn program() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| build::example("watchdog").unwrap_or_else(|error| panic!("{error}")))
}

/// A feeder with the state file of the test; `device` is what it can open by itself.
fn feeder(scratch: &Scratch, socket: &str, device: &Path, options: &[&str]) -> Command {
    let mut command = Command::new(program());
    detach(&mut command);
    command.arg("--server-socket-path").arg(scratch.join(socket)).args(STILL).args(options);
    command.arg("--state-file").arg(state_file(scratch)).env("WATCHDOG", device);
    command
}

fn start(command: &mut Command, scratch: &Scratch, socket: &str) -> Daemon {
    let mut daemon = Daemon::spawn(command);
    daemon.socket = scratch.join(socket);
    daemon.wait_for("Listening on UNIX socket");
    daemon
}

/// A successor that cannot open the device itself.
fn successor(scratch: &Scratch, socket: &str, predecessor: &Daemon) -> Command {
    let path = predecessor.socket.to_str().expect("text");
    feeder(scratch, socket, Path::new("/nowhere"), &["--client-socket-path", path])
}

fn pings(daemon: &Daemon) -> usize {
    status(&daemon.socket, "pings").parse().expect("a number")
}

#[test]
fn the_device_is_open_and_fed_through_a_handoff_and_released_at_the_end() {
    let scratch = Scratch::new();
    let mut hardware = Pipe::new(&scratch);
    let mut first = start(&mut feeder(&scratch, "first", &hardware.path, &[]), &scratch, "first");
    hardware.wait_for(2);
    assert_eq!(status(&first.socket, "device"), "running");
    let mut second = start(&mut successor(&scratch, "second", &first), &scratch, "second");
    assert!(first.ended().0.success());
    hardware.wait_for(2);
    assert_eq!(status(&second.socket, "device"), "running");
    assert!(!hardware.bytes.contains(&b'V'), "the predecessor released it");
    second.signal(Signal::TERM);
    assert!(second.ended().0.success());
    hardware.look();
    assert!(hardware.is_closed && hardware.bytes.ends_with(b"V"), "{:?}", hardware.bytes);
}

#[test]
fn every_ping_is_in_the_state_that_travels() {
    let scratch = Scratch::new();
    let mut hardware = Pipe::new(&scratch);
    let first = start(&mut feeder(&scratch, "first", &hardware.path, &[]), &scratch, "first");
    hardware.wait_for(2);
    let before = pings(&first);
    let second = start(&mut successor(&scratch, "second", &first), &scratch, "second");
    hardware.wait_for(1);
    assert!(pings(&second) > before, "{before} pings before");
    assert!(pings(&second) <= hardware.look(), "a ping was counted that was not sent");
}

#[test]
fn a_device_that_is_missing_is_waited_for_while_clients_are_served() {
    let scratch = Scratch::new();
    let path = scratch.join("watchdog");
    let daemon = start(&mut feeder(&scratch, "sock", &path, &[]), &scratch, "sock");
    daemon.wait_for("cannot use the device: No such file or directory");
    assert_eq!(status(&daemon.socket, "device"), "failing");
    let mut hardware = Pipe::new(&scratch);
    hardware.wait_for(1);
    assert_eq!(status(&daemon.socket, "device"), "running");
}

#[test]
fn a_device_that_fails_is_closed_and_opened_again() {
    let scratch = Scratch::new();
    let mut hardware = Pipe::new(&scratch);
    let daemon = start(&mut feeder(&scratch, "sock", &hardware.path, &[]), &scratch, "sock");
    hardware.wait_for(1);
    std::fs::remove_file(&hardware.path).expect("a pipe");
    drop(hardware);
    daemon.wait_for("cannot use the device: Broken pipe");
    let mut hardware = Pipe::new(&scratch);
    hardware.wait_for(1);
    assert_eq!(status(&daemon.socket, "device"), "running");
}

#[test]
fn a_successor_that_dies_after_the_commit_gives_the_device_back() {
    let scratch = Scratch::new();
    let mut hardware = Pipe::new(&scratch);
    let first = start(&mut feeder(&scratch, "first", &hardware.path, &[]), &scratch, "first");
    hardware.wait_for(1);
    let mut dying = Client::connect(&first.socket);
    dying.send("handoff 1 service=early-watchdog accepts=watchdog listener=\n");
    assert!(dying.line().contains(" named=1"), "the device is not offered");
    while dying.line() != "end" {}
    dying.send("prepared\n");
    assert_eq!(dying.line(), "commit");
    // It is kept alive while nobody uses it.
    hardware.wait_for(2);
    drop(dying);
    first.wait_for("serving on");
    hardware.wait_for(2);
    assert_eq!(status(&first.socket, "device"), "running");
    assert!(!hardware.bytes.contains(&b'V'), "it was released");
}

#[test]
fn a_service_without_a_legacy_program_knows_no_line_of_one() {
    let scratch = Scratch::new();
    let hardware = Pipe::new(&scratch);
    let daemon = start(&mut feeder(&scratch, "sock", &hardware.path, &[]), &scratch, "sock");
    let mut client = Client::connect(&daemon.socket);
    for line in ["", "pass_state_and_terminate", "get_counter_and_terminate"] {
        let invalid = format!("Invalid command: {line}; expected no command or status");
        assert_eq!(client.ask(line), invalid);
    }
}

/// A socket in PID 1's place, which keeps what is sent to it.
struct Store {
    socket: UnixDatagram,
    path: PathBuf,
    stored: Vec<OwnedFd>,
    said: String,
}

impl Store {
    fn new(scratch: &Scratch) -> Self {
        let path = scratch.join("notify");
        let socket = UnixDatagram::bind(&path).expect("a socket");
        socket.set_nonblocking(true).expect("our own socket");
        Self { socket, path, stored: Vec::new(), said: String::new() }
    }

    /// Reads all notifications; the descriptors are kept until they are removed.
    fn read(&mut self) {
        loop {
            let mut bytes = [0; 1024];
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
            let mut ancillary = RecvAncillaryBuffer::new(&mut space);
            let mut pieces = [IoSliceMut::new(&mut bytes)];
            let Ok(message) =
                recvmsg(&self.socket, &mut pieces, &mut ancillary, RecvFlags::CMSG_CLOEXEC)
            else {
                return;
            };
            for message in ancillary.drain() {
                if let RecvAncillaryMessage::ScmRights(descriptors) = message {
                    self.stored.extend(descriptors);
                }
            }
            let text = String::from_utf8_lossy(&bytes[..message.bytes]).into_owned();
            if text.contains("FDSTOREREMOVE=1") {
                self.stored.clear();
            }
            self.said += &format!("{text}\n\n");
        }
    }
}

#[test]
fn a_device_of_a_killed_owner_comes_back_from_the_store_of_pid_1() {
    let scratch = Scratch::new();
    let mut hardware = Pipe::new(&scratch);
    let mut store = Store::new(&scratch);
    let mut command = feeder(&scratch, "sock", &hardware.path, &[]);
    let daemon = start(command.env("NOTIFY_SOCKET", &store.path), &scratch, "sock");
    until("a stored device", || {
        store.read();
        !store.stored.is_empty()
    });
    assert!(store.said.contains("FDSTORE=1\nFDPOLL=0\nFDNAME=watchdog\n"), "{}", store.said);
    hardware.wait_for(1);
    daemon.signal(Signal::KILL);
    drop(daemon);
    hardware.look();
    assert!(!hardware.is_closed, "the store has it");

    // As PID 1 passes what it stored.
    let mut shell = Command::new("sh");
    detach(&mut shell);
    let script = "exec 3<&0 </dev/null; export LISTEN_PID=$$ LISTEN_FDS=1 LISTEN_FDNAMES=watchdog; \
                  exec \"$0\" \"$@\"";
    shell.args(["-c", script]).arg(program());
    shell.arg("--server-socket-path").arg(scratch.join("sock")).args(STILL);
    shell.arg("--state-file").arg(state_file(&scratch)).env("WATCHDOG", "/nowhere");
    let passed = store.stored.pop().expect("the device");
    shell.stdin(Stdio::from(passed)).env("NOTIFY_SOCKET", &store.path);
    let mut next = start(&mut shell, &scratch, "sock");
    drop(shell);
    hardware.wait_for(2);
    assert_eq!(status(&next.socket, "device"), "running");
    store.read();
    next.signal(Signal::TERM);
    assert!(next.ended().0.success());
    store.read();
    let (_, end) = store.said.rsplit_once("READY=1").expect("it was ready");
    assert!(end.contains("FDSTOREREMOVE=1\nFDNAME=watchdog\n"), "{end}");
    hardware.look();
    assert!(hardware.is_closed && hardware.bytes.ends_with(b"V"), "{:?}", hardware.bytes);
}

#[test]
fn the_unit_is_ready_only_once_the_device_works() {
    let scratch = Scratch::new();
    let mut store = Store::new(&scratch);
    let path = scratch.join("watchdog");
    let mut command = feeder(&scratch, "sock", &path, &[]);
    let daemon = start(command.env("NOTIFY_SOCKET", &store.path), &scratch, "sock");
    daemon.wait_for("cannot use the device");
    assert_eq!(status(&daemon.socket, "phase"), "serving");
    until("a sentence", || {
        store.read();
        store.said.contains("; device: No such file or directory")
    });
    assert!(!store.said.contains("READY=1"), "{}", store.said);
    let mut hardware = Pipe::new(&scratch);
    hardware.wait_for(1);
    until("ready", || {
        store.read();
        store.said.contains("READY=1")
    });
}
