// SPDX-License-Identifier: Apache-2.0
//! Idle: the cost of a tick with a period of 100 ms, without clients.

use std::thread;
use std::time::{Duration, Instant};

use crate::process::Process;
use crate::programs::{Programs, Run};
use crate::sample::{Sample, Unit};
use crate::table::{Measured, Row, Table, Target};

/// Duration of each try: twenty ticks.
const TRY: Duration = Duration::from_secs(2);

/// Time to wait before the measurement, to exclude the start.
const SETTLED: Duration = Duration::from_millis(300);

const TRIES: usize = 3;

pub(crate) fn rows(programs: &Programs, table: &mut Table) {
    // At the same time, because each of them almost always sleeps.
    let (one, other) = (Run::new(), Run::new());
    let daemons = [programs.initrd(&one), programs.root(&other, &[])].map(Ok);
    let [initrd, root] = daemons.map(|start| start.map(Process::start));
    let [glib, bare] = programs.c(&one).map(|start| start.map(Process::start));
    let processes = [initrd, root, glib, bare];
    thread::sleep(SETTLED);
    let mut spent = [const { Vec::new() }; 4];
    for _ in 0..TRIES {
        let before = processes.each_ref().map(|process| process.as_ref().ok().map(Spent::so_far));
        thread::sleep(TRY);
        for ((process, before), spent) in processes.iter().zip(before).zip(&mut spent) {
            let process = process.as_ref().ok();
            spent.extend(process.zip(before).map(|(process, before)| before.until(process)));
        }
    }
    let sample = |which: usize, unit, figure: fn(&PerSecond) -> f64| -> Measured {
        processes[which].as_ref().map_err(Clone::clone)?;
        Ok(Sample::new(unit, spent[which].iter().map(figure)))
    };
    let stages = ["initrd stage", "root stage"];
    for (which, stage) in stages.into_iter().enumerate() {
        let switches = |which| sample(which, Unit::PerSecond, |spent| spent.switches);
        let row = Row::new(format!("context switches, idle, {stage}"), switches(which));
        table.push(row.c([2, 3].map(switches)).target(Target::AtMost(55.0)));
    }
    for (which, stage) in stages.into_iter().enumerate() {
        let time = |which| sample(which, Unit::Seconds, |spent| spent.time);
        let row = Row::new(format!("processor time a second, idle, {stage}"), time(which));
        table.push(row.c([2, 3].map(time)));
    }
}

/// The use of resources up to a moment.
struct Spent {
    at: Instant,
    switches: u64,
    time: Duration,
}

/// The use of resources per second.
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
