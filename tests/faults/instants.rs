// SPDX-License-Identifier: Apache-2.0
//! Instants: either side is killed or stopped at a random time.
//!
//! A third at any time from before the successor's start to after it serves, without a proxy; as
//! the exchange itself takes a millisecond, the others in the time after its first arrow.

use std::time::Duration;

use crate::arrows::stop;
use crate::crowd::{assert_sound, make_all, show};
use crate::random::Random;
use crate::trial::{Fault, Plan, Side, When};
use crate::{number_from, seed};

/// In all; `FAULTS_INSTANTS` in the environment is another number.
const TRIES: u64 = 1000;

/// The time in which a successor starts, adopts and serves, and as long again.
const START: Duration = Duration::from_millis(60);

/// The time that the exchange takes, and as long again.
const EXCHANGE: Duration = Duration::from_millis(4);

#[test]
fn whoever_is_killed_or_stopped_at_a_thousand_random_instants_what_was_promised_holds() {
    let seed = seed();
    let mut random = Random::new(seed);
    let (mut plans, mut names) = (Vec::new(), Vec::new());
    for number in 0..number_from("FAULTS_INSTANTS", TRIES) {
        let (side, is_kill) = match number % 4 {
            0 => (Side::Predecessor, true),
            1 => (Side::Predecessor, false),
            2 => (Side::Successor, true),
            _ => (Side::Successor, false),
        };
        let (when, name) = match random.number(0..10) {
            0 if side == Side::Predecessor => (When::BeforeStart, "before the start"),
            0..3 => (When::Start(random.duration(Duration::ZERO..START)), "after the start"),
            _ => (When::Exchange(random.duration(Duration::ZERO..EXCHANGE)), "in the exchange"),
        };
        let fault = if is_kill { Fault::Kill } else { stop(&mut random) };
        let (sets, seed) = (random.one_in(2), random.next());
        plans.push(Plan { side, fault, when, sets, seed });
        names.push(format!("{name:16}  {side:11}  {fault:7}"));
    }
    let results = make_all(&plans);
    show(&format!("at random instants (FAULTS_SEED={seed})"), &names, &results);
    assert_sound(&plans, &results);
}
