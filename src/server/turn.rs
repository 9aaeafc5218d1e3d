// SPDX-License-Identifier: Apache-2.0
//! Turns: the steps of a session that is ready, or whose batch has returned.

use std::fmt::Write as _;
use std::os::unix::net::UnixStream;
use std::process;

use smol::Async;

use crate::cli::Stage;
use crate::handoff::channel;
use crate::handoff::reload;
use crate::handoff::request::HandoffRequest;
use crate::journal::LOG;
use crate::messages::{HANDOFF_REQUESTS, ToHandoff, ToTicker, post};
use crate::platform::clock;
use crate::server::batch::Batch;
use crate::server::listener::Listener;
use crate::server::session::Next;
use crate::server::{Gate, Server};
use crate::service::Service;
use crate::status::StatusHeader;

impl<S: Service> Server<S> {
    /// Sends the replies of a batch that has returned, and lets its session continue.
    pub(super) fn batch_done(&mut self, slot: usize, batch: Box<Batch<S>>) {
        let is_crowded = self.slots.has_ready();
        let Some(session) = self.slots.get_mut(slot) else {
            return;
        };
        let is_carried_out = session.batch_done(batch);
        if self.gate != Gate::Freezing {
            session.send_replies();
        }
        if !is_carried_out {
            self.is_behind = true;
            self.slots.wait_for_ticks(slot);
        } else if is_crowded {
            // Requeue behind the other ready sessions; reading again immediately would let one busy
            // client starve them.
            session.wake_when_ready();
        } else {
            session.wake();
        }
    }

    /// Gives a session its turn, if the gate is open.
    pub(super) fn advance(&mut self, slot: usize) {
        if self.gate != Gate::Open {
            return;
        }
        let Some(session) = self.slots.get_mut(slot) else {
            return;
        };
        match session.advance() {
            Next::Wait => {}
            Next::CarryOut(batch) => {
                self.leave_reserve(slot);
                if !self.is_behind {
                    self.carry_out(slot, batch);
                } else if let Some(session) = self.slots.get_mut(slot) {
                    session.batch_done(batch);
                    session.send_replies();
                    self.slots.wait_for_ticks(slot);
                }
            }
            Next::Status(mut batch) => {
                self.leave_reserve(slot);
                self.write_status(&mut batch);
                self.carry_out(slot, batch);
            }
            Next::HandOver(request) => self.hand_over(slot, request),
            Next::Reload => self.reload(slot),
            Next::Close => self.close(slot),
        }
    }

    fn carry_out(&mut self, slot: usize, batch: Box<Batch<S>>) {
        self.in_flight += 1;
        post(&self.ticker, ToTicker::CarryOut { slot, batch });
    }

    /// Writes the part of the status line that all states share; the ticker completes it.
    fn write_status(&self, batch: &mut Batch<S>) {
        let provenance = self.status.provenance.get();
        let now = clock::now();
        let head = StatusHeader {
            stage: self.stage,
            phase: LOG.phase(),
            version: S::VERSION,
            pid: process::id(),
            provenance,
            serving_s: provenance
                .map_or(0, |provenance| clock::between(provenance.since, now).as_secs()),
            clients: self.slots.len(),
            log_lines_dropped: LOG.dropped(),
            device: self.status.device_name(),
        };
        let written = write!(batch.replies, "{head} ");
        debug_assert!(written.is_ok(), "the session made sure of room");
        batch.status = true;
    }

    /// Gives the connection of a client that requests the state to the handoff actor, which checks
    /// whether the client may receive it.
    fn hand_over(&mut self, slot: usize, request: HandoffRequest) {
        let Some(session) = self.remove(slot) else {
            return;
        };
        let stream = session.into_stream();
        // Leaves room in the mailbox for the supervisor's orders.
        if self.handoff.len() < HANDOFF_REQUESTS {
            let owner = self.owner(&stream);
            post(&self.handoff, ToHandoff::Requested(stream, request, owner));
        } else {
            // Without a reply, the client would take this process for a legacy program.
            channel::refuse(&stream, request.busy());
        }
    }

    /// Gives the session of a client that asks for a reload to the handoff actor, which checks
    /// whether the client may ask, and answers it.
    fn reload(&mut self, slot: usize) {
        let is_refused = match self.stage {
            Stage::Initrd => Some("the root stage replaces the initrd stage"),
            Stage::Root if self.handoff.len() >= HANDOFF_REQUESTS => Some(reload::BUSY),
            Stage::Root => None,
        };
        match (is_refused, self.slots.get_mut(slot)) {
            (Some(why), Some(session)) => {
                session.answer(&reload::refused(why));
                session.wake();
            }
            _ => {
                if let Some(session) = self.remove(slot) {
                    let owner = self.owner(session.stream());
                    post(&self.handoff, ToHandoff::Reload(session, owner));
                }
            }
        }
    }

    /// The owner of the socket file to which the client of `stream` connected.
    fn owner(&self, stream: &Async<UnixStream>) -> Option<u32> {
        let mut listeners = self.listeners.iter();
        listeners.find(|listener| listener.has_accepted(stream)).and_then(Listener::owner)
    }
}
