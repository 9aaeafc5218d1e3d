// SPDX-License-Identifier: Apache-2.0
//! Counter: the state that is carried through the boot, its commands and its replies.
//!
//! It stands for any state.
//! Whoever builds on this program replaces this module and its actor; nothing else works with a
//! number.
//!
//! **Invariant:** a number leaves [`Counter::tick`] once; between two ticks only
//! [`Command::Set`] changes it.

use core::fmt;

use crate::fields::{Fields, Lacking, number};
use crate::schedule::{Monotonic, Period, Schedule};

/// What travels from one process to the next: the next number to be logged.
///
/// Its text form, decimal digits, is the reply to [`HAND_OVER`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct State {
    /// The next number to be logged.
    pub next: u64,
}

impl State {
    /// Reads a predecessor's reply; `None` for anything but digits that fit.
    #[must_use]
    pub fn parse(reply: &[u8]) -> Option<Self> {
        number(reply).map(|next| Self { next })
    }

    /// Reads the state out of its fields.
    ///
    /// # Errors
    ///
    /// Names the field that is missing or wrong.
    pub fn read(fields: Fields<'_>) -> Result<Self, Lacking> {
        Ok(Self { next: fields.number("counter")? })
    }

    /// Writes the state as fields, [`MAX_FIELDS`] bytes at the most: `counter=137`.
    fn write_fields(self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "counter={}", self.next)
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.next)
    }
}

/// The longest form of a state as fields, in bytes.
pub const MAX_FIELDS: usize = "counter=18446744073709551615".len();

/// A state at one instant, with its rhythm: what goes into the state file and over the wire.
///
/// Its text form is fields: `counter=137 deadline_ns=… period_ns=…`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Snapshot {
    /// The state.
    pub state: State,
    /// When the next tick is due.
    pub deadline: Monotonic,
    /// The time between two ticks up to now.
    pub period: Period,
}

impl Snapshot {
    /// Reads a snapshot out of its fields.
    ///
    /// # Errors
    ///
    /// Names the field that is missing or wrong.
    pub fn read(fields: Fields<'_>) -> Result<Self, Lacking> {
        Ok(Self {
            state: State::read(fields)?,
            deadline: Monotonic::from_nanos(fields.number("deadline_ns")?),
            period: Period::from_nanos(fields.number("period_ns")?).ok_or(Lacking("period_ns"))?,
        })
    }
}

impl fmt::Display for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.state.write_fields(f)?;
        let (deadline, period) = (self.deadline.as_nanos(), self.period.as_nanos());
        write!(f, " deadline_ns={deadline} period_ns={period}")
    }
}

/// The line with which a successor asks for the state: the predecessor answers and terminates.
pub const HAND_OVER: &str = "get_counter_and_terminate";

/// The commands of this state, as an error names them.
pub const EXPECTED: &str = "get_counter, set_counter N";

/// What a client may ask of the state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Command {
    /// `get_counter`: the next number to be logged.
    #[default]
    Get,
    /// `set_counter N`: the next number to be logged becomes N.
    Set(u64),
}

const GET: &[u8] = b"get_counter";
const SET: &[u8] = b"set_counter ";

impl Command {
    /// Reads one line without its end.
    ///
    /// # Errors
    ///
    /// Says in words what was expected; nothing is half accepted.
    pub fn parse(line: &[u8]) -> Result<Self, &'static str> {
        if line == GET {
            return Ok(Self::Get);
        }
        match line.strip_prefix(SET) {
            None => Err(EXPECTED),
            Some(digits) => number(digits)
                .map(Self::Set)
                .ok_or("set_counter N with N from 0 to 18446744073709551615"),
        }
    }
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Get => write!(f, "get_counter"),
            Self::Set(number) => write!(f, "set_counter {number}"),
        }
    }
}

/// The longest text form of a [`Reply`], in bytes.
pub const MAX_REPLY: usize = "previous value 18446744073709551615".len();

/// The answer to a [`Command`]; its text form is the line that the client reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reply {
    /// The next number to be logged.
    Next(u64),
    /// The number that would have been logged next, had it not been set.
    Previous(u64),
}

impl fmt::Display for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Next(number) => write!(f, "{number}"),
            Self::Previous(number) => write!(f, "previous value {number}"),
        }
    }
}

/// One tick.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Tick {
    /// The number to log.
    pub number: u64,
    /// When it was due.
    pub deadline: Monotonic,
}

/// A counter that runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Counter {
    state: State,
    schedule: Schedule,
    late: u64,
}

impl Counter {
    /// Goes on from `state`; the first tick is due one period after `now`.
    #[must_use]
    pub const fn starting(state: State, now: Monotonic, period: Period) -> Self {
        Self { state, schedule: Schedule::starting(now, period), late: 0 }
    }

    /// Goes on where the counter of `snapshot` was, with every deadline where it would have been.
    ///
    /// The ticks that are due at `now` come at the snapshot's period, those that follow at ours.
    #[must_use]
    pub const fn resuming(snapshot: Snapshot, now: Monotonic, period: Period) -> Self {
        let Snapshot { state, deadline, period: until_now } = snapshot;
        Self { state, schedule: Schedule::resuming(deadline, until_now, now, period), late: 0 }
    }

    /// Takes one tick that is due at `now`; `None` when all are taken.
    ///
    /// After 18446744073709551615 comes 0.
    pub fn tick(&mut self, now: Monotonic) -> Option<Tick> {
        let deadline = self.schedule.due(now)?;
        if self.schedule.is_late(deadline, now) {
            self.late = self.late.saturating_add(1);
        }
        let number = self.state.next;
        self.state.next = number.wrapping_add(1);
        Some(Tick { number, deadline })
    }

    /// Carries out one command.
    pub const fn apply(&mut self, command: Command) -> Reply {
        match command {
            Command::Get => Reply::Next(self.state.next),
            Command::Set(number) => {
                let previous = self.state.next;
                self.state.next = number;
                Reply::Previous(previous)
            }
        }
    }

    /// The state as it is now.
    #[must_use]
    pub const fn state(&self) -> State {
        self.state
    }

    /// What a successor needs to go on from here.
    #[must_use]
    pub const fn snapshot(&self) -> Snapshot {
        let (deadline, period) = (self.schedule.deadline(), self.schedule.period());
        Snapshot { state: self.state, deadline, period }
    }

    /// How many ticks are due at `now`.
    #[must_use]
    pub fn due(&self, now: Monotonic) -> u64 {
        self.schedule.count_due(now)
    }

    /// When the next tick is due.
    #[must_use]
    pub const fn deadline(&self) -> Monotonic {
        self.schedule.deadline()
    }

    /// How many ticks came so late that their successor was due already.
    #[must_use]
    pub const fn late(&self) -> u64 {
        self.late
    }
}

/// The longest form of a [`Counter`] in a status line, in bytes.
pub const MAX_STATUS: usize = MAX_FIELDS + " ticks_late=18446744073709551615".len();

/// This state's part of a status line: `counter=137 ticks_late=0`.
impl fmt::Display for Counter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.state.write_fields(f)?;
        write!(f, " ticks_late={}", self.late)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::format;
    use std::string::ToString;
    use std::vec::Vec;

    fn at(ms: u64) -> Monotonic {
        Monotonic::from_nanos(ms * 1_000_000)
    }

    fn counter_from(next: u64) -> Counter {
        let period = Period::from_millis(100).expect("100 is not 0");
        Counter::starting(State { next }, at(0), period)
    }

    #[test]
    fn commands_are_read_to_the_letter() {
        for (line, command) in [
            ("get_counter", Some(Command::Get)),
            ("set_counter 100", Some(Command::Set(100))),
            ("get_counter ", None),
            ("GET_COUNTER", None),
            ("set_counter", None),
            ("set_counter ", None),
            ("set_counter  1", None),
            ("set_counter -1", None),
        ] {
            assert_eq!(Command::parse(line.as_bytes()).ok(), command, "{line:?}");
        }
    }

    #[test]
    fn an_accepted_command_formats_to_a_line_that_reads_the_same() {
        for command in [Command::Get, Command::Set(0), Command::Set(u64::MAX)] {
            assert_eq!(Command::parse(command.to_string().as_bytes()), Ok(command));
        }
    }

    #[test]
    fn a_reply_reads_as_the_protocol_says() {
        assert_eq!(Reply::Next(137).to_string(), "137");
        assert_eq!(Reply::Previous(502).to_string(), "previous value 502");
        assert_eq!(Reply::Previous(u64::MAX).to_string().len(), MAX_REPLY);
        assert_eq!(
            State::parse(State { next: 137 }.to_string().as_bytes()),
            Some(State { next: 137 })
        );
    }

    #[test]
    fn ticks_count_on_from_the_state_and_keep_their_deadlines() {
        let mut counter = counter_from(137);
        let ticks: Vec<_> = core::iter::from_fn(|| counter.tick(at(250))).collect();
        let expected =
            [Tick { number: 137, deadline: at(100) }, Tick { number: 138, deadline: at(200) }];
        assert_eq!(ticks, expected);
        assert_eq!(counter.state(), State { next: 139 });
        assert_eq!(format!("{counter}"), "counter=139 ticks_late=1");
    }

    #[test]
    fn a_counter_resumes_with_every_tick_that_the_clock_implies() {
        let mut first = counter_from(137);
        assert_eq!(first.tick(at(120)).map(|tick| tick.number), Some(137));
        let period = Period::from_millis(100).expect("not zero");
        let mut second = Counter::resuming(first.snapshot(), at(420), period);
        assert_eq!(second.due(at(420)), 3);
        let ticks: Vec<_> = core::iter::from_fn(|| second.tick(at(420))).collect();
        let expected = [(138, 200), (139, 300), (140, 400)]
            .map(|(number, ms)| Tick { number, deadline: at(ms) });
        assert_eq!(ticks, expected);
        assert_eq!(second.deadline(), at(500));
    }

    #[test]
    fn a_snapshot_reads_as_it_was_written() {
        let counter = counter_from(137);
        let text = format!("{}", counter.snapshot());
        assert_eq!(text, "counter=137 deadline_ns=100000000 period_ns=100000000");
        assert_eq!(Snapshot::read(Fields::new(text.as_bytes())), Ok(counter.snapshot()));
        let largest = format!("counter={}", u64::MAX);
        assert_eq!(largest.len(), MAX_FIELDS);
    }

    #[test]
    fn set_answers_with_the_number_that_it_replaced() {
        let mut counter = counter_from(502);
        assert_eq!(counter.apply(Command::Set(100)), Reply::Previous(502));
        assert_eq!(counter.apply(Command::Get), Reply::Next(100));
        assert_eq!(counter.tick(at(100)).map(|tick| tick.number), Some(100));
    }

    #[test]
    fn after_the_largest_number_comes_zero() {
        let mut counter = counter_from(u64::MAX);
        assert_eq!(counter.tick(at(100)).map(|tick| tick.number), Some(u64::MAX));
        assert_eq!(counter.apply(Command::Get), Reply::Next(0));
    }
}
