// SPDX-License-Identifier: Apache-2.0
//! Timeline: every course of a few steps of owners that tick, write, die and hand over at a clock.
//!
//! The model of the lifecycle (`machine/tests/model`) knows ticks only by their number; here are the
//! times: what an owner writes at any point is a record that whoever reads it later accepts, and from
//! which it goes on with each tick once and the next one within a period.
//! A reader whose clock is behind, as in another time namespace, either refuses the record by the name
//! of its field or has the next tick within a period as well.
#![allow(
    clippy::arithmetic_side_effects,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use std::collections::HashSet;

use early_service_machine::Counter;
use early_service_machine::record::{BootId, DecodeError, Record, Unlogged};
use early_service_machine::schedule::{Monotonic, Period};
use early_service_machine::timeline::{FieldError, Ticking};

/// The periods that owners are started with, in milliseconds.
const PERIODS: [u32; 3] = [1, 3, 10];

/// How many steps a course has.
const STEPS: usize = 7;

/// An owner, what it has written last, and the clock.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct World {
    /// In milliseconds.
    now: u64,
    owner: Ticking<Counter>,
    /// The period that the owner was started with.
    period: Period,
    /// When it became the owner.
    since: Monotonic,
    /// Ticks that were counted and that no log has.
    unlogged: u64,
}

#[derive(Clone, Copy, Debug)]
enum Step {
    /// The clock goes on.
    Wait(u64),
    /// Up to so many ticks are taken at once; not all that are due, where that takes several turns.
    Take(u64),
    /// The log's writer comes to them.
    Log,
    /// Another owner goes on from the record, with this period.
    Succeed(Period),
    /// The same, of one whose clock is behind by so many milliseconds.
    SucceedBehind(u64),
}

fn period(milliseconds: u32) -> Period {
    Period::from_millis(milliseconds).expect("not zero")
}

fn at(milliseconds: u64) -> Monotonic {
    Monotonic::from_nanos(milliseconds * 1_000_000)
}

fn steps() -> Vec<Step> {
    let mut steps = vec![Step::Log];
    steps.extend([1, 4, 25].map(Step::Wait));
    steps.extend([1, 2, u64::MAX].map(Step::Take));
    steps.extend(PERIODS.map(|milliseconds| Step::Succeed(period(milliseconds))));
    steps.extend([1, 4, 25].map(Step::SucceedBehind));
    steps
}

/// What stands in the file, read back at that time.
fn read(world: &World, now: Monotonic) -> Result<Record<Counter>, DecodeError> {
    let boot = BootId::parse(b"0a1b2c3d-0000-4000-8000-0123456789ab").expect("its form");
    let ticks = world.unlogged;
    let unlogged = Unlogged { ticks, unbroken: ticks };
    let record = Record { sequence: 1, unlogged, snapshot: world.owner.snapshot() };
    Record::decode(&record.encode(&boot), &boot, now)
}

fn take(world: &World, step: Step) -> Option<World> {
    let (mut next, now) = (*world, at(world.now));
    match step {
        Step::Wait(milliseconds) => next.now += milliseconds,
        Step::Take(at_most) => next.unlogged += next.owner.skip(now, at_most),
        Step::Log => next.unlogged = 0,
        Step::Succeed(period) => {
            let record = read(world, now).expect("an owner has written it");
            next.owner = Ticking::resuming(record.snapshot, now, period);
            (next.period, next.since) = (period, now);
        }
        Step::SucceedBehind(milliseconds) => {
            next.now = world.now.checked_sub(milliseconds)?;
            let now = at(next.now);
            match read(world, now) {
                Ok(record) => {
                    next.owner = Ticking::resuming(record.snapshot, now, world.period);
                    next.since = now;
                }
                Err(DecodeError::Field(FieldError::Deadline(ahead, period))) => {
                    assert!(ahead > period.as_nanos(), "{ahead} ns is within {period}");
                    return None;
                }
                Err(ignored) => panic!("{ignored}"),
            }
        }
    }
    Some(next)
}

/// What holds in every world.
fn check(world: &World) {
    let now = at(world.now);
    for later in [0, 1, 1000, u64::MAX / 1_000_000 - world.now] {
        let record = read(world, at(world.now + later));
        assert_eq!(record.map(|record| record.snapshot), Ok(world.owner.snapshot()), "{later} ms");
    }
    let (mut owner, due) = (world.owner, world.owner.due(now));
    let (mut last, mut count) = (None, 0);
    while let Some(tick) = owner.tick(now) {
        assert!(tick.deadline <= now, "a tick before its time");
        assert_eq!(tick.state.next, world.owner.state().next + count, "each once");
        // Nobody ticks more than once in the shortest of all periods.
        let apart = last.map(|last| tick.deadline.nanos_since(last));
        assert!(apart.is_none_or(|apart| apart >= Period::SHORTEST), "{apart:?}");
        (last, count) = (Some(tick.deadline), count + 1);
    }
    assert_eq!(count, due, "as many as were said to be due");
    let left = owner.deadline().nanos_since(now);
    assert!(left > 0 && left <= world.period.as_nanos(), "the next tick comes in {left} ns");
    assert_eq!(owner.snapshot().period, world.period, "and from then on at the owner's period");
    // No burst: since it is the owner, not more than its period allows.
    let since = last.filter(|last| *last > world.since).map(|_| now.nanos_since(world.since));
    let mut before = world.owner;
    let missed =
        std::iter::from_fn(|| before.tick(now)).take_while(|it| it.deadline <= world.since);
    let own = count - u64::try_from(missed.count()).expect("few");
    // The tick that was under way comes too.
    assert!(own <= 1 + since.unwrap_or_default() / world.period.as_nanos(), "{own} since then");
}

#[test]
fn whatever_owners_do_the_next_one_goes_on_from_what_they_have_written() {
    let steps = steps();
    let mut worlds: HashSet<World> = PERIODS
        .map(|milliseconds| {
            let (now, period) = (30, period(milliseconds));
            let owner = Ticking::starting(Counter { next: 0 }, at(now), period);
            World { now, owner, period, since: at(now), unlogged: 0 }
        })
        .into_iter()
        .collect();
    let mut seen = worlds.clone();
    for _ in 0..STEPS {
        let next = worlds.iter().flat_map(|world| steps.iter().map(|step| take(world, *step)));
        let next: Vec<_> = next.flatten().collect();
        worlds = next.into_iter().filter(|world| seen.insert(*world)).collect();
    }
    assert!(seen.len() > 100_000, "{} worlds", seen.len());
    seen.iter().for_each(check);
}
