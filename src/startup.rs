// SPDX-License-Identifier: Apache-2.0
//! Start-up: from the command line to the running actors, in numbered steps, and the exit status.
//!
//! | exit status | when |
//! | --- | --- |
//! | 0 | the process was told to stop, or a successor serves |
//! | 1 | the process cannot serve; one line of the log has the reason |
//! | 2 | the command line is invalid |
//!
//! [`main`] reads the environment and the command line, [`run`] installs the log, and [`serve`] has
//! the numbered steps. Clients can connect from step 5 on, so the steps before it must be short,
//! and everything that can wait comes after it.

use std::cell::Cell;
use std::env;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::panic::{self, PanicHookInfo};
use std::path::Path;
use std::pin::Pin;
use std::process::{self, ExitCode};
use std::rc::Rc;
use std::task::{Context, Waker};

use async_channel::Receiver;
use early_service_machine::contract;
use early_service_machine::lifecycle::Local;
use early_service_machine::record::Record;
use early_service_machine::wire::handoff::Message;
use early_service_machine::wire::request::Accepts;
use futures_lite::future;
use smol::{Async, LocalExecutor, Timer};

use crate::cli::{self, Command, Environment, Options, Predecessor, Stage};
use crate::device::{self, actor::Parts};
use crate::handoff::Handoff;
use crate::handoff::bundle::{Bundle, Named};
use crate::handoff::channel::Peer;
use crate::handoff::lock::Locking;
use crate::handoff::receive::Adoption;
use crate::handoff::reload;
use crate::handoff::users::User;
use crate::journal::{self, Journal};
use crate::messages::{self, OfDevice};
use crate::platform::descriptors;
use crate::platform::files;
use crate::platform::notify::{self, Passed};
use crate::platform::signals::{self, Signals};
use crate::platform::switch_root::Follower;
use crate::server::limits;
use crate::server::listener::Listener;
use crate::server::listener::bind::{self, check_length};
use crate::server::{self, Server};
use crate::service::{self, Service};
use crate::status::Status;
use crate::supervisor::Supervisor;
use crate::ticker::Ticker;

/// The exit status for an invalid command line, as with other programs that use getopt(3).
const USAGE: u8 = 2;

/// The settings of a unit that limit descriptors and threads.
const LIMITS: &str = "LimitNOFILE=, LimitNPROC= and TasksMax=";

/// The line that is logged when the process cannot serve.
type Error = Box<dyn std::error::Error>;

/// Runs the whole program with the state `S`: reads the command line, serves until the end, and
/// returns the exit status.
///
/// The exit status is 0 if the process was told to stop or a successor serves, 1 if the process
/// cannot serve, and 2 if the command line is invalid. Call this at the beginning of the program,
/// before there is a second thread, because it blocks signals and takes the descriptors that
/// systemd has passed.
///
/// [`main!`](macro@crate::main) makes it the function `main` of a program.
#[must_use]
pub fn main<S: Service>() -> ExitCode {
    run_program::<S>(None)
}

/// The same, with the actor of a device if the service has one.
pub(crate) fn run_program<S: Service>(device: Option<device::Start<S>>) -> ExitCode {
    const { service::check::<S>() }
    contract::hold(&S::default());
    let passed = Passed::take(Accepts(S::DESCRIPTORS));
    let runtime_directory = env::var_os("RUNTIME_DIRECTORY");
    let has_no_socket = |passed: &Passed| passed.sockets.is_empty() && passed.predecessor.is_none();
    let passes_socket = !passed.as_ref().is_ok_and(has_no_socket);
    let environment = Environment { runtime_directory, passes_socket };
    match cli::parse(S::NAME, env::args_os().skip(1), &environment) {
        Ok(Command::Run(options)) => run::<S>(options, passed, device),
        Ok(Command::Reload(socket)) => match reload::ask(&socket) {
            Ok(result) => print(&result),
            Err(error) => {
                let _ = writeln!(io::stderr(), "{}: {error}", S::NAME);
                ExitCode::FAILURE
            }
        },
        Ok(Command::Help) => print(&cli::help::<S>()),
        Ok(Command::Version) => print(&format!("{} {}\n", S::NAME, S::VERSION)),
        Err(error) => {
            let _ = writeln!(io::stderr(), "{}: {error}", S::NAME);
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

fn run<S: Service>(
    options: Options,
    passed: Result<Passed, String>,
    device: Option<device::Start<S>>,
) -> ExitCode {
    let mut journal = Journal::install(options.stage, S::NAME);
    let passed = passed.map_err(Error::from);
    let result = passed.and_then(|passed| serve::<S>(options, passed, device, &mut journal));
    if let Err(error) = &result {
        log::error!("{error}");
    }
    let is_flushed = journal.flush();
    match result {
        Ok(successor) => {
            if let Some(successor) = successor.filter(|_| is_flushed) {
                // A successor that does not receive this logs that lines may be missing.
                let _ = successor.say_last(&Message::<S>::Logged.to_string());
            }
            ExitCode::SUCCESS
        }
        Err(_) => ExitCode::FAILURE,
    }
}

/// Serves until the end; returns the successor to notify when the log is written.
fn serve<S: Service>(
    options: Options,
    passed: Passed,
    device: Option<device::Start<S>>,
    journal: &mut Journal,
) -> Result<Option<Peer>, Error> {
    // 1. Block signals, before there is a second thread, or a socket file that a signal leaves
    // behind.
    signals::block().map_err(|error| format!("cannot block signals: {error}"))?;
    // 2. Start the unit's watchdog, which ends a start that hangs.
    if options.stage == Stage::Root {
        notify::watch_start();
    }
    // 3. Grow the table of descriptors, while there is one thread.
    descriptors::reserve(limits::DESCRIPTORS);
    // 4. Start the reactor and its thread; listening needs them.
    start_reactor(options.stage, S::NAME);
    passed.log_left_alone();
    // 5. Listen: from here on, clients wait in the backlog instead of being refused.
    let (listeners, adoption) = match passed.predecessor {
        Some(predecessor) => {
            (Vec::new(), Some(Adoption::only(Peer::new(Async::new(predecessor)?))))
        }
        None => listen(&options, passed.sockets).map_err(|error| error.to_string())?,
    };
    // 6. Remember the root directory, which the initrd stage leaves when PID 1 does; no thread that
    // is started from here on has capabilities.
    let old_root = match options.stage {
        Stage::Initrd => Follower::start(),
        Stage::Root => None,
    };
    // 7. Install the signal handlers.
    let is_out_of_time = Rc::new(Cell::new(false));
    let signals = Signals::install(options.stage, Rc::clone(&is_out_of_time))
        .map_err(|error| format!("cannot handle signals: {error}"))?;
    // 8. Start the log's writer thread.
    journal.start().map_err(|error| format!("cannot start a thread: {error} (see {LIMITS})"))?;
    // 9. Check the limits and the environment, before another process hands over its state.
    descriptors::check_spare().map_err(|error| {
        format!("cannot open as many files as serving takes: {error} (see {LIMITS})")
    })?;
    notify::check_environment();
    // 10. Make the mailboxes and the actors, and start them. Until the handoff actor has the lock,
    // it owns everything.
    let started = match &adoption {
        Some(adoption) if adoption.is_reload() => Local::StartedByOwner,
        Some(_) => Local::StartedAsSuccessor,
        None => Local::StartedAlone,
    };
    let bundle = Bundle { listeners, ..Bundle::default() };
    let stored = passed.stored;
    let executor = LocalExecutor::new();
    let parts = Prepared { options, stored, device, bundle, adoption, old_root, signals };
    let (supervisor, successor) = start_actors(&executor, parts);
    // 11. Run the actors until the supervisor ends. futures-lite's block_on sleeps until it is
    // woken; smol's would also poll the reactor.
    future::block_on(executor.run(supervisor.run(started)));
    if is_out_of_time.get() {
        return Err("the limit of processor time is reached (SIGXCPU)".into());
    }
    Ok(successor.try_recv().ok())
}

/// What the first nine steps of the start have prepared.
struct Prepared<S: Service> {
    options: Options,
    stored: Vec<Named>,
    device: Option<device::Start<S>>,
    bundle: Bundle<S>,
    adoption: Option<Adoption<S>>,
    old_root: Option<Follower>,
    signals: Signals,
}

/// Makes every mailbox and every actor, and starts all actors except the supervisor. Returns that
/// one, and the mailbox for the successor to notify when the log is written.
fn start_actors<S: Service>(
    executor: &LocalExecutor<'_>,
    prepared: Prepared<S>,
) -> (Supervisor<S>, Receiver<Peer>) {
    let Prepared { options, stored, device, bundle, adoption, old_root, signals } = prepared;
    let (to_ticker, ticker_mailbox) = messages::to_ticker();
    let (to_server, server_mailbox) = messages::to_server();
    let (to_handoff, handoff_mailbox) = messages::to_handoff();
    let (to_supervisor, supervisor_mailbox) = messages::to_supervisor();
    let (to_supervisor_continued, continued) = messages::continued();
    let (done_guard, done) = messages::done();
    let (log_flushed_to, successor) = messages::log_flushed();
    let status = Rc::<Status>::default();
    let (to_device, questions, device) = match device {
        Some(start) if !S::DESCRIPTORS.is_empty() => {
            let (to_device, mailbox) = messages::to_device();
            let (to_ask, questions) = messages::questions();
            let device = start(Parts {
                mailbox,
                ticker: to_ticker.clone(),
                questions: to_ask,
                done_guard: done_guard.clone(),
                status: Rc::clone(&status),
                status_changed: to_supervisor_continued.clone(),
                stored,
                trial: None,
            });
            (Some(to_device), Some(questions), Some(device))
        }
        _ => (None, None, None),
    };
    let trusted = options.successor.map(User::find);
    let signals = signals.run(to_supervisor.clone(), to_supervisor_continued);
    let ticker = Ticker::<S>::new(
        ticker_mailbox,
        to_server.clone(),
        to_handoff.clone(),
        questions,
        to_supervisor.clone(),
        done_guard.clone(),
        options.period,
    );
    let server = Server::new(
        server_mailbox,
        to_ticker.clone(),
        to_handoff.clone(),
        OfDevice::new(to_device.clone()),
        options.stage,
        Rc::clone(&status),
    );
    let handoff = Handoff::new(
        handoff_mailbox,
        to_supervisor,
        to_ticker,
        to_server.clone(),
        OfDevice::new(to_device),
        log_flushed_to,
        done_guard,
        Rc::clone(&status),
        trusted.clone(),
        Locking::new(options.state_file, Record::<S>::FILE_SIZE, trusted),
        adoption,
        bundle,
    );
    let supervisor = Supervisor::new(
        supervisor_mailbox,
        continued,
        to_server,
        to_handoff,
        old_root,
        done,
        status,
    );
    executor.spawn(ticker.run()).detach();
    executor.spawn(server.run()).detach();
    executor.spawn(handoff.run()).detach();
    if let Some(device) = device {
        executor.spawn(device).detach();
    }
    executor.spawn(signals).detach();
    (supervisor, successor)
}

/// Binds or takes the listeners, and prepares the request for the state of a predecessor.
fn listen<S: Service>(
    options: &Options,
    passed: Vec<OwnedFd>,
) -> Result<(Vec<Listener>, Option<Adoption<S>>), bind::Error> {
    let mut listeners = passed
        .into_iter()
        .map(|socket| Listener::passed(socket, options.rebind))
        .collect::<Result<Vec<_>, _>>()?;
    let mut adoption = match &options.predecessor {
        Predecessor::At(path) => {
            check_length("adopt from", path)?;
            Some(Adoption::new(path.clone(), None))
        }
        Predecessor::OnServerSocket | Predecessor::Nobody => None,
    };
    let is_passed = |path: &Path| listeners.iter().any(|listener| listener.is_at(path));
    let takes_over = options.predecessor == Predecessor::OnServerSocket;
    match &options.server {
        Some(path) if is_passed(path) && takes_over => {
            return Err(bind::Error::PassedAlready(path.clone()));
        }
        Some(path) if is_passed(path) => {}
        Some(path) if takes_over => {
            let (listener, is_served) = Listener::take_over(path)?;
            listeners.push(listener);
            if is_served {
                let path = files::resolve(path);
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

/// Starts the reactor and its thread.
///
/// async-io panics if it cannot get a thread or descriptors. The hook logs that like any other
/// error of the start; there is nothing to clean up yet.
fn start_reactor(stage: Stage, service: &'static str) {
    panic::set_hook(Box::new(move |panic: &PanicHookInfo<'_>| {
        match panic.payload().downcast_ref::<String>() {
            Some(cause) => log::error!("cannot start: {cause} (see {LIMITS})"),
            None => log::error!("cannot start: {panic} (see {LIMITS})"),
        }
        // Needs neither a thread nor the reactor.
        journal::write_here(stage, service);
        process::exit(1);
    }));
    let mut timer = Timer::after(server::SWEEP);
    let _ = Pin::new(&mut timer).poll(&mut Context::from_waker(Waker::noop()));
    let _ = panic::take_hook();
}
