// SPDX-License-Identifier: Apache-2.0
//! Timeline: every short sequence of owners that tick, write, die and hand over.
//!
//! The model of the lifecycle (`machine/tests/model`) only counts ticks; this one has their times.
//! Whatever an owner writes at any time, the next owner accepts it. Each tick then comes once, and
//! the next one within a period. A reader whose clock is behind, as in another time namespace,
//! either refuses the record and names the field, or also has the next tick within a period.
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

/// The number of steps in a sequence.
const STEPS: usize = 7;

/// An owner, its last record, and the clock.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct World {
    /// The clock, in milliseconds.
    now: u64,
    owner: Ticking<Counter>,
    /// The period that the owner was started with.
    period: Period,
    /// When it became the owner.
    since: Monotonic,
    /// Ticks that were taken and are not in the log.
    unlogged: u64,
}

#[derive(Clone, Copy, Debug)]
enum Step {
    /// This many milliseconds pass.
    Wait(u64),
    /// Up to this many due ticks are taken at once.
    Take(u64),
    /// All ticks are written to the log.
    Log,
    /// Another owner continues from the record, with this period.
    Succeed(Period),
    /// The same, with a clock that is this many milliseconds behind.
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

/// Decodes the record of the owner at the given time.
fn read(world: &World, now: Monotonic) -> Result<Record<Counter>, DecodeError> {
    let boot = BootId::parse(b"0a1b2c3d-0000-4000-8000-0123456789ab").expect("its form");
    let ticks = world.unlogged;
    let unlogged = Unlogged { ticks, unbroken: ticks };
    let record = Record { sequence: 1, unlogged, realtime: None, snapshot: world.owner.snapshot() };
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
                Err(error) => panic!("{error}"),
            }
        }
    }
    Some(next)
}

/// Checks what is true in every world.
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
        // Two ticks are at least the shortest period apart.
        let apart = last.map(|last| tick.deadline.nanos_since(last));
        assert!(apart.is_none_or(|apart| apart >= Period::SHORTEST), "{apart:?}");
        (last, count) = (Some(tick.deadline), count + 1);
    }
    assert_eq!(count, due, "as many as were due");
    let left = owner.deadline().nanos_since(now);
    assert!(left > 0 && left <= world.period.as_nanos(), "the next tick comes in {left} ns");
    assert_eq!(owner.snapshot().period, world.period, "then at the period of the owner");
    // No burst: since this owner started, there are no more ticks than its period allows.
    let since = last.filter(|last| *last > world.since).map(|_| now.nanos_since(world.since));
    let mut before = world.owner;
    let missed =
        std::iter::from_fn(|| before.tick(now)).take_while(|it| it.deadline <= world.since);
    let own = count - u64::try_from(missed.count()).expect("few");
    // The first tick may still have the old deadline.
    assert!(own <= 1 + since.unwrap_or_default() / world.period.as_nanos(), "{own} since then");
}

#[test]
fn every_owner_continues_from_the_record_of_the_last_one() {
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
