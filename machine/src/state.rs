// SPDX-License-Identifier: Apache-2.0
//! The trait of a state that is carried through the boot.
//!
//! Lifecycle, handoff, state file and sessions know a state only by this trait. A state takes a
//! module as long as that of [`Counter`](crate::counter::Counter).

use core::fmt::{self, Debug, Display, Formatter};

use crate::wire::fields::{Fields, MissingField};

/// A state that is handed from process to process.
///
/// [`Default`] is the state without a predecessor.
///
/// The `MAX_` constants are lengths in bytes, and their defaults fit a few numbers. The state must
/// keep to them, and should test that it does; a debug build stops with a message if it does not. A
/// program whose state does not fit the lines and buffers of the other modules does not compile
/// ([`bounds`](crate::bounds)).
pub trait State: Copy + Debug + Default + Eq + Send + 'static {
    /// A command of a client. Its text form is a line that [`command`](Self::command) reads as
    /// this.
    ///
    /// Should be small, because a session queues many. Unused entries of a queue contain the
    /// default.
    type Command: Copy + Debug + Default + Display + Eq + Send;

    /// The answer to a command. Its text form is the line that the client receives.
    type Reply: Copy + Debug + Display + Eq;

    /// The name of the service: 1 to 32 of the characters `a-z`, `0-9` and `-`, the first one a
    /// letter.
    ///
    /// All names that a user sees derive from it: the identifier in the journal, the default
    /// socket, the usage line. Services with different names share none of them, and neither adopts
    /// the state of the other.
    const NAME: &'static str = crate::wire::service::DEFAULT;

    /// The line with which a legacy successor requests the state; by default there is none.
    const HAND_OVER: &'static str = "";

    /// The list of commands in the reply to an invalid line; by default that there is none.
    const EXPECTED: &'static str = "no command";

    /// The longest text with which [`command`](Self::command) refuses a line, in bytes.
    const MAX_EXPECTED: usize = Self::EXPECTED.len();

    /// The longest output of [`write_fields`](Self::write_fields), in bytes: at most 4096.
    ///
    /// Up to about 240, a change is stored by one write of half a kilobyte. A larger state takes
    /// two [`slots`](crate::slots) in the state file; above 1024, `status` does not show it.
    const MAX_FIELDS: usize = 128;

    /// The longest text form of a reply, in bytes. Too long: a client that pipelines needs more
    /// batches.
    const MAX_REPLY: usize = 64;

    /// Writes the state as one line of text: what the log shows, and the reply to
    /// [`HAND_OVER`](Self::HAND_OVER). By default its fields.
    ///
    /// # Errors
    ///
    /// Returns the error of `f`.
    fn write_text(&self, f: &mut Formatter<'_>) -> fmt::Result {
        self.write_fields(f)
    }

    /// Reads that text, as a legacy predecessor sends it; `None` for anything else. By default
    /// there is no legacy predecessor.
    fn parse(reply: &[u8]) -> Option<Self> {
        let _ = reply;
        None
    }

    /// Reads the state from its fields. The line contains other fields as well.
    ///
    /// The release on the other side can be older or newer. A field that this release no longer has
    /// is ignored. A field that is new in this release must have a default, so that this release
    /// can adopt the state of an older one:
    ///
    /// ```
    /// # use early_service_machine::wire::fields::{Fields, MissingField};
    /// /// `doors=` is of the first release, `is_locked=` of the second.
    /// fn read(fields: Fields<'_>) -> Result<(u64, bool), MissingField> {
    ///     Ok((fields.number("doors")?, fields.flag_or("is_locked", true)?))
    /// }
    ///
    /// assert_eq!(read(Fields::new(b"doors=5")), Ok((5, true)));
    /// assert_eq!(read(Fields::new(b"doors=5 is_locked=0")), Ok((5, false)));
    /// // A value that is present must be valid.
    /// assert_eq!(read(Fields::new(b"doors=5 is_locked=2")), Err(MissingField("is_locked")));
    /// ```
    ///
    /// If the meaning of a field changes, give it another key: an older release then refuses the
    /// state, because the field that it needs is missing.
    ///
    /// # Errors
    ///
    /// Returns which field is missing or malformed. Such a state is not adopted.
    fn read(fields: Fields<'_>) -> Result<Self, MissingField>;

    /// Writes the state as fields, separated by single spaces: `counter=137`.
    ///
    /// The keys must not be [`RESERVED`](crate::contract::RESERVED) or begin with `!`, the text
    /// must not be longer than [`MAX_FIELDS`](Self::MAX_FIELDS), and [`read`](Self::read) must
    /// return the same state.
    /// Otherwise a debug build stops with a message, at its start or when it writes the fields.
    ///
    /// # Errors
    ///
    /// Returns the error of `f`.
    fn write_fields(&self, f: &mut Formatter<'_>) -> fmt::Result;

    /// Reads a command from one line without its end. By default clients have no command.
    ///
    /// # Errors
    ///
    /// Returns a text that says what was expected; [`EXPECTED`](Self::EXPECTED) for an unknown
    /// command.
    fn command(line: &[u8]) -> Result<Self::Command, &'static str> {
        let _ = line;
        Err(Self::EXPECTED)
    }

    /// Whether a command may change the state. Such a command is answered only after the state file
    /// contains the change. By default every command may.
    fn is_change(command: &Self::Command) -> bool {
        let _ = command;
        true
    }

    /// Executes one command.
    fn apply(&mut self, command: Self::Command) -> Self::Reply;

    /// Changes the state as one tick does. The state before the tick is logged. By default a tick
    /// changes nothing.
    fn tick(&mut self) {}

    /// Changes the state as `ticks` ticks do, in constant time.
    ///
    /// After a long stop many ticks are due, up to one for each millisecond. Return false and
    /// change nothing to decline. [`tick`](Self::tick) is then called for each tick, and commands
    /// wait until all are done.
    fn tick_many(&mut self, ticks: u64) -> bool {
        let _ = ticks;
        false
    }
}

/// The text of a state.
#[derive(Clone, Copy, Debug)]
pub struct Text<S>(pub S);

impl<S: State> Display for Text<S> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        self.0.write_text(f)
    }
}
