// SPDX-License-Identifier: Apache-2.0
//! Atlas: the results of `Lifecycle::step`, computed once and then looked up.
//!
//! A lifecycle can be neither copied nor constructed, but a world of the model is copied at every
//! step. Every lifecycle that can be reached is therefore visited once, by the events that lead to
//! it, and a world contains its number. A lookup returns what the same call returns to the
//! supervisor.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};

use early_service_machine::lifecycle::{Event, Lifecycle, Phase};

use crate::order::{Fact, Order, Orders};

/// A step function: the real one, or one that is broken on purpose.
pub(crate) type Step = fn(Lifecycle, Event) -> (Lifecycle, Vec<Order>);

/// The step function that the supervisor calls.
pub(crate) fn true_step(lifecycle: Lifecycle, event: Event) -> (Lifecycle, Vec<Order>) {
    let (next, effects) = lifecycle.step(event);
    (next, effects.iter().copied().map(Order::from).collect())
}

/// The number of a lifecycle in the atlas.
pub(crate) type Place = u8;

/// Every lifecycle that can be reached, and what each event leads to.
pub(crate) struct Atlas {
    places: Vec<Entry>,
}

struct Entry {
    name: String,
    phase: Phase,
    roads: [(Orders, Place); Event::ALL.len()],
    /// The events that a search has taken here, one bit each.
    taken: AtomicU32,
}

impl Atlas {
    /// The lifecycle of a process that begins.
    pub(crate) const BEGIN: Place = 0;

    pub(crate) fn of(step: Step) -> Self {
        let mut numbers = HashMap::from([(Lifecycle::new(), Self::BEGIN)]);
        let mut ways = vec![Vec::new()];
        let mut places = Vec::new();
        while let Some(way) = ways.get(places.len()).cloned() {
            let arrive = || way.iter().fold(Lifecycle::new(), |at, event| step(at, *event).0);
            let here = arrive();
            let roads = Event::ALL.map(|event| {
                let (next, orders) = step(arrive(), event);
                let number = numbers.len() as Place;
                let place = *numbers.entry(next).or_insert_with(|| {
                    ways.push(way.iter().copied().chain([event]).collect());
                    number
                });
                (orders.into_iter().collect(), place)
            });
            let (name, phase, taken) = (format!("{here:?}"), here.phase(), AtomicU32::new(0));
            places.push(Entry { name, phase, roads, taken });
        }
        Self { places }
    }

    pub(crate) fn take(&self, place: Place, fact: Fact) -> (Orders, Place) {
        let entry = &self.places[usize::from(place)];
        entry.taken.fetch_or(1 << fact.place(), Ordering::Relaxed);
        entry.roads[fact.place()]
    }

    pub(crate) fn phase(&self, place: Place) -> Phase {
        self.places[usize::from(place)].phase
    }

    /// The transitions that no search has taken: phase and event.
    pub(crate) fn not_taken(&self) -> impl Iterator<Item = (&str, Event)> {
        self.places.iter().zip(0..).flat_map(|(entry, place)| {
            let taken = entry.taken.load(Ordering::Relaxed);
            (0..).zip(entry.roads).filter_map(move |(number, (orders, to))| {
                let is_row = to != place || !orders.is_empty();
                let not_taken = taken & (1 << number) == 0;
                (is_row && not_taken).then(|| (entry.name.as_str(), Event::ALL[number]))
            })
        })
    }
}
