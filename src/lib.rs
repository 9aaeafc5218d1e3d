// SPDX-License-Identifier: Apache-2.0
//! `early-service` for a state of one's own: answers from the initrd on, and hands the state to the
//! root filesystem.
//!
//! The program is [`main`] with a [`Service`]: a [`State`](machine::State) and the words for it.
//! Nothing else knows what the state is; the counter of the program `early-service` is one.
//!
//! The wiring table:
//!
//! | actor | owns | may tell | mailbox holds |
//! | --- | --- | --- | --- |
//! | [`ticker`] | state, rhythm, timer | server, handoff, supervisor | all batches, a few orders |
//! | [`server`] | listeners, sessions | ticker, handoff | all batches, a few orders |
//! | [`handoff`] | connection to the other process | ticker, server, supervisor | orders, askers |
//! | [`signals`] | signal handlers | supervisor | none |
//! | [`journal`] | log [`queue`], writer thread | nobody | 256 records |
//! | [`supervisor`] | lifecycle | server, handoff, PID 1 | what can be reported at once |
//!
//! The lock and the state file are the ticker's while it ticks, the sockets the server's while it
//! serves; at all other times both are the handoff's.
//!
//! All exist from start to end, all but the journal's writer on this thread.
//! Nobody waits for room in a mailbox, so nobody waits for another in a circle.
#![forbid(unsafe_code)]
#![allow(
    rustdoc::private_intra_doc_links,
    reason = "the wiring table is for those who read the code"
)]

mod adoption;
mod authorize;
mod catalog;
mod clock;
mod counter;
mod files;
mod handoff;
mod journal;
mod limits;
mod listener;
mod locking;
mod mailbox;
mod offering;
mod options;
mod peer;
mod queue;
mod root;
mod seldom;
mod server;
mod service;
mod session;
mod signals;
mod standing;
mod state_file;
mod supervisor;
mod systemd;
mod ticker;
mod users;

use std::cell::Cell;
use std::env;
use std::fmt;
use std::io::{self, Write};
use std::os::fd::{OwnedFd, RawFd};
use std::panic::{self, PanicHookInfo};
use std::path::Path;
use std::pin::Pin;
use std::process::{self, ExitCode};
use std::rc::Rc;
use std::task::{Context, Waker};

use early_service_machine::exchange::Message;
use early_service_machine::lifecycle::Event;
use futures_lite::future;
use rustix::io::{Errno, fcntl_dupfd_cloexec, retry_on_intr};
use rustix::process::{Resource, getrlimit};
use smol::{LocalExecutor, Timer};

use adoption::Adoption;
use catalog::Id;
use handoff::Handoff;
use journal::Journal;
use listener::Listener;
use locking::Locking;
use options::{Command, Environment, HELP, Options, Predecessor, Stage};
use peer::Peer;
use root::OldRoot;
use seldom::Seldom;
use server::{Server, Sockets};
use signals::Signals;
use supervisor::{Supervisor, Unheard};
use systemd::{NotPassed, Passed};
use ticker::Ticker;
use users::User;

pub use early_service_machine as machine;
pub use service::Service;

/// The exit status of a command line that cannot be carried out, as getopt(3) users have it.
const USAGE: u8 = 2;

/// Orders that may wait beside the batches: load or listen, freeze, to catch up first, what the
/// predecessor has logged, and the end.
const ORDERS: usize = 6;

/// The whole program: reads its command line, carries the state, and says how it ended.
///
/// ```no_run
/// use std::process::ExitCode;
///
/// fn main() -> ExitCode {
///     early_service::main::<early_service::machine::Counter>()
/// }
/// ```
#[must_use]
pub fn main<S: Service>() -> ExitCode {
    let passed = Passed::take();
    let runtime_directory = env::var_os("RUNTIME_DIRECTORY");
    let passes_socket = !passed.as_ref().is_ok_and(|passed| passed.sockets.is_empty());
    let environment = Environment { runtime_directory, passes_socket };
    match options::parse(env::args_os().skip(1), &environment) {
        Ok(Command::Run(options)) => run::<S>(options, passed),
        Ok(Command::Help) => print(&[S::ABOUT, HELP].concat()),
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

fn run<S: Service>(options: Options, passed: Result<Passed, NotPassed>) -> ExitCode {
    let mut journal = Journal::install(options.stage);
    let result =
        passed.map_err(Error::Passed).and_then(|passed| serve::<S>(options, passed, &mut journal));
    if let Err(error) = &result {
        log::error!("{error}");
    }
    let is_written = journal.flush();
    match result {
        Ok(successor) => {
            if let Some(successor) = successor.filter(|_| is_written) {
                // If it does not hear it, it says that lines may be missing.
                let _ = successor.say_last(&Message::<S>::Logged.to_string());
            }
            ExitCode::SUCCESS
        }
        Err(_) => ExitCode::FAILURE,
    }
}

/// Why the process cannot serve.
enum Error {
    Passed(NotPassed),
    Listener(listener::Error),
    Reactor(String),
    Thread(io::Error),
    Signals(io::Error),
    Descriptors(Errno),
    ProcessorTime,
}

impl From<listener::Error> for Error {
    fn from(error: listener::Error) -> Self {
        Self::Listener(error)
    }
}

/// What of a unit limits descriptors and threads.
const LIMITS: &str = "LimitNOFILE=, LimitNPROC= and TasksMax=";

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Passed(error) => error.fmt(f),
            Self::Listener(error) => error.fmt(f),
            Self::Reactor(cause) => write!(f, "cannot start: {cause} (see {LIMITS})"),
            Self::Thread(error) => write!(f, "cannot start a thread: {error} (see {LIMITS})"),
            Self::Signals(error) => write!(f, "cannot handle signals: {error}"),
            Self::Descriptors(error) => {
                write!(f, "cannot open as many files as serving takes: {error} (see {LIMITS})")
            }
            Self::ProcessorTime => f.write_str("the limit of processor time is reached (SIGXCPU)"),
        }
    }
}

/// What the process listens on, and whom it adopts from.
fn listen<S: Service>(
    options: &Options,
    passed: Vec<OwnedFd>,
) -> Result<(Vec<Listener>, Option<Adoption<S>>), listener::Error> {
    let mut listeners = passed
        .into_iter()
        .map(|socket| Listener::passed(socket, options.rebind))
        .collect::<Result<Vec<_>, _>>()?;
    let mut adoption = match &options.predecessor {
        Predecessor::At(path) => {
            listener::check_length("adopt from", path)?;
            Some(Adoption::new(path.clone(), None))
        }
        Predecessor::OnServerSocket | Predecessor::Nobody => None,
    };
    let is_passed = |path: &Path| listeners.iter().any(|listener| listener.is_at(path));
    let takes_over = options.predecessor == Predecessor::OnServerSocket;
    match &options.server {
        Some(path) if is_passed(path) && takes_over => {
            return Err(listener::Error::PassedAlready(path.clone()));
        }
        Some(path) if is_passed(path) => {}
        Some(path) if takes_over => {
            let (listener, is_served) = Listener::take_over(path)?;
            listeners.push(listener);
            if is_served {
                let path = listener::place(path);
                adoption = Some(Adoption::new(path.clone(), Some(path)));
            } else {
                log::info!("Nobody serves {}: there is nothing to take over", path.display());
            }
        }
        Some(path) => listeners.push(Listener::bind(path)?),
        None => {}
    }
    Ok((listeners, adoption))
}

/// Has the kernel make its table of our descriptors as large as it will ever be.
///
/// It doubles when a descriptor finds no place, and in a process with threads each time waits for
/// an RCU grace period: some 10 ms on a busy machine (measured), in the middle of a handoff where
/// hundreds of clients come in.
/// Now there is one thread; the table takes 8 kB.
fn make_room_for_descriptors() {
    let limit = getrlimit(Resource::Nofile).current.map(usize::try_from);
    let limit = limit.and_then(Result::ok).unwrap_or(usize::MAX).min(limits::DESCRIPTORS);
    let last = RawFd::try_from(limit).unwrap_or_default() - 1;
    // Where it fails, the table grows as it would have.
    drop(fcntl_dupfd_cloexec(io::stderr(), last));
}

/// Starts the reactor and its thread; the timer must be kept.
///
/// async-io panics where it can have no thread or no descriptors.
/// There is nothing to be tidied up yet, so that the end is in order all the same.
fn start_reactor(stage: Stage) -> Timer {
    panic::set_hook(Box::new(move |panic: &PanicHookInfo<'_>| {
        let cause = panic.payload().downcast_ref::<String>();
        log::error!("{}", Error::Reactor(cause.cloned().unwrap_or_else(|| panic.to_string())));
        // Nothing that needs a thread or the reactor.
        journal::write_here(stage);
        process::exit(1);
    }));
    let timer = match stage {
        Stage::Initrd => root::disarm_reactor(),
        Stage::Root => {
            let mut timer = Timer::after(server::SWEEP);
            let _ = Pin::new(&mut timer).poll(&mut Context::from_waker(Waker::noop()));
            Timer::never()
        }
    };
    let _ = panic::take_hook();
    timer
}

/// Descriptors beside those that are open once the start is done: the state file, a predecessor, a
/// client, and what is open for a moment.
const SPARE: usize = 4;

/// Whether there are [`SPARE`] descriptors left.
///
/// With fewer, the process would take clients in and never answer them.
fn check_spare_descriptors() -> Result<(), Errno> {
    let spare = [(); SPARE].map(|()| retry_on_intr(|| fcntl_dupfd_cloexec(io::stderr(), 0)));
    spare.into_iter().try_for_each(|spare| spare.map(drop))
}

/// Serves until the end; a successor that adopted the state is to be told when the log is written.
fn serve<S: Service>(
    options: Options,
    passed: Passed,
    journal: &mut Journal,
) -> Result<Option<Peer>, Error> {
    // Before there is a second thread, and before there is a socket file to leave behind.
    signals::block().map_err(Error::Signals)?;
    if options.stage == Stage::Root {
        systemd::watch_start();
    }
    make_room_for_descriptors();
    let _reactor = start_reactor(options.stage);
    passed.say_left_alone();
    // From here on, clients wait in the backlog instead of being refused: all else comes after.
    let (listeners, adoption) = listen(&options, passed.sockets)?;
    let old_root = match options.stage {
        Stage::Initrd => OldRoot::remember(),
        Stage::Root => None,
    };
    let is_out_of_time = Rc::new(Cell::new(false));
    let signals =
        Signals::install(options.stage, Rc::clone(&is_out_of_time)).map_err(Error::Signals)?;
    journal.start().map_err(Error::Thread)?;
    check_spare_descriptors().map_err(Error::Descriptors)?;
    systemd::check_environment();

    let (to_ticker, ticker_mailbox) = async_channel::bounded(server::UNDER_WAY + ORDERS);
    // A batch that comes back with its commands is followed by the word that they may come again.
    let (to_server, server_mailbox) = async_channel::bounded(2 * server::UNDER_WAY + ORDERS);
    let (to_handoff, handoff_mailbox) = async_channel::bounded(handoff::MAILBOX);
    let (to_supervisor, supervisor_mailbox) = async_channel::bounded(supervisor::MAILBOX);
    let (to_supervisor_continued, continued) = async_channel::bounded(1);
    let (alive, left) = async_channel::bounded(1);
    let (farewell, successor) = async_channel::bounded(1);

    let named = options.successor.map(User::find);
    let started = match adoption {
        Some(_) => Event::StartedAsSuccessor,
        None => Event::StartedAlone,
    };
    let signals = signals.run(to_supervisor.clone(), to_supervisor_continued);
    let ticker = Ticker::<S>::new(
        ticker_mailbox,
        to_server.clone(),
        to_handoff.clone(),
        to_supervisor.clone(),
        alive.clone(),
        options.period,
    );
    let server = Server::new(server_mailbox, to_ticker.clone(), to_handoff.clone(), options.stage);
    let handoff = Handoff {
        mailbox: handoff_mailbox,
        supervisor: to_supervisor,
        ticker: to_ticker.clone(),
        server: to_server.clone(),
        farewell,
        alive,
        successor: named.clone(),
        locking: Locking::new(options.state_file, named),
        adoption,
        leaving: None,
        sockets: Sockets { listeners, sessions: Vec::new() },
        frozen: None,
        offering: None,
        refusals: Seldom::explained(Id::Refused),
        deferred: Vec::new(),
        retry: Timer::never(),
    };
    let supervisor = Supervisor {
        mailbox: supervisor_mailbox,
        continued,
        server: to_server,
        handoff: to_handoff,
        old_root,
        rounds: Timer::never(),
        unheard: Unheard::default(),
        is_blind: false,
        left,
    };

    let executor = LocalExecutor::new();
    executor.spawn(ticker.run()).detach();
    executor.spawn(server.run()).detach();
    executor.spawn(handoff.run()).detach();
    executor.spawn(signals).detach();
    // futures-lite's block_on sleeps until it is woken; smol's would also poll the reactor.
    future::block_on(executor.run(supervisor.run(started)));
    if is_out_of_time.get() {
        return Err(Error::ProcessorTime);
    }
    Ok(successor.try_recv().ok())
}
