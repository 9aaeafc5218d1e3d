// SPDX-License-Identifier: Apache-2.0
//! Start: from exec to the first reply, in time and system calls, and the resources afterwards.

use std::ffi::OsString;
use std::fs;
use std::path::Path;
use std::time::Duration;

use crate::process::{Memory, Process};
use crate::programs::{ALONE, Programs, Run, Start};
use crate::sample::{Sample, Unit};
use crate::table::{Measured, Row, Table, Target};
use testkit::until;

/// Number of timed starts of each program, in turns.
const STARTS: usize = 150;

/// Number of starts whose memory is measured.
const LOOKS: usize = 9;

/// Time after the first reply, in which the writer starts and a few ticks are logged.
const SETTLED: Duration = Duration::from_millis(250);

pub(crate) fn rows(programs: &Programs, table: &mut Table) {
    time(programs, table);
    calls(programs, table);
    held(programs, table);
}

fn time(programs: &Programs, table: &mut Table) {
    let run = Run::new();
    let (mut daemon, mut floor, mut c) = (Vec::new(), Vec::new(), Vec::new());
    let (mut root, mut floor_async) = (Vec::new(), Vec::new());
    let timed = |start: Start| {
        let (process, taken) = Process::start_timed(start);
        drop(process);
        run.clear();
        taken.as_secs_f64()
    };
    for _ in 0..STARTS {
        daemon.push(timed(programs.initrd(&run)));
        root.push(timed(programs.root(&run, &[])));
        floor.push(timed(programs.floor_by(&run, ALONE)));
        floor_async.push(timed(programs.floor_async(&run)));
        c.push(programs.c(&run).map(|start| start.map(timed)));
    }
    let (daemon, floor) = (Sample::new(Unit::Seconds, daemon), Sample::new(Unit::Seconds, floor));
    let c = [0, 1].map(|which| {
        let tries = c.iter().map(|tried| tried[which].clone()).collect::<Result<Vec<_>, _>>();
        tries.map(|tries| Sample::new(Unit::Seconds, tries))
    });
    let over = |tries: Vec<f64>| Sample::new(Unit::Seconds, tries).over(&floor);
    let (times, root, floor_async) = (daemon.over(&floor), over(root), over(floor_async));
    table.push(Row::new("fork and exec to the first reply", daemon).floor(Ok(floor)).c(c));
    table.push(Row::new("first reply, over the floor's", times).target(Target::AtMost(1.3)));
    table.push(Row::new("the same of the root stage", root));
    table.push(Row::new("the same of the least program on the same crates", floor_async));
}

fn calls(programs: &Programs, table: &mut Table) {
    let run = Run::new();
    let tries = |start: &dyn Fn(&[OsString]) -> Start| -> Result<Vec<Calls>, String> {
        (0..3).map(|_| traced(&run, start)).collect()
    };
    let daemon = tries(&|by| programs.initrd_by(&run, by, &[]));
    let floor = tries(&|by| programs.floor_by(&run, by));
    let sample = |tries: &Result<Vec<Calls>, String>, calls: fn(&Calls) -> usize| {
        let tries = tries.as_ref().map_err(Clone::clone)?;
        Ok(Sample::new(Unit::Count, tries.iter().map(|tried| calls(tried) as f64)))
    };
    let before_listen = |calls: &Calls| calls.before_listen;
    let to_reply = |calls: &Calls| calls.to_reply;
    table.push(
        Row::new("system calls before listen", sample(&daemon, before_listen))
            .floor(sample(&floor, before_listen))
            .target(Target::AtMost(80.0)),
    );
    table.push(
        Row::new("system calls to the first reply, all threads", sample(&daemon, to_reply))
            .floor(sample(&floor, to_reply)),
    );
}

/// Number of system calls of a start.
pub(crate) struct Calls {
    pub(crate) before_listen: usize,
    to_reply: usize,
}

/// Counts the system calls of a start.
pub(crate) fn traced(run: &Run, start: &dyn Fn(&[OsString]) -> Start) -> Result<Calls, String> {
    let trace = run.join("trace");
    let _ = fs::remove_file(&trace);
    // `-D`: strace is not the parent, so the bench can end the process.
    let by = ["strace", "-D", "-f", "-o"].map(OsString::from);
    let by: Vec<_> = by.into_iter().chain([trace.clone().into()]).collect();
    is_installed("strace")?;
    let process = Process::start(start(&by));
    let pid = process.pid().to_string();
    drop(process);
    let read = || fs::read_to_string(&trace).unwrap_or_default();
    let is_last = |line: &str| line.starts_with(&pid) && line.contains("+++ ");
    until("the end of the trace", || read().lines().any(is_last));
    run.clear();
    Ok(Calls::count(&read()))
}

impl Calls {
    /// Counts each call once, at its beginning. Until the socket listens, counts only the first
    /// thread, because the start of the others differs between runs.
    fn count(trace: &str) -> Self {
        let calls: Vec<_> = trace
            .lines()
            .filter_map(|line| line.split_once(' '))
            .map(|(thread, call)| (thread, call.trim()))
            .filter(|(_, call)| !call.starts_with(['<', '+', '-']))
            .skip_while(|(_, call)| !call.starts_with("execve("))
            .collect();
        let first = calls.first().map_or("", |(thread, _)| thread);
        let calls = calls.get(1..).unwrap_or_default();
        let of_first = calls.iter().filter(|(thread, _)| *thread == first);
        let before_listen = of_first.clone().position(|(_, call)| call.starts_with("listen("));
        let to_reply = calls.iter().position(|(_, call)| is_reply(call)).map(|before| before + 1);
        Self {
            before_listen: before_listen.expect("it listens"),
            to_reply: to_reply.expect("it answers"),
        }
    }
}

/// Whether a call writes only a number and the end of a line.
fn is_reply(call: &str) -> bool {
    let text = call.split_once('"').and_then(|(_, text)| text.split_once("\\n\", "));
    let is_number = text.is_some_and(|(text, _)| text.parse::<u64>().is_ok());
    is_number && (call.starts_with("sendto(") || call.starts_with("write("))
}

/// Returns an error if a tool is missing.
pub(crate) fn is_installed(tool: &str) -> Result<(), String> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let is_there = |directory: &Path| directory.join(tool).is_file();
    let found = std::env::split_paths(&path).any(|directory| is_there(&directory));
    if found { Ok(()) } else { Err(format!("{tool} is not installed")) }
}

fn held(programs: &Programs, table: &mut Table) {
    let run = Run::new();
    let look = |start: &dyn Fn() -> Result<Start, String>| {
        let look = |_| start().map(|start| looked(&run, start));
        (0..LOOKS).map(look).collect::<Result<Vec<_>, _>>()
    };
    let initrd = look(&|| Ok(programs.initrd(&run)));
    let root = look(&|| Ok(programs.root(&run, &[])));
    let floor = look(&|| Ok(programs.floor_by(&run, ALONE)));
    let c = [0, 1].map(|which| look(&|| programs.c(&run).into_iter().nth(which).expect("two")));
    let sample = |looks: &Result<Vec<Held>, String>, unit, figure: fn(&Held) -> f64| {
        let looks = looks.as_ref().map_err(Clone::clone)?;
        Measured::Ok(Sample::new(unit, looks.iter().map(figure)))
    };
    let private = |held: &Held| held.memory.private;
    for (stage, looks) in [("initrd stage", &initrd), ("root stage", &root)] {
        table.push(
            Row::new(format!("private memory, {stage}"), sample(looks, Unit::Kilobytes, private))
                .floor(sample(&floor, Unit::Kilobytes, private))
                .c([0, 1].map(|which| sample(&c[which], Unit::Kilobytes, private)))
                .target(Target::AtMost(300.0)),
        );
    }
    for (figure, unit, held, target) in [
        (
            "resident memory",
            Unit::Kilobytes,
            (|held| held.memory.resident) as fn(&Held) -> f64,
            None,
        ),
        ("of it shared", Unit::Kilobytes, |held| held.memory.shared, None),
        ("threads", Unit::Count, |held| held.threads, Some(Target::AtMost(3.0))),
    ] {
        let row = Row::new(figure, sample(&initrd, unit, held))
            .floor(sample(&floor, unit, held))
            .c([0, 1].map(|which| sample(&c[which], unit, held)));
        table.push(match target {
            Some(target) => row.target(target),
            None => row,
        });
    }
}

/// The resources of a process that has started.
#[derive(Clone, Copy)]
pub(crate) struct Held {
    pub(crate) memory: Memory,
    pub(crate) threads: f64,
}

pub(crate) fn looked(run: &Run, start: Start) -> Held {
    let process = Process::start(start);
    std::thread::sleep(SETTLED);
    let held = Held { memory: process.memory(), threads: process.threads() };
    drop(process);
    run.clear();
    held
}
