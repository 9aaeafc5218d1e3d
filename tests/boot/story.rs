// SPDX-License-Identifier: Apache-2.0
//! Story: the reports of PID 1 and the clients about a boot, and the claims that many rows share.

use crate::claims::Claims;
use crate::journal::Record;
use crate::machine::Boot;
use crate::ticks::PERIOD;
use std::time::Duration;

pub(crate) const FIRST: &str = "early-service-initrd.service";
pub(crate) const ROOT: &str = "early-service.service";

/// The limit of two promises: from power-off to the end, and from the adoption to the end.
const A_SECOND: Duration = Duration::from_secs(1);

/// The records of PID 1 about `unit` that contain `words`.
pub(crate) fn of_unit<'a>(boot: &'a Boot, unit: &str, words: &str) -> Vec<&'a Record> {
    let matches = |record: &&Record| record.is_of_systemd(unit) && record.message().contains(words);
    boot.journal.iter().filter(matches).collect()
}

/// The records of a stage (by its identifier) that contain `words`.
pub(crate) fn of_stage<'a>(boot: &'a Boot, identifier: &str, words: &str) -> Vec<&'a Record> {
    let matches =
        |record: &&Record| record.identifier() == identifier && record.message().contains(words);
    boot.journal.iter().filter(matches).collect()
}

/// The first stage's line after a handoff without loss.
pub(crate) const ADOPTED: &str = " has adopted the state";
/// The first stage's line after a handoff with the older request.
pub(crate) const RETURNED: &str = "Returning counter to client and terminating the process";

/// The first stage hands over and ends soon, by itself and successfully.
pub(crate) fn first_stage_ends_well(boot: &Boot, words: &str, claims: &mut Claims) {
    let handed_over = of_stage(boot, "early-service-initrd", words);
    claims.that("the first stage hands over once", handed_over.len() == 1, handed_over.len());
    let ended = of_unit(boot, FIRST, "Deactivated successfully");
    claims.that("the first stage ends once, with success", ended.len() == 1, ended.len());
    fails_never(boot, FIRST, claims);
    if let (Some(handed_over), Some(ended)) = (handed_over.first(), ended.first()) {
        let took = ended.at().saturating_sub(handed_over.at());
        claims.that(
            "the first stage is gone within a second",
            took < A_SECOND,
            format!("{took:?}"),
        );
    }
}

/// After the handoff the first stage holds no memory: it has no process, no control group to charge
/// memory to, and no directory in `/run`.
pub(crate) fn nothing_left_of_first(boot: &Boot, claims: &mut Claims) {
    let looked_for = boot.lines("first-looked-for").count();
    let left: Vec<_> = boot.lines("first-left").collect();
    claims.that("it was looked for in three places", looked_for == 3, looked_for);
    claims.that("the first stage leaves nothing behind", left.is_empty(), left.join(", "));
}

/// PID 1 reports no failure.
pub(crate) fn fails_never(boot: &Boot, unit: &str, claims: &mut Claims) {
    for words in ["Failed", "code=", "Scheduled restart", "timed out", "Watchdog"] {
        let complaints = of_unit(boot, unit, words);
        let seen = complaints.first().map_or("", |record| record.message());
        claims.that(&format!("{unit} never comes to {words:?}"), complaints.is_empty(), seen);
    }
}

/// From each stop order to the end; the last order comes at power-off.
pub(crate) fn stops_within_a_second(boot: &Boot, unit: &str, claims: &mut Claims) {
    let orders = of_unit(boot, unit, "Stopping ");
    claims.that(&format!("{unit} is told to stop"), !orders.is_empty(), "PID 1 did not say so");
    let ends = of_unit(boot, unit, "Stopped ");
    for order in orders {
        let end = ends.iter().map(|end| end.at()).find(|end| *end >= order.at());
        let took = end.map(|end| end.saturating_sub(order.at()));
        let holds = took.is_some_and(|took| took < A_SECOND);
        claims.that(&format!("{unit} stops within a second"), holds, format!("{took:?}"));
    }
}

/// From the order to power off, which ends the scenario's script, to the end. PID 1 does not log
/// the stop of a unit that is still starting.
pub(crate) fn off_within_a_second(boot: &Boot, unit: &str, claims: &mut Claims) {
    let ordered = of_unit(boot, "boot-test.service", "Deactivated successfully");
    let ended = of_unit(boot, unit, "Stopped ");
    let took = ordered.last().zip(ended.last()).map(|(from, to)| to.at().saturating_sub(from.at()));
    let holds = took.is_some_and(|took| took < A_SECOND);
    claims.that(&format!("{unit} is off within a second"), holds, format!("{took:?}"));
}

/// The last tick is just before the stop: no number is missing at the end.
pub(crate) fn ticks_to_the_end(boot: &Boot, last_tick: Duration, unit: &str, claims: &mut Claims) {
    let Some(stop) = of_unit(boot, unit, "Stopping ").last().map(|record| record.at()) else {
        return claims.that(&format!("{unit} is stopped"), false, "PID 1 did not say so");
    };
    let silence = stop.saturating_sub(last_tick);
    let bound = 2 * PERIOD + standstill(boot);
    claims.that("ticks go on to the stop", silence < bound, format!("{silence:?} of silence"));
}

/// The client that connects in a loop is never refused, from the initrd to power-off.
///
/// A process that dies takes along the connection that it is about to answer; the older handoff
/// closes it too. Up to `lost` commands may get no answer.
pub(crate) fn storm_is_never_refused(boot: &Boot, lost: u64, claims: &mut Claims) {
    let refusals: Vec<_> = boot.lines("storm-refused").collect();
    claims.that("no connect is refused", refusals.is_empty(), refusals.join("; "));
    let losses: Vec<_> = boot.lines("storm-lost").collect();
    let within = losses.len() as u64 <= lost;
    claims.that(&format!("at most {lost} connections are lost"), within, losses.join("; "));
    let answered = client_figure(boot, "storm", "answered").unwrap_or_default();
    claims.that("the storm is answered", answered > 50, answered);
}

/// The permanent client keeps one connection to power-off, and its answers never decrease.
pub(crate) fn sitter_loses_nothing(boot: &Boot, claims: &mut Claims) {
    let sessions = boot.lines("sit-connected").count();
    let ends: Vec<_> = boot.lines("sit-ended").collect();
    let one = sessions == 1 && ends.is_empty();
    claims.that("one connection lasts", one, format!("{sessions} of them; {}", ends.join("; ")));
    let backwards = client_figure(boot, "sit", "backwards");
    claims.that("its answers never go back", backwards == Some(0), format!("{backwards:?}"));
    let answered = client_figure(boot, "sit", "answered").unwrap_or_default();
    claims.that("it is answered", answered > 50, answered);
}

/// The longest time for which the whole machine stood still, as measured by the client that
/// connects in a loop.
pub(crate) fn standstill(boot: &Boot) -> Duration {
    let millis = client_figure(boot, "storm", "standstill_ms").unwrap_or_default();
    Duration::from_millis(millis)
}

/// A figure of a client's last report, or of the last status line of a script.
pub(crate) fn client_figure(boot: &Boot, client: &str, figure: &str) -> Option<u64> {
    let last = boot.lines(client).last()?;
    let word = last.split(' ').find_map(|word| word.strip_prefix(figure)?.strip_prefix('='))?;
    word.parse().ok()
}

/// A figure of all clients' reports between two lines of a script, each with `word`.
pub(crate) fn figures_between(
    boot: &Boot,
    from: &str,
    to: &str,
    word: &str,
    figure: &str,
) -> Vec<u64> {
    let place = |key: &str| boot.said.iter().position(|(k, line)| k == key && line == word);
    let (Some(from), Some(to)) = (place(from), place(to)) else {
        return Vec::new();
    };
    let words = boot.said[from..to].iter().flat_map(|(_, line)| line.split(' '));
    words.filter_map(|word| word.strip_prefix(figure)?.strip_prefix('=')?.parse().ok()).collect()
}
