// SPDX-License-Identifier: Apache-2.0
//! `early-service`: answers from the initrd on, and hands its state to the root filesystem.
//!
//! The wiring table:
//!
//! | actor | owns | may tell | mailbox holds |
//! | --- | --- | --- | --- |
//! | [`counter`] | value, rhythm, timer | server, supervisor | all batches, one order of a kind |
//! | [`server`] | listeners, sessions | counter, handoff | all batches, one order of a kind |
//! | [`handoff`] | connection to the other process | supervisor | orders, a few askers |
//! | [`signals`] | signal handlers | supervisor | none |
//! | [`journal`] | log queue, writer thread | nobody | 256 records |
//! | [`supervisor`] | lifecycle | counter, server, handoff, PID 1 | what can be reported at once |
//!
//! All exist from start to end, all but the journal's writer on this thread.
//! Nobody waits for room in a mailbox, so nobody waits for another in a circle.

mod clock;
mod counter;
mod handoff;
mod journal;
mod listener;
mod mailbox;
mod options;
mod root;
mod server;
mod session;
mod signals;
mod supervisor;
mod systemd;
mod users;

use std::env;
use std::fmt;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use early_service_machine::lifecycle::Event;
use futures_lite::future;
use smol::{LocalExecutor, Timer};

use counter::Counter;
use handoff::Handoff;
use journal::Journal;
use listener::Listener;
use options::{Command, Environment, HELP, Options, Predecessor, Stage};
use root::OldRoot;
use server::Server;
use signals::Signals;
use supervisor::Supervisor;

/// The exit status of a command line that cannot be carried out, as getopt(3) users have it.
const USAGE: u8 = 2;

/// Orders that may wait beside the batches: load or listen, freeze, thaw.
const ORDERS: usize = 4;

fn main() -> ExitCode {
    let passed = systemd::listeners();
    let runtime_directory = env::var_os("RUNTIME_DIRECTORY");
    let environment =
        Environment { runtime_directory, passes_socket: !passed.as_ref().is_ok_and(Vec::is_empty) };
    match options::parse(env::args_os().skip(1), &environment) {
        Ok(Command::Run(options)) => run(options, passed),
        Ok(Command::Help) => print(HELP),
        Ok(Command::Version) => print(concat!("early-service ", env!("CARGO_PKG_VERSION"), "\n")),
        Err(error) => {
            let _ = writeln!(io::stderr(), "early-service: {error}");
            ExitCode::from(USAGE)
        }
    }
}

fn print(text: &str) -> ExitCode {
    match io::stdout().write_all(text.as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

fn run(options: Options, passed: Result<Vec<OwnedFd>, sd_listen_fds::Error>) -> ExitCode {
    let mut journal = Journal::install(options.stage);
    let result =
        passed.map_err(Error::Passed).and_then(|passed| serve(options, passed, &mut journal));
    if let Err(error) = &result {
        log::error!("{error}");
    }
    journal.flush();
    if result.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Why the process cannot serve.
enum Error {
    Passed(sd_listen_fds::Error),
    Listener(listener::Error),
    Thread(io::Error),
    Signals(io::Error),
}

impl From<listener::Error> for Error {
    fn from(error: listener::Error) -> Self {
        Self::Listener(error)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Passed(error) => write!(f, "cannot understand $LISTEN_FDS: {error}"),
            Self::Listener(error) => error.fmt(f),
            Self::Thread(error) => write!(f, "cannot start a thread: {error}"),
            Self::Signals(error) => write!(f, "cannot handle signals: {error}"),
        }
    }
}

/// What the process listens on, and where its predecessor can be reached.
fn listen(
    options: &Options,
    passed: Vec<OwnedFd>,
) -> Result<(Vec<Listener>, Option<PathBuf>), listener::Error> {
    let mut listeners = passed.into_iter().map(Listener::passed).collect::<Result<Vec<_>, _>>()?;
    let mut predecessor = match &options.predecessor {
        Predecessor::At(path) => Some(path.clone()),
        Predecessor::OnServerSocket | Predecessor::Nobody => None,
    };
    let is_passed = |path: &Path| listeners.iter().any(|listener| listener.path() == path);
    match &options.server {
        Some(path) if is_passed(path) => {}
        Some(path) if options.predecessor == Predecessor::OnServerSocket => {
            let (listener, aside) = Listener::take_over(path)?;
            listeners.push(listener);
            predecessor = Some(aside);
        }
        Some(path) => listeners.push(Listener::bind(path)?),
        None => {}
    }
    Ok((listeners, predecessor))
}

fn serve(options: Options, passed: Vec<OwnedFd>, journal: &mut Journal) -> Result<(), Error> {
    // Before there is a socket file that a signal could leave behind.
    let signals = Signals::install(options.stage).map_err(Error::Signals)?;
    // From here on, clients wait in the backlog instead of being refused.
    let ((listeners, predecessor), old_root) = match options.stage {
        // Polling them starts the reactor's thread, which needs none of the capabilities that
        // following PID 1 takes.
        Stage::Initrd => {
            let listening = root::without_capabilities(|| Ok(listen(&options, passed)));
            (listening.map_err(Error::Thread)??, OldRoot::remember())
        }
        Stage::Root => (listen(&options, passed)?, None),
    };
    journal.start().map_err(Error::Thread)?;

    let (to_counter, counter_mailbox) = async_channel::bounded(server::UNDER_WAY + ORDERS);
    let (to_server, server_mailbox) = async_channel::bounded(server::UNDER_WAY + ORDERS);
    let (to_handoff, handoff_mailbox) = async_channel::bounded(handoff::MAILBOX);
    let (to_supervisor, supervisor_mailbox) = async_channel::bounded(supervisor::MAILBOX);
    let (to_supervisor_continued, continued) = async_channel::bounded(1);

    let started = match predecessor {
        Some(_) => Event::StartedAsSuccessor,
        None => Event::StartedAlone,
    };
    let signals = signals.run(to_supervisor.clone(), to_supervisor_continued);
    let counter =
        Counter::new(counter_mailbox, to_server.clone(), to_supervisor.clone(), options.period);
    let server = Server::new(
        server_mailbox,
        to_counter.clone(),
        to_handoff.clone(),
        options.stage,
        listeners,
    );
    let handoff = Handoff::new(handoff_mailbox, to_supervisor, predecessor, options.successor);
    let supervisor = Supervisor {
        mailbox: supervisor_mailbox,
        continued,
        counter: to_counter,
        server: to_server,
        handoff: to_handoff,
        old_root,
        rounds: Timer::never(),
    };

    let executor = LocalExecutor::new();
    executor.spawn(counter.run()).detach();
    executor.spawn(server.run()).detach();
    executor.spawn(handoff.run()).detach();
    executor.spawn(signals).detach();
    // futures-lite's block_on sleeps until it is woken; smol's would also poll the reactor.
    future::block_on(executor.run(supervisor.run(started)));
    Ok(())
}
