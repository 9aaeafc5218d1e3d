// SPDX-License-Identifier: Apache-2.0
//! Exchange: what predecessor and successor say to each other.
//!
//! Lines of text on a stream socket (S the successor, P the predecessor):
//!
//! ```text
//! S -> P   handoff 1 listener=/run/early-service/early-service.sock
//! P -> S   state 1 counter=137 deadline_ns=… period_ns=… lock=1 listeners=2 clients=3
//! P -> S   client input=7 replies=0 ended=0 closing=0        once for each client, and its bytes
//! P -> S   end
//! S -> P   prepared
//! P -> S   commit
//! S -> P   done
//! P -> S   logged
//! ```
//!
//! Descriptors travel beside the lines (`SCM_RIGHTS` in unix(7)): first the listeners, then the
//! clients in the order of their lines, and with `end` the lock's.
//! How many there must be is said in the text, for the kernel drops some without a word when the
//! receiver's table is full.
//! `logged` says that none of the predecessor's last ticks waits to be written, just before it exits;
//! without it, the successor names the numbers that may be missing.
//! Either side may say `abort` with a reason: the predecessor before `commit`, the successor before
//! `done`.
//! Who is not the only one to ask reads `busy`; who may not ask, `Permission denied`.
//!
//! The successor names the listener that it will serve on, so that the predecessor leaves its file
//! where it is; other listeners are handed over for those who wait in their backlogs.
//! It is the listener by which the successor came, and the predecessor takes it for that, however the
//! path is spelled: a path that does not fit a line, such as one with a newline in it, is sent empty.
//!
//! Keys that are not known are ignored, and one that is needed and missing is named in the `abort`:
//! different releases on the two sides are the normal case, for an update changes the root
//! filesystem first and the initrd later.
//!
//! **Invariant:** every message formats to a line that reads the same.

use core::fmt::{self, Write as _};
use core::str;

use crate::bounds::{Bounds, MAX_HANDOFF_LINE};
use crate::state::State;
use crate::timeline::{FieldError, Snapshot};
use crate::wire::fields::{Fields, MissingField, number};

/// The most descriptors beside one message: the kernel takes up to 253 (`SCM_MAX_FD`).
pub const MAX_DESCRIPTORS: usize = 64;

/// The line with which the successor of the C program's second form asks: the answer is one NUL
/// byte beside the listener's descriptor, the state as text, and the end of the connection.
pub const PASS_STATE: &str = "pass_state_and_terminate";

/// The reply to a process that may not have the state.
pub const DENIED: &str = "Permission denied";

/// The reply to a legacy successor while another process adopts the state.
pub const BUSY: &str = "Busy: another process is adopting";

/// How a successor asks for the state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request<'a> {
    /// `handoff 1`: the exchange of this module.
    Exchange {
        /// The path of the socket that the successor goes on serving, if it is one of ours; empty if
        /// it is only known to be the one by which the successor came.
        listener: Option<&'a str>,
    },
    /// [`PASS_STATE`].
    ListenerAndState,
    /// The state's own older line, which this is ([`State::HAND_OVER`]).
    State(&'static str),
}

impl<'a> Request<'a> {
    /// Reads one line without its end; `None` where it asks for something else.
    ///
    /// A newer version is welcome: the answer says which one we speak.
    #[must_use]
    pub fn parse<S: State>(line: &'a [u8]) -> Option<Self> {
        if line == S::HAND_OVER.as_bytes() {
            return Some(Self::State(S::HAND_OVER));
        }
        if line == PASS_STATE.as_bytes() {
            return Some(Self::ListenerAndState);
        }
        let rest = line.strip_prefix(b"handoff ")?;
        let end = rest.iter().position(|byte| *byte == b' ').unwrap_or(rest.len());
        let (version, rest) = rest.split_at_checked(end)?;
        number(version).filter(|version| *version > 0)?;
        let rest = str::from_utf8(rest).unwrap_or_default();
        Some(Self::Exchange { listener: rest.split_once(LISTENER).map(|(_, path)| path) })
    }
}

/// A path may hold spaces, so it is the last field and ends with the line.
const LISTENER: &str = " listener=";

impl fmt::Display for Request<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::State(line) => f.write_str(line),
            Self::ListenerAndState => f.write_str(PASS_STATE),
            Self::Exchange { listener: None } => f.write_str("handoff 1"),
            Self::Exchange { listener: Some(path) } => write!(f, "handoff 1{LISTENER}{path}"),
        }
    }
}

/// The first line of the predecessor's answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offer<S> {
    /// The state and its rhythm.
    pub snapshot: Snapshot<S>,
    /// Whether the lock's descriptor comes with the last line.
    pub lock: bool,
    /// How many listeners come along.
    pub listeners: u64,
    /// How many clients come along.
    pub clients: u64,
}

/// What stands before the bytes of one client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Client {
    /// How many bytes follow that were read and not yet answered.
    pub input: u64,
    /// How many bytes of replies follow after those.
    pub replies: u64,
    /// Whether the client has ended its input.
    pub ended: bool,
    /// Whether the connection is to be closed once the replies are sent.
    pub closing: bool,
}

/// A line of the exchange after the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Message<'a, S> {
    /// `state 1 …`: what the predecessor offers.
    State(Offer<S>),
    /// `client …`: one client, whose bytes follow the line.
    Client(Client),
    /// `end`: all has been sent.
    End,
    /// `prepared`: all is here.
    Prepared,
    /// `commit`: the successor is the owner.
    Commit,
    /// `done`: the successor serves.
    Done,
    /// `logged`: the predecessor's log is written.
    Logged,
    /// `abort`, with a reason for the other side's log; it is cut where it does not fit the line.
    Abort(&'a [u8]),
    /// `busy`: another process is adopting.
    Busy,
    /// [`DENIED`].
    Denied,
}

/// A line that is no message of the exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ParseError {
    /// It begins like none of them.
    Unknown,
    /// It is one, without something that it needs, or with a period that no owner can have.
    Field(FieldError),
}

impl fmt::Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown => f.write_str("it is no message of the handoff"),
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
    /// Says what is wrong with it; nothing is half accepted.
    pub fn parse(line: &'a [u8]) -> Result<Self, ParseError> {
        match line {
            b"end" => return Ok(Self::End),
            b"prepared" => return Ok(Self::Prepared),
            b"commit" => return Ok(Self::Commit),
            b"done" => return Ok(Self::Done),
            b"logged" => return Ok(Self::Logged),
            b"abort" => return Ok(Self::Abort(b"")),
            b"busy" => return Ok(Self::Busy),
            denied if denied == DENIED.as_bytes() => return Ok(Self::Denied),
            _ => {}
        }
        let reason = line.strip_prefix(ABORT.as_bytes());
        if let Some(reason) = reason.filter(|reason| !reason.is_empty()) {
            return Ok(Self::Abort(reason));
        }
        let fields = Fields::new(line);
        if line.starts_with(b"state 1 ") {
            return Ok(Self::State(Offer {
                snapshot: Snapshot::read(fields)?,
                lock: fields.flag("lock")?,
                listeners: fields.number("listeners")?,
                clients: fields.number("clients")?,
            }));
        }
        if line.starts_with(b"client ") {
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
            Self::State(Offer { snapshot, lock, listeners, clients }) => {
                let lock = u8::from(*lock);
                write!(f, "state 1 {snapshot} lock={lock} listeners={listeners} clients={clients}")
            }
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
            Self::Abort(reason) => write!(f, "{ABORT}{}", Printable(fitting(reason))),
            Self::Busy => f.write_str("busy"),
            Self::Denied => f.write_str(DENIED),
        }
    }
}

/// Precedes the reason of an abort.
const ABORT: &str = "abort ";

/// As much of a reason as a line has room for, once it is escaped.
fn fitting(reason: &[u8]) -> &[u8] {
    let mut room = MAX_HANDOFF_LINE.saturating_sub(ABORT.len());
    let is_beyond = |byte: &u8| match room.checked_sub(Printable::width(*byte)) {
        Some(left) => {
            room = left;
            false
        }
        None => true,
    };
    let end = reason.iter().position(is_beyond).unwrap_or(reason.len());
    reason.get(..end).unwrap_or_default()
}

/// What the other side said, fit for one line of a log: what is not printable ASCII is escaped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Printable<'a>(pub &'a [u8]);

impl Printable<'_> {
    /// How many bytes stand for this one.
    fn width(byte: u8) -> usize {
        match byte {
            b' '..=b'~' => 1,
            _ => byte.escape_ascii().len(),
        }
    }
}

impl fmt::Display for Printable<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for byte in self.0 {
            match byte {
                b' '..=b'~' => f.write_char(char::from(*byte))?,
                _ => byte.escape_ascii().fmt(f)?,
            }
        }
        Ok(())
    }
}

/// What the bytes read so far begin with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framed<'a> {
    /// A whole line, without its end, and how many bytes it takes with its end.
    Line(&'a [u8], usize),
    /// Not yet a whole line: read on.
    Partial,
    /// More than [`MAX_HANDOFF_LINE`] bytes without an end: the other side speaks something else.
    TooLong,
}

/// Finds the first line in `bytes`; only `\n` ends it, for a line that was cut may have lost digits.
#[must_use]
pub fn split_line(bytes: &[u8]) -> Framed<'_> {
    let window = bytes.get(..MAX_HANDOFF_LINE.saturating_add(1)).unwrap_or(bytes);
    match window.iter().position(|byte| *byte == b'\n').and_then(|at| window.split_at_checked(at)) {
        Some((line, _)) => {
            let taken = line.len().saturating_add(1);
            Framed::Line(line.strip_suffix(b"\r").unwrap_or(line), taken)
        }
        None if bytes.len() > MAX_HANDOFF_LINE => Framed::TooLong,
        None => Framed::Partial,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::counter::Counter;
    use crate::schedule::{Monotonic, Period};
    use std::string::ToString;

    const OFFER: &str =
        "state 1 counter=137 deadline_ns=5 period_ns=7000000 lock=1 listeners=2 clients=3";

    fn offer() -> Offer<Counter> {
        let snapshot = Snapshot {
            state: Counter { next: 137 },
            deadline: Monotonic::from_nanos(5),
            period: Period::from_millis(7).expect("not zero"),
        };
        Offer { snapshot, lock: true, listeners: 2, clients: 3 }
    }

    #[test]
    fn every_message_formats_to_a_line_that_reads_the_same() {
        let client = Client { input: 7, replies: u64::MAX, ended: true, closing: false };
        for message in [
            Message::State(offer()),
            Message::Client(client),
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
        assert_eq!(Message::State(offer()).to_string(), OFFER);
    }

    #[test]
    fn a_reason_is_cut_to_what_a_line_has_room_for() {
        for (reason, shown) in [
            ([b'x'; MAX_HANDOFF_LINE], "x".repeat(MAX_HANDOFF_LINE - 6)),
            ([b'\n'; MAX_HANDOFF_LINE], "\\n".repeat((MAX_HANDOFF_LINE - 6) / 2)),
            ([0xff; MAX_HANDOFF_LINE], "\\xff".repeat((MAX_HANDOFF_LINE - 6) / 4)),
        ] {
            assert_eq!(Message::<Counter>::Abort(&reason).to_string(), ["abort ", &shown].concat());
        }
    }

    #[test]
    fn what_cannot_be_printed_is_escaped_and_nothing_else() {
        let said = Printable(b"it's \"5\" \x1b[31m\xff\n").to_string();
        assert_eq!(said, "it's \"5\" \\x1b[31m\\xff\\n");
    }

    #[test]
    fn a_key_of_another_release_is_ignored_and_one_that_is_missing_is_named() {
        let newer = OFFER.replace("lock=1", "mood=good lock=1");
        assert_eq!(Message::parse(newer.as_bytes()), Ok(Message::State(offer())));
        for key in ["counter", "deadline_ns", "period_ns", "lock", "listeners", "clients"] {
            let older = OFFER.replace(key, "other");
            let error = Message::<Counter>::parse(older.as_bytes()).expect_err("a key is missing");
            assert_eq!(error, ParseError::Field(FieldError::MissingField(MissingField(key))));
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

    #[test]
    fn a_request_is_one_of_three() {
        let (plain, path) = (None, Some("/run/a b.sock"));
        for (line, request) in [
            ("handoff 1", Some(Request::Exchange { listener: plain })),
            ("handoff 1 listener=/run/a b.sock", Some(Request::Exchange { listener: path })),
            ("handoff 2 later=1", Some(Request::Exchange { listener: plain })),
            (
                "handoff 2 later=1 listener=/run/a b.sock",
                Some(Request::Exchange { listener: path }),
            ),
            ("handoff 1 listener=", Some(Request::Exchange { listener: Some("") })),
            ("handoff 1 listener", Some(Request::Exchange { listener: plain })),
            ("handoff 0", None),
            ("handoff", None),
            ("handoff one", None),
            ("get_counter_and_terminate", Some(Request::State(Counter::HAND_OVER))),
            ("pass_state_and_terminate", Some(Request::ListenerAndState)),
            ("get_counter", None),
        ] {
            assert_eq!(Request::parse::<Counter>(line.as_bytes()), request, "{line:?}");
        }
        for line in [
            "handoff 1",
            "handoff 1 listener=",
            "handoff 1 listener=/run/a b.sock",
            PASS_STATE,
            Counter::HAND_OVER,
        ] {
            let request = Request::parse::<Counter>(line.as_bytes()).expect("a request");
            assert_eq!(request.to_string(), line);
        }
    }

    #[test]
    fn a_line_ends_with_a_newline_and_nothing_else() {
        let long = [b'x'; MAX_HANDOFF_LINE + 1];
        for (bytes, expected) in [
            (&b"end\nrest"[..], Framed::Line(b"end", 4)),
            (b"end\r\n", Framed::Line(b"end", 5)),
            (b"en", Framed::Partial),
            (b"", Framed::Partial),
            (&long[..MAX_HANDOFF_LINE], Framed::Partial),
            (&long, Framed::TooLong),
        ] {
            assert_eq!(split_line(bytes), expected);
        }
    }
}
