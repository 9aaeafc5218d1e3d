// SPDX-License-Identifier: Apache-2.0
//! Growth: each cost as a function of clients, of commands in flight, and of ticks a second.
//!
//! No worse than linear: the last point, at twice the abscissa of the last but one, is not above
//! the straight line through the first point and the last but one.

use std::thread;
use std::time::Duration;

use crate::instructions::{at_each, per_command, per_tick};
use crate::load::{Clients, MOST, Until};
use crate::process::Process;
use crate::programs::{ALONE, Programs, Run};
use crate::sample::{Sample, Unit};
use crate::table::{Measured, Row, Table, Target};

/// How far noise may raise the last point above the line.
const TOLERANCE: f64 = 1.25;

const CLIENTS: [usize; 5] = [1, 100, 250, 500, 1000];
const IN_FLIGHT: [usize; 6] = [1, 4, 16, 64, MOST / 2, MOST];
/// Periods in ms, for 1 to 1,000 ticks a second.
const PERIODS: [usize; 6] = [1000, 100, 10, 4, 2, 1];

const TRY: Duration = Duration::from_millis(250);
const TRIES: usize = 5;

/// The quantity on the abscissa.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum With {
    Clients,
    InFlight,
    Ticks,
}

impl With {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Clients => "clients",
            Self::InFlight => "commands in flight",
            Self::Ticks => "ticks a second",
        }
    }
}

/// The quantity on the ordinate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cost {
    /// In total.
    Memory,
    /// Per second, in ms.
    ProcessorTime,
    /// Per unit, in µs.
    ProcessorTimeEach,
    /// Per command.
    InstructionsOfACommand,
    /// Per tick.
    InstructionsOfATick,
}

impl Cost {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Memory => "private memory, kB",
            Self::ProcessorTime => "processor time a second, ms",
            Self::ProcessorTimeEach => "processor time a command, µs",
            Self::InstructionsOfACommand => "instructions a command",
            Self::InstructionsOfATick => "instructions a tick",
        }
    }

    /// Whether the cost is for one unit of the abscissa, and not for all together.
    const fn is_each(self) -> bool {
        !matches!(self, Self::Memory | Self::ProcessorTime)
    }
}

/// One cost along one abscissa, or why it could not be measured.
pub(crate) struct Curve {
    pub(crate) with: With,
    pub(crate) cost: Cost,
    pub(crate) points: Result<Vec<(f64, f64)>, String>,
}

impl Curve {
    /// The last point relative to the straight line.
    pub(crate) fn over_line(&self) -> Measured {
        let points = self.points.as_ref().map_err(Clone::clone)?;
        let total = |(x, y): (f64, f64)| (x, if self.cost.is_each() { x * y } else { y });
        let [first, half, last] =
            [0, points.len() - 2, points.len() - 1].map(|at| total(points[at]));
        let slope = (half.1 - first.1) / (half.0 - first.0);
        let line = first.1 + slope * (last.0 - first.0);
        Ok(Sample::exact(Unit::Times, last.1 / line))
    }
}

pub(crate) fn curves(programs: &Programs) -> Vec<Curve> {
    let mut curves = Vec::new();
    with_clients(programs, &mut curves);
    with_commands_in_flight(programs, &mut curves);
    with_ticks(programs, &mut curves);
    curves
}

pub(crate) fn rows(curves: &[Curve], table: &mut Table) {
    for curve in curves {
        let cost = curve.cost.name().split(',').next().unwrap_or_default();
        let figure = format!("{cost} with {}, over a straight line", curve.with.name());
        table.push(Row::new(figure, curve.over_line()).target(Target::AtMost(TOLERANCE)));
    }
}

fn with_clients(programs: &Programs, curves: &mut Vec<Curve>) {
    let run = Run::new();
    let process = Process::start(programs.initrd(&run));
    let mut clients = Clients::connect(&process, 0);
    let (mut memory, mut time) = (Vec::new(), Vec::new());
    for count in CLIENTS {
        clients.join(&process, count);
        time.push((count as f64, time_of_a_command(&process, &mut clients, 1)));
        memory.push((count as f64, process.memory().private));
    }
    let instructions = at_each(&CLIENTS, |clients| per_command(programs, clients, 1));
    push(curves, With::Clients, Cost::Memory, Ok(memory));
    push(curves, With::Clients, Cost::ProcessorTimeEach, Ok(time));
    push(curves, With::Clients, Cost::InstructionsOfACommand, joined(&CLIENTS, instructions));
}

fn with_commands_in_flight(programs: &Programs, curves: &mut Vec<Curve>) {
    let run = Run::new();
    let process = Process::start(programs.initrd(&run));
    let mut client = Clients::connect(&process, 1);
    let (mut memory, mut time) = (Vec::new(), Vec::new());
    for count in IN_FLIGHT {
        time.push((count as f64, time_of_a_command(&process, &mut client, count)));
        memory.push((count as f64, process.memory().private));
    }
    let instructions = at_each(&IN_FLIGHT, |in_flight| per_command(programs, 1, in_flight));
    push(curves, With::InFlight, Cost::Memory, Ok(memory));
    push(curves, With::InFlight, Cost::ProcessorTimeEach, Ok(time));
    push(curves, With::InFlight, Cost::InstructionsOfACommand, joined(&IN_FLIGHT, instructions));
}

fn with_ticks(programs: &Programs, curves: &mut Vec<Curve>) {
    let rates = PERIODS.map(|period| 1000 / period);
    let (mut memory, mut time) = (Vec::new(), Vec::new());
    for (period, rate) in PERIODS.into_iter().zip(rates) {
        let run = Run::new();
        let period = period.to_string();
        let start = programs.initrd_by(&run, ALONE, &["--timer-delay-ms", &period]);
        let process = Process::start(start);
        thread::sleep(Duration::from_millis(200));
        let tries = (0..2).map(|_| {
            let before = process.processor_time();
            thread::sleep(Duration::from_secs(1));
            (process.processor_time() - before).as_secs_f64() * 1e3
        });
        time.push((rate as f64, Sample::new(Unit::Count, tries).quantile(0.0)));
        memory.push((rate as f64, process.memory().private));
    }
    // One tick a second would take too long under callgrind.
    let instructions = at_each(&PERIODS[1..], |period| per_tick(programs, period));
    push(curves, With::Ticks, Cost::Memory, Ok(memory));
    push(curves, With::Ticks, Cost::ProcessorTime, Ok(time));
    push(curves, With::Ticks, Cost::InstructionsOfATick, joined(&rates[1..], instructions));
}

fn push(curves: &mut Vec<Curve>, with: With, cost: Cost, points: Result<Vec<(f64, f64)>, String>) {
    curves.push(Curve { with, cost, points });
}

fn joined(points: &[usize], figures: Vec<Measured>) -> Result<Vec<(f64, f64)>, String> {
    let figures = points.iter().zip(figures);
    figures.map(|(point, figure)| Ok((*point as f64, figure?.median()))).collect()
}

/// In µs.
fn time_of_a_command(process: &Process, clients: &mut Clients, in_flight: usize) -> f64 {
    let tries = (0..TRIES).map(|_| {
        let before = process.processor_time();
        let answered = clients.ask(in_flight, Until::Over(TRY));
        let spent = process.processor_time() - before;
        spent.as_secs_f64() * 1e6 / answered.commands as f64
    });
    Sample::new(Unit::Count, tries).median()
}
