// SPDX-License-Identifier: Apache-2.0
//! The protocols of the two C programs that this program replaces, in both directions.
//!
//! The successor writes one line. It receives the value and the end of the connection; for
//! `pass_state_and_terminate`, one NUL byte with the listener's descriptor precedes the value.
//! There is no `prepared` and no `commit`: the predecessor gives up the state when it sends it.
//!
//! A successor tries the handoff first. It sends a line of the C programs only if the reply shows
//! that the predecessor does not know the handoff.

use std::fmt;
use std::io;
use std::net::Shutdown;
use std::os::fd::AsFd;

use early_service_machine::lifecycle::Predecessor;
use early_service_machine::lifecycle::takeover::Received;
use early_service_machine::state::Text;
use early_service_machine::wire::framing::Printable;
use early_service_machine::wire::handoff::DENIED;
use early_service_machine::wire::legacy::{BUSY, Legacy};

use crate::handoff::bundle::Bundle;
use crate::handoff::channel::{self, Peer};
use crate::service::Service;

/// How to request the state, in the order of the attempts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protocol {
    Handoff,
    Legacy(Legacy),
    /// The other line of the C programs, after the predecessor did not know the first.
    LegacyFallback(Legacy),
}

impl Protocol {
    /// The line of the C programs, if the protocol is one.
    pub(crate) const fn legacy(self) -> Option<Legacy> {
        match self {
            Self::Handoff => None,
            Self::Legacy(legacy) | Self::LegacyFallback(legacy) => Some(legacy),
        }
    }

    /// The protocol to try next; `in_place` puts the line that also requests the listener first.
    /// There is none for a service that no legacy program has.
    pub(crate) const fn next<S: Service>(self, in_place: bool) -> Option<Self> {
        match (self, in_place) {
            _ if S::HAND_OVER.is_empty() => None,
            (Self::Handoff, true) => Some(Self::Legacy(Legacy::ListenerAndValue)),
            (Self::Handoff, false) => Some(Self::Legacy(Legacy::Value)),
            (Self::Legacy(_), true) => Some(Self::LegacyFallback(Legacy::Value)),
            (Self::Legacy(_), false) => Some(Self::LegacyFallback(Legacy::ListenerAndValue)),
            (Self::LegacyFallback(_), _) => None,
        }
    }
}

/// The reply of a legacy program to a line that it does not know.
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

/// The meaning of a legacy predecessor's answer.
pub(crate) enum LegacyAnswer {
    Event(Predecessor),
    /// It refuses: it does not hand over to this process, or not now.
    Refused(String),
    /// It does not know the line.
    Unknown(LegacyReply),
}

/// Reads the line of a legacy predecessor: the value, or a refusal.
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

/// Sends a legacy successor its whole reply at once.
pub(crate) fn send<S: Service>(peer: &Peer, legacy: Legacy, bundle: &Bundle<S>) -> io::Result<()> {
    let state = bundle.state.ok_or(io::ErrorKind::NotFound)?.state();
    if legacy == Legacy::ListenerAndValue {
        let mut listeners = bundle.listeners.iter();
        let listener = listeners.find(|listener| listener.has_accepted(peer.stream()));
        let listener = listener.ok_or(io::ErrorKind::NotFound)?;
        // Exactly one byte beside the descriptor, because the C program reads one byte first.
        channel::send(peer.stream(), b"\0", &[listener.as_fd()])?;
    }
    peer.say_last(&Text(state).to_string())?;
    // Shuts the connection down, because our own predecessor may still hold a copy of it.
    let _ = peer.stream().get_ref().shutdown(Shutdown::Write);
    Ok(())
}
