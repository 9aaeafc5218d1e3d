// SPDX-License-Identifier: Apache-2.0
//! Order: whether the replies fit one counter with one owner after the other.
//!
//! Every `set_counter` sets a different number. One order of the commands explains all replies,
//! without a lost acknowledgement, if and only if the times of the numbers do not contradict each
//! other. This is the criterion of Gibbons and Korach ("Testing Shared Memories", 1997), applied to
//! ranges.

use std::collections::{BTreeMap, BTreeSet};

use crate::load::{Command, RANGE, Said, Told};

/// The time during which the counter was in a range, as far as it is known.
#[derive(Clone, Copy, Debug)]
struct Span {
    /// The range began after this time.
    set_from: u64,
    /// The range had begun by this time.
    first_received: u64,
    /// The range had not ended by this time.
    last_sent: u64,
    is_seen: bool,
}

/// Later than any time.
const NEVER: u64 = u64::MAX;

impl Span {
    /// A range set by a command with this time of sending and of acknowledgement, if any.
    fn set(sent: u64, acknowledged: u64) -> Self {
        let is_seen = acknowledged < NEVER;
        Self { set_from: sent, first_received: acknowledged, last_sent: sent, is_seen }
    }

    fn seen(&mut self, sent: u64, received: u64) {
        self.first_received = self.first_received.min(received);
        self.last_sent = self.last_sent.max(sent);
        self.is_seen = true;
    }

    /// Whether the range certainly lasted for some time; otherwise a single moment may suffice.
    fn is_lasting(&self) -> bool {
        self.first_received < self.last_sent
    }

    /// Whether no order allows both: either two lasting ranges overlap, or a range without a
    /// certain duration lies within a lasting one.
    fn contradicts(&self, other: &Self) -> bool {
        (self.is_lasting() || other.is_lasting())
            && self.first_received < other.last_sent
            && other.first_received < self.last_sent
    }
}

/// The replies that no order explains, if the counter began at `first`.
pub fn contradictions(told: &Told, first: u64) -> Vec<String> {
    let mut found = Vec::new();
    let mut spans = BTreeMap::from([(first / RANGE, Span::set(0, 0))]);
    for answer in &told.answers {
        if let Said::Replaced { by, .. } = answer.said {
            spans.insert(by / RANGE, Span::set(answer.sent, answer.received));
        }
    }
    for (sent, command) in &told.unanswered {
        if let Command::Set(to) = command {
            spans.insert(to / RANGE, Span::set(*sent, NEVER));
        }
    }
    let mut replaced = BTreeMap::new();
    for answer in &told.answers {
        let number = match answer.said {
            Said::Next(number) | Said::Status { next: number, .. } => number,
            Said::Replaced { previous, by } => {
                if replaced.insert(previous / RANGE, by / RANGE).is_some() {
                    found.push(format!("{previous} or its like was replaced twice"));
                }
                previous
            }
            Said::Echo => continue,
        };
        match spans.get_mut(&(number / RANGE)) {
            Some(span) if span.set_from <= answer.received => {
                span.seen(answer.sent, answer.received);
            }
            _ => {
                found.push(format!("{number} was returned before a client had set it: {answer:?}"))
            }
        }
    }
    let spans: Vec<_> = spans.iter().filter(|(_, span)| span.is_seen).collect();
    for (place, (range, span)) in spans.iter().enumerate() {
        for (other_range, other) in &spans[..place] {
            if span.contradicts(other) {
                found.push(format!(
                    "{other_range} and {range} (times {RANGE}) were there at once: \
                     {other:?}, {span:?}"
                ));
            }
        }
    }
    found.extend(forgotten(&spans, &replaced));
    found
}

/// Ranges seen after a later one, if the replies say which range replaced which.
fn forgotten(spans: &[(&u64, &Span)], replaced: &BTreeMap<u64, u64>) -> Vec<String> {
    let span = |range| {
        let place = spans.binary_search_by_key(&range, |(range, _)| **range).ok()?;
        Some(spans[place].1)
    };
    let replacing: BTreeSet<_> = replaced.values().copied().collect();
    let mut found = Vec::new();
    for first in replaced.keys().filter(|range| !replacing.contains(range)) {
        let (mut last_sent, mut range) = (span(*first).map_or(0, |span| span.last_sent), *first);
        // A cycle has no first range, so this ends.
        while let Some(next) = replaced.get(&range) {
            let Some(span) = span(*next) else { break };
            if span.first_received < last_sent {
                found.push(format!(
                    "{next} replaced {range} (times {RANGE}), or one before it, \
                     which was there later: {span:?}"
                ));
            }
            (last_sent, range) = (last_sent.max(span.last_sent), *next);
        }
    }
    found
}

/// Replies of a process after replies of a later owner.
pub fn owners_out_of_order(told: &Told, owners: &[u32]) -> Vec<String> {
    let rank = |pid: u32| owners.iter().position(|owner| *owner == pid);
    let status = |said: Said| match said {
        Said::Status { pid, .. } => Some(pid),
        Said::Next(_) | Said::Replaced { .. } | Said::Echo => None,
    };
    let mut found = Vec::new();
    let mut replies: Vec<_> = told
        .answers
        .iter()
        .filter_map(|answer| status(answer.said).map(|pid| (answer.received, answer.sent, pid)))
        .collect();
    replies.sort_unstable();
    // The time of each owner's first reply: no earlier owner may answer a later request.
    let mut first: Vec<Option<u64>> = vec![None; owners.len()];
    for (received, _, pid) in &replies {
        match rank(*pid) {
            Some(rank) => _ = first[rank].get_or_insert(*received),
            None => found.push(format!("process {pid} answers and is none of {owners:?}")),
        }
    }
    for (_, sent, pid) in &replies {
        let later = rank(*pid).and_then(|rank| first[rank + 1..].iter().flatten().min());
        if later.is_some_and(|later| later < sent) {
            found.push(format!("process {pid} of {owners:?} answers after a later owner"));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::Answer;

    fn told(answers: &[(u64, u64, Said)]) -> Told {
        let answers = answers
            .iter()
            .map(|(sent, received, said)| Answer { sent: *sent, received: *received, said: *said })
            .collect();
        Told { answers, ..Told::default() }
    }

    fn set(range: u64, previous: u64) -> Said {
        Said::Replaced { previous, by: range * RANGE }
    }

    #[test]
    fn an_acknowledged_command_that_is_lost_contradicts() {
        let kept = [(10, 20, set(1, 5)), (30, 40, Said::Next(RANGE + 1))];
        assert_eq!(contradictions(&told(&kept), 0), [""; 0]);
        // The old number returns after the acknowledgement of the new one.
        let lost = [(10, 20, set(1, 5)), (30, 40, Said::Next(6))];
        assert_ne!(contradictions(&told(&lost), 0), [""; 0]);
        // The same if another command shows it.
        let lost = [(10, 20, set(1, 5)), (30, 40, set(2, 6))];
        assert_ne!(contradictions(&told(&lost), 0), [""; 0]);
        let concurrent = [(10, 20, set(1, 5)), (15, 40, Said::Next(6))];
        assert_eq!(contradictions(&told(&concurrent), 0), [""; 0]);
        let between = [(10, 20, set(1, 5)), (12, 18, set(2, RANGE)), (30, 40, Said::Next(RANGE))];
        assert_ne!(contradictions(&told(&between), 0), [""; 0], "the second replaced the first");
    }

    #[test]
    fn an_unanswered_command_may_be_carried_out_or_not() {
        let mut carried_out = told(&[(30, 40, Said::Next(RANGE + 1))]);
        assert_eq!(contradictions(&carried_out, 0).len(), 1, "nobody has set it");
        carried_out.unanswered.push((10, Command::Set(RANGE)));
        assert_eq!(contradictions(&carried_out, 0), [""; 0]);
        let mut not = told(&[(30, 40, Said::Next(7))]);
        not.unanswered.push((10, Command::Set(RANGE)));
        assert_eq!(contradictions(&not, 0), [""; 0]);
    }

    #[test]
    fn a_reply_of_the_predecessor_after_the_successor_s_is_found() {
        let status = |pid| Said::Status { pid, next: 0 };
        let in_order = [(10, 20, status(1)), (15, 30, status(2)), (25, 40, status(1))];
        assert_eq!(owners_out_of_order(&told(&in_order), &[1, 2]), [""; 0]);
        let two_owners = [(10, 30, status(2)), (35, 40, status(1))];
        assert_eq!(owners_out_of_order(&told(&two_owners), &[1, 2]).len(), 1);
        assert_eq!(owners_out_of_order(&told(&two_owners), &[2]).len(), 1, "a stranger");
    }
}
