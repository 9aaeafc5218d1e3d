// SPDX-License-Identifier: Apache-2.0
//! Log: reads continuously what the daemon sends to the socket in journald's place.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use testkit::journald::{Entry, Journald, Tick};

/// A running reader.
pub(crate) struct Log {
    is_stopped: Arc<AtomicBool>,
    orders: Sender<u64>,
    reader: JoinHandle<Vec<Entry>>,
}

impl Log {
    /// Reads everything from now on.
    pub(crate) fn read(mut journald: Journald) -> Self {
        let is_stopped = Arc::<AtomicBool>::default();
        let (orders, ordered) = channel::<u64>();
        let stopped = Arc::clone(&is_stopped);
        let reader = thread::spawn(move || {
            loop {
                if let Ok(last) = ordered.try_recv() {
                    journald.read_until("a tick that was due then", |entries| {
                        let tick = entries.iter().rev().find_map(Tick::of);
                        tick.filter(|tick| tick.deadline >= last)
                    });
                    return journald.entries;
                }
                if stopped.load(Ordering::Relaxed) {
                    thread::sleep(Duration::from_millis(1));
                } else {
                    journald.receive();
                }
            }
        });
        Self { is_stopped, orders, reader }
    }

    /// Reads nothing more until told to continue, like a stopped journald.
    pub(crate) fn stop(&self) {
        self.is_stopped.store(true, Ordering::Relaxed);
    }

    pub(crate) fn go_on(&self) {
        self.is_stopped.store(false, Ordering::Relaxed);
    }

    /// Reads to the first tick that is due at `time` or later; returns all entries.
    pub(crate) fn end_at(self, time: u64) -> Vec<Entry> {
        self.orders.send(time).expect("a reader");
        let entries = self.reader.join();
        entries.unwrap_or_else(|_| panic!("no tick in the log that was due at {time}"))
    }
}

/// The ticks among the entries.
pub(crate) fn ticks(entries: &[Entry]) -> Vec<Tick> {
    entries.iter().filter_map(Tick::of).collect()
}

/// The other entries.
pub(crate) fn lines(entries: &[Entry]) -> Vec<&str> {
    let others = entries.iter().filter(|entry| !entry.contains_key("COUNTER"));
    others.filter_map(|entry| entry.get("MESSAGE").map(String::as_str)).collect()
}
