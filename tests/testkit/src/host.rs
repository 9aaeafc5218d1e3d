// SPDX-License-Identifier: Apache-2.0
//! Host: how late the machine wakes threads that could run.
//!
//! A busy machine delays every program. A test that bounds a duration subtracts the delay of an
//! unrelated thread at the same time.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::thread::{CpuSet, sched_setaffinity};

/// Duration of each sleep.
const BEAT: Duration = Duration::from_millis(2);

/// Wake-ups in sequence for one event of a test: a client, the daemon's reactor and executor, the
/// client again, and room for a shell.
const WAKES: u32 = 8;

/// Ends a thread when dropped, even if the test fails.
#[derive(Default)]
pub struct Over(Arc<AtomicBool>);

/// The thread's side.
pub struct Whether(Arc<AtomicBool>);

impl Over {
    pub fn whether(&self) -> Whether {
        Whether(Arc::clone(&self.0))
    }
}

impl Drop for Over {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Whether {
    pub fn is_over(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// Sleeping threads, one on each processor, because a virtual machine may lose only one of its
/// processors.
pub struct Metronome {
    _over: Over,
    latest: Arc<AtomicU64>,
}

impl Metronome {
    pub fn start() -> Self {
        let (over, latest) = (Over::default(), Arc::<AtomicU64>::default());
        let processors = thread::available_parallelism().map_or(1, usize::from);
        for processor in 0..processors {
            let (whether, most) = (over.whether(), Arc::clone(&latest));
            thread::spawn(move || {
                let mut here = CpuSet::new();
                here.set(processor);
                // If this processor is not available to the test, the thread runs on any.
                let _ = sched_setaffinity(None, &here);
                while !whether.is_over() {
                    let start = Instant::now();
                    thread::sleep(BEAT);
                    let late = start.elapsed().saturating_sub(BEAT);
                    let late = u64::try_from(late.as_nanos()).expect("short");
                    most.fetch_max(late, Ordering::Relaxed);
                }
            });
        }
        Self { _over: over, latest }
    }

    /// The longest delay of a sleeper so far.
    pub fn latest(&self) -> Duration {
        Duration::from_nanos(self.latest.load(Ordering::Relaxed))
    }
}

/// A stopwatch that subtracts the delays of the machine.
pub struct Stopwatch {
    metronome: Metronome,
    start: Instant,
}

impl Stopwatch {
    pub fn start() -> Self {
        Self { metronome: Metronome::start(), start: Instant::now() }
    }

    /// The time since the start, without the machine's delays.
    pub fn elapsed(&self) -> Duration {
        self.own(self.start.elapsed())
    }

    /// A duration since the start, without the machine's delays.
    pub fn own(&self, duration: Duration) -> Duration {
        duration.saturating_sub(WAKES * self.metronome.latest())
    }
}
