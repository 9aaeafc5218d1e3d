// SPDX-License-Identifier: Apache-2.0
//! Reload: this process starts the program on disk as its successor, and hands over to it.
//!
//! The successor is a child process in the same unit. Its standard input is one end of a pair of
//! sockets, and `$RELOADED_BY` names this process. So no path is involved, and no other process
//! can come between. The messages are those of every handoff.
//!
//! A successor that fails at any step is killed, this process continues to serve, and the client
//! that asked for the reload receives the reason. The kill also ends the wait for a successor that
//! owns the state and does not serve: only its death gives the state back.
//!
//! Owns the child process, and the session of the client that waits. Reports events and executes
//! orders.

use std::fmt;
use std::io::{self, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process;
use std::time::{Duration, Instant};

use early_service_machine::lifecycle::Successor;
use early_service_machine::wire::handoff::DENIED;
use early_service_machine::wire::request::Request;
use futures_lite::future;
use rustix::net::UCred;
use rustix::process::{getegid, geteuid};
use smol::{Async, Timer};

use crate::handoff::channel::{Line, Peer};
use crate::handoff::launch::{Child, Launched, launch, program};
use crate::handoff::request::HandoffRequest;
use crate::handoff::send::Offering;
use crate::handoff::{Handoff, authorize};
use crate::journal::message_id::Id;
use crate::messages::{ToServer, post};
use crate::server::listener::Listener;
use crate::server::session::Session;
use crate::service::Service;

/// How long the successor may take until it asks for the state. This process serves meanwhile.
/// Longer: the result of a program that hangs is later. Shorter: a busy machine cannot reload.
const START: Duration = Duration::from_secs(5);

/// How long the successor may take from the commit until it serves. Longer: nobody serves for
/// longer if it hangs. Shorter: a busy machine kills a successor that works.
const SERVE: Duration = Duration::from_secs(2);

/// The pause between two looks at a process that is about to end.
const REAP: Duration = Duration::from_millis(1);

/// How long a process may take to end after it has closed its connection.
const ENDING: Duration = Duration::from_millis(500);

/// Why a reload is refused while another successor is adopting.
pub(crate) const BUSY: &str = "another process is adopting the state";

/// The beginning of the reply to a client whose reload has succeeded.
const RELOADED: &str = "reloaded:";

/// The reply to a client whose reload has failed.
pub(crate) fn refused(why: impl fmt::Display) -> String {
    format!("not reloaded: {why}")
}

/// The program that this process starts as its successor.
pub(crate) struct Reload<S: Service> {
    program: PathBuf,
    progress: Progress,
    /// The client that waits for the result, until its session is in the bundle.
    client: Option<Box<Session<S>>>,
}

enum Progress {
    /// Waiting until this time for the predecessor to leave: before, this process is not the main
    /// one of its unit, and could not make another one that.
    Waiting(Instant),
    /// A thread starts the program, because the disk may be slow.
    Starting(Launched, Peer),
    /// The child has to ask for the state until this time.
    Started(Child, Peer, Instant),
    /// It has asked, and the offer waits for it.
    Asked(Child),
    /// It owns the state, and is late from this time on if it does not serve.
    Committed(Child, Instant),
    /// It was killed, and its end is awaited.
    Killed(Child),
    /// There is no child.
    Ended,
}

/// What the child did.
pub(crate) enum Event {
    /// It asks for the state.
    Requested(Async<UnixStream>, UCred, HandoffRequest),
    /// It does not ask, for this reason.
    Failed(String),
    /// It has owned the state for too long without serving.
    Late,
    /// It has ended after it was killed.
    Ended,
}

impl<S: Service> Reload<S> {
    fn new(client: Box<Session<S>>) -> Self {
        let progress = Progress::Waiting(Instant::now() + START);
        Self { program: PathBuf::new(), progress, client: Some(client) }
    }

    /// Starts the program.
    fn launch(&mut self) -> io::Result<()> {
        self.program = program()?;
        let (started, peer) = launch(self.program.clone())?;
        self.progress = Progress::Starting(started, peer);
        Ok(())
    }

    /// Waits for an event to report; may be dropped at any point.
    pub(crate) async fn next(&mut self) -> Event {
        loop {
            match &mut self.progress {
                Progress::Waiting(until) => {
                    Timer::at(*until).await;
                    let seconds = START.as_secs();
                    return Event::Failed(format!(
                        "its predecessor has not left within {seconds} s"
                    ));
                }
                Progress::Starting(started, _) => {
                    let started = started.recv().await;
                    if let Err(why) = self.started(started.unwrap_or_else(|_| Err(lost()))) {
                        return Event::Failed(why);
                    }
                }
                Progress::Started(child, peer, until) => {
                    let request = async { Some(request::<S>(peer).await) };
                    let too_late = async {
                        Timer::at(*until).await;
                        None
                    };
                    let why = match future::or(request, too_late).await {
                        Some(Some(request)) => return self.asked(request),
                        Some(None) => ending(child).await,
                        None => {
                            format!("it did not ask for the state within {} s", START.as_secs())
                        }
                    };
                    self.kill();
                    return Event::Failed(why);
                }
                Progress::Committed(_, until) => {
                    Timer::at(*until).await;
                    *until = Instant::now() + REAP;
                    return Event::Late;
                }
                Progress::Killed(child) => {
                    while !child.reap() {
                        Timer::after(REAP).await;
                    }
                    self.progress = Progress::Ended;
                    return Event::Ended;
                }
                Progress::Asked(_) | Progress::Ended => future::pending().await,
            }
        }
    }

    /// The thread has started the child, or has failed to.
    fn started(&mut self, started: io::Result<Child>) -> Result<(), String> {
        let progress = self.take_progress();
        let program = self.program.display();
        let child = started.map_err(|error| format!("cannot start {program}: {error}"))?;
        log::info!("Started {program} as process {}", child.pid().as_raw_nonzero());
        if let Progress::Starting(_, peer) = progress {
            self.progress = Progress::Started(child, peer, Instant::now() + START);
        }
        Ok(())
    }

    fn asked(&mut self, request: HandoffRequest) -> Event {
        let Progress::Started(child, peer, _) = self.take_progress() else {
            return Event::Ended;
        };
        // The kernel reports this process as the peer, because it made both sockets.
        let successor = UCred { pid: child.pid(), uid: geteuid(), gid: getegid() };
        self.progress = Progress::Asked(child);
        Event::Requested(peer.into_stream(), successor, request)
    }

    /// The child owns the state from now on.
    pub(crate) fn committed(&mut self) {
        if let Progress::Asked(child) = self.take_progress() {
            self.progress = Progress::Committed(child, Instant::now() + SERVE);
        }
    }

    /// Kills the child, which is not to become the owner any more.
    pub(crate) fn kill(&mut self) {
        self.progress = match self.take_progress() {
            Progress::Started(child, ..)
            | Progress::Asked(child)
            | Progress::Committed(child, _) => {
                child.kill();
                Progress::Killed(child)
            }
            Progress::Waiting(_) => Progress::Ended,
            other => other,
        };
    }

    /// Kills the child, because this process ends; if its thread is still starting it, waits for
    /// that. Returns the client.
    pub(crate) async fn give_up(mut self) -> Option<Box<Session<S>>> {
        if let Progress::Starting(started, _) = &self.progress {
            let started = started.recv().await.unwrap_or_else(|_| Err(lost()));
            let _ = self.started(started);
        }
        self.kill();
        self.answered(&refused("the service ends"))
    }

    /// The waiting client's session with this reply; `None` if it was taken before.
    pub(crate) fn answered(&mut self, line: &str) -> Option<Box<Session<S>>> {
        let mut session = self.client.take()?;
        session.answer(line);
        Some(session)
    }

    fn take_progress(&mut self) -> Progress {
        std::mem::replace(&mut self.progress, Progress::Ended)
    }
}

impl<S: Service> Handoff<S> {
    /// A client asks for a reload; `owner` is the owner of the socket file to which it connected.
    pub(super) fn reload(&mut self, mut client: Box<Session<S>>, owner: Option<u32>) {
        let refuse = match authorize::check(client.stream(), self.successor.as_ref(), owner) {
            Err(why) => {
                self.refusals.warn(format_args!("Refusing to reload: {why}"));
                Some(DENIED)
            }
            Ok(_) if self.offering.is_some() || self.reload.is_some() => Some(BUSY),
            Ok(_) => None,
        };
        if let Some(why) = refuse {
            client.answer(&refused(why));
            return self.resume(client);
        }
        self.reload = Some(Reload::new(client));
        self.launch_reload();
    }

    /// Starts the program of a reload that was asked for, once no predecessor is left.
    pub(super) fn launch_reload(&mut self) {
        let reload = self.reload.as_mut().filter(|_| self.leaving.is_none());
        let waiting = reload.filter(|reload| matches!(reload.progress, Progress::Waiting(_)));
        if let Some(Err(error)) = waiting.map(Reload::launch) {
            self.reload_event(Event::Failed(format!("cannot start a process: {error}")));
        }
    }

    pub(super) fn reload_event(&mut self, event: Event) {
        match event {
            Event::Requested(stream, child, request) => {
                let pid = child.pid.as_raw_nonzero();
                log::info!(MESSAGE_ID = Id::HandingOver; "Handing over to process {pid} to reload");
                self.offering = Some(Offering::new(stream, child, request, true));
                self.report(Successor::Requested);
            }
            Event::Failed(why) => {
                log::warn!(MESSAGE_ID = Id::NotAdopted; "Not reloaded: {why}; serving on");
                self.reload_failed(&why);
            }
            Event::Late => {
                let offering = self.offering.as_mut();
                // If this process was stopped, the message that the child serves may be unread.
                if let Some(offering) = offering.filter(|offering| offering.is_silent()) {
                    offering
                        .fails_because(format!("it did not serve within {} s", SERVE.as_secs()));
                    if let Some(reload) = &mut self.reload {
                        reload.kill();
                    }
                }
            }
            Event::Ended => match &mut self.offering {
                // The client is answered when the offer has failed.
                Some(offering) => offering.successor_died(),
                None => self.reload = None,
            },
        }
    }

    /// Adds the waiting client to the frozen bundle, with the reply of the successor, and puts the
    /// listeners with files of this process first.
    pub(super) fn add_reload(&mut self) {
        let Some(reload) = &mut self.reload else { return };
        let (mut listeners, others): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.bundle.listeners).into_iter().partition(Listener::owns_file);
        self.bundle.owned = listeners.len();
        listeners.extend(others);
        self.bundle.listeners = listeners;
        let pid = process::id();
        let successor = self.offering.as_ref().map(Offering::pid).unwrap_or_default();
        let reply = format!("{RELOADED} process {successor} replaces process {pid}");
        self.bundle.sessions.extend(reload.answered(&reply));
    }

    /// The child will not own the state: kills it, and answers the client.
    pub(super) fn reload_failed(&mut self, why: &str) {
        let Some(mut reload) = self.reload.take() else { return };
        let reply = refused(why);
        if let Some(client) = reload.answered(&reply) {
            self.resume(client);
        } else if let Some(client) = self.bundle.sessions.last_mut() {
            // It was added last.
            client.answer(&reply);
        }
        reload.kill();
        if !matches!(reload.progress, Progress::Ended) {
            self.reload = Some(reload);
        }
    }

    /// This process ends. A child that was offered the state is like any other successor; before
    /// that, it is killed.
    pub(super) async fn end_reload(&mut self) {
        let reload = self.reload.take().filter(|_| self.offering.is_none());
        if let Some(reload) = reload {
            if let Some(mut client) = reload.give_up().await {
                client.send_replies();
            }
        }
    }

    fn resume(&self, client: Box<Session<S>>) {
        post(&self.server, ToServer::Resume(client));
    }
}
/// The thread ended without a result.
fn lost() -> io::Error {
    io::ErrorKind::Other.into()
}

/// The child's request; `None` if its connection ends, or if it says anything else.
async fn request<S: Service>(peer: &mut Peer) -> Option<HandoffRequest> {
    match peer.line().await {
        Line::Whole(line) => Request::parse::<S>(line).map(HandoffRequest::from),
        Line::TooLong(_) | Line::End => None,
    }
}

/// Waits a moment for the end of a child that does not ask, and returns it as a reason.
async fn ending(child: &Child) -> String {
    let until = Instant::now() + ENDING;
    while Instant::now() < until {
        match child.end() {
            Some(how) => return how,
            None => _ = Timer::after(REAP).await,
        }
    }
    "it does not speak the handoff".to_owned()
}

/// Asks the process that serves `socket` for a reload; returns its answer, and the status of the
/// process that serves afterwards.
///
/// # Errors
///
/// Returns the line that says why the program was not replaced.
pub(crate) fn ask(socket: &Path) -> Result<String, String> {
    let fails = |error: io::Error| format!("cannot reload at {}: {error}", socket.display());
    let mut stream = UnixStream::connect(socket).map_err(fails)?;
    stream.write_all(b"reload\nstatus\n").map_err(fails)?;
    let mut line = || {
        let (mut line, mut byte) = (Vec::new(), [0]);
        loop {
            match stream.read(&mut byte) {
                Ok(0) => break Err("the connection ended without an answer".to_owned()),
                Ok(_) if byte == *b"\n" => break Ok(String::from_utf8_lossy(&line).into_owned()),
                Ok(_) => line.extend(byte),
                Err(error) => break Err(fails(error)),
            }
        }
    };
    let answer = line()?;
    if answer.starts_with(RELOADED) { Ok(format!("{answer}\n{}\n", line()?)) } else { Err(answer) }
}
