// SPDX-License-Identifier: Apache-2.0
//! Instructions: counted by callgrind, in the process alone and not in the kernel.
//!
//! Exact enough to compare with a committed number on a busy machine; only the order in which
//! threads wait for each other varies. The exception is a single client with one command at a time:
//! on a faster processor, the daemon polls more often before it waits for the next command (6,800
//! to 9,500).

use std::ffi::OsString;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::thread;
use std::time::Duration;

use crate::load::{Clients, Until};
use crate::process::Process;
use crate::programs::{Programs, Run, Start};
use crate::sample::{Sample, Unit};
use crate::start::is_installed;
use crate::table::{Measured, Row, Table};

/// A period longer than any bench, so that there are no ticks among the commands.
pub(crate) const STILL: [&str; 2] = ["--timer-delay-ms", "3600000"];

/// Runs at a time; a run is mostly valgrind's own start.
const AT_ONCE: usize = 4;

pub(crate) fn rows(programs: &Programs, table: &mut Table) {
    let daemon = to_listen(&|run, by| programs.initrd_by(run, by, &STILL));
    let floor = to_listen(&|run, by| programs.floor_by(run, by));
    table.push(Row::new("instructions from exec to listen", daemon).floor(floor));
    for (figure, clients, in_flight) in [
        ("instructions per command, one at a time", 1, 1),
        ("the same with 1,000 clients", 1000, 1),
        ("the same pipelined", 1, 256),
    ] {
        table.push(Row::new(figure, per_command(programs, clients, in_flight)));
    }
    table.push(Row::new("instructions per tick, logged to a file", per_tick(programs, 10)));
}

/// Measures at each point, several at a time.
pub(crate) fn at_each(
    points: &[usize],
    measure: impl Fn(usize) -> Measured + Sync,
) -> Vec<Measured> {
    let mut figures = Vec::new();
    for points in points.chunks(AT_ONCE) {
        let measure = &measure;
        thread::scope(|scope| {
            let runs: Vec<_> =
                points.iter().map(|point| scope.spawn(move || measure(*point))).collect();
            figures.extend(runs.into_iter().map(|run| run.join().expect("no panic")));
        });
    }
    figures
}

pub(crate) fn to_listen(start: &dyn Fn(&Run, &[OsString]) -> Start) -> Measured {
    let run = Run::new();
    count(&run, "--dump-before=listen", start, |_| {})?;
    // The first part ends where `listen` begins.
    Ok(Sample::exact(Unit::Count, total(&run, "callgrind.1")?))
}

/// The difference of two runs, one of which has more commands.
pub(crate) fn per_command(programs: &Programs, clients: usize, in_flight: usize) -> Measured {
    let commands = |each: usize| {
        let run = Run::new();
        let start = |run: &Run, by: &[OsString]| programs.initrd_by(run, by, &STILL);
        count(&run, "--dump-instr=no", &start, |process| {
            Clients::connect(process, clients).ask(in_flight, Until::Answered(each));
        })?;
        total(&run, "callgrind")
    };
    let few = (1024 / clients).max(in_flight).max(1);
    let many = few + (4096 / clients).max(4 * in_flight).max(4);
    let difference = commands(many)? - commands(few)?;
    Ok(Sample::exact(Unit::Count, difference / ((many - few) * clients) as f64))
}

/// The difference of two runs, one of which has more ticks.
pub(crate) fn per_tick(programs: &Programs, period: usize) -> Measured {
    let ticks = |watched: Duration| {
        let (run, mut ticks) = (Run::new(), 0);
        let period = period.to_string();
        let options = ["--timer-delay-ms", period.as_str()];
        let start = |run: &Run, by: &[OsString]| programs.initrd_by(run, by, &options);
        count(&run, "--dump-instr=no", &start, |process| {
            thread::sleep(watched);
            ticks = counter(process);
        })?;
        Result::<_, String>::Ok((total(&run, "callgrind")?, ticks as f64))
    };
    let (few, many) = (ticks(Duration::from_millis(500))?, ticks(Duration::from_millis(3000))?);
    Ok(Sample::exact(Unit::Count, (many.0 - few.0) / (many.1 - few.1)))
}

/// The next number to be logged.
pub(crate) fn counter(process: &Process) -> u64 {
    let mut client = process.connect();
    client.write_all(b"get_counter\n").expect("a server");
    let mut reply = String::new();
    BufReader::new(client).read_line(&mut reply).expect("a reply");
    reply.trim_end().parse().expect("a number")
}

/// Runs the program under callgrind until `work` is done, and ends it cleanly.
fn count(
    run: &Run,
    option: &str,
    start: &dyn Fn(&Run, &[OsString]) -> Start,
    work: impl FnOnce(&Process),
) -> Result<(), String> {
    is_installed("valgrind")?;
    let mut to = OsString::from("--callgrind-out-file=");
    to.push(run.join("callgrind"));
    let by = ["valgrind".into(), "--quiet".into(), "--tool=callgrind".into(), option.into(), to];
    let process = Process::start(start(run, &by));
    work(&process);
    process.interrupt();
    Ok(())
}

/// The sum over all threads.
fn total(run: &Run, part: &str) -> Result<f64, String> {
    let text = fs::read_to_string(run.join(part)).map_err(|error| format!("{part}: {error}"))?;
    let total = text.lines().find_map(|line| line.strip_prefix("totals: "));
    total.and_then(|total| total.trim().parse().ok()).ok_or(format!("{part}: no totals"))
}
