// SPDX-License-Identifier: Apache-2.0
//! Receiving side of a handoff.
//!
//! Connects to the predecessor, requests the state and collects the bundle that arrives. Falls back
//! to the lines of the C programs if the predecessor does not know the handoff.
//!
//! Responsible for the pauses between requests, and for the limits of silence.
//!
//! Owns the connection and everything received until `finish` hands it to the handoff actor.
//! Reports events and executes orders; after reporting an event it is idle until the next order.
//! Dropped by the handoff actor.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use early_service_machine::lifecycle::Predecessor;
use early_service_machine::record::Record;
use early_service_machine::state::Text;
use early_service_machine::wire::handoff::Message;
use early_service_machine::wire::request::{Accepts, Request};
use futures_lite::future;
use smol::Timer;

use crate::handoff::bundle::Bundle;
use crate::handoff::channel::Peer;
use crate::handoff::connect::{Failure, connect};
use crate::handoff::exchange::{Exchange, Incoming, Outcome, Place};
use crate::handoff::legacy::{LegacyReply, Protocol};
use crate::handoff::report::Report;
use crate::handoff::state_file::StateFile;
use crate::journal::message_id::Id;
use crate::server::listener::names::path_of_peer;
use crate::service::Service;

/// The pause before a predecessor is asked again.
///
/// Too long: the next attempt is late after another successor gave up. Too short: a successor that
/// may not receive the state keeps both processes busy.
///
/// Doubles up to 3.2 s while the bundle is refused or withdrawn for the same reason, because each
/// attempt stops the predecessor's ticks and replies for a moment. The end of such a reason, for
/// example a lack of descriptors, is noticed late.
const RETRY_PAUSE: Duration = Duration::from_millis(100);

/// How long a predecessor may be silent before that is logged; the successor continues to wait.
const SILENCE_LOGGED: Duration = Duration::from_secs(1);

/// How long a predecessor that does not hold the lock may be silent before it is given up. It is a
/// legacy program, and no event reports its death. Longer than its unit's watchdog (3 s) needs to
/// end a process that hangs. Too short: a predecessor that was stopped for a moment is taken for
/// dead. Too long: no process serves meanwhile.
const GIVE_UP: Duration = Duration::from_secs(5);

/// A handoff in progress, on the successor's side.
pub(crate) struct Adoption<S: Service> {
    report: Report,
    /// The path of the predecessor's listener, if this process continues to serve it.
    in_place: Option<PathBuf>,
    /// In a reload, the only connection to the predecessor, until it is used.
    only: Option<Option<Peer>>,
    progress: Progress<S>,
    incoming: Incoming<S>,
    is_committed: bool,
    /// Since when connecting has failed although the predecessor may exist.
    unreachable: Option<Instant>,
}

enum Progress<S> {
    /// Idle until an order; the connection, if any, stays open.
    Idle(Option<Peer>),
    /// Waiting until this time to connect and to ask by this protocol.
    Pausing(Instant, Protocol),
    Talking(Exchange<S>),
}

impl<S> Progress<S> {
    fn into_peer(self) -> Option<Peer> {
        match self {
            Self::Idle(peer) => peer,
            Self::Pausing(..) => None,
            Self::Talking(exchange) => Some(exchange.peer),
        }
    }
}

impl<S: Service> Adoption<S> {
    pub(crate) fn new(path: PathBuf, in_place: Option<PathBuf>) -> Self {
        Self {
            report: Report::new(path),
            in_place,
            only: None,
            progress: Progress::Idle(None),
            incoming: Incoming::default(),
            is_committed: false,
            unreachable: None,
        }
    }

    /// Adopts from the process that has started this one. There is no other way to reach it.
    pub(crate) fn only(predecessor: Peer) -> Self {
        let pid = predecessor.pid().unwrap_or_default();
        let mut adoption = Self::new(format!("process {pid}").into(), None);
        adoption.only = Some(Some(predecessor));
        adoption
    }

    /// Whether the predecessor has started this process.
    pub(crate) fn is_reload(&self) -> bool {
        self.only.is_some()
    }

    // Orders.

    /// Asks at once the first time, and after a pause each further time.
    pub(crate) fn ask(&mut self) {
        let now = Instant::now();
        let is_first = self.only.is_some() || self.report.asking();
        let at = if is_first { now } else { now + RETRY_PAUSE * (1 << self.report.repeated()) };
        self.progress = Progress::Pausing(at, Protocol::Handoff);
    }

    /// Tells the predecessor that the whole bundle is here, and waits for the commit.
    pub(crate) fn report_prepared(&mut self) {
        if let Some(peer) = self.take_peer() {
            self.progress = Progress::Talking(Exchange::prepared(peer));
        }
    }

    /// Drops everything that was received; keeps the connection open, so that the predecessor
    /// learns of it only afterwards.
    pub(crate) fn discard(&mut self) {
        self.incoming = Incoming::default();
        match &mut self.progress {
            Progress::Idle(Some(peer)) => peer.discard_descriptors(),
            Progress::Talking(exchange) => exchange.peer.discard_descriptors(),
            Progress::Idle(None) | Progress::Pausing(..) => {}
        }
    }

    /// Tells the predecessor that the handoff is cancelled, and reads nothing more.
    pub(crate) fn abort(&mut self) {
        self.say_last("the successor was told to stop");
    }

    /// Checks that a lock excludes all other owners: the one that came with the state, or our own.
    /// `has_lock` means that no other process holds the lock of `ours`, or that there is no such
    /// file.
    pub(crate) fn check_lock(
        &mut self,
        ours: Option<&StateFile>,
        has_lock: bool,
    ) -> Result<(), String> {
        match (self.incoming.lock.take(), ours) {
            (_, Some(_)) if has_lock => Ok(()),
            (Some(lock), ours) => {
                self.incoming.bundle.file =
                    Some(StateFile::handed_over(ours, lock, Record::<S>::FILE_SIZE)?);
                Ok(())
            }
            (None, _) if has_lock => Ok(()),
            (None, _) => Err("it does not hold the lock, and we do not either".to_owned()),
        }
    }

    /// The state file whose lock the predecessor sent.
    pub(crate) fn file(&mut self) -> Option<&mut StateFile> {
        self.incoming.bundle.file.as_mut()
    }

    /// Drops everything that was received, then tells the predecessor and the log the reason.
    pub(crate) fn refuse(&mut self, why: &str) {
        self.refuse_as(why, why);
    }

    fn refuse_as(&mut self, why: &str, kind: &str) {
        self.report.violation(why, kind);
        self.discard();
        self.say_last(why);
    }

    pub(crate) fn is_committed(&self) -> bool {
        self.is_committed
    }

    pub(crate) fn finish(self) -> (Bundle<S>, Option<Peer>) {
        let bundle = self.incoming.bundle;
        if let Some(state) = &bundle.state {
            let (state, clients, path) =
                (Text(state.state()), bundle.sessions.len(), self.report.path().display());
            log::info!(MESSAGE_ID = Id::Adopted; "Adopting {state} and {clients} clients from {path}");
        }
        (bundle, self.progress.into_peer())
    }

    /// Drops everything that was received; returns the path that this process was to take over.
    pub(crate) fn into_place(self) -> Option<PathBuf> {
        self.in_place
    }

    fn take_peer(&mut self) -> Option<Peer> {
        std::mem::replace(&mut self.progress, Progress::Idle(None)).into_peer()
    }

    fn say_last(&mut self, why: &str) {
        if let Some(peer) = self.take_peer() {
            // If this fails, the end of the connection means the same.
            let _ = peer.say_last(&Message::<S>::Abort(why.as_bytes()).to_string());
        }
    }

    // Events.

    /// Waits for an event to report; may be dropped at any point. A message of the predecessor
    /// precedes its silence. `has_lock` means that the predecessor does not hold the lock.
    pub(crate) async fn next(&mut self, has_lock: bool) -> Predecessor {
        loop {
            match &mut self.progress {
                Progress::Idle(_) => future::pending().await,
                Progress::Pausing(until, protocol) => {
                    Timer::at(*until).await;
                    let protocol = *protocol;
                    if let Some(event) = self.connect(protocol, has_lock) {
                        return event;
                    }
                }
                Progress::Talking(exchange) => {
                    let silence = silence(
                        exchange.since,
                        exchange.is_silence_logged,
                        has_lock && exchange.is_unanswered() && self.only.is_none(),
                    );
                    let place = match (&self.only, &self.in_place) {
                        (Some(_), _) => Place::All,
                        (None, Some(path)) => Place::At(path),
                        (None, None) => Place::Own,
                    };
                    let step = exchange.step(&mut self.incoming, place);
                    match future::or(async { Ok(step.await) }, async { Err(silence.await) }).await {
                        Ok(outcome) => {
                            if let Some(event) = self.conclude(outcome, has_lock) {
                                return event;
                            }
                        }
                        Err(Silence::ToLog) => {
                            exchange.is_silence_logged = true;
                            self.report.silent();
                        }
                        Err(Silence::GiveUp) => {
                            let seconds = GIVE_UP.as_secs();
                            self.report.absent(
                                format_args!("no answer within {seconds} s"),
                                has_lock,
                                &Text(S::default()),
                            );
                            return self.idle_after(Predecessor::Absent);
                        }
                    }
                }
            }
        }
    }

    /// Connects and asks, or tries again later; returns an event if it does neither.
    fn connect(&mut self, protocol: Protocol, has_lock: bool) -> Option<Predecessor> {
        let connected = match &mut self.only {
            None => connect(self.report.path()),
            Some(predecessor) => match predecessor.take() {
                Some(predecessor) => Ok(predecessor),
                None => return Some(self.idle_after(Predecessor::Unreachable)),
            },
        };
        if connected.as_ref().err().is_none_or(Failure::is_connected) {
            self.unreachable = None;
        }
        match connected {
            Ok(mut peer) => {
                // If this fails, the next read finds the end of the connection.
                let _ = peer.say(&self.request(protocol, &peer));
                self.progress = Progress::Talking(Exchange::requested(peer, protocol));
                return None;
            }
            Err(failure @ Failure::Nobody(_)) => {
                self.report.absent_as_replied(&failure, has_lock, &Text(S::default()));
            }
            Err(Failure::Stranger(why)) => {
                self.report.absent(format_args!("{why}"), has_lock, &Text(S::default()));
            }
            Err(Failure::NotLetIn(why)) => {
                let now = Instant::now();
                let waited = now - *self.unreachable.get_or_insert(now);
                if !(has_lock && waited >= GIVE_UP) {
                    return self.connect_later(&why, protocol, waited >= SILENCE_LOGGED);
                }
                let seconds = GIVE_UP.as_secs();
                self.report.absent(
                    format_args!("{why}, for {seconds} s"),
                    has_lock,
                    &Text(S::default()),
                );
            }
            Err(Failure::Unclear(why)) => return self.connect_later(&why, protocol, true),
            Err(failure @ Failure::UnknownUser(_)) => {
                return self.connect_later(&failure.to_string(), protocol, true);
            }
            Err(failure @ Failure::CannotPoll(_)) => {
                self.report.failed(&failure);
                return Some(self.idle_after(Predecessor::Refused));
            }
        }
        Some(self.idle_after(Predecessor::Absent))
    }

    /// Connects again after a pause; logs the reason if `is_logged`.
    fn connect_later(
        &mut self,
        why: &str,
        protocol: Protocol,
        is_logged: bool,
    ) -> Option<Predecessor> {
        if is_logged {
            self.report.unreachable(why);
        }
        self.progress = Progress::Pausing(Instant::now() + RETRY_PAUSE, protocol);
        None
    }

    /// The line that requests the state.
    ///
    /// Spells the listener's path as the predecessor does, because release 0.1.0 compares the text.
    /// A path that cannot be written in a line is left empty: the predecessor then takes the
    /// listener to which this process has connected.
    fn request(&self, protocol: Protocol, peer: &Peer) -> String {
        let path = path_of_peer(peer.stream());
        let plain = path.to_str().filter(|path| !path.contains(['\n', '\r']));
        let request = match protocol.legacy() {
            None => {
                let in_place = self.in_place.as_ref().map(|_| plain.unwrap_or_default());
                Request::new::<S>(Accepts(S::DESCRIPTORS), in_place)
            }
            Some(legacy) => Request::Legacy(legacy),
        };
        request.line::<S>().to_string()
    }

    /// Logs the outcome of a step, and converts it to an event.
    fn conclude(&mut self, outcome: Outcome, has_lock: bool) -> Option<Predecessor> {
        let Progress::Talking(exchange) = &self.progress else {
            return None;
        };
        let protocol = exchange.protocol;
        match outcome {
            Outcome::Continue => None,
            Outcome::Event(event) => {
                self.is_committed = event == Predecessor::Committed;
                if event == Predecessor::Gone {
                    self.report.gone();
                }
                Some(self.idle_after(event))
            }
            Outcome::Refused(answer) => {
                self.report.refused(&answer, false);
                Some(self.idle_after(Predecessor::Refused))
            }
            Outcome::Withdrawn(answer) => {
                self.report.refused(&answer, true);
                Some(self.idle_after(Predecessor::Refused))
            }
            Outcome::Unknown(reply) => self.fall_back(reply, protocol, has_lock),
            Outcome::Violation { why, kind } => {
                self.refuse_as(&why, &kind);
                Some(Predecessor::Refused)
            }
        }
    }

    /// Asks by the next protocol, because the predecessor does not know this one.
    fn fall_back(
        &mut self,
        reply: LegacyReply,
        protocol: Protocol,
        has_lock: bool,
    ) -> Option<Predecessor> {
        match reply {
            // The predecessor is dying or dead.
            LegacyReply::Closed if !has_lock => {
                return Some(self.idle_after(Predecessor::Gone));
            }
            LegacyReply::Line(_) if !has_lock => {
                // A legacy program holds no lock, so the holder is another process, the owner.
                self.report.unknown_while_locked();
                return Some(self.idle_after(Predecessor::Refused));
            }
            LegacyReply::Closed | LegacyReply::Line(_) => {}
        }
        // No legacy program knows the handoff, so only its replies to its own lines are kept.
        if protocol.legacy().is_some() {
            self.report.keep_reply(reply);
        }
        match protocol.next::<S>(self.in_place.is_some()) {
            Some(next) => {
                self.progress = Progress::Pausing(Instant::now(), next);
                None
            }
            None => {
                self.report.absent_as_replied(
                    &"it supports no way to hand over",
                    has_lock,
                    &Text(S::default()),
                );
                Some(self.idle_after(Predecessor::Absent))
            }
        }
    }

    /// Waits for an order after this event, with the connection open.
    fn idle_after(&mut self, event: Predecessor) -> Predecessor {
        self.progress = Progress::Idle(self.take_peer());
        event
    }
}

enum Silence {
    /// Long enough to be logged.
    ToLog,
    /// Longer than a running legacy program needs.
    GiveUp,
}

/// Waits for the next time limit of a silence since `since`.
async fn silence(since: Instant, is_logged: bool, may_be_dead: bool) -> Silence {
    if !is_logged {
        Timer::at(since + SILENCE_LOGGED).await;
        return Silence::ToLog;
    }
    if !may_be_dead {
        future::pending::<()>().await;
    }
    Timer::at(since + GIVE_UP).await;
    Silence::GiveUp
}
