// SPDX-License-Identifier: Apache-2.0
//! Accepting clients, or leaving them in the backlog if there is no slot for them.

use std::fmt;
use std::io;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use smol::Async;

use crate::messages::{ACCEPTS, IN_FLIGHT};
use crate::server::listener::Listener;
use crate::server::session::Session;
use crate::server::{SWEEP, Server};
use crate::service::Service;

/// How long accepting pauses if no slot, descriptor or memory is left for another client. Shorter:
/// a shortage takes more of the processor. Longer: clients wait longer after it.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

impl<S: Service> Server<S> {
    /// Accepts clients of this listener: only one if sessions are ready, so that these have their
    /// turn.
    pub(super) fn accept(&mut self, listener: usize) {
        let most = if self.slots.has_ready() { 1 } else { ACCEPTS };
        for _ in 0..most {
            if !self.listeners.get(listener).is_some_and(Listener::has_client) {
                return;
            }
            if !self.has_slot() {
                let clients = self.slots.len();
                return self.pause_accepting(format_args!(
                    "new clients wait: {clients} came in the last second"
                ));
            }
            let accepted = self.listeners.get(listener).map(Listener::accept);
            match accepted {
                None => return,
                Some(Ok(stream)) => self.open(stream),
                Some(Err(error)) if is_transient(&error) => return,
                Some(Err(error)) => {
                    // accept(2): another holder of the listener has shut it down.
                    if error.kind() == io::ErrorKind::InvalidInput {
                        self.keep_names(false);
                    }
                    return self.pause_accepting(format_args!("cannot accept a client: {error}"));
                }
            }
        }
    }

    /// Leaves clients in the backlog for a while; connected clients are served.
    fn pause_accepting(&mut self, why: fmt::Arguments<'_>) {
        self.shortage.warn(why);
        self.resume_accepting.set_after(ACCEPT_PAUSE);
    }

    /// Closes the listeners whose files the predecessor has removed, after accepting their clients.
    pub(super) fn drain_inherited(&mut self) {
        for at in (0..self.listeners.len()).rev() {
            if self.listeners.get(at).is_some_and(Listener::is_inherited) {
                let listener = self.listeners.remove(at);
                // A client without a slot is disconnected when the listener is closed.
                while listener.has_client() && self.has_slot() {
                    match listener.accept() {
                        Ok(stream) => self.open(stream),
                        Err(error) => {
                            self.shortage.warn(format_args!("cannot accept a client: {error}"));
                            break;
                        }
                    }
                }
            }
        }
    }

    pub(super) fn open(&mut self, stream: UnixStream) {
        let stream = match Async::new(stream) {
            Ok(stream) => stream,
            Err(error) => {
                return self.shortage.warn(format_args!("cannot serve a client: {error}"));
            }
        };
        let slot = self.place(Session::new(stream));
        // Its first command may have arrived already.
        if self.in_flight < IN_FLIGHT {
            self.advance(slot);
        } else if let Some(session) = self.slots.get_mut(slot) {
            session.wake();
        }
    }

    /// Puts a session into a slot; returns its number.
    pub(super) fn place(&mut self, mut session: Box<Session<S>>) -> usize {
        session.is_in_reserve = self.slots.len() >= self.capacity;
        let slot = self.slots.insert(session);
        self.status.clients.set(self.slots.len());
        if self.slots.len() == 1 {
            self.sweep.set_interval(SWEEP);
        }
        slot
    }
}

/// Whether this error concerns only one client.
fn is_transient(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, Interrupted, WouldBlock};
    matches!(error.kind(), WouldBlock | Interrupted | ConnectionAborted)
}
