// SPDX-License-Identifier: Apache-2.0
//! Blame: when the client may see the end of its connection.
//!
//! All copies of its descriptor may be closed only after a failure (a process was killed, was told
//! to stop, or could not take in what it was sent) by which both came true:
//!
//! - Who answered for the client has failed since it was last served.
//!   That is who serves it, and, beside a successor that begins to serve it, the predecessor that
//!   has not been told that it may leave.
//! - Nobody would serve it if nothing else happened: neither of those, nor a successor that has
//!   the whole offer, or will read it, and no abort after it.
//!
//! So a client never pays for the death of one who merely waits, nor for an abort, a timeout or
//! another successor; and for the death of its owner in the middle of a handoff only where the
//! other side fails as well.

use early_service_machine::lifecycle::{self, Phase};

use crate::atlas::Atlas;
use crate::world::{EVERYBODY, Exchange, Stage, ToPredecessor, ToSuccessor, Who, Wire, World};

impl World {
    /// Whether the client's fate is in the hands of this process: it serves it, or did until it
    /// handed it over and may have to again.
    pub(crate) fn is_accountable(&self, who: Who, atlas: &Atlas) -> bool {
        let process = self.process(who);
        let owns = match atlas.phase(process.place) {
            Phase::Serving => true,
            Phase::Draining => !self.is_relieved(who),
            Phase::Booting | Phase::Adopting | Phase::Ended => false,
        };
        process.is_up() && process.session.is_some() && owns
    }

    /// Whether the successor has said that this process may leave.
    fn is_relieved(&self, who: Who) -> bool {
        let done = |wire: &Wire| wire.up.iter().any(|message| *message == ToPredecessor::Done);
        self.process(who).expects(lifecycle::Successor::Serving)
            || self.asker(who).is_some_and(done)
    }

    /// Whether the client would be served by this process if all others died now.
    fn would_serve_client(&self, who: Who, atlas: &Atlas) -> bool {
        let process = self.process(who);
        if !process.is_up() || process.stopping {
            return false;
        }
        if self.is_accountable(who, atlas) {
            return true;
        }
        if process.exchange == Exchange::Idle {
            let goes_on = [lifecycle::Predecessor::Committed, lifecycle::Predecessor::Gone]
                .map(|e| process.expects(e));
            return process.session.is_some() && goes_on.contains(&true);
        }
        let Some(wire) = self.wire(who) else { return false };
        let aborted = wire.down.iter().any(|message| *message == ToSuccessor::Abort);
        let received = process.session.is_some() || wire.session.is_some();
        let ending = wire.down.iter().any(|message| matches!(message, ToSuccessor::End { .. }));
        let whole = process.exchange != Exchange::Asking || ending;
        whole && received && !aborted
    }

    /// Somebody fails, who was `accountable` for the client or not: whether its end may come.
    pub(crate) fn bereave(&mut self, accountable: bool, atlas: &Atlas) {
        if self.client.stage != Stage::Accepted {
            return;
        }
        self.client.bereaved |= accountable;
        let nobody = !EVERYBODY.into_iter().any(|who| self.would_serve_client(who, atlas));
        self.client.forsaken |= self.client.bereaved && nobody;
    }
}
