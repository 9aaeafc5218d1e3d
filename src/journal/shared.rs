// SPDX-License-Identifier: Apache-2.0
//! State that the threads that log share with the writer thread.
//!
//! Responsible for queueing records, and for counting the ticks that are not written yet and the
//! records that were dropped. Never blocks, and never allocates for a record.

use std::num::NonZeroU64;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::thread::Thread;
use std::time::Duration;

use early_service_machine::lifecycle::Phase;
use log::{Level, Metadata, Record};
use smol::Timer;

use crate::journal::queue::Queue;
use crate::journal::record::Entry;

/// The slots of the queue: 25 s of ticks at 100 ms, in 32 kB. Too many: memory that is hardly ever
/// used. Too few: lines are dropped while journald is away.
const QUEUE: usize = 256;

/// The slots for records that clients cause; the others are kept for ticks.
const CLIENT_QUEUE: usize = QUEUE / 2;

/// The target of a tick's record. There are too many of them for the kernel log.
pub(crate) const TICK: &str = "tick";

/// The target of a record that a client causes.
pub(crate) const CLIENT: &str = "client";

/// The queue is a separate static, because it consists of zeros: as a part of [`Log`] it would take
/// room in the binary.
pub(super) type Records = Queue<QUEUE>;

/// The queue and the counters.
pub(crate) struct Log {
    pub(super) records: &'static Records,
    /// The writer thread, which is parked while the queue is empty.
    pub(super) writer: OnceLock<Thread>,
    /// The number of records that were not written, because the queue was full or the journal
    /// refused them.
    dropped: AtomicU64,
    ticks_logged: AtomicU64,
    /// The value of `ticks_logged` for the last tick that was written.
    ticks_written: AtomicU64,
    /// Sent as `PHASE=`.
    phase: AtomicU8,
}

impl Log {
    pub(super) const fn new(records: &'static Records) -> Self {
        Self {
            records,
            writer: OnceLock::new(),
            dropped: AtomicU64::new(0),
            ticks_logged: AtomicU64::new(0),
            ticks_written: AtomicU64::new(0),
            phase: AtomicU8::new(Phase::Booting as u8),
        }
    }

    /// Sets the phase of all later records; called by the supervisor.
    pub(crate) fn enter(&self, phase: Phase) {
        self.phase.store(phase as u8, Ordering::Relaxed);
    }

    /// The phase of new records.
    pub(crate) fn phase(&self) -> Phase {
        let phase = usize::from(self.phase.load(Ordering::Relaxed));
        Phase::ALL.get(phase).copied().unwrap_or(Phase::Booting)
    }

    pub(crate) fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// How many of the last ticks are not known to be written: they are queued or were dropped.
    pub(crate) fn unlogged(&self) -> u64 {
        let written = self.ticks_written.load(Ordering::Relaxed);
        self.ticks_logged.load(Ordering::Relaxed).saturating_sub(written)
    }

    /// Counts further ticks of the next tick's record, which counts one by itself.
    pub(crate) fn count_ticks(&self, ticks: u64) {
        self.ticks_logged.fetch_add(ticks, Ordering::Relaxed);
    }

    /// Accepts no more records, and lets the writer thread end once the queue is empty.
    pub(super) fn close(&self) {
        self.records.close();
        self.wake_writer();
    }

    /// Counts a record that was received and could not be written.
    pub(super) fn count_dropped(&self) {
        self.dropped.fetch_add(1, Ordering::Relaxed);
    }

    /// Notes that `entry` was written.
    pub(super) fn set_written(&self, entry: &Entry) {
        if let Some(tick) = entry.tick() {
            self.ticks_written.store(tick.get(), Ordering::Relaxed);
        }
    }

    fn wake_writer(&self) {
        if let Some(writer) = self.writer.get() {
            writer.unpark();
        }
    }
}

impl log::Log for Log {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= Level::Info
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let is_tick = record.target() == TICK;
        if is_tick {
            self.count_ticks(1);
        }
        let room = if record.target() == CLIENT { CLIENT_QUEUE } else { QUEUE };
        // A record that will be dropped need not be formatted, so the queue is checked first.
        let is_queued = self.records.len() < room && {
            let ticks = if is_tick { self.ticks_logged.load(Ordering::Relaxed) } else { 0 };
            Entry::new(record, self.phase(), NonZeroU64::new(ticks)).queue(self.records, room)
        };
        if !is_queued {
            self.count_dropped();
        }
        self.wake_writer();
    }

    fn flush(&self) {}
}

/// How long a burst of records may still wait for the writer.
pub(crate) struct RoomWait {
    left: Duration,
}

impl Default for RoomWait {
    fn default() -> Self {
        Self { left: Self::LIMIT }
    }
}

impl RoomWait {
    /// The wait of one burst. Too long: clients wait for their replies. Too short: more lines are
    /// dropped.
    const LIMIT: Duration = Duration::from_millis(100);

    /// The time without a written record after which the writer is taken to be blocked, even on a
    /// busy machine.
    const STEP: Duration = Duration::from_millis(10);

    /// Waits until the queue of `log` has room for `records`, as long as the writer makes progress.
    /// If the writer is blocked, returns although there is no room; records are then dropped.
    pub(crate) async fn wait(&mut self, log: &Log, records: usize) {
        let waiting = || log.records.len();
        while waiting() + records > QUEUE && !self.left.is_zero() {
            let before = waiting();
            Timer::after(Self::STEP).await;
            self.left = self.left.saturating_sub(Self::STEP);
            if waiting() >= before {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::record::MAX_TEXT;

    use log::Log as _;

    #[test]
    fn a_record_allocates_nothing_on_its_way_to_the_writer() {
        static RECORDS: Records = Records::new();
        static LOG: Log = Log::new(&RECORDS);
        let log = |number: u64| {
            LOG.log(
                &Record::builder()
                    .level(Level::Info)
                    .target(TICK)
                    .args(format_args!("{number}"))
                    .key_values(&[("COUNTER", number), ("DEADLINE_NS", u64::MAX)].as_slice())
                    .build(),
            );
            let entry = Entry::receive(LOG.records).expect("the record");
            let mut line = [0; MAX_TEXT + 64];
            entry.write_line("early-service-initrd", &mut &mut line[..]).expect("room");
            assert!(line.contains(&b']'));
        };
        log(0);
        let all = allocation_counter::measure(|| (0..1000).for_each(log));
        assert_eq!(all.count_total, 0);
    }
}
