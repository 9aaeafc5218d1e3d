// SPDX-License-Identifier: Apache-2.0
//! Abuse: what clients can do to the daemon, and what they cannot achieve.
//!
//! Each row abuses one real process and observes it from outside, while two legitimate clients send
//! requests. Ticks stay on time, memory stays bounded, and legitimate clients are served.
//!
//! | file | who does what |
//! | --- | --- |
//! | [`burst`] | ten thousand connect at once; some begin late, some say nothing |
//! | [`unread`] | a thousand never read a reply |
//! | [`slow`] | a thousand send a byte a second |
//! | [`noise`] | lines that do not end, 100 MB that are no lines |
//! | [`descriptors`] | descriptors come along with commands |
//! | [`halves`] | connections are closed in one direction |
//! | [`shortage`] | there is no descriptor, or no memory, for another client |
//! | [`full`] | `/run` has no byte left |
//! | [`standstill`] | journald does not read |
//! | [`in_flight`] | too many descriptors are on their way for a handoff |
//! | [`mutants`] | every limit is taken out once, and its row must break |
//! | [`scene`] | one daemon, and what watches it: [`witness`], [`log`], [`vitals`], [`metronome`] |
//!
//! The rows run one after another, because each needs the machine. At the end, a table shows all
//! bounds and measured values. `ABUSE_ROWS` in the environment selects rows by the beginning of
//! their names, and `EARLY_SERVICE_PROGRAM` another build of the program.
//!
//! The rows need util-linux, strace and the right to mount; `in_flight` needs root. A missing tool
//! fails a row and is named.
#![allow(clippy::print_stderr, reason = "a test that fails shows what the daemon logged")]

mod burst;
mod descriptors;
mod full;
mod halves;
mod in_flight;
mod mutants;
mod noise;
mod shortage;
mod slow;
mod standstill;
mod unread;

mod claims;
mod crowd;
mod log;
mod metronome;
mod scene;
mod vitals;
mod witness;

use std::any::Any;
use std::env;
use std::io::{self, Write as _};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use claims::{Claims, Outcome};

/// One abuse.
struct Row {
    name: &'static str,
    /// The abusers, or the extent.
    much: &'static str,
    run: fn(&mut Claims),
}

/// All rows; no name is the beginning of another.
const ROWS: &[Row] = &[
    Row { name: "burst of blocking connects", much: "10000 clients", run: burst::that_wait },
    Row { name: "burst without waiting", much: "10000 clients", run: burst::that_do_not_wait },
    Row { name: "clients that begin late", much: "1500 clients", run: burst::that_begin_late },
    Row { name: "clients that say nothing", much: "2000 clients", run: burst::that_say_nothing },
    Row { name: "a silent flood of another user", much: "4800 clients", run: burst::that_flood },
    Row {
        name: "a silent flood of the same user",
        much: "4800 clients",
        run: burst::that_flood_their_own,
    },
    Row { name: "replies never read", much: "1000 clients", run: unread::by_a_thousand },
    Row { name: "a byte a second", much: "980 clients", run: slow::a_byte_a_second },
    Row { name: "endless lines", much: "200 of them", run: noise::endless_line },
    Row { name: "far ahead of its replies", much: "40 lines of one client", run: noise::far_ahead },
    Row { name: "binary garbage", much: "100 MB", run: noise::garbage },
    Row { name: "descriptors uninvited", much: "202400 of them", run: descriptors::uninvited },
    Row { name: "half-closed connections", much: "900 clients", run: halves::of_a_connection },
    Row { name: "limit of 32 descriptors", much: "100 clients", run: shortage::limit_of_32 },
    Row { name: "EMFILE", much: "50 clients for 2 s", run: shortage::limit_reached },
    Row { name: "ENFILE and ENOMEM", much: "20 failures each", run: shortage::of_the_machine },
    Row { name: "full /run", much: "8 kB", run: full::file_system },
    Row { name: "journald stopped", much: "10000 lines", run: standstill::of_the_log },
    Row {
        name: "lines of clients, journald stopped",
        much: "50 lines too many",
        run: standstill::with_lines_of_clients,
    },
    Row {
        name: "ETOOMANYREFS in a handoff",
        much: "253 descriptors for 3 s",
        run: in_flight::of_the_same_user,
    },
];

/// Lets one test run at a time, because the rows need the machine.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

#[test]
fn legitimate_clients_are_served_whatever_others_do() {
    let _alone = alone();
    let chosen = env::var("ABUSE_ROWS").unwrap_or_default();
    let rows: Vec<_> = ROWS.iter().filter(|row| row.name.starts_with(&chosen)).collect();
    assert!(!rows.is_empty(), "no row begins with {chosen:?}");
    let outcomes: Vec<_> = rows.into_iter().map(made).collect();
    // Not with `println!`, because the test runner captures it.
    let _ = writeln!(io::stdout(), "\n{}", claims::table(&outcomes));
    let broken: Vec<_> = outcomes.iter().flat_map(Outcome::broken).collect();
    assert!(broken.is_empty(), "{broken:#?}");
}

fn made(row: &Row) -> Outcome {
    let (start, mut claims) = (Instant::now(), Claims::default());
    let ended = catch_unwind(AssertUnwindSafe(|| (row.run)(&mut claims)));
    let panic = ended.err().map(|panic| words(&*panic));
    let Row { name: abuse, much, .. } = *row;
    Outcome { abuse, much, took: start.elapsed(), claims: claims.all(), panic }
}

/// The message of a panic.
fn words(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref().map(|text: &&str| (*text).to_owned())).unwrap_or_default()
}
