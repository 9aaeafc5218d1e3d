// SPDX-License-Identifier: Apache-2.0
//! Adoption: the successor's side of the exchange.
//!
//! Asks the predecessor for its state, takes in what it sends, and speaks an older line to one that
//! knows no other.
//!
//! Owns the connection to the predecessor and all that came over it, until it is taken out.
//! Never decides: what it learns goes out as an event, what it says is an order; after an event it
//! waits for one.
//! Ends when the handoff actor drops it.

use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use early_service_machine::lifecycle::Predecessor;
use early_service_machine::timeline::Snapshot;
use early_service_machine::wire::handoff::{
    BUSY, Client, DENIED, Message, Offer, Printable, Request,
};
use futures_lite::future;
use rustix::io::Errno;
use smol::{Async, Timer};

use crate::handoff::authorize::{Distrust, vouch_for};
use crate::handoff::channel::{Line, Peer};
use crate::handoff::state_file::StateFile;
use crate::journal::message_id::Id;
use crate::platform::clock;
use crate::platform::notify;
use crate::platform::socket;
use crate::server::limits;
use crate::server::listener::Listener;
use crate::server::listener::names::path_of_peer;
use crate::server::session::{INPUT, REPLIES, Session};
use crate::server::sockets::Sockets;
use crate::service::Service;

/// How long to wait before asking a predecessor again.
///
/// Longer, and a handoff that another successor gave up comes that much later; shorter, and one
/// that may not have the state at all keeps both processes at work.
const ASK_AGAIN: Duration = Duration::from_millis(100);

/// How often the pause is doubled where what a predecessor sends is refused, or taken back by it, for
/// the same reason each time: up to 3.2 s.
///
/// Each time it stops ticking and answering for a moment, and logs that; a reason that goes away, as
/// a lack of descriptors may, is noticed that late.
const MOST_REPEATED: u32 = 5;

/// How long a predecessor may be silent before that is said; it is waited for all the same.
const SILENT: Duration = Duration::from_secs(1);

/// How long a predecessor that does not hold the lock may be silent before it is given up: it is an
/// older program, and no event will tell that it is dead.
///
/// Longer than the watchdog of its unit (3 s) takes to end one that hangs; shorter, and a
/// predecessor that was merely stopped for a moment would be taken for dead; longer, and nobody
/// serves meanwhile.
const GIVEN_UP: Duration = Duration::from_secs(5);

/// The kind of failure of a predecessor that ends the connection in the middle of what it sends.
const GONE: &str = "gone";

/// Where the predecessor is, and what to ask it.
pub(crate) struct Adoption<S: Service> {
    path: PathBuf,
    /// The socket whose place we take, where it is the predecessor's.
    in_place: Option<PathBuf>,
    progress: Progress<S>,
    /// What was received.
    received: Received<S>,
    is_committed: bool,
    /// Since when the predecessor could not be connected to, though it may be there.
    unreachable: Option<Instant>,
    /// What an older program said to a line that it did not know.
    answer: Option<LegacyReply>,
    /// The kind of what was last said about a predecessor that does not hand over; each is said once.
    said: Option<String>,
    /// How often in a row what it sent did not add up for the same reason.
    repeated: u32,
}

/// All that a predecessor gave.
pub(crate) struct Received<S: Service> {
    pub(crate) state: Option<Given<S>>,
    /// A copy of the descriptor that holds the lock, as it came.
    lock: Option<OwnedFd>,
    /// The state file behind it, once it was checked.
    pub(crate) file: Option<StateFile>,
    pub(crate) sockets: Sockets<S>,
}

impl<S: Service> Default for Received<S> {
    fn default() -> Self {
        Self { state: None, lock: None, file: None, sockets: Sockets::default() }
    }
}

/// The state, as far as it travels over the wire.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Given<S> {
    /// With its rhythm.
    Whole(Snapshot<S>),
    /// By an older line.
    Alone(S),
}

enum Progress<S> {
    /// Waiting for an order; the connection, where there is one, stays open.
    Idle(Option<Peer>),
    /// To connect at that time and ask this way.
    Pausing(Instant, Way),
    Talking(Exchange<S>),
}

/// The ways to ask, from the one that loses nothing to those that any program knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Exchange,
    Older(Older),
    OlderStill(Older),
}

/// The lines of the older programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Older {
    State,
    ListenerAndState,
}

struct Exchange<S> {
    peer: Peer,
    way: Way,
    since: Instant,
    /// That the predecessor is silent has been said.
    is_told: bool,
    awaiting: Awaiting<S>,
}

/// What the next bytes from the predecessor are.
#[derive(Clone, Copy)]
enum Awaiting<S> {
    /// The answer to the request.
    Reply,
    /// The head of the next client, or the end.
    Client(Offer<S>),
    /// The bytes of a client.
    Bytes(Offer<S>, Client),
    /// The word that we are the owner.
    Commit,
    /// The NUL byte beside the listener of an older program.
    Nul,
}

/// What became of one step of the talk.
enum Outcome {
    GoOn,
    Event(Predecessor),
    /// The predecessor lives and says that it does not hand over, to us or now.
    Refused(String),
    /// The same, after it had stopped for it.
    Withdrawn(String),
    /// The predecessor does not know this way of asking, as this answer shows.
    Unknown(LegacyReply),
    /// What it sent does not add up; why is said to both sides.
    Mismatch(String),
    /// The same, of a line that is quoted; `kind` is what stays the same from line to line.
    Garbled {
        why: String,
        kind: String,
    },
}

/// What an older program said to something that it does not know.
enum LegacyReply {
    Line(String),
    Closed,
}

impl LegacyReply {
    fn line(line: &[u8]) -> Self {
        Self::Line(Printable(line).to_string())
    }
}

impl fmt::Display for LegacyReply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Line(line) => write!(f, "it answered '{line}'"),
            Self::Closed => f.write_str("it closed the connection before a whole line"),
        }
    }
}

impl<S: Service> Adoption<S> {
    pub(crate) fn new(path: PathBuf, in_place: Option<PathBuf>) -> Self {
        Self {
            path,
            in_place,
            progress: Progress::Idle(None),
            received: Received::default(),
            is_committed: false,
            unreachable: None,
            answer: None,
            said: None,
            repeated: 0,
        }
    }

    /// Asks; after a pause, where it was asked before.
    pub(crate) fn ask(&mut self) {
        let now = Instant::now();
        let is_first = self.said.is_none();
        if is_first {
            let path = self.path.display();
            log::info!("Reading starting position from socket {path}");
            self.said = Some(String::new());
        }
        let at = if is_first { now } else { now + ASK_AGAIN * (1 << self.repeated) };
        self.progress = Progress::Pausing(at, Way::Exchange);
    }

    /// Says that all is here, and waits for the word.
    pub(crate) fn prepare(&mut self) {
        let Progress::Idle(Some(mut peer)) =
            std::mem::replace(&mut self.progress, Progress::Idle(None))
        else {
            return;
        };
        // Where that fails, the end of the connection says so.
        let _ = peer.say(&Message::<S>::Prepared.to_string());
        let (since, is_told) = (Instant::now(), false);
        let awaiting = Awaiting::Commit;
        let talk = Exchange { peer, way: Way::Exchange, since, is_told, awaiting };
        self.progress = Progress::Talking(talk);
    }

    /// Drops all that was received; the connection stays open, so that the predecessor cannot know
    /// before it is so.
    pub(crate) fn discard(&mut self) {
        self.received = Received::default();
        match &mut self.progress {
            Progress::Idle(Some(peer)) | Progress::Talking(Exchange { peer, .. }) => {
                peer.discard_descriptors();
            }
            Progress::Idle(None) | Progress::Pausing(..) => {}
        }
    }

    /// Takes the handoff back, and reads nothing more.
    pub(crate) fn abort(&mut self) {
        if let Some(peer) = self.take_peer() {
            let _ =
                peer.say_last(&Message::<S>::Abort(b"the successor was told to stop").to_string());
        }
    }

    /// Checks that the lock that came with the state, or our own, keeps everybody else out.
    ///
    /// `has_lock` says that nobody else holds the lock of `ours`, or that there is no such file.
    pub(crate) fn check_lock(
        &mut self,
        ours: Option<&StateFile>,
        has_lock: bool,
    ) -> Result<(), String> {
        match (self.received.lock.take(), ours) {
            (_, Some(_)) if has_lock => Ok(()),
            (Some(lock), ours) => {
                self.received.file = Some(StateFile::handed_over(ours, lock)?);
                Ok(())
            }
            (None, _) if has_lock => Ok(()),
            (None, _) => Err("it does not hold the lock, and we do not either".to_owned()),
        }
    }

    /// The state file whose lock came along.
    pub(crate) fn file(&mut self) -> Option<&mut StateFile> {
        self.received.file.as_mut()
    }

    /// Drops all that was received, and then tells the predecessor and the log why.
    pub(crate) fn refuse(&mut self, why: &str) {
        self.refuse_as(why, why);
    }

    fn refuse_as(&mut self, why: &str, kind: &str) {
        let line = format!("cannot adopt from {}: {why}", self.path.display());
        self.count_repeated(kind);
        self.say_once_as(Id::PredecessorRefuses, line, kind);
        self.discard();
        if let Some(peer) = self.take_peer() {
            let _ = peer.say_last(&Message::<S>::Abort(why.as_bytes()).to_string());
        }
    }

    /// What is said of a predecessor that owns: an owner beside it would be worse than to wait.
    fn asking_again(&self, answer: &str) -> String {
        let path = self.path.display();
        format!("{path} answers '{answer}': asking again until it hands over or ends")
    }

    /// Counts how often in a row the handoff failed in the same way.
    fn count_repeated(&mut self, kind: &str) {
        let is_repeated = self.said == Some(without_numbers(kind));
        self.repeated = if is_repeated { MOST_REPEATED.min(self.repeated + 1) } else { 0 };
    }

    /// Whether the predecessor has said that we are the owner.
    pub(crate) fn is_committed(&self) -> bool {
        self.is_committed
    }

    /// Takes out all that was received, and the connection; what was to be said about it is said.
    pub(crate) fn finish(self) -> (Received<S>, Option<Peer>) {
        let Self { path, progress, received, .. } = self;
        if let Some(given) = &received.state {
            let clients = received.sockets.sessions.len();
            let path = path.display();
            log::info!(MESSAGE_ID = Id::Adopted; "Adopting {given} and {clients} clients from {path}");
        }
        let peer = match progress {
            Progress::Idle(peer) => peer,
            Progress::Pausing(..) => None,
            Progress::Talking(talk) => Some(talk.peer),
        };
        (received, peer)
    }

    /// Drops everything that was received, and gives the path whose place was to be taken.
    pub(crate) fn into_place(self) -> Option<PathBuf> {
        self.in_place
    }

    fn take_peer(&mut self) -> Option<Peer> {
        match std::mem::replace(&mut self.progress, Progress::Idle(None)) {
            Progress::Idle(peer) => peer,
            Progress::Pausing(..) => None,
            Progress::Talking(talk) => Some(talk.peer),
        }
    }

    /// Waits until there is something to report; may be dropped at any point.
    ///
    /// `has_lock` says that the predecessor does not hold the lock.
    pub(crate) async fn next(&mut self, has_lock: bool) -> Predecessor {
        loop {
            match &mut self.progress {
                Progress::Idle(_) => future::pending().await,
                Progress::Pausing(until, way) => {
                    Timer::at(*until).await;
                    let way = *way;
                    if let Some(event) = self.connect(way, has_lock) {
                        return event;
                    }
                }
                Progress::Talking(talk) => {
                    let silence =
                        silence(talk.since, talk.is_told, has_lock && talk.is_unanswered());
                    let step = talk.step(&mut self.received, self.in_place.as_deref());
                    match future::or(async { Ok(step.await) }, async { Err(silence.await) }).await {
                        Ok(outcome) => {
                            if let Some(event) = self.conclude(outcome, has_lock) {
                                return event;
                            }
                        }
                        Err(Silence::Long) => {
                            talk.is_told = true;
                            let path = self.path.display();
                            log::warn!(
                                MESSAGE_ID = Id::PredecessorSilent;
                                "{path} does not answer: waiting for it"
                            );
                            notify::status(format_args!("adopting: {path} does not answer"));
                        }
                        Err(Silence::TooLong) => {
                            let seconds = GIVEN_UP.as_secs();
                            self.absent(format_args!("no answer within {seconds} s"), has_lock);
                            return self.pause_with(Predecessor::Absent);
                        }
                    }
                }
            }
        }
    }

    /// Connects and asks; an event where that comes to nothing.
    fn connect(&mut self, way: Way, has_lock: bool) -> Option<Predecessor> {
        let stream = match socket::connect(&self.path) {
            Ok(stream) => stream,
            // The backlog is full, so somebody is there (EAGAIN in unix(7)).
            Err(Errno::AGAIN) => {
                return self.wait_to_connect("no room in its backlog", way, has_lock);
            }
            // Somebody may be there, who did not let us in.
            Err(error @ (Errno::ACCESS | Errno::PERM)) => {
                let why = format!("cannot connect: {}", io::Error::from(error));
                return self.wait_to_connect(&why, way, has_lock);
            }
            Err(error) if nobody_listens(error) => {
                let error = io::Error::from(error);
                self.absent_as_answered(&format!("cannot connect: {error}"), has_lock);
                return Some(self.pause_with(Predecessor::Absent));
            }
            // A shortage of ours, or an error that is not understood, says nothing of the other
            // process: to give it up would make a second owner.
            Err(error) => {
                let why = format!("cannot connect: {}", io::Error::from(error));
                return self.retry_to_connect(&why, way);
            }
        };
        self.unreachable = None;
        match vouch_for(&stream) {
            Ok(()) => {}
            Err(Distrust::Stranger(stranger)) => {
                self.absent(format_args!("{stranger}"), has_lock);
                return Some(self.pause_with(Predecessor::Absent));
            }
            // It may be the owner all the same.
            Err(Distrust::Unknown(error)) => {
                return self.retry_to_connect(&format!("cannot read its user: {error}"), way);
            }
        }
        let mut peer = match Async::new(stream) {
            Ok(stream) => Peer::new(stream),
            Err(error) => {
                let line = format!("cannot talk to {}: {error}", self.path.display());
                self.say_once(Id::PredecessorRefuses, line);
                return Some(self.pause_with(Predecessor::Refused));
            }
        };
        // Where that fails, the end of the connection says so.
        let _ = peer.say(&self.request(way, &peer));
        let awaiting = match way.older() {
            Some(Older::ListenerAndState) => Awaiting::Nul,
            Some(Older::State) | None => Awaiting::Reply,
        };
        let (since, is_told) = (Instant::now(), false);
        self.progress = Progress::Talking(Exchange { peer, way, since, is_told, awaiting });
        None
    }

    /// Tries to connect again, for as long as it waits for an answer.
    fn wait_to_connect(&mut self, why: &str, way: Way, has_lock: bool) -> Option<Predecessor> {
        let now = Instant::now();
        let waiting = now - *self.unreachable.get_or_insert(now);
        if has_lock && waiting >= GIVEN_UP {
            let seconds = GIVEN_UP.as_secs();
            self.absent(format_args!("{why}, for {seconds} s"), has_lock);
            return Some(self.pause_with(Predecessor::Absent));
        }
        if waiting >= SILENT {
            return self.retry_to_connect(why, way);
        }
        self.progress = Progress::Pausing(now + ASK_AGAIN, way);
        None
    }

    /// Tries to connect again, however long it takes, and says why.
    fn retry_to_connect(&mut self, why: &str, way: Way) -> Option<Predecessor> {
        let line = format!("{}: {why}: waiting for it", self.path.display());
        self.say_once(Id::PredecessorSilent, line);
        self.progress = Progress::Pausing(Instant::now() + ASK_AGAIN, way);
        None
    }

    /// The line that asks for the state.
    ///
    /// The listener that we go on serving is named as the predecessor names it, for an older release
    /// compares the words; a name that does not fit a line is left empty, and the predecessor then
    /// takes the listener by which we came.
    fn request(&self, way: Way, peer: &Peer) -> String {
        let path = path_of_peer(peer.stream());
        let plain = path.to_str().filter(|path| !path.contains(['\n', '\r']));
        let request = match way.older() {
            None => Request::Exchange {
                listener: self.in_place.as_ref().map(|_| plain.unwrap_or_default()),
            },
            Some(Older::ListenerAndState) => Request::ListenerAndState,
            Some(Older::State) => Request::State(S::HAND_OVER),
        };
        request.to_string()
    }

    /// Says what the outcome of a step says, and turns it into an event.
    fn conclude(&mut self, outcome: Outcome, has_lock: bool) -> Option<Predecessor> {
        let Progress::Talking(talk) = &self.progress else {
            return None;
        };
        match outcome {
            Outcome::GoOn => return None,
            Outcome::Event(event) => {
                self.is_committed = event == Predecessor::Committed;
                if event == Predecessor::Gone {
                    self.count_repeated(GONE);
                    self.said = Some(GONE.to_owned());
                }
                return Some(self.pause_with(event));
            }
            Outcome::Refused(answer) => {
                let line = self.asking_again(&answer);
                self.say_once(Id::PredecessorRefuses, line);
                return Some(self.pause_with(Predecessor::Refused));
            }
            Outcome::Withdrawn(answer) => {
                let line = self.asking_again(&answer);
                self.count_repeated(&line);
                self.say_once(Id::PredecessorRefuses, line);
                return Some(self.pause_with(Predecessor::Refused));
            }
            // It dies at this moment, or has died.
            Outcome::Unknown(LegacyReply::Closed) if !has_lock => {
                return Some(self.pause_with(Predecessor::Gone));
            }
            Outcome::Unknown(LegacyReply::Line(_)) if !has_lock => {
                // An older program holds no lock: somebody else does, and owns.
                let line = format!(
                    "{} does not know the handoff, and another process holds the lock: waiting",
                    self.path.display()
                );
                self.say_once(Id::LockHeld, line);
                return Some(self.pause_with(Predecessor::Refused));
            }
            Outcome::Unknown(answer) => {
                let next = talk.way.next(self.in_place.is_some());
                // The handoff is what no older program knows; what it says to its own line counts,
                // and the first time most.
                if talk.way.older().is_some() && !matches!(self.answer, Some(LegacyReply::Line(_)))
                {
                    self.answer = Some(answer);
                }
                let Some(way) = next else {
                    self.absent_as_answered("it knows no way to hand over", has_lock);
                    return Some(self.pause_with(Predecessor::Absent));
                };
                self.progress = Progress::Pausing(Instant::now(), way);
            }
            Outcome::Mismatch(why) => {
                self.refuse(&why);
                return Some(Predecessor::Refused);
            }
            Outcome::Garbled { why, kind } => {
                self.refuse_as(&why, &kind);
                return Some(Predecessor::Refused);
            }
        }
        None
    }

    /// Waits for an order after this event, with the connection open.
    fn pause_with(&mut self, event: Predecessor) -> Predecessor {
        let peer = self.take_peer();
        self.progress = Progress::Idle(peer);
        event
    }

    /// The same for one that may have been an older program: what it said before it went says more
    /// than `otherwise`.
    fn absent_as_answered(&mut self, otherwise: &str, has_lock: bool) {
        match self.answer.take() {
            Some(answer) => self.absent(format_args!("{answer}"), has_lock),
            None => self.absent(format_args!("{otherwise}"), has_lock),
        }
    }

    fn absent(&mut self, cause: fmt::Arguments<'_>, has_lock: bool) {
        let path = self.path.display();
        if has_lock {
            log::warn!(
                MESSAGE_ID = Id::PredecessorAbsent;
                "No predecessor at {path}: {cause}; starting at {}", S::default()
            );
        } else {
            let line = format!(
                "No predecessor at {path}: {cause}; another process holds the lock: waiting"
            );
            self.say_once(Id::LockHeld, line);
        }
    }

    fn say_once(&mut self, id: Id, line: String) {
        let kind = line.clone();
        self.say_once_as(id, line, &kind);
    }

    fn say_once_as(&mut self, id: Id, line: String, kind: &str) {
        let kind = Some(without_numbers(kind));
        if self.said != kind {
            log::warn!(MESSAGE_ID = id; "{line}");
            notify::status(format_args!("adopting: {line}"));
            self.said = kind;
        }
    }
}

impl Way {
    const fn older(self) -> Option<Older> {
        match self {
            Self::Exchange => None,
            Self::Older(older) | Self::OlderStill(older) => Some(older),
        }
    }

    /// What to try where this one is not known; the listener first, where we take its place.
    const fn next(self, in_place: bool) -> Option<Self> {
        match (self, in_place) {
            (Self::Exchange, true) => Some(Self::Older(Older::ListenerAndState)),
            (Self::Exchange, false) => Some(Self::Older(Older::State)),
            (Self::Older(_), true) => Some(Self::OlderStill(Older::State)),
            (Self::Older(_), false) => Some(Self::OlderStill(Older::ListenerAndState)),
            (Self::OlderStill(_), _) => None,
        }
    }
}

enum Silence {
    /// Long enough to be said.
    Long,
    /// Longer than an older program that lives would take.
    TooLong,
}

/// Waits until a silence that began at `since` is worth a word.
async fn silence(since: Instant, is_told: bool, may_be_dead: bool) -> Silence {
    if !is_told {
        Timer::at(since + SILENT).await;
        return Silence::Long;
    }
    if !may_be_dead {
        future::pending::<()>().await;
    }
    Timer::at(since + GIVEN_UP).await;
    Silence::TooLong
}

impl<S> Awaiting<S> {
    /// Whether an older program may have said this.
    fn may_be_older(self, line: &[u8]) -> bool {
        matches!(self, Self::Reply) && !line.starts_with(b"state ")
    }
}

impl<S: Service> Exchange<S> {
    /// Whether the predecessor may be an older program; one that has begun to answer is none, so it
    /// owns until it commits, and its end is seen.
    fn is_unanswered(&self) -> bool {
        matches!(self.awaiting, Awaiting::Reply | Awaiting::Nul)
    }

    /// Waits for the next thing that the predecessor says, and takes it in.
    async fn step(&mut self, received: &mut Received<S>, in_place: Option<&Path>) -> Outcome {
        match self.awaiting {
            Awaiting::Nul => {
                // Without it comes a line that says why.
                if self.peer.wait_for(1).await.is_none() {
                    return Outcome::Unknown(LegacyReply::Closed);
                }
                self.awaiting = Awaiting::Reply;
                if !self.peer.take_nul() {
                    return Outcome::GoOn;
                }
                match self.peer.descriptor() {
                    Some(listener) => take_listener(received, listener, in_place, &self.peer),
                    None => Outcome::Mismatch("the listener is missing".to_owned()),
                }
            }
            Awaiting::Bytes(offer, client) => self.take_client(received, offer, client).await,
            Awaiting::Reply | Awaiting::Client(_) | Awaiting::Commit => {
                let awaiting = self.awaiting;
                let line = match self.peer.line().await {
                    Line::Whole(line) => line,
                    Line::TooLong(line) if awaiting.may_be_older(line) => {
                        return Outcome::Unknown(LegacyReply::line(line));
                    }
                    Line::TooLong(line) => {
                        let why = format!("'{}...' is too long", Printable(line));
                        return Outcome::Garbled { why, kind: "a line is too long".to_owned() };
                    }
                    Line::End => {
                        return match awaiting {
                            Awaiting::Reply => Outcome::Unknown(LegacyReply::Closed),
                            _ => Outcome::Event(Predecessor::Gone),
                        };
                    }
                };
                if self.way.older().is_some() {
                    return take_older_answer(received, line);
                }
                match (awaiting, Message::parse(line)) {
                    (Awaiting::Reply, Ok(Message::State(offer))) => {
                        self.take_offer(received, offer, in_place)
                    }
                    (Awaiting::Client(offer), Ok(Message::Client(client))) => {
                        if count(&received.sockets.sessions) == offer.clients {
                            let told = offer.clients;
                            return Outcome::Mismatch(format!("more than {told} clients came"));
                        }
                        self.awaiting = Awaiting::Bytes(offer, client);
                        Outcome::GoOn
                    }
                    (Awaiting::Client(offer), Ok(Message::End)) => self.take_end(received, offer),
                    (Awaiting::Commit, Ok(Message::Commit)) => {
                        Outcome::Event(Predecessor::Committed)
                    }
                    (_, Ok(Message::Abort(_))) => Outcome::Withdrawn(Printable(line).to_string()),
                    (_, Ok(Message::Busy | Message::Denied)) => {
                        Outcome::Refused(Printable(line).to_string())
                    }
                    (_, Err(_)) if awaiting.may_be_older(line) => {
                        Outcome::Unknown(LegacyReply::line(line))
                    }
                    (_, Err(unreadable)) => Outcome::Garbled {
                        why: format!("cannot understand '{}': {unreadable}", Printable(line)),
                        kind: format!("cannot understand: {unreadable}"),
                    },
                    (_, Ok(message)) => Outcome::Garbled {
                        why: format!("'{message}' comes too early"),
                        kind: "a line comes too early".to_owned(),
                    },
                }
            }
        }
    }

    fn take_offer(
        &mut self,
        received: &mut Received<S>,
        offer: Offer<S>,
        in_place: Option<&Path>,
    ) -> Outcome {
        if let Err(unfit) = offer.snapshot.check(clock::now()) {
            return Outcome::Mismatch(format!("its state has {unfit}"));
        }
        let most = limits::clients() + limits::RESERVE;
        if usize::try_from(offer.clients).map_or(true, |clients| clients > most) {
            let clients = offer.clients;
            return Outcome::Mismatch(format!("it has {clients} clients, and we serve {most}"));
        }
        for _ in 0..offer.listeners {
            let Some(listener) = self.peer.descriptor() else {
                return Outcome::Mismatch("a listener is missing".to_owned());
            };
            if let Outcome::Mismatch(why) = take_listener(received, listener, in_place, &self.peer)
            {
                return Outcome::Mismatch(why);
            }
        }
        received.state = Some(Given::Whole(offer.snapshot));
        self.awaiting = Awaiting::Client(offer);
        Outcome::GoOn
    }

    async fn take_client(
        &mut self,
        received: &mut Received<S>,
        offer: Offer<S>,
        client: Client,
    ) -> Outcome {
        let lengths = usize::try_from(client.input).ok().zip(usize::try_from(client.replies).ok());
        let Some((input, replies)) =
            lengths.filter(|(input, replies)| *input <= INPUT && *replies <= REPLIES)
        else {
            return Outcome::Mismatch(format!(
                "a client with {} bytes of input and {} of replies does not fit",
                client.input, client.replies
            ));
        };
        // Taken at once or not at all, so that nothing is lost where we are dropped in between.
        if self.peer.wait_for(input + replies).await.is_none() {
            return Outcome::Event(Predecessor::Gone);
        }
        let Some(socket) = self.peer.descriptor() else {
            return Outcome::Mismatch("the descriptor of a client is missing".to_owned());
        };
        match socket::check_stream(&socket) {
            Ok(false) => {}
            Ok(true) => return Outcome::Mismatch("cannot serve a client: it listens".to_owned()),
            Err(why) => return Outcome::Mismatch(format!("cannot serve a client: {why}")),
        }
        let stream = match Async::new(UnixStream::from(socket)) {
            Ok(stream) => stream,
            Err(error) => return Outcome::Mismatch(format!("cannot serve a client: {error}")),
        };
        let bytes = self.peer.take(input + replies);
        let (unread, unsent) = bytes.split_at_checked(input).unwrap_or_default();
        match Session::adopt(stream, client, unread, unsent) {
            Some(session) => received.sockets.sessions.push(session),
            None => return Outcome::Mismatch("a client does not fit".to_owned()),
        }
        self.awaiting = Awaiting::Client(offer);
        Outcome::GoOn
    }

    fn take_end(&mut self, received: &mut Received<S>, offer: Offer<S>) -> Outcome {
        let clients = count(&received.sockets.sessions);
        if clients != offer.clients {
            return Outcome::Mismatch(format!("{clients} of {} clients came", offer.clients));
        }
        if offer.lock {
            received.lock = self.peer.descriptor();
            if received.lock.is_none() {
                return Outcome::Mismatch("the lock is missing".to_owned());
            }
        }
        if self.peer.has_lost_descriptors() {
            return Outcome::Mismatch("descriptors got lost on the way".to_owned());
        }
        if self.peer.descriptor().is_some() {
            return Outcome::Mismatch("more descriptors came than were told of".to_owned());
        }
        Outcome::Event(Predecessor::SentState)
    }
}

/// A line without the numbers in it, which may differ each time for the same reason.
fn without_numbers(line: &str) -> String {
    line.chars().filter(|character| !character.is_ascii_digit()).collect()
}

/// Whether this error of connect(2) says that no process serves the path.
fn nobody_listens(error: Errno) -> bool {
    // The last three: there is a socket of another kind, or no socket at all.
    matches!(
        error,
        Errno::CONNREFUSED
            | Errno::NOENT
            | Errno::NOTDIR
            | Errno::LOOP
            | Errno::NAMETOOLONG
            | Errno::PROTOTYPE
            | Errno::INVAL
    )
}

fn count<S: Service>(sessions: &[Box<Session<S>>]) -> u64 {
    u64::try_from(sessions.len()).unwrap_or_default()
}

fn take_listener<S: Service>(
    received: &mut Received<S>,
    listener: OwnedFd,
    in_place: Option<&Path>,
    peer: &Peer,
) -> Outcome {
    match Listener::handed_over(listener, in_place, peer.stream()) {
        Ok(listener) => {
            received.sockets.listeners.push(listener);
            Outcome::GoOn
        }
        Err(error) => Outcome::Mismatch(error.to_string()),
    }
}

/// The line of an older program: the state, or that it does not hand over.
fn take_older_answer<S: Service>(received: &mut Received<S>, line: &[u8]) -> Outcome {
    if let Some(state) = S::parse(line) {
        received.state = Some(Given::Alone(state));
        return Outcome::Event(Predecessor::SentLegacyState);
    }
    if let Some(answer) = [DENIED, BUSY].into_iter().find(|answer| answer.as_bytes() == line) {
        return Outcome::Refused(answer.to_owned());
    }
    Outcome::Unknown(LegacyReply::line(line))
}

impl<S: Service> fmt::Display for Given<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Whole(snapshot) => fmt::Display::fmt(&snapshot.state, f),
            Self::Alone(state) => fmt::Display::fmt(state, f),
        }
    }
}
