// SPDX-License-Identifier: Apache-2.0
//! Counter: the state of the program `early-service`, its commands and its replies.
//!
//! An example of a state. A program with another state replaces this module; no other module of
//! this crate knows that the state is a number.

use core::fmt;

use crate::state::State;
use crate::wire::fields::{Fields, MissingField, number};

/// A counter that is logged and incremented at each tick. Its text form is the number in decimal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct Counter {
    /// The next number to be logged.
    pub next: u64,
}

/// A command of a client.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Command {
    /// `get_counter`: the next number to be logged.
    #[default]
    Get,
    /// `set_counter N`: the next number to be logged becomes N.
    Set(u64),
}

/// The answer to a [`Command`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reply {
    /// The next number to be logged.
    Next(u64),
    /// The number that was replaced.
    Previous(u64),
}

const GET: &[u8] = b"get_counter";
const SET: &[u8] = b"set_counter ";
const SET_EXPECTED: &str = "set_counter N with N from 0 to 18446744073709551615";

impl State for Counter {
    type Command = Command;
    type Reply = Reply;

    const HAND_OVER: &'static str = "get_counter_and_terminate";
    const EXPECTED: &'static str = "get_counter, set_counter N";
    const MAX_EXPECTED: usize = SET_EXPECTED.len();
    const MAX_FIELDS: usize = "counter=18446744073709551615".len();
    const MAX_REPLY: usize = "previous value 18446744073709551615".len();

    fn write_text(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.next)
    }

    fn parse(reply: &[u8]) -> Option<Self> {
        number(reply).map(|next| Self { next })
    }

    fn read(fields: Fields<'_>) -> Result<Self, MissingField> {
        Ok(Self { next: fields.number("counter")? })
    }

    fn write_fields(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "counter={}", self.next)
    }

    fn command(line: &[u8]) -> Result<Command, &'static str> {
        if line == GET {
            return Ok(Command::Get);
        }
        match line.strip_prefix(SET) {
            None => Err(Self::EXPECTED),
            Some(digits) => number(digits).map(Command::Set).ok_or(SET_EXPECTED),
        }
    }

    fn is_change(command: &Command) -> bool {
        match command {
            Command::Get => false,
            Command::Set(_) => true,
        }
    }

    fn apply(&mut self, command: Command) -> Reply {
        match command {
            Command::Get => Reply::Next(self.next),
            Command::Set(number) => Reply::Previous(core::mem::replace(&mut self.next, number)),
        }
    }

    /// 18446744073709551615 is followed by 0.
    fn tick(&mut self) {
        self.next = self.next.wrapping_add(1);
    }

    fn tick_many(&mut self, ticks: u64) -> bool {
        self.next = self.next.wrapping_add(ticks);
        true
    }
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Get => write!(f, "get_counter"),
            Self::Set(number) => write!(f, "set_counter {number}"),
        }
    }
}

impl fmt::Display for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Next(number) => write!(f, "{number}"),
            Self::Previous(number) => write!(f, "previous value {number}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::Text;
    use std::format;
    use std::string::ToString;

    #[test]
    fn only_exact_commands_are_accepted() {
        for (line, command) in [
            ("get_counter", Some(Command::Get)),
            ("set_counter 100", Some(Command::Set(100))),
            ("get_counter ", None),
            ("GET_COUNTER", None),
            ("set_counter", None),
            ("set_counter ", None),
            ("set_counter  1", None),
            ("set_counter -1", None),
        ] {
            assert_eq!(Counter::command(line.as_bytes()).ok(), command, "{line:?}");
        }
    }

    #[test]
    fn every_command_formats_to_a_line_that_reads_the_same() {
        for command in [Command::Get, Command::Set(0), Command::Set(u64::MAX)] {
            assert_eq!(Counter::command(command.to_string().as_bytes()), Ok(command));
        }
    }

    #[test]
    fn replies_have_the_form_of_the_protocol() {
        assert_eq!(Reply::Next(137).to_string(), "137");
        assert_eq!(Reply::Previous(502).to_string(), "previous value 502");
        assert_eq!(Reply::Previous(u64::MAX).to_string().len(), Counter::MAX_REPLY);
        assert_eq!(
            Counter::parse(Text(Counter { next: 137 }).to_string().as_bytes()),
            Some(Counter { next: 137 })
        );
    }

    #[test]
    fn set_returns_the_number_that_it_replaced() {
        let mut counter = Counter { next: 502 };
        assert_eq!(counter.apply(Command::Set(100)), Reply::Previous(502));
        assert_eq!(counter.apply(Command::Get), Reply::Next(100));
    }

    #[test]
    fn the_largest_number_is_followed_by_zero() {
        let mut counter = Counter { next: u64::MAX };
        counter.tick();
        assert_eq!(counter.apply(Command::Get), Reply::Next(0));
    }

    #[test]
    fn many_ticks_at_once_equal_the_same_ticks_one_by_one() {
        for (next, ticks) in [(5, 0), (5, 1), (5, 1000), (u64::MAX - 2, 7)] {
            let (mut at_once, mut one_by_one) = (Counter { next }, Counter { next });
            assert!(at_once.tick_many(ticks));
            (0..ticks).for_each(|_| one_by_one.tick());
            assert_eq!(at_once, one_by_one, "{ticks} from {next}");
        }
    }

    #[test]
    fn the_fields_of_the_largest_number_have_the_maximum_length() {
        assert_eq!(format!("counter={}", u64::MAX).len(), Counter::MAX_FIELDS);
    }
}
