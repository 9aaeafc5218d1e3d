// SPDX-License-Identifier: Apache-2.0
//! Reachability: every world can reach one owner without another fault.
//!
//! stateright's `eventually` checks the ends of paths but no cycles, and a repeated request is a
//! cycle. This search builds the whole graph and walks it backwards from the settled worlds. A
//! world that is not visited is a dead end or part of a cycle without an exit.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::{BuildHasherDefault, DefaultHasher, Hash, Hasher};

use stateright::Model;

use crate::possible::Action;
use crate::properties::is_settled;
use crate::world::{Daemon, World};

/// The result of a search.
pub(crate) struct Reach {
    pub(crate) worlds: usize,
    pub(crate) settled: usize,
    /// The maximum number of events that wait for one supervisor.
    pub(crate) mailbox: usize,
    /// The nearest world that cannot reach an owner, and the actions that lead to it.
    pub(crate) stuck: Option<(Vec<Action>, World)>,
}

/// The number of a world, in the order of discovery.
type Number = u32;

/// A hasher for keys that are hashes already.
#[derive(Default)]
struct Plain(u64);

impl Hasher for Plain {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, _: &[u8]) {
        unreachable!("keys are numbers");
    }

    fn write_u64(&mut self, key: u64) {
        self.0 = key;
    }
}

fn key(world: &World) -> u64 {
    let mut hasher = DefaultHasher::new();
    world.hash(&mut hasher);
    hasher.finish()
}

/// Searches all worlds of the daemon.
///
/// Worlds are identified by 64 bits of their hash, as in stateright.
pub(crate) fn search(daemon: &Daemon) -> Reach {
    let begin = World::new(daemon.bounds);
    let mut numbers: HashMap<u64, Number, BuildHasherDefault<Plain>> = HashMap::default();
    numbers.insert(key(&begin), 0);
    // For each world, the world from which it was found, and the number of the action.
    let mut found_by: Vec<(Number, u8)> = vec![(0, 0)];
    let mut settled = Vec::new();
    // The edges of progress, by their source.
    let (mut edges, mut first_edge) = (Vec::new(), vec![0]);
    let (mut level, mut next_level, mut actions) = (vec![begin], Vec::new(), Vec::new());
    let mut mailbox = 0;
    while !level.is_empty() {
        for world in level.drain(..) {
            let number = (first_edge.len() - 1) as Number;
            settled.push(is_settled(daemon, &world));
            let waiting = world.processes.iter().map(|process| process.mailbox.len());
            mailbox = waiting.fold(mailbox, usize::max);
            daemon.actions(&world, &mut actions);
            for (place, action) in (0..).zip(actions.drain(..)) {
                let Some(next) = daemon.next_state(&world, action) else { continue };
                let fresh = found_by.len() as Number;
                let found = match numbers.entry(key(&next)) {
                    Entry::Occupied(entry) => *entry.get(),
                    Entry::Vacant(entry) => {
                        entry.insert(fresh);
                        found_by.push((number, place));
                        next_level.push(next);
                        fresh
                    }
                };
                if action.is_progress() {
                    edges.push(found);
                }
            }
            first_edge.push(edges.len());
        }
        std::mem::swap(&mut level, &mut next_level);
    }
    drop(numbers);
    let goals = settled.iter().filter(|is_settled| **is_settled).count();
    let stuck = first_stuck(settled, &edges, &first_edge);
    let stuck = stuck.map(|number| retrace(daemon, &found_by, number));
    Reach { worlds: found_by.len(), settled: goals, mailbox, stuck }
}

/// Walks back from the settled worlds; returns the first world that is not visited.
fn first_stuck(mut met: Vec<bool>, edges: &[Number], first_edge: &[usize]) -> Option<usize> {
    // The same edges, by their target.
    let mut first_back = vec![0_usize; met.len() + 1];
    for to in edges {
        first_back[*to as usize + 1] += 1;
    }
    for at in 1..first_back.len() {
        first_back[at] += first_back[at - 1];
    }
    let (mut free, mut back) = (first_back.clone(), vec![0 as Number; edges.len()]);
    for from in 0..met.len() {
        for to in &edges[first_edge[from]..first_edge[from + 1]] {
            back[free[*to as usize]] = from as Number;
            free[*to as usize] += 1;
        }
    }
    let mut open: Vec<_> = (0..met.len()).filter(|number| met[*number]).collect();
    while let Some(to) = open.pop() {
        for from in &back[first_back[to]..first_back[to + 1]] {
            if !std::mem::replace(&mut met[*from as usize], true) {
                open.push(*from as usize);
            }
        }
    }
    met.iter().position(|met| !met)
}

/// The actions that lead to the world with this number, and the world.
fn retrace(daemon: &Daemon, found_by: &[(Number, u8)], mut number: usize) -> (Vec<Action>, World) {
    let mut way = Vec::new();
    while number != 0 {
        let (parent, action) = found_by[number];
        way.push(usize::from(action));
        number = parent as usize;
    }
    let (mut world, mut taken) = (World::new(daemon.bounds), Vec::new());
    for place in way.into_iter().rev() {
        let mut actions = Vec::new();
        daemon.actions(&world, &mut actions);
        world = daemon.next_state(&world, actions[place]).expect("it was taken before");
        taken.push(actions[place]);
    }
    (taken, world)
}
