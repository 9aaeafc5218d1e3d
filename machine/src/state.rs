// SPDX-License-Identifier: Apache-2.0
//! State: all that a state must say of itself to be carried through the boot.
//!
//! Lifecycle, exchange, state file and sessions know a state by this trait only.
//! [`Counter`](crate::counter::Counter) is one; another takes a module as long as that one.
//!
//! **Invariant:** where a state is too long for a line, the record or a reply, the program that
//! carries it does not compile.

use core::fmt::{Debug, Display, Formatter, Result as Written};
use core::hash::Hash;

use crate::wire::fields::{Fields, MissingField};

/// A state that is handed from process to process.
///
/// Its text form is what the older line [`HAND_OVER`](Self::HAND_OVER) is answered with, on one line,
/// and what the log shows of it.
/// [`Default`] is where it begins if nobody hands one over.
///
/// What a bound promises is kept by the state and tried by its own tests; what the other modules need
/// of the bounds is checked when the program is built.
///
/// ```
/// use core::fmt;
/// use early_service_machine::wire::fields::{Fields, MissingField, number};
/// use early_service_machine::state::State;
///
/// /// A door that is open or not.
/// #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
/// struct Door {
///     is_open: bool,
/// }
///
/// /// Whether to open it.
/// #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
/// struct Open(bool);
///
/// impl State for Door {
///     type Command = Open;
///     /// Whether it was open before.
///     type Reply = bool;
///
///     const HAND_OVER: &'static str = "get_door_and_terminate";
///     const EXPECTED: &'static str = "open true, open false";
///     const MAX_EXPECTED: usize = Self::EXPECTED.len();
///     const MAX_FIELDS: usize = "open=1".len();
///     const MAX_REPLY: usize = "false".len();
///
///     fn parse(reply: &[u8]) -> Option<Self> {
///         number(reply).map(|digit| Self { is_open: digit > 0 })
///     }
///     fn read(fields: Fields<'_>) -> Result<Self, MissingField> {
///         Ok(Self { is_open: fields.flag("open")? })
///     }
///     fn write_fields(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
///         write!(f, "open={}", u8::from(self.is_open))
///     }
///     fn command(line: &[u8]) -> Result<Open, &'static str> {
///         match line {
///             b"open true" => Ok(Open(true)),
///             b"open false" => Ok(Open(false)),
///             _ => Err(Self::EXPECTED),
///         }
///     }
///     fn is_change(_: &Open) -> bool {
///         true
///     }
///     fn apply(&mut self, Open(is_open): Open) -> bool {
///         core::mem::replace(&mut self.is_open, is_open)
///     }
///     fn tick(&mut self) {}
/// }
///
/// impl fmt::Display for Door {
///     fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
///         write!(f, "{}", u8::from(self.is_open))
///     }
/// }
///
/// impl fmt::Display for Open {
///     fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
///         write!(f, "open {}", self.0)
///     }
/// }
///
/// let mut door = Door::default();
/// assert!(!door.apply(Door::command(b"open true").expect("a command")));
/// assert_eq!(Door::read(Fields::new(b"open=1")), Ok(door));
/// ```
pub trait State: Copy + Debug + Default + Display + Eq + Hash + Send + 'static {
    /// What a client may ask of the state; its text form is the line that reads the same.
    ///
    /// Many wait in a session, so it should be small; its default fills the places that are free.
    type Command: Copy + Debug + Default + Display + Eq + Send;

    /// The answer to a command; its text form is the line that the client reads.
    type Reply: Copy + Debug + Display + Eq;

    /// The line with which an older successor asks for the state.
    const HAND_OVER: &'static str;

    /// The commands, as the answer to a line that is none names them.
    const EXPECTED: &'static str;

    /// The longest text that [`command`](Self::command) says was expected, in bytes.
    const MAX_EXPECTED: usize;

    /// The longest form of the state as fields, in bytes.
    const MAX_FIELDS: usize;

    /// The longest text form of a reply, in bytes.
    const MAX_REPLY: usize;

    /// Reads the text form, as an older predecessor sends it; `None` for anything else.
    fn parse(reply: &[u8]) -> Option<Self>;

    /// Reads the state out of its fields; those of others stand beside them.
    ///
    /// # Errors
    ///
    /// Names the field that is missing or wrong.
    fn read(fields: Fields<'_>) -> Result<Self, MissingField>;

    /// Writes the state as fields, separated by single spaces: `counter=137`.
    ///
    /// Their keys are none of `deadline_ns`, `period_ns`, `lock`, `listeners`, `clients`, `boot`,
    /// `sequence`, `unlogged`, `unbroken`, `crc`.
    ///
    /// # Errors
    ///
    /// Where `f` takes no more.
    fn write_fields(&self, f: &mut Formatter<'_>) -> Written;

    /// Reads one line without its end as a command.
    ///
    /// # Errors
    ///
    /// Says in words what was expected: [`EXPECTED`](Self::EXPECTED) where the line begins like no
    /// command.
    fn command(line: &[u8]) -> Result<Self::Command, &'static str>;

    /// Whether a command may change the state, so that it must stand in the state file before it is
    /// answered.
    fn is_change(command: &Self::Command) -> bool;

    /// Carries out one command.
    fn apply(&mut self, command: Self::Command) -> Self::Reply;

    /// What one tick makes of the state; the state as it was before is what is logged.
    fn tick(&mut self);

    /// Makes so many ticks at once, in a time that does not depend on how many.
    ///
    /// After a long stop many ticks are due, up to one for each millisecond.
    /// A state that returns false has changed nothing; then each tick is made by
    /// [`tick`](Self::tick), and commands wait until all of them are made.
    fn tick_many(&mut self, ticks: u64) -> bool {
        let _ = ticks;
        false
    }
}
