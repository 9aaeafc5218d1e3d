// SPDX-License-Identifier: Apache-2.0
//! Contract: promises of a state about its fields that the compiler cannot check.
//!
//! A debug build checks it at start-up and at each write of the fields. A release build relies on
//! it: a state that breaks it may be lost with the process.

use core::fmt::{self, Write as _};

use crate::bounds::MAX_STATE;
use crate::state::State;
use crate::wire::fields::{Fields, MissingField, UnknownKey};

/// The keys that requests, manifests, records and status lines use themselves.
pub const RESERVED: [&str; 29] = [
    "accepts",
    "boot",
    "clients",
    "crc",
    "deadline_ns",
    "device",
    "listener",
    "listeners",
    "lock",
    "log_lines_dropped",
    "named",
    "origin",
    "owned",
    "period_ns",
    "phase",
    "pid",
    "predecessor",
    "realtime_ns",
    "sequence",
    "service",
    "serving_s",
    "size",
    "stage",
    "state_file",
    "ticks_due",
    "ticks_late",
    "unbroken",
    "unlogged",
    "version",
];

/// How a state breaks its contract.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Breach {
    /// It writes a key of [`RESERVED`].
    Reserved(&'static str),
    /// It writes a key that begins with `!`.
    Marked(UnknownKey),
    /// It writes this many bytes, more than `MAX_FIELDS`.
    TooLong(usize, usize),
    /// It writes other text than `key=value` pairs, separated by single spaces, in one line.
    Malformed,
    /// It cannot read its own fields.
    Unread(MissingField),
    /// It reads another state than it wrote.
    Differs,
}

impl fmt::Display for Breach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("State::write_fields writes ")?;
        match self {
            Self::Reserved(key) => write!(f, "the key '{key}', which is reserved"),
            Self::Marked(key) => write!(f, "{key}: those with a '!' are reserved"),
            Self::TooLong(length, most) => write!(f, "{length} bytes, and MAX_FIELDS is {most}"),
            Self::Malformed => f.write_str("other text than key=value pairs with single spaces"),
            Self::Unread(missing) => write!(f, "fields in which State::read finds {missing}"),
            Self::Differs => f.write_str("fields that State::read reads as another state"),
        }
    }
}

/// Checks what the state writes.
///
/// # Errors
///
/// Returns the first breach that is found.
pub fn check<S: State>(state: &S) -> Result<(), Breach> {
    let mut text = Text { bytes: [0; MAX_STATE], length: 0 };
    if write!(text, "{}", Written(state)).is_err() {
        return Err(Breach::Malformed);
    }
    if text.length > S::MAX_FIELDS {
        return Err(Breach::TooLong(text.length, S::MAX_FIELDS));
    }
    let text = text.bytes.get(..text.length).unwrap_or_default();
    let fields = Fields::new(text);
    if let Some(key) = RESERVED.into_iter().find(|key| fields.get(key).is_some()) {
        return Err(Breach::Reserved(key));
    }
    if let Some(key) = fields.unknown_key() {
        return Err(Breach::Marked(UnknownKey::new(key)));
    }
    let is_field =
        |word: &[u8]| word.iter().position(|byte| *byte == b'=').is_some_and(|at| at > 0);
    let is_plain = text.iter().all(|byte| !byte.is_ascii_control());
    if !(text.is_empty() || is_plain && text.split(|byte| *byte == b' ').all(is_field)) {
        return Err(Breach::Malformed);
    }
    match S::read(fields) {
        Ok(read) if read == *state => Ok(()),
        Ok(_) => Err(Breach::Differs),
        Err(missing) => Err(Breach::Unread(missing)),
    }
}

/// In a debug build, stops the program if the state breaks its contract.
///
/// # Panics
///
/// Only in a debug build.
#[allow(clippy::panic, reason = "the author of the state sees at once what it breaks")]
pub fn hold<S: State>(state: &S) {
    if cfg!(debug_assertions) {
        if let Err(breach) = check(state) {
            panic!("{}: {breach}", S::NAME);
        }
    }
}

/// The fields of a state.
struct Written<'a, S>(&'a S);

impl<S: State> fmt::Display for Written<'_, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.write_fields(f)
    }
}

/// The beginning of a text, and the length of all of it.
struct Text {
    bytes: [u8; MAX_STATE],
    length: usize,
}

impl fmt::Write for Text {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let end = self.length.saturating_add(text.len());
        if let Some(room) = self.bytes.get_mut(self.length..end) {
            room.copy_from_slice(text.as_bytes());
        }
        self.length = end;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::counter::{Command, Counter, Reply};
    use crate::realtime::Realtime;
    use crate::record::{BootId, Record, Unlogged};
    use crate::schedule::{Monotonic, Period};
    use crate::timeline::Snapshot;
    use crate::wire::manifest::Manifest;
    use crate::wire::request::{Accepts, Request};
    use std::string::{String, ToString};
    use std::vec::Vec;

    /// A counter that writes what the number says.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
    struct Liar(u64);

    impl State for Liar {
        type Command = Command;
        type Reply = Reply;

        const NAME: &'static str = "liar";
        const EXPECTED: &'static str = Counter::EXPECTED;
        const MAX_FIELDS: usize = 12;
        const MAX_REPLY: usize = Counter::MAX_REPLY;

        fn read(fields: Fields<'_>) -> Result<Self, MissingField> {
            fields.number_or("n", 0).map(Self)
        }
        fn write_fields(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(match self.0 {
                0 => "",
                1 => "n=1",
                2 => "n=2 lock=1",
                3 => "n=3 crc=0",
                4 => "n=4 text=long",
                5 => "n=5  m=1",
                6 => "n=6 m",
                7 => "n=7\n",
                8 => "m=8 n=",
                9 => "m=9",
                11 => "n=11 !m=1",
                _ => return Err(fmt::Error),
            })
        }
        fn command(line: &[u8]) -> Result<Command, &'static str> {
            Counter::command(line)
        }
        fn apply(&mut self, command: Command) -> Reply {
            Counter::default().apply(command)
        }
        fn tick(&mut self) {}
    }

    fn snapshot(state: Liar) -> Snapshot<Liar> {
        let period = Period::from_millis(100).expect("not zero");
        Snapshot { state, deadline: Monotonic::from_nanos(5), period }
    }

    #[test]
    fn each_breach_of_the_contract_is_found() {
        for (number, found) in [
            (0, Ok(())),
            (1, Ok(())),
            (2, Err(Breach::Reserved("lock"))),
            (3, Err(Breach::Reserved("crc"))),
            (4, Err(Breach::TooLong(13, 12))),
            (5, Err(Breach::Malformed)),
            (6, Err(Breach::Malformed)),
            (7, Err(Breach::Malformed)),
            (8, Err(Breach::Unread(MissingField("n")))),
            (9, Err(Breach::Differs)),
            (10, Err(Breach::Malformed)),
            (11, Err(Breach::Marked(UnknownKey::new(b"!m")))),
        ] {
            assert_eq!(check(&Liar(number)), found, "{number}");
        }
        assert_eq!(check(&Counter { next: u64::MAX }), Ok(()));
    }

    #[test]
    #[should_panic = "liar: State::write_fields writes the key 'lock', which is reserved"]
    fn a_debug_build_stops_before_it_writes_a_breach() {
        let _ = snapshot(Liar(2)).to_string();
    }

    #[test]
    fn every_key_of_a_line_or_a_record_is_reserved() {
        let snapshot = snapshot(Liar(0));
        let manifest =
            Manifest { snapshot, lock: true, listeners: 1, owned: 1, clients: 1, named: 1 };
        let boot = BootId::parse(&[b'a'; 36]).expect("the kernel's form");
        let (unlogged, realtime) = (Unlogged::default(), Some(Realtime::from_nanos(1)));
        let record = Record { sequence: 1, unlogged, realtime, snapshot }.encode(&boot);
        let request = Request::new::<Liar>(Accepts("can0"), Some("/run/a"));
        let text: Vec<String> = [
            manifest.to_string(),
            String::from_utf8(record.to_vec()).expect("text"),
            request.line::<Liar>().to_string(),
        ]
        .into();
        let keys: Vec<_> = text
            .iter()
            .flat_map(|line| line.split(' '))
            .filter_map(|word| word.split_once('='))
            .map(|(key, _)| key)
            .collect();
        assert!(keys.len() >= 18, "{keys:?}");
        for key in keys {
            assert!(RESERVED.contains(&key), "{key}");
        }
    }
}
