// SPDX-License-Identifier: Apache-2.0
//! Crowd: many tries, several at a time, and the table of their results.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use crate::trial::{Outcome, Plan, make};
use testkit::judge::Wrong;

/// Number of tries at a time: a try mostly waits.
///
/// Too many: the processes under test wait for a processor. Too few: the tests take longer.
const AT_ONCE: usize = 6;

/// The result of a plan.
pub(crate) type Result = std::result::Result<Outcome, Vec<String>>;

/// Makes every try of a handoff under load.
pub(crate) fn make_all(plans: &[Plan]) -> Vec<Result> {
    all_of(plans, |plan| make(plan).map_err(|wrong| each(&wrong)))
}

/// Makes every try, in any order; a panic fails its try.
pub(crate) fn all_of<P: Sync, T: Send>(
    plans: &[P],
    make: impl Fn(&P) -> std::result::Result<T, Vec<String>> + Sync,
) -> Vec<std::result::Result<T, Vec<String>>> {
    let (next, results) = (AtomicUsize::new(0), Mutex::new(BTreeMap::new()));
    thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    let Some(plan) = plans.get(number) else { return };
                    let result = catch_unwind(AssertUnwindSafe(|| make(plan)))
                        .unwrap_or_else(|panic| Err(vec![words(&*panic)]));
                    results.lock().expect("no panic").insert(number, result);
                }
            });
        }
    });
    results.into_inner().expect("no panic").into_values().collect()
}

pub(crate) fn each(wrong: &[Wrong]) -> Vec<String> {
    wrong.iter().map(Wrong::to_string).collect()
}

/// The message of a panic.
fn words(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref().map(|text: &&str| (*text).to_owned())).unwrap_or_default()
}

/// The sums over the tries of one row.
#[derive(Default)]
struct Row {
    tries: usize,
    failed: usize,
    late: usize,
    connections: usize,
    replies: usize,
    lines: usize,
    named: usize,
    silences: Vec<u64>,
}

/// A table with a row for each name, shown whether the test passes or not.
///
/// `late` counts the tries in which the successor served before the process was hit.
pub(crate) fn show(title: &str, names: &[String], results: &[Result]) {
    let mut rows: Vec<(&String, Row)> = Vec::new();
    for (name, result) in names.iter().zip(results) {
        let place = rows.iter().position(|(row, _)| *row == name).unwrap_or_else(|| {
            rows.push((name, Row::default()));
            rows.len() - 1
        });
        let row = &mut rows[place].1;
        row.tries += 1;
        match result {
            Err(_) => row.failed += 1,
            Ok(Outcome { loss, is_late }) => {
                row.late += usize::from(*is_late);
                row.connections += loss.connections;
                row.replies += loss.replies;
                row.lines += loss.lines;
                row.named += loss.named;
                row.silences.push(loss.silence);
            }
        }
    }
    let width = rows.iter().map(|(name, _)| name.len()).max().unwrap_or_default();
    let mut table = format!("{title}\n{:width$}  tries  failed    late  ", "");
    table += "connections  replies  lines lost  lines named  silence: median  longest\n";
    for (name, mut row) in rows {
        row.silences.sort_unstable();
        let ms = |nanos: u64| Duration::from_nanos(nanos).as_secs_f64() * 1e3;
        let median = row.silences.get(row.silences.len() / 2).copied().map_or(0.0, ms);
        let longest = row.silences.last().copied().map_or(0.0, ms);
        let Row { tries, failed, late, connections, replies, lines, named, .. } = row;
        let _ = writeln!(
            table,
            "{name:width$}  {tries:5}  {failed:6}  {late:6}  {connections:11}  {replies:7}  \
             {lines:10}  {named:11}  {median:12.1} ms  {longest:4.0} ms"
        );
    }
    // Not with `println!`, because the test runner captures it.
    let _ = writeln!(io::stdout(), "\n{table}");
}

/// Fails if a try has failed; shows the errors of the first few.
#[track_caller]
pub(crate) fn assert_sound(plans: &[Plan], results: &[Result]) {
    let failed: Vec<_> = plans
        .iter()
        .zip(results)
        .filter_map(|(plan, result)| result.as_ref().err().map(|wrong| (plan, wrong)))
        .collect();
    let (count, of) = (failed.len(), plans.len());
    assert!(failed.is_empty(), "{count} of {of} tries failed: {:#?}", &failed[..count.min(5)]);
}
