// SPDX-License-Identifier: Apache-2.0
//! Check: compares the figures that do not depend on load with those in `docs/performance.md`.

use std::fmt;
use std::fs;

use crate::instructions::{STILL, at_each, per_command, per_tick, to_listen};
use crate::programs::{Programs, Run};
use crate::sample::{Sample, Unit, show};
use crate::size::{compressed, stripped};
use crate::start::{looked, traced};
use crate::table::{Measured, aligned};

/// The page with the committed figures, and the heading of their column.
const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/performance.md");
const HEADING: &str = "committed";

/// A figure that is compared, and the share by which it may exceed the committed one.
///
/// The tolerance permits another compiler or C library.
struct Figure {
    name: &'static str,
    unit: Unit,
    tolerance: f64,
    measure: fn(&Programs) -> Measured,
}

const FIGURES: [Figure; 9] = [
    Figure {
        name: "size, stripped",
        unit: Unit::Bytes,
        tolerance: 0.02,
        measure: |programs| stripped(&programs.daemon),
    },
    Figure {
        name: "the same by zstd -19",
        unit: Unit::Bytes,
        tolerance: 0.02,
        measure: |programs| compressed(&programs.daemon),
    },
    Figure {
        name: "instructions from exec to listen",
        unit: Unit::Count,
        tolerance: 0.05,
        measure: |programs| to_listen(&|run, by| programs.initrd_by(run, by, &STILL)),
    },
    Figure {
        name: "system calls before listen",
        unit: Unit::Count,
        tolerance: 0.03,
        measure: |programs| {
            let run = Run::new();
            let calls = traced(&run, &|by| programs.initrd_by(&run, by, &STILL))?;
            Ok(Sample::exact(Unit::Count, calls.before_listen as f64))
        },
    },
    // A single client's figure depends on the processor, because the daemon polls until the next
    // command. Of many clients, one has always sent a command; only the number at a time differs.
    Figure {
        name: "instructions per command, one at a time, 1,000 clients",
        unit: Unit::Count,
        tolerance: 0.25,
        measure: |programs| per_command(programs, 1000, 1),
    },
    Figure {
        name: "instructions per command, pipelined",
        unit: Unit::Count,
        tolerance: 0.1,
        measure: |programs| per_command(programs, 1, 256),
    },
    Figure {
        name: "instructions per tick",
        unit: Unit::Count,
        // How often the three threads find each other busy differs between runs.
        tolerance: 0.25,
        measure: |programs| {
            let tries = at_each(&[10; 3], |period| per_tick(programs, period)).into_iter();
            let tries =
                tries.map(|tried| Ok(tried?.median())).collect::<Result<Vec<_>, String>>()?;
            Ok(Sample::new(Unit::Count, tries))
        },
    },
    Figure {
        name: "private memory, initrd stage",
        unit: Unit::Kilobytes,
        tolerance: 0.06,
        measure: |programs| {
            let run = Run::new();
            let looks = (0..3).map(|_| looked(&run, programs.initrd(&run)).memory.private);
            Ok(Sample::new(Unit::Kilobytes, looks))
        },
    },
    Figure {
        name: "threads",
        unit: Unit::Count,
        tolerance: 0.0,
        measure: |programs| {
            let run = Run::new();
            Ok(Sample::exact(Unit::Count, looked(&run, programs.initrd(&run)).threads))
        },
    },
];

/// A committed figure and the measured one.
struct Comparison {
    figure: &'static Figure,
    committed: f64,
    measured: Measured,
}

/// All committed figures, with the measured ones.
pub(crate) struct Checked(Vec<Comparison>);

impl Checked {
    /// # Errors
    ///
    /// Names the figure that is not on the page.
    pub(crate) fn measure(programs: &Programs) -> Result<Self, String> {
        let page = fs::read_to_string(PAGE).map_err(|e| format!("cannot read {PAGE}: {e}"))?;
        let compare = |figure: &'static Figure| {
            let committed = committed(&page, figure.name)
                .ok_or_else(|| format!("{PAGE} has no row for {:?}", figure.name))?;
            Ok(Comparison { figure, committed, measured: (figure.measure)(programs) })
        };
        FIGURES.iter().map(compare).collect::<Result<_, String>>().map(Self)
    }

    /// Whether every figure was measured and none is too large.
    pub(crate) fn holds(&self) -> bool {
        self.0.iter().all(|comparison| comparison.verdict().0)
    }
}

/// All measured figures, as a table for `docs/performance.md`.
pub(crate) struct ToCommit(Vec<[String; 2]>);

impl ToCommit {
    /// # Errors
    ///
    /// Names the figure that could not be measured.
    pub(crate) fn measure(programs: &Programs) -> Result<Self, String> {
        let row = |figure: &Figure| {
            let sample = (figure.measure)(programs)?;
            // As whole numbers, because sizes are compared byte by byte.
            Ok([figure.name.to_owned(), show(Unit::Count, sample.median().round())])
        };
        FIGURES.iter().map(row).collect::<Result<_, String>>().map(Self)
    }
}

impl fmt::Display for ToCommit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        aligned(f, &["figure", HEADING].map(str::to_owned), &self.0)
    }
}

/// The number in this row of the table whose second column has the heading.
fn committed(page: &str, name: &str) -> Option<f64> {
    let cells = |line: &str| {
        let mut cells = line.strip_prefix('|')?.split('|').map(|cell| cell.trim().to_owned());
        Some((cells.next()?, cells.next()?))
    };
    let table = page.lines().skip_while(|line| cells(line).is_none_or(|(_, n)| n != HEADING));
    let (_, number) = table.map_while(cells).find(|(figure, _)| figure == name)?;
    number.replace(',', "").parse().ok()
}

impl Comparison {
    fn most(&self) -> f64 {
        self.committed * (1.0 + self.figure.tolerance)
    }

    fn verdict(&self) -> (bool, &'static str) {
        let least = self.committed * (1.0 - self.figure.tolerance);
        match &self.measured {
            Err(_) => (false, "**NOT MEASURED**"),
            Ok(sample) if sample.median() > self.most() => (false, "**TOO MUCH**"),
            Ok(sample) if sample.median() < least => (true, "less: to be committed"),
            Ok(_) => (true, "holds"),
        }
    }
}

impl fmt::Display for Checked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let heads = ["figure", "measured", HEADING, "at most", ""].map(str::to_owned);
        let row = |comparison: &Comparison| {
            let Comparison { figure, committed, measured } = comparison;
            [
                figure.name.to_owned(),
                measured.as_ref().map_or_else(Clone::clone, Sample::to_string),
                show(figure.unit, *committed),
                show(figure.unit, comparison.most()),
                comparison.verdict().1.to_owned(),
            ]
        };
        aligned(f, &heads, &self.0.iter().map(row).collect::<Vec<_>>())
    }
}
