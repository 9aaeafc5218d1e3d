// SPDX-License-Identifier: Apache-2.0
//! Input: a client's bytes that are not parsed yet, and their division into commands.

use early_service_machine::bounds::MAX_COMMAND_LINE;
use early_service_machine::wire::command::{self, Command, split_line};
use early_service_machine::wire::framing::Framed;

use crate::fixed_buf::FixedBuf;
use crate::handoff::request::HandoffRequest;
use crate::server::batch::{Batch, max_own_line};
use crate::service::Service;

/// Bytes read at once: a little more than [`BATCH`](crate::server::batch::BATCH) of the shortest
/// commands. Less: a client that pipelines costs more reads. More: each session takes more memory.
pub(crate) const INPUT: usize = 1024;
const _: () = assert!(INPUT > MAX_COMMAND_LINE + 2, "a partial line leaves room to read on");

pub(super) struct Input {
    pub(super) bytes: FixedBuf<INPUT>,
    /// The position of the first command of the batch, while it is with the ticker.
    first_command: usize,
    /// Whether the client has closed its sending side.
    pub(super) ended: bool,
}

/// The action that follows a parse.
pub(super) enum Parsed {
    /// Have the ticker carry out the commands in the batch.
    CarryOut,
    /// Write a status line; every earlier line is answered.
    Status,
    /// Hand over the state; every earlier line is answered.
    HandOver(HandoffRequest),
    /// Hand over to the program on disk; every earlier line is answered.
    Reload,
    /// Send the replies in the batch, then continue to parse.
    SendFirst,
    /// Close after the replies in the batch, because the client sends no more.
    Finished,
    /// Close after the replies in the batch, because a line is too long.
    TooLong,
    /// Continue to read: there is no complete line.
    Nothing,
}

impl Input {
    pub(super) fn new() -> Self {
        Self { bytes: FixedBuf::new(), first_command: 0, ended: false }
    }

    /// Makes the commands of the last batch unread again, with all bytes after them.
    pub(super) fn take_back_commands(&mut self) {
        self.bytes.rewind(self.first_command);
    }

    /// Parses lines until the batch is full, or until a line must wait for the replies before it.
    pub(super) fn parse<S: Service>(&mut self, batch: &mut Batch<S>) -> Parsed {
        loop {
            let (line, length) = match split_line(self.bytes.pending(), self.ended) {
                Framed::Line(line, length) => (line, length),
                Framed::Partial if !batch.is_empty() => return Parsed::CarryOut,
                Framed::Partial if !batch.replies.is_empty() => return Parsed::SendFirst,
                Framed::Partial if self.ended => return Parsed::Finished,
                Framed::Partial => return Parsed::Nothing,
                Framed::TooLong if !batch.is_empty() => return Parsed::CarryOut,
                Framed::TooLong if batch.replies.room() < max_own_line::<S>() => {
                    return Parsed::SendFirst;
                }
                Framed::TooLong => {
                    batch.push_line(command::TOO_LONG);
                    return Parsed::TooLong;
                }
            };
            match Command::<S>::parse(line) {
                Ok(Command::State(command)) => {
                    if !batch.push(command) {
                        // It is full of commands, or of replies to the lines before the first
                        // command.
                        let has_commands = !batch.is_empty();
                        return if has_commands { Parsed::CarryOut } else { Parsed::SendFirst };
                    }
                    if batch.len() == 1 {
                        self.first_command = self.bytes.position();
                    }
                }
                _ if !batch.is_empty() => return Parsed::CarryOut,
                _ if batch.replies.room() < max_own_line::<S>() => return Parsed::SendFirst,
                Err(invalid) => batch.push_line(invalid),
                Ok(Command::Status) => {
                    self.bytes.take(length);
                    return Parsed::Status;
                }
                Ok(Command::HandOver(_) | Command::Reload) if !batch.replies.is_empty() => {
                    return Parsed::SendFirst;
                }
                Ok(Command::Reload) => {
                    self.bytes.take(length);
                    return Parsed::Reload;
                }
                Ok(Command::HandOver(request)) => {
                    let request = HandoffRequest::from(request);
                    self.bytes.take(length);
                    return Parsed::HandOver(request);
                }
            }
            self.bytes.take(length);
        }
    }
}
