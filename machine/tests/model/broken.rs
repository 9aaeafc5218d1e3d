// SPDX-License-Identifier: Apache-2.0
//! Broken machines: what the model must find, or it shows nothing where it finds nothing.
//!
//! Each takes one rule away that the design stands on, by changing what `Lifecycle::step` is told
//! or what it answers, or by an actor that does not keep to its order.
//! Each is caught by the property that the rule is there for.

use std::collections::BTreeSet;

use early_service_machine::lifecycle::{Event, Lifecycle, Phase, Predecessor, Successor};
use stateright::{Checker, HasDiscoveries, Model};

use crate::atlas::{Atlas, Step, true_step};
use crate::order::Order;
use crate::reachability;
use crate::world::{Bounds, Daemon, Rules};

/// The shortest way into the trap is short.
const BOUNDS: Bounds = Bounds {
    ticks: 1,
    faults: 1,
    successors: 1,
    requests: 1,
    lockable: true,
    takeover: false,
    journal: false,
};

const TWO_SUCCESSORS: Bounds = Bounds { successors: 2, ..BOUNDS };
const WITHOUT_A_FILE: Bounds = Bounds { lockable: false, ..TWO_SUCCESSORS };

/// Searches until the property is broken, and shows how.
fn assert_caught(step: Step, rules: Rules, bounds: Bounds, property: &'static str) {
    let daemon = Daemon { atlas: Atlas::of(step), rules, bounds };
    let caught = HasDiscoveries::AnyOf(BTreeSet::from([property]));
    let checker = daemon.checker().finish_when(caught).spawn_bfs().join();
    let states = checker.unique_state_count();
    let path = checker.discovery(property);
    let path = path.unwrap_or_else(|| panic!("not caught in {states} states: {property}"));
    let actions = path.into_actions();
    println!("'{property}' fails after {states} states: {actions:?}");
}

/// Searches all worlds, and shows one from which nothing leads to an owner.
fn assert_stuck(step: Step, rules: Rules, bounds: Bounds) {
    let reach = reachability::search(&Daemon { atlas: Atlas::of(step), rules, bounds });
    let worlds = reach.worlds;
    let (actions, _) = reach.stuck.unwrap_or_else(|| panic!("not caught in {worlds} states"));
    println!("nobody gets out, after {worlds} states: {actions:?}");
}

/// The true machine with other orders in place of some.
fn with_orders(
    lifecycle: Lifecycle,
    event: Event,
    change: fn(Phase, Order) -> Vec<Order>,
) -> (Lifecycle, Vec<Order>) {
    let from = lifecycle.phase();
    let (next, orders) = true_step(lifecycle, event);
    (next, orders.into_iter().flat_map(|order| change(from, order)).collect())
}

/// The true machine where it answers with these orders; there, with others.
fn with_answer(
    lifecycle: Lifecycle,
    event: Event,
    right: &[Order],
    wrong: &[Order],
) -> (Lifecycle, Vec<Order>) {
    let (next, orders) = true_step(lifecycle, event);
    (next, if orders == right { wrong.to_vec() } else { orders })
}

#[test]
fn to_load_the_file_before_the_lock_is_held_repeats_ticks() {
    let step: Step = |lifecycle, event| {
        with_orders(lifecycle, event, |from, order| match (from, order) {
            (_, Order::Lock) => vec![Order::Peek, Order::Lock],
            (Phase::Booting | Phase::Adopting, Order::Load) => vec![Order::Run],
            _ => vec![order],
        })
    };
    assert_caught(step, Rules::KEPT, BOUNDS, "no tick comes twice");
}

#[test]
fn to_tick_after_the_snapshot_makes_two_owners() {
    let step: Step = |lifecycle, event| {
        with_orders(lifecycle, event, |_, order| {
            vec![if order == Order::Freeze { Order::FreezeClients } else { order }]
        })
    };
    assert_caught(step, Rules::KEPT, BOUNDS, "one at the most may tick or answer");
}

#[test]
fn to_abort_after_the_commit_makes_two_owners() {
    let step: Step = |lifecycle, event| match (lifecycle, event) {
        (Lifecycle::Committed(draining), Event::Successor(Successor::TimedOut)) => {
            (draining.serve().into(), vec![Order::Abort, Order::Load, Order::Listen])
        }
        (lifecycle, event) => true_step(lifecycle, event),
    };
    assert_caught(step, Rules::KEPT, BOUNDS, "one at the most may tick or answer");
}

#[test]
fn to_serve_clients_before_done_is_said_loses_what_they_wrote() {
    let step: Step = |lifecycle, event| {
        let right = [Order::Load, Order::ReportServing, Order::Listen];
        with_answer(lifecycle, event, &right, &[Order::Load, Order::Listen, Order::ReportServing])
    };
    assert_caught(step, Rules::KEPT, BOUNDS, "what was read from a client is answered");
}

#[test]
fn to_serve_clients_before_abort_is_said_loses_what_they_wrote() {
    let step: Step = |lifecycle, event| {
        let right = [Order::Abort, Order::Load, Order::Listen];
        with_answer(lifecycle, event, &right, &[Order::Load, Order::Listen, Order::Abort])
    };
    assert_caught(step, Rules::KEPT, BOUNDS, "what was read from a client is answered");
}

#[test]
fn to_close_an_offer_without_a_word_makes_two_owners() {
    let step: Step = |lifecycle, event| {
        with_orders(lifecycle, event, |from, order| match (from, order) {
            (Phase::Draining, Order::Abort) => vec![Order::Hush],
            _ => vec![order],
        })
    };
    assert_caught(step, Rules::KEPT, BOUNDS, "one at the most may tick or answer");
}

#[test]
fn to_own_at_an_abort_makes_two_owners() {
    let step: Step = |lifecycle, event| match (lifecycle.phase(), event) {
        (Phase::Adopting, Event::Predecessor(Predecessor::Refused)) => {
            true_step(lifecycle, Event::Predecessor(Predecessor::Gone))
        }
        _ => true_step(lifecycle, event),
    };
    assert_caught(step, Rules::KEPT, BOUNDS, "one at the most may tick or answer");
}

#[test]
fn to_ask_again_when_the_predecessor_died_drops_its_clients() {
    let step: Step = |lifecycle, event| match (lifecycle.phase(), event) {
        (Phase::Adopting, Event::Predecessor(Predecessor::Gone)) => {
            true_step(lifecycle, Event::Predecessor(Predecessor::Refused))
        }
        _ => true_step(lifecycle, event),
    };
    assert_caught(step, Rules::KEPT, BOUNDS, "a client sees the end only where its owner failed");
}

#[test]
fn to_own_when_the_predecessor_died_before_the_state_was_whole_needs_no_lock() {
    let step: Step = |lifecycle, event| match (lifecycle, event) {
        (Lifecycle::AskingWithoutLock(adopting), Event::Predecessor(Predecessor::Gone)) => {
            (adopting.lock().serve().into(), vec![Order::Load, Order::Listen])
        }
        (lifecycle, event) => true_step(lifecycle, event),
    };
    assert_caught(step, Rules::KEPT, TWO_SUCCESSORS, "one at the most may tick or answer");
}

#[test]
fn to_leave_at_the_commit_drops_the_clients_of_a_successor_that_dies() {
    let step: Step = |lifecycle, event| match (lifecycle, event) {
        (Lifecycle::Offered(draining), Event::Successor(Successor::Prepared)) => {
            (draining.end().into(), vec![Order::Commit, Order::Leave])
        }
        (lifecycle, event) => true_step(lifecycle, event),
    };
    assert_caught(step, Rules::KEPT, BOUNDS, "a client sees the end only where its owner failed");
}

#[test]
fn to_leave_when_the_successor_died_drops_its_clients() {
    let step: Step = |lifecycle, event| match (lifecycle, event) {
        (Lifecycle::Offered(draining), Event::Successor(Successor::Gone)) => {
            (draining.end().into(), vec![Order::Leave])
        }
        (Lifecycle::Committed(draining), Event::Successor(Successor::Gone)) => {
            (draining.end().into(), vec![Order::Leave])
        }
        (lifecycle, event) => true_step(lifecycle, event),
    };
    assert_caught(step, Rules::KEPT, BOUNDS, "a client sees the end only where its owner failed");
}

#[test]
fn to_go_back_to_what_is_in_memory_repeats_ticks() {
    let step: Step = |lifecycle, event| {
        with_orders(lifecycle, event, |from, order| match (from, order) {
            (Phase::Draining, Order::Load) => vec![Order::Resume],
            _ => vec![order],
        })
    };
    assert_caught(step, Rules::KEPT, BOUNDS, "no tick comes twice");
}

#[test]
fn to_keep_the_lock_of_an_offer_that_is_off_leaves_nobody_who_can_own() {
    let step: Step = |lifecycle, event| {
        with_answer(lifecycle, event, &[Order::Discard, Order::Ask], &[Order::Ask])
    };
    assert_stuck(step, Rules::KEPT, BOUNDS);
}

#[test]
fn to_unlock_and_lock_again_lets_a_third_win_the_gap() {
    let step: Step = |lifecycle, event| {
        with_orders(lifecycle, event, |from, order| match (from, order) {
            (_, Order::Commit) => vec![Order::Unlock, Order::Commit],
            (Phase::Adopting | Phase::Draining, Order::Load) => vec![Order::Take, Order::Load],
            _ => vec![order],
        })
    };
    let bounds = Bounds { faults: 0, ..TWO_SUCCESSORS };
    let rules = Rules { passes_lock: false, needs_lock: false, ..Rules::KEPT };
    assert_stuck(step, rules, bounds);
}

#[test]
fn to_lend_no_lock_with_the_state_makes_two_owners() {
    let rules = Rules { passes_lock: false, needs_lock: false, ..Rules::KEPT };
    assert_caught(true_step, rules, TWO_SUCCESSORS, "one at the most may tick or answer");
}

#[test]
fn to_see_the_end_before_what_was_said_makes_two_owners() {
    let rules = Rules { reads_out: false, ..Rules::KEPT };
    assert_caught(true_step, rules, BOUNDS, "one at the most may tick or answer");
}

#[test]
fn to_tick_before_it_is_written_repeats_ticks() {
    let rules = Rules { writes_first: false, ..Rules::KEPT };
    assert_caught(true_step, rules, BOUNDS, "no tick comes twice");
}

#[test]
fn to_answer_before_it_is_written_loses_a_command() {
    let rules = Rules { writes_first: false, ..Rules::KEPT };
    assert_caught(true_step, rules, BOUNDS, "a command that was answered is in the state");
}

#[test]
fn to_adopt_from_one_without_a_lock_while_another_holds_it_makes_two_owners() {
    let rules = Rules { needs_lock: false, ..Rules::KEPT };
    assert_caught(true_step, rules, WITHOUT_A_FILE, "one at the most may tick or answer");
}

#[test]
fn to_own_what_was_received_without_writing_it_starts_anew() {
    let rules = Rules { keeps_received: false, ..Rules::KEPT };
    assert_caught(true_step, rules, WITHOUT_A_FILE, "no tick is missing");
}

#[test]
fn to_wait_for_ever_for_one_who_waits_for_our_lock_leaves_nobody_who_serves() {
    assert_stuck(true_step, Rules { gives_up: false, ..Rules::KEPT }, BOUNDS);
}

#[test]
fn to_serve_on_while_leaving_makes_two_owners() {
    let rules = Rules { leaves_at_once: false, ..Rules::KEPT };
    assert_caught(true_step, rules, BOUNDS, "one at the most may tick or answer");
}
