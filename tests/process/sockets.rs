// SPDX-License-Identifier: Apache-2.0
//! Sockets: when the file that clients connect to is made, kept and removed.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::net::UnixListener;

use rustix::fs::{FlockOperation, flock};
use rustix::process::{Signal, geteuid};

use testkit::client::{get_counter, nc};
use testkit::daemon::{Daemon, STILL, started_with};
use testkit::scratch::Scratch;
use testkit::until;

#[test]
fn a_stale_socket_is_replaced() {
    let scratch = Scratch::new();
    drop(UnixListener::bind(scratch.join("sock")).expect("a socket"));
    let daemon = Daemon::serve(scratch.join("sock"), &STILL);
    assert_eq!(get_counter(&daemon.socket), 0);
}

#[test]
fn what_a_killed_process_left_behind_is_replaced() {
    let scratch = Scratch::new();
    let mut killed = Daemon::serve(scratch.join("sock"), &STILL);
    killed.signal(Signal::KILL);
    assert!(!killed.ended().0.success());
    assert_eq!(scratch.names(), ["sock"]);
    let daemon = Daemon::serve(scratch.join("sock"), &STILL);
    assert_eq!(get_counter(&daemon.socket), 0);
}

#[test]
fn of_many_that_find_a_stale_socket_one_serves() {
    for round in 0..300 {
        let scratch = Scratch::new();
        let path = scratch.join("sock");
        drop(UnixListener::bind(&path).expect("a socket"));
        let mut daemons = [(); 3].map(|()| Daemon::start(&path, &STILL));
        let mut running = || daemons.iter_mut().map(|daemon| u32::from(daemon.is_running())).sum();
        until("two have ended", || matches!(running(), 0_u32 | 1));
        let serving = running();
        assert_eq!(serving, 1, "round {round}");
        assert_eq!(get_counter(&path), 0, "round {round}");
    }
}

#[test]
fn a_live_socket_is_left_to_its_server() {
    let scratch = Scratch::new();
    let first = Daemon::serve(scratch.join("sock"), &STILL);
    nc(&first.socket, "set_counter 5\n");
    let refused = |first: &Daemon| {
        let mut second = Daemon::start(&first.socket, &STILL);
        assert_eq!(second.ended().0.code(), Some(1));
        let path = first.socket.display();
        second.wait_for(&format!("error: cannot serve {path}: another process is listening on it"));
    };
    refused(&first);
    assert_eq!(get_counter(&first.socket), 5, "nothing has happened to the first");
    // A stopped process still owns its socket.
    first.stop();
    refused(&first);
    first.signal(Signal::CONT);
    assert_eq!(get_counter(&first.socket), 5);
}

#[test]
fn a_file_that_is_no_socket_is_not_deleted() {
    let scratch = Scratch::new();
    let path = scratch.join("precious");
    for options in [&[][..], &["--takeover-existing-socket"]] {
        fs::write(&path, "years of work").expect("room");
        let mut daemon = Daemon::start(&path, options);
        assert_eq!(daemon.ended().0.code(), Some(1), "{options:?}");
        let complaint = format!("cannot bind {}: the file there is not a socket", path.display());
        daemon.wait_for(&complaint);
        assert_eq!(fs::read_to_string(&path).expect("still there"), "years of work");
    }
    assert_eq!(scratch.names(), ["precious"]);
}

#[test]
fn a_path_that_cannot_be_bound_is_named() {
    let scratch = Scratch::new();
    for name in ["no/such/directory/sock", &*"x".repeat(200)] {
        let mut daemon = Daemon::start(scratch.join(name), &[]);
        assert_eq!(daemon.ended().0.code(), Some(1), "{name}");
        let line = daemon.wait_for("error: cannot bind ");
        assert!(line.message.contains(name.get(..20).unwrap_or(name)), "{line:?}");
    }
}

/// Number of voluntary sleeps: each attempt to take a lock is one.
fn sleeps(daemon: &Daemon) -> u32 {
    daemon.status("voluntary_ctxt_switches").parse().expect("a number")
}

/// Far fewer than the attempts to take a stranger's lock, and more than a start needs.
const FEW: u32 = 60;

#[test]
fn a_lock_of_a_stranger_delays_neither_start_nor_rebind() {
    let scratch = Scratch::new();
    let path = scratch.join("sock");
    let directory = File::open(scratch.join("")).expect("a directory");
    let guard = File::create(scratch.join("sock.lock")).expect("room");
    // A guard file that everybody can open is not trusted, nor is another user's if we are root.
    guard.set_permissions(Permissions::from_mode(0o666)).expect("our own file");
    if geteuid().is_root() {
        guard.set_permissions(Permissions::from_mode(0o600)).expect("our own file");
        chown(scratch.join("sock.lock"), Some(4000), None).expect("a file");
    }
    for file in [&directory, &guard] {
        flock(file, FlockOperation::NonBlockingLockExclusive).expect("a lock that nobody has");
    }
    for options in [&[][..], &["--takeover-existing-socket"]] {
        let mut daemon = Daemon::serve(&path, &[&STILL, options].concat());
        assert!(sleeps(&daemon) < FEW, "{options:?}: {}", sleeps(&daemon));
        assert_eq!(get_counter(&path), 0);
        daemon.signal(Signal::TERM);
        assert!(daemon.ended().0.success());
    }
    let passed = UnixListener::bind(&path).expect("a socket");
    let daemon = Daemon::spawn(started_with(&passed).arg("--rebind").args(STILL));
    daemon.wait_for("Listening on UNIX socket");
    assert!(sleeps(&daemon) < FEW, "--rebind: {}", sleeps(&daemon));
    assert_eq!(get_counter(&path), 0);
}

#[test]
fn nothing_of_the_guard_is_left_behind() {
    let scratch = Scratch::new();
    // A process that was killed at that moment leaves it.
    let guard = File::create(scratch.join("sock.lock")).expect("room");
    guard.set_permissions(Permissions::from_mode(0o600)).expect("our own file");
    let daemon = Daemon::serve(scratch.join("sock"), &STILL);
    assert_eq!(get_counter(&daemon.socket), 0);
    assert_eq!(scratch.names(), ["sock"]);
}
