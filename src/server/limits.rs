// SPDX-License-Identifier: Apache-2.0
//! Limits: how much a client may use, and what happens at the limit.
//!
//! | what | limit | beyond it |
//! | --- | --- | --- |
//! | connections | [`CLIENTS`], fewer if `RLIMIT_NOFILE` is low | the longest idle client is closed |
//! | clients that connect at once | the same, each with [`FIRST_LINE`] to send a line | they wait in the backlog |
//! | silent clients of a user that floods | one slot in [`SHARE`] | the oldest of them is closed at once |
//! | a line | [`MAX_COMMAND_LINE`](early_service_machine::bounds::MAX_COMMAND_LINE) bytes | it is answered, and the client is closed |
//! | time from line to line | [`IDLE_TIMEOUT`] | the client is closed |
//! | time until replies are taken | [`WRITE_TIMEOUT`] | the client is closed |
//! | unsent replies | [`REPLIES`](crate::server::batch::REPLIES) bytes | the client is not read from |
//! | replies in the kernel | [`SEND_BUFFER`] bytes | the same |
//! | queued log records | 256, fewer of long ones, see [`journal`](crate::journal) | the record is dropped and counted |
//!
//! A closed client that reads its replies receives the reason in a last line.
//! The log has the same reason, at most once a second for each kind.

use std::fmt;
use std::os::fd::AsFd;
use std::time::Duration;

use early_service_machine::wire::command::TOO_LONG;
use rustix::io::Errno;
use rustix::net::sockopt::socket_peercred;
use rustix::process::{Resource, getrlimit};

use crate::journal::rate_limit::RateLimit;

/// Clients at once, 4.5 kB each. Fewer: idle clients are closed earlier. More: takes more memory.
pub(crate) const CLIENTS: usize = 1000;

/// Slots beyond those, for clients that have not sent a line, so that a successor can ask for the
/// state although all other slots are in use. Fewer: a few silent clients keep a successor waiting.
/// More: takes more descriptors.
pub(crate) const RESERVE: usize = 4;

/// Descriptors besides those of clients: 17 in the initrd stage, and those open for a moment.
/// Fewer: accepting fails and pauses if `RLIMIT_NOFILE` is low. More: that allows fewer clients.
const INTERNAL_FDS: usize = 20;

/// Descriptors of the process.
pub(crate) const DESCRIPTORS: usize = CLIENTS + RESERVE + INTERNAL_FDS;

/// The number of slots, without the reserve: [`CLIENTS`], or fewer if `RLIMIT_NOFILE` is low.
pub(crate) fn clients() -> usize {
    let limit = getrlimit(Resource::Nofile).current.map(usize::try_from);
    let limit = limit.and_then(Result::ok).unwrap_or(DESCRIPTORS);
    limit.saturating_sub(RESERVE + INTERNAL_FDS).clamp(1, CLIENTS)
}

/// Grace period before a client that has sent nothing may be evicted. Shorter: a burst of clients
/// evicts those that had no time to send. Longer: silent clients keep others waiting for longer.
pub(super) const FIRST_LINE: Duration = Duration::from_secs(1);

/// The share of a user that floods: its silent clients may occupy one slot in this many. More: a
/// client of that user has less time for its first line. Fewer: other users have fewer slots.
pub(super) const SHARE: usize = 4;

/// How long a client may take from one complete line to the next. Shorter: a person at `nc` is
/// disconnected during lunch. Longer: clients whose machine hangs occupy their slots for longer.
pub(super) const IDLE_TIMEOUT: Duration = Duration::from_secs(3600);

/// How long replies may stay unsent because the client does not read. Shorter: a client on a busy
/// machine is closed. Longer: its buffers stay occupied for longer.
pub(super) const WRITE_TIMEOUT: Duration = Duration::from_secs(10);

/// Bytes that are read and discarded after a line that is too long, so that the client receives the
/// reason before the connection ends. Less: a client that writes much sees only a broken
/// connection. More: such a client takes turns for longer.
pub(super) const MAX_DISCARD: usize = 1024 * 1024;

/// Bytes that the kernel may use for replies that a client does not take (SO_SNDBUF in socket(7)).
/// Less than a batch of replies: each batch is sent in pieces. More: with the default of 208 kB, a
/// thousand such clients cost 200 MB.
pub(super) const SEND_BUFFER: usize = 32 * 1024;

/// Whether a call may succeed again when descriptors or memory are free.
pub(crate) fn is_shortage(error: Errno) -> bool {
    matches!(error, Errno::MFILE | Errno::NFILE | Errno::NOMEM | Errno::NOBUFS)
}

/// The limit that a closed client has reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Limit {
    /// Contains the number of slots.
    Clients(usize),
    Idle,
    Unread,
    Line,
}

/// The reason that the client and the log receive.
impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Clients(most) => {
                write!(f, "more than {most} clients, and this one was idle longest")
            }
            Self::Idle => write!(f, "no command for {} s", IDLE_TIMEOUT.as_secs()),
            Self::Unread => {
                write!(f, "its replies were not read for {} s", WRITE_TIMEOUT.as_secs())
            }
            Self::Line => f.write_str(TOO_LONG),
        }
    }
}

/// Logs which clients are closed, and why.
#[derive(Default)]
pub(super) struct CloseLog {
    clients: RateLimit,
    idle: RateLimit,
    unread: RateLimit,
    line: RateLimit,
}

impl CloseLog {
    pub(super) fn closing(&mut self, client: impl AsFd, limit: Limit) {
        let log = match limit {
            Limit::Clients(_) => &mut self.clients,
            Limit::Idle => &mut self.idle,
            Limit::Unread => &mut self.unread,
            Limit::Line => &mut self.line,
        };
        match socket_peercred(client) {
            Ok(peer) => {
                let (pid, uid) = (peer.pid.as_raw_nonzero(), peer.uid.as_raw());
                log.warn(format_args!("Closing process {pid} of user {uid}: {limit}"));
            }
            Err(_) => log.warn(format_args!("Closing a client: {limit}")),
        }
    }
}
