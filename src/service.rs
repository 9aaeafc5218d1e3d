// SPDX-License-Identifier: Apache-2.0
//! Service: what people and the journal see of a state.
//!
//! All that the daemon does with a state is in [`State`]; here are the words for it.

use std::fmt::{self, Formatter};

use early_service_machine::State;

/// A state with the words for it: what [`main`](crate::main) carries through the boot.
///
/// ```
/// # use std::fmt::{self, Formatter};
/// # use early_service::machine::wire::fields::{Fields, MissingField, number};
/// use early_service::machine::State;
/// use early_service::Service;
///
/// /// How many doors were opened.
/// #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
/// struct Doors(u64);
///
/// impl State for Doors {
///     // What machine's documentation shows.
/// #    type Command = u64;
/// #    type Reply = u64;
/// #    const HAND_OVER: &'static str = "get_doors_and_terminate";
/// #    const EXPECTED: &'static str = "a number";
/// #    const MAX_EXPECTED: usize = 8;
/// #    const MAX_FIELDS: usize = 26;
/// #    const MAX_REPLY: usize = 20;
/// #    fn parse(reply: &[u8]) -> Option<Self> {
/// #        number(reply).map(Self)
/// #    }
/// #    fn read(fields: Fields<'_>) -> Result<Self, MissingField> {
/// #        fields.number("doors").map(Self)
/// #    }
/// #    fn write_fields(&self, f: &mut Formatter<'_>) -> fmt::Result {
/// #        write!(f, "doors={self}")
/// #    }
/// #    fn command(line: &[u8]) -> Result<u64, &'static str> {
/// #        number(line).ok_or(Self::EXPECTED)
/// #    }
/// #    fn is_change(_: &u64) -> bool {
/// #        true
/// #    }
/// #    fn apply(&mut self, command: u64) -> u64 {
/// #        std::mem::replace(&mut self.0, command)
/// #    }
/// #    fn tick(&mut self) {}
/// }
/// # impl fmt::Display for Doors {
/// #    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
/// #        self.0.fmt(f)
/// #    }
/// # }
///
/// impl Service for Doors {
///     const ABOUT: &'static str = "Counts doors from the initrd on.";
///     const WHAT: &'static str = "number of doors";
///
///     fn write_tick(&self, f: &mut Formatter<'_>) -> fmt::Result {
///         write!(f, "{} doors", self.0)
///     }
///     fn fields(&self) -> impl IntoIterator<Item = (&'static str, u64)> {
///         [("DOORS", self.0)]
///     }
///     fn write_change(&self, previous: &Self, f: &mut Formatter<'_>) -> fmt::Result {
///         write!(f, "{} doors instead of {}", self.0, previous.0)
///     }
///     fn write_last(&self, ticks: u64, f: &mut Formatter<'_>) -> fmt::Result {
///         write!(f, "The last {ticks} counts")
///     }
///     fn write_last_before_change(
///         &self,
///         ticks: u64,
///         since: u64,
///         f: &mut Formatter<'_>,
///     ) -> fmt::Result {
///         write!(f, "{ticks} counts, followed by {since} others,")
///     }
/// }
///
/// # #[allow(clippy::needless_doctest_main)]
/// fn main() -> std::process::ExitCode {
/// #   std::process::ExitCode::SUCCESS
/// # }
/// # fn real_main() -> std::process::ExitCode {
///     early_service::main::<Doors>()
/// }
/// ```
pub trait Service: State {
    /// The first line of `--help`.
    const ABOUT: &'static str;

    /// What is carried, in a word or two: "Returning counter to client …".
    const WHAT: &'static str;

    /// Writes the log line of one tick: of this state, as it was before the tick.
    ///
    /// With [`fields`](Self::fields) and some 60 bytes of the rhythm's it should stay within 96 bytes:
    /// what is longer takes two places of the log's queue, so that the queue is full after 128 ticks
    /// instead of 256; what is longer than 240 is cut.
    ///
    /// # Errors
    ///
    /// Where `f` takes no more.
    fn write_tick(&self, f: &mut Formatter<'_>) -> fmt::Result;

    /// The journal's fields of that line, beside those of the rhythm.
    ///
    /// A name consists of capital letters, digits and underscores (systemd.journal-fields(7)).
    fn fields(&self) -> impl IntoIterator<Item = (&'static str, u64)>;

    /// Writes the log line of all that commands changed between two ticks, from `previous` to this
    /// state.
    ///
    /// # Errors
    ///
    /// Where `f` takes no more.
    fn write_change(&self, previous: &Self, f: &mut Formatter<'_>) -> fmt::Result;

    /// Names the last `ticks`, at least one, that led to this state: "Numbers 5 to 7".
    ///
    /// It begins the line that says that they may be missing from the log, and the line that stands
    /// for more missed ticks than the log can hold lines.
    ///
    /// # Errors
    ///
    /// Where `f` takes no more.
    fn write_last(&self, ticks: u64, f: &mut Formatter<'_>) -> fmt::Result;

    /// The same of `ticks` before a command changed the state, `since` ticks ago.
    ///
    /// # Errors
    ///
    /// Where `f` takes no more.
    fn write_last_before_change(
        &self,
        ticks: u64,
        since: u64,
        f: &mut Formatter<'_>,
    ) -> fmt::Result;
}
