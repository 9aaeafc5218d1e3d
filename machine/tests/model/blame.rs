// SPDX-License-Identifier: Apache-2.0
//! Blame: when the client may see the end of its connection.
//!
//! All copies of its descriptor may be closed only after a failure: a process was killed, was told
//! to stop, or received a state that is not consistent. In addition, both conditions must be true:
//!
//! - A process that is accountable for the client has failed since the client was last served. This
//!   is the process that serves it, and a predecessor until its successor reports that it serves.
//! - No process would serve the client without further events: neither of those, nor a successor that
//!   has the whole offer or will read it, without an abort after it.
//!
//! The death of a waiting process, an abort, a timeout or another successor therefore never costs a
//! client its connection. The owner's death during a handoff does so only if the other process
//! fails as well.

use early_service_machine::lifecycle::{self, Phase};

use crate::atlas::Atlas;
use crate::world::{EVERYBODY, Exchange, Stage, ToPredecessor, ToSuccessor, Who, Wire, World};

impl World {
    /// Whether this process serves the client, or may have to serve it again after a handoff.
    pub(crate) fn is_accountable(&self, who: Who, atlas: &Atlas) -> bool {
        let process = self.process(who);
        let owns = match atlas.phase(process.place) {
            Phase::Serving => true,
            Phase::Draining => !self.is_relieved(who),
            Phase::Booting | Phase::Adopting | Phase::Ended => false,
        };
        process.is_up() && process.session.is_some() && owns
    }

    /// Whether the successor has reported that it serves.
    fn is_relieved(&self, who: Who) -> bool {
        let done = |wire: &Wire| wire.up.iter().any(|message| *message == ToPredecessor::Done);
        self.process(who).expects(lifecycle::Successor::Serving)
            || self.asker(who).is_some_and(done)
    }

    /// Whether this process would serve the client if all others died now.
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

    /// Records that a process failed, and whether it was `accountable` for the client.
    pub(crate) fn record_failure(&mut self, accountable: bool, atlas: &Atlas) {
        if self.client.stage != Stage::Accepted {
            return;
        }
        self.client.owner_failed |= accountable;
        let nobody = !EVERYBODY.into_iter().any(|who| self.would_serve_client(who, atlas));
        self.client.may_end |= self.client.owner_failed && nobody;
    }
}
