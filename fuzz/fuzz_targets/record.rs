// SPDX-License-Identifier: Apache-2.0
//! Record: any bytes in the state file.
//!
//! The input is used as a whole file, as the fields of a file with a correct checksum, and as the
//! numbers of two records that are damaged, cut off and mixed. A file is refused, or its text
//! contains the decoded values and its checksum is correct by another algorithm. In the second case
//! an owner can have written it: its period is valid, its deadline is at most one period ahead, and
//! all due ticks are taken in a few steps.
//!
//! `cargo +nightly fuzz run -s none record -- -dict=fuzz/record.dict`
#![no_main]

use early_service_machine::Counter;
use early_service_machine::bounds::RECORD_SIZE;
use early_service_machine::realtime::Realtime;
use early_service_machine::record::{BootId, Record, Unlogged};
use early_service_machine::schedule::{Monotonic, Period};
use early_service_machine::slots::SLOTS;
use early_service_machine::timeline::{Snapshot, Ticking};
use libfuzzer_sys::fuzz_target;

const BOOT: &str = "0a1b2c3d-0000-4000-8000-0123456789ab";
const OTHER_BOOT: &str = "0a1b2c3d-0000-4000-8000-0123456789ac";

fuzz_target!(|bytes: &[u8]| {
    let (boot, other) = (boot(BOOT), boot(OTHER_BOOT));
    let number = |at: usize| {
        let piece = bytes.chunks(8).nth(at).unwrap_or_default();
        piece.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte))
    };
    let now = Monotonic::from_nanos(number(12));
    load(bytes, now);
    // No bytes may cause a panic.
    let _ = Record::<Counter>::newest(bytes, &boot, now);
    let begin = format!("early-service-state 1 boot={BOOT} ");
    load(&seal(&[begin.as_bytes(), bytes].concat()), now);

    let [older, newer] = [0, 6].map(|at| {
        let deadline = Monotonic::from_nanos(number(at));
        let within = number(at + 1).clamp(Period::SHORTEST, Period::LONGEST);
        let period = Period::from_nanos(within).expect("within the bounds");
        let snapshot = Snapshot { state: Counter { next: number(at + 2) }, deadline, period };
        let unlogged = Unlogged { ticks: number(at + 3), unbroken: number(at + 4) };
        let realtime = (at > 0).then(|| Realtime::from_nanos(number(13)));
        let record = Record { sequence: number(at + 5), unlogged, realtime, snapshot };
        let file = record.encode(&boot);
        let read = Record::<Counter>::decode(&file, &boot, now);
        assert_eq!(read.ok(), Some(record).filter(|record| is_possible(record, now)));
        // The same record in a slot, whole and damaged.
        let slot = record.encode_slot(&boot);
        let (mut slots, damaged) = (vec![0; SLOTS], number(at + 3) as usize % slot.bytes().len());
        slots[slot.offset()..][..slot.bytes().len()].copy_from_slice(slot.bytes());
        let newest = |slots: &[u8]| Record::<Counter>::newest(slots, &boot, now).ok();
        let found = newest(&slots).map(|(record, _)| record);
        assert_eq!(found, Some(record).filter(|record| is_possible(record, now)));
        slots[slot.offset() + damaged] ^= 1;
        assert_eq!(newest(&slots), None, "byte {damaged} of a slot differs");
        assert!(
            Record::<Counter>::decode(&file, &other, now).is_err(),
            "the record is of another boot"
        );
        file
    });
    let (at, flip) = (number(0) as usize % RECORD_SIZE, (number(0) >> 16) as u8);
    assert!(
        Record::<Counter>::decode(&older[..at], &boot, now).is_err(),
        "cut off after {at} bytes"
    );
    let longer = [&older[..], &newer[..at + 1]].concat();
    assert!(Record::<Counter>::decode(&longer, &boot, now).is_err(), "{} bytes too long", at + 1);
    let mut damaged = older;
    damaged[at] ^= flip.max(1);
    assert!(
        Record::<Counter>::decode(&damaged, &boot, now).is_err(),
        "byte {at} differs by {flip}"
    );
    // One of 2^32 such mixtures has a correct checksum.
    load(&[&newer[..at], &older[at..]].concat(), now);
});

fn boot(id: &str) -> BootId {
    BootId::parse(id.as_bytes()).expect("the kernel's form")
}

/// Whether an owner can have written this before `now`, by another computation.
fn is_possible(record: &Record<Counter>, now: Monotonic) -> bool {
    let Record { unlogged: Unlogged { ticks, unbroken }, snapshot, .. } = record;
    let [deadline, period, now] =
        [snapshot.deadline.as_nanos(), snapshot.period.as_nanos(), now.as_nanos()].map(u128::from);
    let milliseconds = period as f64 / 1e6;
    (1.0..=4_294_967_295.0).contains(&milliseconds)
        && deadline <= now + period
        && unbroken <= ticks
        && u128::from(*ticks) * 1_000_000 <= deadline
}

/// Decodes a file and compares the result with its text.
fn load(file: &[u8], now: Monotonic) {
    let record = match Record::<Counter>::decode(file, &boot(BOOT), now) {
        Ok(record) => record,
        Err(error) => return assert!(error.to_string().starts_with("it")),
    };
    let text = file.trim_ascii_end();
    assert_eq!(file, seal(&text[..text.len() - " crc=01234567".len()]), "the record is complete");
    let text = String::from_utf8_lossy(text);
    let expect = |key: &str, number: u64| {
        let field = text.split(' ').find_map(|field| field.strip_prefix(key)?.strip_prefix('='));
        let digits = field.unwrap_or_default().trim_start_matches('0');
        let is_zero = number == 0 && field.is_some_and(|field| !field.is_empty());
        assert!(digits == number.to_string() || digits.is_empty() && is_zero, "{key} in {text}");
    };
    assert!(text.starts_with("early-service-state 1 "), "{text}");
    assert!(!text.contains(" !"), "a key that must be understood is ignored: {text}");
    let boot_field = text.split(' ').find_map(|field| field.strip_prefix("boot="));
    assert_eq!(boot_field, Some(BOOT));
    let Record { sequence, unlogged: Unlogged { ticks, unbroken }, realtime, snapshot } = record;
    expect("sequence", sequence);
    expect("unlogged", ticks);
    expect("unbroken", unbroken);
    if let Some(realtime) = realtime {
        expect("realtime_ns", realtime.as_nanos());
        // Any time can be shown.
        assert!(realtime.to_string().ends_with('Z'));
    }
    expect("counter", snapshot.state.next);
    expect("deadline_ns", snapshot.deadline.as_nanos());
    expect("period_ns", snapshot.period.as_nanos());
    assert!(is_possible(&record, now), "no owner can have written {text}");
    let ours = Period::from_millis(100).expect("not zero");
    let mut running = Ticking::resuming(snapshot, now, ours);
    let due = running.due(now);
    let taken: u64 = (0..2).map(|_| running.skip(now, u64::MAX)).sum();
    assert!(taken == due && due <= 1 + now.as_nanos() / 1_000_000, "{due} are due: {text}");
    assert_eq!(running.skip(now, u64::MAX), 0, "all at once: {text}");
    let again = record.encode(&boot(BOOT));
    assert_eq!(Record::<Counter>::decode(&again, &boot(BOOT), now), Ok(record));
    // Only other keys, another order and leading zeros may make the bytes differ.
    let again = String::from_utf8_lossy(again.trim_ascii_end());
    let is_plain = text.len() == again.len() && keys(&text).eq(keys(&again));
    assert!(text == again || !is_plain, "{text} as {again}");
}

/// The key of each field.
fn keys(text: &str) -> impl Iterator<Item = Option<&str>> {
    text.split(' ').map(|word| word.split('=').next())
}

/// A file with the text, cut to the room for it, and its checksum.
fn seal(text: &[u8]) -> Vec<u8> {
    let text = &text[..text.len().min(RECORD_SIZE - " crc=01234567\n".len())];
    // The remainder of a division of polynomials, from the highest power down.
    let bits = text.iter().flat_map(|byte| (0..8).map(move |bit| byte >> bit & 1 == 1));
    let remainder = bits.fold(u32::MAX, |remainder, bit| {
        let carry = (remainder >> 31 == 1) ^ bit;
        remainder << 1 ^ if carry { 0x04c1_1db7 } else { 0 }
    });
    let checksum = format!(" crc={:08x}", !remainder.reverse_bits());
    let mut file = [text, checksum.as_bytes()].concat();
    file.resize(RECORD_SIZE - 1, b' ');
    file.push(b'\n');
    file
}
