// SPDX-License-Identifier: Apache-2.0
//! Exchange: one conversation with a predecessor, from the request to its last message.
//!
//! Responsible for reading the predecessor's messages into an [`Incoming`] bundle, and for checking
//! that it is complete: exactly the descriptors that the manifest announces.
//!
//! Owns the connection. Never decides what a failure means for the process; reports the [`Outcome`]
//! of each step. A step may be dropped at any point without losing a byte.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Instant;

use early_service_machine::lifecycle::Predecessor;
use early_service_machine::lifecycle::takeover::Received;
use early_service_machine::timeline::FieldError;
use early_service_machine::wire::framing::Printable;
use early_service_machine::wire::handoff::{Client, Message, ParseError};
use early_service_machine::wire::legacy::Legacy;
use early_service_machine::wire::manifest::Manifest;
use early_service_machine::wire::request::Accepts;

use crate::handoff::bundle::{self, Bundle};
use crate::handoff::channel::{Line, Peer};
use crate::handoff::legacy::{self, LegacyAnswer, LegacyReply, Protocol};
use crate::platform::clock;
use crate::service::Service;

/// Which listeners of the predecessor this process continues to serve.
#[derive(Clone, Copy)]
pub(crate) enum Place<'a> {
    /// None: it has its own.
    Own,
    /// The one at this path.
    At(&'a Path),
    /// All of them: it replaces the predecessor in the same unit.
    All,
}

/// The part of a bundle that has arrived.
pub(crate) struct Incoming<S: Service> {
    pub(crate) bundle: Bundle<S>,
    /// The descriptor that should hold the lock; not yet checked.
    pub(crate) lock: Option<OwnedFd>,
}

impl<S: Service> Default for Incoming<S> {
    fn default() -> Self {
        Self { bundle: Bundle::default(), lock: None }
    }
}

pub(crate) struct Exchange<S> {
    pub(crate) peer: Peer,
    pub(crate) protocol: Protocol,
    /// When the predecessor was last asked for something.
    pub(crate) since: Instant,
    /// Whether the log says that the predecessor does not answer.
    pub(crate) is_silence_logged: bool,
    awaiting: Awaiting<S>,
}

/// The meaning of the next bytes from the predecessor.
#[derive(Clone, Copy)]
enum Awaiting<S> {
    /// The answer to the request.
    Reply,
    /// The line of the next client or named descriptor, or the end.
    Part(Manifest<S>),
    /// The bytes of a client.
    ClientBytes(Manifest<S>, Client),
    /// The message that makes this process the owner.
    Commit,
    /// The NUL byte beside the listener of a legacy program.
    Nul,
}

/// The result of one step.
pub(crate) enum Outcome {
    Continue,
    Event(Predecessor),
    /// The predecessor refuses: it does not hand over to this process, or not now.
    Refused(String),
    /// The predecessor refuses after it had stopped serving for this handoff.
    Withdrawn(String),
    /// This reply shows that the predecessor does not know the protocol.
    Unknown(LegacyReply),
    /// It sent something invalid. `kind` is the part of the reason that is the same at each
    /// attempt.
    Violation {
        why: String,
        kind: String,
    },
}

impl Outcome {
    fn violation(why: String) -> Self {
        Self::Violation { kind: why.clone(), why }
    }

    /// The result of a check: continue if it passed.
    fn of(checked: Result<(), String>) -> Self {
        checked.map_or_else(Self::violation, |()| Self::Continue)
    }
}

impl<S: Service> Exchange<S> {
    /// An exchange whose request was sent by this protocol.
    pub(crate) fn requested(peer: Peer, protocol: Protocol) -> Self {
        let awaiting = match protocol.legacy() {
            Some(Legacy::ListenerAndValue) => Awaiting::Nul,
            Some(Legacy::Value) | None => Awaiting::Reply,
        };
        Self { peer, protocol, since: Instant::now(), is_silence_logged: false, awaiting }
    }

    /// Reports that the whole bundle is here, and awaits the commit.
    pub(crate) fn prepared(mut peer: Peer) -> Self {
        // If this fails, the next read finds the end of the connection.
        let _ = peer.say(&Message::<S>::Prepared.to_string());
        let (since, is_silence_logged) = (Instant::now(), false);
        Self {
            peer,
            protocol: Protocol::Handoff,
            since,
            is_silence_logged,
            awaiting: Awaiting::Commit,
        }
    }

    /// Whether the predecessor may be a legacy program. Once it has begun to answer it is not: it
    /// is the owner until it commits, and the end of the connection shows its death.
    pub(crate) fn is_unanswered(&self) -> bool {
        matches!(self.awaiting, Awaiting::Reply | Awaiting::Nul)
    }

    /// Waits for the next message, and stores its contents in `incoming`.
    pub(crate) async fn step(&mut self, incoming: &mut Incoming<S>, place: Place<'_>) -> Outcome {
        match self.awaiting {
            Awaiting::Nul => self.step_nul(incoming, place).await,
            Awaiting::ClientBytes(manifest, client) => {
                self.step_client(incoming, manifest, client).await
            }
            Awaiting::Reply | Awaiting::Part(_) | Awaiting::Commit => {
                self.step_line(incoming, place).await
            }
        }
    }

    async fn step_nul(&mut self, incoming: &mut Incoming<S>, place: Place<'_>) -> Outcome {
        // If the byte is missing, a line with the reason follows.
        if self.peer.wait_for(1).await.is_none() {
            return Outcome::Unknown(LegacyReply::Closed);
        }
        self.awaiting = Awaiting::Reply;
        if !self.peer.take_nul() {
            return Outcome::Continue;
        }
        let listener = self.peer.descriptor();
        Outcome::of(incoming.bundle.accept_listener(listener, place, false, self.peer.stream()))
    }

    async fn step_line(&mut self, incoming: &mut Incoming<S>, place: Place<'_>) -> Outcome {
        let awaiting = self.awaiting;
        let may_be_legacy =
            |line: &[u8]| matches!(awaiting, Awaiting::Reply) && !line.starts_with(b"state ");
        let line = match self.peer.line().await {
            Line::Whole(line) => line,
            Line::TooLong(line) if may_be_legacy(line) => {
                return Outcome::Unknown(LegacyReply::line(line));
            }
            Line::TooLong(line) => {
                let why = format!("'{}...' is too long", Printable(line));
                return Outcome::Violation { why, kind: "a line is too long".to_owned() };
            }
            Line::End if matches!(awaiting, Awaiting::Reply) => {
                return Outcome::Unknown(LegacyReply::Closed);
            }
            Line::End => return Outcome::Event(Predecessor::Gone),
        };
        if self.protocol.legacy().is_some() {
            return match legacy::receive(&mut incoming.bundle, line) {
                LegacyAnswer::Event(event) => Outcome::Event(event),
                LegacyAnswer::Refused(answer) => Outcome::Refused(answer),
                LegacyAnswer::Unknown(reply) => Outcome::Unknown(reply),
            };
        }
        match (awaiting, Message::parse(line)) {
            (Awaiting::Reply, Ok(Message::State(manifest))) => {
                self.take_manifest(incoming, manifest, place)
            }
            (Awaiting::Part(manifest), Ok(Message::Client(client))) => {
                if incoming.bundle.has_clients(&manifest) {
                    let announced = manifest.clients;
                    return Outcome::violation(format!("more than {announced} clients came"));
                }
                self.awaiting = Awaiting::ClientBytes(manifest, client);
                Outcome::Continue
            }
            (Awaiting::Part(_), Ok(Message::Named(name))) => {
                // Copied, because the line borrows the connection from which the descriptor is
                // taken.
                let name = name.as_str().to_owned();
                let descriptor = self.peer.descriptor();
                Outcome::of(incoming.bundle.accept_named(
                    Accepts(S::DESCRIPTORS),
                    &name,
                    descriptor,
                ))
            }
            (Awaiting::Part(manifest), Ok(Message::End)) => self.take_end(incoming, &manifest),
            (Awaiting::Commit, Ok(Message::Commit)) => Outcome::Event(Predecessor::Committed),
            (_, Ok(Message::Abort(_))) => Outcome::Withdrawn(Printable(line).to_string()),
            (_, Ok(Message::Busy | Message::Denied)) => {
                Outcome::Refused(Printable(line).to_string())
            }
            (_, Err(_)) if may_be_legacy(line) => Outcome::Unknown(LegacyReply::line(line)),
            // Without the line, which can be long: the abort would end before the name.
            (
                _,
                Err(error @ ParseError::Field(FieldError::Service(_) | FieldError::UnknownKey(_))),
            ) => Outcome::violation(error.to_string()),
            (_, Err(error)) => Outcome::Violation {
                why: format!("cannot understand '{}': {error}", Printable(line)),
                kind: format!("cannot understand: {error}"),
            },
            (_, Ok(message)) => Outcome::Violation {
                why: format!("'{message}' comes too early"),
                kind: "a line comes too early".to_owned(),
            },
        }
    }

    fn take_manifest(
        &mut self,
        incoming: &mut Incoming<S>,
        manifest: Manifest<S>,
        place: Place<'_>,
    ) -> Outcome {
        let check = || {
            let checked = manifest.snapshot.check(clock::now());
            checked.map_err(|error| format!("its state has {error}"))?;
            Bundle::check_room(&manifest)
        };
        if let Err(why) = check() {
            return Outcome::violation(why);
        }
        for at in 0..manifest.listeners {
            let (listener, is_owned) = (self.peer.descriptor(), at < manifest.owned);
            let stream = self.peer.stream();
            let accepted = incoming.bundle.accept_listener(listener, place, is_owned, stream);
            if let Err(why) = accepted {
                return Outcome::violation(why);
            }
        }
        incoming.bundle.state = Some(Received::Snapshot(manifest.snapshot));
        self.awaiting = Awaiting::Part(manifest);
        Outcome::Continue
    }

    async fn step_client(
        &mut self,
        incoming: &mut Incoming<S>,
        manifest: Manifest<S>,
        client: Client,
    ) -> Outcome {
        let (input, replies) = match bundle::client_lengths(client) {
            Ok(lengths) => lengths,
            Err(why) => return Outcome::violation(why),
        };
        // Takes all bytes at once, so that none is lost if this function is dropped while it waits.
        if self.peer.wait_for(input + replies).await.is_none() {
            return Outcome::Event(Predecessor::Gone);
        }
        let socket = self.peer.descriptor();
        let bytes = self.peer.take(input + replies);
        let (unread, unsent) = bytes.split_at_checked(input).unwrap_or_default();
        self.awaiting = Awaiting::Part(manifest);
        Outcome::of(incoming.bundle.accept_client(socket, client, unread, unsent))
    }

    fn take_end(&mut self, incoming: &mut Incoming<S>, manifest: &Manifest<S>) -> Outcome {
        if let Err(why) = incoming.bundle.check_whole(manifest) {
            return Outcome::violation(why);
        }
        if manifest.lock {
            incoming.lock = self.peer.descriptor();
            if incoming.lock.is_none() {
                return Outcome::violation("the lock is missing".to_owned());
            }
        }
        if self.peer.has_lost_descriptors() {
            return Outcome::violation("the kernel dropped descriptors".to_owned());
        }
        if self.peer.descriptor().is_some() {
            return Outcome::violation("more descriptors came than were announced".to_owned());
        }
        Outcome::Event(Predecessor::SentState)
    }
}
