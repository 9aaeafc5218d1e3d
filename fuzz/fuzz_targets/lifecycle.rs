// SPDX-License-Identifier: Apache-2.0
//! Lifecycle: any events for one process, and any sequence of actions of two or three processes.
//!
//! The world is that of the model in machine/tests/model. The model searches all of a small world;
//! this target allows larger ones, and each byte selects one of the possible actions. After the
//! last byte nothing fails any more, and a process must come to serve.
//!
//! `cargo +nightly fuzz run -s none lifecycle`
#![no_main]
#![allow(dead_code, reason = "only the model uses broken machines")]

#[path = "lifecycle/atlas.rs"]
mod atlas;
#[path = "../../machine/tests/model/blame.rs"]
mod blame;
#[path = "../../machine/tests/model/list.rs"]
mod list;
#[path = "../../machine/tests/model/order.rs"]
mod order;
#[path = "../../machine/tests/model/possible.rs"]
mod possible;
#[path = "../../machine/tests/model/properties.rs"]
mod properties;
#[path = "../../machine/tests/model/steps.rs"]
mod steps;
#[path = "../../machine/tests/model/world.rs"]
mod world;

use early_service_machine::lifecycle::{
    Effect, Event, Lifecycle, Local, Lock, Phase, Predecessor, Successor,
};
use libfuzzer_sys::fuzz_target;

use atlas::Atlas;
use possible::Action;
use world::{Bounds, Daemon, EVERYBODY, Rules, Who, World};

/// More actions than any world needs to settle without faults.
const PATIENCE: usize = 1000;

fuzz_target!(|bytes: &[u8]| {
    any_events(bytes);
    let Some(([choice, rest], bytes)) = bytes.split_first_chunk() else { return };
    let reload = rest >> 5 & 1 == 1;
    let bounds = Bounds {
        ticks: choice & 7,
        faults: rest & 3,
        successors: 1 + usize::from(choice >> 3 & 1 == 1 && !reload),
        requests: choice >> 4 & 3,
        lockable: choice >> 6 & 1 == 0,
        takeover: choice >> 7 & 1 == 1 && !reload,
        journal: rest >> 3 & 1 == 1,
        device: rest >> 4 & 1 == 1,
        reload,
    };
    let daemon =
        Daemon { atlas: Atlas::default(), device: world::true_device, rules: Rules::KEPT, bounds };
    let (mut world, mut actions) = (World::new(bounds), Vec::new());
    for byte in bytes {
        world.actions(&daemon, &mut actions);
        let Some(place) = usize::from(*byte).checked_rem(actions.len()) else { break };
        take(actions[place], &mut world, &daemon);
        actions.clear();
    }
    for turn in 0..PATIENCE {
        if properties::is_settled(&daemon, &world) && !is_asked(&world, &daemon) {
            return;
        }
        actions.clear();
        world.actions(&daemon, &mut actions);
        actions.retain(|action| action.is_progress());
        assert!(!actions.is_empty(), "no action is possible in {world:#?}");
        // A sequence that selects every action and has no short cycle.
        let place = (turn * 7919 + turn / 13) % actions.len();
        take(actions[place], &mut world, &daemon);
    }
    panic!("no owner is reached from {world:#?}");
});

fn take(action: Action, world: &mut World, daemon: &Daemon) {
    world.take(action, daemon);
    for (name, holds) in properties::ALWAYS {
        assert!(holds(daemon, world), "violated: {name}; {world:#?}");
    }
}

/// Whether a successor waits for the owner's state and can receive it.
fn is_asked(world: &World, daemon: &Daemon) -> bool {
    let Bounds { successors, lockable, takeover, .. } = daemon.bounds;
    let phase = |who| daemon.atlas.phase(world.process(who).place);
    let anybody =
        |is| EVERYBODY.into_iter().find(|who| world.process(*who).is_up() && phase(*who) == is);
    let owner = anybody(Phase::Serving).filter(|owner| takeover || *owner == Who::Predecessor);
    // Two successors that ask for a state without a lock may block each other.
    (lockable || successors == 1) && owner.is_some() && anybody(Phase::Adopting).is_some()
}

/// Checks the promises of one lifecycle for any events.
fn any_events(bytes: &[u8]) {
    let mut machine = Lifecycle::new();
    let (mut locked, mut prepared, mut offered, mut committed) = (false, false, false, false);
    for byte in bytes {
        let event = Event::ALL[usize::from(*byte) % Event::ALL.len()];
        let from = machine.phase();
        let (next, effects) = machine.step(event);
        let (to, orders) = (next.phase(), effects);
        let case = || format!("{from} => {to} on {event:?}: {orders:?}");
        let place = |effect| orders.iter().position(|order| *order == effect);
        let enters = |phase| to == phase && from != phase;
        assert_eq!(place(Effect::Listen).is_some(), enters(Phase::Serving), "{}", case());
        assert_eq!(place(Effect::Load).is_some(), enters(Phase::Serving), "{}", case());
        assert!(place(Effect::Load) <= place(Effect::Listen), "{}", case());
        assert_eq!(orders.last() == Some(&Effect::Leave), enters(Phase::Ended), "{}", case());
        assert_eq!(place(Effect::Freeze).is_some(), enters(Phase::Draining), "{}", case());
        assert!(from != Phase::Ended || orders.is_empty(), "{}", case());
        let owed = match (from, event) {
            (Phase::Ended, _)
            | (_, Event::StopRequested)
            | (Phase::Booting, Event::Local(Local::RootSwitched)) => Phase::Ended,
            (Phase::Adopting, Event::Predecessor(Predecessor::SentLegacyState)) if locked => {
                Phase::Serving
            }
            (Phase::Draining, Event::Successor(Successor::TookLegacyState)) if offered => {
                Phase::Ended
            }
            (Phase::Draining, Event::Successor(Successor::TimedOut)) if offered => Phase::Serving,
            (Phase::Serving, Event::Successor(Successor::Requested)) => Phase::Draining,
            _ => to,
        };
        assert_eq!(to, owed, "{}", case());
        assert!(to as u8 >= from as u8 || from == Phase::Draining, "{}", case());
        // Between the commit and the end of the successor, nothing makes it the owner again.
        let is_end = event == Event::Successor(Successor::Gone);
        assert!(!committed || !enters(Phase::Serving) || is_end, "{}", case());
        prepared = to == Phase::Adopting
            && place(Effect::Ask).is_none()
            && (prepared || place(Effect::ReportPrepared).is_some());
        let locks = from == Phase::Adopting && event == Event::Lock(Lock::AcquiredWithoutState);
        locked = to == Phase::Adopting && !prepared && (locked || locks);
        committed = to == Phase::Draining && (committed || place(Effect::Commit).is_some());
        offered =
            to == Phase::Draining && !committed && (offered || place(Effect::Offer).is_some());
        machine = next;
    }
    let phase = machine.phase();
    assert_eq!(phase.to_string(), format!("{phase:?}").to_lowercase());
}
