// SPDX-License-Identifier: Apache-2.0
//! Framing: the end of a line of a handoff, and the quoting of bytes from the other side.

use core::fmt::{self, Write as _};

use crate::bounds::MAX_HANDOFF_LINE;

/// The beginning of the bytes that were read so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framed<'a> {
    /// A whole line without its end, and how many bytes it takes with its end.
    Line(&'a [u8], usize),
    /// Not yet a whole line.
    Partial,
    /// More bytes than a line may have, without an end.
    TooLong,
}

/// Finds the first line in `bytes`.
///
/// Only `\n` ends a line, not the end of the input: a line that was cut off may have lost digits.
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

/// Bytes of the other side, quoted for one line of a log: all but printable ASCII is escaped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Printable<'a>(pub &'a [u8]);

impl<'a> Printable<'a> {
    /// The longest beginning of `bytes` that takes at most `room` bytes after escaping.
    #[must_use]
    pub fn fitting(bytes: &'a [u8], mut room: usize) -> Self {
        let is_beyond = |byte: &u8| match room.checked_sub(Self::width(*byte)) {
            Some(left) => {
                room = left;
                false
            }
            None => true,
        };
        let end = bytes.iter().position(is_beyond).unwrap_or(bytes.len());
        Self(bytes.get(..end).unwrap_or_default())
    }

    /// The length of `byte` after escaping.
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::string::ToString;

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

    #[test]
    fn what_cannot_be_printed_is_escaped_and_nothing_else() {
        let quoted = Printable(b"it's \"5\" \x1b[31m\xff\n").to_string();
        assert_eq!(quoted, "it's \"5\" \\x1b[31m\\xff\\n");
    }

    #[test]
    fn a_quotation_is_cut_to_its_room() {
        for (byte, quoted) in [(b'x', "xxxxxxx"), (b'\n', "\\n\\n\\n"), (0xff, "\\xff")] {
            assert_eq!(Printable::fitting(&[byte; 9], 7).to_string(), quoted);
        }
    }
}
