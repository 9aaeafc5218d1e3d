// SPDX-License-Identifier: Apache-2.0
//! Slots: the sessions and their turns.
//!
//! One task serves all sessions, with a waker for each. One task for each session would be simpler,
//! but could not do the following:
//!
//! - Freezing. All sessions are at rest and leave in one step. Tasks would have to be stopped
//!   one by one, each at a point where its partial line and its unsent replies are complete.
//! - Fairness. A ready session queues behind the others, new clients alternate with connected ones,
//!   and eviction compares all sessions. Tasks would share their sessions and a scheduler as well.
//! - Memory. A session is its connection and two buffers, and a command allocates nothing. A task
//!   adds a future for each state that a session can wait in.
//!
//! The tests `freezing_waits_for_every_batch_then_nothing_moves`,
//! `a_busy_client_lets_others_go_first` and `commands_allocate_nothing` show these three
//! properties; `cargo bench` measures memory and processor time for up to 1,000 clients.
//!
//! **Invariant:** each slot is at most once in the queue of ready slots.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Wake, Waker};

use async_channel::{Receiver, Sender};
use slab::Slab;

use crate::server::limits::{CLIENTS, RESERVE};
use crate::server::session::Session;
use crate::service::Service;

pub(super) struct Slots<S: Service> {
    occupied: Slab<Slot<S>>,
    /// Indexed by slot; each outlives the sessions that use it.
    wakers: Vec<Arc<SlotWaker>>,
    ready: Receiver<usize>,
    queue: Sender<usize>,
}

struct Slot<S: Service> {
    session: Box<Session<S>>,
    /// Whether it has a command that waits until the ticker has caught up.
    waits_for_ticks: bool,
}

/// Puts its slot into the queue.
struct SlotWaker {
    slot: usize,
    /// Whether the slot is in the queue.
    is_queued: AtomicBool,
    queue: Sender<usize>,
}

impl Wake for SlotWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.is_queued.swap(true, Ordering::AcqRel) {
            // There is room for every slot, so this fails only after the server has left.
            let _ = self.queue.try_send(self.slot);
        }
    }
}

impl<S: Service> Slots<S> {
    pub(super) fn new() -> Self {
        // One more is the client that waited for a reload.
        // Room for the highest limit, because RLIMIT_NOFILE may be raised before sessions are
        // adopted.
        let (queue, ready) = async_channel::bounded(CLIENTS + RESERVE + 1);
        Self { occupied: Slab::new(), wakers: Vec::new(), ready, queue }
    }

    pub(super) fn len(&self) -> usize {
        self.occupied.len()
    }

    pub(super) fn get_mut(&mut self, slot: usize) -> Option<&mut Session<S>> {
        Some(&mut *self.occupied.get_mut(slot)?.session)
    }

    /// The numbers of all slots, free ones included.
    pub(super) fn numbers(&self) -> Range<usize> {
        0..self.wakers.len()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (usize, &Session<S>)> {
        self.occupied.iter().map(|(slot, place)| (slot, &*place.session))
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = (usize, &mut Session<S>)> {
        self.occupied.iter_mut().map(|(slot, place)| (slot, &mut *place.session))
    }

    /// Puts a session into a free slot; returns its number.
    pub(super) fn insert(&mut self, mut session: Box<Session<S>>) -> usize {
        let entry = self.occupied.vacant_entry();
        let slot = entry.key();
        if slot == self.wakers.len() {
            let (is_queued, queue) = (AtomicBool::new(false), self.queue.clone());
            self.wakers.push(Arc::new(SlotWaker { slot, is_queued, queue }));
        }
        if let Some(waker) = self.wakers.get(slot) {
            session.attach(Waker::from(Arc::clone(waker)));
        }
        entry.insert(Slot { session, waits_for_ticks: false });
        slot
    }

    pub(super) fn remove(&mut self, slot: usize) -> Option<Box<Session<S>>> {
        self.occupied.try_remove(slot).map(|place| place.session)
    }

    pub(super) fn drain(&mut self) -> impl Iterator<Item = Box<Session<S>>> {
        self.occupied.drain().map(|place| place.session)
    }

    /// Waits for a ready slot; `None` never happens, because `self` holds a sender.
    pub(super) async fn next_ready(&self) -> Option<usize> {
        self.ready.recv().await.ok()
    }

    pub(super) fn has_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    /// Begins the turn of a slot that was taken from the queue.
    pub(super) fn begin_turn(&self, slot: usize) {
        if let Some(waker) = self.wakers.get(slot) {
            waker.is_queued.store(false, Ordering::Release);
        }
    }

    pub(super) fn is_queued(&self, slot: usize) -> bool {
        self.wakers.get(slot).is_some_and(|waker| waker.is_queued.load(Ordering::Acquire))
    }

    /// Leaves the commands of a session unread until [`ticks_caught_up`](Self::ticks_caught_up).
    pub(super) fn wait_for_ticks(&mut self, slot: usize) {
        if let Some(place) = self.occupied.get_mut(slot) {
            place.waits_for_ticks = true;
        }
    }

    /// Puts every session that waits for the ticker into the queue.
    pub(super) fn ticks_caught_up(&mut self) {
        for (_, place) in &mut self.occupied {
            if std::mem::take(&mut place.waits_for_ticks) {
                place.session.wake();
            }
        }
    }

    /// Takes the next ready slot from the queue.
    #[cfg(test)]
    pub(super) fn take_ready(&self) -> Option<usize> {
        self.ready.try_recv().ok()
    }
}
