// SPDX-License-Identifier: Apache-2.0
//! Rebinding: a fresh socket that replaces the one passed by systemd.
//!
//! Like a label, a socket's inode and credentials come from the process that bound it. The tests
//! can read them without a policy.

use std::fs;
use std::io::ErrorKind;
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use rustix::fs::{FlockOperation, flock};
use rustix::net::sockopt::socket_peercred;
use rustix::process::Signal;

use testkit::client::{Client, get_counter};
use testkit::daemon::{Daemon, STILL, started_with};
use testkit::scratch::Scratch;

fn inode(path: &Path) -> u64 {
    fs::symlink_metadata(path).expect("a socket").ino()
}

/// Starts the daemon as the unit does, with `--rebind`.
fn rebinding(passed: &UnixListener, state_file: &Path) -> Daemon {
    let mut command = started_with(passed);
    Daemon::spawn(command.arg("--rebind").args(STILL).arg("--state-file").arg(state_file))
}

/// Connects repeatedly until told to end. A connection that is refused or not answered is a
/// failure.
fn connect_until(is_over: &AtomicBool, path: &Path) -> usize {
    let mut served = 0;
    while !is_over.load(Ordering::Relaxed) {
        get_counter(path);
        served += 1;
    }
    served
}

#[test]
fn rebinding_refuses_neither_waiting_nor_new_clients() {
    for _ in 0..20 {
        let scratch = Scratch::new();
        let path = scratch.join("public");
        let passed = UnixListener::bind(&path).expect("a socket");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o660)).expect("our own file");
        let old = inode(&path);
        let mut waiting: Vec<_> = (0..10).map(|_| Client::connect(&path)).collect();
        let is_over = AtomicBool::new(false);
        thread::scope(|scope| {
            let storm = [(); 3].map(|()| scope.spawn(|| connect_until(&is_over, &path)));
            let daemon = rebinding(&passed, &scratch.join("state"));
            daemon.wait_for("Listening on UNIX socket");
            assert_ne!(inode(&path), old, "it is a fresh one");
            for client in &mut waiting {
                assert_eq!(client.ask("get_counter"), "0", "from the old one's queue");
            }
            assert_eq!(get_counter(&path), 0);
            is_over.store(true, Ordering::Relaxed);
            let served: usize =
                storm.map(|clients| clients.join().expect("nobody refused")).iter().sum();
            assert!(served > 0);
            let mode = fs::metadata(&path).expect("a socket").mode() & 0o7777;
            assert_eq!(mode, 0o660, "with the mode that the unit gave the old one");
            let stream = UnixStream::connect(&path).expect("a server");
            let server = socket_peercred(&stream).expect("credentials").pid.as_raw_nonzero().get();
            assert_eq!(u32::try_from(server), Ok(daemon.pid()), "and with our credentials");
        });
    }
}

#[test]
fn who_connected_to_the_old_socket_is_served_even_afterwards() {
    let scratch = Scratch::new();
    let path = scratch.join("public");
    let passed = UnixListener::bind(&path).expect("a socket");
    let daemon = rebinding(&passed, &scratch.join("state"));
    daemon.wait_for("Listening on UNIX socket");
    // The client has found the old file just before it was renamed.
    let mut late = Client::connect(scratch.join("public.passed"));
    assert_eq!(late.ask("get_counter"), "0");
}

#[test]
fn a_clean_end_gives_the_passed_socket_its_place_again() {
    let scratch = Scratch::new();
    let (path, state) = (scratch.join("public"), scratch.join("state"));
    let passed = UnixListener::bind(&path).expect("a socket");
    let old = inode(&path);
    for round in 0..3 {
        let mut waiting = Client::connect(&path);
        waiting.send("get_counter\n");
        let mut daemon = rebinding(&passed, &state);
        assert_eq!(waiting.line(), "0", "round {round}");
        daemon.wait_for("Listening on UNIX socket");
        assert_ne!(inode(&path), old, "round {round}");
        daemon.signal(Signal::TERM);
        assert!(daemon.ended().0.success());
        assert_eq!(inode(&path), old, "round {round}");
        assert_eq!(scratch.names(), ["public", "state"], "round {round}");
    }
}

#[test]
fn the_socket_of_a_killed_process_refuses_until_the_next_start() {
    let scratch = Scratch::new();
    let (path, state) = (scratch.join("public"), scratch.join("state"));
    let passed = UnixListener::bind(&path).expect("a socket");
    let old = inode(&path);
    let mut killed = rebinding(&passed, &state);
    killed.wait_for("Listening on UNIX socket");
    killed.signal(Signal::KILL);
    killed.ended();
    let refused = UnixStream::connect(&path).expect_err("nobody listens").kind();
    assert_eq!(refused, ErrorKind::ConnectionRefused, "the price");

    // The lock makes the next process wait before it serves.
    let holder = fs::File::open(&state).expect("the state file");
    flock(&holder, FlockOperation::NonBlockingLockExclusive).expect("a lock that nobody has");
    let next = rebinding(&passed, &state);
    testkit::until("put back", || inode(&path) == old);
    let mut waiting = Client::connect(&path);
    drop(holder);
    assert_eq!(waiting.ask("get_counter"), "0");
    next.wait_for("Listening on UNIX socket");
    assert_ne!(inode(&path), old);
    assert_eq!(scratch.names(), ["public", "public.passed", "state"]);
}

#[test]
fn where_the_place_cannot_be_taken_the_passed_socket_is_served() {
    let scratch = Scratch::new();
    let path = scratch.join("public");
    let passed = UnixListener::bind(&path).expect("a socket");
    let old = inode(&path);
    fs::write(scratch.join("public.passed"), "years of work").expect("room");
    let daemon = rebinding(&passed, &scratch.join("state"));
    daemon.wait_for("error: cannot bind ");
    assert_eq!(get_counter(&path), 0);
    assert_eq!(inode(&path), old);
    assert_eq!(scratch.names(), ["public", "public.passed", "state"]);
}

#[test]
fn a_successor_continues_with_the_fresh_socket() {
    let scratch = Scratch::new();
    let (path, state) = (scratch.join("public"), scratch.join("state"));
    let passed = UnixListener::bind(&path).expect("a socket");
    let mut first = rebinding(&passed, &state);
    first.wait_for("Listening on UNIX socket");
    let (fresh, mut client) = (inode(&path), Client::connect(&path));
    assert_eq!(client.ask("set_counter 137"), "previous value 0");
    let state = state.to_str().expect("a path in words");
    let next = Daemon::start(&path, &["--takeover-existing-socket", "--state-file", state]);
    next.wait_for("Listening on UNIX socket");
    assert!(first.ended().0.success());
    assert_eq!(inode(&path), fresh, "it is left in its place");
    assert!(client.ask("get_counter").parse::<u64>().expect("a number") >= 137);
    assert!(get_counter(&path) >= 137);
}

/// Any process that holds the socket passed by systemd can shut it down.
#[test]
fn a_shut_down_passed_socket_does_not_affect_the_fresh_one() {
    let scratch = Scratch::new();
    let path = scratch.join("public");
    let passed = UnixListener::bind(&path).expect("a socket");
    let mut daemon = rebinding(&passed, &scratch.join("state"));
    daemon.wait_for("Listening on UNIX socket");
    let other = OwnedFd::from(passed.try_clone().expect("a descriptor"));
    UnixStream::from(other).shutdown(Shutdown::Both).expect("a socket");
    for _ in 0..10 {
        assert_eq!(get_counter(&path), 0);
    }
    daemon.signal(Signal::TERM);
    assert!(daemon.ended().0.success());
}
