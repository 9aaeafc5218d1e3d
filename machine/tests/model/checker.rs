// SPDX-License-Identifier: Apache-2.0
//! Checker: the interface to stateright.

use stateright::{Model, Property};

use crate::possible::Action;
use crate::properties::ALWAYS;
use crate::world::{Daemon, World};

impl Model for Daemon {
    type State = World;
    type Action = Action;

    fn init_states(&self) -> Vec<World> {
        vec![World::new(self.bounds)]
    }

    fn actions(&self, world: &World, actions: &mut Vec<Action>) {
        world.actions(self, actions);
    }

    fn next_state(&self, world: &World, action: Action) -> Option<World> {
        let mut next = *world;
        next.take(action, self);
        Some(if self.bounds.successors == 2 { next.representative() } else { next })
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let always = ALWAYS.map(|(name, holds)| Property::always(name, holds));
        let sometimes = [
            Property::sometimes(
                "the client has all its answers",
                |daemon: &Self, world: &World| world.client.answered == daemon.bounds.requests,
            ),
            Property::sometimes("every tick has come", |daemon: &Self, world: &World| {
                world.ticked == daemon.bounds.ticks
            }),
        ];
        always.into_iter().chain(sometimes).collect()
    }
}
