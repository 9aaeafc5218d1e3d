// SPDX-License-Identifier: Apache-2.0
//! Model: the machine against itself, in every interleaving, with deaths at every step.
//!
//! One process from the initrd and one or two from the root filesystem, each led by the
//! `Lifecycle::step` that the supervisor calls; between them the lock, the state file, the
//! connections of the handoff, and a client.
//! stateright takes every step that is possible from every world that can be reached; any process
//! may be killed, told to stop or started again at any of them.
//!
//! | module | says |
//! | --- | --- |
//! | [`world`] | what there is |
//! | [`possible`] | what may happen next, and what is left out because it shows nothing new |
//! | [`steps`] | what it does: the kernel, and the actors order by order |
//! | [`blame`] | when a client may see the end of its connection |
//! | [`properties`] | what holds in every world |
//! | [`reachability`] | that from every world there is a way to one owner |
//! | [`checker`] | how stateright is asked |
//! | [`atlas`] | how the machine is asked |
//! | [`order`] | what it is told, and what it answers |
//! | [`broken`] | that each rule is needed |
//!
//! The fuzz target `lifecycle` goes further through the same worlds, but not to all of them.
//!
//! What the search stands on: [`Bounds`] ticks, faults, successors and commands, which it prints;
//! actors that keep to [`Rules`]; no collision among some million hashes of 64 bits.
//! Not modelled are the lines of the older programs (`OlderStateReceived`, `OlderSuccessorServed`),
//! a record that cannot be read, and listeners: the client's is one that PID 1 keeps.
//!
//! Where two successors can be told apart by nothing but their names, one of the two worlds is
//! looked at, so the names in a trace may be exchanged from one step to the next.
//!
//! A wider search takes longer and needs memory, some 120 bytes a world; this one looks at 28
//! million:
//!
//! ```text
//! MODEL='ticks=1 faults=3 successors=2 requests=0' \
//!     cargo test --release -p early-service-machine --test model -- --ignored --nocapture
//! ```

#![allow(
    clippy::arithmetic_side_effects,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test fails by panicking and says how far it went"
)]

mod atlas;
mod blame;
mod broken;
mod checker;
mod list;
mod order;
mod possible;
mod properties;
mod reachability;
mod steps;
mod world;

use std::time::Instant;

use early_service_machine::lifecycle::{Event, Predecessor, Successor};
use stateright::{Checker, Model};

use atlas::{Atlas, true_step};
use world::{Bounds, Daemon, Rules};

/// One predecessor, one successor, one tick, one command, one fault.
const NARROW: Bounds = Bounds {
    ticks: 1,
    faults: 1,
    successors: 1,
    requests: 1,
    lockable: true,
    takeover: false,
    journal: false,
};

/// Searches all worlds twice, for the properties and for dead ends; what it printed is the result.
///
/// The rows of the lifecycle's table that no world took are returned.
fn search(name: &str, bounds: Bounds) -> Vec<String> {
    let daemon = || Daemon { atlas: Atlas::of(true_step), rules: Rules::KEPT, bounds };
    let start = Instant::now();
    let checker = daemon().checker().spawn_bfs().join();
    let (states, depth) = (checker.unique_state_count(), checker.max_depth());
    println!("{name}: {bounds:?}");
    println!("{name}: {states} states, {depth} steps deep, in {:.1?}", start.elapsed());
    checker.assert_properties();

    let start = Instant::now();
    let reach = reachability::search(&daemon());
    let (worlds, settled, mailbox) = (reach.worlds, reach.settled, reach.mailbox);
    println!(
        "{name}: from each a way to one of {settled} settled ones, in {:.1?}",
        start.elapsed()
    );
    println!("{name}: at the most {mailbox} events wait in a mailbox");
    if let Some((actions, world)) = reach.stuck {
        panic!("{name}: nobody gets out of {world:#?} after {actions:#?}");
    }
    assert_eq!(worlds, states, "both searches see the same worlds");

    let atlas = &checker.model().atlas;
    let is_older = |event| {
        matches!(
            event,
            Event::Predecessor(Predecessor::SentLegacyState)
                | Event::Successor(Successor::TookLegacyState)
        )
    };
    let rest = atlas.not_taken().filter(|(_, event)| !is_older(*event));
    rest.map(|(from, event)| format!("{from} {event:?}")).collect()
}

#[test]
fn two_successors_and_a_fault_break_no_promise() {
    let rest = search("two successors", Bounds { successors: 2, ..NARROW });
    // Only who could not open the file does not hold the lock while it offers.
    let is_lockless =
        |row: &String| row.contains("Prepared(Ours)") || row.ends_with("Predecessor(SentState)");
    assert!(rest.iter().all(is_lockless), "rows that were never taken: {rest:?}");
}

#[test]
fn two_faults_and_two_commands_in_a_row_break_no_promise() {
    search("two faults", Bounds { faults: 2, requests: 2, ..NARROW });
}

#[test]
fn a_successor_of_a_successor_on_one_socket_breaks_no_promise() {
    search("one socket", Bounds { takeover: true, faults: 2, ..NARROW });
}

#[test]
fn a_predecessor_without_a_state_file_hands_over_once() {
    let rest = search("no file", Bounds { lockable: false, ..NARROW });
    let is_ours = |row: &&String| row.contains("Prepared(Ours)");
    assert!(!rest.iter().any(|row| is_ours(&row)), "rows that were never taken: {rest:?}");
}

#[test]
fn lines_that_are_logged_late_come_once_and_are_missing_only_where_a_process_died() {
    search("journal", Bounds { ticks: 3, requests: 0, journal: true, ..NARROW });
}

#[test]
#[ignore = "takes as long as $MODEL asks for"]
fn a_search_as_wide_as_is_asked_for_breaks_no_promise() {
    let asked = std::env::var("MODEL").expect("$MODEL says how wide, as in 'faults=3 takeover=1'");
    let mut bounds = NARROW;
    for word in asked.split_whitespace() {
        let (name, number) = word.split_once('=').expect("name=number");
        let number: u8 = number.parse().expect("a small number");
        match name {
            "ticks" => bounds.ticks = number,
            "faults" => bounds.faults = number,
            "successors" => bounds.successors = usize::from(number),
            "requests" => bounds.requests = number,
            "lockable" => bounds.lockable = number != 0,
            "takeover" => bounds.takeover = number != 0,
            "journal" => bounds.journal = number != 0,
            _ => panic!("there is no bound {name}"),
        }
    }
    search("as asked for", bounds);
}
