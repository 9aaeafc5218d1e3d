// SPDX-License-Identifier: Apache-2.0
//! Broken machines: faults that the model must detect.
//!
//! Each machine violates one rule of the design: it changes the events or the results of
//! `Lifecycle::step`, or an actor does not follow an order. The property that needs the rule
//! detects each of them.

use std::collections::BTreeSet;

use early_service_machine::device::{self, Device, Need};
use early_service_machine::lifecycle::{Event, Lifecycle, Lock, Phase, Predecessor, Successor};
use stateright::{Checker, HasDiscoveries, Model};

use crate::atlas::{Atlas, Step, true_step};
use crate::order::Order;
use crate::reachability;
use crate::world::{Bounds, Daemon, DeviceStep, Rules, true_device};

/// Small bounds: the shortest path to each violation is short.
const BOUNDS: Bounds = Bounds {
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

const TWO_SUCCESSORS: Bounds = Bounds { successors: 2, ..BOUNDS };
const WITH_A_DEVICE: Bounds = Bounds { device: true, requests: 0, ..BOUNDS };
const WITHOUT_A_FILE: Bounds = Bounds { lockable: false, ..TWO_SUCCESSORS };

fn assert_caught(step: Step, rules: Rules, bounds: Bounds, property: &'static str) {
    let daemon = Daemon { atlas: Atlas::of(step), device: true_device, rules, bounds };
    assert_violated(daemon, property);
}

fn assert_device_caught(device: DeviceStep, property: &'static str) {
    let (atlas, rules, bounds) = (Atlas::of(true_step), Rules::KEPT, WITH_A_DEVICE);
    assert_violated(Daemon { atlas, device, rules, bounds }, property);
}

/// Searches until the property is violated, and prints how.
fn assert_violated(daemon: Daemon, property: &'static str) {
    let caught = HasDiscoveries::AnyOf(BTreeSet::from([property]));
    let checker = daemon.checker().finish_when(caught).spawn_bfs().join();
    let states = checker.unique_state_count();
    let path = checker.discovery(property);
    let path = path.unwrap_or_else(|| panic!("not detected in {states} states: {property}"));
    let actions = path.into_actions();
    println!("'{property}' fails after {states} states: {actions:?}");
}

fn assert_stuck(step: Step, rules: Rules, bounds: Bounds) {
    let daemon = Daemon { atlas: Atlas::of(step), device: true_device, rules, bounds };
    assert_never_settles(&daemon);
}

/// Searches all worlds, and prints one that cannot reach an owner that uses its device.
fn assert_never_settles(daemon: &Daemon) {
    let reach = reachability::search(daemon);
    let worlds = reach.worlds;
    let (actions, _) = reach.stuck.unwrap_or_else(|| panic!("not detected in {worlds} states"));
    println!("no owner can be reached, after {worlds} states: {actions:?}");
}

/// The real machine with other orders in place of some.
fn with_orders(
    lifecycle: Lifecycle,
    event: Event,
    change: fn(Phase, Order) -> Vec<Order>,
) -> (Lifecycle, Vec<Order>) {
    let from = lifecycle.phase();
    let (next, orders) = true_step(lifecycle, event);
    (next, orders.into_iter().flat_map(|order| change(from, order)).collect())
}

/// The real machine with the orders `wrong` in place of exactly `right`.
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
fn loading_before_locking_repeats_ticks() {
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
fn ticking_after_the_snapshot_makes_two_owners() {
    let step: Step = |lifecycle, event| {
        with_orders(lifecycle, event, |_, order| {
            vec![if order == Order::Freeze { Order::FreezeClients } else { order }]
        })
    };
    assert_caught(step, Rules::KEPT, BOUNDS, "at most one process may tick or answer");
}

#[test]
fn aborting_after_the_commit_makes_two_owners() {
    let step: Step = |lifecycle, event| match (lifecycle, event) {
        (Lifecycle::Committed(draining), Event::Successor(Successor::TimedOut)) => {
            (draining.serve().into(), vec![Order::Abort, Order::Load, Order::Listen])
        }
        (lifecycle, event) => true_step(lifecycle, event),
    };
    assert_caught(step, Rules::KEPT, BOUNDS, "at most one process may tick or answer");
}

#[test]
fn serving_before_reporting_it_loses_commands() {
    let step: Step = |lifecycle, event| {
        let right = [Order::Load, Order::ReportServing, Order::Listen];
        with_answer(lifecycle, event, &right, &[Order::Load, Order::Listen, Order::ReportServing])
    };
    assert_caught(step, Rules::KEPT, BOUNDS, "a command that was read is answered");
}

#[test]
fn serving_before_aborting_loses_commands() {
    let step: Step = |lifecycle, event| {
        let right = [Order::Abort, Order::Load, Order::Listen];
        with_answer(lifecycle, event, &right, &[Order::Load, Order::Listen, Order::Abort])
    };
    assert_caught(step, Rules::KEPT, BOUNDS, "a command that was read is answered");
}

#[test]
fn closing_an_offer_without_a_message_makes_two_owners() {
    let step: Step = |lifecycle, event| {
        with_orders(lifecycle, event, |from, order| match (from, order) {
            (Phase::Draining, Order::Abort) => vec![Order::CloseSilently],
            _ => vec![order],
        })
    };
    assert_caught(step, Rules::KEPT, BOUNDS, "at most one process may tick or answer");
}

#[test]
fn serving_after_an_abort_makes_two_owners() {
    let step: Step = |lifecycle, event| match (lifecycle.phase(), event) {
        (Phase::Adopting, Event::Predecessor(Predecessor::Refused)) => {
            true_step(lifecycle, Event::Predecessor(Predecessor::Gone))
        }
        _ => true_step(lifecycle, event),
    };
    assert_caught(step, Rules::KEPT, BOUNDS, "at most one process may tick or answer");
}

#[test]
fn asking_again_after_the_predecessor_died_drops_clients() {
    let step: Step = |lifecycle, event| match (lifecycle.phase(), event) {
        (Phase::Adopting, Event::Predecessor(Predecessor::Gone)) => {
            true_step(lifecycle, Event::Predecessor(Predecessor::Refused))
        }
        _ => true_step(lifecycle, event),
    };
    assert_caught(step, Rules::KEPT, BOUNDS, "a client is disconnected only if its owner failed");
}

#[test]
fn serving_without_the_whole_state_makes_two_owners() {
    let step: Step = |lifecycle, event| match (lifecycle, event) {
        (Lifecycle::AskingWithoutLock(adopting), Event::Predecessor(Predecessor::Gone)) => {
            (adopting.lock().serve().into(), vec![Order::Load, Order::Listen])
        }
        (lifecycle, event) => true_step(lifecycle, event),
    };
    assert_caught(step, Rules::KEPT, TWO_SUCCESSORS, "at most one process may tick or answer");
}

#[test]
fn leaving_at_the_commit_drops_clients() {
    let step: Step = |lifecycle, event| match (lifecycle, event) {
        (Lifecycle::Offered(draining), Event::Successor(Successor::Prepared)) => {
            (draining.end().into(), vec![Order::Commit, Order::Leave])
        }
        (lifecycle, event) => true_step(lifecycle, event),
    };
    assert_caught(step, Rules::KEPT, BOUNDS, "a client is disconnected only if its owner failed");
}

#[test]
fn leaving_after_the_successor_died_drops_clients() {
    let step: Step = |lifecycle, event| match (lifecycle, event) {
        (Lifecycle::Offered(draining), Event::Successor(Successor::Gone)) => {
            (draining.end().into(), vec![Order::Leave])
        }
        (Lifecycle::Committed(draining), Event::Successor(Successor::Gone)) => {
            (draining.end().into(), vec![Order::Leave])
        }
        (lifecycle, event) => true_step(lifecycle, event),
    };
    assert_caught(step, Rules::KEPT, BOUNDS, "a client is disconnected only if its owner failed");
}

#[test]
fn continuing_from_memory_repeats_ticks() {
    let step: Step = |lifecycle, event| {
        with_orders(lifecycle, event, |from, order| match (from, order) {
            (Phase::Draining, Order::Load) => vec![Order::Resume],
            _ => vec![order],
        })
    };
    assert_caught(step, Rules::KEPT, BOUNDS, "no tick comes twice");
}

#[test]
fn keeping_the_lock_of_a_cancelled_offer_leaves_no_owner() {
    let step: Step = |lifecycle, event| {
        with_answer(lifecycle, event, &[Order::Discard, Order::Ask], &[Order::Ask])
    };
    assert_stuck(step, Rules::KEPT, BOUNDS);
}

#[test]
fn unlocking_and_locking_again_leaves_no_owner() {
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
fn sending_the_state_without_the_lock_makes_two_owners() {
    let rules = Rules { passes_lock: false, needs_lock: false, ..Rules::KEPT };
    assert_caught(true_step, rules, TWO_SUCCESSORS, "at most one process may tick or answer");
}

#[test]
fn dropping_messages_before_the_end_makes_two_owners() {
    let rules = Rules { reads_out: false, ..Rules::KEPT };
    assert_caught(true_step, rules, BOUNDS, "at most one process may tick or answer");
}

#[test]
fn ticking_before_writing_repeats_ticks() {
    let rules = Rules { writes_first: false, ..Rules::KEPT };
    assert_caught(true_step, rules, BOUNDS, "no tick comes twice");
}

#[test]
fn answering_before_writing_loses_a_command() {
    let rules = Rules { writes_first: false, ..Rules::KEPT };
    assert_caught(true_step, rules, BOUNDS, "a command that was answered is in the state");
}

#[test]
fn adopting_without_the_lock_makes_two_owners() {
    let rules = Rules { needs_lock: false, ..Rules::KEPT };
    assert_caught(true_step, rules, WITHOUT_A_FILE, "at most one process may tick or answer");
}

#[test]
fn serving_the_frozen_state_after_a_commit_repeats_ticks() {
    let rules = Rules { reads_again: false, ..Rules::KEPT };
    assert_caught(true_step, rules, BOUNDS, "no tick comes twice");
}

#[test]
fn serving_without_writing_the_received_state_starts_anew() {
    let rules = Rules { keeps_received: false, ..Rules::KEPT };
    assert_caught(true_step, rules, WITHOUT_A_FILE, "no tick is missing");
}

#[test]
fn waiting_forever_with_the_lock_leaves_no_owner() {
    assert_stuck(true_step, Rules { gives_up: false, ..Rules::KEPT }, BOUNDS);
}

#[test]
fn serving_while_leaving_makes_two_owners() {
    let rules = Rules { leaves_at_once: false, ..Rules::KEPT };
    assert_caught(true_step, rules, BOUNDS, "at most one process may tick or answer");
}

#[test]
fn using_the_device_after_freezing_makes_two_users() {
    let device: DeviceStep = |device, event| match (device, event) {
        (Device::Running, device::Event::Frozen) => (device, vec![]),
        _ => true_device(device, event),
    };
    assert_device_caught(device, "at most one process uses the device");
}

#[test]
fn using_the_device_before_the_commit_makes_two_users() {
    let device: DeviceStep = |device, event| match (device, event) {
        (Device::Unowned, device::Event::Received) => (Device::Running, vec![]),
        _ => true_device(device, event),
    };
    assert_device_caught(device, "only the owner uses or opens the device");
}

#[test]
fn opening_the_device_while_another_process_has_it_is_noticed() {
    let device: DeviceStep = |device, event| {
        let is_failure = matches!(event, device::Event::Failed { .. });
        let alone = device::Event::Failed { predecessor_leaves: false };
        true_device(device, if is_failure { alone } else { event })
    };
    assert_device_caught(device, "no process opens the device while another one has it");
}

#[test]
fn opening_the_device_while_frozen_is_noticed() {
    let device: DeviceStep = |device, event| match (device, event) {
        (Device::Opening(_), device::Event::Frozen) => (device, vec![]),
        _ => true_device(device, event),
    };
    assert_device_caught(device, "only the owner uses or opens the device");
}

#[test]
fn closing_the_device_at_the_commit_is_noticed() {
    let device: DeviceStep = |device, event| match (device, event) {
        (Device::Lent, device::Event::Committed) => (Device::Unowned, vec![device::Effect::Close]),
        _ => true_device(device, event),
    };
    assert_device_caught(device, "a predecessor keeps its copy of the device until it leaves");
}

#[test]
fn dropping_a_device_in_use_is_noticed() {
    let device: DeviceStep = |device, event| match (device, event) {
        (Device::Running, device::Event::Frozen) => (
            Device::Unowned,
            vec![device::Effect::Freeze, device::Effect::Close, device::Effect::Unstore],
        ),
        _ => true_device(device, event),
    };
    assert_device_caught(device, "the device is closed only after a failure");
}

#[test]
fn releasing_a_device_that_the_successor_has_is_noticed() {
    let device: DeviceStep = |device, event| match (device, event) {
        (Device::Given, device::Event::Ended { .. }) => {
            (Device::Closed, vec![device::Effect::Release, device::Effect::Unstore])
        }
        _ => true_device(device, event),
    };
    assert_device_caught(device, "a released device is not used");
}

#[test]
fn releasing_a_device_that_the_predecessor_keeps_is_noticed() {
    let device: DeviceStep = |device, event| {
        let is_end = matches!(event, device::Event::Ended { .. });
        let alone = device::Event::Ended { predecessor_leaves: false, is_replaced: false };
        true_device(device, if is_end { alone } else { event })
    };
    assert_device_caught(device, "a released device is not used");
}

#[test]
fn storing_nothing_is_noticed() {
    let device: DeviceStep = |device, event| {
        let (next, mut effects) = true_device(device, event);
        effects.retain(|effect| *effect != device::Effect::Store);
        (next, effects)
    };
    assert_device_caught(device, "PID 1's store has copies of a device in use");
}

#[test]
fn opening_before_the_store_is_emptied_never_succeeds() {
    let device: DeviceStep = |device, event| match (device, event) {
        (Device::Running, device::Event::Failed { predecessor_leaves: false }) => {
            (Device::Opening(Need::Failed(1)), vec![device::Effect::Close, device::Effect::Open])
        }
        _ => true_device(device, event),
    };
    let (atlas, rules, bounds) = (Atlas::of(true_step), Rules::KEPT, WITH_A_DEVICE);
    assert_never_settles(&Daemon { atlas, device, rules, bounds });
}

#[test]
fn keeping_the_stored_device_of_another_owner_leaves_no_user() {
    assert_stuck(true_step, Rules { drops_stored: false, ..Rules::KEPT }, WITH_A_DEVICE);
}

#[test]
fn emptying_the_store_of_the_successor_is_noticed() {
    let device: DeviceStep = |device, event| {
        let alone = device::Event::Ended { predecessor_leaves: false, is_replaced: false };
        let is_end = matches!(event, device::Event::Ended { predecessor_leaves: false, .. });
        true_device(device, if is_end { alone } else { event })
    };
    let bounds = Bounds { reload: true, ..WITH_A_DEVICE };
    let (atlas, rules) = (Atlas::of(true_step), Rules::KEPT);
    let daemon = Daemon { atlas, device, rules, bounds };
    assert_violated(daemon, "PID 1's store has copies of a device in use");
}

#[test]
fn a_successor_that_waits_for_its_only_connection_to_return_is_noticed() {
    let step: Step = |lifecycle, event| {
        let is_over = event == Event::Predecessor(Predecessor::Unreachable);
        if is_over { (lifecycle, vec![]) } else { true_step(lifecycle, event) }
    };
    let bounds = Bounds { reload: true, ..BOUNDS };
    assert_stuck(step, Rules::KEPT, bounds);
}

#[test]
fn serving_because_the_only_connection_ended_is_noticed() {
    // As if no predecessor existed, also without the lock.
    let step: Step = |lifecycle, event| match (lifecycle, event) {
        (Lifecycle::AskingWithoutLock(adopting), Event::Predecessor(Predecessor::Unreachable)) => {
            (adopting.lock().serve().into(), vec![Order::Discard, Order::Load, Order::Listen])
        }
        (lifecycle, event) => true_step(lifecycle, event),
    };
    let bounds = Bounds { reload: true, ..BOUNDS };
    assert_caught(step, Rules::KEPT, bounds, "a process that may tick or answer holds the lock");
}

#[test]
fn a_successor_that_speaks_for_the_owner_is_noticed() {
    let bounds = Bounds { reload: true, ..WITH_A_DEVICE };
    let rules = Rules { speaks_as_main: false, ..Rules::KEPT };
    let property = "PID 1's store has copies of a device in use";
    assert_caught(true_step, rules, bounds, property);
}

#[test]
fn serving_with_the_lock_that_the_owner_lacks_makes_two_owners() {
    let step: Step = |lifecycle, event| match (lifecycle, event) {
        (Lifecycle::Called(called), Event::Lock(Lock::AcquiredWithoutState)) => {
            (called.lock().serve().into(), vec![Order::Load, Order::Listen])
        }
        (lifecycle, event) => true_step(lifecycle, event),
    };
    let bounds = Bounds { reload: true, lockable: false, ..BOUNDS };
    assert_caught(step, Rules::KEPT, bounds, "at most one process may tick or answer");
}
