// SPDX-License-Identifier: Apache-2.0
//! Recovery: the next process continues by the clock, after the last one died or stopped.

use std::os::unix::net::UnixListener;

use early_service_machine::Counter;
use early_service_machine::record::Record;
use rustix::process::Signal;

use crate::stage::{record, serve, state_file};
use testkit::client::{Client, get_counter, nc, status};
use testkit::daemon::{Daemon, STILL, started_with};
use testkit::scratch::Scratch;
use testkit::{now, until};

/// How many ticks of `record` are due at `now`.
fn due(record: &Record<Counter>, now: u64) -> u64 {
    let (deadline, period) = (record.snapshot.deadline.as_nanos(), record.snapshot.period);
    now.checked_sub(deadline).map_or(0, |late| late / period.as_nanos() + 1)
}

#[track_caller]
fn number_after(text: &str, words: &str) -> u64 {
    let (_, rest) = text.split_once(words).unwrap_or_else(|| panic!("no {words:?} in {text:?}"));
    let digits = rest.split(|c: char| !c.is_ascii_digit()).next().expect("a first piece");
    digits.parse().expect("a number")
}

fn end(mut daemon: Daemon, signal: Signal) -> Daemon {
    daemon.signal(signal);
    daemon.ended();
    daemon
}

#[test]
fn after_a_kill_the_count_follows_the_clock_at_any_period() {
    for period in ["20", "30", "1000"] {
        let scratch = Scratch::new();
        let dead = serve(&scratch, "sock", &["--timer-delay-ms", "20"]);
        dead.ticks(7);
        let dead = end(dead, Signal::KILL);
        let left = record(&state_file(&scratch));
        let next = left.snapshot.state.next;
        let wait = now() + 250_000_000;
        until("a quarter of a second", || now() > wait);

        let earliest = now();
        let daemon = serve(&scratch, "sock", &["--timer-delay-ms", period]);
        let line = daemon.wait_for("Recovering at ");
        assert_eq!(number_after(&line.message, "Recovering at "), next);
        let told = number_after(&line.message, ": ");
        let window = due(&left, earliest)..=due(&left, line.time);
        assert!(window.contains(&told), "{told} is not in {window:?}");

        // Deadlines have the old period until now, and the new one from then on.
        let then = record(&state_file(&scratch));
        let (old, new) = (left.snapshot.period.as_nanos(), then.snapshot.period.as_nanos());
        let passed = then.snapshot.deadline.as_nanos() - left.snapshot.deadline.as_nanos();
        let ticks = then.snapshot.state.next - next;
        assert!(ticks >= told, "{ticks} are fewer than {told}");
        if old == new {
            assert_eq!(passed, ticks * old);
        } else {
            // `caught` ticks have the old period, the others the new one.
            let caught = (0..=ticks).find(|caught| caught * old + (ticks - caught) * new == passed);
            let caught = caught.unwrap_or_else(|| panic!("{passed} is not {ticks} ticks"));
            assert!(caught >= told, "{caught} of {ticks} ticks were caught up, not {told}");
        }
        // Each number occurs once; the first one is the one that was due.
        let count = usize::try_from(told).expect("few");
        let expected: Vec<u64> = (next..).take(count).collect();
        assert_eq!(daemon.ticks(count)[..count], expected);
        let before = dead.all_ticks();
        assert!(before.iter().all(|tick| *tick < next), "{before:?} before {next}");
    }
}

#[test]
fn numbers_whose_lines_died_with_the_process_are_named() {
    let scratch = Scratch::new();
    let dead = serve(&scratch, "sock", &["--timer-delay-ms", "20"]);
    dead.ticks(7);
    let dead = end(dead, Signal::KILL);
    let left = record(&state_file(&scratch));
    let last = left.snapshot.state.next - 1;
    let daemon = serve(&scratch, "sock", &["--timer-delay-ms", "20"]);
    // Its line may or may not have been written before the process died.
    let named = daemon.wait_for(" may be missing from the log").message;
    assert!(named.contains(&last.to_string()), "{last}: {named}");
    let logged = dead.all_ticks();
    let missing: Vec<u64> = (0..=last).filter(|number| !logged.contains(number)).collect();
    let first_named = last + 1 - left.unlogged.ticks;
    assert!(missing.iter().all(|number| *number >= first_named), "{missing:?}: {named}");
}

#[test]
fn acknowledged_commands_survive_a_kill() {
    let scratch = Scratch::new();
    for round in 0..20 {
        let daemon = serve(&scratch, "sock", &STILL);
        let mut client = Client::connect(&daemon.socket);
        if round > 0 {
            assert_eq!(client.ask("get_counter"), (round * 1000 - 1).to_string());
        }
        client.ask(&format!("set_counter {}", round * 1000 + 999));
        end(daemon, Signal::KILL);
    }
}

#[test]
fn after_an_orderly_stop_nothing_is_named_as_missing() {
    for signal in [Signal::TERM, Signal::INT] {
        let scratch = Scratch::new();
        let stopped = serve(&scratch, "sock", &["--timer-delay-ms", "20"]);
        stopped.ticks(7);
        let stopped = end(stopped, signal);
        assert_eq!(scratch.names(), ["state"]);
        let left = record(&state_file(&scratch));
        let next = left.snapshot.state.next;
        assert_eq!(stopped.all_ticks(), (0..next).collect::<Vec<_>>(), "all are in the log");
        let daemon = serve(&scratch, "sock", &["--timer-delay-ms", "20"]);
        daemon.wait_for(&format!("Recovering at {next} from "));
        assert_eq!(daemon.ticks(5)[0], next);
        let messages = daemon.messages();
        assert!(!messages.iter().any(|line| line.contains("missing")), "{messages:?}");
    }
}

#[test]
fn a_count_that_was_set_and_stopped_goes_on_from_there() {
    let scratch = Scratch::new();
    let stopped = serve(&scratch, "sock", &STILL);
    nc(&stopped.socket, "set_counter 18446744073709551615\n");
    end(stopped, Signal::TERM);
    let daemon = serve(&scratch, "sock", &STILL);
    assert_eq!(get_counter(&daemon.socket), u64::MAX);
    let values = ["origin", "predecessor", "state_file"].map(|key| status(&daemon.socket, key));
    assert_eq!(values, ["recovered", "none", "held"]);
    let state = record(&state_file(&scratch)).snapshot.state;
    assert_eq!(state, Counter { next: u64::MAX });
}

#[test]
fn clients_queue_while_nobody_serves_and_are_answered_later() {
    let scratch = Scratch::new();
    let path = scratch.join("public");
    let passed = UnixListener::bind(&path).expect("a socket");
    let start = || {
        let mut command = started_with(&passed);
        let daemon =
            Daemon::spawn(command.args(STILL).arg("--state-file").arg(state_file(&scratch)));
        daemon.wait_for("=> serving");
        daemon
    };
    let mut daemon = start();
    assert_eq!(Client::connect(&path).ask("set_counter 137"), "previous value 0");
    for signal in [Signal::KILL, Signal::TERM] {
        end(daemon, signal);
        let mut waiting: Vec<_> = (0..50).map(|_| Client::connect(&path)).collect();
        waiting.iter_mut().for_each(|client| client.send("get_counter\n"));
        daemon = start();
        for client in &mut waiting {
            assert_eq!(client.line(), "137", "{signal:?}");
        }
    }
}
