// SPDX-License-Identifier: Apache-2.0
//! Arrows: kills or stops either process at each arrow of the exchange.

use std::time::Duration;

use crate::crowd::{assert_sound, make_all, show};
use crate::service::{COUNTER, METER, Service};
use crate::trial::{Fault, Plan, Side, When};
use crate::{number_from, seed};
use early_service_trial::proxy::{Arrow, Moment};
use testkit::random::Random;

/// Tries for each arrow, side and fault, half of them before the arrow; `FAULTS_TRIES` in the
/// environment sets another number.
const TRIES: u64 = 20;

/// The same for the meter, which differs only in its words; `FAULTS_TRIES_METER` sets another
/// number.
const TRIES_METER: u64 = 4;

/// Longer than the time limit of an offer, so the predecessor withdraws it meanwhile.
const LONG: std::ops::Range<Duration> = Duration::from_millis(1100)..Duration::from_millis(1400);
const SHORT: std::ops::Range<Duration> = Duration::from_millis(5)..Duration::from_millis(300);

/// Time in which the receiver of an arrow sends the next one.
const REACTION: Duration = Duration::from_micros(1000);

/// Chooses the fault of a process.
type Chooses = fn(&mut Random) -> Fault;

/// The process that is hit, and its fault.
pub(crate) const KINDS: [(Side, Chooses); 6] = [
    (Side::Predecessor, |_| Fault::Kill),
    (Side::Predecessor, |random| Fault::Stop(while_stopped(random))),
    (Side::Predecessor, |random| Fault::Hang(while_stopped(random))),
    (Side::Successor, |_| Fault::Kill),
    (Side::Successor, |random| Fault::Stop(while_stopped(random))),
    (Side::Successor, |random| Fault::Hang(while_stopped(random))),
];

/// How long a process is stopped: long in one of five cases.
fn while_stopped(random: &mut Random) -> Duration {
    let range = if random.one_in(5) { LONG } else { SHORT };
    random.duration(range)
}

#[test]
fn a_fault_at_any_arrow_breaks_no_promise() {
    at_each_arrow(&COUNTER, number_from("FAULTS_TRIES", TRIES));
}

#[test]
fn a_fault_at_any_arrow_breaks_no_promise_of_another_service() {
    at_each_arrow(&METER, number_from("FAULTS_TRIES_METER", TRIES_METER));
}

fn at_each_arrow(service: &'static Service, tries: u64) {
    let seed = seed();
    let mut random = Random::new(seed);
    let (mut plans, mut names) = (Vec::new(), Vec::new());
    for arrow in Arrow::ALL {
        for (side, fault) in KINDS {
            for number in 0..tries {
                let (moment, delay) = match number % 2 {
                    0 => (Moment::Before, Duration::ZERO),
                    _ => (Moment::After, random.duration(Duration::ZERO..REACTION)),
                };
                let fault = fault(&mut random);
                let when = When::Arrow(arrow, moment, delay);
                let (sets, seed) = (number % 4 < 2, random.draw());
                plans.push(Plan { side, fault, when, sets, seed, service });
                names.push(format!("{arrow:12}  {side:11}  {fault:7}"));
            }
        }
    }
    let results = make_all(&plans);
    let key = service.words.key;
    show(&format!("at each arrow, {key} (FAULTS_SEED={seed})"), &names, &results);
    assert_sound(&plans, &results);
}
