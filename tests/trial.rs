// SPDX-License-Identifier: Apache-2.0
//! Trial: what the harness for authors reports, and that it finds each broken device and state.

use std::cell::RefCell;
use std::convert::Infallible;
use std::ffi::OsStr;
use std::fmt::{self, Formatter};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use early_service::device::{Device, Luggage, Monotonic, Need, Port};
use early_service::trial::{self, Arrow, Fault, Side};
use early_service::{Fields, MissingField, Service, State, number};
use testkit::scratch::Scratch;

thread_local! {
    /// The hardware of the test: a file.
    static PATH: RefCell<PathBuf> = RefCell::default();
}

fn open() -> io::Result<File> {
    PATH.with_borrow(|path| OpenOptions::new().append(true).create(true).open(path))
}

/// How often the device has worked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Works(u64);

impl State for Works {
    type Command = u64;
    type Reply = u64;
    const NAME: &'static str = "works";
    fn read(fields: Fields<'_>) -> Result<Self, MissingField> {
        fields.number("works").map(Self)
    }
    fn write_fields(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "works={}", self.0)
    }
    fn apply(&mut self, more: u64) -> u64 {
        self.0 += more;
        self.0
    }
}

impl Service for Works {
    const ABOUT: &'static str = "Works.";
    const DESCRIPTORS: &'static str = "file";
}

/// Sound, or broken in one way.
const SOUND: u8 = 0;
const CLOSES_IN_FREEZE: u8 = 1;
const OPENS_IN_THAW: u8 = 2;
const OPENS_A_SECOND_IN_THAW: u8 = 3;
const OPENS_IN_ACCEPT: u8 = 4;
const REFUSES: u8 = 5;
const LENDS_NONE: u8 = 6;
const KEEPS_ALIVE_WITHOUT_A_PAUSE: u8 = 7;
const STAYS_OPEN: u8 = 8;
const IS_NEVER_THERE: u8 = 9;
const IS_NEVER_THERE_AGAIN: u8 = 10;

struct Case<const HOW: u8>(File);

impl<const HOW: u8> Luggage for Case<HOW> {
    fn lend(&self) -> Vec<BorrowedFd<'_>> {
        if HOW == LENDS_NONE { Vec::new() } else { self.0.lend() }
    }
    fn accept(descriptors: Vec<OwnedFd>) -> Result<Self, String> {
        match HOW {
            OPENS_IN_ACCEPT => open().map(Self).map_err(|error| error.to_string()),
            REFUSES => Err("another file".to_owned()),
            _ => File::accept(descriptors).map(Self),
        }
    }
}

struct Worker<const HOW: u8> {
    case: Case<HOW>,
    second: Option<File>,
}

impl<const HOW: u8> Device for Worker<HOW> {
    type Service = Works;
    type Luggage = Case<HOW>;

    async fn acquire(need: Need, port: &Port<Works>) -> io::Result<Case<HOW>> {
        let is_there = match HOW {
            IS_NEVER_THERE => port.setting("IS_THERE", "no")? == "yes",
            IS_NEVER_THERE_AGAIN => need == Need::Fresh,
            _ => true,
        };
        if is_there { open().map(Case) } else { Err(io::ErrorKind::NotFound.into()) }
    }
    fn thaw(case: Case<HOW>, _: &Works, _: Monotonic) -> Self {
        match HOW {
            OPENS_IN_THAW => Self { case: Case(open().expect("a file")), second: None },
            OPENS_A_SECOND_IN_THAW => Self { case, second: open().ok() },
            // Not another open file.
            _ => Self { second: case.0.try_clone().ok(), case },
        }
    }
    async fn run(&mut self, port: &Port<Works>) -> io::Result<Infallible> {
        loop {
            port.apply(1).await;
            port.until(port.now().after_nanos(1_000_000_000)).await;
        }
    }
    fn freeze(self) -> Case<HOW> {
        drop(self.second);
        match HOW {
            CLOSES_IN_FREEZE => {
                drop(self.case);
                Case(open().expect("a file"))
            }
            _ => self.case,
        }
    }
    fn keep_alive(_: &Case<HOW>, now: Monotonic) -> Option<Monotonic> {
        let pause = if HOW == KEEPS_ALIVE_WITHOUT_A_PAUSE { 0 } else { 150_000_000 };
        Some(now.after_nanos(pause))
    }
    fn release(case: Case<HOW>) {
        if HOW == STAYS_OPEN {
            std::mem::forget(case);
        }
    }
}

/// The calls in a handoff with this fault: the methods of one process after the other, each once
/// in a row.
fn calls(fault: Fault) -> String {
    let scratch = Scratch::new();
    PATH.replace(scratch.join("file"));
    let calls = trial::handoff::<Worker<SOUND>>(fault).unwrap_or_else(|wrong| panic!("{wrong}"));
    let mut text: Vec<_> = calls.iter().map(|call| (call.side, call.method)).collect();
    text.dedup();
    let sides = text.chunk_by(|one, other| one.0 == other.0).map(|calls| {
        let methods: Vec<_> = calls.iter().map(|(_, method)| *method).collect();
        format!("{}: {}", calls[0].0, methods.join(" "))
    });
    sides.collect::<Vec<_>>().join("; ")
}

/// What is found in a device that is broken so.
fn found<const HOW: u8>() -> String {
    let scratch = Scratch::new();
    PATH.replace(scratch.join("file"));
    trial::every_fault::<Worker<HOW>>().err().unwrap_or_default()
}

#[test]
fn a_handoff_calls_each_side_in_the_documented_order() {
    const SERVED: &str = "predecessor: acquire thaw run apply freeze keep_alive";
    const ADOPTED: &str = "successor: accept thaw run apply";
    const TAKEN_BACK: &str = "thaw run apply freeze release";
    let whole = format!(
        "{SERVED}; {ADOPTED}; predecessor: keep_alive close; successor: run apply freeze release"
    );
    let opened_again = format!("{SERVED} close; successor: acquire thaw run apply freeze release");
    let adopted = format!("{SERVED} close; {ADOPTED} freeze release");
    let taken_back = format!("{SERVED} {TAKEN_BACK}");
    for (side, arrow, expected) in [
        (Side::Predecessor, Arrow::Handoff, &opened_again),
        (Side::Predecessor, Arrow::State, &opened_again),
        (Side::Predecessor, Arrow::End, &adopted),
        (Side::Predecessor, Arrow::Prepared, &adopted),
        (Side::Predecessor, Arrow::Commit, &whole),
        (Side::Predecessor, Arrow::Done, &whole),
        (Side::Successor, Arrow::Handoff, &taken_back),
        (Side::Successor, Arrow::State, &taken_back),
        (Side::Successor, Arrow::End, &taken_back),
        (Side::Successor, Arrow::Prepared, &taken_back),
        (
            Side::Successor,
            Arrow::Commit,
            &format!(
                "{SERVED}; {ADOPTED}; predecessor: keep_alive; successor: close; \
                 predecessor: {TAKEN_BACK}"
            ),
        ),
        (
            Side::Successor,
            Arrow::Done,
            &format!(
                "{SERVED}; {ADOPTED}; predecessor: keep_alive close; successor: close; \
                 restarted process: accept thaw run apply freeze release"
            ),
        ),
    ] {
        let fault = Fault::Death(side, arrow);
        assert_eq!(calls(fault), *expected, "{fault:?}");
    }
    assert_eq!(calls(Fault::None), whole);
    let again = whole.replacen("run apply", "run apply close acquire thaw run apply", 1);
    assert_eq!(calls(Fault::Device), again);
}

#[test]
fn a_sound_device_passes_and_each_broken_one_is_found() {
    assert_eq!(found::<SOUND>(), "");
    for (found, expected) in [
        (found::<CLOSES_IN_FREEZE>(), "predecessor, freeze: the descriptors are not the ones"),
        (found::<OPENS_IN_THAW>(), "predecessor, thaw: opens the device again"),
        (found::<OPENS_A_SECOND_IN_THAW>(), "predecessor, thaw: opens the device again"),
        (found::<OPENS_IN_ACCEPT>(), "successor, accept: the descriptors are not the ones"),
        (found::<REFUSES>(), "successor, accept: another file"),
        (found::<LENDS_NONE>(), "lends 0 descriptors, and DESCRIPTORS has 1"),
        (found::<KEEPS_ALIVE_WITHOUT_A_PAUSE>(), "keep_alive: returns a time that is not later"),
        (found::<STAYS_OPEN>(), "the device is still open"),
        (found::<IS_NEVER_THERE>(), "predecessor, run: the device does not run (serving"),
        (found::<IS_NEVER_THERE_AGAIN>(), "Device: 6000 ms, predecessor, run: the device does not"),
    ] {
        assert!(found.contains(expected), "{expected:?} in {found:?}");
    }
    trial::set("IS_THERE", OsStr::from_bytes(b"yes\xff"));
    let refusal = found::<IS_NEVER_THERE>();
    assert!(refusal.contains("device: IS_THERE=yes\u{fffd} is no text"), "{refusal:?}");
    trial::set("IS_THERE", "yes");
    assert_eq!(found::<IS_NEVER_THERE>(), "");
}

/// A state that is sound, or broken in one way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct Lamp<const HOW: u8>(u64);

/// A command of the lamp.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Set<const HOW: u8>(u64);

const WRITES_A_RESERVED_KEY: u8 = 1;
const REPLIES_AT_LENGTH: u8 = 2;
const READS_NO_COMMAND: u8 = 3;
const CHANGES_IN_SECRET: u8 = 4;
const SKIPS_A_TICK: u8 = 5;
const PARSES_ANOTHER: u8 = 6;
const REFUSES_EVERY_LINE: u8 = 7;
const REFUSES_AT_LENGTH: u8 = 8;

impl<const HOW: u8> State for Lamp<HOW> {
    type Command = Set<HOW>;
    type Reply = u64;
    const NAME: &'static str = "lamp";
    const HAND_OVER: &'static str = "get_lamp";
    const EXPECTED: &'static str = "set N";
    const MAX_REPLY: usize = if HOW == REPLIES_AT_LENGTH { 0 } else { 20 };
    fn write_text(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
    fn parse(reply: &[u8]) -> Option<Self> {
        number(reply).map(|lamp| Self(if HOW == PARSES_ANOTHER { lamp / 2 } else { lamp }))
    }
    fn read(fields: Fields<'_>) -> Result<Self, MissingField> {
        fields.number(if HOW == WRITES_A_RESERVED_KEY { "lock" } else { "lamp" }).map(Self)
    }
    fn write_fields(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", if HOW == WRITES_A_RESERVED_KEY { "lock" } else { "lamp" }, self.0)
    }
    fn command(line: &[u8]) -> Result<Set<HOW>, &'static str> {
        match HOW {
            REFUSES_EVERY_LINE => Err(Self::EXPECTED),
            REFUSES_AT_LENGTH => Err("a number that sets the lamp"),
            _ => line.strip_prefix(b"set ").and_then(number).map(Set).ok_or(Self::EXPECTED),
        }
    }
    fn is_change(_: &Set<HOW>) -> bool {
        HOW != CHANGES_IN_SECRET
    }
    fn apply(&mut self, Set(lamp): Set<HOW>) -> u64 {
        std::mem::replace(&mut self.0, lamp)
    }
    fn tick(&mut self) {
        self.0 = self.0.wrapping_add(1);
    }
    fn tick_many(&mut self, ticks: u64) -> bool {
        self.0 = self.0.wrapping_add(ticks - u64::from(HOW == SKIPS_A_TICK));
        true
    }
}

impl<const HOW: u8> Service for Lamp<HOW> {
    const ABOUT: &'static str = "A lamp.";
}

impl<const HOW: u8> fmt::Display for Set<HOW> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", if HOW == READS_NO_COMMAND { "put" } else { "set" }, self.0)
    }
}

#[test]
fn a_sound_state_passes_and_each_broken_one_is_found() {
    fn found<const HOW: u8>() -> String {
        trial::state(&[Lamp::<HOW>(u64::MAX)], &["set 5"]).err().unwrap_or_default()
    }
    assert_eq!(found::<SOUND>(), "");
    for (found, expected) in [
        (found::<WRITES_A_RESERVED_KEY>(), "writes the key 'lock', which is reserved"),
        (found::<REPLIES_AT_LENGTH>(), "a reply of 20 bytes, and MAX_REPLY is 0"),
        (found::<READS_NO_COMMAND>(), "command does not read \"put 5\", its text form"),
        (found::<CHANGES_IN_SECRET>(), "is_change is false, and apply changes the state"),
        (found::<SKIPS_A_TICK>(), "tick_many(100) differs from as many ticks"),
        (found::<PARSES_ANOTHER>(), "parse does not read \"18446744073709551615\""),
        (found::<REFUSES_EVERY_LINE>(), "\"set 5\": command refuses the line: set N"),
        (found::<REFUSES_AT_LENGTH>(), "a text of 27 bytes, and MAX_EXPECTED is 5"),
    ] {
        assert!(found.contains(expected), "{expected:?} in {found:?}");
    }
}
