// SPDX-License-Identifier: Apache-2.0
//! Ticks: a counter, whatever its clock, its commands and its successors do.
//!
//! No number is missing and none comes twice; every deadline lies one period after the one before, and
//! the first of another period at most one of that after it was resumed; as many ticks come as are said
//! to be due, one by one or at once.
//!
//! `cargo +nightly fuzz run -s none ticks`
#![no_main]

use core::num::{NonZeroU32, NonZeroU64};

use early_service_machine::counter::{Command, Counter, Reply};
use early_service_machine::schedule::{Monotonic, Period};
use early_service_machine::timeline::{Snapshot, Ticking};
use early_service_machine::wire::fields::Fields;
use libfuzzer_sys::fuzz_target;

/// A number, a time, the period of whoever had the state before, ours, and what happens.
type Course = (u64, u64, NonZeroU64, NonZeroU32, Vec<(u8, u64)>);

fuzz_target!(|course: Course| {
    let (mut next, mut clock, until_now, ours, happens) = course;
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

/// Takes what is due: a few one by one, and the others at once.
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
        // The old rhythm ends with what was missed in it, and the first tick of ours comes in time.
        let rhythm = counter.snapshot().period;
        let first_of_ours = counter.deadline().nanos_since(resumed) <= ours.as_nanos();
        let is_change = passed < period.as_nanos() && rhythm == ours && first_of_ours;
        assert!(passed == period.as_nanos() || is_change, "{passed} ns after {period}");
        assert!(rhythm == ours || rhythm == period && counter.deadline() <= resumed);
        assert_eq!(counter.late(), late + u64::from(counter.deadline() <= now));
    }
    let (left, late) = (due.saturating_sub(64), counter.late());
    let skipped: u64 = (0..2).map(|_| counter.skip(now, u64::MAX)).sum();
    assert_eq!(skipped, left, "at once");
    *next = next.wrapping_add(left);
    assert_eq!((counter.due(now), counter.tick(now)), (0, None));
    // All but the last one, where its successor is not due: it is where time ends.
    assert!(counter.late() == late + left.saturating_sub(u64::from(now < counter.deadline())));
    assert_eq!(counter.state(), Counter { next: *next });
    assert_eq!(counter.to_string(), format!("counter={next} ticks_late={}", counter.late()));
}
