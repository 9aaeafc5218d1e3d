// SPDX-License-Identifier: Apache-2.0
//! Report: the log and `systemctl status` about a predecessor that does not hand over.
//!
//! A successor asks repeatedly, so a failure is logged only if its kind differs from the last one.
//! Decides nothing else.

use std::fmt;
use std::path::{Path, PathBuf};

use crate::handoff::legacy::LegacyReply;
use crate::journal::message_id::Id;
use crate::platform::notify;

/// The highest value of [`Report::repeated`].
const MAX_REPEATED: u32 = 5;

/// The lines about one predecessor.
pub(crate) struct Report {
    path: PathBuf,
    /// The reply of a legacy program to a line that it does not know.
    reply: Option<LegacyReply>,
    /// The kind of the last line, without its numbers.
    last_logged: Option<String>,
    repeated: u32,
}

impl Report {
    pub(crate) fn new(path: PathBuf) -> Self {
        Self { path, reply: None, last_logged: None, repeated: 0 }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// How often in a row the handoff failed for the same reason, at most [`MAX_REPEATED`].
    pub(crate) fn repeated(&self) -> u32 {
        self.repeated
    }

    /// Logs that the predecessor is asked; returns whether that is the first time.
    pub(crate) fn asking(&mut self) -> bool {
        let is_first = self.last_logged.is_none();
        if is_first {
            log::info!("Reading starting position from socket {}", self.path.display());
            self.last_logged = Some(String::new());
        }
        is_first
    }

    /// Logs that the predecessor has not answered for some time.
    pub(crate) fn silent(&self) {
        let path = self.path.display();
        log::warn!(MESSAGE_ID = Id::PredecessorSilent; "{path} does not answer: waiting for it");
        notify::status(format_args!("adopting: {path} does not answer"));
    }

    /// Connecting failed, but the predecessor may exist.
    pub(crate) fn unreachable(&mut self, why: &str) {
        let line = format!("{}: {why}: waiting for it", self.path.display());
        self.log_once(Id::PredecessorSilent, line);
    }

    /// There is no predecessor. `has_lock` means that no other process can be the owner, so this
    /// one starts with `initial`.
    pub(crate) fn absent(
        &mut self,
        cause: fmt::Arguments<'_>,
        has_lock: bool,
        initial: &dyn fmt::Display,
    ) {
        let path = self.path.display();
        if has_lock {
            log::warn!(
                MESSAGE_ID = Id::PredecessorAbsent;
                "No predecessor at {path}: {cause}; starting at {initial}"
            );
        } else {
            let line = format!(
                "No predecessor at {path}: {cause}; another process holds the lock: waiting"
            );
            self.log_once(Id::LockHeld, line);
        }
    }

    /// Keeps a legacy program's reply to its own line; the first reply that is a line stays.
    pub(crate) fn keep_reply(&mut self, reply: LegacyReply) {
        if !matches!(self.reply, Some(LegacyReply::Line(_))) {
            self.reply = Some(reply);
        }
    }

    /// Like [`absent`](Self::absent), but an earlier reply of a legacy program replaces `cause`.
    pub(crate) fn absent_as_replied(
        &mut self,
        cause: &dyn fmt::Display,
        has_lock: bool,
        initial: &dyn fmt::Display,
    ) {
        match self.reply.take() {
            Some(reply) => self.absent(format_args!("{reply}"), has_lock, initial),
            None => self.absent(format_args!("{cause}"), has_lock, initial),
        }
    }

    /// The owner does not hand over, and waiting is better than a second owner. `has_stopped` means
    /// that the predecessor had stopped serving before it refused.
    pub(crate) fn refused(&mut self, answer: &str, has_stopped: bool) {
        let path = self.path.display();
        let line = format!("{path} answers '{answer}': asking again until it hands over or ends");
        if has_stopped {
            self.count(&line);
        }
        self.log_once(Id::PredecessorRefuses, line);
    }

    /// A legacy program, which cannot be the owner, answers.
    pub(crate) fn unknown_while_locked(&mut self) {
        let line = format!(
            "{} does not know the handoff, and another process holds the lock: waiting",
            self.path.display()
        );
        self.log_once(Id::LockHeld, line);
    }

    /// The bundle cannot be adopted; `kind` is the part of `why` that is the same each time.
    pub(crate) fn violation(&mut self, why: &str, kind: &str) {
        self.count(kind);
        let line = format!("cannot adopt from {}: {why}", self.path.display());
        self.log_once_as(Id::PredecessorRefuses, line, kind);
    }

    /// The predecessor ended the connection while it sent; the lock shows whether it died.
    pub(crate) fn gone(&mut self) {
        const GONE: &str = "gone";
        self.count(GONE);
        self.last_logged = Some(GONE.to_owned());
    }

    pub(crate) fn failed(&mut self, why: &dyn fmt::Display) {
        let line = format!("{}: {why}", self.path.display());
        self.log_once(Id::PredecessorRefuses, line);
    }

    /// Counts equal failures in a row.
    fn count(&mut self, kind: &str) {
        let is_repeated = self.last_logged == Some(without_numbers(kind));
        self.repeated = if is_repeated { MAX_REPEATED.min(self.repeated + 1) } else { 0 };
    }

    fn log_once(&mut self, id: Id, line: String) {
        let kind = line.clone();
        self.log_once_as(id, line, &kind);
    }

    fn log_once_as(&mut self, id: Id, line: String, kind: &str) {
        let kind = Some(without_numbers(kind));
        if self.last_logged != kind {
            log::warn!(MESSAGE_ID = id; "{line}");
            notify::status(format_args!("adopting: {line}"));
            self.last_logged = kind;
        }
    }
}

/// A line without its digits, which may differ each time for the same reason.
fn without_numbers(line: &str) -> String {
    line.chars().filter(|character| !character.is_ascii_digit()).collect()
}
