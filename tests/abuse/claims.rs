// SPDX-License-Identifier: Apache-2.0
//! Claims: what a row asserts, with bounds and measured values, and the table of all rows.
//!
//! A broken claim does not end its row, so one run reports everything that is wrong.

use std::fmt::Write as _;
use std::time::Duration;

/// A bound and the measured value.
pub(crate) struct Claim {
    /// The bounded quantity; it begins with its name in the table of limits.
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

    /// The longest duration or delay was at most `bound`.
    pub(crate) fn within(&mut self, what: &str, seen: Duration, bound: Duration) {
        let ms = |time: Duration| format!("{:.1} ms", time.as_secs_f64() * 1e3);
        self.push(what, ms(bound), ms(seen), String::new(), seen <= bound);
    }

    /// A duration that only measures the machine: reported, never broken.
    pub(crate) fn took(&mut self, what: &str, seen: Duration) {
        let ms = format!("{:.1} ms", seen.as_secs_f64() * 1e3);
        self.push(what, "reported".to_owned(), ms, String::new(), true);
    }

    /// The number was at most `bound`.
    pub(crate) fn at_most(&mut self, what: &str, seen: u64, bound: u64, unit: &str) {
        let text = |number| format!("{number} {unit}").trim_end().to_owned();
        self.push(what, text(bound), text(seen), String::new(), seen <= bound);
    }

    /// The number was at least `bound`; otherwise the row does not test what it claims.
    pub(crate) fn at_least(&mut self, what: &str, seen: u64, bound: u64, unit: &str) {
        let text = |number| format!("{number} {unit}").trim_end().to_owned();
        let bound_text = format!("at least {}", text(bound));
        self.push(what, bound_text, text(seen), String::new(), seen >= bound);
    }

    /// None of `of` was lost; shows the first few losses.
    pub(crate) fn none_lost(&mut self, who: &str, lost: &[String], of: usize) {
        let shown = &lost[..lost.len().min(3)];
        let seen = if lost.is_empty() { "all".to_owned() } else { format!("{shown:?}") };
        let holds = lost.is_empty() && of > 0;
        self.push(who, "all".to_owned(), seen, format!("{} of {of}", lost.len()), holds);
    }

    /// All claims of the row.
    pub(crate) fn all(self) -> Vec<Claim> {
        self.0
    }
}

/// The outcome of a row.
pub(crate) struct Outcome {
    pub(crate) abuse: &'static str,
    pub(crate) much: &'static str,
    pub(crate) took: Duration,
    pub(crate) claims: Vec<Claim>,
    /// The panic message.
    pub(crate) panic: Option<String>,
}

impl Outcome {
    /// The broken claims.
    pub(crate) fn broken(&self) -> Vec<String> {
        let abuse = self.abuse;
        let broken = self.claims.iter().filter(|claim| !claim.holds);
        let mut broken: Vec<_> = broken
            .map(|Claim { what, bound, seen, lost, .. }| {
                format!("{abuse}: {what}: {seen} {lost}, and the bound is {bound}")
            })
            .collect();
        broken.extend(self.panic.iter().map(|panic| format!("{abuse}: {panic}")));
        // A row without claims proves nothing.
        if self.claims.is_empty() && broken.is_empty() {
            broken.push(format!("{abuse}: it claims nothing"));
        }
        broken
    }
}

/// The table of all rows, broken or not.
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
