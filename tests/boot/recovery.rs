// SPDX-License-Identifier: Apache-2.0
//! Recovery: an owner died, and the next one continues from the state file. Compares its report
//! with the log.

use crate::claims::Claims;
use crate::machine::Boot;
use crate::ticks::{PERIOD, Tick};
use std::collections::BTreeSet;
use std::ops::RangeInclusive;
use std::time::Duration;

/// The report of a new owner that continues after another one died.
struct Recovery {
    /// The PID of the new owner.
    pid: u64,
    identifier: String,
    /// The number at which it continues.
    from: u64,
    /// Number of due ticks.
    due: u64,
    /// The time of the report.
    made: Duration,
}

/// All recoveries of a boot, in order.
fn recoveries(boot: &Boot) -> Vec<Recovery> {
    let mut recoveries: Vec<_> = boot
        .journal
        .iter()
        .filter_map(|record| {
            let rest = record.message().strip_prefix("Recovering at ")?;
            let (from, rest) = rest.split_once(" from ")?;
            let (_, due) = rest.split_once(": ")?;
            Some(Recovery {
                pid: record.number("_PID")?,
                identifier: record.identifier().to_owned(),
                from: from.parse().ok()?,
                // "no tick is due" and "one tick is due" contain no number.
                due: due.split(' ').next()?.parse().ok()?,
                made: record.made(),
            })
        })
        .collect();
    recoveries.sort_by_key(|recovery| recovery.made);
    recoveries
}

/// Number of recoveries.
pub(crate) fn count(boot: &Boot) -> u64 {
    recoveries(boot).len() as u64
}

/// Claims that these stages (by their identifiers) recover, each once, and that their reports are
/// true.
pub(crate) fn told(identifiers: &[&str], boot: &Boot, ticks: &[Tick], claims: &mut Claims) {
    let recoveries = recoveries(boot);
    let who: Vec<_> = recoveries.iter().map(|recovery| recovery.identifier.as_str()).collect();
    claims.that("who recovers says so", who == identifiers, who.join(", "));
    for Recovery { pid, from, due, made, .. } in recoveries {
        let mut of_owner = ticks.iter().filter(|tick| tick.pid == pid);
        let first = of_owner.next().map(|tick| tick.number);
        claims.that(
            &format!("process {pid} goes on from the number that it names"),
            first == Some(from),
            format!("it named {from} and came with {first:?}"),
        );
        // The owner read the clock a moment before its report.
        let overdue = |at: Duration| {
            let of_owner = ticks.iter().filter(|tick| tick.pid == pid);
            of_owner.filter(|tick| tick.deadline <= at).count() as u64
        };
        let (least, most) = (overdue(made.saturating_sub(PERIOD / 2)), overdue(made));
        claims.that(
            &format!("process {pid} names the ticks that the clock says are due"),
            (least..=most).contains(&due),
            format!("it named {due}, by the clock it is {least} to {most}"),
        );
    }
}

/// Every number from 0 on is in the log once. A new owner must have named each missing one, because
/// its line may have been queued in the owner that died.
pub(crate) fn each_once_but_named(boot: &Boot, ticks: &[Tick], claims: &mut Claims) {
    let mut seen = BTreeSet::new();
    let twice: Vec<_> = ticks.iter().map(|tick| tick.number).filter(|n| !seen.insert(*n)).collect();
    claims.that("no number twice", twice.is_empty(), format!("{twice:?}"));
    let in_order = ticks.is_sorted_by_key(|tick| tick.number);
    claims.that("numbers in order", in_order, "one comes after a larger one");
    let end = seen.last().map_or(0, |last| last + 1);
    let named = named(boot);
    let missing = (0..end).filter(|number| !seen.contains(number));
    let unnamed: Vec<_> =
        missing.filter(|number| !named.iter().any(|range| range.contains(number))).collect();
    claims.that("every number, but for what is named", unnamed.is_empty(), format!("{unnamed:?}"));
    claims.that("there are numbers", end > 20, end);
}

/// The numbers that new owners name as possibly missing.
fn named(boot: &Boot) -> Vec<RangeInclusive<u64>> {
    let parse = |message: &str| {
        let (numbers, _) = message.split_once(" may be missing from the log")?;
        if let Some(number) = numbers.strip_prefix("Number ") {
            let number = number.parse().ok()?;
            return Some(number..=number);
        }
        let (first, last) = numbers.strip_prefix("Numbers ")?.split_once(" to ")?;
        Some(first.parse().ok()?..=last.parse().ok()?)
    };
    boot.journal.iter().filter_map(|record| parse(record.message())).collect()
}
