// SPDX-License-Identifier: Apache-2.0
//! Handoff request: an owned [`Request`].

use std::path::PathBuf;

use early_service_machine::State;
use early_service_machine::wire::fields::UnknownKey;
use early_service_machine::wire::handoff;
use early_service_machine::wire::legacy::{self, Legacy};
use early_service_machine::wire::request::{Accepts, Request};
use early_service_machine::wire::service::OtherService;

/// How a peer requested the state.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum HandoffRequest {
    /// By the messages of a handoff.
    Handoff {
        version: u64,
        /// The name of the successor's service.
        service: String,
        /// The names of descriptors that the successor accepts.
        accepts: String,
        /// A key that this release must understand and does not know.
        unknown: Option<UnknownKey>,
        /// The path of the listener that the successor continues to serve.
        listener: Option<PathBuf>,
    },
    /// By a line of the C programs.
    Legacy(Legacy),
}

impl HandoffRequest {
    /// The names of descriptors that may be sent.
    pub(crate) fn accepts(&self) -> Accepts<'_> {
        match self {
            Self::Handoff { accepts, .. } => Accepts(accepts),
            Self::Legacy(_) => Accepts::default(),
        }
    }

    /// What the peer asked for, if it is not the state of `S` in the form of this release.
    pub(crate) fn other<S: State>(&self) -> Option<String> {
        let Self::Handoff { service, unknown, .. } = self else {
            // A legacy line has neither a name nor fields.
            return None;
        };
        match (OtherService::find::<S>(service.as_bytes()), unknown) {
            (Some(other), _) => Some(format!("asks for the state of {other}")),
            (None, Some(key)) => Some(format!("asks with {key}")),
            (None, None) => None,
        }
    }

    /// The line for a peer that must wait, because another process is adopting the state.
    pub(crate) fn busy(&self) -> &'static str {
        match self {
            Self::Handoff { .. } => handoff::BUSY,
            Self::Legacy(_) => legacy::BUSY,
        }
    }
}

impl From<Request<'_>> for HandoffRequest {
    fn from(request: Request<'_>) -> Self {
        match request {
            Request::Handoff { version, service, accepts, unknown, listener } => Self::Handoff {
                version,
                service: service.to_owned(),
                accepts: accepts.0.to_owned(),
                unknown: unknown.map(|key| UnknownKey::new(key.as_bytes())),
                listener: listener.map(PathBuf::from),
            },
            Request::Legacy(legacy) => Self::Legacy(legacy),
        }
    }
}
