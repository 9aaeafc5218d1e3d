// SPDX-License-Identifier: Apache-2.0
//! Figures: the daemon's costs, in one table with those of the smallest program that could do its
//! start, and of two C programs that do its work.
//!
//! `cargo bench` takes some four minutes and needs neither root nor systemd. All rows together need
//! strace, valgrind, zstd, unshare, gcc, pkg-config and libglib2.0-dev; a row without its tool
//! names it. `cargo bench -- --plot FILE.svg` also draws the growth of the costs. `cargo bench --
//! --check` takes less than a minute, measures only what does not depend on load, and fails if a
//! figure exceeds the one in `docs/performance.md`; `--commit` prints the table for that page.
//! `cargo bench -- start idle` measures only the subjects of these files. `scripts/figures` writes
//! the output into the page.
//!
//! A figure is the median of its tries, with the middle half of them in brackets. The packaged
//! binary (`cargo build --release`) is measured, with the options of its unit. All sockets are in
//! scratch directories.
#![allow(clippy::print_stdout, reason = "a bench is there to show something")]
#![allow(clippy::print_stderr, reason = "progress is for people who wait")]

mod check;
mod commands;
mod growth;
mod handoff;
mod idle;
mod instructions;
mod load;
mod plot;
mod process;
mod programs;
mod sample;
mod size;
mod start;
mod table;
mod ticks;

use std::env;
use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use signal_hook::consts::SIGINT;
use signal_hook::flag;

use check::{Checked, ToCommit};
use programs::{DESCRIPTORS, Programs};
use table::Table;

/// Adds the rows of one subject.
type Subject = fn(&Programs, &mut Table);

const SUBJECTS: [(&str, Subject); 7] = [
    ("size", size::rows),
    ("start", start::rows),
    ("instructions", instructions::rows),
    ("idle", idle::rows),
    ("ticks", ticks::rows),
    ("commands", commands::rows),
    ("handoff", handoff::rows),
];

/// The last subject, which is also drawn.
const GROWTH: &str = "growth";

const USAGE: &str = "cargo bench [-- --check | --commit | [SUBJECT]... [--plot FILE.svg]]";

/// The exit status after SIGINT, as in shells.
const INTERRUPTED: i32 = 130;

fn main() -> Result<ExitCode, Box<dyn Error>> {
    if !env::args_os().any(|argument| argument == "--bench") {
        // `cargo test --all-targets` starts benches too, with a debug build that is not packaged.
        eprintln!("nothing is measured: {USAGE}");
        return Ok(ExitCode::SUCCESS);
    }
    // A shell may start this program with SIGINT ignored. Its children would inherit that, but are
    // ended by SIGINT. Children do not inherit a handler.
    flag::register_conditional_shutdown(SIGINT, INTERRUPTED, Arc::new(AtomicBool::new(true)))?;
    let mut arguments = env::args_os().skip(1).filter(|argument| argument != "--bench");
    let (mut is_check, mut is_commit) = (false, false);
    let (mut plot, mut subjects) = (None, Vec::new());
    while let Some(argument) = arguments.next() {
        match argument.to_str() {
            Some("--check") => is_check = true,
            Some("--commit") => is_commit = true,
            Some("--plot") => plot = Some(PathBuf::from(arguments.next().ok_or(USAGE)?)),
            Some(name) if name == GROWTH || SUBJECTS.iter().any(|(known, _)| *known == name) => {
                subjects.push(name.to_owned());
            }
            _ => return Err(format!("{}: {USAGE}", argument.to_string_lossy()).into()),
        }
    }
    if plot.is_some() && !subjects.is_empty() {
        subjects.push(GROWTH.to_owned());
    }
    limit_descriptors()?;
    eprintln!("building");
    let programs = Programs::build()?;
    if is_check {
        let checked = Checked::measure(&programs)?;
        print!("{checked}");
        return Ok(if checked.holds() { ExitCode::SUCCESS } else { ExitCode::FAILURE });
    }
    if is_commit {
        print!("{}", ToCommit::measure(&programs)?);
        return Ok(ExitCode::SUCCESS);
    }
    print!("{}", machine()?);
    measure(&programs, &subjects, plot.as_deref())?;
    Ok(ExitCode::SUCCESS)
}

/// Measures these subjects, or all, and draws the growth.
fn measure(
    programs: &Programs,
    names: &[String],
    plot: Option<&Path>,
) -> Result<(), Box<dyn Error>> {
    let (begin, mut table) = (Instant::now(), Table::default());
    let is_wanted = |name| {
        let is_wanted = names.is_empty() || names.iter().any(|wanted| wanted == name);
        if is_wanted {
            eprintln!("{:3} s: {name}", begin.elapsed().as_secs());
        }
        is_wanted
    };
    for (name, rows) in SUBJECTS {
        if is_wanted(name) {
            rows(programs, &mut table);
        }
    }
    let mut curves = Vec::new();
    if is_wanted(GROWTH) {
        curves = growth::curves(programs);
        growth::rows(&curves, &mut table);
    }
    eprintln!("{:3} s: done", begin.elapsed().as_secs());
    print!("\n{table}");
    if let Some(to) = plot {
        plot::draw(&curves, to)?;
        eprintln!("the growth is drawn in {}", to.display());
    }
    Ok(())
}

/// The machine and the system.
fn machine() -> Result<String, Box<dyn Error>> {
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease")?;
    let information = fs::read_to_string("/proc/cpuinfo")?;
    let model =
        information.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let model = model.map_or("processor", |(_, model)| model);
    let (cores, load) =
        (std::thread::available_parallelism()?, fs::read_to_string("/proc/loadavg")?);
    let load = load.split(' ').next().unwrap_or_default();
    Ok(format!("{cores} × {model}, Linux {}, load {load}\n", kernel.trim()))
}

/// The daemon gets the unit's descriptor limit, which is also enough for the clients here.
fn limit_descriptors() -> Result<(), Box<dyn Error>> {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    if maximum.is_some_and(|maximum| maximum < DESCRIPTORS) {
        return Err(format!("needs {DESCRIPTORS} descriptors (ulimit -Hn)").into());
    }
    setrlimit(Resource::Nofile, Rlimit { current: Some(DESCRIPTORS), maximum })?;
    Ok(())
}
