// SPDX-License-Identifier: Apache-2.0
//! Sample: what repeated tries gave, and how it is shown: the median, and the middle half as its
//! spread.

use std::fmt;

/// What a number counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unit {
    Bytes,
    /// As the kernel counts memory: 1,024 bytes.
    Kilobytes,
    Seconds,
    PerSecond,
    Count,
    /// How many times as much as the one that it is compared with.
    Times,
}

/// The figures of the tries, in order of size.
#[derive(Clone, Debug)]
pub(crate) struct Sample {
    sorted: Vec<f64>,
    unit: Unit,
}

impl Sample {
    /// # Panics
    ///
    /// Where there is none: a figure that was not taken is not a sample.
    pub(crate) fn new(unit: Unit, tries: impl IntoIterator<Item = f64>) -> Self {
        let mut sorted: Vec<_> = tries.into_iter().collect();
        assert!(!sorted.is_empty(), "at least one try");
        sorted.sort_by(f64::total_cmp);
        Self { sorted, unit }
    }

    /// One figure that every try gives.
    pub(crate) fn exact(unit: Unit, figure: f64) -> Self {
        Self::new(unit, [figure])
    }

    pub(crate) fn unit(&self) -> Unit {
        self.unit
    }

    pub(crate) fn median(&self) -> f64 {
        self.quantile(0.5)
    }

    /// The figure that this part of the tries does not exceed.
    pub(crate) fn quantile(&self, part: f64) -> f64 {
        let last = self.sorted.len() - 1;
        self.sorted[(part * last as f64).round() as usize]
    }

    /// How many times the median of `other` each try gave.
    pub(crate) fn over(&self, other: &Self) -> Self {
        Self::new(Unit::Times, self.sorted.iter().map(|figure| figure / other.median()))
    }
}

impl fmt::Display for Sample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let median = self.median();
        let scale = Scale::of(self.unit, median);
        write!(f, "{}{}", scale.digits(median), scale.unit)?;
        let (low, high) = (scale.digits(self.quantile(0.25)), scale.digits(self.quantile(0.75)));
        if low == high { Ok(()) } else { write!(f, " ({low}–{high})") }
    }
}

/// A figure alone.
pub(crate) fn show(unit: Unit, figure: f64) -> String {
    let scale = Scale::of(unit, figure);
    format!("{}{}", scale.digits(figure), scale.unit)
}

/// In which unit a figure is read best.
struct Scale {
    one: f64,
    unit: &'static str,
}

impl Scale {
    fn of(unit: Unit, figure: f64) -> Self {
        let (one, unit) = match unit {
            Unit::Bytes => (1e3, " kB"),
            Unit::Kilobytes => (1.0, " kB"),
            Unit::Seconds if figure < 1e-3 => (1e-6, " µs"),
            Unit::Seconds if figure < 1.0 => (1e-3, " ms"),
            Unit::Seconds => (1.0, " s"),
            Unit::PerSecond => (1.0, "/s"),
            Unit::Count => (1.0, ""),
            Unit::Times => (1.0, " ×"),
        };
        Self { one, unit }
    }

    /// Three digits, and all of a whole number.
    fn digits(&self, figure: f64) -> String {
        let figure = figure / self.one;
        let decimals = match figure.abs() {
            0.0 => 0,
            small if small < 9.995 => 2,
            small if small < 99.95 => 1,
            _ => 0,
        };
        // A count is whole, and so is a median of an odd number of them.
        let decimals = if figure.fract() == 0.0 && self.unit != " ×" { 0 } else { decimals };
        let text = format!("{figure:.decimals$}");
        let (whole, fraction) = text.split_once('.').map_or((&*text, None), |(w, f)| (w, Some(f)));
        let mut grouped = String::new();
        for (at, digit) in whole.char_indices() {
            if at > 0 && (whole.len() - at) % 3 == 0 {
                grouped.push(',');
            }
            grouped.push(digit);
        }
        if let Some(fraction) = fraction {
            grouped = format!("{grouped}.{fraction}");
        }
        grouped
    }
}
