// SPDX-License-Identifier: Apache-2.0
//! Texts of the counter, for people and the journal.
//!
//! `machine/src/counter.rs` has the state itself and its commands. To serve another state, replace
//! both.

use std::fmt::{Formatter, Result};

use early_service_machine::Counter;

use crate::service::Service;

impl Service for Counter {
    const ABOUT: &'static str = "Counts from the initrd on, answers commands on a UNIX socket, and hands the\n\
         count over to the same program on the root filesystem.";
    const WHAT: &'static str = "counter";

    fn write_tick(&self, f: &mut Formatter<'_>) -> Result {
        write!(f, "{}", self.next)
    }

    fn fields(&self) -> impl IntoIterator<Item = (&'static str, u64)> {
        [("COUNTER", self.next)]
    }

    fn write_change(&self, previous: &Self, f: &mut Formatter<'_>) -> Result {
        let (number, previous) = (self.next, previous.next);
        write!(f, "Setting the counter to {number}, previous value {previous}")
    }

    fn write_last(&self, ticks: u64, f: &mut Formatter<'_>) -> Result {
        let (first, last) = (self.next.wrapping_sub(ticks), self.next.wrapping_sub(1));
        match ticks {
            1 => write!(f, "Number {last}"),
            _ => write!(f, "Numbers {first} to {last}"),
        }
    }

    fn write_last_before_change(&self, ticks: u64, since: u64, f: &mut Formatter<'_>) -> Result {
        let first = self.next.wrapping_sub(since);
        write!(f, "The last {ticks} before the counter was set to {first}")
    }
}
