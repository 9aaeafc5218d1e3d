// SPDX-License-Identifier: Apache-2.0
//! Realtime: the wall clock, as a record has it and as the log shows it.
//!
//! Never decides anything: this clock can be wrong, and can be set while a process runs.

use core::fmt;

/// A time on `CLOCK_REALTIME`, in nanoseconds since 1970.
///
/// Its text form is a date and a time in UTC, in whole seconds: `2026-11-29T01:02:03Z`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Realtime(u64);

impl Realtime {
    /// The time that is `nanoseconds` after the clock's zero.
    #[must_use]
    pub const fn from_nanos(nanoseconds: u64) -> Self {
        Self(nanoseconds)
    }

    /// The nanoseconds since the clock's zero.
    #[must_use]
    pub const fn as_nanos(self) -> u64 {
        self.0
    }
}

impl fmt::Display for Realtime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0 / 1_000_000_000;
        let (mut days, minutes) = (seconds / 86_400, seconds / 60);
        // At most seven thousand months, for a line that is logged once.
        let (mut year, mut month) = (1970_u64, 1_u64);
        while let Some(rest) = days.checked_sub(days_of(year, month)) {
            days = rest;
            month = month.saturating_add(1);
            if month > 12 {
                (year, month) = (year.saturating_add(1), 1);
            }
        }
        let day = days.saturating_add(1);
        let (hour, minute, second) = (minutes / 60 % 24, minutes % 60, seconds % 60);
        write!(f, "{year}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
    }
}

/// The length of a month.
const fn days_of(year: u64, month: u64) -> u64 {
    match month {
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::string::ToString;

    #[test]
    fn a_time_is_shown_as_date_does() {
        // By `date --utc --date=@SECONDS +%FT%TZ`.
        for (seconds, shown) in [
            (0, "1970-01-01T00:00:00Z"),
            (86_399, "1970-01-01T23:59:59Z"),
            (86_400, "1970-01-02T00:00:00Z"),
            (68_169_599, "1972-02-28T23:59:59Z"),
            (68_169_600, "1972-02-29T00:00:00Z"),
            (951_868_799, "2000-02-29T23:59:59Z"),
            (951_868_800, "2000-03-01T00:00:00Z"),
            (1_795_914_123, "2026-11-29T01:02:03Z"),
            (4_107_542_399, "2100-02-28T23:59:59Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
            (18_446_744_073, "2554-07-21T23:34:33Z"),
        ] {
            assert_eq!(Realtime(seconds * 1_000_000_000).to_string(), shown, "{seconds}");
        }
        assert_eq!(Realtime(u64::MAX).to_string(), "2554-07-21T23:34:33Z");
    }
}
