// SPDX-License-Identifier: Apache-2.0
//! Exchange: the daemon as the predecessor of a successor that the test plays.

use std::fs;
use std::os::unix::fs::FileExt;

use early_service_machine::Counter;
use early_service_machine::record::{BootId, Record, Unlogged};
use early_service_machine::schedule::{Monotonic, Period};
use early_service_machine::timeline::Snapshot;
use rustix::process::Signal;

use crate::stage::{forged, is_locked, record, serve, start_under, state_file, succeed};
use crate::wire::{Predecessor, Wire, number};
use testkit::client::{Client, get_counter, nc, status};
use testkit::daemon::{Daemon, STILL};
use testkit::manager::Manager;
use testkit::scratch::Scratch;
use testkit::{now, until};

/// A predecessor at 137 that does not tick, and a client with half a line.
fn predecessor(scratch: &Scratch) -> (Daemon, Client) {
    let daemon = serve(scratch, "sock", &STILL);
    let mut client = Client::connect(&daemon.socket);
    assert_eq!(client.ask("set_counter 137"), "previous value 0");
    client.send("get_coun");
    (daemon, client)
}

/// Asserts that the predecessor serves again, for this reason, and that nothing is lost.
#[track_caller]
fn serves_on(daemon: &Daemon, client: &mut Client, because: &str) {
    daemon.wait_for(&format!(" did not adopt the state: {because}; serving on"));
    client.send("ter\n");
    assert_eq!(client.line(), "137", "{because}");
    assert_eq!(nc(&daemon.socket, "set_counter 138\n"), "previous value 137\n", "{because}");
    assert_eq!(status(&daemon.socket, "phase"), "serving", "{because}");
}

#[test]
fn a_successor_receives_state_sockets_and_lock() {
    let scratch = Scratch::new();
    let (mut daemon, mut client) = predecessor(&scratch);
    let mut successor = Wire::ask(&daemon.socket, "handoff 1");
    let offer = successor.offer();
    assert_eq!(number::<u64>(&offer.state, "counter"), 137);
    assert_eq!((offer.listeners.len(), offer.clients.len()), (1, 1));
    assert_eq!(offer.clients[0].head, "client input=8 replies=0 ended=0 closing=0");
    assert_eq!(offer.clients[0].bytes, b"get_coun");
    let recorded = record(&state_file(&scratch)).snapshot;
    assert!(offer.state.contains(&recorded.to_string()), "{} is not {recorded}", offer.state);
    successor.say("prepared");
    assert_eq!(successor.line(), "commit");
    assert!(daemon.is_running(), "it keeps everything until the successor serves");
    successor.say("done");
    assert_eq!(successor.line(), "logged");
    assert!(daemon.ended().0.success());
    successor.end();
    assert_eq!(scratch.names(), ["state"], "the socket of its own is gone");
    assert!(is_locked(&state_file(&scratch)), "the lock came along");
    drop(offer.lock);
    // A child of another test holds a copy between fork and exec.
    until("no other process has it", || !is_locked(&state_file(&scratch)));
    drop(offer.clients);
    assert_eq!(client.rest(), "", "nor the client");
}

#[test]
fn the_socket_file_is_left_to_the_successor_that_serves_it() {
    let scratch = Scratch::new();
    let (mut daemon, _client) = predecessor(&scratch);
    let request = format!("handoff 1 listener={}", daemon.socket.display());
    let mut successor = Wire::ask(&daemon.socket, &request);
    let _offer = successor.offer();
    successor.say("prepared");
    assert_eq!(successor.line(), "commit");
    successor.say("done");
    assert!(daemon.ended().0.success());
    assert_eq!(scratch.names(), ["sock", "state"]);
}

#[test]
fn a_request_of_a_newer_version_is_answered_in_ours() {
    let scratch = Scratch::new();
    let (daemon, mut client) = predecessor(&scratch);
    let mut successor = Wire::ask(&daemon.socket, "handoff 2 mood=good");
    assert_eq!(number::<u64>(&successor.offer().state, "counter"), 137);
    successor.say("abort this is not my version");
    serves_on(&daemon, &mut client, "this is not my version");
}

#[test]
fn a_successor_that_aborts_or_dies_at_any_point_costs_nothing() {
    const GONE: &str = "its connection ended";
    type Act = fn(&mut Wire);
    let read_state: Act = |wire| assert!(wire.line().starts_with("state 1"));
    let prepare: Act = |wire| {
        wire.offer();
        wire.say("prepared");
    };
    let see_commit: Act = |wire| {
        wire.offer();
        wire.say("prepared");
        assert_eq!(wire.line(), "commit");
    };
    let points: [(&str, Act); 5] = [
        ("asked", |_| {}),
        ("read the state", read_state),
        ("read all", |wire| drop(wire.offer())),
        ("prepared", prepare),
        ("owns", see_commit),
    ];
    for (point, act) in points {
        for last_word in [None, Some("abort I have changed my mind"), Some("abort")] {
            let scratch = Scratch::new();
            let (daemon, mut client) = predecessor(&scratch);
            let mut successor = Wire::ask(&daemon.socket, "handoff 1");
            act(&mut successor);
            if let Some(word) = last_word {
                successor.say(word);
            }
            drop(successor);
            // If the successor has not read the offer, its last word may be lost with it (unix(7)).
            let why = daemon.wait_for(" did not adopt the state: ").message;
            let said = last_word.map(|word| word.strip_prefix("abort ").unwrap_or("it aborted"));
            let because = said.filter(|said| why.contains(said)).unwrap_or(GONE);
            assert!(why.contains(because), "{point}: {why}");
            serves_on(&daemon, &mut client, because);
        }
    }
}

#[test]
fn the_reason_of_an_abort_is_logged_without_control_characters() {
    let scratch = Scratch::new();
    let (daemon, mut client) = predecessor(&scratch);
    let mut successor = Wire::ask(&daemon.socket, "handoff 1");
    drop(successor.offer());
    successor.send(b"abort the \x1b[31mred\xff one\n", &[]);
    serves_on(&daemon, &mut client, "the \\x1b[31mred\\xff one");
    successor.end();
}

#[test]
fn a_second_one_that_asks_is_told_that_it_came_second() {
    let scratch = Scratch::new();
    let (daemon, mut client) = predecessor(&scratch);
    // All requests arrive before the daemon freezes its state.
    daemon.stop();
    let mut first = Wire::ask(&daemon.socket, "handoff 1");
    let mut seconds = ["handoff 1", "pass_state_and_terminate", "get_counter_and_terminate"]
        .map(|request| Wire::ask(&daemon.socket, request));
    daemon.signal(Signal::CONT);
    let older = "Busy: another process is adopting";
    assert_eq!(seconds.each_mut().map(Wire::line), ["busy", older, older]);
    seconds.iter_mut().for_each(Wire::end);
    drop(first.offer());
    first.say("abort");
    serves_on(&daemon, &mut client, "it aborted");
}

#[test]
fn a_request_with_an_unknown_key_that_matters_is_refused_by_its_name() {
    let scratch = Scratch::new();
    let (daemon, mut client) = predecessor(&scratch);
    let mut newer = Wire::ask(&daemon.socket, "handoff 2 later=1 !more=1 listener=/run/a");
    let why = format!("process {} asks with the unknown key '!more'", std::process::id());
    assert_eq!(newer.line(), format!("abort {why}"));
    newer.end();
    daemon.wait_for(&format!("Refusing to hand over: {why}"));
    client.send("ter\n");
    assert_eq!(client.line(), "137");
}

#[test]
fn a_protocol_violation_of_a_successor_costs_nothing() {
    let endless = "x".repeat(100_000);
    let words = ["commit", "done", "nonsense", "prepared?", "\0", "state 1", &endless];
    for word in words {
        let scratch = Scratch::new();
        let (daemon, mut client) = predecessor(&scratch);
        let mut successor = Wire::ask(&daemon.socket, "handoff 1");
        drop(successor.offer());
        // The daemon may close before it has read all of an endless line.
        let _ = std::io::Write::write_all(&mut successor.stream, format!("{word}\n").as_bytes());
        assert_eq!(successor.line(), "abort protocol violation", "{word:.20}");
        serves_on(&daemon, &mut client, "protocol violation");
        successor.end();
    }
}

#[test]
fn an_offer_that_nobody_takes_is_taken_back_for_good() {
    let scratch = Scratch::new();
    let (daemon, mut client) = predecessor(&scratch);
    let mut successor = Wire::ask(&daemon.socket, "handoff 1");
    serves_on(&daemon, &mut client, "timed out after 1000 ms");
    // The daemon ignores everything that the successor sends now.
    let _ = std::io::Write::write_all(&mut successor.stream, b"prepared\ndone\n");
    drop(successor.offer());
    assert_eq!(successor.line(), "abort timed out after 1000 ms");
    successor.end();
    assert_eq!(get_counter(&daemon.socket), 138);
}

#[test]
fn waiting_for_an_owner_that_does_not_serve_is_logged() {
    let scratch = Scratch::new();
    let mut manager = Manager::new(&scratch);
    let mut daemon = start_under(&manager, scratch.join("sock"), &STILL);
    manager.wait_for("READY=1");
    let mut successor = owner_after(&daemon);
    let pid = std::process::id();
    daemon.wait_for(&format!("Process {pid} owns the state and does not serve: waiting for it"));
    manager.wait_for(&format!("STATUS=draining: process {pid} does not serve yet"));
    // Far longer than the time limit of an offer.
    let lives = manager.said.iter().filter(|said| *said == "WATCHDOG=1").count();
    manager.wait_until("signs of life", |said| {
        said.iter().filter(|said| *said == "WATCHDOG=1").count() > lives + 3
    });
    assert!(daemon.is_running() && !daemon.messages().contains(&"draining => serving".to_owned()));
    successor.say("done");
    assert_eq!(successor.line(), "logged");
    assert!(daemon.ended().0.success());
}

/// A successor that owns the state and has closed all descriptors of the offer.
fn owner_after(daemon: &Daemon) -> Wire {
    let mut successor = Wire::ask(&daemon.socket, "handoff 1");
    drop(successor.offer());
    successor.say("prepared");
    assert_eq!(successor.line(), "commit");
    successor
}

#[test]
fn after_an_owner_died_the_predecessor_reads_what_it_wrote() {
    let scratch = Scratch::new();
    let (daemon, mut client) = predecessor(&scratch);
    let successor = owner_after(&daemon);
    write_as_owner(&scratch, 500);
    drop(successor);
    daemon.wait_for("Recovering at 500 from ");
    client.send("ter\n");
    assert_eq!(client.line(), "500");
    assert_eq!(record(&state_file(&scratch)).snapshot.state, Counter { next: 500 });
}

#[test]
fn a_forged_record_of_a_dead_successor_is_reported_and_ignored() {
    let scratch = Scratch::new();
    let (daemon, mut client) = predecessor(&scratch);
    let successor = owner_after(&daemon);
    let left = forged(
        "sequence=9 unlogged=0 unbroken=0 counter=500 deadline_ns=18446744073709551615 \
         period_ns=100000000",
    );
    let file = fs::File::options().write(true).open(state_file(&scratch)).expect("a state file");
    file.write_all_at(&left, 0).expect("room");
    drop(successor);
    daemon.wait_for("its record has a deadline_ns 18");
    client.send("ter\n");
    assert_eq!(client.line(), "137");
    assert_eq!(record(&state_file(&scratch)).snapshot.state, Counter { next: 137 });
}

#[test]
fn a_predecessor_told_to_stop_saves_only_while_it_is_the_owner() {
    for (is_committed, expected) in [(false, 137), (true, 500)] {
        let scratch = Scratch::new();
        let (mut daemon, _client) = predecessor(&scratch);
        let mut successor = Wire::ask(&daemon.socket, "handoff 1");
        let offer = successor.offer();
        if is_committed {
            successor.say("prepared");
            assert_eq!(successor.line(), "commit");
            write_as_owner(&scratch, 500);
        }
        daemon.signal(Signal::TERM);
        assert!(daemon.ended().0.success());
        successor.end();
        assert_eq!(record(&state_file(&scratch)).snapshot.state, Counter { next: expected });
        assert!(is_locked(&state_file(&scratch)), "the successor has the lock");
        drop(offer);
    }
}

#[test]
fn a_successor_that_reported_serving_counts_even_if_it_dies() {
    let scratch = Scratch::new();
    let (mut daemon, _client) = predecessor(&scratch);
    let mut successor = owner_after(&daemon);
    daemon.stop();
    successor.say("done");
    drop(successor);
    daemon.signal(Signal::CONT);
    assert!(daemon.ended().0.success());
    daemon.wait_for("has adopted the state");
}

/// Writes a record, as the owner does.
fn write_as_owner(scratch: &Scratch, counter: u64) {
    let path = state_file(scratch);
    let mut record = record(&path);
    record.snapshot.state = Counter { next: counter };
    record.sequence += 1;
    let boot = fs::read("/proc/sys/kernel/random/boot_id").expect("Linux");
    let boot = BootId::parse(boot.trim_ascii_end()).expect("a boot id");
    let file = fs::File::options().write(true).open(path).expect("a state file");
    file.write_all_at(&record.encode(&boot), 0).expect("room");
    until("written", || crate::stage::record(&state_file(scratch)) == record);
}

fn boot_id() -> Vec<u8> {
    fs::read("/proc/sys/kernel/random/boot_id").expect("Linux")
}

/// Both processes are told to stop during a handoff: the last one removes the socket file.
#[test]
fn a_stopped_predecessor_removes_only_a_file_of_its_own() {
    for keeps in [false, true] {
        for commits in [false, true] {
            let scratch = Scratch::new();
            let (mut daemon, _client) = predecessor(&scratch);
            let request = format!("handoff 1 listener={}", daemon.socket.display());
            let mut successor = Wire::ask(&daemon.socket, &request);
            let mut offer = successor.offer();
            if commits {
                successor.say("prepared");
                assert_eq!(successor.line(), "commit");
            }
            if !keeps {
                offer.listeners.clear();
            }
            daemon.signal(Signal::TERM);
            assert!(daemon.ended().0.success());
            let expected: &[_] = if keeps { &["sock", "state"] } else { &["state"] };
            assert_eq!(scratch.names(), expected, "{commits}");
        }
    }
}

#[test]
fn a_stopped_successor_removes_the_file_nobody_listens_on() {
    for lives in [false, true] {
        let scratch = Scratch::new();
        let predecessor = Predecessor::new(&scratch);
        let lock = crate::stage::lock(&state_file(&scratch));
        let options = ["--takeover-existing-socket", STILL[0], STILL[1]];
        let mut daemon = crate::stage::start(&scratch, "predecessor", &options);
        let mut wire = predecessor.asked_for_the_exchange();
        let listener = predecessor.listener.try_clone().expect("a descriptor");
        let offer = format!("{}\n", crate::wire::state(137, true, 1, 0));
        wire.send(offer, &crate::wire::borrowed(&[listener]));
        wire.send("end\n", &crate::wire::borrowed(&[lock]));
        assert_eq!(wire.line(), "prepared");
        let listener = lives.then_some(predecessor.listener);
        daemon.signal(Signal::TERM);
        assert!(daemon.ended().0.success());
        let expected: &[_] = if lives { &["predecessor", "state"] } else { &["state"] };
        assert_eq!(scratch.names(), expected);
        drop(listener);
    }
}

/// A daemon that has just adopted 137 from a predecessor with three unlogged ticks.
fn adopted_with_unlogged_ticks(scratch: &Scratch) -> (Daemon, Wire) {
    let predecessor = Predecessor::new(scratch);
    let lock = crate::stage::lock(&state_file(scratch));
    let daemon = succeed(scratch, "sock", &predecessor.path, &STILL);
    let mut wire = predecessor.asked_for_the_exchange();
    let record = Record {
        sequence: 1,
        unlogged: Unlogged { ticks: 3, unbroken: 3 },
        realtime: None,
        snapshot: Snapshot {
            state: Counter { next: 137 },
            deadline: Monotonic::from_nanos(now() + 3_600_000_000_000),
            period: Period::from_millis(3_600_000).expect("not 0"),
        },
    };
    let boot = BootId::parse(boot_id().trim_ascii_end()).expect("a boot id");
    fs::write(state_file(scratch), record.encode(&boot)).expect("room");
    wire.say(&format!("state 1 {} lock=1 listeners=0 clients=0", record.snapshot));
    wire.send("end\n", &crate::wire::borrowed(&[lock]));
    assert_eq!(wire.line(), "prepared");
    wire.say("commit");
    assert_eq!(wire.line(), "done");
    (daemon, wire)
}

/// Only the successor can name the lines that a dead predecessor had queued.
#[test]
fn a_successor_stopped_early_names_lines_that_may_be_missing() {
    for logs in [false, true] {
        let scratch = Scratch::new();
        let (mut daemon, mut wire) = adopted_with_unlogged_ticks(&scratch);
        daemon.signal(Signal::TERM);
        if logs {
            wire.say("logged");
        } else {
            until("its end", || !daemon.is_running());
        }
        drop(wire);
        assert!(daemon.ended().0.success());
        let log = daemon.whole_log();
        let named = log.iter().any(|line| line.message.contains("134 to 136 may be missing"));
        assert_eq!(named, !logs, "{log:#?}");
    }
}

#[test]
fn a_successor_killed_early_leaves_which_lines_may_be_missing() {
    for logs in [false, true] {
        let scratch = Scratch::new();
        let (mut daemon, mut wire) = adopted_with_unlogged_ticks(&scratch);
        if logs {
            wire.say("logged");
            // The daemon reads the connection to its end before it executes a later command.
            drop(wire);
            until("its word in the file", || {
                nc(&daemon.socket, "set_counter 137\n");
                record(&state_file(&scratch)).unlogged == Unlogged::default()
            });
        }
        daemon.signal(Signal::KILL);
        daemon.ended();
        let next = serve(&scratch, "sock", &STILL);
        next.wait_for("Recovering at 137");
        let named = next.messages().iter().any(|line| line.contains("134 to 136 may be missing"));
        assert_eq!(named, !logs, "{:?}", next.messages());
    }
}

/// A process that has the file open can write to it while the daemon does not.
#[test]
fn a_record_rewritten_during_a_handoff_is_not_used() {
    let scratch = Scratch::new();
    let predecessor = Predecessor::new(&scratch);
    let lock = crate::stage::lock(&state_file(&scratch));
    let daemon = succeed(&scratch, "sock", &predecessor.path, &STILL);
    let mut wire = predecessor.asked_for_the_exchange();
    wire.say(&crate::wire::state(777, true, 0, 0));
    wire.send("end\n", &crate::wire::borrowed(&[lock]));
    assert_eq!(wire.line(), "prepared");
    let record = Record {
        sequence: 9,
        unlogged: Unlogged::default(),
        realtime: None,
        snapshot: Snapshot {
            state: Counter { next: 5 },
            deadline: Monotonic::from_nanos(now() + 3_600_000_000_000),
            period: Period::from_millis(3_600_000).expect("not 0"),
        },
    };
    let boot = BootId::parse(boot_id().trim_ascii_end()).expect("a boot id");
    fs::write(state_file(&scratch), record.encode(&boot)).expect("room");
    wire.say("commit");
    assert_eq!(wire.line(), "done");
    assert_eq!(get_counter(&daemon.socket), 777);
}
