// SPDX-License-Identifier: Apache-2.0
//! Legacy lines, by which the two C programs that this program replaces hand over.
//!
//! Both send the state as text and close the connection. Nothing is confirmed: if the successor
//! dies before it has read the state, the state is lost. Only this file and `src/handoff/legacy.rs`
//! know these programs.

use crate::state::State;

/// The line for the listener and the value.
const PASS_STATE: &str = "pass_state_and_terminate";

/// The reply to a legacy successor while another process adopts the state.
pub const BUSY: &str = "Busy: another process is adopting";

/// The content of a legacy handoff.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Legacy {
    /// The value alone, by the state's own line ([`State::HAND_OVER`]).
    Value,
    /// One NUL byte beside the listener's descriptor, and then the value.
    ListenerAndValue,
}

impl Legacy {
    /// Reads one line without its end; `None` for any other line, and for a state that no legacy
    /// program has.
    #[must_use]
    pub fn parse<S: State>(line: &[u8]) -> Option<Self> {
        [Self::Value, Self::ListenerAndValue]
            .into_iter()
            .filter(|_| !S::HAND_OVER.is_empty())
            .find(|legacy| legacy.line::<S>().as_bytes() == line)
    }

    /// The line that requests it, without its end.
    #[must_use]
    pub const fn line<S: State>(self) -> &'static str {
        match self {
            Self::Value => S::HAND_OVER,
            Self::ListenerAndValue => PASS_STATE,
        }
    }
}
