// SPDX-License-Identifier: Apache-2.0
//! Vitals: the process's use of memory, descriptors and processor time, from `/proc`.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use testkit::host::Over;

/// Interval of the measurements.
const EVERY: Duration = Duration::from_millis(20);

/// The maxima so far.
pub(crate) struct Vitals {
    pid: u32,
    _over: Over,
    memory: Arc<AtomicU64>,
    descriptors: Arc<AtomicU64>,
}

impl Vitals {
    pub(crate) fn watch(pid: u32) -> Self {
        let over = Over::default();
        let (memory, descriptors) = (Arc::<AtomicU64>::default(), Arc::<AtomicU64>::default());
        let whether = over.whether();
        let (kilobytes, most) = (Arc::clone(&memory), Arc::clone(&descriptors));
        thread::spawn(move || {
            while !whether.is_over() {
                kilobytes.fetch_max(anonymous(pid).unwrap_or_default(), Ordering::Relaxed);
                most.fetch_max(descriptors_of(pid), Ordering::Relaxed);
                thread::sleep(EVERY);
            }
        });
        Self { pid, _over: over, memory, descriptors }
    }

    /// The process's largest own memory so far, in kB.
    pub(crate) fn memory(&self) -> u64 {
        let last = anonymous(self.pid).unwrap_or_default();
        self.memory.load(Ordering::Relaxed).max(last)
    }

    /// The largest number of open descriptors so far.
    pub(crate) fn descriptors(&self) -> u64 {
        self.descriptors.load(Ordering::Relaxed).max(descriptors_of(self.pid))
    }
}

/// Resident memory of the process alone, without its program and shared pages (proc_pid_status(5)).
fn anonymous(pid: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"))?;
    line.trim().strip_suffix(" kB")?.parse().ok()
}

/// Number of open descriptors.
pub(crate) fn descriptors_of(pid: u32) -> u64 {
    fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count) as u64
}

/// Processor time of all threads, to a hundredth of a second (proc_pid_stat(5)).
pub(crate) fn processor_time(pid: u32) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("a process");
    let (_, fields) = stat.rsplit_once(") ").expect("a name in brackets");
    let fields = fields.split(' ').skip(11).take(2);
    let hundredths: u64 = fields.map(|field| field.parse::<u64>().expect("a number")).sum();
    Duration::from_millis(hundredths * 10)
}
