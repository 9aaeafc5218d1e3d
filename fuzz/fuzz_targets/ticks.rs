// SPDX-License-Identifier: Apache-2.0
//! Ticks: a counter with any clock, commands and owners.
//!
//! No number is missing or repeated. Every deadline is one period after the previous one, and the
//! first of a new period at most one new period after the counter was resumed. As many ticks are
//! taken as are due, one by one or at once.
//!
//! `cargo +nightly fuzz run -s none ticks`
#![no_main]

use core::num::{NonZeroU32, NonZeroU64};

use early_service_machine::counter::{Command, Counter, Reply};
use early_service_machine::schedule::{Monotonic, Period};
use early_service_machine::timeline::{Snapshot, Ticking};
use early_service_machine::wire::fields::Fields;
use libfuzzer_sys::fuzz_target;

/// A number, a time, the previous period, the new period, and what happens.
type Input = (u64, u64, NonZeroU64, NonZeroU32, Vec<(u8, u64)>);

fuzz_target!(|input: Input| {
    let (mut next, mut clock, until_now, ours, happens) = input;
    let ours = Period::from_millis(ours.get()).expect("not zero");
    let at = Monotonic::from_nanos;
    let mut counter = Ticking::starting(Counter { next }, at(clock), ours);
    let mut resumed = clock;
    for (what, number) in happens {
        match what % 8 {
            0 => clock = number,
            1 => {
                assert_eq!(counter.apply(Command::Set(number)), Reply::Previous(next));
                next = number;
            }
            2 => {
                let state = Counter { next: number };
                let deadline = at(clock.saturating_sub(number));
                let within = until_now.get().clamp(Period::SHORTEST, Period::LONGEST);
                let until_now = Period::from_nanos(within).expect("within the bounds");
                let snapshot = Snapshot { state, deadline, period: until_now };
                counter = Ticking::resuming(snapshot, at(clock), ours);
                (next, resumed) = (number, clock);
            }
            3 => {
                let written = counter.snapshot().to_string();
                let read = Snapshot::read(Fields::new(written.as_bytes()));
                assert_eq!(read, Ok(counter.snapshot()), "{written}");
                counter = Ticking::resuming(counter.snapshot(), at(clock), ours);
                resumed = clock;
            }
            _ => clock = clock.saturating_add(number % (ours.as_nanos() * 4)),
        }
        assert_eq!(counter.apply(Command::Get), Reply::Next(next));
        take_ticks(&mut counter, (at(clock), at(resumed)), &mut next, ours);
    }
});

/// Takes the due ticks: some one by one, and the others at once.
fn take_ticks(
    counter: &mut Ticking<Counter>,
    (now, resumed): (Monotonic, Monotonic),
    next: &mut u64,
    ours: Period,
) {
    let due = counter.due(now);
    for left in (0..due).rev().take(64) {
        let (deadline, period, late) =
            (counter.deadline(), counter.snapshot().period, counter.late());
        let tick = counter.tick(now).unwrap_or_else(|| panic!("{left} more are due"));
        assert_eq!((tick.state.next, tick.deadline), (*next, deadline));
        *next = next.wrapping_add(1);
        assert!(deadline <= now, "a tick before its time");
        let passed = counter.deadline().nanos_since(deadline);
        // The old period ends with its last missed tick; the first tick of the new one is in time.
        let current = counter.snapshot().period;
        let first_of_ours = counter.deadline().nanos_since(resumed) <= ours.as_nanos();
        let is_change = passed < period.as_nanos() && current == ours && first_of_ours;
        assert!(passed == period.as_nanos() || is_change, "{passed} ns after {period}");
        assert!(current == ours || current == period && counter.deadline() <= resumed);
        assert_eq!(counter.late(), late + u64::from(counter.deadline() <= now));
    }
    let (left, late) = (due.saturating_sub(64), counter.late());
    let skipped: u64 = (0..2).map(|_| counter.skip(now, u64::MAX)).sum();
    assert_eq!(skipped, left, "at once");
    *next = next.wrapping_add(left);
    assert_eq!((counter.due(now), counter.tick(now)), (0, None));
    // All but the last one are late if the next one is not due.
    assert!(counter.late() == late + left.saturating_sub(u64::from(now < counter.deadline())));
    assert_eq!(counter.state(), Counter { next: *next });
    assert_eq!(counter.to_string(), format!("counter={next} ticks_late={}", counter.late()));
}
