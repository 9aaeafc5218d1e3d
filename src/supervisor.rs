// SPDX-License-Identifier: Apache-2.0
//! Supervisor: the only one that knows both the lifecycle and the actors.
//!
//! Turns what the actors report into events, and the effects of a step into orders.
//!
//! Owns the lifecycle.
//! Never does the work of an actor, and never decides what the lifecycle decides.
//! Ends when the lifecycle orders to leave; the process ends with it.

use async_channel::{Receiver, Sender};
use early_service_machine::lifecycle::{Effect, Event, Lifecycle};

use crate::mailbox::post;
use crate::{counter, handoff, journal, server};

/// The most events under way: one of each kind, as no actor reports anything twice.
pub(crate) const MAILBOX: usize = 8;

/// The actor.
pub(crate) struct Supervisor {
    pub(crate) mailbox: Receiver<Event>,
    pub(crate) counter: Sender<counter::Message>,
    pub(crate) server: Sender<server::Message>,
    pub(crate) handoff: Sender<handoff::Message>,
}

impl Supervisor {
    /// Leads the process from Booting to its end.
    pub(crate) async fn run(self, started: Event) {
        let mut lifecycle = Lifecycle::new();
        let mut event = started;
        loop {
            let from = lifecycle.phase();
            let (next, effects) = lifecycle.step(event);
            lifecycle = next;
            let to = lifecycle.phase();
            journal::enter(to);
            if from != to {
                log::info!("{from} => {to}");
            }
            for effect in effects {
                match effect {
                    Effect::Ask => post(&self.handoff, handoff::Message::Ask),
                    Effect::Load(state) => post(&self.counter, counter::Message::Load(state)),
                    Effect::Listen => post(&self.server, server::Message::Listen),
                    Effect::Freeze => post(&self.server, server::Message::Freeze),
                    Effect::Send(state) => post(&self.handoff, handoff::Message::Send(state)),
                    Effect::Thaw => post(&self.server, server::Message::Thaw),
                    Effect::Leave => return,
                }
            }
            match self.mailbox.recv().await {
                Ok(reported) => event = reported,
                Err(_) => return,
            }
        }
    }
}
