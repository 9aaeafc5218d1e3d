// SPDX-License-Identifier: Apache-2.0
//! Arrows: either side is killed or stopped at each arrow of the exchange.

use std::time::Duration;

use crate::crowd::{assert_sound, make_all, show};
use crate::proxy::{Arrow, Moment};
use crate::random::Random;
use crate::trial::{Fault, Plan, Side, When};
use crate::{number_from, seed};

/// For each arrow, side and fault; `FAULTS_TRIES` in the environment is another number.
const TRIES: u64 = 20;

/// Longer than the predecessor's offer lasts: it withdraws it meanwhile.
const LONG: std::ops::Range<Duration> = Duration::from_millis(1100)..Duration::from_millis(1400);
const SHORT: std::ops::Range<Duration> = Duration::from_millis(5)..Duration::from_millis(300);

/// The time in which the receiver of an arrow gets to the next one.
const REACTION: Duration = Duration::from_micros(1000);

/// How long a process stands still: long in one of five.
pub(crate) fn stop(random: &mut Random) -> Fault {
    let range = if random.one_in(5) { LONG } else { SHORT };
    Fault::Stop(random.duration(range))
}

#[test]
fn whoever_is_killed_or_stopped_at_whatever_arrow_what_was_promised_holds() {
    let seed = seed();
    let mut random = Random::new(seed);
    let (mut plans, mut names) = (Vec::new(), Vec::new());
    for arrow in Arrow::ALL {
        for side in [Side::Predecessor, Side::Successor] {
            for is_kill in [true, false] {
                for number in 0..number_from("FAULTS_TRIES", TRIES) {
                    let (moment, delay) = if number % 2 == 0 {
                        (Moment::Before, Duration::ZERO)
                    } else {
                        (Moment::After, random.duration(Duration::ZERO..REACTION))
                    };
                    let when = When::Arrow(arrow, moment, delay);
                    let fault = if is_kill { Fault::Kill } else { stop(&mut random) };
                    let (sets, seed) = (number % 4 < 2, random.next());
                    plans.push(Plan { side, fault, when, sets, seed });
                    names.push(format!("{arrow:12}  {side:11}  {fault:7}"));
                }
            }
        }
    }
    let results = make_all(&plans);
    show(&format!("at each arrow (FAULTS_SEED={seed})"), &names, &results);
    assert_sound(&plans, &results);
}
