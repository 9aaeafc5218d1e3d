// SPDX-License-Identifier: Apache-2.0
//! Mailboxes: how actors send to each other without waiting.
//!
//! Each mailbox holds as many messages as can be under way to its owner at once (where its size
//! is, it says why that many), so sending never waits, and two actors can never wait for each other.

use async_channel::{Sender, TrySendError};

/// Sends `message`; to an actor that has left, because the process ends, it is not delivered.
///
/// # Panics
///
/// Where the mailbox is full: that is a mistake in the wiring table, not a condition of the machine
/// that we run on.
pub(crate) fn post<M>(to: &Sender<M>, message: M) {
    let is_full = matches!(to.try_send(message), Err(TrySendError::Full(_)));
    assert!(!is_full, "a mailbox holds all that can be under way to its owner");
}
