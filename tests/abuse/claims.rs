// SPDX-License-Identifier: Apache-2.0
//! Claims: what a row asserts, each with its bound and with what was seen, and the table of all.
//!
//! A claim that does not hold ends nothing: the row goes on, so that one run tells all that is
//! wrong.

use std::fmt::Write as _;
use std::time::Duration;

/// One bound, and what was seen.
pub(crate) struct Claim {
    /// What is bounded; it begins as the table of limits names it.
    pub(crate) what: String,
    pub(crate) bound: String,
    pub(crate) seen: String,
    pub(crate) lost: String,
    pub(crate) holds: bool,
}

/// The claims of one row so far.
#[derive(Default)]
pub(crate) struct Claims(Vec<Claim>);

impl Claims {
    fn push(&mut self, what: &str, bound: String, seen: String, lost: String, holds: bool) {
        self.0.push(Claim { what: what.to_owned(), bound, seen, lost, holds });
    }

    /// It took, or was late, that long at the most.
    pub(crate) fn within(&mut self, what: &str, seen: Duration, bound: Duration) {
        let ms = |time: Duration| format!("{:.1} ms", time.as_secs_f64() * 1e3);
        self.push(what, ms(bound), ms(seen), String::new(), seen <= bound);
    }

    /// It took so long, which only measures the machine: reported, never broken.
    pub(crate) fn took(&mut self, what: &str, seen: Duration) {
        let ms = format!("{:.1} ms", seen.as_secs_f64() * 1e3);
        self.push(what, "reported".to_owned(), ms, String::new(), true);
    }

    /// There were so many at the most.
    pub(crate) fn at_most(&mut self, what: &str, seen: u64, bound: u64, unit: &str) {
        let text = |number| format!("{number} {unit}").trim_end().to_owned();
        self.push(what, text(bound), text(seen), String::new(), seen <= bound);
    }

    /// There were so many at least: less, and the row would not be what it says.
    pub(crate) fn at_least(&mut self, what: &str, seen: u64, bound: u64, unit: &str) {
        let text = |number| format!("{number} {unit}").trim_end().to_owned();
        let bound_text = format!("at least {}", text(bound));
        self.push(what, bound_text, text(seen), String::new(), seen >= bound);
    }

    /// None of so many was lost; the first few that were are shown.
    pub(crate) fn none_lost(&mut self, who: &str, lost: &[String], of: usize) {
        let shown = &lost[..lost.len().min(3)];
        let seen = if lost.is_empty() { "all".to_owned() } else { format!("{shown:?}") };
        let holds = lost.is_empty() && of > 0;
        self.push(who, "all".to_owned(), seen, format!("{} of {of}", lost.len()), holds);
    }

    /// All that is claimed.
    pub(crate) fn all(self) -> Vec<Claim> {
        self.0
    }
}

/// What came of one row.
pub(crate) struct Outcome {
    pub(crate) abuse: &'static str,
    pub(crate) much: &'static str,
    pub(crate) took: Duration,
    pub(crate) claims: Vec<Claim>,
    /// What it panicked with.
    pub(crate) panic: Option<String>,
}

impl Outcome {
    /// What does not hold.
    pub(crate) fn broken(&self) -> Vec<String> {
        let abuse = self.abuse;
        let broken = self.claims.iter().filter(|claim| !claim.holds);
        let mut broken: Vec<_> = broken
            .map(|Claim { what, bound, seen, lost, .. }| {
                format!("{abuse}: {what}: {seen} {lost}, and the bound is {bound}")
            })
            .collect();
        broken.extend(self.panic.iter().map(|panic| format!("{abuse}: {panic}")));
        // A row that has claimed nothing has proved nothing.
        if self.claims.is_empty() && broken.is_empty() {
            broken.push(format!("{abuse}: it claims nothing"));
        }
        broken
    }
}

/// The table of all rows, whether they hold or not.
pub(crate) fn table(outcomes: &[Outcome]) -> String {
    let mut table = format!(
        "{:38} {:26} {:44} {:>17} {:>12}  lost\n",
        "abuse", "how much", "what", "bound", "seen"
    );
    for Outcome { abuse, much, took, claims, panic } in outcomes {
        let (mut abuse, mut much) = (*abuse, *much);
        for Claim { what, bound, seen, lost, holds } in claims {
            let mark = if *holds { "" } else { "  BROKEN" };
            let _ = writeln!(
                table,
                "{abuse:38} {much:26} {what:44} {bound:>17} {seen:>12}  {lost}{mark}"
            );
            (abuse, much) = ("", "");
        }
        if let Some(panic) = panic {
            let _ = writeln!(table, "{abuse:38} {much:26} ENDED EARLY: {panic}");
        }
        let _ = writeln!(table, "{:38} {:26} took {:.1} s", "", "", took.as_secs_f64());
    }
    table
}
