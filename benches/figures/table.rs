// SPDX-License-Identifier: Apache-2.0
//! Table: the measured figures, with those of the floor and the C programs, and the targets.

use std::fmt;

use crate::sample::{Sample, Unit, show};

/// A figure of one program, or why it could not be measured.
pub(crate) type Measured = Result<Sample, String>;

/// The target of a figure.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Target {
    AtMost(f64),
    AtLeast(f64),
}

/// A row of the table.
pub(crate) struct Row {
    figure: String,
    daemon: Measured,
    floor: Option<Measured>,
    c: [Option<Measured>; 2],
    target: Option<Target>,
}

impl Row {
    pub(crate) fn new(figure: impl Into<String>, daemon: impl Into<Measured>) -> Self {
        let (floor, c, target) = (None, [None, None], None);
        Self { figure: figure.into(), daemon: daemon.into(), floor, c, target }
    }

    pub(crate) fn floor(self, floor: Measured) -> Self {
        Self { floor: Some(floor), ..self }
    }

    /// Adds the figures of the C programs.
    pub(crate) fn c(self, c: [Measured; 2]) -> Self {
        Self { c: c.map(Some), ..self }
    }

    pub(crate) fn target(self, target: Target) -> Self {
        Self { target: Some(target), ..self }
    }

    /// The target in the figure's unit, and whether the median meets it; `None` if not measured.
    fn judged(&self, target: Target) -> (String, Option<bool>) {
        let median = self.daemon.as_ref().ok().map(Sample::median);
        let unit = self.daemon.as_ref().map_or(Unit::Count, Sample::unit);
        match target {
            Target::AtMost(most) => {
                (format!("≤ {}", show(unit, most)), median.map(|median| median <= most))
            }
            Target::AtLeast(least) => {
                (format!("≥ {}", show(unit, least)), median.map(|median| median >= least))
            }
        }
    }

    fn cells(&self) -> [String; 7] {
        let cell = |measured: &Measured| match measured {
            Ok(sample) => sample.to_string(),
            Err(reason) => format!("NOT MEASURED: {reason}"),
        };
        let optional =
            |measured: &Option<Measured>| measured.as_ref().map(cell).unwrap_or_default();
        let [glib, bare] = &self.c;
        let judged = self.target.map(|target| self.judged(target));
        let (target, is_met) = judged.unwrap_or_default();
        let verdict = match (self.target, is_met) {
            (None, _) => "",
            (Some(_), Some(true)) => "met",
            (Some(_), Some(false)) => "**MISSED**",
            (Some(_), None) => "**NOT KNOWN**",
        };
        [
            self.figure.clone(),
            cell(&self.daemon),
            optional(&self.floor),
            optional(glib),
            optional(bare),
            target,
            verdict.to_owned(),
        ]
    }
}

impl From<Sample> for Measured {
    fn from(sample: Sample) -> Self {
        Ok(sample)
    }
}

/// All rows, as a Markdown table that is also readable as text.
#[derive(Default)]
pub(crate) struct Table(Vec<Row>);

impl Table {
    pub(crate) fn push(&mut self, row: Row) {
        self.0.push(row);
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let heads = ["figure", "early-service", "floor", "C, GIO", "C, bare glib", "target", ""];
        let heads = heads.map(str::to_owned);
        let rows: Vec<_> = self.0.iter().map(Row::cells).collect();
        aligned(f, &heads, &rows)?;
        let judged = self.0.iter().filter_map(|row| Some((row, row.judged(row.target?).1)));
        let (mut met, mut others) = (0, Vec::new());
        for (row, is_met) in judged {
            match is_met {
                Some(true) => met += 1,
                Some(false) => others.push(format!("MISSED: {}", row.figure)),
                None => others.push(format!("NOT KNOWN: {}", row.figure)),
            }
        }
        write!(f, "\n{met} of {} targets met", met + others.len())?;
        others.iter().try_for_each(|other| write!(f, "\n{other}"))?;
        writeln!(f)
    }
}

/// Writes Markdown whose columns are as wide as their widest cell.
pub(crate) fn aligned<const COLUMNS: usize>(
    f: &mut fmt::Formatter<'_>,
    heads: &[String; COLUMNS],
    rows: &[[String; COLUMNS]],
) -> fmt::Result {
    let width = |column: usize| {
        let cells = rows.iter().chain([heads]).map(|row| row[column].chars().count());
        cells.max().unwrap_or_default()
    };
    let widths: [usize; COLUMNS] = std::array::from_fn(width);
    let mut line = |cells: &[String; COLUMNS]| {
        for (cell, width) in cells.iter().zip(widths) {
            write!(f, "| {cell:width$} ")?;
        }
        writeln!(f, "|")
    };
    line(heads)?;
    line(&widths.map(|width| "-".repeat(width.max(3))))?;
    rows.iter().try_for_each(line)
}
