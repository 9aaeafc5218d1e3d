// SPDX-License-Identifier: Apache-2.0
//! Ticks: the numbers in the journal, and the claims for every boot about them.

use crate::claims::Claims;
use crate::machine::Boot;
use crate::story;
use std::time::Duration;

/// The period in the units.
pub(crate) const PERIOD: Duration = Duration::from_millis(100);

/// One logged number.
#[derive(Clone, Debug)]
pub(crate) struct Tick {
    pub(crate) number: u64,
    pub(crate) stage: String,
    /// The PID of the process that logged it.
    pub(crate) pid: u64,
    /// When it was due, by CLOCK_MONOTONIC.
    pub(crate) deadline: Duration,
    /// When it happened.
    pub(crate) actual: Duration,
}

impl Tick {
    pub(crate) fn late(&self) -> Duration {
        self.actual.saturating_sub(self.deadline)
    }
}

/// All ticks of a boot, in order.
pub(crate) fn ticks(boot: &Boot) -> Vec<Tick> {
    let mut ticks: Vec<_> = boot
        .journal
        .iter()
        .filter_map(|record| {
            Some(Tick {
                number: record.number("COUNTER")?,
                stage: record.field("STAGE")?.to_owned(),
                pid: record.number("_PID")?,
                deadline: Duration::from_nanos(record.number("DEADLINE_NS")?),
                actual: Duration::from_nanos(record.number("ACTUAL_NS")?),
            })
        })
        .collect();
    ticks.sort_by_key(|tick| tick.actual);
    ticks
}

/// Number of ticks that a stage, `initrd` or `root`, has logged.
pub(crate) fn count(ticks: &[Tick], stage: &str) -> usize {
    ticks.iter().filter(|tick| tick.stage == stage).count()
}

/// Every number from `first` on is logged once and in order.
pub(crate) fn each_once_from(first: u64, ticks: &[Tick], claims: &mut Claims) {
    let odd = ticks.iter().zip(first..).find(|(tick, due)| tick.number != *due);
    claims.that(
        &format!("every number once and in order from {first}"),
        !ticks.is_empty() && odd.is_none(),
        odd.map_or_else(
            || "no tick at all".to_owned(),
            |(tick, due)| {
                let (number, stage) = (tick.number, &tick.stage);
                format!("where {due} was due, {number} came ({stage}, {:?})", tick.actual)
            },
        ),
    );
}

/// Both stages tick, and every number from 0 on is logged once and in order across the handoff.
pub(crate) fn unbroken(ticks: &[Tick], claims: &mut Claims) {
    let counts = (count(ticks, "initrd"), count(ticks, "root"));
    claims.that("both stages tick", counts.0 > 10 && counts.1 > 10, format!("{counts:?}"));
    each_once_from(0, ticks, claims);
}

/// Deadlines are one period apart, number by number, from the first tick to the last. The count is
/// the one that the clock implies, whichever process owns the counter.
pub(crate) fn in_rhythm(ticks: &[Tick], claims: &mut Claims) {
    let Some(first) = ticks.first() else {
        return claims.that("there is a rhythm", false, "no tick at all");
    };
    let due = |tick: &Tick| {
        let periods = u32::try_from(tick.number.checked_sub(first.number)?).ok()?;
        first.deadline.checked_add(PERIOD.checked_mul(periods)?)
    };
    let odd = ticks.iter().find(|tick| due(tick) != Some(tick.deadline));
    claims.that(
        "each number is due a period after the one before, from first to last",
        odd.is_none(),
        odd.map_or_else(String::new, |tick| {
            let (number, stage, deadline) = (tick.number, &tick.stage, tick.deadline);
            format!("{number} ({stage}) was due at {deadline:?}, by the clock {:?}", due(tick))
        }),
    );
}

/// Deadlines are a positive whole number of periods apart, whatever numbers clients set and
/// whichever lines are dropped.
pub(crate) fn periods_apart(period: Duration, ticks: &[Tick], claims: &mut Claims) {
    let odd = ticks.windows(2).find(|pair| distance(period, &pair[0], &pair[1]).is_none());
    claims.that(
        &format!("deadlines are {period:?} apart, or several times as much"),
        ticks.len() > 1 && odd.is_none(),
        odd.map_or_else(String::new, |pair| {
            format!("{:?} and then {:?}", pair[0].deadline, pair[1].deadline)
        }),
    );
}

/// Number of ticks that were due between the first and the last of these, but are not among them.
pub(crate) fn missing(period: Duration, ticks: &[Tick]) -> u64 {
    let pairs = ticks.windows(2);
    pairs.filter_map(|pair| Some(distance(period, &pair[0], &pair[1])? - 1)).sum()
}

/// The distance in periods, if it is a positive whole number.
fn distance(period: Duration, one: &Tick, other: &Tick) -> Option<u64> {
    let distance = other.deadline.checked_sub(one.deadline)?.as_nanos();
    let whole = distance > 0 && distance % period.as_nanos() == 0;
    whole.then(|| u64::try_from(distance / period.as_nanos()).ok())?
}

/// The owners in order, each with its ticks. An owner that returns is listed twice.
pub(crate) fn owners(ticks: &[Tick]) -> Vec<&[Tick]> {
    ticks.chunk_by(|a, b| a.pid == b.pid).collect()
}

/// One owner after another, in these stages.
pub(crate) fn owned_by(stages: &[&str], ticks: &[Tick], claims: &mut Claims) {
    let owners: Vec<_> = owners(ticks).iter().map(|ticks| ticks[0].stage.as_str()).collect();
    claims.that("one owner after another", owners == stages, owners.join(", "));
}

/// No tick is a period late, not counting the time for which the whole machine stood still: a busy
/// host may delay an idle guest.
pub(crate) fn on_time(boot: &Boot, ticks: &[Tick], claims: &mut Claims) {
    let bound = PERIOD + story::standstill(boot);
    let latest = ticks.iter().max_by_key(|tick| tick.late());
    claims.that(
        &format!("no tick more than {bound:?} late"),
        latest.is_none_or(|tick| tick.late() <= bound),
        latest.map_or_else(String::new, |tick| {
            format!("{} in {} was {:?} late", tick.number, tick.stage, tick.late())
        }),
    );
}
