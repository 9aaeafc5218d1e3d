// SPDX-License-Identifier: Apache-2.0
//! Notes: a service whose state is one letter, up to 3900 times.
//!
//! Its record needs slots, and its manifest a long line. No state has two letters, so that a mixture
//! of two records is found.

use std::fmt::{self, Display, Formatter};

use early_service::{Fields, MissingField, Service, State, number};

/// The most letters.
const MOST: u64 = 3900;

/// The state: `count` times `letter`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Notes {
    letter: u8,
    count: u64,
}

/// A command of a client: `a 3900` makes it so many letters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Write(Notes);

impl Default for Notes {
    fn default() -> Self {
        Self { letter: b'a', count: 1 }
    }
}

impl Notes {
    fn new(letter: u8, count: u64) -> Option<Self> {
        let is_valid = letter.is_ascii_lowercase() && (1..=MOST).contains(&count);
        is_valid.then_some(Self { letter, count })
    }
}

impl State for Notes {
    type Command = Write;
    /// The state before.
    type Reply = Self;

    const NAME: &'static str = "notes";
    const EXPECTED: &'static str = "a letter and a number";
    const MAX_FIELDS: usize = "text=".len() + 3900;
    const MAX_REPLY: usize = "a 3900".len();

    fn read(fields: Fields<'_>) -> Result<Self, MissingField> {
        let text = fields.get("text").unwrap_or_default();
        let letter = text.first().copied().unwrap_or_default();
        let count = text.iter().take_while(|other| **other == letter).count();
        let notes = u64::try_from(count).ok().and_then(|count| Self::new(letter, count));
        notes.filter(|_| count == text.len()).ok_or(MissingField("text"))
    }
    fn write_fields(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str("text=")?;
        (0..self.count).try_for_each(|_| write!(f, "{}", char::from(self.letter)))
    }
    fn write_text(&self, f: &mut Formatter<'_>) -> fmt::Result {
        self.fmt(f)
    }
    fn command(line: &[u8]) -> Result<Write, &'static str> {
        let notes = || {
            let (letter, count) = line.split_first()?;
            Self::new(*letter, number(count.strip_prefix(b" ")?)?)
        };
        notes().map(Write).ok_or(Self::EXPECTED)
    }
    fn apply(&mut self, Write(notes): Write) -> Self {
        std::mem::replace(self, notes)
    }
    fn tick(&mut self) {}
}

impl Display for Notes {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", char::from(self.letter), self.count)
    }
}

impl Display for Write {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Service for Notes {
    const ABOUT: &'static str = "Keeps one letter many times.";
    const WHAT: &'static str = "notes";
}

early_service::main!(Notes);
