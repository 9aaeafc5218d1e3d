// SPDX-License-Identifier: Apache-2.0
//! Commands: how many a second, and the time of each.

use std::time::Duration;

use crate::load::{Answered, Clients, Until};
use crate::process::Process;
use crate::programs::{ALONE, Programs, Run};
use crate::sample::{Sample, Unit};
use crate::table::{Measured, Row, Table, Target};

/// A number of clients, and how to measure them.
struct Crowd {
    count: usize,
    /// Pipelined commands of each client. With as many for each of a thousand clients as for one,
    /// the last would wait for a quarter of a second.
    pipelined: usize,
    /// Number of short tries, in turns, so that other load on the machine affects all programs.
    tries: usize,
    time: Duration,
}

const CROWDS: [Crowd; 3] = [
    Crowd { count: 1, pipelined: 256, tries: 21, time: Duration::from_millis(60) },
    Crowd { count: 100, pipelined: 64, tries: 15, time: Duration::from_millis(100) },
    Crowd { count: 1000, pipelined: 16, tries: 5, time: Duration::from_millis(300) },
];

pub(crate) fn rows(programs: &Programs, table: &mut Table) {
    for is_pipelined in [false, true] {
        for crowd in CROWDS {
            let count = crowd.count;
            let (in_flight, how) = match is_pipelined {
                true => (crowd.pipelined, format!("{} in flight", crowd.pipelined)),
                false => (1, "one at a time".to_owned()),
            };
            let who = if count == 1 { "1 client".to_owned() } else { format!("{count} clients") };
            let tried = Tried::all(programs, &crowd, in_flight);
            let over = tried.over_gio();
            let mut add = |figure: String, unit, of: fn(&Answered) -> f64, target| {
                let row = tried.row(figure, unit, of);
                table.push(if let Some(target) = target { row.target(target) } else { row });
            };
            let target = (is_pipelined && count == 1).then_some(Target::AtLeast(1e6));
            add(format!("commands, {how}, {who}"), Unit::PerSecond, Answered::per_second, target);
            let p50 = |answered: &Answered| answered.latency(0.50);
            add(format!("latency p50, {how}, {who}"), Unit::Seconds, p50, None);
            let p99 = |answered: &Answered| answered.latency(0.99);
            add(format!("latency p99, {how}, {who}"), Unit::Seconds, p99, None);
            if !is_pipelined && count == 1 {
                let row = Row::new("commands, one at a time, 1 client, over C on GIO", over);
                table.push(row.target(Target::AtLeast(2.0)));
            }
        }
    }
}

/// The same work by each program: the daemon, the floor if it can, and the C programs.
struct Tried([Option<Result<Vec<Answered>, String>>; 4]);

impl Tried {
    /// Measures all programs in turns.
    fn all(programs: &Programs, crowd: &Crowd, in_flight: usize) -> Self {
        let (run, count) = (Run::new(), crowd.count);
        let [glib, bare] = programs.c(&run);
        // The floor serves one client after another.
        let floor = (count == 1).then(|| Ok(programs.floor_by(&run, ALONE)));
        let starts = [Some(Ok(programs.initrd(&run))), floor, Some(glib), Some(bare)];
        let processes = starts.map(|start| start.map(|start| start.map(Process::start)));
        let mut tried = processes.each_ref().map(|process| {
            let process = process.as_ref()?;
            Some(process.as_ref().map(|process| (process, Vec::new())).map_err(Clone::clone))
        });
        for _ in 0..crowd.tries {
            for (process, answered) in tried.iter_mut().flatten().flatten() {
                answered
                    .push(Clients::connect(process, count).ask(in_flight, Until::Over(crowd.time)));
            }
        }
        Self(tried.map(|tried| tried.map(|tried| tried.map(|(_, answered)| answered))))
    }

    fn sample(&self, which: usize, unit: Unit, of: fn(&Answered) -> f64) -> Option<Measured> {
        let tried = self.0[which].as_ref()?;
        let sample = |tries: &Vec<Answered>| Sample::new(unit, tries.iter().map(of));
        Some(tried.as_ref().map(sample).map_err(Clone::clone))
    }

    fn row(&self, figure: String, unit: Unit, of: fn(&Answered) -> f64) -> Row {
        let [daemon, floor, glib, bare] = [0, 1, 2, 3].map(|which| self.sample(which, unit, of));
        let row = Row::new(figure, daemon.expect("it was tried"));
        let row = row.c([glib, bare].map(|measured| measured.expect("it was tried")));
        if let Some(floor) = floor { row.floor(floor) } else { row }
    }

    /// Commands a second, relative to the C program with GIO.
    fn over_gio(&self) -> Measured {
        let per_second = |which| self.sample(which, Unit::PerSecond, Answered::per_second);
        let [daemon, glib] = [0, 2].map(|which| per_second(which).expect("it was tried"));
        Ok(daemon?.over(&glib?))
    }
}
