// SPDX-License-Identifier: Apache-2.0
//! Check: the figures that are the same on a busy machine, held against committed ones.

use std::fmt;

use crate::instructions::{STILL, at_each, per_command, per_tick, to_listen};
use crate::programs::{Programs, Run};
use crate::sample::{Sample, Unit, show};
use crate::size::{compressed, stripped};
use crate::start::{looked, traced};
use crate::table::{Measured, aligned};

/// A figure that was measured once, on Debian 12, and how much more of it is too much.
///
/// The tolerance is for another compiler or C library; whoever costs more says so here, and whoever
/// saves something has it written down.
struct Committed {
    figure: &'static str,
    unit: Unit,
    committed: f64,
    tolerance: f64,
    measure: fn(&Programs) -> Measured,
}

const COMMITTED: [Committed; 9] = [
    Committed {
        figure: "size, stripped",
        unit: Unit::Bytes,
        committed: 416_776.0,
        tolerance: 0.02,
        measure: |programs| stripped(&programs.daemon),
    },
    Committed {
        figure: "the same by zstd -19",
        unit: Unit::Bytes,
        committed: 192_026.0,
        tolerance: 0.02,
        measure: |programs| compressed(&programs.daemon),
    },
    Committed {
        figure: "instructions from exec to listen",
        unit: Unit::Count,
        committed: 300_250.0,
        tolerance: 0.05,
        measure: |programs| to_listen(&|run, by| programs.initrd_by(run, by, &STILL)),
    },
    Committed {
        figure: "system calls before listen",
        unit: Unit::Count,
        committed: 80.0,
        tolerance: 0.03,
        measure: |programs| {
            let run = Run::new();
            let calls = traced(&run, &|by| programs.initrd_by(&run, by, &STILL))?;
            Ok(Sample::exact(Unit::Count, calls.before_listen as f64))
        },
    },
    // Of a single client it depends on the processor how often it is looked for before it has asked
    // again; of many, one has always asked, and only how many at a time differs.
    Committed {
        figure: "instructions per command, one at a time, 1,000 clients",
        unit: Unit::Count,
        committed: 7_600.0,
        tolerance: 0.25,
        measure: |programs| per_command(programs, 1000, 1),
    },
    Committed {
        figure: "instructions per command, pipelined",
        unit: Unit::Count,
        committed: 640.0,
        tolerance: 0.1,
        measure: |programs| per_command(programs, 1, 256),
    },
    Committed {
        figure: "instructions per tick",
        unit: Unit::Count,
        committed: 17_000.0,
        // How often the three threads find each other at work differs from run to run.
        tolerance: 0.25,
        measure: |programs| {
            let tries = at_each(&[10; 3], |period| per_tick(programs, period)).into_iter();
            let tries =
                tries.map(|tried| Ok(tried?.median())).collect::<Result<Vec<_>, String>>()?;
            Ok(Sample::new(Unit::Count, tries))
        },
    },
    Committed {
        figure: "private memory, initrd stage",
        unit: Unit::Kilobytes,
        committed: 296.0,
        tolerance: 0.06,
        measure: |programs| {
            let run = Run::new();
            let looks = (0..3).map(|_| looked(&run, programs.initrd(&run)).memory.private);
            Ok(Sample::new(Unit::Kilobytes, looks))
        },
    },
    Committed {
        figure: "threads",
        unit: Unit::Count,
        committed: 3.0,
        tolerance: 0.0,
        measure: |programs| {
            let run = Run::new();
            Ok(Sample::exact(Unit::Count, looked(&run, programs.initrd(&run)).threads))
        },
    },
];

/// What was measured, beside what was committed.
pub(crate) struct Checked(Vec<(&'static Committed, Measured)>);

impl Checked {
    pub(crate) fn measure(programs: &Programs) -> Self {
        let measured = COMMITTED.iter().map(|committed| (committed, (committed.measure)(programs)));
        Self(measured.collect())
    }

    /// Whether every figure was measured, and none is too much.
    pub(crate) fn holds(&self) -> bool {
        self.0.iter().all(|(committed, measured)| committed.verdict(measured).0)
    }
}

impl Committed {
    fn most(&self) -> f64 {
        self.committed * (1.0 + self.tolerance)
    }

    fn verdict(&self, measured: &Measured) -> (bool, &'static str) {
        match measured {
            Err(_) => (false, "**NOT MEASURED**"),
            Ok(sample) if sample.median() > self.most() => (false, "**TOO MUCH**"),
            Ok(sample) if sample.median() < self.committed * (1.0 - self.tolerance) => {
                (true, "less: to be committed")
            }
            Ok(_) => (true, "holds"),
        }
    }
}

impl fmt::Display for Checked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let heads = ["figure", "measured", "committed", "at most", ""].map(str::to_owned);
        let row = |(committed, measured): &(&'static Committed, Measured)| {
            [
                committed.figure.to_owned(),
                measured.as_ref().map_or_else(Clone::clone, Sample::to_string),
                show(committed.unit, committed.committed),
                show(committed.unit, committed.most()),
                committed.verdict(measured).1.to_owned(),
            ]
        };
        aligned(f, &heads, &self.0.iter().map(row).collect::<Vec<_>>())
    }
}
