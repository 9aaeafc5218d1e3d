// SPDX-License-Identifier: Apache-2.0
//! Floods: users whose clients occupy slots and send nothing.
//!
//! A silent client keeps its slot for [`FIRST_LINE`](crate::server::limits::FIRST_LINE). A user
//! that repeatedly fills all slots with silent clients would make every other client wait that
//! long, once for each round of silent clients that connected before it.
//!
//! A user floods if more of its clients than its share of the slots were closed before they sent a
//! line. Its silent clients beyond the share are then evicted at once, the oldest first. A client
//! that sends its first line when it connects is not silent, whatever its user.

use std::time::Duration;

use early_service_machine::schedule::Monotonic;

use crate::platform::clock;

/// How long a user counts as flooding after its last silent client was closed. Shorter: after a
/// pause, a flood takes all slots again. Longer: a user whose clients are silent by mistake has
/// fewer slots for longer.
const FLOOD: Duration = Duration::from_secs(10);

/// How many users are tracked. A further user replaces the one whose last closed client is oldest.
/// Fewer: users that flood in turn are forgotten. More: takes more memory.
const MAX_USERS: usize = 8;

#[derive(Default)]
pub(super) struct Floods {
    users: [Option<Flood>; MAX_USERS],
}

#[derive(Clone, Copy)]
struct Flood {
    user: u32,
    /// How many of its clients were closed before they sent a line.
    gone: usize,
    last: Monotonic,
}

impl Flood {
    fn is_over(&self, now: Monotonic) -> bool {
        clock::between(self.last, now) > FLOOD
    }
}

impl Floods {
    /// Records that a silent client of this user was closed.
    pub(super) fn note(&mut self, user: u32, now: Monotonic) {
        let known = self.users.iter().flatten().position(|flood| flood.user == user);
        let oldest = || {
            let last = |flood: &Option<Flood>| flood.map(|flood| flood.last.as_nanos());
            let users = self.users.iter().enumerate();
            users.min_by_key(|(_, flood)| last(flood)).map_or(0, |(at, _)| at)
        };
        let at = known.unwrap_or_else(oldest);
        if let Some(place) = self.users.get_mut(at) {
            let before = place.filter(|flood| flood.user == user && !flood.is_over(now));
            let gone = before.map_or(0, |flood| flood.gone).saturating_add(1);
            *place = Some(Flood { user, gone, last: now });
        }
    }

    pub(super) fn users(&self, share: usize, now: Monotonic) -> impl Iterator<Item = u32> + use<> {
        let floods = |flood: &Flood| flood.gone > share && !flood.is_over(now);
        let users = self.users.map(|flood| flood.filter(floods).map(|flood| flood.user));
        users.into_iter().flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Monotonic {
        Monotonic::from_nanos(7_000_000_000 + ms * 1_000_000)
    }

    #[test]
    fn a_user_floods_beyond_its_share_until_it_is_quiet() {
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
        assert!(users(&floods, at(quiet + 1)).is_empty(), "the count begins again");
    }

    #[test]
    fn one_user_too_many_replaces_the_one_that_was_quiet_longest() {
        let mut floods = Floods::default();
        for user in 0..=8 {
            floods.note(user, at(u64::from(user)));
        }
        let mut known: Vec<_> = floods.users(0, at(9)).collect();
        known.sort_unstable();
        assert_eq!(known, [1, 2, 3, 4, 5, 6, 7, 8]);
    }
}
