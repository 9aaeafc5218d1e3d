// SPDX-License-Identifier: Apache-2.0
//! Model of the lifecycle: every interleaving of up to three processes that fail at any step.
//!
//! There is one process from the initrd and one or two from the root filesystem. Each is controlled
//! by the same `Lifecycle::step` as the daemon. Between them are the lock, the state file, the
//! connections of the handoff, and a client. stateright takes every possible step from every world
//! that can be reached. Any process can be killed, stopped or started again at any of them.
//!
//! | module | contents |
//! | --- | --- |
//! | [`world`] | the processes, the kernel and the client at one moment |
//! | [`possible`] | the actions that can follow; those that show nothing new are left out |
//! | [`steps`] | the effect of each action, by the kernel and by the actors order by order |
//! | [`blame`] | when a client may see the end of its connection |
//! | [`properties`] | what is true in every world |
//! | [`reachability`] | whether every world can still reach one owner |
//! | [`checker`] | the interface to stateright |
//! | [`atlas`] | the interface to the lifecycle |
//! | [`order`] | events and effects as a world contains them |
//! | [`broken`] | that each rule is needed |
//!
//! The fuzz target `lifecycle` goes further through the same worlds, but not to all of them.
//!
//! The result depends on [`Bounds`], which each search prints, on actors that follow [`Rules`], and
//! on the absence of collisions among some million hashes of 64 bits. Not modelled are the legacy
//! protocol (`SentLegacyState`, `TookLegacyState`), records that cannot be read, and listeners: the
//! client's listener belongs to PID 1.
//!
//! Of two worlds that differ only in the names of the successors, one is searched. The names in a
//! trace may therefore be exchanged from one step to the next.
//!
//! A wider search takes longer and about 120 bytes of memory for each world. This one has 28
//! million worlds:
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
    reason = "a test fails by panicking and prints its progress"
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

use early_service_machine::lifecycle::{Event, Local, Predecessor, Successor};
use stateright::{Checker, Model};

use atlas::{Atlas, true_step};
use world::{Bounds, Daemon, Rules, true_device};

/// One predecessor, one successor, one tick, one command, one fault.
const NARROW: Bounds = Bounds {
    ticks: 1,
    faults: 1,
    successors: 1,
    requests: 1,
    lockable: true,
    takeover: false,
    journal: false,
    device: false,
    reload: false,
};

/// Searches all worlds twice, for the properties and for dead ends.
///
/// Returns the transitions of the lifecycle that no world took.
fn search(name: &str, bounds: Bounds) -> Vec<String> {
    let daemon =
        || Daemon { atlas: Atlas::of(true_step), device: true_device, rules: Rules::KEPT, bounds };
    let start = Instant::now();
    let checker = daemon().checker().spawn_bfs().join();
    let (states, depth) = (checker.unique_state_count(), checker.max_depth());
    println!("{name}: {bounds:?}");
    println!("{name}: {states} states, {depth} steps deep, in {:.1?}", start.elapsed());
    checker.assert_properties();

    let start = Instant::now();
    let reach = reachability::search(&daemon());
    let (worlds, settled, mailbox) = (reach.worlds, reach.settled, reach.mailbox);
    println!("{name}: each can reach one of {settled} settled states, in {:.1?}", start.elapsed());
    println!("{name}: at most {mailbox} events wait in a mailbox");
    if let Some((actions, world)) = reach.stuck {
        panic!("{name}: no owner can be reached from {world:#?} after {actions:#?}");
    }
    assert_eq!(worlds, states, "both searches reach the same worlds");

    let atlas = &checker.model().atlas;
    let is_legacy = |event| {
        matches!(
            event,
            Event::Predecessor(Predecessor::SentLegacyState)
                | Event::Successor(Successor::TookLegacyState)
        )
    };
    let is_reload = |from: &str, event| {
        let (child, over) = (Local::StartedByOwner, Predecessor::Unreachable);
        from.starts_with("Called") || [child.into(), over.into()].contains(&event)
    };
    let rest = atlas
        .not_taken()
        .filter(|(from, event)| !is_legacy(*event) && (bounds.reload || !is_reload(from, *event)));
    rest.map(|(from, event)| format!("{from} {event:?}")).collect()
}

#[test]
fn two_successors_and_a_fault_break_no_promise() {
    let rest = search("two successors", Bounds { successors: 2, ..NARROW });
    // Only a predecessor that could not open the file offers without the lock.
    let is_lockless =
        |row: &String| row.contains("Prepared(Ours)") || row.ends_with("Predecessor(SentState)");
    assert!(rest.iter().all(is_lockless), "transitions that were never taken: {rest:?}");
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
    assert!(!rest.iter().any(|row| is_ours(&row)), "transitions that were never taken: {rest:?}");
}

#[test]
fn late_log_lines_come_once_unless_a_process_dies() {
    search("journal", Bounds { ticks: 3, requests: 0, journal: true, ..NARROW });
}

#[test]
fn a_device_is_used_by_the_owner_alone_and_never_lost() {
    let device = Bounds { device: true, requests: 0, ..NARROW };
    search("device", device);
    search("device, two faults", Bounds { ticks: 0, faults: 2, ..device });
    search("device, two successors", Bounds { ticks: 0, successors: 2, ..device });
    search("device, one socket", Bounds { ticks: 0, takeover: true, ..device });
}

#[test]
fn a_successor_that_the_owner_starts_breaks_no_promise() {
    let reload = Bounds { reload: true, ..NARROW };
    let rest = search("reload", Bounds { ticks: 2, ..reload });
    let is_reload = |row: &&String| row.starts_with("Called") || row.contains("Unreachable");
    assert!(!rest.iter().any(|row| is_reload(&row)), "transitions that were never taken: {rest:?}");
    search("reload, two faults", Bounds { faults: 2, ..reload });
    search("reload, no file", Bounds { lockable: false, ..reload });
    let device = Bounds { device: true, requests: 0, ..reload };
    search("reload, device", device);
    search("reload, device, two faults", Bounds { ticks: 0, faults: 2, ..device });
}

#[test]
#[ignore = "takes as long as $MODEL requires"]
fn a_search_with_the_bounds_in_model_breaks_no_promise() {
    let asked = std::env::var("MODEL").expect("MODEL is set, for example to 'faults=3 takeover=1'");
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
            "device" => bounds.device = number != 0,
            "reload" => bounds.reload = number != 0,
            _ => panic!("there is no bound {name}"),
        }
    }
    search("MODEL", bounds);
}
