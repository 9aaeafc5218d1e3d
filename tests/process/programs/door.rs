// SPDX-License-Identifier: Apache-2.0
//! Door: a small service that the tests in `bounds.rs` compile with one mistake each.

use std::fmt::{self, Formatter};

use early_service::{Fields, MissingField, Service, State, number};

/// Number of times that the door was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Door(u64);

impl State for Door {
    type Command = u64;
    type Reply = u64;

    const NAME: &'static str = "door";
    const HAND_OVER: &'static str = "get_door_and_terminate";
    const EXPECTED: &'static str = "a number";
    const MAX_EXPECTED: usize = Self::EXPECTED.len();
    const MAX_FIELDS: usize = 27;
    const MAX_REPLY: usize = 20;

    fn read(fields: Fields<'_>) -> Result<Self, MissingField> {
        fields.number("opened").map(Self)
    }
    fn write_fields(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "opened={}", self.0)
    }
    fn command(line: &[u8]) -> Result<u64, &'static str> {
        number(line).ok_or(Self::EXPECTED)
    }
    fn apply(&mut self, command: u64) -> u64 {
        std::mem::replace(&mut self.0, command)
    }
    fn tick(&mut self) {}
}

impl Service for Door {
    const VERSION: &'static str = "1";
    const ABOUT: &'static str = "Counts how often a door is opened.";
    const WHAT: &'static str = "door";

    fn fields(&self) -> impl IntoIterator<Item = (&'static str, u64)> {
        [("OPENED", self.0)]
    }
}

early_service::main!(Door);
