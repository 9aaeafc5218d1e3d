// SPDX-License-Identifier: Apache-2.0
//! Manifest: the description of a bundle on the wire.
//!
//! A bundle is everything that an owner owns: the state, the state file with its lock, listeners,
//! clients, and named descriptors. The manifest is the first line of an offer and counts them,
//! because the kernel drops descriptors without an error if the receiver's table is full.
//!
//! ```text
//! state 1 counter=137 deadline_ns=… period_ns=… lock=1 listeners=2 clients=3 named=1
//! ```
//!
//! `named` is left out if there are none: release 0.1.0 does not know it and accepts none
//! ([`Accepts`](crate::wire::request::Accepts)). `owned` is sent in a reload only.

use core::fmt;
use core::str;

use crate::bounds::{MAX_NAME, MAX_NAMED};
use crate::state::State;
use crate::timeline::{FieldError, Snapshot};
use crate::wire::fields::Fields;

/// The most descriptors beside one message.
///
/// The kernel allows 253 (`SCM_MAX_FD` in unix(7)); the buffer for them is on the stack.
pub const MAX_DESCRIPTORS: usize = 64;

/// The contents of an offer: the state, and how many descriptors of each kind follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Manifest<S> {
    /// The state and its deadline.
    pub snapshot: Snapshot<S>,
    /// Whether the lock's descriptor is beside the last line.
    pub lock: bool,
    /// How many listeners are beside the first line.
    pub listeners: u64,
    /// How many of them, the first ones, come with their files: the successor removes them at its
    /// end. Others belong to the predecessor or to PID 1.
    pub owned: u64,
    /// How many clients follow, each after its own line.
    pub clients: u64,
    /// How many named descriptors follow, each beside its own line; at most [`MAX_NAMED`].
    pub named: u64,
}

/// Precedes the fields of a manifest.
const STATE: &str = "state 1 ";

impl<S: State> Manifest<S> {
    /// Reads the line of a manifest; `None` if it is another line.
    ///
    /// # Errors
    ///
    /// If a field is missing, or has a value that no owner can have written.
    pub fn parse(line: &[u8]) -> Option<Result<Self, FieldError>> {
        line.starts_with(STATE.as_bytes()).then(|| Self::read(Fields::new(line)))
    }

    fn read(fields: Fields<'_>) -> Result<Self, FieldError> {
        Ok(Self {
            snapshot: Snapshot::read(fields)?,
            lock: fields.flag("lock")?,
            listeners: fields.number("listeners")?,
            owned: fields.number_or("owned", 0)?,
            clients: fields.number("clients")?,
            named: match fields.get("named") {
                Some(_) => fields.number_up_to("named", MAX_NAMED)?,
                None => 0,
            },
        })
    }
}

impl<S: State> fmt::Display for Manifest<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { snapshot, lock, listeners, owned, clients, named } = self;
        let lock = u8::from(*lock);
        write!(f, "{STATE}{snapshot} lock={lock} listeners={listeners} clients={clients}")?;
        if *owned > 0 {
            write!(f, " owned={owned}")?;
        }
        if *named > 0 { write!(f, " named={named}") } else { Ok(()) }
    }
}

/// The name of a descriptor: 1 to [`MAX_NAME`] of the characters A-Z, a-z, 0-9, `.`, `_` and `-`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Name<'a>(&'a str);

impl<'a> Name<'a> {
    /// `None` if `name` is not valid.
    #[must_use]
    pub fn parse(name: &'a [u8]) -> Option<Self> {
        let is_allowed =
            |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
        let fits = (1..=MAX_NAME).contains(&name.len()) && name.iter().all(is_allowed);
        str::from_utf8(name).ok().filter(|_| fits).map(Self)
    }

    /// The name as text.
    #[must_use]
    pub const fn as_str(self) -> &'a str {
        self.0
    }
}

impl fmt::Display for Name<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::counter::Counter;
    use crate::schedule::{Monotonic, Period};
    use crate::wire::fields::MissingField;
    use std::string::ToString;

    const LINE: &str =
        "state 1 counter=137 deadline_ns=5 period_ns=7000000 lock=1 listeners=2 clients=3";

    fn manifest(owned: u64, named: u64) -> Manifest<Counter> {
        let snapshot = Snapshot {
            state: Counter { next: 137 },
            deadline: Monotonic::from_nanos(5),
            period: Period::from_millis(7).expect("not zero"),
        };
        Manifest { snapshot, lock: true, listeners: 2, owned, clients: 3, named }
    }

    #[test]
    fn a_manifest_formats_to_a_line_that_reads_the_same() {
        for (owned, named, more) in [(0, 0, ""), (0, 16, " named=16"), (1, 2, " owned=1 named=2")] {
            let (manifest, line) = (manifest(owned, named), [LINE, more].concat());
            assert_eq!(manifest.to_string(), line);
            assert_eq!(Manifest::parse(line.as_bytes()), Some(Ok(manifest)));
        }
    }

    #[test]
    fn an_unknown_key_is_ignored_and_a_missing_one_is_named() {
        let newer = LINE.replace("lock=1", "mood=good lock=1");
        assert_eq!(Manifest::parse(newer.as_bytes()), Some(Ok(manifest(0, 0))));
        for key in ["counter", "deadline_ns", "period_ns", "lock", "listeners", "clients"] {
            let line = LINE.replace(key, "other");
            let error = Manifest::<Counter>::parse(line.as_bytes());
            assert_eq!(error, Some(Err(FieldError::MissingField(MissingField(key)))));
        }
        let other = [LINE, " service=door"].concat();
        let error = Manifest::<Counter>::parse(other.as_bytes()).and_then(Result::err);
        let error = error.expect("a state of another service").to_string();
        assert_eq!(error, "its state is of service 'door', not 'early-service'");
        let many = [LINE, " named=17"].concat();
        let error = Manifest::<Counter>::parse(many.as_bytes());
        assert_eq!(error, Some(Err(FieldError::MissingField(MissingField("named")))));
    }

    #[test]
    fn a_name_is_short_and_plain() {
        let long = "x".repeat(MAX_NAME);
        for name in ["can0", "A.b_c-1", &long] {
            assert_eq!(Name::parse(name.as_bytes()).map(Name::as_str), Some(name));
        }
        for name in ["", "a b", "a,b", "a=b", "ä", &[&*long, "x"].concat()] {
            assert_eq!(Name::parse(name.as_bytes()), None, "{name:?}");
        }
    }
}
