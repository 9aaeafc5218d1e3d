// SPDX-License-Identifier: Apache-2.0
//! Sending side of a handoff.
//!
//! Sends the successor the bundle, part by part, and reports its replies.
//!
//! Owns the connection to the successor. The bundle stays with the handoff actor, so that nothing
//! is lost if the successor dies. Reports events and executes orders; after reporting an event it
//! is idle until the next order. Dropped by the handoff actor.

use std::io;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use early_service_machine::lifecycle::Successor;
use early_service_machine::wire::framing::Printable;
use early_service_machine::wire::handoff::Message;
use early_service_machine::wire::legacy::Legacy;
use futures_lite::future;
use rustix::io::Errno;
use rustix::net::UCred;
use smol::{Async, Timer};

use crate::handoff::bundle::{Bundle, Part};
use crate::handoff::channel::{Line, Peer};
use crate::handoff::legacy;
use crate::handoff::request::HandoffRequest;
use crate::journal::message_id::Id;
use crate::platform::{notify, socket};
use crate::server::listener::Listener;
use crate::service::Service;

/// How long the successor may take to serve before that is logged. The wait continues, because the
/// successor is the owner.
const SILENCE_LOGGED: Duration = Duration::from_secs(1);

/// The pause if too many descriptors are in flight (ETOOMANYREFS in unix(7)). The successor
/// receives them much faster.
const IN_FLIGHT_PAUSE: Duration = Duration::from_millis(1);

/// How long to wait for the successor to receive them. If too many are in flight even then, other
/// processes hold them. Too long: each request of a successor delays ticks and replies. Too short:
/// a successor on a busy machine cannot receive its descriptors in time.
const IN_FLIGHT_TIMEOUT: Duration = Duration::from_millis(50);

/// An offer to one successor.
pub(crate) struct Offering {
    peer: Peer,
    successor: UCred,
    request: HandoffRequest,
    /// Whether the successor takes every listener with its file, as in a reload.
    takes_all: bool,
    progress: Progress,
    since: Instant,
    /// Whether the log says that the successor does not serve.
    is_silence_logged: bool,
    message: Vec<u8>,
    /// How much of the message was sent.
    sent: usize,
    /// Since when too many descriptors have been in flight.
    stuck: Option<Instant>,
    /// Why the successor did not adopt the state.
    cause: Option<String>,
    is_withdrawn: bool,
    is_done: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Progress {
    /// Idle until an order.
    Idle,
    /// Sending this part.
    Sending(Part),
    /// Everything was sent, or sending failed.
    Offered,
    Committed,
}

impl Offering {
    pub(crate) fn new(
        stream: Async<UnixStream>,
        successor: UCred,
        request: HandoffRequest,
        takes_all: bool,
    ) -> Self {
        Self {
            peer: Peer::without_descriptors(stream),
            successor,
            request,
            takes_all,
            progress: Progress::Idle,
            since: Instant::now(),
            is_silence_logged: false,
            message: Vec::new(),
            sent: 0,
            stuck: None,
            cause: None,
            is_withdrawn: false,
            is_done: false,
        }
    }

    pub(crate) fn pid(&self) -> i32 {
        self.successor.pid.as_raw_nonzero().get()
    }

    pub(crate) fn is_legacy(&self) -> bool {
        matches!(self.request, HandoffRequest::Legacy(_))
    }

    /// Whether it is the successor that this process has started.
    pub(crate) fn is_reload(&self) -> bool {
        self.takes_all
    }

    pub(crate) fn is_done(&self) -> bool {
        self.is_done
    }

    /// Whether the successor has sent nothing since the commit, not even what is not yet read.
    pub(crate) fn is_silent(&self) -> bool {
        self.progress == Progress::Committed && !socket::is_readable(self.peer.stream())
    }

    /// Records that the reply could not be sent.
    pub(crate) fn failed(&mut self, error: &io::Error) {
        self.fails_because(format!("cannot answer it: {error}"));
    }

    /// Records why the successor does not adopt the state.
    pub(crate) fn fails_because(&mut self, cause: String) {
        self.cause = Some(cause);
    }

    pub(crate) fn cause(&self) -> &str {
        self.cause.as_deref().unwrap_or("its connection ended")
    }

    /// Whether the successor continues to serve this listener and therefore owns its file. True for
    /// the listener through which it connected, whatever its path, for one that it named, and for
    /// every one in a reload.
    pub(crate) fn takes(&self, listener: &Listener) -> bool {
        match &self.request {
            _ if self.takes_all => true,
            HandoffRequest::Handoff { listener: Some(taken), .. } => {
                taken == listener.path() || listener.has_accepted(self.peer.stream())
            }
            HandoffRequest::Legacy(Legacy::ListenerAndValue) => {
                listener.has_accepted(self.peer.stream())
            }
            HandoffRequest::Handoff { listener: None, .. }
            | HandoffRequest::Legacy(Legacy::Value) => false,
        }
    }

    pub(crate) fn offer<S: Service>(&mut self, bundle: &Bundle<S>) {
        self.since = Instant::now();
        self.compose(Part::Manifest, bundle);
    }

    /// Sends a legacy successor its whole reply at once. The successor sends no further message.
    pub(crate) fn answer<S: Service>(&self, bundle: &Bundle<S>) -> io::Result<()> {
        match self.request {
            HandoffRequest::Legacy(legacy) => legacy::send(&self.peer, legacy, bundle),
            HandoffRequest::Handoff { .. } => Err(io::ErrorKind::InvalidInput.into()),
        }
    }

    /// Tells the successor that it is the owner.
    pub(crate) fn commit<S: Service>(&mut self) {
        // If this fails, the next read finds the end of the connection.
        let _ = self.peer.say(&Message::<S>::Commit.to_string());
        (self.progress, self.since, self.is_silence_logged) =
            (Progress::Committed, Instant::now(), false);
    }

    /// Withdraws the offer. If that fails, the successor is gone, or has not received all of it.
    pub(crate) fn abort<S: Service>(&mut self) {
        let _ = self.withdraw::<S>();
    }

    /// Tells the successor once that the offer is withdrawn; returns whether that was sent.
    fn withdraw<S: Service>(&mut self) -> bool {
        if !self.is_withdrawn {
            let abort = Message::<S>::Abort(self.cause().as_bytes()).to_string();
            self.is_withdrawn = self.peer.say_last(&abort).is_ok();
        }
        self.is_withdrawn
    }

    /// The connection, for its last line.
    pub(crate) fn into_peer(self) -> Peer {
        self.peer
    }

    /// The successor is dead. Ends the connection, of which another process may have a copy.
    pub(crate) fn successor_died(&mut self) {
        let _ = self.peer.stream().get_ref().shutdown(Shutdown::Both);
    }

    /// Waits for an event to report; may be dropped at any point.
    pub(crate) async fn next<S: Service>(&mut self, bundle: &Bundle<S>) -> Successor {
        let event = loop {
            match self.progress {
                Progress::Idle => future::pending().await,
                Progress::Sending(part) => {
                    let offered = self.since + S::OFFER_TIMEOUT;
                    let limit = self.stuck.map_or(offered, |since| since + IN_FLIGHT_TIMEOUT);
                    if !before(limit.min(offered), self.send(part, bundle)).await {
                        break self.expired::<S>();
                    }
                }
                Progress::Offered => {
                    let limit = self.since + S::OFFER_TIMEOUT;
                    let heard = async { Some(hear::<S>(&mut self.peer).await) };
                    let too_late = async {
                        Timer::at(limit).await;
                        None
                    };
                    match future::or(heard, too_late).await {
                        Some(PeerMessage::Prepared) => break Successor::Prepared,
                        Some(PeerMessage::Gone(cause)) => {
                            self.cause = cause.or(self.cause.take().filter(|_| self.takes_all));
                            break Successor::Gone;
                        }
                        Some(PeerMessage::Other | PeerMessage::Done) => {
                            self.cause = Some("protocol violation".to_owned());
                            break Successor::TimedOut;
                        }
                        None => {
                            let event = self.expired::<S>();
                            if self.withdraw::<S>() {
                                break event;
                            }
                            // The successor has the whole offer. Without a line, the end of the
                            // connection would mean that this process died.
                            self.since = Instant::now();
                        }
                    }
                }
                Progress::Committed => {
                    if !self.is_silence_logged
                        && !before(self.since + SILENCE_LOGGED, readable(&mut self.peer)).await
                    {
                        self.is_silence_logged = true;
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
                            self.cause = cause.or(self.cause.take().filter(|_| self.takes_all));
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

    fn expired<S: Service>(&mut self) -> Successor {
        self.cause.get_or_insert_with(|| match self.stuck {
            Some(_) => "too many descriptors of this user are in flight".to_owned(),
            None => format!("timed out after {} ms", S::OFFER_TIMEOUT.as_millis()),
        });
        Successor::TimedOut
    }

    /// Continues to send, and composes the next message after the last byte.
    async fn send<S: Service>(&mut self, part: Part, bundle: &Bundle<S>) {
        let unsent = self.message.get(self.sent..).unwrap_or_default();
        // The descriptors travel with the first byte.
        let descriptors = if self.sent == 0 { part.lend(bundle) } else { Vec::new() };
        match self.peer.send(unsent, &descriptors).await {
            Ok(count) => {
                self.sent += count;
                self.stuck = None;
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
            Err(error) if Errno::from_io_error(&error) == Some(Errno::TOOMANYREFS) => {
                self.stuck.get_or_insert_with(Instant::now);
                _ = Timer::after(IN_FLIGHT_PAUSE).await;
            }
            // Only a read can show the end of the connection.
            Err(error) => {
                self.cause = Some(format!("it cannot be sent: {error}"));
                self.progress = Progress::Offered;
            }
        }
        if self.sent == self.message.len() {
            match part.next(bundle, self.request.accepts()) {
                Some(next) => self.compose(next, bundle),
                None => self.progress = Progress::Offered,
            }
        }
    }

    fn compose<S: Service>(&mut self, part: Part, bundle: &Bundle<S>) {
        self.progress = Progress::Sending(part);
        self.message.clear();
        self.sent = 0;
        part.write(bundle, self.request.accepts(), &mut self.message);
    }
}

/// A message of the successor.
enum PeerMessage {
    Prepared,
    Done,
    /// It aborted for this reason, or its connection ended.
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
    // The next read reports an error.
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
