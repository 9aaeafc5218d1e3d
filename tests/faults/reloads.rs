// SPDX-License-Identifier: Apache-2.0
//! Reloads: many in a row under load, and stops and starts of the same daemon to compare.
//!
//! `cargo test --release --test faults -- --ignored --nocapture` measures the release build.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::thread;

use crate::relay::{Relay, TURN, clients, exchanges, holes, summary};
use crate::{number_from, seed};
use testkit::judge::{Evidence, judge};
use testkit::load::{COUNTER, Load};
use testkit::{orphan, until};

/// Changes the owner under load, so many times; returns the evidence, and the times of the changes.
fn change(
    times: u64,
    may_end: bool,
    mut once: impl FnMut(&mut Relay) -> Option<(u64, u64)>,
) -> (Evidence, Vec<(u64, u64)>) {
    let mut relay = Relay::start();
    let (rhythm, ranges) = (relay.rhythm(), Arc::new(AtomicU64::new(1)));
    let (public, before) = (relay.scratch.join("public"), left(&relay));
    let load = Load::start(&public, &clients(), Some(&ranges), seed(), &COUNTER);
    load.wait_for_answers(1);
    let mut during = Vec::new();
    for _ in 0..times {
        thread::sleep(TURN);
        during.extend(once(&mut relay));
    }
    load.wait_for_answers(1);
    let told = load.stop();
    if !may_end {
        // The connection of the start may be among the first.
        until("no file and no descriptor is left over", || {
            let (files, descriptors) = left(&relay);
            files == before.0 && descriptors <= before.1
        });
    }
    let evidence = relay.end(rhythm, told, may_end);
    let during = if during.is_empty() { exchanges(&evidence.lines) } else { during };
    (evidence, during)
}

/// The files in the directory of the sockets and the state, and the descriptors of the owner.
fn left(relay: &Relay) -> (Vec<String>, usize) {
    let names = |path: &Path| {
        let entries = fs::read_dir(path).expect("a directory").filter_map(Result::ok);
        let mut names: Vec<_> =
            entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    };
    let descriptors = format!("/proc/{}/fd", relay.owner.victim.pid());
    (names(&relay.scratch.join("")), names(Path::new(&descriptors)).len())
}

/// Makes so many reloads and a tenth as many restarts; shows figures with `--nocapture`. Returns the
/// median of the longest holes in replies at each.
#[allow(clippy::print_stdout, reason = "the figures are for people to read")]
fn run(reloads: u64) -> [u64; 2] {
    orphan::adopt_all();
    let (reloaded, at_reloads) = change(reloads, false, |relay| {
        relay.reload();
        None
    });
    let (restarted, at_restarts) =
        change((reloads / 10).max(10), true, |relay| Some(relay.restart()));
    assert_eq!(at_reloads.len() as u64, reloads, "each reload is one exchange");
    let both = [("reload", &reloaded, &at_reloads), ("restart", &restarted, &at_restarts)];
    both.map(|(what, evidence, during)| {
        let told = &evidence.told;
        println!(
            "{}s: {}, {} replies: {} refused, {} wrong, {} missing, {} connections ended",
            what,
            during.len(),
            told.answers.len(),
            told.refused,
            told.wrong.len(),
            told.unanswered.len(),
            told.ended,
        );
        match judge(evidence) {
            Ok(loss) => println!(
                "{} ticks, {} missing from the log, none twice; the rhythm has not shifted",
                loss.ticks, loss.lines
            ),
            Err(wrong) => panic!("{} are wrong: {:#?}", wrong.len(), &wrong[..wrong.len().min(10)]),
        }
        let mut holes = holes(told, during);
        println!("longest hole in replies at a {what}: {}", summary(holes.clone()));
        holes.sort_unstable();
        holes[holes.len() / 2]
    })
}

#[test]
fn many_reloads_in_a_row_lose_nothing() {
    let _ = run(number_from("FAULTS_HANDOFFS", 50));
}

#[test]
#[ignore = "a measurement, of the release build: it takes a minute and the machine for itself"]
fn a_thousand_reloads_in_a_row_lose_nothing() {
    let [reload, restart] = run(number_from("FAULTS_HANDOFFS", 1000));
    assert!(reload < restart, "nobody answers for {reload} ns at a reload, {restart} at a restart");
}
