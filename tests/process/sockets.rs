// SPDX-License-Identifier: Apache-2.0
//! Sockets: what becomes of the file that clients connect to.

use std::fs;
use std::os::unix::net::UnixListener;

use rustix::process::Signal;

use crate::client::{get_counter, nc};
use crate::daemon::{Daemon, STILL};
use crate::scratch::Scratch;
use crate::until;

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
fn of_many_who_find_a_stale_socket_one_serves_and_the_others_say_why_not() {
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
    // One that is stopped is there all the same.
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
