// SPDX-License-Identifier: Apache-2.0
//! Soak: handoff after handoff for as long as you like, with clients at work, kills and stops.
//!
//! `cargo run --release --example soak -- --minutes 10` needs neither root nor a virtual machine.
//! It builds the daemon and makes a growing chain of processes on one public socket and one state
//! file; in each round a random thing happens to one or two of them, while ten clients work and
//! others keep connections from round to round, most of them silent.
//! The judge of `tests/faults` holds all that anybody saw in a round against what one undisturbed
//! counter would have done.
//!
//! The first broken promise ends it, with one line, exit status 1 and the logs of that round.
//! Its seed chooses the same rounds, times and clients again; not the same interleaving, for the
//! processes are real.
#![allow(clippy::print_stdout, reason = "an example is there to show something")]
#![allow(clippy::print_stderr, reason = "progress is for whoever waits")]

#[path = "../shared/build.rs"]
mod build;
mod chain;
mod fate;
mod options;
mod process;
mod report;
mod sleepers;

#[path = "../../tests/faults/judge.rs"]
mod judge;
#[allow(dead_code, reason = "the fault tests use all of it")]
#[path = "../../tests/process/line.rs"]
mod line;
#[allow(dead_code, reason = "the fault tests use all of it")]
#[path = "../../tests/faults/load.rs"]
mod load;
#[path = "../../tests/faults/order.rs"]
mod order;
#[path = "../../tests/faults/random.rs"]
mod random;
#[path = "../../tests/faults/record.rs"]
mod record;
#[allow(dead_code, reason = "the process tests use all of it")]
#[path = "../../tests/process/scratch.rs"]
mod scratch;
#[path = "../../tests/process/starting.rs"]
mod starting;
#[path = "../../tests/faults/victim.rs"]
mod victim;
#[path = "../../tests/process/waiting.rs"]
mod waiting;

use std::env;
use std::panic;
use std::process::{ExitCode, exit};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use signal_hook::consts::{SIGINT, SIGTERM};

use chain::{Chain, Living};
use fate::Fate;
use options::{Command, Options};
use random::Random;
use report::{Broken, Report};
use waiting::{LIMIT, now, until};

/// How often whoever waits is told how far it is.
const PROGRESS: Duration = Duration::from_secs(5);

/// The exit status of a soak that was told to stop before its time, as a shell has it for SIGINT.
const INTERRUPTED: u8 = 130;

/// The exit status of a command line that cannot be carried out.
const USAGE: u8 = 2;

fn main() -> ExitCode {
    match options::parse(env::args_os().skip(1)) {
        Ok(Command::Run(options)) => run(&options),
        Ok(Command::Help) => {
            print!("{}", options::HELP);
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("soak: {error}");
            ExitCode::from(USAGE)
        }
    }
}

fn run(options: &Options) -> ExitCode {
    let is_told_to_stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        if let Err(error) = signal_hook::flag::register(signal, Arc::clone(&is_told_to_stop)) {
            eprintln!("soak: cannot handle signals: {error}");
            return ExitCode::FAILURE;
        }
    }
    let program = match build::daemon() {
        Ok(program) => program,
        Err(error) => {
            eprintln!("soak: {error}");
            return ExitCode::FAILURE;
        }
    };
    let seed = options.seed.unwrap_or_else(now);
    eprintln!("soak: {:.1} minutes, seed {seed}", options.duration.as_secs_f64() / 60.0);

    let (report, living) = (Arc::new(Mutex::new(Report::new(seed))), Living::default());
    end_at_panic(&report, &living);
    let mut random = Random::new(seed);
    let mut chain = Chain::start(program, random.next(), &living);
    lock(&report).directory = chain.directory();
    let (begun, mut told) = (Instant::now(), Instant::now());
    while begun.elapsed() < options.duration && !is_told_to_stop.load(Ordering::Relaxed) {
        let fate = Fate::choose(&mut random);
        lock(&report).begin(fate);
        let outcome = chain.round(fate);
        let mut report = lock(&report);
        let sound =
            outcome.and_then(|outcome| report.add(fate, &outcome).map_err(|broken| vec![broken]));
        if let Err(broken) = sound {
            return fail(&report, &broken, chain);
        }
        if told.elapsed() >= PROGRESS {
            eprintln!("{}", report.progress());
            told = Instant::now();
        }
    }
    let ended = chain.end();
    let report = lock(&report);
    if let Err(broken) = ended {
        println!("{}", report.tables(std::slice::from_ref(&broken)));
        eprintln!("{}", report.verdict(&broken.to_string()));
        return ExitCode::FAILURE;
    }
    println!("{}\n{}", report.tables(&[]), report.praise());
    if is_told_to_stop.load(Ordering::Relaxed) {
        println!("stopped before its time");
        return ExitCode::from(INTERRUPTED);
    }
    ExitCode::SUCCESS
}

fn lock(report: &Mutex<Report>) -> std::sync::MutexGuard<'_, Report> {
    report.lock().expect("whoever panics ends the process")
}

/// Says which promise was broken first, and keeps what the processes logged.
fn fail(report: &Report, broken: &[Broken], chain: Chain) -> ExitCode {
    println!("{}", report.tables(broken));
    let others = broken.len().saturating_sub(1);
    for other in broken.iter().skip(1).take(10) {
        eprintln!("also: {other}");
    }
    chain.keep_logs();
    let more = if others > 0 { format!(", and {others} others above") } else { String::new() };
    eprintln!("{}{more}", report.verdict(&broken[0].to_string()));
    ExitCode::FAILURE
}

/// Makes of a wait that is too long, or of anything else that must not be, the end of the soak.
///
/// The release profile does not unwind, so nobody could catch the panic.
fn end_at_panic(report: &Arc<Mutex<Report>>, living: &Living) {
    let (report, living) = (Arc::clone(report), Arc::clone(living));
    panic::set_hook(Box::new(move |info| {
        let text = info.payload().downcast_ref::<String>().cloned();
        let text = text.or_else(|| info.payload().downcast_ref().map(|text: &&str| (*text).into()));
        let (text, place) = (text.unwrap_or_default(), info.location());
        for victim in living.try_lock().iter().flat_map(|living| living.iter()) {
            victim.kill_at_once();
        }
        if let Ok(report) = report.try_lock() {
            let place = place.map(ToString::to_string).unwrap_or_default();
            let broken = Broken::Waiting(format!("{text} ({place})"));
            println!("{}", report.tables(std::slice::from_ref(&broken)));
            eprintln!("{}", report.verdict(&broken.to_string()));
        } else {
            eprintln!("soak: {text}");
        }
        exit(1);
    }));
}
