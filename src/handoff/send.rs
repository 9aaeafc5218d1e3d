// SPDX-License-Identifier: Apache-2.0
//! Offering: the predecessor's side of the exchange.
//!
//! Sends the one that asked the state, the clients and a copy of the lock, and hears what it says.
//!
//! Owns the connection to the successor; what it sends stays with the handoff actor, for the
//! successor's death must cost nothing.
//! Never decides: what it learns goes out as an event, what it says is an order; after an event it
//! waits for one.
//! Ends when the handoff actor drops it.

use std::io;
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use early_service_machine::lifecycle::Successor;
use early_service_machine::timeline::Snapshot;
use early_service_machine::wire::handoff::{MAX_DESCRIPTORS, Message, Offer, Printable};
use futures_lite::future;
use rustix::io::Errno;
use rustix::net::UCred;
use smol::{Async, Timer};

use crate::handoff::channel::{self, Line, Peer};
use crate::handoff::state_file::StateFile;
use crate::journal::message_id::Id;
use crate::platform::notify;
use crate::server::listener::Listener;
use crate::server::session::{HandoffRequest, Session};
use crate::server::sockets::Sockets;
use crate::service::Service;

/// How long the successor may take to prepare.
///
/// Longer, and clients wait that long on one that hangs; shorter, and one on a busy machine has to
/// ask again.
const OFFER: Duration = Duration::from_secs(1);

/// How long the successor may take to serve before that is said; it is waited for all the same,
/// because it is the owner.
const SILENT: Duration = Duration::from_secs(1);

/// How long to wait where too many descriptors are on their way (ETOOMANYREFS in unix(7)): the
/// successor takes them off in far less.
const IN_FLIGHT: Duration = Duration::from_millis(1);

/// How long to wait for that in all; then they are not the successor's to take off.
///
/// Longer, and ticks and replies are late each time that it asks; shorter, and a successor on a busy
/// machine has no time to take off its own.
const STUCK: Duration = Duration::from_millis(50);

/// Beyond so many bytes a message takes in no other client.
///
/// With the last client and a quarter of the socket's buffer, that is less than half of it (see
/// [`Peer::send`]).
const MESSAGE: usize = 16 * 1024;

/// What the successor is offered, and the predecessor keeps in case that one dies.
pub(crate) struct Estate<'a, S: Service> {
    pub(crate) snapshot: Snapshot<S>,
    pub(crate) state_file: Option<&'a StateFile>,
    pub(crate) sockets: &'a Sockets<S>,
}

impl<S: Service> Clone for Estate<'_, S> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<S: Service> Copy for Estate<'_, S> {}

/// The one that asked, and how far it has come.
pub(crate) struct Offering {
    peer: Peer,
    successor: UCred,
    asked: HandoffRequest,
    progress: Progress,
    since: Instant,
    /// That the successor is silent has been said.
    is_told: bool,
    message: Vec<u8>,
    /// How much of the message is sent.
    sent: usize,
    /// Since when the kernel has not let descriptors go.
    stuck: Option<Instant>,
    /// Why the successor did not adopt the state.
    cause: Option<String>,
    /// The offer was taken back already.
    is_taken_back: bool,
    is_done: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Progress {
    /// Waiting for an order.
    Idle,
    /// The message is of this part.
    Sending(Part),
    /// All is sent, as far as it goes.
    Offered,
    Committed,
}

/// What is sent, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    /// The state, and the listeners.
    State,
    /// The clients from this one up to that one, the latter excluded.
    Clients(usize, usize),
    /// The end, and the lock.
    End,
}

impl Offering {
    pub(crate) fn new(stream: Async<UnixStream>, successor: UCred, asked: HandoffRequest) -> Self {
        Self {
            peer: Peer::without_descriptors(stream),
            successor,
            asked,
            progress: Progress::Idle,
            since: Instant::now(),
            is_told: false,
            message: Vec::new(),
            sent: 0,
            stuck: None,
            cause: None,
            is_taken_back: false,
            is_done: false,
        }
    }

    /// The successor's process id.
    pub(crate) fn pid(&self) -> i32 {
        self.successor.pid.as_raw_nonzero().get()
    }

    /// Whether the successor speaks only an older line.
    pub(crate) fn is_older(&self) -> bool {
        !matches!(self.asked, HandoffRequest::Exchange { .. })
    }

    /// Whether the successor said that it serves.
    pub(crate) fn is_done(&self) -> bool {
        self.is_done
    }

    /// The answer could not be sent.
    pub(crate) fn failed(&mut self, error: &io::Error) {
        self.cause = Some(format!("cannot answer it: {error}"));
    }

    /// Why it did not adopt the state.
    pub(crate) fn cause(&self) -> &str {
        self.cause.as_deref().unwrap_or("its connection ended")
    }

    /// Whether the successor goes on serving this listener, so that its file is no longer ours.
    ///
    /// That is the one by which it came, however either side spells its path; or one that it names.
    pub(crate) fn takes(&self, listener: &Listener) -> bool {
        match &self.asked {
            HandoffRequest::Exchange { listener: Some(taken) } => {
                taken == listener.path() || listener.has_accepted(self.peer.stream())
            }
            HandoffRequest::ListenerAndState => listener.has_accepted(self.peer.stream()),
            HandoffRequest::Exchange { listener: None } | HandoffRequest::State => false,
        }
    }

    /// Begins to send.
    pub(crate) fn offer<S: Service>(&mut self, estate: Estate<'_, S>) {
        self.since = Instant::now();
        self.compose(Part::State, estate);
    }

    /// Gives an older successor what it asked for, at once: it says nothing more, and reads to the
    /// end.
    pub(crate) fn answer<S: Service>(&self, estate: Estate<'_, S>) -> io::Result<()> {
        if self.asked == HandoffRequest::ListenerAndState {
            let mut listeners = estate.sockets.listeners.iter();
            let listener = listeners.find(|listener| listener.has_accepted(self.peer.stream()));
            let listener = listener.ok_or(io::ErrorKind::NotFound)?;
            // Exactly one byte beside the descriptor: that is what the C program reads first.
            channel::send(self.peer.stream(), b"\0", &[listener.as_fd()])?;
        }
        self.peer.say_last(&estate.snapshot.state.to_string())?;
        // A predecessor of ours that has not left yet may hold a copy of the connection.
        let _ = self.peer.stream().get_ref().shutdown(Shutdown::Write);
        Ok(())
    }

    /// Says that the successor is the owner.
    pub(crate) fn commit<S: Service>(&mut self) {
        // Where that fails, the end of the connection says so.
        let _ = self.peer.say(&Message::<S>::Commit.to_string());
        (self.progress, self.since, self.is_told) = (Progress::Committed, Instant::now(), false);
    }

    /// Takes the offer back; where that fails, the successor is gone or has not got all of it.
    pub(crate) fn abort<S: Service>(&mut self) {
        let _ = self.take_back::<S>();
    }

    /// Says once that the offer is taken back; whether that went out.
    fn take_back<S: Service>(&mut self) -> bool {
        if !self.is_taken_back {
            let abort = Message::<S>::Abort(self.cause().as_bytes()).to_string();
            self.is_taken_back = self.peer.say_last(&abort).is_ok();
        }
        self.is_taken_back
    }

    /// The connection, for a last word on it.
    pub(crate) fn into_peer(self) -> Peer {
        self.peer
    }

    /// Waits until there is something to report; may be dropped at any point.
    pub(crate) async fn next<S: Service>(&mut self, estate: Option<Estate<'_, S>>) -> Successor {
        let event = loop {
            match (self.progress, estate) {
                (Progress::Idle, _) | (Progress::Sending(_), None) => future::pending().await,
                (Progress::Sending(part), Some(estate)) => {
                    let limit = self.stuck.map_or(self.since + OFFER, |since| since + STUCK);
                    if !before(limit, self.send(part, estate)).await {
                        break self.expired();
                    }
                }
                (Progress::Offered, _) => {
                    let limit = self.since + OFFER;
                    let heard = async { Some(hear::<S>(&mut self.peer).await) };
                    let too_late = async {
                        Timer::at(limit).await;
                        None
                    };
                    match future::or(heard, too_late).await {
                        Some(PeerMessage::Prepared) => break Successor::Prepared,
                        Some(PeerMessage::Gone(cause)) => {
                            self.cause = cause;
                            break Successor::Gone;
                        }
                        Some(PeerMessage::Other | PeerMessage::Done) => {
                            self.cause = Some("it does not keep to the exchange".to_owned());
                            break Successor::TimedOut;
                        }
                        None => {
                            let event = self.expired();
                            if self.take_back::<S>() {
                                break event;
                            }
                            // It holds the whole offer, and must not see the end of it without a
                            // word: it would take that for our death.
                            self.since = Instant::now();
                        }
                    }
                }
                (Progress::Committed, _) => {
                    if !self.is_told && !before(self.since + SILENT, readable(&mut self.peer)).await
                    {
                        self.is_told = true;
                        let pid = self.pid();
                        log::warn!(
                            MESSAGE_ID = Id::SuccessorSilent;
                            "Process {pid} owns the state and does not serve: waiting for it"
                        );
                        notify::status(format_args!("draining: process {pid} does not serve yet"));
                    }
                    match hear::<S>(&mut self.peer).await {
                        PeerMessage::Done => {
                            self.is_done = true;
                            break Successor::Serving;
                        }
                        PeerMessage::Gone(cause) => {
                            self.cause = cause;
                            break Successor::Gone;
                        }
                        PeerMessage::Prepared | PeerMessage::Other => {}
                    }
                }
            }
        };
        self.progress = Progress::Idle;
        event
    }

    fn expired(&mut self) -> Successor {
        self.cause.get_or_insert_with(|| match self.stuck {
            Some(_) => "too many descriptors of this user are on their way elsewhere".to_owned(),
            None => format!("it did not take it within {} s", OFFER.as_secs()),
        });
        Successor::TimedOut
    }

    /// Sends on, and composes the next message when this one is out.
    async fn send<S: Service>(&mut self, part: Part, estate: Estate<'_, S>) {
        let unsent = self.message.get(self.sent..).unwrap_or_default();
        // They go with the first byte.
        let descriptors = if self.sent == 0 { part.descriptors(estate) } else { Vec::new() };
        match self.peer.send(unsent, &descriptors).await {
            Ok(count) => {
                self.sent += count;
                self.stuck = None;
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
            Err(error) if Errno::from_io_error(&error) == Some(Errno::TOOMANYREFS) => {
                self.stuck.get_or_insert_with(Instant::now);
                _ = Timer::after(IN_FLIGHT).await;
            }
            // That it cannot be sent is not the end of the connection: that is to be read.
            Err(error) => {
                self.cause = Some(format!("it cannot be sent: {error}"));
                self.progress = Progress::Offered;
            }
        }
        if self.sent == self.message.len() {
            match part.next(estate) {
                Some(next) => self.compose(next, estate),
                None => self.progress = Progress::Offered,
            }
        }
    }

    fn compose<S: Service>(&mut self, part: Part, estate: Estate<'_, S>) {
        self.progress = Progress::Sending(part);
        self.message.clear();
        self.sent = 0;
        match part {
            Part::State => {
                let Sockets { listeners, sessions } = estate.sockets;
                push_line(
                    &mut self.message,
                    Message::State(Offer {
                        snapshot: estate.snapshot,
                        lock: estate.state_file.is_some(),
                        listeners: u64::try_from(listeners.len()).unwrap_or_default(),
                        clients: u64::try_from(sessions.len()).unwrap_or_default(),
                    }),
                );
            }
            Part::Clients(from, to) => {
                for session in clients(estate, from, to) {
                    let (client, unread, unsent) = session.parts();
                    push_line(&mut self.message, Message::<S>::Client(client));
                    self.message.extend_from_slice(unread);
                    self.message.extend_from_slice(unsent);
                }
            }
            Part::End => push_line(&mut self.message, Message::<S>::End),
        }
    }
}

impl Part {
    /// The descriptors that travel beside this part.
    fn descriptors<S: Service>(self, estate: Estate<'_, S>) -> Vec<BorrowedFd<'_>> {
        match self {
            Self::State => estate.sockets.listeners.iter().map(AsFd::as_fd).collect(),
            Self::Clients(from, to) => clients(estate, from, to).iter().map(AsFd::as_fd).collect(),
            Self::End => estate.state_file.map(AsFd::as_fd).into_iter().collect(),
        }
    }

    /// The part after this one.
    fn next<S: Service>(self, estate: Estate<'_, S>) -> Option<Self> {
        let from = match self {
            Self::State => 0,
            Self::Clients(_, to) => to,
            Self::End => return None,
        };
        let mut length = 0;
        let fitting = clients(estate, from, from + MAX_DESCRIPTORS).iter().take_while(|session| {
            let fits = length < MESSAGE;
            let (_, unread, unsent) = session.parts();
            length += unread.len() + unsent.len();
            fits
        });
        let to = from + fitting.count();
        Some(if to > from { Self::Clients(from, to) } else { Self::End })
    }
}

fn clients<S: Service>(estate: Estate<'_, S>, from: usize, to: usize) -> &[Box<Session<S>>] {
    let sessions = &estate.sockets.sessions;
    sessions.get(from..to.min(sessions.len())).unwrap_or_default()
}

fn push_line<S: Service>(message: &mut Vec<u8>, line: Message<'_, S>) {
    message.extend_from_slice(format!("{line}\n").as_bytes());
}

/// What the successor may say.
enum PeerMessage {
    Prepared,
    Done,
    /// It aborted, for this reason, or its connection ended.
    Gone(Option<String>),
    Other,
}

async fn hear<S: Service>(peer: &mut Peer) -> PeerMessage {
    match peer.line().await {
        Line::End => PeerMessage::Gone(None),
        Line::TooLong(_) => PeerMessage::Other,
        Line::Whole(line) => match Message::<S>::parse(line) {
            Ok(Message::Prepared) => PeerMessage::Prepared,
            Ok(Message::Done) => PeerMessage::Done,
            Ok(Message::Abort(b"")) => PeerMessage::Gone(Some("it aborted".to_owned())),
            Ok(Message::Abort(reason)) => PeerMessage::Gone(Some(Printable(reason).to_string())),
            Ok(_) | Err(_) => PeerMessage::Other,
        },
    }
}

async fn readable(peer: &mut Peer) {
    // An error shows where it is read.
    let _ = peer.stream().readable().await;
}

/// Whether `work` was done before `limit`.
async fn before(limit: Instant, work: impl Future<Output = ()>) -> bool {
    let done = async {
        work.await;
        true
    };
    let too_late = async {
        Timer::at(limit).await;
        false
    };
    future::or(done, too_late).await
}
