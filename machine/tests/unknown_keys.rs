// SPDX-License-Identifier: Apache-2.0
//! Unknown keys: a newer release has added a key, anywhere in a line or a record.
//!
//! A key with a `!` is refused by its name, and any other key changes nothing.
#![allow(
    clippy::arithmetic_side_effects,
    clippy::expect_used,
    reason = "a test fails by panicking"
)]

use std::fmt::Debug;

use early_service_machine::Counter;
use early_service_machine::bounds::RECORD_SIZE;
use early_service_machine::realtime::Realtime;
use early_service_machine::record::{BootId, Record, Unlogged};
use early_service_machine::schedule::{Monotonic, Period};
use early_service_machine::slots::{SLOT, SLOTS};
use early_service_machine::timeline::Snapshot;
use early_service_machine::wire::handoff::{Client, Message};
use early_service_machine::wire::manifest::Manifest;
use early_service_machine::wire::request::{Accepts, Request};

const NOW: Monotonic = Monotonic::from_nanos(1);

fn snapshot() -> Snapshot<Counter> {
    let period = Period::from_millis(100).expect("not zero");
    Snapshot { state: Counter { next: 137 }, deadline: NOW, period }
}

fn boot() -> BootId {
    BootId::parse(&[b'a'; 36]).expect("the kernel's form")
}

fn record() -> Record<Counter> {
    let realtime = Some(Realtime::from_nanos(5));
    Record { sequence: 1, unlogged: Unlogged::default(), realtime, snapshot: snapshot() }
}

/// The text of a record with its checksum, computed by bits.
fn sealed(text: &str) -> String {
    let with_bit = |crc: u32| (crc >> 1) ^ (0xedb8_8320 * (crc & 1));
    let crc = text
        .bytes()
        .fold(u32::MAX, |crc, byte| (0..8).fold(crc ^ u32::from(byte), |crc, _| with_bit(crc)));
    format!("{text} crc={:08x}", !crc)
}

/// Inserts words of a newer release before each field of `line` and behind the last one. The line
/// begins with `kind`, and `read` returns what it contains or why it is refused.
#[track_caller]
fn assert_follows_the_rule<T: PartialEq + Debug>(
    kind: &str,
    line: &str,
    read: impl Fn(&str) -> Result<T, String>,
) {
    let expected = read(line).expect("a line of this release");
    let fields = line.strip_prefix(kind).expect("its kind");
    let words: Vec<_> = fields.split(' ').filter(|word| !word.is_empty()).collect();
    for at in 0..=words.len() {
        let (before, after) = words.split_at(at);
        let with = |word: &str| {
            let fields = [before, &[word], after].concat().join(" ");
            read(&format!("{kind} {fields}"))
        };
        for ignored in ["later=1", "later=!1", "later", "Later=", "=!", "laughter!=1", "n!"] {
            assert_eq!(with(ignored).as_ref(), Ok(&expected), "{ignored} at {at} of {line}");
        }
        for refused in ["!later=1", "!later=", "!later", "!later=!=1"] {
            let error = with(refused).expect_err(refused);
            assert!(error.contains("the unknown key '!later'"), "{refused} at {at}: {error}");
        }
    }
}

#[test]
fn a_record_follows_the_rule() {
    let file = String::from_utf8(record().encode(&boot()).to_vec()).expect("text");
    let (text, _) = file.split_once(" crc=").expect("a checksum");
    assert_follows_the_rule("early-service-state 1", text, |text| {
        let text = format!("{:<1$}\n", sealed(text), RECORD_SIZE - 1);
        let read = Record::<Counter>::decode(text.as_bytes(), &boot(), NOW);
        read.map_err(|error| error.to_string())
    });
}

#[test]
fn a_record_in_a_slot_follows_the_rule() {
    let slot = record().encode_slot(&boot());
    let text = core::str::from_utf8(slot.bytes()).expect("text");
    let (head, text) = text.split_at("early-service-state 2 size=1234".len());
    let (fields, seal) = text.split_once(" crc=").expect("a checksum");
    assert_follows_the_rule("", fields, |fields| {
        let fields = fields.trim_start();
        let kind = head.trim_end_matches(|letter: char| letter.is_ascii_digit());
        let size = head.len() + 1 + fields.len() + " crc=".len() + seal.len();
        let text = sealed(&format!("{kind}{size:04} {fields}")) + "\n";
        assert_eq!(text.len(), size);
        let mut file = vec![0; SLOT];
        file.extend(text.into_bytes());
        file.resize(SLOTS, 0);
        let read = Record::<Counter>::newest(&file, &boot(), NOW);
        read.map_err(|error| error.to_string())
    });
}

#[test]
fn an_offer_follows_the_rule() {
    let manifest =
        Manifest { snapshot: snapshot(), lock: true, listeners: 1, owned: 1, clients: 2, named: 3 };
    let client = Client { input: 7, replies: 0, ended: true, closing: false };
    for (kind, message) in
        [("state 1", Message::State(manifest)), ("client", Message::Client(client))]
    {
        assert_follows_the_rule(kind, &message.to_string(), |line| {
            let read = Message::<Counter>::parse(line.as_bytes());
            read.map(|message| message.to_string()).map_err(|error| error.to_string())
        });
    }
}

#[test]
fn a_request_follows_the_rule() {
    let path = "/run/a !b=1 c";
    let request = Request::new::<Counter>(Accepts("can0"), None).line::<Counter>().to_string();
    assert_follows_the_rule("handoff 1", &request, |line| {
        let line = format!("{line} listener={path}");
        match Request::parse::<Counter>(line.as_bytes()).expect("a request") {
            Request::Handoff { unknown: Some(key), .. } => Err(format!("the unknown key '{key}'")),
            request @ (Request::Handoff { .. } | Request::Legacy(_)) => {
                let expected = Request::new::<Counter>(Accepts("can0"), Some(path));
                assert_eq!(request, expected);
                Ok(())
            }
        }
    });
}
