// SPDX-License-Identifier: Apache-2.0
//! Rate limit for log lines that clients and other processes can cause: one line a second.
//!
//! A client can connect thousands of times a second. Without a limit, the lines about it would
//! displace the ticks in the log.

use std::fmt;
use std::time::Duration;

use early_service_machine::schedule::Monotonic;
use log::Level;

use crate::journal::message_id::Id;
use crate::platform::clock;

/// One kind of line.
#[derive(Default)]
pub(crate) struct RateLimit {
    last_logged: Option<Monotonic>,
    /// The number of lines left out since then.
    suppressed: u64,
    /// The id under which the catalog explains the line, if it does.
    id: Option<Id>,
}

impl RateLimit {
    const INTERVAL: Duration = Duration::from_secs(1);

    /// A line that the catalog explains.
    pub(crate) fn explained(id: Id) -> Self {
        Self { id: Some(id), ..Self::default() }
    }

    /// Logs the line as a warning, with the number of lines left out before it, or leaves it out.
    pub(crate) fn warn(&mut self, line: fmt::Arguments<'_>) {
        self.log(Level::Warn, line);
    }

    /// Like [`warn`](Self::warn), with the severity of information.
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

    /// The number of lines left out before this one; `None` if this one is to be left out too.
    fn check(&mut self, now: Monotonic) -> Option<u64> {
        if self.last_logged.is_some_and(|last| clock::between(last, now) < Self::INTERVAL) {
            self.suppressed += 1;
            return None;
        }
        self.last_logged = Some(now);
        Some(std::mem::take(&mut self.suppressed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_a_second_is_logged_with_the_number_left_out() {
        let mut limit = RateLimit::default();
        let at = |ms: u64| Monotonic::from_nanos(7_000_000_000 + ms * 1_000_000);
        let logged: Vec<_> = (0..3000).filter_map(|ms| limit.check(at(ms))).collect();
        assert_eq!(logged, [0, 999, 999]);
    }
}
