// SPDX-License-Identifier: Apache-2.0
//! Handoff: the actor that holds everything that an owner owns while no process ticks or answers.
//!
//! It does so from the start until this process has the lock, and from freezing until the successor
//! serves. Taking over from a living predecessor, from a dead one, and from a dead successor are
//! therefore the same: the state is loaded, and the sockets are given to the server.
//!
//! The lifecycle decides when the owner changes; [`ownership`] executes that.
//!
//! | file | contents |
//! | --- | --- |
//! | [`ownership`] | becoming the owner, offering the state, and taking the offer back |
//! | [`bundle`] | the contents of a handoff |
//! | [`send`] | the predecessor's side |
//! | [`receive`], [`connect`], [`exchange`], [`report`] | the successor's side |
//! | [`reload`], [`launch`] | a successor that this process starts |
//! | [`leaving`] | a predecessor that writes out its log |
//! | [`legacy`] | the lines of the C programs, on both sides |
//! | [`channel`] | lines and descriptors on one connection |
//! | [`lock`], [`state_file`] | the lock that makes an owner, and the state for the next one |
//! | [`authorize`], [`users`] | the users that may receive the state, and those whose state is adopted |
//!
//! Owns the bundle, the state file and the connection to the other process during that time. Never
//! decides: reports events to the supervisor, and executes its orders. Ends with the process.
//!
//! **Invariant:** one handoff at a time; a second requester receives `busy`.
//!
//! **Invariant:** every offer is resolved exactly once: resumed here, or released to the successor.

pub(crate) mod authorize;
pub(crate) mod bundle;
pub(crate) mod channel;
mod connect;
mod exchange;
pub(crate) mod launch;
mod leaving;
mod legacy;
pub(crate) mod lock;
mod ownership;
pub(crate) mod receive;
pub(crate) mod reload;
mod report;
pub(crate) mod request;
mod send;
pub(crate) mod state_file;
pub(crate) mod users;

use std::os::unix::net::UnixStream;
use std::rc::Rc;

use async_channel::{Receiver, Sender};
use early_service_machine::lifecycle::{self, Effect, Lock, Predecessor, Successor};
use early_service_machine::wire::handoff::{DENIED, Message};
use early_service_machine::wire::request::VERSION;
use futures_lite::future;
use smol::{Async, Timer};

use crate::handoff::bundle::Bundle;
use crate::handoff::channel::Peer;
use crate::handoff::leaving::Leaving;
use crate::handoff::lock::Locking;
use crate::handoff::receive::Adoption;
use crate::handoff::reload::Reload;
use crate::handoff::request::HandoffRequest;
use crate::handoff::send::Offering;
use crate::handoff::users::User;
use crate::journal::message_id::Id;
use crate::journal::rate_limit::RateLimit;
use crate::messages::{OfDevice, ToDevice, ToHandoff, ToServer, ToTicker, post};
use crate::platform::notify;
use crate::server::listener::bind::remove_if_dead;
use crate::service::Service;
use crate::status::Status;

pub(crate) struct Handoff<S: Service> {
    mailbox: Receiver<ToHandoff<S>>,
    supervisor: Sender<lifecycle::Event>,
    ticker: Sender<ToTicker<S>>,
    server: Sender<ToServer<S>>,
    device: OfDevice<S, Sender<ToDevice<S>>>,
    /// Receives the connection to the successor, for the report that the log is written.
    log_flushed_to: Sender<Peer>,
    /// Dropped when the actor has ended, so that the channel closes.
    done_guard: Sender<()>,
    status: Rc<Status>,
    /// A user that may receive the state, besides root and the user of this process.
    successor: Option<User>,
    /// The state file until it is locked and loaded.
    locking: Locking,
    /// The handoff from the predecessor, until its state is loaded.
    adoption: Option<Adoption<S>>,
    /// The predecessor after the handoff, until it has left.
    leaving: Option<Leaving<S>>,
    /// The listeners at the start; everything while frozen.
    bundle: Bundle<S>,
    /// The offer to a successor, until that successor serves or has given up.
    offering: Option<Offering>,
    /// The successor that this process has started, until it has ended or owns the state.
    reload: Option<Reload<S>>,
    refusals: RateLimit,
    /// `Load` and the orders after it, at most three in all, until the state file can be read.
    deferred: Vec<Effect>,
    /// The time of the next attempt to load.
    retry: Timer,
}

enum Event<S: Service> {
    Message(ToHandoff<S>),
    Locking(Lock),
    Adoption(Predecessor),
    Offering(Successor),
    Reload(reload::Event),
    /// The predecessor has left; contains whether its log is written.
    Left(bool),
    Retry,
}

impl<S: Service> Handoff<S> {
    #[allow(clippy::too_many_arguments, reason = "each is a line of the wiring table")]
    pub(crate) fn new(
        mailbox: Receiver<ToHandoff<S>>,
        supervisor: Sender<lifecycle::Event>,
        ticker: Sender<ToTicker<S>>,
        server: Sender<ToServer<S>>,
        device: OfDevice<S, Sender<ToDevice<S>>>,
        log_flushed_to: Sender<Peer>,
        done_guard: Sender<()>,
        status: Rc<Status>,
        successor: Option<User>,
        locking: Locking,
        adoption: Option<Adoption<S>>,
        bundle: Bundle<S>,
    ) -> Self {
        Self {
            mailbox,
            supervisor,
            ticker,
            server,
            device,
            log_flushed_to,
            done_guard,
            status,
            successor,
            locking,
            adoption,
            leaving: None,
            bundle,
            offering: None,
            reload: None,
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
                Event::Message(ToHandoff::Reload(client, owner)) => self.reload(client, owner),
                Event::Message(ToHandoff::Frozen(bundle)) => {
                    self.bundle = bundle;
                    self.add_reload();
                }
                Event::Locking(event) => {
                    if event == Lock::HeldElsewhere {
                        self.tell_device(ToDevice::HeldElsewhere);
                        match &self.adoption {
                            None => self.locking.say_held(),
                            // Without the state it would have no listener: if the owner dies
                            // before, this process ends, and PID 1 starts another.
                            Some(adoption) if adoption.is_reload() => self.locking.pause(),
                            Some(_) => {}
                        }
                    }
                    self.report(event);
                }
                Event::Adoption(event) => self.learnt_of_predecessor(event),
                Event::Offering(event) => self.report(event),
                Event::Reload(event) => self.reload_event(event),
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

    /// Waits for the next event; `None` if no sender is left. Orders are first, then the lock,
    /// deferred orders, and the other processes.
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
        let reload = async {
            match &mut self.reload {
                Some(reload) => Some(Event::Reload(reload.next().await)),
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
        let peers = future::or(adoption, future::or(offering, future::or(reload, left)));
        future::or(message, future::or(locking, future::or(retry, peers))).await
    }

    fn carry_out(&mut self, order: Effect) {
        if !self.deferred.is_empty() {
            // Keeps the order, because the server must not listen before the state is loaded.
            return self.deferred.push(order);
        }
        match order {
            Effect::Lock => self.locking.start(),
            Effect::Ask => self.with_adoption(Adoption::ask),
            Effect::ReportPrepared => self.with_adoption(Adoption::report_prepared),
            Effect::Discard => {
                self.with_adoption(Adoption::discard);
                if !self.adoption.as_ref().is_some_and(Adoption::is_reload) {
                    self.locking.resume();
                }
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
                    leaving.report_serving();
                }
            }
            Effect::Listen => {
                let Bundle { listeners, sessions, .. } = std::mem::take(&mut self.bundle);
                post(&self.server, ToServer::Listen(listeners, sessions));
                if self.leaving.is_none() {
                    post(&self.server, ToServer::PredecessorLeft);
                }
            }
            Effect::Offer => self.offer(),
            Effect::Commit => self.commit(),
            // The supervisor sends `Freeze` to the server; `run` executes `Leave`.
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
            // From now on, only the lock that the predecessor sent matters.
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

    fn requested(
        &mut self,
        stream: Async<UnixStream>,
        request: HandoffRequest,
        owner: Option<u32>,
    ) {
        let peer = match authorize::check(&stream, self.successor.as_ref(), owner) {
            Ok(peer) => peer,
            Err(why) => {
                self.refusals.warn(format_args!("Refusing to hand over: {why}"));
                return channel::refuse(&stream, DENIED);
            }
        };
        let (pid, uid) = (peer.pid.as_raw_nonzero(), peer.uid.as_raw());
        if let Some(other) = request.other::<S>() {
            let why = format!("process {pid} {other}");
            self.refusals.warn(format_args!("Refusing to hand over: {why}"));
            return channel::refuse(&stream, &Message::<S>::Abort(why.as_bytes()).to_string());
        }
        if self.offering.is_some() || self.reload.is_some() {
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
        let offering = Offering::new(stream, peer, request, false);
        if offering.is_legacy() {
            post(&self.ticker, ToTicker::CatchUpFirst);
        }
        self.offering = Some(offering);
        self.report(Successor::Requested);
    }

    fn predecessor_left(&mut self, has_logged: bool) {
        if let Some(leaving) = self.leaving.take() {
            post(&self.ticker, leaving.into_message(has_logged));
            post(&self.server, ToServer::PredecessorLeft);
            self.tell_device(ToDevice::PredecessorLeft);
            notify::speak();
            self.launch_reload();
        }
    }

    fn tell_device(&self, message: ToDevice<S>) {
        if let Some(device) = self.device.get() {
            post(device, message);
        }
    }

    /// Releases everything, the lock first.
    async fn leave(mut self) {
        self.end_reload().await;
        drop(self.bundle.file.take());
        drop(self.locking);
        let adopted = self.adoption.and_then(Adoption::into_place);
        if let Some(offering) = self.offering {
            // The successor needs the file of its listener, unless it has died.
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
                if offering.is_reload() {
                    notify::until_main_process(pid).await;
                }
                // Fails only if the process ends because of its limit of processor time.
                let _ = self.log_flushed_to.try_send(offering.into_peer());
            }
        }
        if let Some(path) = adopted {
            remove_if_dead(&path);
        }
        if let Some(mut leaving) = self.leaving {
            leaving.wait_or_log().await;
        }
        drop(self.done_guard);
    }

    fn report(&self, event: impl Into<lifecycle::Event>) {
        post(&self.supervisor, event.into());
    }
}
