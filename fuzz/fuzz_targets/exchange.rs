// SPDX-License-Identifier: Apache-2.0
//! Handoff messages: any bytes from the other process, and any message to it.
//!
//! The first byte is the size of the pieces in which the rest is read; the rest is what the other
//! process sends, and the numbers in the messages to it. A line is refused, or its text form is the
//! same message. Every message fits a line and is parsed as it was meant.
//!
//! `cargo +nightly fuzz run -s none exchange -- -dict=fuzz/exchange.dict`
#![no_main]

use early_service_machine::bounds::{MAX_HANDOFF_LINE, MAX_NAMED};
use early_service_machine::schedule::{Monotonic, Period};
use early_service_machine::timeline::{Snapshot, Ticking};
use early_service_machine::wire::framing::{Framed, Printable, split_line};
use early_service_machine::wire::handoff::{Client, Message};
use early_service_machine::wire::manifest::{Manifest, Name};
use early_service_machine::wire::request::Request;
use early_service_machine::{Counter, State};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Some((size, said)) = bytes.split_first() else { return };
    let lines = read(said, said.len());
    assert_eq!(lines, read(said, 1), "byte by byte");
    assert_eq!(lines, read(said, usize::from(*size)), "in pieces");
    lines.iter().flatten().for_each(|line| hear(line));
    say(said);
});

/// The lines of `said`, read in pieces of `size` bytes; `None` if a line is too long.
fn read(said: &[u8], size: usize) -> Vec<Option<Vec<u8>>> {
    let (mut lines, mut kept) = (Vec::new(), Vec::new());
    for piece in said.chunks(size.max(1)) {
        kept.extend_from_slice(piece);
        loop {
            match split_line(&kept) {
                Framed::Line(line, taken) => {
                    assert!(line.len() <= MAX_HANDOFF_LINE && line.len() < taken);
                    lines.push(Some(line.to_vec()));
                    kept.drain(..taken);
                }
                Framed::Partial => break,
                Framed::TooLong => {
                    lines.push(None);
                    return lines;
                }
            }
        }
        assert!(kept.len() <= MAX_HANDOFF_LINE, "{} bytes are kept of a line", kept.len());
    }
    lines
}

/// Compares the decoded message with the text of its line.
fn hear(line: &[u8]) {
    if let Some(request) = Request::parse::<Counter>(line) {
        let written = request.line::<Counter>().to_string();
        assert_eq!(Request::parse::<Counter>(written.as_bytes()), Some(request), "{written}");
        match request {
            Request::Handoff { unknown, listener: Some(path), .. } => {
                assert!(line.ends_with(path.as_bytes()));
                let text = String::from_utf8_lossy(line);
                let (fields, _) = text.split_once(" listener=").expect("a path");
                assert_eq!(unknown.is_some(), fields.contains(" !"), "{text}");
            }
            Request::Handoff { listener: None, .. } => assert!(line.starts_with(b"handoff ")),
            Request::Legacy(_) => assert_eq!(written.as_bytes(), line),
        }
    }
    if let Some(state) = Counter::parse(line) {
        assert!(says(&format!("state={}", Printable(line)), ("state", &state.next.to_string())));
    }
    match Message::<Counter>::parse(line) {
        Ok(message) => {
            let written = read_back(message);
            let text = String::from_utf8_lossy(line);
            let has = |field: &str| field.split_once('=').is_none_or(|pair| says(&text, pair));
            let (kind, shown) = (written.split(' ').next(), Printable(line).to_string());
            assert_eq!(kind, shown.split(' ').next());
            match message {
                Message::State(offer) if !is_possible(&offer.snapshot, line) => {
                    panic!("no owner can have said {shown:?}")
                }
                Message::Abort(_) => assert!(shown.starts_with(&written), "{written}"),
                Message::State(_) | Message::Client(_) => {
                    assert!(!shown.contains(" !"), "an unknown key is ignored: {shown:?}");
                    assert!(written.split(' ').all(has), "{shown:?} as {written:?}");
                }
                _ => assert_eq!(written.as_bytes(), line),
            }
        }
        Err(unreadable) => assert!(unreadable.to_string().starts_with("it"), "{unreadable}"),
    }
}

/// Whether the period is valid, and whether an accepted deadline leaves work for a few steps.
fn is_possible(snapshot: &Snapshot<Counter>, line: &[u8]) -> bool {
    // Any time will do; this one is derived from the line.
    let now = line.iter().rev().fold(0, |now: u64, byte| now.rotate_left(7) ^ u64::from(*byte));
    let (deadline, period) = (snapshot.deadline.as_nanos(), snapshot.period.as_nanos());
    let is_ahead = u128::from(deadline) > u128::from(now) + u128::from(period);
    let now = Monotonic::from_nanos(now);
    assert_eq!(snapshot.check(now).is_err(), is_ahead, "{snapshot} at {now:?}");
    let mut running = Ticking::resuming(*snapshot, now, snapshot.period);
    while running.skip(now, u64::MAX) > 0 {}
    let left = running.deadline().nanos_since(now);
    assert!(left <= period, "{left} ns to the next tick of {snapshot} at {now:?}");
    (1_000_000..=4_294_967_295_000_000).contains(&period)
}

/// Whether the first field with this key has this number, perhaps after zeros.
fn says(text: &str, (key, number): (&str, &str)) -> bool {
    let mut fields = text.split(' ').filter_map(|field| field.split_once('='));
    let Some((_, value)) = fields.find(|field| field.0 == key) else { return false };
    !value.is_empty() && value.trim_start_matches('0') == number.trim_start_matches('0')
}

/// Writes a message of each form with content, with numbers and a reason from `bytes`.
fn say(bytes: &[u8]) {
    let number = |at: usize| {
        let piece = bytes.chunks(8).nth(at).unwrap_or_default();
        piece.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte))
    };
    let snapshot = Snapshot {
        state: Counter { next: number(0) },
        deadline: Monotonic::from_nanos(number(1)),
        period: Period::from_nanos(number(2).clamp(Period::SHORTEST, Period::LONGEST))
            .expect("within the bounds"),
    };
    let (listeners, clients) = (number(3), number(4));
    for flag in [false, true] {
        let (owned, named) = (listeners.min(clients), clients % (MAX_NAMED + 1));
        let offer = Manifest { snapshot, lock: flag, listeners, owned, clients, named };
        let client = Client { input: clients, replies: listeners, ended: flag, closing: !flag };
        for message in [Message::State(offer), Message::Client(client)] {
            let written = read_back(message);
            assert_eq!(Message::parse(written.as_bytes()), Ok(message), "{written}");
        }
    }
    read_back(Message::Abort(bytes));
    // The longest line, which is longer than the inputs of the fuzzer.
    let longest = [b"x".repeat(MAX_HANDOFF_LINE), b"\n".to_vec()].concat();
    assert_eq!(split_line(&longest), Framed::Line(&longest[..MAX_HANDOFF_LINE], longest.len()));
    if let Some(name) = Name::parse(bytes) {
        read_back(Message::Named(name));
    }
}

/// The text form of a message, after it was read as a line.
fn read_back(message: Message<'_, Counter>) -> String {
    let written = message.to_string();
    assert!(written.bytes().all(|byte| matches!(byte, b' '..=b'~')), "{written:?}");
    let sent = written.clone() + "\n";
    let Framed::Line(line, taken) = split_line(sent.as_bytes()) else {
        panic!("no line: {written}")
    };
    assert_eq!(taken, sent.len(), "{written}");
    let read = Message::<Counter>::parse(line).map(|message| message.to_string());
    assert_eq!(read.as_ref(), Ok(&written));
    written
}
