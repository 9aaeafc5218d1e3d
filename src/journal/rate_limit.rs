// SPDX-License-Identifier: Apache-2.0
//! RateLimit: a line that strangers can cause, logged once a second at the most.
//!
//! Whoever can connect can do so thousands of times a second; without a limit their lines would take
//! the room of the ticks in the log.

use std::fmt;
use std::time::Duration;

use early_service_machine::schedule::Monotonic;
use log::Level;

use crate::journal::message_id::Id;
use crate::platform::clock;

/// One kind of line.
#[derive(Default)]
pub(crate) struct RateLimit {
    /// When the last line was logged.
    logged: Option<Monotonic>,
    /// Left out since then.
    suppressed: u64,
    /// The explanation, where there is one.
    id: Option<Id>,
}

impl RateLimit {
    const INTERVAL: Duration = Duration::from_secs(1);

    /// One that the catalog explains.
    pub(crate) fn explained(id: Id) -> Self {
        Self { id: Some(id), ..Self::default() }
    }

    /// Logs the line with the number of those left out before it, or leaves it out.
    pub(crate) fn warn(&mut self, line: fmt::Arguments<'_>) {
        self.log(Level::Warn, line);
    }

    /// The same of a line that is no warning.
    pub(crate) fn info(&mut self, line: fmt::Arguments<'_>) {
        self.log(Level::Info, line);
    }

    fn log(&mut self, level: Level, line: fmt::Arguments<'_>) {
        if let Some(suppressed) = self.check(clock::now()) {
            match suppressed {
                0 => log::log!(level, MESSAGE_ID = self.id; "{line}"),
                more => log::log!(level, MESSAGE_ID = self.id; "{line}, and {more} others before"),
            }
        }
    }

    /// How many were left out; `None` where this one is to be left out too.
    fn check(&mut self, now: Monotonic) -> Option<u64> {
        let is_soon =
            |last: Monotonic| u128::from(now.nanos_since(last)) < Self::INTERVAL.as_nanos();
        if self.logged.is_some_and(is_soon) {
            self.suppressed += 1;
            return None;
        }
        self.logged = Some(now);
        Some(std::mem::take(&mut self.suppressed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_of_many_is_said_each_second_with_the_number_of_the_others() {
        let mut limit = RateLimit::default();
        let at = |ms: u64| Monotonic::from_nanos(7_000_000_000 + ms * 1_000_000);
        let said: Vec<_> = (0..3000).filter_map(|ms| limit.check(at(ms))).collect();
        assert_eq!(said, [0, 999, 999]);
    }
}
