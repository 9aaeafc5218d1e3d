// SPDX-License-Identifier: Apache-2.0
//! Mailboxes: how actors send to each other without waiting.
//!
//! Each mailbox holds as many messages as can be under way to its owner at once (`main.rs` says why
//! that many), so sending never waits, and two actors can never wait for each other.

use async_channel::Sender;

/// Sends `message`.
///
/// # Panics
///
/// Where the mailbox is full or its owner gone: either is a mistake in the wiring table, not a
/// condition of the machine that we run on.
pub(crate) fn post<M>(to: &Sender<M>, message: M) {
    assert!(to.try_send(message).is_ok(), "a mailbox holds all that can be under way to its owner");
}
