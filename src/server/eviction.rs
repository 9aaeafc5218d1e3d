// SPDX-License-Identifier: Apache-2.0
//! Eviction: choosing the client to close when a limit is reached, and closing it.

use early_service_machine::schedule::Monotonic;

use crate::platform::clock;
use crate::server::Server;
use crate::server::limits::{FIRST_LINE, IDLE_TIMEOUT, Limit, RESERVE, SHARE, WRITE_TIMEOUT};
use crate::server::session::Session;
use crate::service::Service;

impl<S: Service> Server<S> {
    /// Whether there is a slot for another client; if not, closes the longest idle one.
    pub(super) fn has_slot(&mut self) -> bool {
        self.slots.len() < self.capacity + RESERVE || self.close_longest_idle()
    }

    /// Gives a reserve session that has sent its first command the slot of the longest idle client.
    pub(super) fn leave_reserve(&mut self, slot: usize) {
        // If no client may be closed yet, the next command tries again.
        if self.slots.get_mut(slot).is_some_and(|session| session.is_in_reserve)
            && self.close_longest_idle()
        {
            if let Some(session) = self.slots.get_mut(slot) {
                session.is_in_reserve = false;
            }
        }
    }

    /// Closes the client that has been idle longest; false if none may be closed yet. A new client
    /// has [`FIRST_LINE`] to send something, unless its user floods. A client that has sent a line
    /// and waits for its turn is not idle, and is chosen last.
    pub(super) fn close_longest_idle(&mut self) -> bool {
        let now = clock::now();
        if let Some(slot) = self.find_flooding(now) {
            self.close_for_room(slot, now);
            return true;
        }
        let slots = &self.slots;
        let idle = slots.iter().filter(|(_, session)| !session.is_in_flight());
        let longest = idle.min_by_key(|&(slot, session)| {
            let waits_for_turn = session.has_sent_line() && slots.is_queued(slot);
            (waits_for_turn, session.last_active())
        });
        let Some((slot, session)) = longest else {
            return false;
        };
        let may_be_closed =
            session.has_sent_line() || clock::between(session.last_active(), now) > FIRST_LINE;
        if may_be_closed {
            self.close_for_room(slot, now);
        }
        may_be_closed
    }

    /// The oldest silent client of a user that floods and has more of them than its share.
    fn find_flooding(&mut self, now: Monotonic) -> Option<usize> {
        let share = self.capacity / SHARE;
        self.floods.users(share, now).find_map(|user| {
            let silent = self.slots.iter_mut().filter_map(|(slot, session)| {
                let is_silent = !session.has_sent_line() && !session.is_in_flight();
                (is_silent && session.user() == Some(user)).then(|| (session.last_active(), slot))
            });
            let (mut count, mut oldest) = (0, None);
            for (since, slot) in silent {
                count += 1;
                if oldest.is_none_or(|(before, _)| since < before) {
                    oldest = Some((since, slot));
                }
            }
            oldest.filter(|_| count > share).map(|(_, slot)| slot)
        })
    }

    /// Closes a client to make room; if it was silent, records its user.
    fn close_for_room(&mut self, slot: usize, now: Monotonic) {
        let silent = self.slots.get_mut(slot).filter(|session| !session.has_sent_line());
        if let Some(user) = silent.and_then(Session::user) {
            self.floods.note(user, now);
        }
        self.close_at(slot, Limit::Clients(self.capacity));
    }

    /// Closes every client that has reached a time limit.
    pub(super) fn close_expired(&mut self, now: Monotonic) {
        for slot in self.slots.numbers() {
            let session = self.slots.get_mut(slot).filter(|session| !session.is_in_flight());
            let reached = session.and_then(|session| {
                let (limit, time) = if session.has_unsent() {
                    (Limit::Unread, WRITE_TIMEOUT)
                } else if session.has_overrun() {
                    (Limit::Line, WRITE_TIMEOUT)
                } else {
                    (Limit::Idle, IDLE_TIMEOUT)
                };
                (clock::between(session.last_active(), now) > time).then_some(limit)
            });
            if let Some(limit) = reached {
                self.close_at(slot, limit);
            }
        }
    }

    /// Closes a session that is finished.
    pub(super) fn close(&mut self, slot: usize) {
        if let Some(session) = self.remove(slot) {
            if session.has_overrun() {
                self.close_log.closing(&*session, Limit::Line);
            }
            session.shut_down();
        }
    }

    /// Closes the session of a client that has reached a limit.
    fn close_at(&mut self, slot: usize, limit: Limit) {
        if let Some(session) = self.remove(slot) {
            self.close_log.closing(&*session, limit);
            session.send_line(&format!("Closing: {limit}"));
            session.shut_down();
        }
    }

    pub(super) fn remove(&mut self, slot: usize) -> Option<Box<Session<S>>> {
        let session = self.slots.remove(slot)?;
        self.status.clients.set(self.slots.len());
        if self.slots.len() == 0 {
            self.sweep.clear();
        }
        // The slot, descriptor or memory that was missing may be free now.
        self.resume_accepting.clear();
        Some(session)
    }
}
