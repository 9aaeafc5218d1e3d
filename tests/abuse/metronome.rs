// SPDX-License-Identifier: Apache-2.0
//! Metronome: how long the machine delays threads that could run.
//!
//! A busy machine is not the daemon's fault. A thread that has nothing to do with the daemon
//! measures how late a sleeper is woken. The kernel measures how long the daemon's threads waited
//! for a processor (`/proc/PID/task/TID/schedstat`).

use std::fs;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use testkit::host::{self, Over};
use testkit::now;

/// Interval at which the daemon's waiting time is read.
const LOOK: Duration = Duration::from_millis(5);

/// The delays of sleepers and of the daemon.
pub(crate) struct Metronome {
    _over: Over,
    sleepers: host::Metronome,
    /// The PID of the daemon.
    pid: Arc<AtomicU32>,
    waits: Arc<Mutex<Waits>>,
}

/// The daemon's total waiting time for a processor, at many times; in nanoseconds.
#[derive(Clone, Debug, Default)]
pub(crate) struct Waits(Vec<(u64, u64)>);

impl Metronome {
    /// Starts to measure, for the daemon with this PID.
    pub(crate) fn start(pid: u32) -> Self {
        let (over, sleepers) = (Over::default(), host::Metronome::start());
        let (pid, waits) = (Arc::new(AtomicU32::new(pid)), Arc::<Mutex<Waits>>::default());
        let (whether, daemon, looks) = (over.whether(), Arc::clone(&pid), Arc::clone(&waits));
        thread::spawn(move || {
            while !whether.is_over() {
                let waited = waited_by(daemon.load(Ordering::Relaxed));
                looks.lock().expect("no panic").0.push((now(), waited));
                thread::sleep(LOOK);
            }
        });
        Self { _over: over, sleepers, pid, waits }
    }

    /// From now on, measures another daemon.
    pub(crate) fn goes_on_with(&self, pid: u32) {
        self.pid.store(pid, Ordering::Relaxed);
    }

    /// The longest delay of a sleeper so far.
    pub(crate) fn latest(&self) -> Duration {
        self.sleepers.latest()
    }

    /// The daemon's waiting times so far.
    pub(crate) fn waits(&self) -> Waits {
        self.waits.lock().expect("no panic").clone()
    }
}

impl Waits {
    /// The time between these two, minus the daemon's waits as far as they are known.
    pub(crate) fn own(&self, from: u64, to: u64) -> Duration {
        let Self(looks) = self;
        let before = looks.partition_point(|(time, _)| *time <= from).saturating_sub(1);
        let after =
            looks.partition_point(|(time, _)| *time < to).min(looks.len().saturating_sub(1));
        let waited = |at: usize| looks.get(at).map_or(0, |(_, waited)| *waited);
        let waited = waited(after).saturating_sub(waited(before));
        Duration::from_nanos(to.saturating_sub(from).saturating_sub(waited))
    }
}

/// Total time for which the threads of the process waited for a processor, in nanoseconds; 0 if the
/// kernel does not count it.
fn waited_by(pid: u32) -> u64 {
    let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else { return 0 };
    let waited = threads.filter_map(|thread| {
        let text = fs::read_to_string(thread.ok()?.path().join("schedstat")).ok()?;
        text.split(' ').nth(1)?.parse::<u64>().ok()
    });
    waited.sum()
}
