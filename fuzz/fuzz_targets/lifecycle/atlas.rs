// SPDX-License-Identifier: Apache-2.0
//! Atlas: the lifecycles of one world, in place of the model's table of all lifecycles.
//!
//! The model copies worlds, and therefore looks up the results of `Lifecycle::step`. This target
//! has only one world, and each of its processes has its lifecycle.

use std::cell::RefCell;

use early_service_machine::lifecycle::{Lifecycle, Phase};

use crate::order::{Fact, Order, Orders};

/// The number of a lifecycle.
pub(crate) type Place = usize;

/// Every lifecycle that has left its first phase.
#[derive(Default)]
pub(crate) struct Atlas(RefCell<Vec<Lifecycle>>);

impl Atlas {
    /// The lifecycle of a process that begins.
    pub(crate) const BEGIN: Place = 0;

    pub(crate) fn take(&self, place: Place, fact: Fact) -> (Orders, Place) {
        let mut machines = self.0.borrow_mut();
        let here = place.checked_sub(1).and_then(|at| machines.get_mut(at));
        let machine = here.map(std::mem::take).unwrap_or_default();
        let (next, effects) = machine.step(fact.event());
        let orders = effects.iter().copied().map(Order::from).collect();
        if next == Lifecycle::new() {
            return (orders, Self::BEGIN);
        }
        if place == Self::BEGIN {
            machines.push(next);
            return (orders, machines.len());
        }
        machines[place - 1] = next;
        (orders, place)
    }

    pub(crate) fn phase(&self, place: Place) -> Phase {
        match place.checked_sub(1) {
            None => Phase::Booting,
            Some(at) => self.0.borrow()[at].phase(),
        }
    }
}
