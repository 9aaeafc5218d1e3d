// SPDX-License-Identifier: Apache-2.0
//! Connect: one attempt to reach the predecessor, and what its failure means.
//!
//! Never waits and never repeats. Only an error that proves that no process serves the path is
//! taken for the absence of a predecessor.

use std::fmt;
use std::io;
use std::path::Path;

use rustix::io::Errno;
use smol::Async;

use crate::handoff::authorize::{Distrust, vouch_for};
use crate::handoff::channel::Peer;
use crate::platform::socket;

/// Why there is no connection.
pub(crate) enum Failure {
    /// No process serves the path.
    Nobody(io::Error),
    /// A process serves it whose state may not be adopted.
    Stranger(String),
    /// A process may serve it but does not accept this one. It is given up after a while if it
    /// cannot be the owner.
    NotLetIn(String),
    /// Out of resources, or an unknown error: the other process may be the owner.
    Unclear(String),
    /// It accepted the connection, but the kernel did not return its user. It may be the owner.
    UnknownUser(io::Error),
    /// The connection is established, but the reactor cannot poll it.
    CannotPoll(io::Error),
}

/// Connects to the process that serves `path`, and checks its user.
pub(crate) fn connect(path: &Path) -> Result<Peer, Failure> {
    let failed = |error: Errno| format!("cannot connect: {}", io::Error::from(error));
    let stream = match socket::connect(path) {
        Ok(stream) => stream,
        // The backlog is full, so a process owns it (EAGAIN in unix(7)).
        Err(Errno::AGAIN) => return Err(Failure::NotLetIn("no room in its backlog".to_owned())),
        Err(error @ (Errno::ACCESS | Errno::PERM)) => return Err(Failure::NotLetIn(failed(error))),
        Err(error) if nobody_listens(error) => return Err(Failure::Nobody(error.into())),
        Err(error) => return Err(Failure::Unclear(failed(error))),
    };
    match vouch_for(&stream) {
        Ok(()) => {}
        Err(Distrust::Stranger(stranger)) => return Err(Failure::Stranger(stranger)),
        Err(Distrust::Unknown(error)) => return Err(Failure::UnknownUser(error)),
    }
    Async::new(stream).map(Peer::new).map_err(Failure::CannotPoll)
}

/// Whether this error of connect(2) proves that no process serves the path.
fn nobody_listens(error: Errno) -> bool {
    // The last three: a socket of another kind, or no socket at all.
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

impl Failure {
    /// Whether connect(2) succeeded, so a process is there and accepts connections.
    pub(crate) const fn is_connected(&self) -> bool {
        match self {
            Self::Stranger(_) | Self::UnknownUser(_) | Self::CannotPoll(_) => true,
            Self::Nobody(_) | Self::NotLetIn(_) | Self::Unclear(_) => false,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nobody(error) => write!(f, "cannot connect: {error}"),
            Self::Stranger(why) | Self::NotLetIn(why) | Self::Unclear(why) => f.write_str(why),
            Self::UnknownUser(error) => write!(f, "cannot read its user: {error}"),
            Self::CannotPoll(error) => write!(f, "cannot wait for its answer: {error}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_accepts_connections_is_not_unreachable() {
        let error = || io::Error::from(io::ErrorKind::OutOfMemory);
        for failure in [
            Failure::Stranger(String::new()),
            Failure::UnknownUser(error()),
            Failure::CannotPoll(error()),
        ] {
            assert!(failure.is_connected(), "{failure}");
        }
        for failure in [
            Failure::Nobody(error()),
            Failure::NotLetIn(String::new()),
            Failure::Unclear(String::new()),
        ] {
            assert!(!failure.is_connected(), "{failure}");
        }
    }
}
