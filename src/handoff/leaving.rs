// SPDX-License-Identifier: Apache-2.0
//! Leaving: a predecessor that has handed over and still writes its log.
//!
//! The predecessor sends `logged` when all its ticks are in the log. If the connection ends before,
//! the ticks that may be missing are logged here, because no other process knows them.
//!
//! Owns the connection to the predecessor, and ends with it.

use early_service_machine::record::Unlogged;
use early_service_machine::wire::handoff::Message;
use futures_lite::future;
use smol::Timer;

use crate::handoff::channel::{Line, Peer};
use crate::messages::ToTicker;
use crate::service::Service;
use crate::ticker;

/// The predecessor, and the ticks that would be missing if it died now.
pub(crate) struct Leaving<S> {
    peer: Peer,
    /// The state that it handed over.
    state: S,
    /// Its last ticks that are not known to be in the log.
    unlogged: Unlogged,
}

impl<S: Service> Leaving<S> {
    pub(crate) fn new(peer: Peer, state: S, unlogged: Unlogged) -> Self {
        Self { peer, state, unlogged }
    }

    /// Tells the predecessor that it may leave. A failure is ignored.
    pub(crate) fn report_serving(&mut self) {
        let _ = self.peer.say(&Message::<S>::Done.to_string());
    }

    /// Waits for the end of the connection; returns whether `logged` came first.
    pub(crate) async fn has_logged(&mut self) -> bool {
        loop {
            match self.peer.line().await {
                Line::Whole(line) if Message::<S>::parse(line) == Ok(Message::Logged) => {
                    return true;
                }
                Line::Whole(_) | Line::TooLong(_) => {}
                Line::End => return false,
            }
        }
    }

    /// The message to the ticker when the predecessor has left.
    pub(crate) fn into_message(self, has_logged: bool) -> ToTicker<S> {
        if has_logged { ToTicker::Logged } else { ToTicker::Unlogged(self.state, self.unlogged) }
    }

    /// Waits for the predecessor as long as this process may take to end, and logs the ticks that
    /// may be missing.
    pub(crate) async fn wait_or_log(&mut self) {
        let timeout = async {
            Timer::after(ticker::LAST_LINES).await;
            false
        };
        if !future::or(self.has_logged(), timeout).await {
            ticker::say_unlogged(self.state, self.unlogged);
        }
    }
}
