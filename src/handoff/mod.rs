// SPDX-License-Identifier: Apache-2.0
//! Handoff: the actor that holds everything that an owner owns while nobody ticks or answers.
//!
//! That is from the start until the lock is ours, and from freezing until the successor serves. So
//! taking over from a living predecessor, from one that died, and from a successor that died are the
//! same: the state is loaded, and the sockets are given to the server.
//!
//! Ownership changes hands in three functions of this file: [`Handoff::load`] makes this process the
//! owner, [`Handoff::offer`] sends everything to a successor, and `Effect::Commit` gives the ownership
//! away. The lifecycle decides when they are called, and
//! [`takeover`](early_service_machine::lifecycle::takeover) which state goes on.
//!
//! | file | has |
//! | --- | --- |
//! | [`bundle`] | what travels |
//! | [`send`] | the predecessor's side |
//! | [`receive`], [`connect`], [`exchange`], [`report`] | the successor's side |
//! | [`legacy`] | the lines of the C programs, on both sides |
//! | [`channel`] | lines and descriptors on one connection |
//! | [`lock`], [`state_file`] | who is the owner, and the state for the next one |
//! | [`authorize`], [`users`] | who may have the state, and whom to believe |
//!
//! Owns the bundle, the state file and the connection to the other process in that time. Never
//! decides: reports events to the supervisor, and executes its orders. Ends with the process.
//!
//! **Invariant:** one handoff at a time; a second requester is told so and turned away.
//!
//! **Invariant:** every offer is resolved exactly once: resumed here, or released to the successor.

pub(crate) mod authorize;
pub(crate) mod bundle;
pub(crate) mod channel;
mod connect;
mod exchange;
mod legacy;
pub(crate) mod lock;
pub(crate) mod receive;
mod report;
pub(crate) mod request;
mod send;
pub(crate) mod state_file;
pub(crate) mod users;

use std::os::unix::net::UnixStream;
use std::rc::Rc;

use async_channel::{Receiver, Sender};
use early_service_machine::lifecycle::takeover::{self, Start, Takeover};
use early_service_machine::lifecycle::{self, Effect, Lock, Predecessor, Successor};
use early_service_machine::record::{Record, Unlogged};
use early_service_machine::wire::handoff::{DENIED, Message};
use early_service_machine::wire::request::VERSION;
use futures_lite::future;
use rustix::net::UCred;
use rustix::net::sockopt::socket_peercred;
use smol::{Async, Timer};

use crate::handoff::bundle::Bundle;
use crate::handoff::channel::{Line, Peer};
use crate::handoff::lock::Locking;
use crate::handoff::receive::Adoption;
use crate::handoff::request::HandoffRequest;
use crate::handoff::send::Offering;
use crate::handoff::state_file::StateFile;
use crate::handoff::users::User;
use crate::journal::message_id::Id;
use crate::journal::rate_limit::RateLimit;
use crate::messages::{ToHandoff, ToServer, ToTicker, post};
use crate::platform::clock;
use crate::server::listener::Listener;
use crate::server::listener::bind::remove_if_dead;
use crate::service::Service;
use crate::status::{Provenance, Status};
use crate::ticker;

/// The actor.
pub(crate) struct Handoff<S: Service> {
    mailbox: Receiver<ToHandoff<S>>,
    supervisor: Sender<lifecycle::Event>,
    ticker: Sender<ToTicker<S>>,
    server: Sender<ToServer<S>>,
    /// Takes the connection on which a last word is due when the log is written.
    log_flushed_to: Sender<Peer>,
    /// Closed when the actor has left.
    done_guard: Sender<()>,
    status: Rc<Status>,
    /// A user who may have the state, beside root and our own.
    successor: Option<User>,
    /// The state file until it is locked and loaded.
    locking: Locking,
    /// The predecessor, until its state is loaded.
    adoption: Option<Adoption<S>>,
    /// The predecessor that was adopted from, until it has left.
    leaving: Option<Leaving<S>>,
    /// The listeners at the start; everything while frozen.
    bundle: Bundle<S>,
    /// The successor, until it serves or has given up.
    offering: Option<Offering>,
    refusals: RateLimit,
    /// Orders that wait until the state file can be read: `Load` and what follows it, at most three.
    deferred: Vec<Effect>,
    /// When loading is tried again.
    retry: Timer,
}

/// A predecessor that writes out its log, and what would be missing if it died over that.
pub(crate) struct Leaving<S> {
    peer: Peer,
    state: S,
    unlogged: Unlogged,
}

enum Event<S: Service> {
    Message(ToHandoff<S>),
    Locking(Lock),
    Adoption(Predecessor),
    Offering(Successor),
    /// The predecessor has left; whether its log is written.
    Left(bool),
    /// What was deferred may be tried again.
    Retry,
}

impl<S: Service> Handoff<S> {
    #[allow(clippy::too_many_arguments, reason = "each is a line of the wiring table")]
    pub(crate) fn new(
        mailbox: Receiver<ToHandoff<S>>,
        supervisor: Sender<lifecycle::Event>,
        ticker: Sender<ToTicker<S>>,
        server: Sender<ToServer<S>>,
        log_flushed_to: Sender<Peer>,
        done_guard: Sender<()>,
        status: Rc<Status>,
        successor: Option<User>,
        locking: Locking,
        adoption: Option<Adoption<S>>,
        listeners: Vec<Listener>,
    ) -> Self {
        Self {
            mailbox,
            supervisor,
            ticker,
            server,
            log_flushed_to,
            done_guard,
            status,
            successor,
            locking,
            adoption,
            leaving: None,
            bundle: Bundle { listeners, ..Bundle::default() },
            offering: None,
            refusals: RateLimit::explained(Id::Refused),
            deferred: Vec::new(),
            retry: Timer::never(),
        }
    }

    pub(crate) async fn run(mut self) {
        while let Some(event) = self.next_event().await {
            match event {
                Event::Message(ToHandoff::Order(Effect::Leave)) => return self.leave().await,
                Event::Message(ToHandoff::Order(order)) => self.carry_out(order),
                Event::Message(ToHandoff::Requested(stream, request, owner)) => {
                    self.requested(stream, request, owner);
                }
                Event::Message(ToHandoff::Frozen(bundle)) => {
                    let named = std::mem::take(&mut self.bundle.named);
                    self.bundle = Bundle { named, ..bundle };
                }
                Event::Locking(event) => {
                    if event == Lock::HeldElsewhere && self.adoption.is_none() {
                        self.locking.say_held();
                    }
                    self.report(event);
                }
                Event::Adoption(event) => self.learnt_of_predecessor(event),
                Event::Offering(event) => self.report(event),
                Event::Left(has_logged) => self.predecessor_left(has_logged),
                Event::Retry => {
                    self.retry.clear();
                    for order in std::mem::take(&mut self.deferred) {
                        self.carry_out(order);
                    }
                }
            }
        }
    }

    /// Waits for what is to be done next; `None` once nobody can send any more.
    async fn next_event(&mut self) -> Option<Event<S>> {
        let message = async { self.mailbox.recv().await.ok().map(Event::Message) };
        let has_lock = self.locking.is_ours();
        let locking = async { Some(Event::Locking(self.locking.next::<S>().await)) };
        let adoption = async {
            match &mut self.adoption {
                Some(adoption) => Some(Event::Adoption(adoption.next(has_lock).await)),
                None => future::pending().await,
            }
        };
        let offering = async {
            match &mut self.offering {
                Some(offering) => Some(Event::Offering(offering.next(&self.bundle).await)),
                None => future::pending().await,
            }
        };
        let left = async {
            match &mut self.leaving {
                Some(leaving) => Some(Event::Left(leaving.has_logged().await)),
                None => future::pending().await,
            }
        };
        let retry = async {
            (&mut self.retry).await;
            Some(Event::Retry)
        };
        let peers = future::or(adoption, future::or(offering, left));
        future::or(message, future::or(locking, future::or(retry, peers))).await
    }

    fn carry_out(&mut self, order: Effect) {
        if !self.deferred.is_empty() {
            // In their order: nobody may listen before the state is loaded.
            return self.deferred.push(order);
        }
        match order {
            Effect::Lock => self.locking.start(),
            Effect::Ask => self.with_adoption(Adoption::ask),
            Effect::ReportPrepared => self.with_adoption(Adoption::report_prepared),
            Effect::Discard => {
                self.with_adoption(Adoption::discard);
                self.locking.resume();
            }
            Effect::Abort => {
                self.with_adoption(Adoption::abort);
                if let Some(offering) = &mut self.offering {
                    offering.abort::<S>();
                }
            }
            Effect::Load => {
                if !self.load() {
                    self.deferred.push(order);
                    self.retry.set_after(lock::RETRY);
                }
            }
            Effect::ReportServing => {
                if let Some(leaving) = &mut self.leaving {
                    // Whether it is heard does not matter: the state is ours.
                    let _ = leaving.peer.say(&Message::<S>::Done.to_string());
                }
            }
            Effect::Listen => {
                let Bundle { listeners, sessions, named, .. } = std::mem::take(&mut self.bundle);
                // No actor uses them yet: they are kept for the next successor.
                self.bundle.named = named;
                post(&self.server, ToServer::Listen(listeners, sessions));
                if self.leaving.is_none() {
                    post(&self.server, ToServer::PredecessorLeft);
                }
            }
            Effect::Offer => self.offer(),
            Effect::Commit => {
                if let Some(offering) = &mut self.offering {
                    offering.commit::<S>();
                }
            }
            // The supervisor gives the one to the server, and the other is taken by `run`.
            Effect::Freeze | Effect::Leave => {}
        }
    }

    fn with_adoption(&mut self, order: impl FnOnce(&mut Adoption<S>)) {
        if let Some(adoption) = &mut self.adoption {
            order(adoption);
        }
    }

    fn learnt_of_predecessor(&mut self, event: Predecessor) {
        if event == Predecessor::SentState {
            // From here on the lock that came along is all that counts.
            self.locking.pause();
            let has_lock = self.locking.is_ours();
            let file = self.locking.file.as_ref();
            if let Some(adoption) = &mut self.adoption {
                if let Err(why) = adoption.check_lock(file, has_lock) {
                    adoption.refuse(&why);
                    return self.report(Predecessor::Refused);
                }
            }
        }
        self.report(event);
    }

    /// Gives the ticker the state from which it ticks on; false where the file cannot be read now.
    fn load(&mut self) -> bool {
        let is_taken_back = self.offering.is_some();
        let read = self.file().map(|file| {
            if is_taken_back {
                file.take_back()?;
            }
            file.load()
        });
        let recorded = match read.transpose() {
            // In a file that was not locked here it was not seen before.
            Ok(Some(Err(ignored)))
                if (is_taken_back || !self.locking.is_ours()) && ignored.is_impossible() =>
            {
                let path = self.file().map(|file| file.path().display().to_string());
                let path = path.unwrap_or_default();
                log::warn!(MESSAGE_ID = Id::StateIgnored; "Ignoring {path}: {ignored}");
                None
            }
            Ok(recorded) => recorded.and_then(Result::ok),
            Err(error) => {
                self.locking.say_again(&error);
                return false;
            }
        };
        let start = match self.offering.take() {
            Some(offering) => self.take_back(&offering, recorded),
            None => self.take_over(recorded),
        };
        self.bundle.state = None;
        post(&self.ticker, ToTicker::Load(start, self.bundle.file.take()));
        true
    }

    /// The file from which the state goes on: our own, or the one whose lock came along.
    fn file(&mut self) -> Option<&mut StateFile> {
        if self.offering.is_some() {
            return self.bundle.file.as_mut();
        }
        let lent = self.adoption.as_mut().and_then(Adoption::file);
        lent.or(self.locking.file.as_mut())
    }

    /// Goes on with what a successor did not adopt.
    ///
    /// `recorded` also says whether another process wrote it after our last record.
    fn take_back(&self, offering: &Offering, recorded: Option<(Record<S>, bool)>) -> Start<S> {
        let (pid, cause) = (offering.pid(), offering.cause());
        log::warn!(
            MESSAGE_ID = Id::NotAdopted;
            "Process {pid} did not adopt the state: {cause}; serving on"
        );
        let written = recorded.filter(|(_, is_newer)| *is_newer).map(|(record, _)| record);
        match self.bundle.snapshot() {
            Some(frozen) => takeover::take_back(written, frozen),
            None => takeover::take_over(written, None, false).start,
        }
    }

    /// Becomes the owner of what the predecessor or the file gives.
    fn take_over(&mut self, recorded: Option<(Record<S>, bool)>) -> Start<S> {
        let adoption = self.adoption.take();
        let is_committed = adoption.as_ref().is_some_and(Adoption::is_committed);
        let (mut received, peer) = adoption.map(Adoption::finish).unwrap_or_default();
        self.bundle.file = received.file.take().or(self.locking.file.take());
        let state = received.state.take();
        self.bundle.join(received);
        let recorded = recorded.map(|(record, _)| record);
        let Takeover { start, origin } = takeover::take_over(recorded, state, is_committed);
        // A process that sent no state may have owned none.
        let predecessor = peer.as_ref().filter(|_| state.is_some()).and_then(Peer::pid);
        if let Start::After { snapshot, unlogged } = start {
            // Before the predecessor knows that it may leave: it has no file of its own.
            if let Some(file) = &mut self.bundle.file {
                file.store(snapshot, unlogged);
            }
            self.leaving = peer.map(|peer| Leaving { peer, state: snapshot.state, unlogged });
        }
        let (since, is_kept) = (clock::now(), self.bundle.file.is_some());
        self.status.provenance.set(Some(Provenance { origin, predecessor, since, is_kept }));
        start
    }

    fn offer(&mut self) {
        let Some(offering) = self.offering.as_mut().filter(|_| self.bundle.state.is_some()) else {
            return self.report(Successor::Gone);
        };
        if !offering.is_legacy() {
            return offering.offer(&self.bundle);
        }
        log::info!("Returning {} to client and terminating the process", S::WHAT);
        let event = match offering.answer(&self.bundle) {
            Ok(()) => {
                // A legacy successor does not use the state file. Clear it, or the next start would
                // report a crash recovery.
                if let Some(file) = &self.bundle.file {
                    file.withdraw();
                }
                Successor::TookLegacyState
            }
            Err(error) => {
                offering.failed(&error);
                Successor::Gone
            }
        };
        self.report(event);
    }

    fn requested(
        &mut self,
        stream: Async<UnixStream>,
        request: HandoffRequest,
        owner: Option<u32>,
    ) {
        // Where the credentials cannot be read, nobody vouches for this peer.
        let peer = match socket_peercred(&stream) {
            Ok(peer) if authorize::may_receive(&peer, self.successor.as_ref(), owner) => peer,
            Ok(UCred { pid, uid, .. }) => {
                let (pid, uid) = (pid.as_raw_nonzero(), uid.as_raw());
                self.refusals.warn(format_args!(
                    "Refusing to hand over: process {pid} of user {uid} may not ask for it"
                ));
                return channel::refuse(&stream, DENIED);
            }
            Err(_) => {
                self.refusals
                    .warn(format_args!("Refusing to hand over: the kernel does not say who asks"));
                return channel::refuse(&stream, DENIED);
            }
        };
        let (pid, uid) = (peer.pid.as_raw_nonzero(), peer.uid.as_raw());
        if self.offering.is_some() {
            self.refusals.warn(format_args!(
                "Refusing to hand over: process {pid} came while another one is adopting"
            ));
            return channel::refuse(&stream, request.busy());
        }
        if let HandoffRequest::Handoff { version, .. } = &request {
            if *version != VERSION {
                log::info!("Process {pid} speaks version {version} of the handoff");
            }
        }
        log::info!(MESSAGE_ID = Id::HandingOver; "Handing over to process {pid} of user {uid}");
        let offering = Offering::new(stream, peer, request);
        if offering.is_legacy() {
            post(&self.ticker, ToTicker::CatchUpFirst);
        }
        self.offering = Some(offering);
        self.report(Successor::Requested);
    }

    fn predecessor_left(&mut self, has_logged: bool) {
        if let Some(Leaving { state, unlogged, .. }) = self.leaving.take() {
            let logged = match has_logged {
                true => ToTicker::Logged,
                false => ToTicker::Unlogged(state, unlogged),
            };
            post(&self.ticker, logged);
            post(&self.server, ToServer::PredecessorLeft);
        }
    }

    /// Lets go of everything, the lock first.
    async fn leave(mut self) {
        drop(self.bundle.file.take());
        drop(self.locking);
        let adopted = self.adoption.and_then(Adoption::into_place);
        if let Some(offering) = self.offering {
            // What the successor took along is not ours to remove, unless it has gone as well.
            let mut taken = Vec::new();
            for listener in &mut self.bundle.listeners {
                if offering.takes(listener) {
                    taken.push(listener.path().to_owned());
                    listener.leave_file();
                }
            }
            drop(self.bundle);
            taken.iter().for_each(|path| remove_if_dead(path));
            if offering.is_done() {
                let pid = offering.pid();
                log::info!(MESSAGE_ID = Id::HandedOver; "Process {pid} has adopted the state");
                // This fails only if the process ends because of its limit of processor time.
                let _ = self.log_flushed_to.try_send(offering.into_peer());
            }
        }
        if let Some(path) = adopted {
            remove_if_dead(&path);
        }
        if let Some(mut leaving) = self.leaving {
            // Nobody else would name the lines that the predecessor does not get written.
            let has_logged = leaving.has_logged();
            let too_late = async {
                Timer::after(ticker::LAST_LINES).await;
                false
            };
            if !future::or(has_logged, too_late).await {
                ticker::say_unlogged(leaving.state, leaving.unlogged);
            }
        }
        drop(self.done_guard);
    }

    fn report(&self, event: impl Into<lifecycle::Event>) {
        post(&self.supervisor, event.into());
    }
}

impl<S: Service> Leaving<S> {
    /// Waits for the end of the connection; whether the log was written before.
    async fn has_logged(&mut self) -> bool {
        loop {
            match self.peer.line().await {
                Line::Whole(line) if Message::<S>::parse(line) == Ok(Message::Logged) => {
                    return true;
                }
                Line::Whole(_) | Line::TooLong(_) => {}
                Line::End => return false,
            }
        }
    }
}
