// SPDX-License-Identifier: Apache-2.0
//! Ticks: each one on time, each one once.

use std::time::Duration;

use rustix::process::Signal;

use crate::AT_ONCE;
use testkit::client::{Client, get_counter, status};
use testkit::daemon::Daemon;
use testkit::host::Stopwatch;
use testkit::journald::{Journald, Tick};
use testkit::scratch::Scratch;
use testkit::{now, until};

/// Asserts that numbers are consecutive from 0, and deadlines a period apart.
#[track_caller]
pub(crate) fn assert_rhythm(ticks: &[Tick], period: u64) {
    let first = ticks.first().expect("ticks").deadline;
    for (tick, expected) in ticks.iter().zip(0..) {
        assert_eq!(tick.number, expected, "each number once, none left out");
        assert_eq!(tick.deadline, first + expected * period, "tick {expected} keeps its time");
        assert!(tick.actual >= tick.deadline, "tick {expected} came too early");
    }
}

/// The next number to be logged at `time`, according to the clock.
pub(crate) fn implied(ticks: &[Tick], period: u64, time: u64) -> u64 {
    (time - ticks[0].deadline) / period + 1
}

#[test]
fn the_default_period_is_100_ms() {
    let scratch = Scratch::new();
    let mut journald = Journald::new(&scratch);
    let _daemon = journald.start(scratch.join("sock"), &[]);
    journald.read_to_tick(5);
    assert_rhythm(&journald.ticks(), 100_000_000);
}

#[test]
fn ticks_do_not_drift() {
    const PERIOD: u64 = 10_000_000;
    let watch = Stopwatch::start();
    let scratch = Scratch::new();
    let mut journald = Journald::new(&scratch);
    let daemon = journald.start(scratch.join("sock"), &["--timer-delay-ms", "10"]);
    journald.read_to_tick(300);
    let ticks = journald.ticks();
    assert_rhythm(&ticks, PERIOD);
    // A busy machine delays some ticks. Drift would delay all later ones.
    let delay = |tick: &Tick| tick.actual - tick.deadline;
    let promptest = ticks.iter().skip(200).map(delay).min().expect("a hundred");
    assert!(promptest < PERIOD, "the last hundred ticks were {promptest} ns late or more");
    let latest = watch.own(Duration::from_nanos(ticks.iter().map(delay).max().expect("ticks")));
    assert!(latest < AT_ONCE, "a tick was {latest:?} late");

    // At any time, the count is the one that the clock implies.
    for _ in 0..50 {
        let (before, count, after) = (now(), get_counter(&daemon.socket), now());
        let possible = implied(&ticks, PERIOD, before)..=implied(&ticks, PERIOD, after);
        assert!(possible.contains(&count), "{count} is not in {possible:?}");
    }
}

#[test]
fn after_three_seconds_stopped_the_count_follows_the_clock() {
    const PERIOD: u64 = 100_000_000;
    const STOPPED: u64 = 3_000_000_000;
    let scratch = Scratch::new();
    let mut journald = Journald::new(&scratch);
    let daemon = journald.start(scratch.join("sock"), &[]);
    journald.read_to_tick(3);
    let mut client = Client::connect(&daemon.socket);
    client.ask("get_counter");
    daemon.stop();
    let stopped = now();
    until("three seconds later", || now() > stopped + STOPPED);
    daemon.signal(Signal::CONT);

    let (before, count, after) = (now(), client.ask("get_counter"), now());
    let count: u64 = count.parse().expect("a number");
    let implied = |time| implied(&journald.ticks(), PERIOD, time);
    let possible = implied(before)..=implied(after);
    assert!(possible.contains(&count), "{count} is not in {possible:?}");

    journald.read_to_tick(count + 3);
    let ticks = journald.ticks();
    assert_rhythm(&ticks, PERIOD);
    let missed = ticks.iter().filter(|tick| tick.deadline > stopped && tick.deadline < before);
    let caught_up = missed.filter(|tick| tick.actual > stopped + STOPPED).count();
    assert!(caught_up >= 29, "{caught_up} ticks were caught up");
    let late: u64 = status(&daemon.socket, "ticks_late").parse().expect("a number");
    assert!(late >= 28, "{late} late ticks are counted");
}

#[test]
fn more_missed_ticks_than_the_queue_holds_are_all_logged() {
    const PERIOD: u64 = 5_000_000;
    let scratch = Scratch::new();
    let daemon = Daemon::serve(scratch.join("sock"), &["--timer-delay-ms", "5"]);
    daemon.stop();
    // Four times the size of the queue, 256 records.
    let (stopped, missed) = (now(), 4 * 256);
    until("that many are due", || now() - stopped > missed * PERIOD);
    daemon.signal(Signal::CONT);
    let numbers = daemon.ticks(missed as usize + 10);
    assert!(numbers.iter().copied().eq(0..numbers.len() as u64), "{numbers:?}");
    assert_eq!(status(&daemon.socket, "log_lines_dropped"), "0");
}
