// SPDX-License-Identifier: Apache-2.0
//! Request: the line by which a successor asks for the state.
//!
//! ```text
//! handoff 1 listener=/run/early-service/early-service.sock
//! handoff 1 accepts=watchdog,can0 listener=
//! handoff 1 service=door listener=
//! ```
//!
//! `listener` is the path of the socket that the successor continues to serve, so that the
//! predecessor leaves its file in place. It is empty if the path does not fit [`MAX_COMMAND_LINE`]
//! or cannot be written in a line. It then means the socket to which the successor has connected.
//!
//! Every release accepts the lock, listeners and clients. `accepts` names whatever else the
//! successor accepts; nothing else is ever sent to it.

use core::fmt;
use core::str;

use crate::bounds::{MAX_COMMAND_LINE, MAX_NAME, MAX_NAMED};
use crate::state::State;
use crate::wire::fields::{Fields, number};
use crate::wire::legacy::Legacy;
use crate::wire::service::{DEFAULT, KEY, ServiceField};

/// The version of the handoff that this release speaks.
pub const VERSION: u64 = 1;

/// How a successor asks for the state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request<'a> {
    /// `handoff 1 …`: by the messages of [`handoff`](crate::wire::handoff).
    Handoff {
        /// The version that the successor speaks, at least 1.
        ///
        /// A newer version is accepted, because the answer contains the predecessor's version.
        version: u64,
        /// The name of the successor's service.
        service: &'a str,
        /// What the successor accepts besides the lock, listeners and clients.
        accepts: Accepts<'a>,
        /// A key that must be understood ([`fields`](crate::wire::fields)), so that the request is
        /// refused.
        unknown: Option<&'a str>,
        /// The path of the socket that the successor continues to serve, if it is the
        /// predecessor's; empty for the socket to which the successor has connected.
        listener: Option<&'a str>,
    },
    /// By a line of the C programs.
    Legacy(Legacy),
}

/// Names of descriptors that a successor accepts, separated by commas.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Accepts<'a>(pub &'a str);

impl Accepts<'_> {
    /// Whether there are at most [`MAX_NAMED`] names of at most [`MAX_NAME`] bytes that fit a
    /// request of the service.
    #[must_use]
    pub const fn is_valid<S: State>(self) -> bool {
        let mut names = self.0.as_bytes();
        let fits = self.length() <= room::<S>();
        let (mut count, mut length) = (1_u64, 0_usize);
        while let Some((first, rest)) = names.split_first() {
            if *first == b',' {
                (count, length) = (count.saturating_add(1), 0);
            } else {
                length = length.saturating_add(1);
            }
            if length > MAX_NAME || count > MAX_NAMED {
                return false;
            }
            names = rest;
        }
        fits
    }

    /// The length of the field, with a space before it.
    const fn length(self) -> usize {
        match self.0.len() {
            0 => 0,
            length => length.saturating_add(ACCEPTS.len()).saturating_add(" =".len()),
        }
    }

    /// Whether a descriptor of this name may be sent.
    #[must_use]
    pub fn has(self, name: &str) -> bool {
        !name.is_empty() && self.0.split(',').any(|accepted| accepted == name)
    }
}

/// The key of the names that the successor accepts.
const ACCEPTS: &str = "accepts";

/// A path may contain spaces, so it is the last field and ends with the line.
const LISTENER: &str = " listener=";

/// The bytes for the names, their key and the path in a request of the service.
const fn room<S: State>() -> usize {
    const ROOM: usize = MAX_COMMAND_LINE - "handoff 1".len() - LISTENER.len();
    ROOM.saturating_sub(ServiceField(S::NAME).length())
}

impl<'a> Request<'a> {
    /// The request of this release, with an empty `path` if the line would be too long.
    #[must_use]
    pub fn new<S: State>(accepts: Accepts<'a>, path: Option<&'a str>) -> Self {
        let room = room::<S>().saturating_sub(accepts.length());
        let fits = |path: &str| path.len() <= room;
        let listener = path.map(|path| if fits(path) { path } else { "" });
        Self::Handoff { version: VERSION, service: S::NAME, accepts, unknown: None, listener }
    }

    /// Reads one line without its end; `None` if it is no request.
    #[must_use]
    pub fn parse<S: State>(line: &'a [u8]) -> Option<Self> {
        if let Some(legacy) = Legacy::parse::<S>(line) {
            return Some(Self::Legacy(legacy));
        }
        let rest = line.strip_prefix(b"handoff ")?;
        let end = rest.iter().position(|byte| *byte == b' ').unwrap_or(rest.len());
        let (version, rest) = rest.split_at_checked(end)?;
        let version = number(version).filter(|version| *version > 0)?;
        let rest = str::from_utf8(rest).unwrap_or_default();
        let (fields, listener) = match rest.split_once(LISTENER) {
            Some((fields, path)) => (fields, Some(path)),
            None => (rest, None),
        };
        let find = |key: &str| {
            fields.split(' ').find_map(|field| field.strip_prefix(key)?.strip_prefix('='))
        };
        let accepts = Accepts(find(ACCEPTS).unwrap_or_default());
        let service = find(KEY).unwrap_or(DEFAULT);
        let unknown = Fields::new(fields.as_bytes()).unknown_key();
        let unknown = unknown.and_then(|key| str::from_utf8(key).ok());
        Some(Self::Handoff { version, service, accepts, unknown, listener })
    }

    /// The line of the request, without its end.
    #[must_use]
    pub const fn line<S: State>(self) -> Line<'a, S> {
        Line(self, core::marker::PhantomData)
    }
}

/// The text form of a [`Request`].
#[derive(Clone, Copy, Debug)]
pub struct Line<'a, S>(Request<'a>, core::marker::PhantomData<S>);

impl<S: State> fmt::Display for Line<'_, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Request::Legacy(legacy) => f.write_str(legacy.line::<S>()),
            Request::Handoff { version, service, accepts, unknown, listener } => {
                write!(f, "handoff {version}{}", ServiceField(service))?;
                if !accepts.0.is_empty() {
                    write!(f, " {ACCEPTS}={}", accepts.0)?;
                }
                if let Some(key) = unknown {
                    write!(f, " {key}")?;
                }
                listener.map_or(Ok(()), |path| write!(f, "{LISTENER}{path}"))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::counter::Counter;
    use std::string::ToString;

    fn handoff<'a>(
        version: u64,
        accepts: &'a str,
        listener: Option<&'a str>,
    ) -> Option<Request<'a>> {
        let (service, accepts, unknown) = (DEFAULT, Accepts(accepts), None);
        Some(Request::Handoff { version, service, accepts, unknown, listener })
    }

    #[test]
    fn a_request_is_one_of_three() {
        let path = Some("/run/a b.sock");
        for (line, request) in [
            ("handoff 1", handoff(1, "", None)),
            ("handoff 1 listener=/run/a b.sock", handoff(1, "", path)),
            ("handoff 2 later=1", handoff(2, "", None)),
            ("handoff 2 later=1 listener=/run/a b.sock", handoff(2, "", path)),
            ("handoff 1 accepts=a,b listener=/run/a b.sock", handoff(1, "a,b", path)),
            ("handoff 1 accepts=a", handoff(1, "a", None)),
            ("handoff 1 listener=x accepts=a", handoff(1, "", Some("x accepts=a"))),
            ("handoff 1 listener=", handoff(1, "", Some(""))),
            ("handoff 1 listener", handoff(1, "", None)),
            ("handoff 0", None),
            ("handoff", None),
            ("handoff one", None),
            ("get_counter_and_terminate", Some(Request::Legacy(Legacy::Value))),
            ("pass_state_and_terminate", Some(Request::Legacy(Legacy::ListenerAndValue))),
            ("get_counter", None),
        ] {
            assert_eq!(Request::parse::<Counter>(line.as_bytes()), request, "{line:?}");
        }
    }

    #[test]
    fn every_request_formats_to_a_line_that_reads_the_same() {
        for line in [
            "handoff 1",
            "handoff 7 listener=",
            "handoff 1 accepts=watchdog,can0",
            "handoff 1 service=door",
            "handoff 2 service=door accepts=watchdog !later listener=/run/a !b.sock",
            "handoff 1 service=door accepts=watchdog listener=/run/a b.sock",
            "handoff 1 accepts=watchdog listener=/run/a b.sock",
            "pass_state_and_terminate",
            Counter::HAND_OVER,
        ] {
            let request = Request::parse::<Counter>(line.as_bytes()).expect("a request");
            assert_eq!(request.line::<Counter>().to_string(), line);
        }
    }

    #[test]
    fn a_path_without_room_beside_the_names_is_left_out() {
        let path = "/".repeat(107);
        for (accepts, listener) in [("", Some(&*path)), ("watchdog", Some(""))] {
            let request = Request::new::<Counter>(Accepts(accepts), Some(&path));
            assert_eq!(Some(request), handoff(VERSION, accepts, listener));
            assert!(request.line::<Counter>().to_string().len() <= MAX_COMMAND_LINE);
        }
    }

    #[test]
    fn names_that_do_not_fit_a_request_are_not_valid() {
        let (name, many) = ("x".repeat(MAX_NAME), ["x"; 17].join(","));
        for (names, is_valid) in [
            ("", true),
            ("watchdog,can0", true),
            (&name, true),
            (&many, false),
            (&many[2..], true),
            (&(name.clone() + "x"), false),
            (&[&*name, &name].join(","), false),
        ] {
            assert_eq!(Accepts(names).is_valid::<Counter>(), is_valid, "{names}");
        }
    }

    #[test]
    fn only_what_is_named_is_accepted() {
        let accepts = Accepts("watchdog,can0");
        assert!(accepts.has("watchdog") && accepts.has("can0"));
        assert!(!accepts.has("can") && !accepts.has("") && !Accepts("").has("can0"));
    }
}
