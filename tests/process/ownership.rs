// SPDX-License-Identifier: Apache-2.0
//! Ownership: which process has the lock, which ones wait, and what happens without a file.

use rustix::process::Signal;

use crate::stage::{is_locked, record, serve, start, start_under, state_file, succeed};
use testkit::client::{Client, get_counter, nc};
use testkit::daemon::{Daemon, STILL};
use testkit::manager::Manager;
use testkit::scratch::Scratch;
use testkit::until;

fn messages_with(daemon: &Daemon, text: &str) -> usize {
    daemon.messages().iter().filter(|line| line.contains(text)).count()
}

#[test]
fn the_second_owner_waits_until_the_first_is_gone() {
    for signal in [Signal::KILL, Signal::TERM] {
        let scratch = Scratch::new();
        let mut first = serve(&scratch, "first", &STILL);
        nc(&first.socket, "set_counter 137\n");
        let mut manager = Manager::new(&scratch);
        let file = state_file(&scratch);
        let options = [&STILL[..], &["--state-file", file.to_str().expect("text")]].concat();
        let second = start_under(&manager, scratch.join("second"), &options);
        let path = file.display();
        second.wait_for(&format!("warning: {path} is locked by another process: waiting for it"));
        manager.wait_for(&format!("STATUS=booting: another process holds the lock of {path}"));
        manager.wait_until("more time", |said| {
            said.iter().filter(|said| said.starts_with("EXTEND_TIMEOUT_USEC=")).count() > 2
        });
        assert!(!manager.said.contains(&"READY=1".to_owned()));
        // A client that connects meanwhile waits and is not refused.
        let mut client = Client::connect(&second.socket);
        client.send("get_counter\n");
        assert_eq!(get_counter(&first.socket), 137);
        first.signal(signal);
        first.ended();
        assert_eq!(client.line(), "137");
        manager.wait_for("READY=1");
        assert_eq!(messages_with(&second, "is locked by another"), 1, "said once");
        assert!(is_locked(&file));
    }
}

#[test]
fn the_first_stage_waits_for_the_lock_as_well() {
    let scratch = Scratch::new();
    let mut first = serve(&scratch, "first", &STILL);
    nc(&first.socket, "set_counter 137\n");
    let options = [&STILL[..], &["--survive-systemd-kill-signal"]].concat();
    let mut second = start(&scratch, "second", &options);
    second.wait_for("is locked by another process: waiting for it");
    first.signal(Signal::KILL);
    first.ended();
    second.wait_for("booting => serving");
    assert_eq!(get_counter(&second.socket), 137);
    // A waiting process ends when it is told to.
    let mut third = start(&scratch, "third", &options);
    third.wait_for("is locked by another process: waiting for it");
    third.signal(Signal::INT);
    assert!(third.ended().0.success());
    assert!(second.is_running());
    assert_eq!(scratch.names(), ["first", "second", "state"]);
}

#[test]
fn of_two_successors_the_other_owns_when_the_first_is_killed() {
    let scratch = Scratch::new();
    let mut first = serve(&scratch, "first", &STILL);
    nc(&first.socket, "set_counter 137\n");
    first.stop();
    let names = ["one", "other"];
    let mut successors = names.map(|name| {
        let successor = succeed(&scratch, name, &first.socket, &STILL);
        successor.wait_for("Reading starting position");
        successor
    });
    first.signal(Signal::CONT);
    assert!(first.ended().0.success());
    let serves = |daemon: &Daemon| messages_with(daemon, "adopting => serving") > 0;
    // An unread request goes with the listener to the successor that adopts, which hands over in
    // turn.
    let waits = |daemon: &Daemon| {
        messages_with(daemon, "another process holds the lock: waiting") > 0 && !serves(daemon)
    };
    let has_left = |daemon: &Daemon| messages_with(daemon, "draining => ended") > 0;
    until("one owns alone", || {
        let owners = successors.iter().filter(|one| serves(one) && !has_left(one)).count();
        owners == 1 && successors.iter().any(|one| waits(one) || has_left(one))
    });
    successors.sort_by_key(|one| !serves(one) || has_left(one));
    let [owner, other] = &mut successors;
    assert_eq!(get_counter(&owner.socket), 137);
    if has_left(other) {
        return assert!(other.ended().0.success());
    }
    nc(&owner.socket, "set_counter 138\n");
    owner.signal(Signal::KILL);
    owner.ended();
    other.wait_for("adopting => serving");
    assert_eq!(get_counter(&other.socket), 138);
}

#[test]
fn a_late_successor_owns_when_the_earlier_one_is_gone() {
    let scratch = Scratch::new();
    let mut first = serve(&scratch, "first", &STILL);
    nc(&first.socket, "set_counter 137\n");
    let mut second = succeed(&scratch, "second", &first.socket, &STILL);
    assert!(first.ended().0.success());
    let third = succeed(&scratch, "third", &first.socket, &STILL);
    third.wait_for("another process holds the lock: waiting");
    assert_eq!(nc(&second.socket, "set_counter 138\n"), "previous value 137\n");
    second.signal(Signal::KILL);
    second.ended();
    third.wait_for("adopting => serving");
    assert_eq!(get_counter(&third.socket), 138);
}

#[test]
fn two_takeovers_of_one_socket_both_happen_and_one_remains() {
    let scratch = Scratch::new();
    let mut first = serve(&scratch, "sock", &STILL);
    let mut client = Client::connect(&first.socket);
    client.ask("set_counter 137");
    first.stop();
    let options = [&STILL[..], &["--takeover-existing-socket"]].concat();
    let mut successors = [(); 2].map(|()| {
        let successor = start(&scratch, "sock", &options);
        successor.wait_for("Reading starting position");
        successor
    });
    first.signal(Signal::CONT);
    assert!(first.ended().0.success());
    let mut left = || successors.iter_mut().map(|one| u32::from(one.is_running())).sum::<u32>();
    until("one is left", || left() == 1);
    assert_eq!(client.ask("get_counter"), "137");
    assert_eq!(get_counter(scratch.join("sock")), 137);
    assert_eq!(scratch.names(), ["sock", "state"]);
}

#[test]
fn a_handoff_works_without_a_file_on_either_side_or_on_both() {
    for (first_has_file, second_has_file) in [(false, false), (false, true), (true, false)] {
        let case = (first_has_file, second_has_file);
        let scratch = Scratch::new();
        let file = state_file(&scratch);
        let file = ["--state-file", file.to_str().expect("text")];
        let with = |has_file| if has_file { &file[..] } else { &[] };
        let mut first =
            Daemon::serve(scratch.join("first"), &[&STILL[..], with(first_has_file)].concat());
        let mut client = Client::connect(&first.socket);
        client.ask("set_counter 137");
        client.send("get_coun");
        let predecessor = ["-c", first.socket.to_str().expect("text")];
        let options = [&STILL[..], &predecessor, with(second_has_file)].concat();
        let mut second = Daemon::serve(scratch.join("second"), &options);
        assert!(first.ended().0.success(), "{case:?}");
        client.send("ter\n");
        assert_eq!(client.line(), "137", "{case:?}");
        assert_eq!(client.ask("set_counter 138"), "previous value 137");
        if !first_has_file && !second_has_file {
            assert_eq!(scratch.names(), ["second"]);
            continue;
        }
        // The lock and the state stay with the file, whichever process named it.
        assert!(is_locked(&state_file(&scratch)), "{case:?}");
        assert_eq!(record(&state_file(&scratch)).snapshot.state.next, 138, "{case:?}");
        second.signal(Signal::KILL);
        second.ended();
        let third = serve(&scratch, "third", &STILL);
        assert_eq!(get_counter(&third.socket), 138, "{case:?}");
        third.wait_for("Recovering at 138 from ");
    }
}

#[test]
fn a_successor_uses_the_predecessor_s_file_if_its_own_fails() {
    let scratch = Scratch::new();
    let mut first = serve(&scratch, "first", &STILL);
    nc(&first.socket, "set_counter 137\n");
    let predecessor = first.socket.to_str().expect("text");
    let options = [&STILL[..], &["-c", predecessor, "--state-file", "/dev/null/none"]].concat();
    let second = Daemon::serve(scratch.join("second"), &options);
    second.wait_for("cannot open state file /dev/null/none: Not a directory");
    assert!(first.ended().0.success());
    assert_eq!(nc(&second.socket, "set_counter 138\n"), "previous value 137\n");
    assert!(is_locked(&state_file(&scratch)));
    assert_eq!(record(&state_file(&scratch)).snapshot.state.next, 138);
}
