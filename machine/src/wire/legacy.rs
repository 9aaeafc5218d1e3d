// SPDX-License-Identifier: Apache-2.0
//! The lines by which the two C programs that this program replaces hand over.
//!
//! Both answer with the state as text and the end of the connection, and say nothing after it: a
//! state that was sent to a successor which dies before it has read it is lost.
//! This file and `src/handoff/legacy.rs` are all that there is of them.

use crate::state::State;

/// The line for the listener and the value.
const PASS_STATE: &str = "pass_state_and_terminate";

/// The reply to a legacy successor while another process adopts the state.
pub const BUSY: &str = "Busy: another process is adopting";

/// What a legacy program asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Legacy {
    /// The value alone, by the state's own line ([`State::HAND_OVER`]).
    Value,
    /// One NUL byte beside the listener's descriptor, and then the value.
    ListenerAndValue,
}

impl Legacy {
    /// Reads one line without its end; `None` if it asks for something else.
    #[must_use]
    pub fn parse<S: State>(line: &[u8]) -> Option<Self> {
        [Self::Value, Self::ListenerAndValue]
            .into_iter()
            .find(|legacy| legacy.line::<S>().as_bytes() == line)
    }

    /// The line that asks for it, without its end.
    #[must_use]
    pub const fn line<S: State>(self) -> &'static str {
        match self {
            Self::Value => S::HAND_OVER,
            Self::ListenerAndValue => PASS_STATE,
        }
    }
}
