// SPDX-License-Identifier: Apache-2.0
//! Commands: how many a second, and how long each takes.

use std::time::Duration;

use crate::load::{Answered, Clients, Until};
use crate::process::Process;
use crate::programs::{Programs, Run};
use crate::sample::{Sample, Unit};
use crate::table::{Measured, Row, Table, Target};

/// How many commands a client that pipelines has in flight.
const PIPELINED: usize = 256;

const TRIES: usize = 5;
const TRY: Until = Until::Over(Duration::from_millis(400));

pub(crate) fn rows(programs: &Programs, table: &mut Table) {
    for (in_flight, how) in [(1, "one at a time"), (PIPELINED, "pipelined")] {
        for count in [1, 100, 1000] {
            let who = if count == 1 { "1 client".to_owned() } else { format!("{count} clients") };
            let (daemon, glib) = tries(programs, count, in_flight);
            let sample = |unit, figure: fn(&Answered) -> f64| {
                let of = |tries: &Vec<Answered>| Sample::new(unit, tries.iter().map(figure));
                (of(&daemon), Measured::from(glib.as_ref().map(of).map_err(Clone::clone)))
            };
            let (per_second, glibs) = sample(Unit::PerSecond, Answered::per_second);
            let over = glibs.as_ref().map(|glibs| per_second.over(glibs)).map_err(Clone::clone);
            let row = Row::new(format!("commands, {how}, {who}"), per_second).glib(glibs);
            let is_promised = in_flight == PIPELINED && count == 1;
            table.push(if is_promised { row.target(Target::AtLeast(1e6)) } else { row });
            if in_flight == 1 && count == 1 {
                let row = Row::new("the same, over the C program's", over);
                table.push(row.target(Target::AtLeast(2.0)));
            }
            let p50 = sample(Unit::Seconds, |answered| answered.latency(0.50));
            table.push(Row::new(format!("latency p50, {how}, {who}"), p50.0).glib(p50.1));
            let p99 = sample(Unit::Seconds, |answered| answered.latency(0.99));
            table.push(Row::new(format!("latency p99, {how}, {who}"), p99.0).glib(p99.1));
        }
    }
}

/// Both programs at the same work, in turns.
fn tries(
    programs: &Programs,
    count: usize,
    in_flight: usize,
) -> (Vec<Answered>, Result<Vec<Answered>, String>) {
    let run = Run::new();
    let daemon = Process::start(programs.initrd(&run));
    let glib = programs.glib(&run).map(Process::start);
    let mut of_daemon = Clients::connect(&daemon, count);
    let mut of_glib = glib.as_ref().map(|glib| Clients::connect(glib, count));
    let (mut daemons, mut glibs) = (Vec::new(), Vec::new());
    for _ in 0..TRIES {
        daemons.push(of_daemon.ask(in_flight, TRY));
        if let Ok(of_glib) = &mut of_glib {
            glibs.push(of_glib.ask(in_flight, TRY));
        }
    }
    (daemons, of_glib.map(|_| glibs).map_err(Clone::clone))
}
