// SPDX-License-Identifier: Apache-2.0
//! Record: the state file's content, and the rhythm that follows from it.

use std::fs;
use std::path::Path;

use crate::until;

/// The fields that the tests use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    /// The next number to be logged.
    pub counter: u64,
    /// The deadline of that tick.
    pub deadline: u64,
    pub period: u64,
}

impl Record {
    /// Reads the file once it contains a record, with this key for the number.
    pub fn read(path: &Path, key: &str) -> Self {
        let mut record = None;
        until("a record in the state file", || {
            // Read twice, because the owner may be writing.
            let [one, other] = [(); 2].map(|()| fs::read_to_string(path).unwrap_or_default());
            record = (one == other).then(|| Self::parse(&one, key)).flatten();
            record.is_some()
        });
        record.expect("just read")
    }

    fn parse(line: &str, key: &str) -> Option<Self> {
        let line = line.strip_prefix("early-service-state 1 ")?;
        let value = |key: &str| {
            let mut pairs = line.split_whitespace().filter_map(|pair| pair.split_once('='));
            pairs.find(|(name, _)| *name == key)?.1.parse().ok()
        };
        let (counter, deadline) = (value(key)?, value("deadline_ns")?);
        Some(Self { counter, deadline, period: value("period_ns")? })
    }

    /// The rhythm of a count that began at 0 and was never set.
    pub fn rhythm(self) -> Rhythm {
        Rhythm { start: self.deadline - self.counter * self.period, period: self.period }
    }
}

/// When ticks are due: always exactly a period apart, whichever process owns the counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rhythm {
    /// When the very first tick was due.
    pub start: u64,
    pub period: u64,
}

impl Rhythm {
    /// Number of ticks that are due by `time`.
    pub fn due_by(self, time: u64) -> u64 {
        if time < self.start { 0 } else { (time - self.start) / self.period + 1 }
    }

    /// The record before the very first tick.
    pub fn first(self) -> Record {
        Record { counter: 0, deadline: self.start, period: self.period }
    }

    /// Number of ticks before `deadline`; `None` if the rhythm has shifted.
    pub fn before(self, deadline: u64) -> Option<u64> {
        let since = deadline.checked_sub(self.start)?;
        (since % self.period == 0).then_some(since / self.period)
    }
}
