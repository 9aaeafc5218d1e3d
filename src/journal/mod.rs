// SPDX-License-Identifier: Apache-2.0
//! Log: from a record of the [`log`] crate to journald, the kernel log or standard error.
//!
//! Writing a record may block: journald's socket is full for seconds around the switch of root, and
//! standard error is full if it is not read. A tick or a reply must not wait for that. So a thread
//! that logs only puts the record into a bounded queue, and one thread writes the records out.
//!
//! Owns the queue and the writer thread. Never blocks a thread that logs, and never allocates for a
//! record. Ends when the queue is closed and written out, or after [`FLUSH_LIMIT`].
//!
//! **Invariant:** each record is written or counted as dropped, except for ticks while there is
//! only the kernel log. The number dropped is logged as soon as a record can be written.
//!
//! | file | contents |
//! | --- | --- |
//! | [`shared`] | what all threads share: the queue and the counters |
//! | [`record`] | the encoding of one record |
//! | [`queue`] | the ring that holds the records |
//! | [`writer`] | the thread that writes, and its destinations |
//! | [`message_id`] | the ids of the lines that the catalog explains |
//! | [`rate_limit`] | lines that a client can cause |

pub(crate) mod message_id;
pub(crate) mod queue;
pub(crate) mod rate_limit;
mod record;
mod shared;
mod writer;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use log::LevelFilter;

use crate::cli::Stage;
pub(crate) use crate::journal::shared::{CLIENT, RoomWait, TICK};
use crate::journal::shared::{Log, Records};
use crate::journal::writer::Writer;

/// The stack of the writer thread, in bytes: enough for formatting and one system call.
const STACK: usize = 64 * 1024;

/// How long the end of the process waits until the queue is written out. Too long: a journal that
/// blocks delays the power-off. Too short: a busy machine loses lines.
const FLUSH_LIMIT: Duration = Duration::from_millis(500);

/// The number of steps of that wait. While the process is stopped (SIGSTOP), the clock runs but the
/// writer does not. Afterwards one step is over, and the writer still has the others.
const FLUSH_STEPS: u32 = 10;

/// The log of this process. Static, because the [`log`] crate takes one logger for the whole
/// process.
pub(crate) static LOG: Log = Log::new(&RECORDS);
static RECORDS: Records = Records::new();

/// The writer thread: started once the socket is bound, and flushed at the end.
pub(crate) struct Journal {
    stage: Stage,
    service: &'static str,
    /// Set by the thread when it has written everything.
    done: Option<Arc<AtomicBool>>,
}

impl Journal {
    /// Directs every record of this process to the queue.
    pub(crate) fn install(stage: Stage, service: &'static str) -> Self {
        if log::set_logger(&LOG).is_ok() {
            log::set_max_level(LevelFilter::Info);
        }
        Self { stage, service, done: None }
    }

    pub(crate) fn start(&mut self) -> io::Result<()> {
        let (stage, service, flushing) = (self.stage, self.service, thread::current());
        let done = Arc::new(AtomicBool::new(false));
        let set_done = Arc::clone(&done);
        let thread = thread::Builder::new().name("journal".to_owned()).stack_size(STACK);
        let writer = thread.spawn(move || {
            Writer::open(&LOG, stage, service).write_until_closed();
            set_done.store(true, Ordering::Release);
            flushing.unpark();
        })?;
        let _ = LOG.writer.set(writer.thread().clone());
        self.done = Some(done);
        Ok(())
    }

    /// Writes out the queue within [`FLUSH_LIMIT`]; returns whether every tick is written.
    pub(crate) fn flush(mut self) -> bool {
        if self.done.is_none() && self.start().is_err() {
            // No thread can be started; the queue contains the reason.
            write_here(self.stage, self.service);
        }
        LOG.close();
        // Uses no timer of the reactor, which the process may have failed to start.
        if let Some(done) = self.done {
            for _ in 0..FLUSH_STEPS {
                if done.load(Ordering::Acquire) {
                    break;
                }
                thread::park_timeout(FLUSH_LIMIT / FLUSH_STEPS);
            }
        }
        LOG.unlogged() == 0
    }
}

/// Writes out the queue from this thread if no thread can be started. Tries each record once, which
/// may block.
pub(crate) fn write_here(stage: Stage, service: &str) {
    LOG.close();
    Writer::open(&LOG, stage, service).without_retries().write_until_closed();
}
