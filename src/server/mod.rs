// SPDX-License-Identifier: Apache-2.0
//! Server: the listener and the sessions of its clients.
//!
//! Owns the listeners and every connection; a session that can go on puts the number of its slot
//! into the mailbox `ready`, so that a thousand silent clients cost nothing.
//! Never knows what a command means: batches go to the ticker and come back as text.
//! Ends when it is to leave and every batch is back.
//!
//! **Invariant:** at most [`IN_FLIGHT`] batches are with the ticker; each comes back.
//!
//! **Invariant:** while frozen, nothing is read, written or accepted: the sockets are elsewhere.

pub(crate) mod limits;
pub(crate) mod listener;
pub(crate) mod session;

use std::fmt::{self, Write as _};
use std::future::poll_fn;
use std::io;
use std::os::unix::net::UnixStream;
use std::process;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Poll, Wake, Waker};
use std::time::Duration;

use async_channel::{Receiver, Sender};
use early_service_machine::schedule::Monotonic;
use futures_lite::future;
use smol::{Async, Timer};

use crate::cli::Stage;
use crate::handoff::bundle::Bundle;
use crate::handoff::channel;
use crate::handoff::request::HandoffRequest;
use crate::journal::LOG;
use crate::journal::message_id::Id;
use crate::journal::rate_limit::RateLimit;
use crate::messages::{ACCEPTS, HANDOFF_REQUESTS, IN_FLIGHT, ToHandoff, ToServer, ToTicker, post};
use crate::platform::clock;
use crate::server::limits::{
    CLIENTS, Complaints, FIRST_LINE, Floods, IDLE_TIMEOUT, Limit, RESERVE, SHARE, WRITE_TIMEOUT,
};
use crate::server::listener::Listener;
use crate::server::listener::keep::NameCheck;
use crate::server::session::{Batch, Next, Session};
use crate::service::Service;
use crate::status::{Status, StatusHeader};

/// How often silent clients are looked for, while there are clients at all.
pub(crate) const SWEEP: Duration = Duration::from_secs(1);

/// How often it is looked whether clients find the listeners by their names.
///
/// Shorter, and an idle process is woken that much more; longer, and whoever connects to a name that is
/// gone fails for longer.
const LOOK_AT_NAMES: Duration = Duration::from_secs(2);

/// How long accepting rests when there is no place, descriptor or memory for another client.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Gate {
    /// Without sockets.
    Closed,
    Open,
    /// Frozen, but batches are with the ticker.
    Freezing,
    /// Leaving, but batches are with the ticker.
    Leaving,
}

/// The actor.
pub(crate) struct Server<S: Service> {
    mailbox: Receiver<ToServer<S>>,
    ready: Receiver<usize>,
    ready_from_session: Sender<usize>,
    ticker: Sender<ToTicker<S>>,
    handoff: Sender<ToHandoff<S>>,
    stage: Stage,
    status: Rc<Status>,
    listeners: Vec<Listener>,
    gate: Gate,
    slots: Vec<Slot<S>>,
    clients: usize,
    /// How many there is a place for.
    places: usize,
    in_flight: usize,
    /// The ticker carries out no commands until it has caught up.
    is_behind: bool,
    /// Which of a new client and a ready session goes first: they take turns, whatever else comes in
    /// between.
    accept_first: bool,
    /// Which listener is asked first for the next client.
    next_listener: usize,
    sweep: Timer,
    look_at_names: Timer,
    accept_again: Timer,
    complaints: Complaints,
    floods: Floods,
    /// What became of the listeners' names.
    names: RateLimit,
    /// What keeps clients in the backlog.
    shortage: RateLimit,
}

/// A place for a session; its waker outlives the sessions that use it.
struct Slot<S: Service> {
    session: Option<Box<Session<S>>>,
    waker: Arc<SlotWaker>,
    /// It has a command that waits until the ticker has caught up.
    waits: bool,
}

/// Puts its slot into `ready`, once until it is taken out.
struct SlotWaker {
    slot: usize,
    queued: AtomicBool,
    ready: Sender<usize>,
}

impl Wake for SlotWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.queued.swap(true, Ordering::AcqRel) {
            // There is a place for every slot; it fails only when the server is gone.
            let _ = self.ready.try_send(self.slot);
        }
    }
}

enum Event<S: Service> {
    Message(ToServer<S>),
    /// On the listener of this number.
    Connection(usize),
    Ready(usize),
    Sweep,
    LookAtNames,
    AcceptAgain,
}

impl<S: Service> Server<S> {
    pub(crate) fn new(
        mailbox: Receiver<ToServer<S>>,
        ticker: Sender<ToTicker<S>>,
        handoff: Sender<ToHandoff<S>>,
        stage: Stage,
        status: Rc<Status>,
    ) -> Self {
        let places = limits::clients();
        // For the most there can ever be: a limit that is raised later lets more be adopted.
        let (ready_from_session, ready) = async_channel::bounded(CLIENTS + RESERVE);
        Self {
            mailbox,
            ready,
            ready_from_session,
            ticker,
            handoff,
            stage,
            status,
            listeners: Vec::new(),
            gate: Gate::Closed,
            slots: Vec::new(),
            clients: 0,
            places,
            in_flight: 0,
            is_behind: false,
            accept_first: false,
            next_listener: 0,
            sweep: Timer::never(),
            look_at_names: Timer::never(),
            accept_again: Timer::never(),
            complaints: Complaints::default(),
            floods: Floods::default(),
            names: RateLimit::explained(Id::SocketNameGone),
            shortage: RateLimit::default(),
        }
    }

    pub(crate) async fn run(mut self) {
        while let Some(event) = self.next_event().await {
            self.handle(event, clock::now());
            if self.gate == Gate::Leaving && self.in_flight == 0 {
                // After the last batch, which it would not carry out any more.
                return post(&self.ticker, ToTicker::Leave);
            }
            // A tick waits for one turn of ours at the most, however busy the clients are.
            future::yield_now().await;
        }
    }

    /// Waits for what is to be done next; `None` once nobody can send any more.
    async fn next_event(&mut self) -> Option<Event<S>> {
        let message = async { self.mailbox.recv().await.ok().map(Event::Message) };
        if self.gate != Gate::Open {
            return message.await;
        }
        let pausing = self.accept_again.will_fire();
        let listeners = &self.listeners;
        // In turn: a successor comes by the one socket, and clients without end by the other.
        let (first, count) = (self.next_listener, listeners.len());
        let connection = poll_fn(|context| {
            let ready = (0..count).map(|step| (first + step) % count).find(|number| {
                let listener = listeners.get(*number).filter(|_| !pausing);
                listener.is_some_and(|listener| listener.poll_accept(context).is_ready())
            });
            ready.map_or(Poll::Pending, |ready| Poll::Ready(Some(Event::Connection(ready))))
        });
        let may_go = self.in_flight < IN_FLIGHT;
        let ready = async {
            if !may_go {
                future::pending::<()>().await;
            }
            self.ready.recv().await.ok().map(Event::Ready)
        };
        let timers = async {
            let sweep = async {
                (&mut self.sweep).await;
                Some(Event::Sweep)
            };
            let accept_again = async {
                (&mut self.accept_again).await;
                Some(Event::AcceptAgain)
            };
            let look_at_names = async {
                (&mut self.look_at_names).await;
                Some(Event::LookAtNames)
            };
            future::or(sweep, future::or(look_at_names, accept_again)).await
        };
        let clients = async {
            if self.accept_first {
                future::or(connection, ready).await
            } else {
                future::or(ready, connection).await
            }
        };
        future::or(message, future::or(timers, clients)).await
    }

    fn handle(&mut self, event: Event<S>, now: Monotonic) {
        match event {
            Event::Message(ToServer::Listen(listeners, sessions)) => {
                self.open_gate(listeners, sessions);
            }
            Event::Message(ToServer::Freeze) => {
                self.gate = Gate::Freezing;
                self.freeze_when_quiet();
            }
            Event::Message(ToServer::PredecessorLeft) => {
                self.drain_inherited();
                self.keep_names(true);
            }
            Event::Message(ToServer::BatchDone { slot, batch }) => {
                self.in_flight -= 1;
                let may_send = self.gate != Gate::Freezing;
                let is_crowded = !self.ready.is_empty();
                if let Some(session) = self.session(slot) {
                    let is_carried_out = session.answered(batch);
                    if may_send {
                        session.send_answers();
                    }
                    if !is_carried_out {
                        self.is_behind = true;
                        self.wait_for_ticks(slot);
                        return self.freeze_when_quiet();
                    }
                    // Behind all who are ready: read on at once, one who always asks would keep the
                    // mailbox busy, and nobody else would have a turn.
                    if is_crowded {
                        session.wake_for_more();
                    } else {
                        session.wake();
                    }
                }
                self.freeze_when_quiet();
            }
            Event::Message(ToServer::CaughtUp) => self.go_on_with_commands(),
            Event::Message(ToServer::Leave) => self.gate = Gate::Leaving,
            Event::Connection(listener) => {
                self.accept_first = false;
                self.next_listener = listener + 1;
                self.accept(listener);
            }
            Event::Ready(slot) => {
                self.accept_first = true;
                if let Some(slot) = self.slots.get(slot) {
                    slot.waker.queued.store(false, Ordering::Release);
                }
                self.advance(slot);
            }
            Event::Sweep => self.close_silent(now),
            Event::LookAtNames => self.keep_names(false),
            Event::AcceptAgain => self.accept_again.clear(),
        }
    }

    fn session(&mut self, slot: usize) -> Option<&mut Session<S>> {
        self.slots.get_mut(slot)?.session.as_deref_mut()
    }

    /// Takes in the listeners, and the clients that were handed over.
    #[allow(clippy::vec_box, reason = "as in the bundle")]
    fn open_gate(&mut self, listeners: Vec<Listener>, sessions: Vec<Box<Session<S>>>) {
        self.gate = Gate::Open;
        self.is_behind = false;
        self.listeners = listeners;
        self.look_at_names.set_interval(LOOK_AT_NAMES);
        self.listeners.iter_mut().for_each(Listener::settle);
        self.keep_names(false);
        for listener in &self.listeners {
            if !listener.is_inherited() && !listener.is_lost() {
                log::info!("Listening on UNIX socket {}", listener.path().display());
            }
        }
        for session in sessions {
            let slot = self.place(session);
            // What it was sent meanwhile, and what it could not be sent, wakes nobody.
            if let Some(session) = self.session(slot) {
                session.wake();
            }
        }
    }

    /// Has every listener look after its name, and says what became of it.
    fn keep_names(&mut self, is_alone: bool) {
        for listener in &mut self.listeners {
            match listener.keep_name(is_alone) {
                NameCheck::Valid | NameCheck::Lost(None) => {}
                NameCheck::Rebound => self.names.warn(format_args!(
                    "The name of the socket {} was gone: bound it again",
                    listener.path().display()
                )),
                NameCheck::Lost(Some(line)) => {
                    log::error!(MESSAGE_ID = Id::SocketNameGone; "{line}");
                }
            }
        }
        self.status.is_unreachable.set(self.listeners.iter().any(Listener::is_lost));
    }

    fn freeze_when_quiet(&mut self) {
        if self.gate != Gate::Freezing || self.in_flight > 0 {
            return;
        }
        self.gate = Gate::Closed;
        self.clients = 0;
        self.status.clients.set(0);
        self.sweep.clear();
        self.look_at_names.clear();
        self.accept_again.clear();
        let bundle = Bundle {
            listeners: std::mem::take(&mut self.listeners),
            sessions: self.slots.iter_mut().filter_map(|slot| slot.session.take()).collect(),
            ..Bundle::default()
        };
        post(&self.ticker, ToTicker::Freeze(bundle));
    }

    /// Takes in who waits in the backlogs of listeners that the predecessor alone had a name for,
    /// and closes those.
    fn drain_inherited(&mut self) {
        for at in (0..self.listeners.len()).rev() {
            if self.listeners.get(at).is_some_and(Listener::is_inherited) {
                let listener = self.listeners.remove(at);
                // They cannot wait: who finds no place ends with the listener.
                while listener.has_client() && self.has_place() {
                    match listener.accept() {
                        Ok(stream) => self.open(stream),
                        Err(error) => {
                            self.shortage.warn(format_args!("cannot accept a client: {error}"));
                            break;
                        }
                    }
                }
            }
        }
    }

    /// Lets a session do what it can; while frozen, nothing.
    fn advance(&mut self, slot: usize) {
        if self.gate != Gate::Open {
            return;
        }
        let Some(session) = self.session(slot) else {
            return;
        };
        match session.advance() {
            Next::Wait => {}
            Next::CarryOut(batch) => {
                self.make_room(slot);
                if !self.is_behind {
                    self.carry_out(slot, batch);
                } else if let Some(session) = self.session(slot) {
                    session.answered(batch);
                    session.send_answers();
                    self.wait_for_ticks(slot);
                }
            }
            Next::Status(mut batch) => {
                self.make_room(slot);
                self.write_status(&mut batch);
                self.carry_out(slot, batch);
            }
            Next::HandOver(asked) => self.hand_over(slot, asked),
            Next::Close => self.close(slot),
        }
    }

    /// Leaves the commands of a client unread until the ticker has caught up.
    fn wait_for_ticks(&mut self, slot: usize) {
        if let Some(slot) = self.slots.get_mut(slot) {
            slot.waits = true;
        }
    }

    /// The ticker has caught up: whoever waits for it has its turn.
    fn go_on_with_commands(&mut self) {
        self.is_behind = false;
        for slot in &mut self.slots {
            if std::mem::take(&mut slot.waits) {
                slot.waker.wake_by_ref();
            }
        }
    }

    /// Has the longest idle client go for one without a place, now that it is known to be one.
    fn make_room(&mut self, slot: usize) {
        // Where nobody may go yet, its next command asks again.
        if self.session(slot).is_some_and(|session| session.is_beyond) && self.close_longest_idle()
        {
            if let Some(session) = self.session(slot) {
                session.is_beyond = false;
            }
        }
    }

    fn carry_out(&mut self, slot: usize, batch: Box<Batch<S>>) {
        self.in_flight += 1;
        post(&self.ticker, ToTicker::CarryOut { slot, batch });
    }

    /// Writes the part of the status line that every state has; the ticker completes it.
    fn write_status(&self, batch: &mut Batch<S>) {
        let provenance = self.status.provenance.get();
        let now = clock::now();
        let head = StatusHeader {
            stage: self.stage,
            phase: LOG.phase(),
            pid: process::id(),
            provenance,
            serving_s: provenance
                .map_or(0, |provenance| now.nanos_since(provenance.since) / 1_000_000_000),
            clients: self.clients,
            log_lines_dropped: LOG.dropped(),
        };
        let written = write!(batch.replies, "{head} ");
        debug_assert!(written.is_ok(), "the session made sure of room");
        batch.status = true;
    }

    /// Gives the connection of a client that asks for the state to the handoff actor, which knows
    /// who may have it.
    fn hand_over(&mut self, slot: usize, request: HandoffRequest) {
        let Some(session) = self.take(slot) else {
            return;
        };
        // Whatever comes from outside leaves room for the supervisor's orders.
        if self.handoff.len() < HANDOFF_REQUESTS {
            let stream = session.into_stream();
            let mut listeners = self.listeners.iter();
            let owner = listeners.find(|listener| listener.has_accepted(&stream));
            let owner = owner.and_then(Listener::owner);
            post(&self.handoff, ToHandoff::Requested(stream, request, owner));
        } else {
            // Closed without a word, it would take us for an older program.
            channel::refuse(&session.into_stream(), request.busy());
        }
    }

    /// Ends the connection of a client that is done.
    fn close(&mut self, slot: usize) {
        if let Some(session) = self.take(slot) {
            if session.has_overrun() {
                self.complaints.closing(&*session, Limit::Line);
            }
            session.shut_down();
        }
    }

    /// Ends the connection of a client that has reached a limit.
    fn close_at(&mut self, slot: usize, limit: Limit) {
        if let Some(session) = self.take(slot) {
            self.complaints.closing(&*session, limit);
            session.tell(format_args!("Closing: {limit}"));
            session.shut_down();
        }
    }

    /// Frees a slot.
    fn take(&mut self, slot: usize) -> Option<Box<Session<S>>> {
        let session = self.slots.get_mut(slot)?.session.take()?;
        self.clients -= 1;
        self.status.clients.set(self.clients);
        if self.clients == 0 {
            self.sweep.clear();
        }
        // What the next one lacked may be there now.
        self.accept_again.clear();
        Some(session)
    }

    fn accept(&mut self, listener: usize) {
        // Who is connected and has something to say comes after each new one.
        let most = if self.ready.is_empty() { ACCEPTS } else { 1 };
        for _ in 0..most {
            if !self.listeners.get(listener).is_some_and(Listener::has_client) {
                return;
            }
            if !self.has_place() {
                let clients = self.clients;
                return self.pause_accepting(format_args!(
                    "new clients wait: {clients} came in the last second"
                ));
            }
            let accepted = self.listeners.get(listener).map(Listener::accept);
            match accepted {
                None => return,
                Some(Ok(stream)) => self.open(stream),
                Some(Err(error)) if is_transient(&error) => return,
                Some(Err(error)) => {
                    if is_shut_down(&error) {
                        self.keep_names(false);
                    }
                    return self.pause_accepting(format_args!("cannot accept a client: {error}"));
                }
            }
        }
    }

    /// Leaves clients in the backlog for a while: whoever is connected is served on.
    fn pause_accepting(&mut self, why: fmt::Arguments<'_>) {
        self.shortage.warn(why);
        self.accept_again.set_after(ACCEPT_PAUSE);
    }

    /// Whether one more client finds a place; the longest idle one may go for it.
    fn has_place(&mut self) -> bool {
        self.clients < self.places + RESERVE || self.close_longest_idle()
    }

    fn open(&mut self, stream: UnixStream) {
        let stream = match Async::new(stream) {
            Ok(stream) => stream,
            Err(error) => {
                return self.shortage.warn(format_args!("cannot serve a client: {error}"));
            }
        };
        let slot = self.place(Session::new(stream));
        // What the client wrote already is read at once.
        if self.in_flight < IN_FLIGHT {
            self.advance(slot);
        } else if let Some(session) = self.session(slot) {
            session.wake();
        }
    }

    /// Puts a session into a free slot, and says which.
    fn place(&mut self, mut session: Box<Session<S>>) -> usize {
        let slot = self.free_slot();
        if let Some(place) = self.slots.get_mut(slot) {
            session.settle(Waker::from(Arc::clone(&place.waker)));
            session.is_beyond = self.clients >= self.places;
            place.session = Some(session);
            self.clients += 1;
            self.status.clients.set(self.clients);
        }
        if self.clients == 1 {
            self.sweep.set_interval(SWEEP);
        }
        slot
    }

    fn free_slot(&mut self) -> usize {
        let free = self.slots.iter().position(|slot| slot.session.is_none());
        free.unwrap_or_else(|| {
            let slot = self.slots.len();
            let ready = self.ready_from_session.clone();
            let waker = Arc::new(SlotWaker { slot, queued: AtomicBool::new(false), ready });
            self.slots.push(Slot { session: None, waker, waits: false });
            slot
        })
    }

    /// Closes the client that has been idle longest; false when it may not be closed yet.
    ///
    /// One that has just come has a moment to say something, unless its user floods; one that has said
    /// something goes after the others as long as its turn has not come, for it is not idle.
    fn close_longest_idle(&mut self) -> bool {
        let now = clock::now();
        if let Some(slot) = self.find_flooding(now) {
            self.close_for_room(slot, now);
            return true;
        }
        let sessions = self.slots.iter().enumerate().filter_map(|(slot, place)| {
            let session = place.session.as_deref().filter(|session| !session.is_in_flight())?;
            let waits = session.has_spoken() && place.waker.queued.load(Ordering::Acquire);
            Some(((waits, session.active()), slot, session))
        });
        let Some((_, slot, session)) = sessions.min_by_key(|(idle, ..)| *idle) else {
            return false;
        };
        let may_go = session.has_spoken() || has_passed(FIRST_LINE, session.active(), now);
        if may_go {
            self.close_for_room(slot, now);
        }
        may_go
    }

    /// The oldest silent client of a user who floods and has more of them than its share.
    fn find_flooding(&mut self, now: Monotonic) -> Option<usize> {
        let share = self.places / SHARE;
        self.floods.users(share, now).find_map(|user| {
            let silent = self.slots.iter_mut().enumerate().filter_map(|(slot, place)| {
                let session = place.session.as_deref_mut()?;
                let is_silent = !session.has_spoken() && !session.is_in_flight();
                (is_silent && session.user() == Some(user)).then(|| (session.active(), slot))
            });
            let (mut count, mut oldest) = (0, None);
            for (since, slot) in silent {
                count += 1;
                if oldest.is_none_or(|(before, _)| since < before) {
                    oldest = Some((since, slot));
                }
            }
            oldest.filter(|_| count > share).map(|(_, slot)| slot)
        })
    }

    /// Ends the connection of a client for another one, and remembers whose it was if it was silent.
    fn close_for_room(&mut self, slot: usize, now: Monotonic) {
        let silent = self.session(slot).filter(|session| !session.has_spoken());
        if let Some(user) = silent.and_then(Session::user) {
            self.floods.note(user, now);
        }
        self.close_at(slot, Limit::Clients(self.places));
    }

    fn close_silent(&mut self, now: Monotonic) {
        for slot in 0..self.slots.len() {
            let reached = self.session(slot).filter(|session| !session.is_in_flight());
            let reached = reached.and_then(|session| {
                let (limit, time) = if session.has_unsent() {
                    (Limit::Unread, WRITE_TIMEOUT)
                } else if session.has_overrun() {
                    (Limit::Line, WRITE_TIMEOUT)
                } else {
                    (Limit::Idle, IDLE_TIMEOUT)
                };
                has_passed(time, session.active(), now).then_some(limit)
            });
            if let Some(limit) = reached {
                self.close_at(slot, limit);
            }
        }
    }
}

/// Whether more than `time` lies between these.
fn has_passed(time: Duration, since: Monotonic, now: Monotonic) -> bool {
    u128::from(now.nanos_since(since)) > time.as_nanos()
}

/// Whether another holder of the listener has shut it down (accept(2)).
fn is_shut_down(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::InvalidInput
}

fn is_transient(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, Interrupted, WouldBlock};
    matches!(error.kind(), WouldBlock | Interrupted | ConnectionAborted)
}

#[cfg(test)]
mod tests {
    use super::*;
    use early_service_machine::{Counter, counter};
    use std::env;
    use std::io::{Read, Write};

    /// A server that listens, with the far ends of its mailboxes.
    struct Bench {
        server: Server<Counter>,
        _mailbox: Sender<ToServer<Counter>>,
        ticker: Receiver<ToTicker<Counter>>,
        handoff: Receiver<ToHandoff<Counter>>,
    }

    impl Bench {
        fn new(test: &str) -> Self {
            let socket = format!("early-service-{}-{test}.sock", process::id());
            let listener = Listener::bind(&env::temp_dir().join(socket)).expect("a scratch socket");
            let (_mailbox, mailbox) = async_channel::bounded(1);
            let (to_ticker, ticker) = async_channel::bounded(IN_FLIGHT + 2);
            let (to_handoff, handoff) = async_channel::bounded(1);
            let mut server =
                Server::new(mailbox, to_ticker, to_handoff, Stage::Root, Rc::default());
            let listen = ToServer::Listen(vec![listener], Vec::new());
            server.handle(Event::Message(listen), clock::now());
            Self { server, _mailbox, ticker, handoff }
        }

        /// A client in the next free slot.
        fn client(&mut self) -> UnixStream {
            let (ours, client) = UnixStream::pair().expect("a socket pair");
            client.set_nonblocking(true).expect("a socket can be nonblocking");
            self.server.open(ours);
            client
        }

        fn tell(&mut self, message: ToServer<Counter>) {
            self.server.handle(Event::Message(message), clock::now());
        }

        fn wake(&mut self, slot: usize) {
            self.server.handle(Event::Ready(slot), clock::now());
        }

        /// The batch that the ticker got, and its slot.
        fn batch(&mut self) -> (usize, Box<Batch<Counter>>) {
            match self.ticker.try_recv() {
                Ok(ToTicker::CarryOut { slot, batch }) => (slot, batch),
                _ => panic!("the ticker got no batch"),
            }
        }
    }

    fn read(client: &mut UnixStream) -> String {
        let mut reply = [0; 256];
        let count = client.read(&mut reply).unwrap_or(0);
        String::from_utf8_lossy(&reply[..count]).into_owned()
    }

    fn is_closed(client: &mut UnixStream) -> bool {
        matches!(client.read(&mut [0]), Ok(0))
    }

    #[test]
    fn freezing_waits_for_every_batch_and_then_nothing_moves() {
        let mut bench = Bench::new("freeze");
        let (mut one, mut other) = (bench.client(), bench.client());
        one.write_all(b"get_counter\n").expect("room");
        bench.wake(0);
        let (slot, mut batch) = bench.batch();
        assert_eq!(slot, 0);
        bench.tell(ToServer::Freeze);
        assert!(bench.ticker.try_recv().is_err(), "a batch is still under way");

        assert_eq!(batch.take_commands().count(), 1);
        writeln!(batch.replies, "137").expect("room");
        bench.tell(ToServer::BatchDone { slot, batch });
        let Ok(ToTicker::Freeze(bundle)) = bench.ticker.try_recv() else {
            panic!("the sockets go to the ticker")
        };
        other.write_all(b"get_counter\n").expect("room");
        bench.wake(1);
        assert!(bench.ticker.try_recv().is_err(), "nothing is read while frozen");
        assert_eq!(read(&mut one), "", "nothing is written while frozen");

        assert_eq!((bundle.listeners.len(), bundle.sessions.len()), (1, 2));
        bench.tell(ToServer::Listen(bundle.listeners, bundle.sessions));
        while let Ok(slot) = bench.server.ready.try_recv() {
            bench.wake(slot);
        }
        assert_eq!(read(&mut one), "137\n");
        assert_eq!(bench.batch().0, 1, "what came while frozen is read afterwards");
    }

    #[test]
    fn commands_that_come_back_wait_until_the_ticker_has_caught_up() {
        let mut bench = Bench::new("behind");
        let (mut one, mut other, mut third) = (bench.client(), bench.client(), bench.client());
        one.write_all(b"nonsense\nget_counter\nset_counter 5\nget_cou").expect("room");
        bench.wake(0);
        let (slot, batch) = bench.batch();
        bench.tell(ToServer::BatchDone { slot, batch });
        assert!(read(&mut one).starts_with("Invalid command: nonsense;"));
        other.write_all(b"nonsense\nget_counter\n").expect("room");
        bench.wake(1);
        assert!(bench.ticker.try_recv().is_err(), "the ticker would send it back");
        assert!(read(&mut other).starts_with("Invalid command: nonsense;"));
        third.write_all(b"status\n").expect("room");
        bench.wake(2);
        let (slot, mut batch) = bench.batch();
        assert!(batch.status, "this one is answered at once");
        batch.status = false;
        bench.tell(ToServer::BatchDone { slot, batch });
        while bench.server.ready.try_recv().is_ok() {}

        bench.tell(ToServer::CaughtUp);
        assert_eq!([bench.server.ready.try_recv(), bench.server.ready.try_recv()], [Ok(0), Ok(1)]);
        bench.wake(0);
        let (slot, batch) = bench.batch();
        bench.tell(ToServer::BatchDone { slot, batch });
        // Frozen, they travel as if they had never been read.
        bench.tell(ToServer::Freeze);
        let Ok(ToTicker::Freeze(bundle)) = bench.ticker.try_recv() else {
            panic!("the sockets go to the ticker")
        };
        let unread = bundle.sessions.iter().map(|session| session.parts().1.to_vec());
        let unread: Vec<_> = unread.map(|bytes| String::from_utf8(bytes).expect("text")).collect();
        assert_eq!(unread, ["get_counter\nset_counter 5\nget_cou", "get_counter\n", ""]);
        bench.tell(ToServer::Listen(bundle.listeners, bundle.sessions));
        while bench.server.ready.try_recv().is_ok() {}
        bench.wake(0);
        let commands: Vec<_> = bench.batch().1.take_commands().collect();
        let (get, set) = (counter::Command::Get, counter::Command::Set(5));
        assert_eq!(commands, [get, set]);
    }

    #[test]
    fn leaving_answers_what_was_asked_and_takes_in_nobody() {
        let mut bench = Bench::new("leave");
        let (mut one, mut other) = (bench.client(), bench.client());
        one.write_all(b"get_counter\n").expect("room");
        bench.wake(0);
        let (slot, mut batch) = bench.batch();
        bench.tell(ToServer::Leave);
        other.write_all(b"get_counter\n").expect("room");
        bench.wake(1);
        assert!(bench.ticker.try_recv().is_err(), "nothing more is read");
        assert_eq!(batch.take_commands().count(), 1);
        writeln!(batch.replies, "137").expect("room");
        bench.tell(ToServer::BatchDone { slot, batch });
        assert_eq!(read(&mut one), "137\n");
        assert_eq!((bench.server.gate, bench.server.in_flight), (Gate::Leaving, 0));
    }

    #[test]
    fn one_who_always_asks_lets_the_others_go_first() {
        let mut bench = Bench::new("turns");
        let mut busy = bench.client();
        busy.write_all(b"get_counter\n").expect("room");
        bench.wake(0);
        let (slot, mut batch) = bench.batch();
        assert_eq!(batch.take_commands().count(), 1);
        writeln!(batch.replies, "137").expect("room");
        busy.write_all(b"get_counter\n").expect("room");
        bench.tell(ToServer::BatchDone { slot, batch });
        assert!(bench.ticker.try_recv().is_err(), "its next command waits for its turn");
        assert_eq!(read(&mut busy), "137\n", "its answer does not");
        assert_eq!(bench.server.ready.recv_blocking(), Ok(0), "which it will have");
        bench.wake(0);
        assert_eq!(bench.batch().0, 0);
    }

    #[test]
    fn one_client_too_many_closes_the_longest_idle_one() {
        let mut bench = Bench::new("idle");
        let (mut first, mut second) = (bench.client(), bench.client());
        for (slot, client) in [(1, &mut second), (0, &mut first)] {
            client.write_all(b"nonsense\n").expect("room");
            bench.wake(slot);
            assert!(read(client).starts_with("Invalid command"));
        }
        assert!(bench.server.close_longest_idle());
        assert!(read(&mut second).starts_with("Closing: more than "), "it was silent longer");
        assert!(is_closed(&mut second));
        assert!(!is_closed(&mut first));
    }

    #[test]
    fn a_new_client_has_time_for_its_first_line() {
        let mut bench = Bench::new("new");
        let mut client = bench.client();
        assert!(!bench.server.close_longest_idle());
        client.write_all(b"half a line").expect("room");
        bench.wake(0);
        assert!(!bench.server.close_longest_idle(), "it is still at its first");
        client.write_all(b"\n").expect("room");
        bench.wake(0);
        assert!(bench.server.close_longest_idle());
        assert!(read(&mut client).starts_with("Invalid command: half a line;"));
        assert!(is_closed(&mut client));
    }

    #[test]
    fn silence_is_borne_for_its_limit_and_no_longer() {
        let mut bench = Bench::new("silence");
        let mut client = bench.client();
        let opened = clock::now().as_nanos();
        let after = |limit: Duration| Monotonic::from_nanos(opened + limit.as_nanos() as u64);
        bench.server.handle(Event::Sweep, after(IDLE_TIMEOUT - SWEEP));
        assert!(!is_closed(&mut client));
        bench.server.handle(Event::Sweep, after(IDLE_TIMEOUT + SWEEP));
        assert_eq!(read(&mut client), "Closing: no command for 3600 s\n");
        assert!(is_closed(&mut client));
        assert!(!bench.server.sweep.will_fire(), "nobody is left to look for");
    }

    #[test]
    fn the_one_that_asks_for_the_state_leaves_the_server_with_its_connection() {
        let mut bench = Bench::new("asker");
        let mut client = bench.client();
        client.write_all(b"get_counter_and_terminate\n").expect("room");
        bench.wake(0);
        assert_eq!(bench.server.clients, 0);
        let asked = bench.handoff.try_recv();
        assert!(matches!(
            asked,
            Ok(ToHandoff::Requested(
                _,
                HandoffRequest::Legacy(early_service_machine::wire::legacy::Legacy::Value),
                _
            ))
        ));
        assert!(!is_closed(&mut client), "the connection is kept by the message");
        drop(asked);
        assert!(is_closed(&mut client));
    }

    #[test]
    fn status_names_what_the_server_knows_and_leaves_the_rest_to_the_ticker() {
        let mut bench = Bench::new("status");
        let mut client = bench.client();
        client.write_all(b"status\n").expect("room");
        bench.wake(0);
        let (_, batch) = bench.batch();
        let line = String::from_utf8_lossy(batch.replies.unsent()).into_owned();
        assert!(line.starts_with("stage=root phase="), "{line}");
        assert!(line.contains(&format!(" pid={} version=", process::id())), "{line}");
        assert!(line.contains(" clients=1 log_lines_dropped="), "{line}");
        assert!(line.ends_with(' ') && batch.status, "{line}");
    }

    /// What this thread allocates for so many of these, and keeps of it.
    fn allocated(count: usize, mut once: impl FnMut()) -> (u64, i64) {
        let all = allocation_counter::measure(|| (0..count).for_each(|_| once()));
        (all.count_total, all.count_current)
    }

    #[test]
    fn commands_allocate_nothing_however_many_come_at_once() {
        let mut bench = Bench::new("allocations");
        let mut client = bench.client();
        let mut replies = [0; 8192];
        for (line, at_once) in [
            ("get_counter\n", 1),
            ("set_counter 18446744073709551615\n", 1),
            ("status\n", 1),
            ("nonsense\n", 1),
            ("get_counter\n", 64),
            ("nonsense\n", 20),
        ] {
            let lines = line.repeat(at_once);
            let mut ask = || {
                client.write_all(lines.as_bytes()).expect("room");
                let mut answered = 0;
                while answered < at_once {
                    bench.wake(0);
                    if let Ok(ToTicker::CarryOut { slot, mut batch }) = bench.ticker.try_recv() {
                        for _ in batch.take_commands() {
                            writeln!(batch.replies, "{}", u64::MAX).expect("room");
                        }
                        if std::mem::take(&mut batch.status) {
                            writeln!(batch.replies, "counter={}", u64::MAX).expect("room");
                        }
                        bench.tell(ToServer::BatchDone { slot, batch });
                    }
                    let count = client.read(&mut replies).unwrap_or(0);
                    answered += replies[..count].iter().filter(|byte| **byte == b'\n').count();
                    // Where its waker has put it meanwhile.
                    while bench.server.ready.try_recv().is_ok() {}
                }
            };
            allocated(10, &mut ask);
            assert_eq!(allocated(1000, &mut ask), (0, 0), "{at_once} times {line:?}");
        }
    }

    #[test]
    fn a_turn_allocates_what_its_mailboxes_do_and_nothing_else() {
        let (_sender, mailbox) = async_channel::bounded::<()>(1);
        let mut bare = || {
            let one = async { _ = mailbox.recv().await };
            let other = async { _ = mailbox.recv().await };
            assert!(future::block_on(future::poll_once(future::or(one, other))).is_none());
        };
        let mut bench = Bench::new("turn");
        let mut turn = || {
            assert!(future::block_on(future::poll_once(bench.server.next_event())).is_none());
        };
        allocated(10, &mut bare);
        allocated(10, &mut turn);
        for count in [1, 100, 1000] {
            assert_eq!(allocated(count, &mut turn), allocated(count, &mut bare), "{count} turns");
        }
    }

    #[test]
    fn a_client_that_has_gone_leaves_nothing() {
        // The reactor's table of sockets, which other tests fill too, doubles now and then.
        const GROWTH: u64 = 8;
        let mut bench = Bench::new("gone");
        let mut visit = || {
            let client = bench.client();
            drop(client);
            while bench.server.clients > 0 {
                bench.wake(0);
            }
            while bench.server.ready.try_recv().is_ok() {}
        };
        allocated(10, &mut visit);
        for count in [100, 1000] {
            let (total, kept) = allocated(usize::try_from(count).expect("small"), &mut visit);
            // The session, its batch, and what async-io keeps of its socket.
            assert!((3 * count..3 * count + GROWTH).contains(&total), "{count}: {total}");
            assert!(kept.unsigned_abs() < GROWTH, "{count}: {kept} are kept");
        }
    }
}
