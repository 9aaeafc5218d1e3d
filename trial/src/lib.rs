// SPDX-License-Identifier: Apache-2.0
//! Faults between two real processes of a service that is built with `early-service`.
//!
//! [`faults`] starts the program twice, lets the second process adopt the state of the first, and
//! kills or stops one of them before and after each step of the handoff. It needs no privileges.
//! `early_service::trial` has the tests of a state and a device, which need no second process.
//!
//! ```no_run
//! use std::process::Command;
//!
//! use early_service_trial::{Words, faults};
//!
//! let program = || Command::new("target/debug/doors");
//! let words = Words { change: "set_doors 5", ask: "get_doors" };
//! faults(program, words).expect("a service that survives");
//! ```

mod process;
#[doc(hidden)]
pub mod proxy;
#[doc(hidden)]
pub mod victim;

use std::fmt::{self, Display, Formatter};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;
use std::{env, fs, process as this};

use crate::process::{Client, Process, until};
use crate::proxy::{Arrow, Moment, Proxy};
use crate::victim::Blow;

/// How many tries are made at once: a try mostly waits.
const AT_ONCE: usize = 4;

/// How long a process is stopped: longer than the time limit of an offer.
const STOP: Duration = Duration::from_millis(1200);

/// The lines that a trial sends.
#[derive(Clone, Copy, Debug)]
pub struct Words<'a> {
    /// A command that changes the state. Empty if no client can.
    pub change: &'a str,
    /// A command whose reply shows that change, and nothing that ticks or a device change. Empty if
    /// there is none; then only the reply to `status` is expected.
    pub ask: &'a str,
}

/// One try: the process that is hit, when and how.
#[derive(Clone, Copy, Debug)]
struct Plan {
    hits_predecessor: bool,
    arrow: Arrow,
    moment: Moment,
    kills: bool,
}

impl Display for Plan {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let side = if self.hits_predecessor { "predecessor" } else { "successor" };
        let fault = if self.kills { "killed" } else { "stopped" };
        write!(f, "{side} {fault} {} '{}'", self.moment, self.arrow)
    }
}

/// Hits either process before and after each step of a handoff; returns the number of tries.
///
/// `program` makes the command of the program, with the arguments and the environment that both
/// processes need. The trial adds `--server-socket-path`, `--client-socket-path` and
/// `--state-file`, in a directory of its own below [`env::temp_dir`].
///
/// In each try, the change is acknowledged before the handoff. Afterwards one process serves, the
/// change holds, a client that was connected has the same reply or, after a kill, an end of its
/// connection, and the process ends with success when it is told to. A successor that is killed is
/// started again.
///
/// # Errors
///
/// Returns the first broken promise, and the log of the processes.
///
/// # Panics
///
/// If the program cannot be started, or the directory cannot be written.
pub fn faults(program: impl Fn() -> Command + Sync, words: Words<'_>) -> Result<usize, String> {
    let mut plans = Vec::new();
    for arrow in Arrow::ALL {
        for moment in [Moment::Before, Moment::After] {
            for hits_predecessor in [true, false] {
                for kills in [true, false] {
                    plans.push(Plan { hits_predecessor, arrow, moment, kills });
                }
            }
        }
    }
    let (next, wrong) = (AtomicUsize::new(0), Mutex::new(None));
    thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                while let Some(plan) = plans.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if let Err(why) = make(*plan, &program, words) {
                        next.store(plans.len(), Ordering::Relaxed);
                        let mut wrong = wrong.lock().expect("no thread panics with the lock");
                        wrong.get_or_insert(format!("{plan}: {why}"));
                    }
                }
            });
        }
    });
    let wrong = wrong.into_inner().expect("no thread panics with the lock");
    wrong.map_or(Ok(plans.len()), Err)
}

/// A directory that is removed at the end.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Self {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = env::temp_dir().join(format!("early-service-trial-{}-{number}", this::id()));
        fs::create_dir(&path).expect("a directory that can be written");
        Self(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn make(plan: Plan, program: &dyn Fn() -> Command, words: Words<'_>) -> Result<(), String> {
    let scratch = Scratch::new();
    let result = attempt(plan, &scratch.0, program, words);
    result.map_err(|why| {
        let logs = ["first", "second", "third"].map(|name| {
            fs::read_to_string(scratch.0.join(name).with_extension("log")).unwrap_or_default()
        });
        format!("{why}\n{}", logs.concat())
    })
}

fn attempt(
    plan: Plan,
    directory: &Path,
    program: &dyn Fn() -> Command,
    words: Words<'_>,
) -> Result<(), String> {
    let ask = if words.ask.is_empty() { "status" } else { words.ask };
    let is_same = |before: &str, after: &str| words.ask.is_empty() || before == after;
    let mut first = Process::start(program(), directory, "first", None);
    first.serves()?;
    let mut client = Client::connect(&first.socket)?;
    if !words.change.is_empty() {
        client.ask(words.change)?;
    }
    let before = client.ask(ask)?;

    let blow = Blow::new((plan.arrow, plan.moment), (!plan.kills).then_some(STOP));
    if plan.hits_predecessor {
        blow.aim(first.victim.clone());
    }
    let proxy = Proxy::between(directory.join("proxy"), &first.socket, blow.onlooker());
    let mut last = Process::start(program(), directory, "second", Some(proxy.path()));
    if !plan.hits_predecessor {
        blow.aim(last.victim.clone());
        if plan.kills {
            until("the successor has not reached the step", || last.has_ended())?;
            last = Process::start(program(), directory, "third", Some(&first.socket));
        }
    }
    until("the predecessor has not ended", || first.has_ended())?;
    last.serves()?;
    if !(plan.kills && plan.hits_predecessor) {
        first.has_succeeded()?;
    }
    if !blow.has_struck() {
        return Err("the handoff has not reached the step".to_owned());
    }
    let after = Client::connect(&last.socket)?.ask(ask)?;
    if !is_same(&before, &after) {
        return Err(format!("the reply to {ask:?} was {before:?} and is {after:?}"));
    }
    match client.ask(ask) {
        Ok(reply) if is_same(&before, &reply) => {}
        Ok(reply) => return Err(format!("a connected client reads {reply:?}, not {before:?}")),
        Err(_) if plan.kills => {}
        Err(why) => return Err(format!("a connected client: {why}")),
    }
    last.victim.end();
    until("the last owner has not ended", || last.has_ended())?;
    last.has_succeeded()
}
