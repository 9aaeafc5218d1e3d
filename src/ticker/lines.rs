// SPDX-License-Identifier: Apache-2.0
//! Log lines about ticks and changes of the state.
//!
//! The [`Service`] has the texts for its state; this file adds the parts that all states share.

use std::fmt::{self, Display, Formatter};

use early_service_machine::record::Unlogged;
use early_service_machine::schedule::Monotonic;
use early_service_machine::timeline::Tick;
use log::kv::{self, Key, Source, Value, VisitSource};
use log::{Level, LevelFilter, Record};

use crate::journal::message_id::Id;
use crate::journal::{CLIENT, LOG, TICK};
use crate::platform::clock;
use crate::service::Service;

/// Logs one tick, which happened at `now`.
pub(super) fn log_tick<S: Service>(tick: Tick<S>, now: Monotonic) {
    let Tick { state, deadline } = tick;
    let fields = TickFields { state, deadline, actual: now, ticks: None };
    log_record(&fields, format_args!("{}", written(|f| state.write_tick(f))));
}

/// Logs one line for the last `count` ticks, which led to `state`, with the fields of the `last`.
pub(super) fn log_range<S: Service>(state: S, count: u64, last: Tick<S>) {
    let Tick { state: last, deadline } = last;
    let fields = TickFields { state: last, deadline, actual: clock::now(), ticks: Some(count) };
    let ticks = written(|f| state.write_last(count, f));
    log_record(&fields, format_args!("{ticks}: {count} missed ticks in one line"));
}

fn log_record<S: Service>(fields: &TickFields<S>, line: fmt::Arguments<'_>) {
    if log::max_level() < LevelFilter::Info {
        return;
    }
    LOG.count_ticks(fields.ticks.map_or(0, |ticks| ticks.saturating_sub(1)));
    let mut record = Record::builder();
    record.level(Level::Info).target(TICK).args(line).key_values(fields);
    log::logger().log(&record.build());
}

/// Logs everything that commands changed between two ticks in one line, because there can be
/// thousands of commands a second.
pub(super) fn log_change<S: Service>(state: S, previous: S) {
    log::info!(target: CLIENT, "{}", written(|f| state.write_change(&previous, f)));
}

/// Logs which ticks before `state` may be missing from the log.
pub(crate) fn say_unlogged<S: Service>(state: S, Unlogged { ticks, unbroken }: Unlogged) {
    const WHY: &str = "may be missing from the log: queued in a process that died";
    let before = ticks.saturating_sub(unbroken);
    if before > 0 {
        let missing = written(|f| state.write_last_before_change(before, unbroken, f));
        log::warn!(MESSAGE_ID = Id::LinesMissing; "{missing} {WHY}");
    }
    if unbroken > 0 {
        let missing = written(|f| state.write_last(unbroken, f));
        log::warn!(MESSAGE_ID = Id::LinesMissing; "{missing} {WHY}");
    }
}

/// The journal fields of a tick.
struct TickFields<S> {
    state: S,
    deadline: Monotonic,
    actual: Monotonic,
    /// The number of ticks that the record represents, if it is not one.
    ticks: Option<u64>,
}

impl<S: Service> Source for TickFields<S> {
    fn visit<'kvs>(&'kvs self, visitor: &mut dyn VisitSource<'kvs>) -> Result<(), kv::Error> {
        for (name, number) in self.state.fields() {
            visitor.visit_pair(Key::from(name), Value::from(number))?;
        }
        for (name, time) in [("DEADLINE_NS", self.deadline), ("ACTUAL_NS", self.actual)] {
            visitor.visit_pair(Key::from(name), Value::from(time.as_nanos()))?;
        }
        match self.ticks {
            Some(ticks) => visitor.visit_pair(Key::from("TICKS"), Value::from(ticks)),
            None => Ok(()),
        }
    }
}

/// The text that a function writes.
struct Written<F>(F);

fn written<F: Fn(&mut Formatter<'_>) -> fmt::Result>(write: F) -> Written<F> {
    Written(write)
}

impl<F: Fn(&mut Formatter<'_>) -> fmt::Result> Display for Written<F> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        (self.0)(f)
    }
}
