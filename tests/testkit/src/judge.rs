// SPDX-License-Identifier: Apache-2.0
//! Judge: whether replies, logs and the final state file match one undisturbed counter.
//!
//! A tick has a number and an index. The index counts ticks since the first owner's start, and
//! follows from the clock, because the rhythm never shifts. `set_counter` begins a new range of
//! numbers at some index. Each reply, each logged tick and the final record narrow this index down,
//! and all must agree.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::ops::Range;

use crate::line::Line;
use crate::load::{RANGE, Said, Told};
use crate::order;
use crate::record::{Record, Rhythm};

/// The promises to a user of the counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Promise {
    NobodyIsRefused,
    EachCommandIsAnswered,
    ConnectionsLast,
    AcknowledgedHolds,
    OneOwner,
    TicksOnTime,
    LoggedOnce,
    LostLinesAreNamed,
}

impl fmt::Display for Promise {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::NobodyIsRefused => "no client is refused",
            Self::EachCommandIsAnswered => "each command is answered once, and in order",
            Self::ConnectionsLast => "a connection ends only with its owner",
            Self::AcknowledgedHolds => "every acknowledged command holds",
            Self::OneOwner => "one owner at a time",
            Self::TicksOnTime => "every tick happens once, and on its own time",
            Self::LoggedOnce => "no number is logged twice, and none out of order",
            Self::LostLinesAreNamed => "a lost line is named, or counted where it found no room",
        })
    }
}

/// How a promise was broken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wrong {
    pub promise: Promise,
    pub what: String,
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.promise, self.what)
    }
}

/// A broken promise for each of `whats`.
fn all(promise: Promise, whats: impl IntoIterator<Item = String>) -> impl Iterator<Item = Wrong> {
    whats.into_iter().map(move |what| Wrong { promise, what })
}

/// All evidence of one try.
pub struct Evidence {
    pub rhythm: Rhythm,
    /// The record before the first client and the first line.
    pub first: Record,
    pub told: Told,
    /// All processes' lines, in the order of their times.
    pub lines: Vec<Line>,
    /// The PIDs of the processes that may have owned the counter, in order.
    pub owners: Vec<u32>,
    /// The record of the last owner.
    pub last: Record,
    /// Whether an owner was killed together with the connections of its clients.
    pub may_end: bool,
    /// Whether a process was killed, so that its unwritten lines are lost.
    pub may_lose_lines: bool,
    /// Whether lines may be dropped and counted, because the machine may have no time for them.
    pub may_drop_lines: bool,
}

/// The permitted losses.
#[derive(Clone, Copy, Debug, Default)]
pub struct Loss {
    /// Connections that ended with their owner.
    pub connections: usize,
    /// Commands on them without a reply.
    pub replies: usize,
    /// Lines of ticks that were lost with their process, and reported.
    pub lines: usize,
    /// Lines that were dropped and counted.
    pub dropped: u64,
    /// Ticks that an owner reported as possibly missing, whether they are or not.
    pub named: usize,
    /// The longest time without any reply to any client.
    pub silence: u64,
    pub ticks: u64,
}

/// Returns the permitted losses, or everything that is wrong.
pub fn judge(evidence: &Evidence) -> Result<Loss, Vec<Wrong>> {
    let Evidence { rhythm, first, told, lines, owners, last, .. } = evidence;
    let mut wrong: Vec<_> = all(Promise::EachCommandIsAnswered, told.wrong.clone()).collect();
    let mut say = |promise, what| wrong.push(Wrong { promise, what });
    if told.refused > 0 {
        say(Promise::NobodyIsRefused, format!("{} connections were refused", told.refused));
    }
    if told.ended > 0 && !evidence.may_end {
        let what = format!("{} connections ended and their owner lives", told.ended);
        say(Promise::ConnectionsLast, what);
    }
    let [begin, ticks] = [first, last].map(|record| rhythm.before(record.deadline));
    for record in [first, last].into_iter().filter(|it| rhythm.before(it.deadline).is_none()) {
        let what = format!("the rhythm has shifted: {record:?}, {rhythm:?}");
        say(Promise::TicksOnTime, what);
    }
    let begin = begin.unwrap_or_default();
    wrong.extend(all(Promise::AcknowledgedHolds, order::contradictions(told, first.counter)));
    wrong.extend(all(Promise::OneOwner, order::owners_out_of_order(told, owners)));

    let mut bases = Bases::new(*rhythm, first.counter, begin);
    bases.learn_from_answers(told);
    bases.learn_from_log(lines);
    if let Some(ticks) = ticks {
        bases.narrow(last.counter, ticks, ticks, "the state file");
    }
    bases.propagate();
    let log = Log::read(lines, &bases, begin);
    wrong.extend(all(Promise::TicksOnTime, std::mem::take(&mut bases.wrong)));
    wrong.extend(all(Promise::LoggedOnce, log.wrong.iter().cloned()));
    let missing = log.missing(begin..ticks.unwrap_or_default());
    let dropped = if evidence.may_drop_lines { log.dropped } else { 0 };
    let mut say = |what| wrong.push(Wrong { promise: Promise::LostLinesAreNamed, what });
    if missing.len() as u64 > dropped && !evidence.may_lose_lines {
        say(format!("ticks {missing:?} were not logged, and nobody was killed"));
    }
    let unnamed: Vec<_> = missing.difference(&log.named).collect();
    if unnamed.len() as u64 > dropped {
        say(format!("ticks {unnamed:?} are missing from the log, and no process reports them"));
    }
    if !wrong.is_empty() {
        return Err(wrong);
    }
    Ok(Loss {
        connections: told.ended,
        replies: told.unanswered.len(),
        lines: missing.len(),
        dropped: log.dropped,
        named: log.named.len(),
        silence: longest_silence(told),
        ticks: ticks.unwrap_or_default().saturating_sub(begin),
    })
}

/// The longest time between two replies to any clients.
pub fn longest_silence(told: &Told) -> u64 {
    let mut times: Vec<_> = told.answers.iter().map(|answer| answer.received).collect();
    times.sort_unstable();
    times.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or_default()
}

/// The index at which each range of numbers begins, as far as it is known.
struct Bases {
    rhythm: Rhythm,
    /// The minimum and maximum index of a range's first number.
    bounds: BTreeMap<u64, (u64, u64)>,
    /// The first range began when the second one was at this offset.
    links: BTreeSet<(u64, u64, u64)>,
    wrong: Vec<String>,
}

/// Larger than any index.
const UNKNOWN: u64 = u64::MAX / 4;

impl Bases {
    /// `first` is the number of the tick of index `begin`.
    fn new(rhythm: Rhythm, first: u64, begin: u64) -> Self {
        // If the file and the clock disagree, the judge has already reported it.
        let base = begin.saturating_sub(first % RANGE);
        let bounds = BTreeMap::from([(first / RANGE, (base, base))]);
        Self { rhythm, bounds, links: BTreeSet::new(), wrong: Vec::new() }
    }

    fn learn_from_answers(&mut self, told: &Told) {
        for answer in &told.answers {
            let number = match answer.said {
                Said::Next(number) | Said::Status { next: number, .. } => number,
                Said::Replaced { previous, by } => {
                    self.links.insert((by / RANGE, previous / RANGE, previous % RANGE));
                    previous
                }
                Said::Echo => continue,
            };
            let (least, most) =
                (self.rhythm.due_by(answer.sent), self.rhythm.due_by(answer.received));
            self.narrow(number, least, most, &format!("{answer:?}"));
        }
    }

    fn learn_from_log(&mut self, lines: &[Line]) {
        for line in lines {
            if let Some(number) = tick(line) {
                // The tick was due when it was logged, to the microsecond that the log shows.
                match self.rhythm.due_by(line.time + 1000).checked_sub(1) {
                    Some(most) => self.narrow(number, 0, most, &format!("{line:?}")),
                    None => self.wrong.push(format!("a tick before its time: {line:?}")),
                }
            } else if let Some((number, previous)) = setting(line) {
                self.links.insert((number / RANGE, previous / RANGE, previous % RANGE));
            }
        }
    }

    /// `number` has an index within these bounds.
    fn narrow(&mut self, number: u64, least: u64, most: u64, why: &str) {
        let (range, offset) = (number / RANGE, number % RANGE);
        let (low, high) = self.bounds.entry(range).or_insert((0, UNKNOWN));
        let (least, most) = (least.saturating_sub(offset), most.checked_sub(offset));
        *low = (*low).max(least);
        *high = (*high).min(most.unwrap_or_default());
        if most.is_none() || low > high {
            self.wrong.push(format!("{number} is not what the clock implies, by {why}"));
            // Reported only once.
            (*low, *high) = (0, UNKNOWN);
        }
    }

    /// Makes linked ranges agree.
    fn propagate(&mut self) {
        let mut changes = true;
        while changes {
            changes = false;
            for (range, previous, offset) in &self.links {
                let before = *self.bounds.get(previous).unwrap_or(&(0, UNKNOWN));
                let after = *self.bounds.get(range).unwrap_or(&(0, UNKNOWN));
                let low = after.0.max(before.0 + offset);
                let high = after.1.min(before.1 + offset);
                if low > high || high < *offset {
                    self.wrong.push(format!(
                        "{range} followed {previous} (times {RANGE}) + {offset}, \
                         which the clock does not allow: {before:?}, {after:?}"
                    ));
                    return;
                }
                let now = [(*range, (low, high)), (*previous, (low - offset, high - offset))];
                for (range, bounds) in now {
                    changes |= self.bounds.insert(range, bounds) != Some(bounds);
                }
            }
        }
    }

    /// The index of a number, if it is certain.
    fn index(&self, number: u64) -> Option<u64> {
        let (low, high) = self.bounds.get(&(number / RANGE))?;
        (low == high).then_some(low + number % RANGE)
    }
}

/// The content of the log.
#[derive(Default)]
struct Log {
    /// Indices of the ticks.
    logged: BTreeSet<u64>,
    /// Indices of ticks that may be missing.
    named: BTreeSet<u64>,
    /// Number of dropped lines.
    dropped: u64,
    wrong: Vec<String>,
}

impl Log {
    /// Earlier owners have logged the ticks before index `begin`.
    fn read(lines: &[Line], bases: &Bases, begin: u64) -> Self {
        let (mut log, mut numbers) = (Self::default(), BTreeSet::new());
        let mut last = begin.checked_sub(1);
        for line in lines {
            if let Some(number) = tick(line) {
                if !numbers.insert(number) {
                    log.wrong.push(format!("logged twice: {line:?}"));
                }
                let Some(index) = bases.index(number) else {
                    log.wrong.push(format!("the index of this tick is unknown: {line:?}"));
                    continue;
                };
                if last.is_some_and(|last| index <= last) {
                    log.wrong.push(format!("after tick {last:?} came {index}: {line:?}"));
                }
                last = Some(index);
                log.logged.insert(index);
            }
            log.dropped += dropped(line).unwrap_or_default();
            if let Some((first, count, next)) = may_be_missing(line) {
                let end = bases.index(next).unwrap_or_default();
                let named = end.saturating_sub(count)..end;
                if first.is_some_and(|first| bases.index(first) != Some(named.start)) {
                    log.wrong.push(format!("not all of these numbers ever were: {line:?}"));
                }
                log.named.extend(named);
            }
        }
        log
    }

    /// The ticks of these that are not in the log.
    fn missing(&self, ticks: Range<u64>) -> BTreeSet<u64> {
        ticks.filter(|index| !self.logged.contains(index)).collect()
    }
}

/// The number, if the line is a tick.
pub fn tick(line: &Line) -> Option<u64> {
    line.message.parse().ok()
}

/// `warning: 99 log lines dropped: the log was not read fast enough`.
fn dropped(line: &Line) -> Option<u64> {
    let (count, _) = line.message.strip_prefix("warning: ")?.split_once(" log lines dropped")?;
    count.parse().ok()
}

/// `Setting the counter to 5, previous value 3`.
fn setting(line: &Line) -> Option<(u64, u64)> {
    let numbers = line.message.strip_prefix("Setting the counter to ")?;
    let (number, previous) = numbers.split_once(", previous value ")?;
    Some((number.parse().ok()?, previous.parse().ok()?))
}

/// The first number, the count, and the number after the last: `Numbers 135 to 136 may be missing
/// …`, `Number 136 may be missing …`, or, without the first number, `The last 2 before the counter
/// was set to 137 may be missing …`.
fn may_be_missing(line: &Line) -> Option<(Option<u64>, u64, u64)> {
    let message = line.message.strip_prefix("warning: ").unwrap_or(&line.message);
    let (named, _) = message.split_once(" may be missing")?;
    if let Some(rest) = named.strip_prefix("The last ") {
        let (count, next) = rest.split_once(" before the counter was set to ")?;
        return Some((None, count.parse().ok()?, next.parse().ok()?));
    }
    let (first, last) = match named.strip_prefix("Number ") {
        Some(number) => (number, number),
        None => named.strip_prefix("Numbers ")?.split_once(" to ")?,
    };
    let (first, last) = (first.parse::<u64>().ok()?, last.parse::<u64>().ok()?);
    Some((Some(first), last - first + 1, last + 1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::{Answer, Command};

    const RHYTHM: Rhythm = Rhythm { start: 10_000_000, period: 10_000_000 };

    fn line(ms: u64, message: &str) -> Line {
        let (identifier, message) = (String::new(), message.to_owned());
        Line { time: ms * 1_000_000, identifier, pid: 1, message }
    }

    fn answer(sent_ms: u64, received_ms: u64, said: Said) -> Answer {
        Answer { sent: sent_ms * 1_000_000, received: received_ms * 1_000_000, said }
    }

    /// Five ticks; the third and later ones are in another range.
    fn sound() -> Evidence {
        let set = Said::Replaced { previous: 2, by: RANGE };
        let lines = [
            line(10, "0"),
            line(20, "1"),
            line(30, &format!("Setting the counter to {RANGE}, previous value 2")),
            line(30, &RANGE.to_string()),
            line(40, &(RANGE + 1).to_string()),
            line(50, &(RANGE + 2).to_string()),
        ];
        let answers = vec![
            answer(11, 12, Said::Next(1)),
            answer(25, 26, set),
            answer(55, 56, Said::Next(RANGE + 3)),
        ];
        Evidence {
            rhythm: RHYTHM,
            first: Record { counter: 0, deadline: 10_000_000, period: 10_000_000 },
            told: Told { answers, ..Told::default() },
            lines: lines.to_vec(),
            owners: vec![1],
            last: Record { counter: RANGE + 3, deadline: 60_000_000, period: 10_000_000 },
            may_end: false,
            may_lose_lines: false,
            may_drop_lines: false,
        }
    }

    #[track_caller]
    fn assert_found(evidence: &Evidence, what: &str) {
        let wrong = judge(evidence).expect_err(what);
        assert!(wrong.iter().any(|wrong| wrong.what.contains(what)), "{what}: {wrong:#?}");
    }

    #[test]
    fn what_is_sound_is_found_sound() {
        let loss = judge(&sound()).unwrap_or_else(|wrong| panic!("{wrong:#?}"));
        assert_eq!((loss.ticks, loss.lines, loss.connections), (5, 0, 0));
    }

    #[test]
    fn what_is_sound_from_a_later_tick_on_is_found_sound() {
        let mut evidence = sound();
        evidence.first = Record { counter: 1, deadline: 20_000_000, period: 10_000_000 };
        assert_found(&evidence, "after tick");
        evidence.lines.remove(0);
        assert_eq!(judge(&evidence).map(|loss| loss.ticks), Ok(4));
        evidence.first.deadline += 10_000_000;
        assert_found(&evidence, "not what the clock implies");
        // The same in a range that was set earlier.
        let mut evidence = sound();
        evidence.first = Record { counter: RANGE + 1, deadline: 40_000_000, period: 10_000_000 };
        evidence.lines.drain(..4);
        evidence.told.answers.drain(..2);
        assert_eq!(judge(&evidence).map(|loss| loss.ticks), Ok(2));
        evidence.lines.remove(0);
        assert_found(&evidence, "nobody was killed");
    }

    #[test]
    fn a_number_that_is_logged_twice_is_found() {
        let mut evidence = sound();
        evidence.lines.insert(2, line(21, "1"));
        assert_found(&evidence, "logged twice");
    }

    #[test]
    fn a_tick_before_its_time_is_found() {
        let mut evidence = sound();
        evidence.lines[1].time = 19_000_000;
        assert_found(&evidence, "not what the clock implies");
    }

    #[test]
    fn a_missing_line_counts_unless_a_killed_process_had_it() {
        let mut evidence = sound();
        evidence.lines.remove(1);
        assert_found(&evidence, "nobody was killed");
        evidence.may_lose_lines = true;
        assert_found(&evidence, "no process reports them");
        evidence.lines.insert(1, line(29, "warning: Number 1 may be missing from the log: …"));
        assert_eq!(judge(&evidence).map(|loss| loss.lines), Ok(1));
        let wrong = format!("Numbers {} to {} may be missing …", RANGE - 1, RANGE);
        evidence.lines[1] = line(41, &wrong);
        assert_found(&evidence, "ever were");
    }

    #[test]
    fn a_dropped_and_counted_line_may_be_missing() {
        let mut evidence = sound();
        evidence.lines.remove(1);
        evidence.may_drop_lines = true;
        assert_found(&evidence, "nobody was killed");
        let report = "warning: 1 log lines dropped: the log was not read fast enough";
        evidence.lines.insert(2, line(30, report));
        assert_eq!(judge(&evidence).map(|loss| (loss.lines, loss.dropped)), Ok((1, 1)));
        evidence.lines.remove(3);
        assert_found(&evidence, "nobody was killed");
        let mut evidence = sound();
        evidence.lines[1] = line(30, report);
        assert_found(&evidence, "nobody was killed");
    }

    #[test]
    fn every_way_to_say_what_is_missing_is_understood() {
        for (message, understood) in [
            ("warning: Number 136 may be missing from the log: …", Some((Some(136), 1, 137))),
            ("warning: Numbers 135 to 136 may be missing from …", Some((Some(135), 2, 137))),
            (
                "warning: The last 3 before the counter was set to 7 may be missing from …",
                Some((None, 3, 7)),
            ),
            ("Adopting 137 and 3 clients from …", None),
        ] {
            assert_eq!(may_be_missing(&line(0, message)), understood, "{message}");
        }
    }

    #[test]
    fn a_reply_that_lags_behind_the_clock_is_found() {
        let mut evidence = sound();
        evidence.told.answers[0] = answer(21, 22, Said::Next(1));
        assert_found(&evidence, "not what the clock implies");
        // The same in a range whose beginning only other replies show.
        let mut evidence = sound();
        evidence.told.answers[2] = answer(55, 56, Said::Next(RANGE + 2));
        assert_found(&evidence, "not what the clock implies");
    }

    #[test]
    fn a_rhythm_that_shifts_is_found() {
        let mut evidence = sound();
        evidence.last.deadline += 1;
        assert_found(&evidence, "the rhythm has shifted");
    }

    #[test]
    fn an_acknowledged_command_that_did_not_last_is_found() {
        let mut evidence = sound();
        evidence.told.answers[2] = answer(55, 56, Said::Next(5));
        assert_found(&evidence, "were there at once");
    }

    #[test]
    fn ticks_of_two_owners_that_interleave_are_found() {
        let mut evidence = sound();
        evidence.lines.insert(5, line(40, &(RANGE + 2).to_string()));
        evidence.lines[6] = line(50, &(RANGE + 1).to_string());
        assert_found(&evidence, "after tick");
    }

    #[test]
    fn an_unanswered_command_without_an_end_is_found() {
        let mut evidence = sound();
        evidence.told.ended = 1;
        evidence.told.unanswered.push((0, Command::Get));
        assert_found(&evidence, "their owner lives");
        evidence.may_end = true;
        assert_eq!(judge(&evidence).map(|loss| loss.replies), Ok(1));
    }
}
