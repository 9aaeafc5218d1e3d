// SPDX-License-Identifier: Apache-2.0
//! Sample: the results of repeated tries, shown as the median, with the middle half as the spread.

use std::fmt;

/// The unit of a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unit {
    Bytes,
    /// 1,024 bytes, as the kernel counts memory.
    Kilobytes,
    Seconds,
    PerSecond,
    Count,
    /// Relative to another figure.
    Times,
}

/// The figures of the tries, in ascending order.
#[derive(Clone, Debug)]
pub(crate) struct Sample {
    sorted: Vec<f64>,
    unit: Unit,
}

impl Sample {
    /// # Panics
    ///
    /// If there is none: a figure that was not measured is not a sample.
    pub(crate) fn new(unit: Unit, tries: impl IntoIterator<Item = f64>) -> Self {
        let mut sorted: Vec<_> = tries.into_iter().collect();
        assert!(!sorted.is_empty(), "at least one try");
        sorted.sort_by(f64::total_cmp);
        Self { sorted, unit }
    }

    /// A figure that is the same in every try.
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

    /// Every figure divided by the median of `other`.
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

/// A single figure.
pub(crate) fn show(unit: Unit, figure: f64) -> String {
    let scale = Scale::of(unit, figure);
    format!("{}{}", scale.digits(figure), scale.unit)
}

/// The most readable unit of a figure.
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

    /// Three digits, or all digits of a whole number.
    fn digits(&self, figure: f64) -> String {
        let figure = figure / self.one;
        let decimals = match figure.abs() {
            0.0 => 0,
            small if small < 9.995 => 2,
            small if small < 99.95 => 1,
            _ => 0,
        };
        // A count is whole, like the median of an odd number of counts.
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
