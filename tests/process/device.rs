// SPDX-License-Identifier: Apache-2.0
//! Device: the watchdog of `examples/watchdog`, with a [`Pipe`] in the place of the hardware.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use rustix::process::Signal;

use crate::stage::state_file;
use testkit::client::{Client, status};
use testkit::daemon::{Daemon, STILL, detach};
use testkit::manager::Manager;
use testkit::pipe::Pipe;
use testkit::scratch::Scratch;
use testkit::{build, starting};

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
    Daemon::listen_at(command, scratch.join(socket))
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
        let invalid = format!("Invalid command: {line}; expected no command, reload or status");
        assert_eq!(client.ask(line), invalid);
    }
}

#[test]
fn a_device_of_a_killed_owner_comes_back_from_the_store_of_pid_1() {
    let scratch = Scratch::new();
    let mut hardware = Pipe::new(&scratch);
    let mut manager = Manager::new(&scratch);
    let mut command = feeder(&scratch, "sock", &hardware.path, &[]);
    let daemon = start(command.env("NOTIFY_SOCKET", &manager.path), &scratch, "sock");
    let stores = ["FDSTORE=1", "FDPOLL=0", "FDNAME=watchdog"];
    manager.wait_until("stored device", |said| said.windows(3).any(|lines| lines == stores));
    hardware.wait_for(1);
    daemon.signal(Signal::KILL);
    drop(daemon);
    hardware.look();
    assert!(!hardware.is_closed, "the store has it");

    // As PID 1 passes what it stored.
    let passed = manager.stored.pop().expect("the device");
    let mut command = starting::with_descriptor(program(), passed);
    command.arg("--server-socket-path").arg(scratch.join("sock")).args(STILL);
    command.arg("--state-file").arg(state_file(&scratch)).env("WATCHDOG", "/nowhere");
    command.env("LISTEN_FDNAMES", "watchdog").env("NOTIFY_SOCKET", &manager.path);
    let mut next = start(&mut command, &scratch, "sock");
    drop(command);
    hardware.wait_for(2);
    assert_eq!(status(&next.socket, "device"), "running");
    next.signal(Signal::TERM);
    assert!(next.ended().0.success());
    manager.read_waiting();
    let end = manager.said.rsplit(|line| line == "READY=1").next().expect("the last lines");
    assert!(end.len() < manager.said.len(), "it was never ready");
    let removes = ["FDSTOREREMOVE=1", "FDNAME=watchdog"];
    assert!(end.windows(2).any(|lines| lines == removes), "{end:?}");
    hardware.look();
    assert!(hardware.is_closed && hardware.bytes.ends_with(b"V"), "{:?}", hardware.bytes);
}

#[test]
fn the_unit_is_ready_only_once_the_device_works() {
    let scratch = Scratch::new();
    let mut manager = Manager::new(&scratch);
    let path = scratch.join("watchdog");
    let mut command = feeder(&scratch, "sock", &path, &[]);
    let daemon = start(command.env("NOTIFY_SOCKET", &manager.path), &scratch, "sock");
    daemon.wait_for("cannot use the device");
    assert_eq!(status(&daemon.socket, "phase"), "serving");
    manager.wait_until("sentence", |said| {
        said.iter().any(|line| line.contains("; device: No such file or directory"))
    });
    assert!(!manager.said.iter().any(|line| line == "READY=1"), "{:?}", manager.said);
    let mut hardware = Pipe::new(&scratch);
    hardware.wait_for(1);
    manager.wait_for("READY=1");
}

/// The service of the tests that has two descriptors.
pub(crate) fn twin_program() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    let build = || build::example_of("testkit", "twin").unwrap_or_else(|error| panic!("{error}"));
    PROGRAM.get_or_init(build)
}

fn twin(scratch: &Scratch, socket: &str, line: &Path, options: &[&str]) -> Command {
    let mut command = Command::new(twin_program());
    detach(&mut command);
    command.arg("--server-socket-path").arg(scratch.join(socket)).args(STILL).args(options);
    command.arg("--state-file").arg(state_file(scratch)).env("LINE", line);
    command
}

#[test]
fn a_descriptor_of_another_kind_is_closed_and_the_device_opened_again() {
    let datagrams = "a socket of domain 1 and type 2";
    for (wrong, found) in [
        ("wrong order", &format!("'line' is {datagrams}, not a pipe")),
        ("wrong domain", &format!("'bus' is a socket of domain 2 and type 2, not {datagrams}")),
        ("wrong file", &"'line' is a regular file, not a pipe".to_owned()),
    ] {
        let scratch = Scratch::new();
        let mut hardware = Pipe::new(&scratch);
        let mut first = twin(&scratch, "first", &hardware.path, &[]);
        let mut first = start(first.env("HANDS_OVER", wrong), &scratch, "first");
        hardware.wait_for(1);
        let path = first.socket.to_str().expect("text");
        let mut second = twin(&scratch, "second", &hardware.path, &["--client-socket-path", path]);
        let second = start(&mut second, &scratch, "second");
        second.wait_for(&format!(
            "cannot use the device from the predecessor: the descriptor {found}; opening it again"
        ));
        assert!(first.ended().0.success());
        second.wait_for("Opened the device");
        assert_eq!(status(&second.socket, "device"), "running", "{wrong}");
    }
}

#[test]
fn a_device_that_is_opened_by_mistake_is_not_used() {
    let scratch = Scratch::new();
    let file = scratch.join("line");
    std::fs::write(&file, "").expect("a scratch directory");
    let daemon = start(&mut twin(&scratch, "sock", &file, &[]), &scratch, "sock");
    daemon.wait_for("cannot use the device: the descriptor 'line' is a regular file, not a pipe");
    assert_eq!(status(&daemon.socket, "device"), "failing");
    assert_eq!(std::fs::read(&file).expect("the file"), b"");
}

#[test]
fn a_device_is_used_again_as_soon_as_the_service_allows_its_successor() {
    let scratch = Scratch::new();
    let mut hardware = Pipe::new(&scratch);
    let daemon = start(&mut twin(&scratch, "sock", &hardware.path, &[]), &scratch, "sock");
    hardware.wait_for(1);
    let mut silent = Client::connect(&daemon.socket);
    silent.send("handoff 1 service=twin accepts=line,bus listener=\n");
    daemon.wait_for("did not adopt the state: timed out after 50 ms; serving on");
    hardware.wait_for(2);
    // The process writes `k` at once and every 100 ms, by the clock that ends the offer.
    let kept = hardware.bytes.iter().filter(|byte| **byte == b'k').count();
    assert!((1..=2).contains(&kept), "{kept} times while nobody used it");
    assert!(hardware.bytes.ends_with(b"u"), "it is not used again");
}
