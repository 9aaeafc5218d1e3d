// SPDX-License-Identifier: Apache-2.0
//! Handoff: both sides of the exchange between predecessor and successor.
//!
//! As successor it asks the predecessor for its state; as predecessor it holds the connection of
//! the one that asked until the lifecycle says what to tell it.
//! One line each way: [`HAND_OVER`], and the state as text.
//!
//! Owns the connection to the other process.
//! Never decides: what it learns goes to the supervisor as an event, what it says is an order.
//! Ends with the process.
//!
//! **Invariant:** one asker at a time; another is told so and turned away.

use std::fmt;
use std::io;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use async_channel::{Receiver, Sender};
use early_service_machine::State;
use early_service_machine::command::{BUSY, DENIED, Frame, MAX_LINE, frame};
use early_service_machine::counter::HAND_OVER;
use early_service_machine::lifecycle::Event;
use early_service_machine::schedule::Monotonic;
use futures_lite::future;
use futures_lite::io::{AsyncReadExt, AsyncWriteExt};
use rustix::io::Errno;
use rustix::net::UCred;
use rustix::net::sockopt::socket_peercred;
use rustix::process::geteuid;
use smol::{Async, Timer};

use crate::mailbox::post;
use crate::{clock, listener, server, users};

/// The most clients whose question waits here: whoever asks in one turn of the server.
///
/// With fewer, strangers who ask at once would keep the successor from being heard.
pub(crate) const ASKERS: usize = server::ACCEPTS;

/// The most messages under way here: the askers, and one order of each kind.
pub(crate) const MAILBOX: usize = ASKERS + 2;

/// How long a predecessor may take to answer.
///
/// Longer than its watchdog (3 s) takes to end one that hangs; shorter, and a predecessor that was
/// merely stopped for a moment would be taken for dead; longer, and nobody serves meanwhile.
const ANSWER: Duration = Duration::from_secs(5);

/// How long to wait before asking again a predecessor that is busy or refuses.
///
/// Longer, and a handoff that another successor gave up comes that much later; shorter, and one
/// that may not have the state at all keeps both processes at work.
const ASK_AGAIN: Duration = Duration::from_millis(500);

/// How long to wait before connecting again where the predecessor's backlog is full.
const CONNECT_AGAIN: Duration = Duration::from_millis(50);

/// What others tell the handoff actor.
pub(crate) enum Message {
    /// From the supervisor: ask the predecessor.
    Ask,
    /// From the server: the client on this connection asked for the state.
    Asked(Async<UnixStream>),
    /// From the supervisor: give the state to the one that asked.
    Send(State),
}

/// The actor.
pub(crate) struct Handoff {
    mailbox: Receiver<Message>,
    supervisor: Sender<Event>,
    /// Where the predecessor listens.
    predecessor: Option<PathBuf>,
    /// A user who may have the state, beside root and our own.
    successor: Option<String>,
    /// What the predecessor last refused with; said once.
    refused: Option<&'static str>,
    asker: Option<Asker>,
    refusals: Refusals,
}

/// The one that asked for the state, and waits.
struct Asker {
    stream: Async<UnixStream>,
    peer: UCred,
}

impl Handoff {
    pub(crate) fn new(
        mailbox: Receiver<Message>,
        supervisor: Sender<Event>,
        predecessor: Option<PathBuf>,
        successor: Option<String>,
    ) -> Self {
        let (refused, asker, refusals) = (None, None, Refusals::default());
        Self { mailbox, supervisor, predecessor, successor, refused, asker, refusals }
    }

    pub(crate) async fn run(mut self) {
        while let Ok(message) = self.mailbox.recv().await {
            match message {
                Message::Ask => {
                    let event = self.ask().await;
                    self.report(event);
                }
                Message::Asked(stream) => self.asked(stream),
                Message::Send(state) => self.send(state),
            }
        }
    }

    async fn ask(&mut self) -> Event {
        let Some(path) = &self.predecessor else {
            return Event::PredecessorAbsent;
        };
        if self.refused.is_none() {
            log::info!("Reading starting position from socket {}", path.display());
        }
        let too_late = async {
            Timer::after(ANSWER).await;
            Err(AskError::NoAnswer)
        };
        match future::or(ask(path), too_late).await {
            Ok(state) => {
                log::info!("Adopting {state} from {}", path.display());
                Event::StateReceived(state)
            }
            Err(AskError::Refused(answer)) => {
                // It lives and owns: an owner beside it would be worse than to wait.
                if self.refused != Some(answer) {
                    log::warn!(
                        "{} answers '{answer}': asking again until it hands over or ends",
                        path.display()
                    );
                    self.refused = Some(answer);
                }
                Timer::after(ASK_AGAIN).await;
                Event::PredecessorRefused
            }
            Err(error) => {
                let path = path.display();
                log::warn!("No predecessor at {path}: {error}; starting at {}", State::default());
                Event::PredecessorAbsent
            }
        }
    }

    fn asked(&mut self, stream: Async<UnixStream>) {
        // Where the credentials cannot be read, nobody vouches for this peer.
        let peer = match socket_peercred(&stream) {
            Ok(peer) if self.may_have_the_state(&peer) => peer,
            Ok(UCred { pid, uid, .. }) => {
                let (pid, uid) = (pid.as_raw_nonzero(), uid.as_raw());
                self.refusals.log(format_args!("process {pid} of user {uid} may not ask for it"));
                return answer_and_close(&stream, DENIED);
            }
            Err(_) => {
                self.refusals.log(format_args!("the kernel does not say who asks"));
                return answer_and_close(&stream, DENIED);
            }
        };
        let (pid, uid) = (peer.pid.as_raw_nonzero(), peer.uid.as_raw());
        if self.asker.is_some() {
            self.refusals.log(format_args!("process {pid} came while another one is adopting"));
            return answer_and_close(&stream, BUSY);
        }
        log::info!("Handing over to process {pid} of user {uid}");
        self.asker = Some(Asker { stream, peer });
        self.report(Event::HandoffRequested);
    }

    /// Sends the state; the one small line either goes at once, or nobody is there to take it.
    fn send(&mut self, state: State) {
        let Some(asker) = self.asker.take() else {
            return self.report(Event::SuccessorGone);
        };
        log::info!("Returning counter to client and terminating the process");
        let event = match write_at_once(&asker.stream, state) {
            Ok(()) => Event::StateSent,
            Err(error) => {
                let pid = asker.peer.pid.as_raw_nonzero();
                log::warn!("Process {pid} went away before it had the state: {error}; serving on");
                Event::SuccessorGone
            }
        };
        self.report(event);
    }

    /// Whether this peer may have the state: root, our own user and the named successor.
    ///
    /// The kernel vouches for its number (`SO_PEERCRED` in unix(7)); the name is looked up now,
    /// because the root filesystem may have another list of users than the initrd.
    fn may_have_the_state(&self, peer: &UCred) -> bool {
        peer.uid.is_root()
            || peer.uid == geteuid()
            || self.successor.as_deref().and_then(users::number) == Some(peer.uid)
    }

    fn report(&self, event: Event) {
        post(&self.supervisor, event);
    }
}

/// Says who is refused, once a second at the most.
///
/// Whoever can connect can ask, thousands of times a second; without a limit their lines would
/// take the room of the ticks in the log.
#[derive(Default)]
struct Refusals {
    /// When the last line was logged.
    logged: Option<Monotonic>,
    /// Refused since then, without a line.
    silent: u64,
}

impl Refusals {
    const INTERVAL: Duration = Duration::from_secs(1);

    fn log(&mut self, who: fmt::Arguments<'_>) {
        let now = clock::now();
        let is_soon =
            |last: Monotonic| u128::from(now.nanos_since(last)) < Self::INTERVAL.as_nanos();
        if self.logged.is_some_and(is_soon) {
            self.silent += 1;
            return;
        }
        match self.silent {
            0 => log::warn!("Refusing to hand over: {who}"),
            more => log::warn!("Refusing to hand over: {who}, and {more} others before"),
        }
        *self = Self { logged: Some(now), silent: 0 };
    }
}

/// Tells a peer why it does not get the state; if it does not listen, that is just as well.
fn answer_and_close(stream: &Async<UnixStream>, answer: &str) {
    let _ = write_at_once(stream, answer);
}

/// Writes one line; an error where it does not go at once and whole.
fn write_at_once(stream: &Async<UnixStream>, line: impl fmt::Display) -> io::Result<()> {
    let line = format!("{line}\n");
    let written = io::Write::write(&mut stream.get_ref(), line.as_bytes())?;
    if written == line.len() { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
}

/// Why there is no state to adopt.
#[derive(Debug)]
enum AskError {
    Connect(io::Error),
    Exchange(io::Error),
    Closed,
    NoAnswer,
    /// It does not hand over, to us or now.
    Refused(&'static str),
    NotAState(Vec<u8>),
}

impl fmt::Display for AskError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connect(error) => write!(f, "cannot connect: {error}"),
            Self::Exchange(error) => write!(f, "the connection broke: {error}"),
            Self::Closed => write!(f, "it closed the connection before a whole line"),
            Self::NoAnswer => write!(f, "no answer within {} s", ANSWER.as_secs()),
            Self::Refused(answer) => write!(f, "it refused: {answer}"),
            Self::NotAState(answer) => write!(f, "it answered '{}'", answer.escape_ascii()),
        }
    }
}

async fn ask(path: &Path) -> Result<State, AskError> {
    let mut stream = connect(path).await.map_err(AskError::Connect)?;
    stream.write_all(format!("{HAND_OVER}\n").as_bytes()).await.map_err(AskError::Exchange)?;
    let (mut answer, mut length) = ([0; 2 * MAX_LINE], 0);
    loop {
        let room = answer.get_mut(length..).unwrap_or_default();
        let count = stream.read(room).await.map_err(AskError::Exchange)?;
        length += count;
        let answer = answer.get(..length).unwrap_or_default();
        // A line without its end may have lost digits too, so the end of input does not end it.
        match frame(answer, false) {
            Frame::Line(line, _) => {
                let refusal = [DENIED, BUSY].into_iter().find(|answer| answer.as_bytes() == line);
                return match (State::parse(line), refusal) {
                    (Some(state), _) => Ok(state),
                    (None, Some(answer)) => Err(AskError::Refused(answer)),
                    (None, None) => Err(AskError::NotAState(line.to_vec())),
                };
            }
            Frame::Partial if count == 0 => return Err(AskError::Closed),
            Frame::Partial => {}
            Frame::TooLong => return Err(AskError::NotAState(answer.to_vec())),
        }
    }
}

/// Connects; where the backlog is full (EAGAIN in unix(7)), somebody is there: tries again.
async fn connect(path: &Path) -> io::Result<Async<UnixStream>> {
    loop {
        match listener::connect(path) {
            Err(Errno::AGAIN) => _ = Timer::after(CONNECT_AGAIN).await,
            connected => return Async::new(connected?),
        }
    }
}
