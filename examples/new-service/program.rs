// SPDX-License-Identifier: Apache-2.0
//! The service @NAME@: counts from the initrd on. Replace the count with your own state.

mod no_unwinder;

use std::fmt::{self, Formatter};

use early_service::{Fields, MissingField, Service, State, number};

/// The state. It travels from process to process, and survives a crash.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Count(u64);

impl State for Count {
    /// The number that a client adds.
    type Command = u64;
    /// The count after that.
    type Reply = u64;

    const NAME: &'static str = "@NAME@";
    const EXPECTED: &'static str = "a number to add";

    fn read(fields: Fields<'_>) -> Result<Self, MissingField> {
        fields.number("count").map(Self)
    }

    fn write_fields(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "count={}", self.0)
    }

    fn command(line: &[u8]) -> Result<u64, &'static str> {
        number(line).ok_or(Self::EXPECTED)
    }

    fn apply(&mut self, added: u64) -> u64 {
        self.0 = self.0.wrapping_add(added);
        self.0
    }

    fn tick(&mut self) {
        self.0 = self.0.wrapping_add(1);
    }
}

impl Service for Count {
    const VERSION: &'static str = env!("CARGO_PKG_VERSION");
    const ABOUT: &'static str = "Counts from the initrd on.";
}

early_service::main!(Count);

#[cfg(test)]
mod tests {
    use early_service::trial;

    use super::Count;

    #[test]
    fn the_state_keeps_its_promises() {
        let states = [Count::default(), Count(u64::MAX)];
        trial::state(&states, &["5"]).expect("a sound state");
    }
}
