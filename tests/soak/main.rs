// SPDX-License-Identifier: Apache-2.0
//! Soak: a long chain of handoffs with clients at work, kills and stops.
//!
//! `SOAK_MINUTES=10 cargo test --release --test soak -- --ignored --nocapture` needs neither root
//! nor a virtual machine. Each process of the chain is the successor of the one before, on one
//! public socket and one state file. Some start their successor themselves, in a reload. In each
//! round a random fault hits one or two of them, while ten clients work and others keep connections
//! from round to round, most of them silent. The judge of the fault tests compares everything that
//! was observed in a round with what one undisturbed counter would have done. A second chain, of a
//! service with a device, runs beside it.
//!
//! The first broken promise ends the program with exit status 1 and keeps the logs of that round.
//! `SOAK_SEED` repeats the rounds, times and clients of another run, but not its interleaving,
//! because the processes are real. SIGINT ends it early, with a report.
#![allow(clippy::print_stderr, reason = "progress is for people who wait")]

mod chain;
mod fate;
mod feeders;
mod process;
mod report;
mod sleepers;

use std::any::Any;
use std::env;
use std::io::{self, Write as _};
use std::panic;
use std::process::exit;
use std::str::FromStr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use signal_hook::consts::{SIGINT, SIGTERM};
use testkit::random::Random;
use testkit::{build, daemon, now, orphan};

use chain::{Chain, Living};
use fate::Fate;
use feeders::Feeders;
use report::{Broken, Report};

/// Time between two lines of progress.
const PROGRESS: Duration = Duration::from_secs(5);

/// Duration without `SOAK_MINUTES`, in minutes.
const MINUTES: f64 = 10.0;

/// The name of the thread of the chain with a device.
const FEEDERS: &str = "feeders";

/// Longer durations are taken for a typing error, in minutes.
const YEAR: f64 = 366.0 * 24.0 * 60.0;

#[test]
#[ignore = "lasts as long as SOAK_MINUTES says"]
fn every_promise_holds_in_a_long_chain_of_handoffs() {
    let is_told_to_stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&is_told_to_stop))
            .unwrap_or_else(|error| panic!("cannot handle signal {signal}: {error}"));
    }
    let (duration, seed) = (duration(), from_environment("SOAK_SEED").unwrap_or_else(now));
    eprintln!("soak: {:.1} minutes, seed {seed}", duration.as_secs_f64() / 60.0);

    let (report, living) = (Arc::new(Mutex::new(Report::new(seed))), Living::default());
    end_at_panic(&report, &living);
    orphan::adopt_all();
    let mut random = Random::new(seed);
    let mut chain = Chain::start(daemon::binary().into(), random.draw(), &living);
    lock(&report).directory = chain.directory();
    let watchdog = build::example("watchdog").unwrap_or_else(|error| panic!("{error}"));
    let (seed, of_feeders) = (random.draw(), Arc::clone(&living));
    let (begun, mut told) = (Instant::now(), Instant::now());
    let is_stopped = Arc::clone(&is_told_to_stop);
    let goes_on = move || begun.elapsed() < duration && !is_stopped.load(Ordering::Relaxed);
    let also_goes_on = goes_on.clone();
    let feeders = thread::Builder::new().name(FEEDERS.to_owned());
    let feeders = feeders
        .spawn(move || Feeders::start(watchdog, seed, of_feeders).run(also_goes_on))
        .expect("a thread");
    while goes_on() && !feeders.is_finished() {
        let fate = Fate::choose(&mut random);
        lock(&report).begin(fate);
        let outcome = chain.round(fate);
        let mut report = lock(&report);
        let sound =
            outcome.and_then(|outcome| report.add(fate, &outcome).map_err(|broken| vec![broken]));
        if let Err(broken) = sound {
            chain.keep_logs();
            fail(&report, &living, &broken);
        }
        if told.elapsed() >= PROGRESS {
            eprintln!("{}", report.progress());
            told = Instant::now();
        }
    }
    let ended = chain.end();
    let fed = feeders.join().map_err(|panic| Broken::Device(text_of(&*panic)));
    let report = lock(&report);
    match ended.and(fed) {
        Err(broken) => fail(&report, &living, &[broken]),
        Ok(fed) => show(&format!("{}\n{fed}\n{}", report.tables(&[]), report.praise())),
    }
    if is_told_to_stop.load(Ordering::Relaxed) {
        show("stopped before its time");
    }
}

/// The duration that `SOAK_MINUTES` sets.
fn duration() -> Duration {
    let minutes = from_environment("SOAK_MINUTES").unwrap_or(MINUTES);
    assert!(minutes > 0.0 && minutes <= YEAR, "SOAK_MINUTES={minutes} is not 0 to {YEAR}");
    Duration::from_secs_f64(minutes * 60.0)
}

/// The number in this variable of the environment, if it is set.
fn from_environment<T: FromStr>(variable: &str) -> Option<T> {
    let text = env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable}={text} is not a number")))
}

/// Prints text that the test runner does not capture, because a soak is watched.
fn show(text: &str) {
    let _ = writeln!(io::stdout(), "{text}");
}

fn lock(report: &Mutex<Report>) -> std::sync::MutexGuard<'_, Report> {
    report.lock().expect("a panic ends the process")
}

/// Reports the broken promises, the first one last, and ends the program.
fn fail(report: &Report, living: &Living, broken: &[Broken]) -> ! {
    kill(living);
    show(&report.tables(broken));
    let others = broken.len().saturating_sub(1);
    for other in broken.iter().skip(1).take(10) {
        eprintln!("also: {other}");
    }
    let more = if others > 0 { format!(", and {others} others above") } else { String::new() };
    eprintln!("{}{more}", report.verdict(&broken[0].to_string()));
    exit(1)
}

fn kill(living: &Living) {
    for victim in living.try_lock().iter().flat_map(|living| living.iter()) {
        victim.kill_at_once();
    }
}

fn text_of(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref().map(|text: &&str| (*text).into())).unwrap_or_default()
}

/// Makes every panic, such as a wait that is too long, the end of the program, with a report.
///
/// Also a panic of a client's thread, which would otherwise be noticed only when it is joined. The
/// thread of the feeders ends by itself, and shows their logs.
fn end_at_panic(report: &Arc<Mutex<Report>>, living: &Living) {
    let (report, living) = (Arc::clone(report), Arc::clone(living));
    let usual = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        if thread::current().name() == Some(FEEDERS) {
            return usual(info);
        }
        let (text, place) = (text_of(info.payload()), info.location());
        kill(&living);
        if let Ok(report) = report.try_lock() {
            let place = place.map(ToString::to_string).unwrap_or_default();
            let broken = Broken::Waiting(format!("{text} ({place})"));
            show(&report.tables(std::slice::from_ref(&broken)));
            eprintln!("{}", report.verdict(&broken.to_string()));
        } else {
            eprintln!("soak: {text}");
        }
        exit(1);
    }));
}
