// SPDX-License-Identifier: Apache-2.0
//! Memory: a million commands and ten thousand connections leave nothing behind.
//!
//! Unit tests in `src` count the allocations of a tick and of a command.

use std::fs;
use std::io::{Read, Write};
use std::thread;

use testkit::client::Client;
use testkit::daemon::{Daemon, STILL};
use testkit::scratch::Scratch;

/// Growth allowed after the warm-up, in kB: the allocator's own pages.
///
/// Eight bytes lost per command would be 8 MB, sixty-four per connection 640 kB.
const GROWTH: u64 = 128;

#[test]
fn a_million_commands_and_10_000_connections_leave_no_memory() {
    let scratch = Scratch::new();
    let daemon = Daemon::serve(scratch.join("sock"), &STILL);
    // After this, all permanent tables and buffers have their final size.
    connect(&daemon, 1_000);
    pipeline(&daemon, 100_000);
    let before = private(&daemon);
    pipeline(&daemon, 1_000_000);
    let commands = private(&daemon);
    connect(&daemon, 10_000);
    let connections = private(&daemon);
    assert!(commands <= before + GROWTH, "commands: from {before} to {commands} kB");
    assert!(connections <= commands + GROWTH, "connections: from {commands} to {connections} kB");
}

/// Memory that the process has written to and shares with nobody, in kB.
fn private(daemon: &Daemon) -> u64 {
    let rollup = fs::read_to_string(format!("/proc/{}/smaps_rollup", daemon.pid()));
    let rollup = rollup.expect("a process of ours");
    let dirty = rollup.lines().find_map(|line| line.strip_prefix("Private_Dirty:"));
    let number = dirty.and_then(|rest| rest.trim().strip_suffix(" kB"));
    number.expect("a number of kB").trim().parse().expect("a number")
}

/// One client that reads as fast as it writes.
fn pipeline(daemon: &Daemon, commands: usize) {
    const AT_ONCE: usize = 1000;
    let mut client = Client::connect(&daemon.socket);
    let mut writer = client.stream().try_clone().expect("a descriptor");
    let writing = thread::spawn(move || {
        for _ in 0..commands / AT_ONCE {
            writer.write_all("get_counter\n".repeat(AT_ONCE).as_bytes()).expect("a server");
        }
    });
    let (mut answered, mut replies) = (0, [0; 65536]);
    while answered < commands {
        let count = client.stream().read(&mut replies).expect("replies");
        assert_ne!(count, 0, "the server closed after {answered} replies");
        answered += replies[..count].iter().filter(|byte| **byte == b'\n').count();
    }
    writing.join().expect("all is written");
}

/// Connects clients one after the other.
fn connect(daemon: &Daemon, clients: usize) {
    for _ in 0..clients {
        assert_eq!(Client::connect(&daemon.socket).ask("get_counter"), "0");
    }
}
