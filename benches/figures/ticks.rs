// SPDX-License-Identifier: Apache-2.0
//! Ticks: the cost of one, for each destination of its line.
//!
//! The period is 1 ms, because the process's other costs are then small in comparison.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixDatagram;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use crate::instructions::counter;
use crate::process::Process;
use crate::programs::{ALONE, Programs, Run, Start};
use crate::sample::{Sample, Unit};
use crate::start::is_installed;
use crate::table::{Measured, Row, Table};

const PERIOD: [&str; 2] = ["--timer-delay-ms", "1"];
const TRY: Duration = Duration::from_millis(700);
const TRIES: usize = 5;

/// Replaces `/run` by `$1` and the kernel log by nothing, for this process only.
const OWN_RUN: &str = r#"mount --bind "$1" /run && shift || exit
[ ! -e /dev/kmsg ] || mount --bind /dev/null /dev/kmsg
exec "$@""#;

pub(crate) fn rows(programs: &Programs, table: &mut Table) {
    let run = Run::new();
    let to_a_file = cost(Process::start(programs.initrd_by(&run, ALONE, &PERIOD)), || 0);
    table.push(Row::new("processor time of a tick, logged to a file", to_a_file));
    table.push(Row::new("the same, logged to a journal", to_a_journal(programs)));
    table.push(Row::new("the same, in an initrd without a journal", without_a_journal(programs)));
}

/// The processor time for each tick; `received` returns the number of lines that it has written.
fn cost(process: Process, received: impl Fn() -> usize) -> Measured {
    thread::sleep(Duration::from_millis(100));
    let mut costs = Vec::new();
    let (first, lines) = (counter(&process), received());
    for _ in 0..TRIES {
        let (ticks, time) = (counter(&process), process.processor_time());
        thread::sleep(TRY);
        let (time, ticks) = (process.processor_time() - time, counter(&process) - ticks);
        costs.push(time.as_secs_f64() / ticks as f64);
    }
    let (ticks, lines) = (counter(&process) - first, received() - lines);
    if lines > 0 && (lines as f64) < 0.9 * ticks as f64 {
        return Err(format!("only {lines} lines of {ticks} ticks came"));
    }
    Ok(Sample::new(Unit::Seconds, costs))
}

fn to_a_journal(programs: &Programs) -> Measured {
    let run = Run::new();
    let directory = run.join("own/systemd/journal");
    fs::create_dir_all(&directory).map_err(|error| error.to_string())?;
    let journal = UnixDatagram::bind(directory.join("socket")).expect("a socket");
    journal.set_read_timeout(Some(Duration::from_millis(50))).expect("not zero");
    let (received, is_over) = (AtomicUsize::new(0), AtomicBool::new(false));
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut record = [0; 4096];
            while !is_over.load(Ordering::Relaxed) {
                received
                    .fetch_add(usize::from(journal.recv(&mut record).is_ok()), Ordering::Relaxed);
            }
        });
        let process = with_own_run(programs, &run);
        let lines = || received.load(Ordering::Relaxed);
        let cost = process.and_then(|process| cost(process, lines));
        is_over.store(true, Ordering::Relaxed);
        if lines() == 0 {
            return Err("nothing came to the journal's socket".to_owned());
        }
        cost
    })
}

fn without_a_journal(programs: &Programs) -> Measured {
    let run = Run::new();
    fs::create_dir_all(run.join("own")).map_err(|error| error.to_string())?;
    cost(with_own_run(programs, &run)?, || 0)
}

/// Starts it as systemd does: standard error is the journal, as `$JOURNAL_STREAM` says.
fn with_own_run(programs: &Programs, run: &Run) -> Result<Process, String> {
    is_installed("unshare")?;
    let own = run.join("own");
    let words = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", OWN_RUN, "sh"];
    let by: Vec<_> = words.into_iter().map(OsString::from).chain([own.into()]).collect();
    let Start { mut command, socket } = programs.initrd_by(run, &by, &PERIOD);
    let log = fs::metadata(run.join("log")).map_err(|error| error.to_string())?;
    command.env("JOURNAL_STREAM", format!("{}:{}", log.dev(), log.ino()));
    Ok(Process::start(Start { command, socket }))
}
