// SPDX-License-Identifier: Apache-2.0
//! Messages of a handoff between predecessor and successor.
//!
//! Lines of text on a stream socket (S the successor, P the predecessor):
//!
//! ```text
//! S -> P   handoff 1 listener=/run/early-service/early-service.sock
//! P -> S   state 1 counter=137 deadline_ns=… period_ns=… lock=1 listeners=2 clients=3
//! P -> S   client input=7 replies=0 ended=0 closing=0        for each client, before its bytes
//! P -> S   named watchdog                                    for each descriptor with a name
//! P -> S   end
//! S -> P   prepared
//! P -> S   commit
//! S -> P   done
//! P -> S   logged
//! ```
//!
//! The first line is a [`Request`](crate::wire::request::Request), the second one a [`Manifest`].
//! Descriptors travel beside the lines (`SCM_RIGHTS` in unix(7)), in this order: the listeners with
//! `state`, each client and each named descriptor with its line, and the lock with `end`.
//!
//! `logged` means that all of the predecessor's ticks are in the log; it is sent just before the
//! predecessor exits. If it does not arrive, the successor logs which numbers may be missing.
//!
//! A service that is not [`DEFAULT`](crate::wire::service::DEFAULT) names itself in the first two
//! lines, and refuses another one.
//!
//! Either side may send `abort` with a reason: the predecessor before `commit`, the successor
//! before `done`. A second successor receives `busy`; one without permission receives [`DENIED`].
//!
//! Unknown keys are ignored or refused by the rule of [`fields`](crate::wire::fields), and the
//! `abort` names a missing or refused key. Different releases on the two sides are normal, because
//! an update changes the root filesystem first and the initrd later.
//!
//! **Invariant:** every message is formatted as a line that is parsed to the same message.

use core::fmt;

use crate::bounds::{Bounds, MAX_SHORT_LINE};
use crate::state::State;
use crate::timeline::FieldError;
use crate::wire::fields::{Fields, MissingField, UnknownKey};
use crate::wire::framing::Printable;
use crate::wire::manifest::{Manifest, Name};

/// The reply to a process that may not receive the state.
pub const DENIED: &str = "Permission denied";

/// The reply to a successor while another process adopts the state.
pub const BUSY: &str = "busy";

/// The description of one client; its bytes follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Client {
    /// How many bytes of unanswered input follow.
    pub input: u64,
    /// How many bytes of unsent replies follow after them.
    pub replies: u64,
    /// Whether the client has ended its input.
    pub ended: bool,
    /// Whether the connection is closed once the replies are sent.
    pub closing: bool,
}

/// A line of a handoff after the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Message<'a, S> {
    /// `state 1 …`: what the predecessor offers.
    State(Manifest<S>),
    /// `client …`: one client, whose bytes follow the line.
    Client(Client),
    /// `named …`: the name of a descriptor sent with the line.
    Named(Name<'a>),
    /// `end`: everything has been sent.
    End,
    /// `prepared`: the successor has everything.
    Prepared,
    /// `commit`: the successor is the owner.
    Commit,
    /// `done`: the successor serves.
    Done,
    /// `logged`: all of the predecessor's ticks are in the log.
    Logged,
    /// `abort`, with a reason that the other side logs; a reason too long for the line is cut.
    Abort(&'a [u8]),
    /// `busy`: another process is adopting.
    Busy,
    /// [`DENIED`].
    Denied,
}

/// A line that is not a message of a handoff.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ParseError {
    /// It begins like no message.
    Unknown,
    /// A field is missing, or has a value that no owner can have written.
    Field(FieldError),
}

impl fmt::Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown => f.write_str("it is no message of the handoff"),
            Self::Field(error @ FieldError::Service(_)) => error.fmt(f),
            Self::Field(error) => write!(f, "it has {error}"),
        }
    }
}

impl From<FieldError> for ParseError {
    fn from(error: FieldError) -> Self {
        Self::Field(error)
    }
}

impl From<MissingField> for ParseError {
    fn from(missing: MissingField) -> Self {
        Self::Field(missing.into())
    }
}

impl<'a, S: State> Message<'a, S> {
    /// Reads one line without its end.
    ///
    /// # Errors
    ///
    /// Returns what is wrong with the line. No part of such a line is used.
    pub fn parse(line: &'a [u8]) -> Result<Self, ParseError> {
        match line {
            b"end" => return Ok(Self::End),
            b"prepared" => return Ok(Self::Prepared),
            b"commit" => return Ok(Self::Commit),
            b"done" => return Ok(Self::Done),
            b"logged" => return Ok(Self::Logged),
            b"abort" => return Ok(Self::Abort(b"")),
            busy if busy == BUSY.as_bytes() => return Ok(Self::Busy),
            denied if denied == DENIED.as_bytes() => return Ok(Self::Denied),
            _ => {}
        }
        let reason = line.strip_prefix(ABORT.as_bytes());
        if let Some(reason) = reason.filter(|reason| !reason.is_empty()) {
            return Ok(Self::Abort(reason));
        }
        let fields = Fields::new(line);
        if let Some(manifest) = Manifest::parse(line) {
            return Ok(Self::State(manifest?));
        }
        if let Some(name) = line.strip_prefix(NAMED.as_bytes()) {
            return Name::parse(name).map(Self::Named).ok_or(ParseError::Unknown);
        }
        if line.starts_with(b"client ") {
            if let Some(key) = fields.unknown_key() {
                return Err(FieldError::UnknownKey(UnknownKey::new(key)).into());
            }
            return Ok(Self::Client(Client {
                input: fields.number("input")?,
                replies: fields.number("replies")?,
                ended: fields.flag("ended")?,
                closing: fields.flag("closing")?,
            }));
        }
        Err(ParseError::Unknown)
    }
}

impl<S: State> fmt::Display for Message<'_, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let () = Bounds::<S>::HOLD;
        match self {
            Self::State(manifest) => manifest.fmt(f),
            Self::Named(name) => write!(f, "{NAMED}{name}"),
            Self::Client(Client { input, replies, ended, closing }) => {
                let (ended, closing) = (u8::from(*ended), u8::from(*closing));
                write!(f, "client input={input} replies={replies} ended={ended} closing={closing}")
            }
            Self::End => f.write_str("end"),
            Self::Prepared => f.write_str("prepared"),
            Self::Commit => f.write_str("commit"),
            Self::Done => f.write_str("done"),
            Self::Logged => f.write_str("logged"),
            Self::Abort(b"") => f.write_str("abort"),
            Self::Abort(reason) => {
                let room = MAX_SHORT_LINE.saturating_sub(ABORT.len());
                write!(f, "{ABORT}{}", Printable::fitting(reason, room))
            }
            Self::Busy => f.write_str(BUSY),
            Self::Denied => f.write_str(DENIED),
        }
    }
}

/// Precedes the name of a descriptor.
const NAMED: &str = "named ";

/// Precedes the reason of an abort.
const ABORT: &str = "abort ";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::counter::Counter;
    use crate::schedule::{Monotonic, Period};
    use crate::timeline::Snapshot;
    use std::string::ToString;

    const OFFER: &str =
        "state 1 counter=137 deadline_ns=5 period_ns=7000000 lock=1 listeners=2 clients=3";

    fn manifest() -> Manifest<Counter> {
        let snapshot = Snapshot {
            state: Counter { next: 137 },
            deadline: Monotonic::from_nanos(5),
            period: Period::from_millis(7).expect("not zero"),
        };
        Manifest { snapshot, lock: true, listeners: 2, owned: 0, clients: 3, named: 0 }
    }

    #[test]
    fn every_message_formats_to_a_line_that_reads_the_same() {
        let client = Client { input: 7, replies: u64::MAX, ended: true, closing: false };
        for message in [
            Message::State(manifest()),
            Message::Client(client),
            Message::Named(Name::parse(b"can0").expect("a name")),
            Message::End,
            Message::Prepared,
            Message::Commit,
            Message::Done,
            Message::Logged,
            Message::Abort(b""),
            Message::Abort(b"the state has no valid counter"),
            Message::Abort(b"cannot understand 'state 1\\x00'"),
            Message::Busy,
            Message::Denied,
        ] {
            assert_eq!(Message::parse(message.to_string().as_bytes()), Ok(message), "{message}");
        }
        assert_eq!(Message::State(manifest()).to_string(), OFFER);
    }

    #[test]
    fn a_reason_is_cut_to_what_a_line_has_room_for() {
        for (reason, shown) in [
            ([b'x'; MAX_SHORT_LINE], "x".repeat(MAX_SHORT_LINE - 6)),
            ([b'\n'; MAX_SHORT_LINE], "\\n".repeat((MAX_SHORT_LINE - 6) / 2)),
            ([0xff; MAX_SHORT_LINE], "\\xff".repeat((MAX_SHORT_LINE - 6) / 4)),
        ] {
            assert_eq!(Message::<Counter>::Abort(&reason).to_string(), ["abort ", &shown].concat());
        }
    }

    #[test]
    fn what_is_no_message_is_refused() {
        let lock = OFFER.replace("lock=1", "lock=2");
        let period = OFFER.replace("period_ns=7000000", "period_ns=0");
        let shorter = OFFER.replace("period_ns=7000000", "period_ns=999999");
        let longer = OFFER.replace("period_ns=7000000", "period_ns=4294967295000001");
        let client = "client input=-1 replies=0 ended=0 closing=0";
        for line in [
            "",
            "state",
            "state 2 x",
            "named",
            "named a b",
            "End",
            "prepared ",
            "abort ",
            &lock,
            &period,
            &shorter,
            &longer,
            client,
        ] {
            assert!(Message::<Counter>::parse(line.as_bytes()).is_err(), "{line:?}");
        }
    }
}
