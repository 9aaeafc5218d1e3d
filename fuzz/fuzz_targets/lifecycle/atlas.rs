// SPDX-License-Identifier: Apache-2.0
//! Atlas: the machines of one world, in the place of the model's map of all machines.
//!
//! A lifecycle can be neither copied nor forged, so the model looks up what one would answer; here
//! there is only one world, and each of its processes is led by a machine of its own.

use std::cell::RefCell;

use early_service_machine::lifecycle::{Lifecycle, Phase};

use crate::order::{Fact, Order, Orders};

/// The number of a machine.
pub(crate) type Place = usize;

/// Every machine that has left its beginning.
#[derive(Default)]
pub(crate) struct Atlas(RefCell<Vec<Lifecycle>>);

impl Atlas {
    /// Where every process begins.
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
