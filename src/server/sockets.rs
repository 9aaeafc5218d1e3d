// SPDX-License-Identifier: Apache-2.0
//! Sockets: every socket of which a client has the other end.
//!
//! Whoever holds them may talk to clients: the server while it serves, the handoff actor otherwise.

use crate::server::listener::Listener;
use crate::server::session::Session;
use crate::service::Service;

/// The listeners and the connections of clients.
pub(crate) struct Sockets<S: Service> {
    pub(crate) listeners: Vec<Listener>,
    #[allow(clippy::vec_box, reason = "they move on into slots, a kilobyte each without the box")]
    pub(crate) sessions: Vec<Box<Session<S>>>,
}

impl<S: Service> Default for Sockets<S> {
    fn default() -> Self {
        Self { listeners: Vec::new(), sessions: Vec::new() }
    }
}

impl<S: Service> Sockets<S> {
    /// Adds those of a predecessor.
    ///
    /// A listener that we have already, because systemd passed it to both, stays.
    /// One that was bound only because the predecessor might not hand over its own goes.
    /// Any other is served until the predecessor has left, for those who wait in its queue.
    pub(crate) fn join(&mut self, predecessors: Self) {
        for listener in predecessors.listeners {
            if listener.is_inherited() {
                if !self.listeners.iter().any(|ours| ours.is_same_as(&listener)) {
                    self.listeners.push(listener);
                }
            } else {
                self.listeners.retain(|ours| ours.path() != listener.path());
                self.listeners.push(listener);
            }
        }
        self.sessions.extend(predecessors.sessions);
    }
}
