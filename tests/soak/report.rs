// SPDX-License-Identifier: Apache-2.0
//! Report: the promises, the number of their tests, and the measured values.

use std::collections::BTreeMap;
use std::fmt::{self, Write};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::chain::Outcome;
use crate::fate::Fate;
use testkit::judge::{Promise, Wrong};

/// Permitted growth of an owner's peak memory over the first process's, in kB. Twenty clients need
/// less; a thousand leaked connections need more.
const MORE_MEMORY: u64 = 1024;

/// Permitted additional descriptors: one that is about to be closed is not a leak.
const MORE_DESCRIPTORS: u64 = 2;

/// A promise that was broken.
#[derive(Clone, Debug)]
pub(crate) enum Broken {
    /// Found in the replies, the logs and the state file.
    Judged(Wrong),
    /// A process that nobody killed did not end cleanly.
    Ending(String),
    /// The memory of an owner, and of the first process.
    Memory(u64, u64),
    Descriptors(u64, u64),
    /// Of the service with a device.
    Device(String),
    /// A wait exceeded its limit.
    Waiting(String),
}

impl From<Wrong> for Broken {
    fn from(wrong: Wrong) -> Self {
        Self::Judged(wrong)
    }
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Judged(wrong) => wrong.fmt(f),
            Self::Ending(what) => write!(f, "{ENDING}: {what}"),
            Self::Device(what) => write!(f, "{IN_USE}: {what}"),
            Self::Waiting(what) => write!(f, "{SERVED}: {what}"),
            Self::Memory(seen, first) => {
                write!(f, "{BOUNDED}: {seen} kB, and the first process had {first} kB")
            }
            Self::Descriptors(seen, first) => {
                write!(f, "{CLOSED}: {seen} of its own, and the first process had {first}")
            }
        }
    }
}

const SERVED: &str = "whoever dies, somebody serves again";
const IN_USE: &str = "whoever dies, the device is in use, and opened again only if it was lost";
const ENDING: &str = "who is not killed ends with success, its socket removed";
const BOUNDED: &str = "memory does not grow from handoff to handoff";
const CLOSED: &str = "descriptors do not grow from handoff to handoff";

/// All rounds of one fate.
#[derive(Default)]
struct Row {
    rounds: usize,
    connections: usize,
    replies: usize,
    lines: usize,
    dropped: u64,
    named: usize,
    holes: Vec<u64>,
}

/// The promise, in the words of the table.
impl Broken {
    fn promise(&self) -> String {
        match self {
            Self::Judged(wrong) => wrong.promise.to_string(),
            Self::Ending(_) => ENDING.to_owned(),
            Self::Memory(..) => BOUNDED.to_owned(),
            Self::Descriptors(..) => CLOSED.to_owned(),
            Self::Device(_) => IN_USE.to_owned(),
            Self::Waiting(_) => SERVED.to_owned(),
        }
    }
}

/// The sums of all rounds so far.
pub(crate) struct Report {
    seed: u64,
    /// The directory of the logs.
    pub(crate) directory: PathBuf,
    begun: Instant,
    rows: BTreeMap<Fate, Row>,
    /// The round under way.
    under_way: Option<Fate>,
    rounds: usize,
    /// Rounds in which no process was killed or stopped for good.
    gentle: usize,
    ticks: u64,
    commands: usize,
    answers: usize,
    sets: usize,
    connected: usize,
    started: usize,
    ended: usize,
    owner: u32,
    memory: Span,
    descriptors: Span,
}

/// The use of resources: of the first process, of the last one, and the maximum after the first.
#[derive(Clone, Copy, Default)]
struct Span {
    first: u64,
    last: u64,
    most: u64,
}

impl Span {
    fn add(&mut self, first: u64, value: u64) {
        self.first = first;
        self.last = value;
        self.most = self.most.max(value);
    }
}

impl Report {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            seed,
            directory: PathBuf::new(),
            begun: Instant::now(),
            rows: BTreeMap::new(),
            under_way: None,
            rounds: 0,
            gentle: 0,
            ticks: 0,
            commands: 0,
            answers: 0,
            sets: 0,
            connected: 0,
            started: 1,
            ended: 0,
            owner: 0,
            memory: Span::default(),
            descriptors: Span::default(),
        }
    }

    /// Begins a round.
    pub(crate) fn begin(&mut self, fate: Fate) {
        self.under_way = Some(fate);
        self.rounds += 1;
    }

    /// Ends a round whose evidence is right.
    pub(crate) fn add(&mut self, fate: Fate, outcome: &Outcome) -> Result<(), Broken> {
        let Outcome { loss, figures, at_first, .. } = outcome;
        let row = self.rows.entry(fate).or_default();
        row.rounds += 1;
        row.connections += loss.connections;
        row.replies += loss.replies;
        row.lines += loss.lines;
        row.dropped += loss.dropped;
        row.named += loss.named;
        row.holes.push(loss.silence);
        self.gentle += usize::from(!outcome.may_end);
        self.ticks += loss.ticks;
        self.commands += outcome.commands;
        self.answers += outcome.answers;
        self.sets += outcome.sets;
        self.connected += outcome.connected;
        self.started += outcome.started;
        self.ended += outcome.ended;
        self.owner = outcome.owner;
        self.memory.add(at_first.memory, figures.memory);
        self.descriptors.add(at_first.descriptors, figures.descriptors);
        if figures.memory > at_first.memory + MORE_MEMORY {
            return Err(Broken::Memory(figures.memory, at_first.memory));
        }
        if figures.descriptors > at_first.descriptors + MORE_DESCRIPTORS {
            return Err(Broken::Descriptors(figures.descriptors, at_first.descriptors));
        }
        self.under_way = None;
        Ok(())
    }

    fn longest_hole(&self) -> u64 {
        let holes = self.rows.values().flat_map(|row| &row.holes);
        holes.copied().max().unwrap_or_default()
    }

    /// One line of progress.
    pub(crate) fn progress(&self) -> String {
        let Self { begun, rounds, ticks, answers, owner, memory, descriptors, .. } = self;
        let hole = milliseconds(self.longest_hole());
        format!(
            "{:4} s  {rounds} rounds, {ticks} ticks, {answers} replies, longest hole {hole:.0} ms, \
             owner {owner}: {} kB, {} descriptors of its own",
            begun.elapsed().as_secs(),
            memory.last,
            descriptors.last,
        )
    }

    /// The line that names the broken promise.
    pub(crate) fn verdict(&self, broken: &str) -> String {
        let Self { rounds, seed, .. } = self;
        let directory = self.directory.display();
        let fate = self.under_way.map_or("the end".to_owned(), |fate| fate.to_string());
        format!(
            "soak: broken in round {rounds} ({fate}), seed {seed}, logs in {directory}: {broken}"
        )
    }

    /// The line that reports that no promise was broken.
    pub(crate) fn praise(&self) -> String {
        let (rounds, seed) = (self.rounds, self.seed);
        let minutes = self.begun.elapsed().as_secs_f64() / 60.0;
        format!(
            "nothing that was promised was broken: {rounds} rounds, {minutes:.1} min, seed {seed}"
        )
    }

    /// Both tables, with marks at the broken promises.
    pub(crate) fn tables(&self, broken: &[Broken]) -> String {
        let mut text = String::new();
        // Writing to a string does not fail.
        let _ = self.write_rounds(&mut text).and_then(|()| self.write_promises(&mut text, broken));
        text
    }

    fn write_rounds(&self, text: &mut String) -> fmt::Result {
        writeln!(
            text,
            "{:35}  rounds  connections  replies  lines lost  dropped  named  silence: median  longest",
            "lost by right"
        )?;
        for fate in Fate::ALL {
            let Some(row) = self.rows.get(&fate) else { continue };
            let Row { rounds, connections, replies, lines, dropped, named, holes } = row;
            let mut holes = holes.clone();
            holes.sort_unstable();
            let median = milliseconds(holes[holes.len() / 2]);
            let longest = milliseconds(holes[holes.len() - 1]);
            writeln!(
                text,
                "{fate:35}  {rounds:6}  {connections:11}  {replies:7}  {lines:10}  {dropped:7}  {named:5}  \
                 {median:12.1} ms  {longest:4.0} ms"
            )?;
        }
        writeln!(text)
    }

    fn write_promises(&self, text: &mut String, broken: &[Broken]) -> fmt::Result {
        let lost = |of: fn(&Row) -> usize| self.rows.values().map(of).sum::<usize>();
        let (connections, replies) = (lost(|row| row.connections), lost(|row| row.replies));
        let dropped: u64 = self.rows.values().map(|row| row.dropped).sum();
        let (lines, named) = (lost(|row| row.lines), lost(|row| row.named));
        let judged: usize = self.rows.values().map(|row| row.rounds).sum();
        let Self { ticks, commands, answers, sets, connected, started, ended, .. } = self;
        let Self { memory, descriptors, gentle, .. } = self;
        let rows = [
            (
                Promise::TicksOnTime.to_string(),
                format!("{ticks} ticks"),
                "each once, the rhythm not shifted".to_owned(),
            ),
            (
                Promise::LoggedOnce.to_string(),
                format!("{ticks} ticks"),
                "none twice, none out of order".to_owned(),
            ),
            (
                Promise::LostLinesAreNamed.to_string(),
                format!("{ticks} ticks"),
                format!("{lines} lost, each among {named} named or {dropped} dropped and counted"),
            ),
            (
                Promise::EachCommandIsAnswered.to_string(),
                format!("{commands} commands"),
                format!("{answers} answered, {replies} on connections that ended, 0 wrong"),
            ),
            (
                Promise::AcknowledgedHolds.to_string(),
                format!("{sets} set_counter"),
                "0 lost".to_owned(),
            ),
            (
                Promise::NobodyIsRefused.to_string(),
                format!("{connected} connects"),
                "0 refused".to_owned(),
            ),
            (
                Promise::ConnectionsLast.to_string(),
                format!("{gentle} rounds without an end"),
                format!("0 ended there, {connections} with owners in the others"),
            ),
            (
                Promise::OneOwner.to_string(),
                format!("{judged} changes and tries"),
                "no reply of one after those of the next".to_owned(),
            ),
            (
                SERVED.to_owned(),
                format!("{judged} changes and tries"),
                format!("longest time without a reply {:.0} ms", milliseconds(self.longest_hole())),
            ),
            (ENDING.to_owned(), format!("{started} processes"), format!("{ended} did, 0 failed")),
            (BOUNDED.to_owned(), format!("{judged} owners"), range(*memory, "kB at its peak")),
            (CLOSED.to_owned(), format!("{judged} owners"), range(*descriptors, "of its own")),
        ];
        let width = |column: fn(&(String, String, String)) -> &String| {
            rows.iter().map(|row| column(row).chars().count()).max().unwrap_or_default()
        };
        let (first, second) = (width(|row| &row.0), width(|row| &row.1));
        writeln!(text, "{:first$}  {:second$}  seen", "promise", "tried")?;
        for (promise, tried, seen) in &rows {
            let is_broken = broken.iter().any(|broken| broken.promise() == *promise);
            let seen = if is_broken { "BROKEN in the last round; before that: " } else { "" }
                .to_owned()
                + seen;
            writeln!(text, "{promise:first$}  {tried:second$}  {seen}")?;
        }
        Ok(())
    }
}

fn range(span: Span, unit: &str) -> String {
    format!("first {}, last {}, most {} {unit}", span.first, span.last, span.most)
}

fn milliseconds(nanos: u64) -> f64 {
    Duration::from_nanos(nanos).as_secs_f64() * 1e3
}
