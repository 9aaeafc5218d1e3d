// SPDX-License-Identifier: Apache-2.0
//! Meter: a service other than the counter, with a number that ticks and a text.

use std::fmt::{self, Display, Formatter};
use std::str;

use early_service::{Fields, MissingField, Service, State, number};

/// The state. Its text is `137 bar`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
struct Meter {
    /// The number of the next reading.
    reading: u64,
    unit: Unit,
}

/// 1 to 48 printable ASCII characters, without spaces, filled up with spaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Unit([u8; Self::LENGTH]);

impl Unit {
    const LENGTH: usize = 48;

    fn parse(text: &[u8]) -> Option<Self> {
        let mut bytes = [b' '; Self::LENGTH];
        bytes.get_mut(..text.len())?.copy_from_slice(text);
        let is_plain = !text.is_empty() && text.iter().all(u8::is_ascii_graphic);
        is_plain.then_some(Self(bytes))
    }
}

impl Default for Unit {
    fn default() -> Self {
        Self::parse(b"bar").expect("a plain text")
    }
}

/// A command of a client.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Command {
    #[default]
    Get,
    SetReading(u64),
    SetUnit(Unit),
}

/// The reply to a [`Command`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reply {
    Reading(u64),
    PreviousReading(u64),
    PreviousUnit(Unit),
}

const READING_EXPECTED: &str = "set_reading N with N from 0 to 18446744073709551615";
const UNIT_EXPECTED: &str = "set_unit TEXT of 1 to 48 characters";

impl State for Meter {
    type Command = Command;
    type Reply = Reply;

    const NAME: &'static str = "meter";
    const HAND_OVER: &'static str = "get_meter_and_terminate";
    const EXPECTED: &'static str = "get_reading, set_reading N, set_unit";
    const MAX_EXPECTED: usize = READING_EXPECTED.len();
    const MAX_FIELDS: usize = "reading=18446744073709551615 unit=".len() + Unit::LENGTH;
    const MAX_REPLY: usize = "previous unit ".len() + Unit::LENGTH;

    fn write_text(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.reading, self.unit)
    }
    fn parse(reply: &[u8]) -> Option<Self> {
        let space = reply.iter().position(|byte| *byte == b' ')?;
        Some(Self { reading: number(&reply[..space])?, unit: Unit::parse(&reply[space + 1..])? })
    }
    fn read(fields: Fields<'_>) -> Result<Self, MissingField> {
        let unit = fields.get("unit").and_then(Unit::parse).ok_or(MissingField("unit"))?;
        Ok(Self { reading: fields.number("reading")?, unit })
    }
    fn write_fields(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "reading={} unit={}", self.reading, self.unit)
    }
    fn command(line: &[u8]) -> Result<Command, &'static str> {
        if line == b"get_reading" {
            return Ok(Command::Get);
        }
        if let Some(digits) = line.strip_prefix(b"set_reading ") {
            return number(digits).map(Command::SetReading).ok_or(READING_EXPECTED);
        }
        match line.strip_prefix(b"set_unit ") {
            Some(text) => Unit::parse(text).map(Command::SetUnit).ok_or(UNIT_EXPECTED),
            None => Err(Self::EXPECTED),
        }
    }
    fn is_change(command: &Command) -> bool {
        *command != Command::Get
    }
    fn apply(&mut self, command: Command) -> Reply {
        let Self { reading, unit } = self;
        match command {
            Command::Get => Reply::Reading(*reading),
            Command::SetReading(new) => Reply::PreviousReading(std::mem::replace(reading, new)),
            Command::SetUnit(new) => Reply::PreviousUnit(std::mem::replace(unit, new)),
        }
    }
    fn tick(&mut self) {
        self.reading = self.reading.wrapping_add(1);
    }
}

impl Service for Meter {
    const VERSION: &'static str = "7.1";
    const ABOUT: &'static str = "Counts readings, in a unit.";
    const WHAT: &'static str = "meter";

    fn write_tick(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "Reading {}, {}", self.reading, self.unit)
    }
    fn fields(&self) -> impl IntoIterator<Item = (&'static str, u64)> {
        [("READING", self.reading)]
    }
    fn write_change(&self, previous: &Self, f: &mut Formatter<'_>) -> fmt::Result {
        let Self { reading, unit } = self;
        write!(f, "Continuing at reading {reading}, previous {}, in {unit}", previous.reading)
    }
    fn write_last(&self, ticks: u64, f: &mut Formatter<'_>) -> fmt::Result {
        let (first, last) = (self.reading.wrapping_sub(ticks), self.reading.wrapping_sub(1));
        match ticks {
            1 => write!(f, "Reading {last}"),
            _ => write!(f, "Readings {first} to {last}"),
        }
    }
    fn write_last_before_change(
        &self,
        ticks: u64,
        since: u64,
        f: &mut Formatter<'_>,
    ) -> fmt::Result {
        let first = self.reading.wrapping_sub(since);
        write!(f, "The last {ticks} before the meter continued at reading {first}")
    }
}

impl Display for Unit {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(str::from_utf8(self.0.trim_ascii_end()).unwrap_or_default())
    }
}

impl Display for Command {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Get => write!(f, "get_reading"),
            Self::SetReading(number) => write!(f, "set_reading {number}"),
            Self::SetUnit(unit) => write!(f, "set_unit {unit}"),
        }
    }
}

impl Display for Reply {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Reading(number) => write!(f, "{number}"),
            Self::PreviousReading(number) => write!(f, "previous reading {number}"),
            Self::PreviousUnit(unit) => write!(f, "previous unit {unit}"),
        }
    }
}

early_service::main!(Meter);
