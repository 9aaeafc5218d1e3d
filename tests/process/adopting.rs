// SPDX-License-Identifier: Apache-2.0
//! Adopting: the daemon as the successor of a predecessor that the test plays.

use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};

use rustix::process::Signal;

use crate::pair::{Pair, client};
use crate::stage::{is_locked, lock, start_under, state_file, succeed};
use crate::wire::{Predecessor, Wire, borrowed, state};
use testkit::client::get_counter;
use testkit::daemon::STILL;
use testkit::manager::Manager;
use testkit::scratch::Scratch;
use testkit::until;

#[track_caller]
fn line(client: &mut UnixStream) -> String {
    Wire::new(client.try_clone().expect("a descriptor")).line()
}

#[test]
fn a_client_continues_within_a_line_after_its_unsent_replies() {
    let pair = Pair::new();
    let mut wire = pair.predecessor.asked_for_the_exchange();
    wire.say(&state(137, true, 0, 2));
    let (mut first, served_first) = client();
    let (mut second, served_second) = client();
    let message = "client input=8 replies=14 ended=0 closing=0\nget_counprevious value\
                   client mood=good input=0 replies=4 ended=1 closing=1\nbye\n";
    wire.send(message, &borrowed(&[served_first, served_second]));
    pair.end(&mut wire);
    assert_eq!(wire.line(), "prepared");
    wire.say("commit");
    assert_eq!(wire.line(), "done");
    first.write_all(b" 5\nter\n").expect("a connection");
    let mut replies = String::new();
    second.read_to_string(&mut replies).expect("its end");
    assert_eq!(replies, "bye\n", "what was to be closed is closed");
    assert!(line(&mut first).starts_with("previous value"), "the unsent reply comes first");
}

#[test]
fn keys_of_another_release_are_ignored() {
    let pair = Pair::new();
    let mut wire = pair.predecessor.asked_for_the_exchange();
    wire.say(&format!("{} mood=good", state(137, true, 0, 0)));
    pair.end(&mut wire);
    assert_eq!(wire.line(), "prepared");
    drop(wire);
    let _kept = pair.successor.wait_for("=> serving");
}

#[test]
fn a_predecessor_with_no_lock_and_a_full_backlog_is_given_up() {
    let scratch = Scratch::new();
    let path = scratch.join("crowded");
    let listener = UnixListener::bind(&path).expect("a socket");
    rustix::net::listen(&listener, 0).expect("a shorter backlog");
    let _only = UnixStream::connect(&path).expect("the only place");
    let daemon = succeed(&scratch, "root", &path, &STILL);
    let path = path.display();
    daemon.wait_for(&format!("{path}: no room in its backlog: waiting for it"));
    daemon.wait_for(&format!("No predecessor at {path}: no room in its backlog, for 5 s"));
    daemon.wait_for("=> serving");
    assert_eq!(get_counter(&daemon.socket), 0);
}

#[test]
fn a_predecessor_that_is_busy_or_takes_it_back_is_asked_again() {
    let pair = Pair::new();
    for word in ["busy", "Permission denied", "abort not now"] {
        pair.predecessor.asked_for_the_exchange().say(word);
        let said = format!("answers '{word}': asking again until it hands over or ends");
        pair.successor.wait_for(&said);
    }
    // In the middle of an offer, and after its end.
    pair.offer_nothing_but_the_state().say("abort in the middle");
    pair.successor.wait_for("answers 'abort in the middle'");
    let mut wire = pair.offer_nothing_but_the_state();
    pair.end(&mut wire);
    assert_eq!(wire.line(), "prepared");
    wire.say("abort at the end");
    pair.successor.wait_for("answers 'abort at the end'");
    wire.end();
    pair.hand_over();
}

#[test]
fn after_a_predecessor_died_early_the_lock_decides_who_owns() {
    type Act = fn(&Pair, &mut Wire);
    let acts: [Act; 4] = [
        |_, _| {},
        |_, wire| wire.send("state 1 coun", &[]),
        |_, wire| wire.say(&state(137, true, 0, 0)),
        |_, wire| {
            wire.say(&state(137, true, 0, 1));
            wire.send("client input=8 replies=0 ended=0 closing=0\nget_", &borrowed(&[client().1]));
        },
    ];
    for act in acts {
        let pair = Pair::new();
        let mut wire = pair.predecessor.asked_for_the_exchange();
        act(&pair, &mut wire);
        // The listener still exists, so it is asked again. Then it is closed.
        drop(wire);
        let wire = pair.predecessor.asked_for_the_exchange();
        drop((wire, pair.predecessor));
        assert!(!pair.successor.messages().contains(&"adopting => serving".to_owned()));
        drop(pair.lock);
        pair.successor.wait_for("adopting => serving");
        assert_eq!(get_counter(&pair.successor.socket), 0, "nobody wrote a state");
    }
}

#[test]
fn a_predecessor_that_dies_after_sending_all_leaves_the_state() {
    for last_word in [None, Some("commit")] {
        let pair = Pair::new();
        let mut wire = pair.predecessor.asked_for_the_exchange();
        wire.say(&state(137, true, 0, 1));
        let (mut connection, served) = client();
        wire.send("client input=8 replies=0 ended=0 closing=0\nget_coun", &borrowed(&[served]));
        pair.end(&mut wire);
        assert_eq!(wire.line(), "prepared");
        if let Some(word) = last_word {
            wire.say(word);
        }
        drop((wire, pair.predecessor, pair.lock));
        connection.write_all(b"ter\n").expect("a connection");
        assert_eq!(line(&mut connection), "137", "{last_word:?}");
        assert!(is_locked(&state_file(&pair.scratch)));
    }
}

#[test]
fn waiting_for_a_silent_predecessor_is_logged() {
    let scratch = Scratch::new();
    let predecessor = Predecessor::new(&scratch);
    let lock = lock(&state_file(&scratch));
    let mut manager = Manager::new(&scratch);
    let (path, file) = (predecessor.path.clone(), state_file(&scratch));
    let [path, file] = [&path, &file].map(|path| path.to_str().expect("text"));
    let options = [&STILL[..], &["-c", path, "--state-file", file]].concat();
    let daemon = start_under(&manager, scratch.join("root"), &options);
    let mut wire = predecessor.asked_for_the_exchange();
    daemon.wait_for(&format!("{path} does not answer: waiting for it"));
    manager.wait_for(&format!("STATUS=adopting: {path} does not answer"));
    // The daemon sends one a second.
    let extended = |said: &[String]| {
        said.iter().filter(|said| said.starts_with("EXTEND_TIMEOUT_USEC=5000000")).count()
    };
    manager.wait_until("more time", |said| extended(said) > 6);
    assert!(!manager.said.contains(&"READY=1".to_owned()));
    wire.say(&state(137, true, 0, 0));
    wire.send("end\n", &[lock.as_fd()]);
    assert_eq!(wire.line(), "prepared");
    wire.say("commit");
    assert_eq!(wire.line(), "done");
    manager.wait_for("READY=1");
}

#[test]
fn a_predecessor_with_no_lock_is_awaited_after_it_sent_all() {
    let scratch = Scratch::new();
    let predecessor = Predecessor::new(&scratch);
    let mut manager = Manager::new(&scratch);
    let path = predecessor.path.to_str().expect("text");
    let options = [&STILL[..], &["-c", path]].concat();
    let daemon = start_under(&manager, scratch.join("root"), &options);
    let mut wire = predecessor.asked_for_the_exchange();
    wire.say(&state(137, false, 0, 0));
    wire.say("end");
    assert_eq!(wire.line(), "prepared");
    daemon.wait_for(&format!("{path} does not answer: waiting for it"));
    let extended = manager.said.len();
    // The daemon sends one a second, and gives up an older program after 5.
    manager.wait_until("more time", |said| {
        said.iter().skip(extended).filter(|said| said.starts_with("EXTEND_TIMEOUT")).count() > 7
    });
    assert!(!manager.said.contains(&"READY=1".to_owned()));
    wire.say("commit");
    assert_eq!(wire.line(), "done");
    assert_eq!(get_counter(&daemon.socket), 137);
}

#[test]
fn a_successor_told_to_stop_gives_back_all_before_it_reports() {
    let pair = Pair::new();
    let mut wire = pair.offer_nothing_but_the_state();
    pair.end(&mut wire);
    assert_eq!(wire.line(), "prepared");
    let mut successor = pair.successor;
    successor.signal(Signal::TERM);
    assert_eq!(wire.line(), "abort the successor was told to stop");
    drop(pair.lock);
    assert!(!is_locked(&state_file(&pair.scratch)), "its copy of the lock was closed before");
    wire.end();
    assert!(successor.ended().0.success());
    assert_eq!(pair.scratch.names(), ["predecessor", "state"]);
}

#[test]
fn a_closed_client_sees_the_end_although_the_predecessor_lives() {
    let pair = Pair::new();
    let mut wire = pair.predecessor.asked_for_the_exchange();
    wire.say(&state(137, true, 0, 3));
    let (mut clients, served): (Vec<_>, Vec<_>) = (0..3).map(|_| client()).unzip();
    let head = "client input=0 replies=0 ended=0 closing=0\n".repeat(3);
    wire.send(head, &borrowed(&served));
    pair.end(&mut wire);
    assert_eq!(wire.line(), "prepared");
    wire.say("commit");
    assert_eq!(wire.line(), "done");
    clients[0].write_all(&[b'x'; 200]).expect("a connection");
    clients[1].shutdown(std::net::Shutdown::Write).expect("a connection");
    clients[2].write_all(b"get_counter_and_terminate\n").expect("a connection");
    let mut replies = clients.iter_mut().map(|client| {
        let mut replies = String::new();
        client.read_to_string(&mut replies).expect("an end");
        replies
    });
    assert!(replies.next().expect("three").contains("too long"));
    assert_eq!(replies.next().expect("three"), "");
    assert_eq!(replies.next().expect("three"), "137\n");
    let mut successor = pair.successor;
    until("ended", || !successor.is_running());
    drop(served);
}
