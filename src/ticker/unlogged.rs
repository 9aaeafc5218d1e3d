// SPDX-License-Identifier: Apache-2.0
//! Ticks that are not known to be in the log.
//!
//! Responsible for their counts in the state file: if this process dies, the next owner logs that
//! they may be missing.
//!
//! **Invariant:** the file omits a tick only after its line, or a line that names it, is written.

use early_service_machine::record::Unlogged;
use early_service_machine::schedule::Monotonic;
use early_service_machine::timeline::Tick;

use crate::service::Service;

/// The ticks of this process and of the previous owner that are not known to be in the log.
pub(super) struct UnloggedTicks<S> {
    /// The number of ticks since a command last changed the state; the maximum if none has.
    pub(super) since_change: u64,
    inherited: Option<Inherited>,
    /// The ticks that were caught up and still need their common line.
    pub(super) range: Option<Range<S>>,
}

/// The last ticks of the previous owner, until a log is known to name them.
struct Inherited {
    unlogged: Unlogged,
    /// The number of later ticks.
    since: u64,
    /// The value of `since` when a line about them was queued.
    named: Option<u64>,
}

/// Ticks that one line represents.
pub(super) struct Range<S> {
    pub(super) count: u64,
    pub(super) last: Tick<S>,
    /// When the first of them was caught up.
    pub(super) since: Monotonic,
}

impl<S: Service> UnloggedTicks<S> {
    pub(super) const fn new() -> Self {
        Self { since_change: u64::MAX, inherited: None, range: None }
    }

    /// Takes over the ticks of the previous owner; `is_named` if a line about them is being queued.
    pub(super) fn inherit(&mut self, unlogged: Unlogged, is_named: bool) {
        let named = is_named.then_some(0);
        self.inherited = (unlogged.ticks > 0).then_some(Inherited { unlogged, since: 0, named });
    }

    /// Notes that the previous owner's ticks are being logged.
    pub(super) fn inherited_are_named(&mut self) {
        if let Some(inherited) = &mut self.inherited {
            inherited.named = Some(inherited.since);
        }
    }

    /// The log has the ticks of the previous owner.
    pub(super) fn inherited_are_logged(&mut self) {
        self.inherited = None;
    }

    /// Counts ticks that were taken.
    pub(super) fn count(&mut self, ticks: u64) {
        self.since_change = self.since_change.saturating_add(ticks);
        if let Some(inherited) = &mut self.inherited {
            inherited.since = inherited.since.saturating_add(ticks);
        }
    }

    /// Counts ticks that were caught up without a line for each.
    pub(super) fn count_range(&mut self, ticks: u64, last: Tick<S>, now: Monotonic) {
        self.count(ticks);
        let (before, since) =
            self.range.take().map_or((0, now), |range| (range.count, range.since));
        self.range = Some(Range { count: before.saturating_add(ticks), last, since });
    }

    /// The counts for the state file if `queued` ticks wait for the log's writer.
    pub(super) fn for_file(&mut self, queued: u64) -> Unlogged {
        let ticks = queued.saturating_add(self.range.as_ref().map_or(0, |range| range.count));
        self.inherited.take_if(|inherited| inherited.is_named(ticks));
        match &self.inherited {
            Some(inherited) => inherited.with_ours(self.since_change),
            None => Unlogged { ticks, unbroken: ticks.min(self.since_change) },
        }
    }
}

impl Inherited {
    /// Whether a line about them is written: it is if more than `unlogged` ticks of this process
    /// followed it, because only the last `unlogged` ones are not written.
    fn is_named(&self, unlogged: u64) -> bool {
        self.named.is_some_and(|named| self.since.saturating_sub(named) > unlogged)
    }

    /// These and all later ticks; a command last changed the state `since_change` ticks ago.
    fn with_ours(&self, since_change: u64) -> Unlogged {
        let Self { unlogged: Unlogged { ticks, unbroken }, since, .. } = self;
        let (ticks, unbroken) = (ticks.saturating_add(*since), unbroken.saturating_add(*since));
        Unlogged { ticks, unbroken: unbroken.min(since_change) }
    }
}
