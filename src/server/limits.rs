// SPDX-License-Identifier: Apache-2.0
//! Limits: what a client may cost, and what is said when it would cost more.
//!
//! | what | at most | then |
//! | --- | --- | --- |
//! | connections | [`CLIENTS`], fewer where `RLIMIT_NOFILE` is low | the longest idle one goes |
//! | clients that come at once | as many, each with [`FIRST_LINE`] to say something | wait in the backlog |
//! | silent clients of a user who floods | one place in [`SHARE`] | the oldest of them goes at once |
//! | a line | [`MAX_COMMAND_LINE`](early_service_machine::bounds::MAX_COMMAND_LINE) bytes | is answered, and its client goes |
//! | time from line to line | [`IDLE_TIMEOUT`] | the client goes |
//! | time until replies are taken | [`WRITE_TIMEOUT`] | the client goes |
//! | replies of ours that wait | [`REPLIES`](crate::server::session::REPLIES) bytes | the client is not read from |
//! | replies in the kernel | [`SEND_BUFFER`] bytes | the same |
//! | log records that wait | 256, fewer of long ones, see [`journal`](crate::journal) | the record is dropped and counted |
//!
//! A client that goes is told why in a last line, unless it does not take what it was sent before,
//! and the log says so too, once a second at the most for each kind.

use std::fmt;
use std::os::fd::AsFd;
use std::time::Duration;

use early_service_machine::schedule::Monotonic;
use rustix::io::Errno;
use rustix::net::sockopt::socket_peercred;
use rustix::process::{Resource, getrlimit};

use crate::journal::rate_limit::RateLimit;

/// The most clients at once, 4.5 kB each; one more, and the longest idle one goes.
pub(crate) const CLIENTS: usize = 1000;

/// Places beyond those: whoever comes in first says what it wants, for a successor that asks for the
/// state must not cost a client its place.
pub(crate) const RESERVE: usize = 4;

/// Descriptors of our own: 17 in the initrd stage, and what is open for a moment.
///
/// With fewer, accepting fails where `RLIMIT_NOFILE` is low, which is waited out.
const INTERNAL_FDS: usize = 20;

/// All descriptors at once.
pub(crate) const DESCRIPTORS: usize = CLIENTS + RESERVE + INTERNAL_FDS;

/// How many clients there is a place for: [`CLIENTS`], or what `RLIMIT_NOFILE` has room for.
pub(crate) fn clients() -> usize {
    let limit = getrlimit(Resource::Nofile).current.map(usize::try_from);
    let limit = limit.and_then(Result::ok).unwrap_or(DESCRIPTORS);
    limit.saturating_sub(RESERVE + INTERNAL_FDS).clamp(1, CLIENTS)
}

/// How long a new client has to send its first line before it may have to go for another one.
///
/// With less, a burst of clients would push out those who had no time to speak; with more, some who
/// say nothing keep the others waiting for longer.
pub(crate) const FIRST_LINE: Duration = Duration::from_secs(1);

/// The part of all places, one in so many, that the silent clients of a user who floods may have.
///
/// With a smaller part, a client of that user would have less time for its first line; with a larger
/// one, there is less left for the others.
pub(crate) const SHARE: usize = 4;

/// How long a user counts as one who floods after the last of its clients had to go without a word.
const FLOOD: Duration = Duration::from_secs(10);

/// The most users of whom that is known; the one that was quiet longest is forgotten.
const FLOODERS: usize = 8;

/// Which users take places and say nothing.
///
/// A silent client keeps its place for [`FIRST_LINE`], so whoever fills all places again and again
/// would have everybody else wait that long, and again for those who came before them.
/// A user floods when more of its clients than its share of the places were closed before they sent a
/// line; from then on those beyond the share go at once, the oldest first, if there is no other place.
/// A client that sends its first line when it connects is not silent, whoever its user is.
#[derive(Default)]
pub(crate) struct Floods {
    users: [Option<Flood>; FLOODERS],
}

#[derive(Clone, Copy)]
struct Flood {
    user: u32,
    /// How many of its clients had to go without a word.
    gone: usize,
    last: Monotonic,
}

impl Flood {
    fn is_over(&self, now: Monotonic) -> bool {
        u128::from(now.nanos_since(self.last)) > FLOOD.as_nanos()
    }
}

impl Floods {
    /// A client of this user had to go without a word.
    pub(crate) fn note(&mut self, user: u32, now: Monotonic) {
        let known = self.users.iter().flatten().position(|flood| flood.user == user);
        let oldest = || {
            let last = |flood: &Option<Flood>| flood.map(|flood| flood.last.as_nanos());
            let slots = self.users.iter().enumerate();
            slots.min_by_key(|(_, flood)| last(flood)).map_or(0, |(slot, _)| slot)
        };
        let slot = known.unwrap_or_else(oldest);
        if let Some(place) = self.users.get_mut(slot) {
            let before = place.filter(|flood| flood.user == user && !flood.is_over(now));
            let gone = before.map_or(0, |flood| flood.gone).saturating_add(1);
            *place = Some(Flood { user, gone, last: now });
        }
    }

    /// The users who flood now.
    pub(crate) fn users(&self, share: usize, now: Monotonic) -> impl Iterator<Item = u32> + use<> {
        let floods = |flood: &Flood| flood.gone > share && !flood.is_over(now);
        let users = self.users.map(|flood| flood.filter(floods).map(|flood| flood.user));
        users.into_iter().flatten()
    }
}

/// How long a client may take from one whole line to the next: a person at `nc` comes back from
/// lunch, a lost one goes.
pub(crate) const IDLE_TIMEOUT: Duration = Duration::from_secs(3600);

/// How long replies may wait for a client that does not take them.
pub(crate) const WRITE_TIMEOUT: Duration = Duration::from_secs(10);

/// The bytes that are read on after a line that is too long, so that its client hears of it before
/// the connection ends.
///
/// With less, some who write much would only hear of a broken connection.
pub(crate) const MAX_DISCARD: usize = 1024 * 1024;

/// The memory that the kernel may use for replies that a client does not take (SO_SNDBUF in
/// socket(7)).
///
/// 208 kB each by default, so that a thousand such clients would cost the machine 200 MB; with
/// less than a batch of replies, each would go in pieces.
pub(crate) const SEND_BUFFER: usize = 32 * 1024;

/// Whether a call fails only until somebody lets go of descriptors or memory.
pub(crate) fn is_shortage(error: Errno) -> bool {
    matches!(error, Errno::MFILE | Errno::NFILE | Errno::NOMEM | Errno::NOBUFS)
}

/// Which limit a client has reached that has to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Limit {
    /// It was idle longest of so many.
    Clients(usize),
    Idle,
    Unread,
    Line,
}

/// What the client is told.
impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Clients(places) => {
                write!(f, "more than {places} clients, and this one was idle longest")
            }
            Self::Idle => write!(f, "no command for {} s", IDLE_TIMEOUT.as_secs()),
            Self::Unread => {
                write!(f, "its replies were not read for {} s", WRITE_TIMEOUT.as_secs())
            }
            Self::Line => f.write_str(early_service_machine::wire::command::TOO_LONG),
        }
    }
}

/// What is logged of clients, each kind once a second at the most.
#[derive(Default)]
pub(crate) struct Complaints {
    clients: RateLimit,
    idle: RateLimit,
    unread: RateLimit,
    line: RateLimit,
}

impl Complaints {
    /// Says which client goes, and why.
    pub(crate) fn closing(&mut self, client: impl AsFd, limit: Limit) {
        let seldom = match limit {
            Limit::Clients(_) => &mut self.clients,
            Limit::Idle => &mut self.idle,
            Limit::Unread => &mut self.unread,
            Limit::Line => &mut self.line,
        };
        match socket_peercred(client) {
            Ok(peer) => {
                let (pid, uid) = (peer.pid.as_raw_nonzero(), peer.uid.as_raw());
                seldom.warn(format_args!("Closing process {pid} of user {uid}: {limit}"));
            }
            Err(_) => seldom.warn(format_args!("Closing a client: {limit}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Monotonic {
        Monotonic::from_nanos(7_000_000_000 + ms * 1_000_000)
    }

    #[test]
    fn a_user_floods_beyond_its_share_until_it_is_quiet_for_a_while() {
        let mut floods = Floods::default();
        let users = |floods: &Floods, now| floods.users(3, now).collect::<Vec<_>>();
        for ms in 0..3 {
            floods.note(5, at(ms));
            floods.note(6, at(ms));
        }
        assert!(users(&floods, at(3)).is_empty());
        floods.note(5, at(3));
        assert_eq!(users(&floods, at(3)), [5]);
        let quiet = 3 + FLOOD.as_secs() * 1000;
        assert_eq!(users(&floods, at(quiet)), [5]);
        assert!(users(&floods, at(quiet + 1)).is_empty());
        floods.note(5, at(quiet + 1));
        assert!(users(&floods, at(quiet + 1)).is_empty(), "it begins anew");
    }

    #[test]
    fn one_user_too_many_is_known_in_the_place_of_the_one_that_was_quiet_longest() {
        let mut floods = Floods::default();
        for user in 0..=8 {
            floods.note(user, at(u64::from(user)));
        }
        let mut known: Vec<_> = floods.users(0, at(9)).collect();
        known.sort_unstable();
        assert_eq!(known, [1, 2, 3, 4, 5, 6, 7, 8]);
    }
}
