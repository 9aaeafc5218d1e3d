// SPDX-License-Identifier: Apache-2.0
//! The protocols of the two C programs that this program replaces, in both directions.
//!
//! The successor writes one line, and receives the value and the end of the connection; with
//! `pass_state_and_terminate` one NUL byte with the listener's descriptor comes first. There is no
//! `prepared` and no `commit`: the predecessor has given the state away as soon as it is sent.
//!
//! A successor tries the handoff first, and the lines of the C programs only if the answer shows
//! that the predecessor does not know it. Never decides more than which protocol comes next.

use std::fmt;
use std::io;
use std::net::Shutdown;
use std::os::fd::AsFd;

use early_service_machine::lifecycle::Predecessor;
use early_service_machine::lifecycle::takeover::Received;
use early_service_machine::wire::framing::Printable;
use early_service_machine::wire::handoff::DENIED;
use early_service_machine::wire::legacy::{BUSY, Legacy};

use crate::handoff::bundle::Bundle;
use crate::handoff::channel::{self, Peer};
use crate::service::Service;

/// How a predecessor is asked, from what loses nothing to what any program knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protocol {
    Handoff,
    Legacy(Legacy),
    /// The second line of the C programs, tried after the first one was not known.
    LegacyFallback(Legacy),
}

impl Protocol {
    /// The line of the C programs, if it is one.
    pub(crate) const fn legacy(self) -> Option<Legacy> {
        match self {
            Self::Handoff => None,
            Self::Legacy(legacy) | Self::LegacyFallback(legacy) => Some(legacy),
        }
    }

    /// The protocol to try next. The one that passes the listener comes first if we take its place.
    pub(crate) const fn next(self, in_place: bool) -> Option<Self> {
        match (self, in_place) {
            (Self::Handoff, true) => Some(Self::Legacy(Legacy::ListenerAndValue)),
            (Self::Handoff, false) => Some(Self::Legacy(Legacy::Value)),
            (Self::Legacy(_), true) => Some(Self::LegacyFallback(Legacy::Value)),
            (Self::Legacy(_), false) => Some(Self::LegacyFallback(Legacy::ListenerAndValue)),
            (Self::LegacyFallback(_), _) => None,
        }
    }
}

/// What a legacy program said to a line that it does not know.
pub(crate) enum LegacyReply {
    Line(String),
    Closed,
}

impl LegacyReply {
    pub(crate) fn line(line: &[u8]) -> Self {
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

/// What the answer of a legacy predecessor means.
pub(crate) enum LegacyAnswer {
    Event(Predecessor),
    /// It refuses: it does not hand over to this process, or not now.
    Refused(String),
    /// It does not know the line.
    Unknown(LegacyReply),
}

/// Reads the line of a legacy predecessor: the value, or that it does not hand over.
pub(crate) fn receive<S: Service>(bundle: &mut Bundle<S>, line: &[u8]) -> LegacyAnswer {
    if let Some(state) = S::parse(line) {
        bundle.state = Some(Received::Value(state));
        return LegacyAnswer::Event(Predecessor::SentLegacyState);
    }
    match [DENIED, BUSY].into_iter().find(|answer| answer.as_bytes() == line) {
        Some(answer) => LegacyAnswer::Refused(answer.to_owned()),
        None => LegacyAnswer::Unknown(LegacyReply::line(line)),
    }
}

/// Sends a legacy successor what it asked for, all of it at once.
pub(crate) fn send<S: Service>(peer: &Peer, legacy: Legacy, bundle: &Bundle<S>) -> io::Result<()> {
    let state = bundle.state.ok_or(io::ErrorKind::NotFound)?.state();
    if legacy == Legacy::ListenerAndValue {
        let mut listeners = bundle.listeners.iter();
        let listener = listeners.find(|listener| listener.has_accepted(peer.stream()));
        let listener = listener.ok_or(io::ErrorKind::NotFound)?;
        // Exactly one byte beside the descriptor: that is what the C program reads first.
        channel::send(peer.stream(), b"\0", &[listener.as_fd()])?;
    }
    peer.say_last(&state.to_string())?;
    // A predecessor of ours that has not left yet may hold a copy of the connection.
    let _ = peer.stream().get_ref().shutdown(Shutdown::Write);
    Ok(())
}
