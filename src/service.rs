// SPDX-License-Identifier: Apache-2.0
//! Service: a state with its texts for people and the journal.
//!
//! [`State`] has the behaviour. Nothing else in this crate depends on the state.

use std::fmt::{self, Formatter};
use std::time::Duration;

use early_service_machine::State;
use early_service_machine::bounds;
use early_service_machine::state::Text;
use early_service_machine::wire::request::Accepts;

use crate::server::batch::{REPLIES, max_own_line};
use crate::status::MAX_VERSION;

/// A state and its texts: [`main`](fn@crate::main) carries it through the boot.
///
/// Each method writes one part of a log line. No method may block or panic, because all run between
/// two ticks.
///
/// Only [`ABOUT`](Self::ABOUT) has no default; the first page has an example. These texts replace
/// defaults:
///
/// ```
/// # use std::fmt::{self, Formatter};
/// # use early_service::{Fields, MissingField, Service, State, number};
/// # #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
/// # struct Doors(u64);
/// # impl State for Doors {
/// #    type Command = u64;
/// #    type Reply = u64;
/// #    const NAME: &'static str = "doors";
/// #    const EXPECTED: &'static str = "a number";
/// #    fn read(fields: Fields<'_>) -> Result<Self, MissingField> {
/// #        fields.number("doors").map(Self)
/// #    }
/// #    fn write_fields(&self, f: &mut Formatter<'_>) -> fmt::Result {
/// #        write!(f, "doors={}", self.0)
/// #    }
/// #    fn command(line: &[u8]) -> Result<u64, &'static str> {
/// #        number(line).ok_or(Self::EXPECTED)
/// #    }
/// #    fn apply(&mut self, command: u64) -> u64 {
/// #        std::mem::replace(&mut self.0, command)
/// #    }
/// # }
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
/// }
/// # early_service::main!(Doors);
/// ```
pub trait Service: State {
    /// The version that `--version` and `status` show, at most 32 bytes; by default that of this
    /// library.
    const VERSION: &'static str = env!("CARGO_PKG_VERSION");

    /// The first lines of `--help`: one or two sentences, without a newline at the end.
    const ABOUT: &'static str;

    /// The name of the state in log lines, by default "state", in one or two words: "Returning counter to client …".
    const WHAT: &'static str = "state";

    /// The names of the descriptors of its [`Device`](crate::device::Device), separated by commas.
    const DESCRIPTORS: &'static str = "";

    /// How long a successor may take to receive everything: 1 ms to 1 s, by default 1 s.
    ///
    /// Meanwhile no process uses the device or answers clients. After that, the process takes
    /// everything back, and the successor asks again. Too short: a busy machine cannot hand over.
    /// Too long: a device that must answer in time is silent if the successor hangs. Once the
    /// process has committed, the successor is the owner, and only its end gives the state back.
    const OFFER_TIMEOUT: Duration = Duration::from_millis(bounds::MAX_OFFER_MS);

    /// Writes the log line of one tick; `self` is the state before the tick. By default its
    /// [text](State::write_text).
    ///
    /// The line, its [`fields`](Self::fields) and about 60 bytes of other fields should fit into 96
    /// bytes. A longer record takes two slots of the log's queue, so that the queue is full after
    /// 128 ticks instead of 256; a record of more than 240 bytes is cut.
    ///
    /// # Errors
    ///
    /// Fails only if `f` fails.
    fn write_tick(&self, f: &mut Formatter<'_>) -> fmt::Result {
        self.write_text(f)
    }

    /// The journal fields of that line, in addition to `DEADLINE_NS` and `ACTUAL_NS`.
    ///
    /// A name consists of capital letters, digits and underscores (systemd.journal-fields(7)).
    fn fields(&self) -> impl IntoIterator<Item = (&'static str, u64)> {
        []
    }

    /// Writes the log line of everything that commands have changed between two ticks, from
    /// `previous` to this state.
    ///
    /// # Errors
    ///
    /// Fails only if `f` fails.
    fn write_change(&self, previous: &Self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{} after {}", Text(*self), Text(*previous))
    }

    /// Names the last `ticks` that led to this state, at least one: "Numbers 5 to 7".
    ///
    /// This is the beginning of a line about ticks that may be missing from the log, and of a line
    /// that represents more missed ticks than are logged one by one.
    ///
    /// # Errors
    ///
    /// Fails only if `f` fails.
    fn write_last(&self, ticks: u64, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "The last {ticks} ticks")
    }

    /// Names the last `ticks` before a command changed the state, after which `since` ticks
    /// followed.
    ///
    /// # Errors
    ///
    /// Fails only if `f` fails.
    fn write_last_before_change(
        &self,
        ticks: u64,
        since: u64,
        f: &mut Formatter<'_>,
    ) -> fmt::Result {
        write!(f, "{ticks} ticks, followed by {since} others,")
    }
}

/// The function `main` of a program with one service.
///
/// `cargo check` reports a service that does not keep to its bounds at the line of this macro. With
/// the function [`main`](fn@crate::main) alone, only `cargo build` does.
///
/// ```ignore
/// early_service::main!(Doors);
/// early_service::main!(Pings, with: Feeder);
/// ```
///
/// The second form runs a service with its [`Device`](crate::device::Device).
#[macro_export]
macro_rules! main {
    ($service:ty, with: $device:ty) => {
        const _: () = $crate::check::<$service>();

        fn main() -> ::std::process::ExitCode {
            $crate::device::main::<$device>()
        }
    };
    ($service:ty) => {
        const _: () = $crate::check::<$service>();

        fn main() -> ::std::process::ExitCode {
            $crate::main::<$service>()
        }
    };
}

/// Fails to compile if the service does not keep to its bounds.
#[track_caller]
#[doc(hidden)]
pub const fn check<S: Service>() {
    bounds::check::<S>();
    let mut version = S::VERSION.as_bytes();
    assert!(
        !version.is_empty() && version.len() <= MAX_VERSION,
        "VERSION is not 1 to 32 bytes long"
    );
    while let [byte, rest @ ..] = version {
        assert!(byte.is_ascii_graphic(), "VERSION has a character that is not graphic ASCII");
        version = rest;
    }
    assert!(
        REPLIES > S::MAX_REPLY && REPLIES > max_own_line::<S>(),
        "the state is too large: a reply (MAX_REPLY) does not fit a session's buffer"
    );
    assert!(
        S::OFFER_TIMEOUT.as_millis() >= 1
            && S::OFFER_TIMEOUT.as_millis() <= bounds::MAX_OFFER_MS as u128,
        "OFFER_TIMEOUT is not 1 ms to 1 s"
    );
    assert!(
        Accepts(S::DESCRIPTORS).is_valid::<S>(),
        "DESCRIPTORS has too many names, a name that is too long, or no room in a line"
    );
}
