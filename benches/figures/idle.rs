// SPDX-License-Identifier: Apache-2.0
//! Idle: what a tick of 100 ms costs, while nobody asks for anything.

use std::thread;
use std::time::{Duration, Instant};

use crate::process::Process;
use crate::programs::{Programs, Run};
use crate::sample::{Sample, Unit};
use crate::table::{Measured, Row, Table, Target};

/// How long each try lasts: twenty ticks.
const TRY: Duration = Duration::from_secs(2);

/// The start is no part of it.
const SETTLED: Duration = Duration::from_millis(300);

const TRIES: usize = 3;

pub(crate) fn rows(programs: &Programs, table: &mut Table) {
    // At the same time: each of them sleeps nearly always.
    let (one, other, third) = (Run::new(), Run::new(), Run::new());
    let initrd = Process::start(programs.initrd(&one));
    let root = Process::start(programs.root(&other, &[]));
    let glib = programs.glib(&third).map(Process::start);
    thread::sleep(SETTLED);
    let processes = [Some(&initrd), Some(&root), glib.as_ref().ok()];
    let mut spent = [const { Vec::new() }; 3];
    for _ in 0..TRIES {
        let before = processes.map(|process| process.map(Spent::so_far));
        thread::sleep(TRY);
        for ((process, before), spent) in processes.iter().zip(before).zip(&mut spent) {
            spent.extend(process.zip(before).map(|(process, before)| before.until(process)));
        }
    }
    let [initrd, root, of_glib] = &spent;
    let sample = |unit, spent: &[PerSecond], figure: fn(&PerSecond) -> f64| -> Measured {
        if spent.is_empty() {
            return Err(glib.as_ref().err().cloned().unwrap_or_default());
        }
        Ok(Sample::new(unit, spent.iter().map(figure)))
    };
    for (stage, spent) in [("initrd stage", initrd), ("root stage", root)] {
        table.push(
            Row::new(
                format!("context switches, idle, {stage}"),
                sample(Unit::PerSecond, spent, |spent| spent.switches),
            )
            .glib(sample(Unit::PerSecond, of_glib, |spent| spent.switches))
            .target(Target::AtMost(55.0)),
        );
    }
    for (stage, spent) in [("initrd stage", initrd), ("root stage", root)] {
        table.push(
            Row::new(
                format!("processor time a second, idle, {stage}"),
                sample(Unit::Seconds, spent, |spent| spent.time),
            )
            .glib(sample(Unit::Seconds, of_glib, |spent| spent.time)),
        );
    }
}

/// What a process has spent at an instant.
struct Spent {
    at: Instant,
    switches: u64,
    time: Duration,
}

/// What it spent in a second.
struct PerSecond {
    switches: f64,
    time: f64,
}

impl Spent {
    fn so_far(process: &Process) -> Self {
        let (switches, time) = (process.switches(), process.processor_time());
        Self { at: Instant::now(), switches, time }
    }

    fn until(self, process: &Process) -> PerSecond {
        let now = Self::so_far(process);
        let seconds = (now.at - self.at).as_secs_f64();
        PerSecond {
            switches: (now.switches - self.switches) as f64 / seconds,
            time: (now.time - self.time).as_secs_f64() / seconds,
        }
    }
}
