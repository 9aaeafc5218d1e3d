// SPDX-License-Identifier: Apache-2.0
//! Instants: kills or stops either process at a random time.
//!
//! Three in ten tries use any time from before the successor's start until after it serves, without
//! a proxy. The exchange itself takes a millisecond, so the other tries use the time after its
//! first arrow.

use std::time::Duration;

use crate::arrows::KINDS;
use crate::crowd::{assert_sound, make_all, show};
use crate::service::COUNTER;
use crate::trial::{Plan, Side, When};
use crate::{number_from, seed};
use testkit::random::Random;

/// Number of tries; `FAULTS_INSTANTS` in the environment sets another number.
const TRIES: u64 = 1000;

/// Twice the time in which a successor starts, adopts and serves, on an idle and on a busy machine.
const START: [Duration; 2] = [Duration::from_millis(30), Duration::from_millis(200)];

/// Twice the time of an exchange, on an idle and on a busy machine.
const EXCHANGE: [Duration; 2] = [Duration::from_millis(3), Duration::from_millis(30)];

#[test]
fn a_fault_at_any_instant_breaks_no_promise() {
    let seed = seed();
    let mut random = Random::new(seed);
    let number = usize::try_from(number_from("FAULTS_INSTANTS", TRIES)).expect("not so many");
    let mut tries = Vec::new();
    for (side, fault) in KINDS.into_iter().cycle().take(number) {
        let place = random.number(0..10);
        let limits = usize::from(random.one_in(2));
        let (when, name) = match place {
            0 if side == Side::Predecessor => (When::BeforeStart, "before the start"),
            0..3 => {
                (When::Start(random.duration(Duration::ZERO..START[limits])), "after the start")
            }
            _ => {
                let delay = random.duration(Duration::ZERO..EXCHANGE[limits]);
                (When::Exchange(delay), "after the first arrow")
            }
        };
        let fault = fault(&mut random);
        let (sets, seed) = (random.one_in(2), random.draw());
        let name = format!("{side:11}  {fault:7}  {name:21}");
        tries.push((name, Plan { side, fault, when, sets, seed, service: &COUNTER }));
    }
    tries.sort_by(|(one, _), (other, _)| one.cmp(other));
    let (names, plans): (Vec<_>, Vec<_>) = tries.into_iter().unzip();
    let results = make_all(&plans);
    show(&format!("at random instants (FAULTS_SEED={seed})"), &names, &results);
    assert_sound(&plans, &results);
}
