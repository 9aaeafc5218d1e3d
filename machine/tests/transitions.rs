// SPDX-License-Identifier: Apache-2.0
//! Transitions: compares the documented table of the lifecycle with `Lifecycle::step`.
//!
//! Visits every lifecycle that events can lead to, and gives it every event. The table is a page of
//! the crate's documentation, `src/lifecycle/transitions.md`. For each phase it counts the ignored
//! events, so that a new event fails here until every phase has been checked.

#![allow(
    clippy::arithmetic_side_effects,
    clippy::expect_used,
    reason = "a test fails by panicking"
)]

use std::collections::{BTreeMap, HashSet};
use std::fmt::Debug;

use early_service_machine::lifecycle::{Event, Lifecycle};

const DOCUMENTED: &str = include_str!("../src/lifecycle/transitions.md");

/// The effects and the next phase, by phase and event.
type Table = BTreeMap<(String, String), (String, String)>;

/// `Waiting(Adopting(Waiting))` as `Adopting (waiting)`, `Serving(Serving(()))` as `Serving`.
fn phase_name(lifecycle: &Lifecycle) -> String {
    let text = format!("{lifecycle:?}");
    let mut names = text.split(['(', ')']).filter(|name| !name.is_empty()).skip(1);
    let phase = names.next().expect("the type of the phase");
    let stage: Vec<_> = names.map(str::to_lowercase).collect();
    if stage.is_empty() { phase.to_owned() } else { format!("{phase} ({})", stage.join(", ")) }
}

/// `Predecessor(Gone)` as `Predecessor::Gone`.
fn name(value: impl Debug) -> String {
    format!("{value:?}").replace('(', "::").replace(')', "")
}

fn arrive(events: &[Event]) -> Lifecycle {
    events.iter().fold(Lifecycle::new(), |at, event| at.step(*event).0)
}

fn documented() -> Table {
    let rows = DOCUMENTED.lines().filter_map(|line| line.strip_prefix('|')?.strip_suffix('|'));
    let rows = rows.skip(2).map(|row| {
        let cells: Vec<_> = row.split('|').map(|cell| cell.trim().to_owned()).collect();
        let [from, event, effects, to] = cells.try_into().expect("four columns");
        ((from, event), (effects, to))
    });
    rows.collect()
}

fn actual() -> Table {
    let (mut table, mut found) = (Table::new(), HashSet::from([Lifecycle::new()]));
    let mut open = vec![Vec::new()];
    while let Some(way) = open.pop() {
        let (here, mut ignored) = (arrive(&way), 0);
        let from = phase_name(&here);
        for event in Event::ALL {
            let (next, effects) = arrive(&way).step(event);
            if next == here && effects.is_empty() {
                ignored += 1;
                continue;
            }
            let effects: Vec<_> = effects.iter().map(name).collect();
            let outcome = (effects.join(", "), phase_name(&next));
            table.insert((from.clone(), name(event)), outcome);
            if found.insert(next) {
                open.push(way.iter().copied().chain([event]).collect());
            }
        }
        table.insert((from.clone(), format!("{ignored} others")), (String::new(), from));
    }
    table
}

#[test]
fn every_phase_answers_every_event_as_documented() {
    let (documented, actual) = (documented(), actual());
    let only = |these: &Table, others: &Table| -> Vec<String> {
        let rows = these.iter().filter(|(row, outcome)| others.get(row) != Some(outcome));
        rows.map(|((from, event), (effects, to))| {
            format!("| {from} | {event} | {effects} | {to} |")
        })
        .collect()
    };
    let (stale, missing) = (only(&documented, &actual), only(&actual, &documented));
    assert!(
        stale.is_empty() && missing.is_empty(),
        "only in the table:\n{}\nonly in the code:\n{}",
        stale.join("\n"),
        missing.join("\n")
    );
}
