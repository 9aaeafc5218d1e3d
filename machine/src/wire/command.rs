// SPDX-License-Identifier: Apache-2.0
//! Commands of clients: where a line ends, and which command it is.
//!
//! The protocol consists of lines of text, so that a person can use it with `nc`. The state defines
//! its own commands ([`State::command`]); `status`, `reload` and the handoff are common to all
//! states.
//!
//! Never reads from a socket and never executes a command.
//!
//! **Invariant:** the result does not depend on how the bytes were split into reads. A line is too
//! long as soon as its first excess byte arrives.

use core::fmt;

use crate::bounds::{INVALID_SHOWN, MAX_COMMAND_LINE};
use crate::state::State;
use crate::wire::framing::Framed;
use crate::wire::request::Request;

/// A command of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command<'a, S: State> {
    /// A command of the state.
    State(S::Command),
    /// A successor requests the state.
    HandOver(Request<'a>),
    /// `status`: one line about the process.
    Status,
    /// `reload`: hand over to the program on disk.
    Reload,
}

impl<'a, S: State> Command<'a, S> {
    /// Reads one line without its end.
    ///
    /// # Errors
    ///
    /// [`Invalid`], whose text form is the reply to the client.
    pub fn parse(line: &'a [u8]) -> Result<Self, Invalid<'a>> {
        if let Some(request) = Request::parse::<S>(line) {
            return Ok(Self::HandOver(request));
        }
        match line {
            b"status" => return Ok(Self::Status),
            b"reload" => return Ok(Self::Reload),
            _ => {}
        }
        S::command(line).map(Self::State).map_err(|expected| {
            let hand_over = (expected == S::EXPECTED).then_some(S::HAND_OVER);
            Invalid { line, expected, hand_over }
        })
    }
}

impl<S: State> fmt::Display for Command<'_, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::State(command) => command.fmt(f),
            Self::HandOver(request) => request.line::<S>().fmt(f),
            Self::Status => f.write_str("status"),
            Self::Reload => f.write_str("reload"),
        }
    }
}

/// A line that is not a command.
///
/// Its text form begins with `Invalid command`, by which a successor recognizes that its
/// predecessor supports only a legacy protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Invalid<'a> {
    line: &'a [u8],
    expected: &'static str,
    /// The legacy line for the handoff, if `expected` lists all commands.
    hand_over: Option<&'static str>,
}

impl fmt::Display for Invalid<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (shown, more) = match self.line.split_at_checked(INVALID_SHOWN) {
            Some((shown, rest)) if !rest.is_empty() => (shown, "..."),
            _ => (self.line, ""),
        };
        write!(f, "Invalid command: {}{more}; expected {}", shown.escape_ascii(), self.expected)?;
        match self.hand_over {
            Some("") => f.write_str(", reload or status"),
            Some(hand_over) => write!(f, ", {hand_over}, reload or status"),
            None => Ok(()),
        }
    }
}

/// The reply to a line longer than [`MAX_COMMAND_LINE`]; the connection is then closed.
pub const TOO_LONG: &str = "Line too long: at most 128 bytes";

/// Finds the first line in `bytes`.
///
/// `ended` means that no more bytes follow: a last line without `\n` is then complete.
#[must_use]
pub fn split_line(bytes: &[u8], ended: bool) -> Framed<'_> {
    // The longest line with `\r` and `\n`. Later bytes do not belong to a valid first line.
    let window = bytes.get(..MAX_COMMAND_LINE.saturating_add(2)).unwrap_or(bytes);
    match window.iter().position(|byte| *byte == b'\n').and_then(|at| window.split_at_checked(at)) {
        Some((before, _)) => {
            let line = before.strip_suffix(b"\r").unwrap_or(before);
            if line.len() > MAX_COMMAND_LINE {
                return Framed::TooLong;
            }
            Framed::Line(line, before.len().saturating_add(1))
        }
        None if ended && bytes.len() > MAX_COMMAND_LINE => Framed::TooLong,
        None if ended && !bytes.is_empty() => Framed::Line(bytes, bytes.len()),
        None if bytes.strip_suffix(b"\r").unwrap_or(bytes).len() > MAX_COMMAND_LINE => {
            Framed::TooLong
        }
        None => Framed::Partial,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bounds::MAX_INVALID_REPLY;
    use crate::counter::{self, Counter};
    use crate::wire::legacy::Legacy;
    use crate::wire::request::Accepts;
    use std::string::{String, ToString};
    use std::vec::Vec;

    /// The lines of `input` when it is read in pieces of `size` bytes.
    fn read_in_pieces(input: &[u8], size: usize) -> Vec<String> {
        let (mut kept, mut seen) = (Vec::new(), Vec::new());
        let pieces = input.chunks(size).map(|piece| (piece, false)).chain([(&b""[..], true)]);
        for (piece, ended) in pieces {
            kept.extend_from_slice(piece);
            loop {
                match split_line(&kept, ended) {
                    Framed::Line(line, taken) => {
                        seen.push(line.escape_ascii().to_string());
                        kept.drain(..taken);
                    }
                    Framed::Partial => break,
                    Framed::TooLong => {
                        seen.push(TOO_LONG.to_string());
                        return seen;
                    }
                }
            }
        }
        seen
    }

    #[test]
    fn lines_do_not_depend_on_how_they_are_split() {
        let longest = "x".repeat(MAX_COMMAND_LINE);
        let too_long = "x".repeat(MAX_COMMAND_LINE + 1);
        for (case, input, expected) in [
            ("nothing", String::new(), Vec::new()),
            ("one line", "a\n".into(), ["a"].to_vec()),
            ("carriage return", "a\r\nb\n".into(), ["a", "b"].to_vec()),
            ("carriage return inside", "a\rb\r\r\n".into(), ["a\\rb\\r"].to_vec()),
            ("no newline at the end", "a\nb".into(), ["a", "b"].to_vec()),
            ("empty lines", "\n\r\n".into(), ["", ""].to_vec()),
            ("the longest line", longest.clone() + "\n", [&*longest].to_vec()),
            ("the longest line with both", longest.clone() + "\r\n", [&*longest].to_vec()),
            ("the longest line without an end", longest.clone(), [&*longest].to_vec()),
            ("a byte too many", too_long.clone() + "\n", [TOO_LONG].to_vec()),
            ("a byte too many, carriage return", too_long.clone() + "\r\n", [TOO_LONG].to_vec()),
            ("a byte too many without an end", too_long.clone(), [TOO_LONG].to_vec()),
            (
                "an endless line after a good one",
                "a\n".to_string() + &too_long,
                ["a", TOO_LONG].to_vec(),
            ),
        ] {
            for size in [1, 2, 3, 64, 127, 128, 129, 130, 4096] {
                assert_eq!(read_in_pieces(input.as_bytes(), size), expected, "{case}, by {size}");
            }
        }
    }

    #[test]
    fn every_command_formats_to_a_line_that_reads_the_same() {
        for command in [
            Command::<Counter>::State(counter::Command::Get),
            Command::State(counter::Command::Set(5)),
            Command::HandOver(Request::Legacy(Legacy::Value)),
            Command::HandOver(Request::Handoff {
                version: 1,
                service: "door",
                accepts: Accepts(""),
                unknown: None,
                listener: Some("/run/a"),
            }),
            Command::Status,
            Command::Reload,
        ] {
            assert_eq!(Command::parse(command.to_string().as_bytes()), Ok(command));
        }
    }

    #[test]
    fn an_invalid_line_is_answered_with_what_was_expected() {
        for (line, reply) in [
            (
                &b"nonsense"[..],
                "Invalid command: nonsense; expected get_counter, set_counter N, \
                 get_counter_and_terminate, reload or status",
            ),
            (
                b"set_counter ten",
                "Invalid command: set_counter ten; expected set_counter N with N from 0 to \
                 18446744073709551615",
            ),
            (
                b"\xff\0\n\x1b[2J",
                "Invalid command: \\xff\\x00\\n\\x1b[2J; expected get_counter, set_counter N, \
                 get_counter_and_terminate, reload or status",
            ),
        ] {
            let invalid = Command::<Counter>::parse(line).expect_err("not a command").to_string();
            assert_eq!(invalid, reply);
        }
    }

    #[test]
    fn the_reply_to_the_longest_invalid_line_is_within_its_bound() {
        for line in [
            [0xff; MAX_COMMAND_LINE].to_vec(),
            [b"set_counter ".to_vec(), [0; 116].to_vec()].concat(),
        ] {
            let invalid = Command::<Counter>::parse(&line).expect_err("not a command").to_string();
            assert!(invalid.contains("...; expected"), "{invalid}");
            assert!(invalid.len() <= MAX_INVALID_REPLY, "{} bytes", invalid.len());
        }
    }
}
