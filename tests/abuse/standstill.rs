// SPDX-License-Identifier: Apache-2.0
//! Standstill: a journald that does not read.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use early_service_machine::Counter;
use early_service_machine::record::{BootId, Record};
use early_service_machine::schedule::Monotonic;

use crate::claims::Claims;
use crate::log;
use crate::scene::{BOUNDS, Bounds, SETUP, Scene, Setup};
use testkit::client::{Client, status};
use testkit::journald::Entry;
use testkit::scratch::Scratch;
use testkit::{LIMIT, now, until};

/// Lines logged meanwhile.
const LINES: u64 = 10_000;

/// One line a millisecond, and all are ticks.
const PERIOD: u64 = 1_000_000;

/// Pending lines may take 72 kB; the rest is the allocator's.
const GROWN: u64 = 512;

/// Ten thousand lines: each is finally logged or counted as dropped. Only the state file, not the
/// log, shows meanwhile that no tick is late.
pub(crate) fn of_the_log(claims: &mut Claims) {
    let directory = Scratch::new();
    let state = directory.join("state");
    let state = state.to_str().expect("text");
    let options = ["--timer-delay-ms", "1", "--state-file", state];
    let scene = Scene::open(Setup { options: &options, period: PERIOD, ..SETUP });
    scene.wait_for_witnesses(20);
    let before = scene.vitals.memory();
    let latest = |limit: u64| {
        let mut latest = 0;
        let first = next(state).expect("a record");
        let mut last = first;
        let start = now();
        while last.0 < first.0 + limit {
            let asked = now();
            assert!(
                asked - start < u64::try_from(LIMIT.as_nanos()).expect("some seconds"),
                "still waiting: {limit} ticks"
            );
            let Some((number, due)) = next(state) else { continue };
            last = (number, due);
            latest = asked.saturating_sub(due).max(latest);
            thread::sleep(Duration::from_micros(500));
        }
        Duration::from_nanos(latest)
    };
    scene.log.stop();
    let stopped = now();
    let late = latest(LINES);
    let lasted = Duration::from_nanos(now() - stopped);
    claims.at_least(
        "the log stands still",
        u64::try_from(lasted.as_millis()).expect("small"),
        9000,
        "ms",
    );
    claims.within("a tick after its deadline meanwhile", late, BOUNDS.tick + scene.slack());
    let grown = scene.vitals.memory() - before;
    claims.at_most("memory grown meanwhile", grown, GROWN, "kB");
    let dropped: u64 = status(&scene.daemon.socket, "log_lines_dropped").parse().expect("a number");
    claims.at_least("lines dropped and counted", dropped, LINES / 2, "");
    scene.log.go_on();

    let seen = scene.close();
    let ticks = log::ticks(&seen.entries);
    let (first, last) = (ticks.first().expect("ticks"), ticks.last().expect("ticks"));
    let missing = last.number - first.number + 1 - ticks.len() as u64;
    let reported = reported(&seen.entries);
    claims.at_most("ticks missing that nobody tells of", missing.saturating_sub(reported), 0, "");
    claims.at_most("lines told of that are there", reported.saturating_sub(missing), 0, "");
    // Few reports: one for each time that the log is read again.
    seen.claim_all_but_ticks(claims, Bounds { lines: 10, ..BOUNDS });
}

/// The number and the deadline of the next tick, from the state file.
fn next(path: &str) -> Option<(u64, u64)> {
    let boot = std::fs::read("/proc/sys/kernel/random/boot_id").expect("Linux");
    let boot = BootId::parse(boot.trim_ascii_end()).expect("a boot id");
    let (bytes, now) = (std::fs::read(path).ok()?, Monotonic::from_nanos(now()));
    let record = Record::<Counter>::decode(&bytes, &boot, now).ok()?;
    let snapshot = record.snapshot;
    Some((snapshot.state.next, snapshot.deadline.as_nanos()))
}

/// Number of lines that the log reports as dropped.
fn reported(entries: &[Entry]) -> u64 {
    let counts = entries.iter().filter_map(|entry| {
        entry["MESSAGE"].split_once(" log lines dropped")?.0.parse::<u64>().ok()
    });
    counts.sum()
}

/// Clients that set the counter cause as many lines as there are ticks. No tick's line is lost
/// because of theirs.
pub(crate) fn with_lines_of_clients(claims: &mut Claims) {
    let options = ["--timer-delay-ms", "20"];
    let setup = Setup { options: &options, period: 20_000_000, is_set: true, ..SETUP };
    let scene = Scene::open(setup);
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut client = Client::connect(&scene.daemon.socket);
            while !is_over.load(Ordering::Relaxed) {
                client.ask("set_counter 1000");
                thread::sleep(Duration::from_millis(2));
            }
        });
        scene.log.stop();
        let dropped = || status(&scene.daemon.socket, "log_lines_dropped").parse::<u64>();
        until("lines that are dropped", || dropped().is_ok_and(|dropped| dropped > 50));
        scene.log.go_on();
        is_over.store(true, Ordering::Relaxed);
    });
    // One line a tick for some seconds, and the reports of dropped lines.
    scene.claim(claims, Bounds { lines: 400, ..BOUNDS });
}
