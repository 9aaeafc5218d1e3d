// SPDX-License-Identifier: Apache-2.0
//! Batch: the commands of one read on their way to the ticker, and the replies on their way back.
//!
//! A session has one batch, which travels in a box, so that a command allocates nothing.

use std::fmt::{self, Write as _};

use early_service_machine::bounds::{MAX_INVALID_REPLY, MAX_STATUS_FIELDS, STATUS_OVERHEAD};

use crate::fixed_buf::FixedBuf;
use crate::service::Service;
use crate::status;

/// The most commands in one batch. Fewer: a client that pipelines costs more messages. More: each
/// session takes more memory, and one client's turn takes longer.
pub(crate) const BATCH: usize = 64;

/// The buffer for replies that wait to be sent, in bytes: a full batch of the counter's. If the
/// replies of a state are longer, its batches have fewer commands.
pub(crate) const REPLIES: usize = BATCH * 36;

/// The length of the longest line that is not a reply of the state: the reply to an invalid line,
/// or a status line, which the ticker completes.
pub(crate) const fn max_own_line<S: Service>() -> usize {
    let fields = if S::MAX_FIELDS > MAX_STATUS_FIELDS { 0 } else { S::MAX_FIELDS };
    let status = status::MAX_HEADER + 1 + fields + STATUS_OVERHEAD;
    1 + if status > MAX_INVALID_REPLY { status } else { MAX_INVALID_REPLY }
}

pub(crate) struct Batch<S: Service> {
    commands: [S::Command; BATCH],
    count: usize,
    /// Whether the ticker, after the commands, completes the status line at the end of `replies`.
    pub(crate) status: bool,
    pub(crate) replies: FixedBuf<REPLIES>,
}

impl<S: Service> Batch<S> {
    pub(crate) fn new() -> Box<Self> {
        Box::new(Self {
            commands: [S::Command::default(); BATCH],
            count: 0,
            status: false,
            replies: FixedBuf::new(),
        })
    }

    /// Whether it has no commands, or all of them were carried out.
    pub(super) fn is_empty(&self) -> bool {
        self.count == 0
    }

    pub(super) fn len(&self) -> usize {
        self.count
    }

    /// Removes the commands, to carry them out.
    pub(crate) fn take_commands(&mut self) -> impl Iterator<Item = S::Command> + use<S> {
        self.commands.into_iter().take(std::mem::take(&mut self.count))
    }

    /// Adds a command; false if there is no room for it or for its reply.
    pub(crate) fn push(&mut self, command: S::Command) -> bool {
        let needed = (self.count + 1) * (S::MAX_REPLY + 1);
        match self.commands.get_mut(self.count) {
            Some(free) if self.replies.room() >= needed => {
                *free = command;
                self.count += 1;
                true
            }
            _ => false,
        }
    }

    /// Adds a line that is not a reply of the state, which always fits.
    pub(super) fn push_line(&mut self, line: impl fmt::Display) {
        let written = writeln!(self.replies, "{line}");
        debug_assert!(written.is_ok(), "the caller checked for room");
    }
}
