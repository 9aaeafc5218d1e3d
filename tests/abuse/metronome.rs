// SPDX-License-Identifier: Apache-2.0
//! Metronome: how long the machine keeps threads waiting that could run.
//!
//! That the machine is busy with something else is not the daemon's fault.
//! A thread that has nothing to do with the daemon says how late a sleeper is woken, and the kernel
//! how long the daemon's threads waited for a processor (`/proc/PID/task/TID/schedstat`).

use std::fs;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use testkit::host::{self, Over};
use testkit::now;

/// How often it is looked how long the daemon waited.
const LOOK: Duration = Duration::from_millis(5);

/// What the machine does to sleepers, and to the daemon.
pub(crate) struct Metronome {
    _over: Over,
    sleepers: host::Metronome,
    /// The daemon.
    pid: Arc<AtomicU32>,
    waits: Arc<Mutex<Waits>>,
}

/// How long the daemon had waited for a processor in all, at many times; in nanoseconds.
#[derive(Clone, Debug, Default)]
pub(crate) struct Waits(Vec<(u64, u64)>);

impl Metronome {
    /// Measures the machine, for the daemon with this process id.
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

    /// From now on, the daemon is this one.
    pub(crate) fn goes_on_with(&self, pid: u32) {
        self.pid.store(pid, Ordering::Relaxed);
    }

    /// The latest that a sleeper was woken so far.
    pub(crate) fn latest(&self) -> Duration {
        self.sleepers.latest()
    }

    /// How long the daemon waited, and when.
    pub(crate) fn waits(&self) -> Waits {
        self.waits.lock().expect("no panic").clone()
    }
}

impl Waits {
    /// What is left of the time between these when the daemon could run, as far as it is known.
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

/// How long the threads of the process have waited for a processor since they began, in
/// nanoseconds; 0 where the kernel does not count it.
fn waited_by(pid: u32) -> u64 {
    let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else { return 0 };
    let waited = threads.filter_map(|thread| {
        let text = fs::read_to_string(thread.ok()?.path().join("schedstat")).ok()?;
        text.split(' ').nth(1)?.parse::<u64>().ok()
    });
    waited.sum()
}
