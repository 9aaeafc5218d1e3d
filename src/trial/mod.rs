// SPDX-License-Identifier: Apache-2.0
//! Trial: the tests that the author of a service runs on a state and a device.
//!
//! [`state`] checks what the compiler cannot: whether the state reads what it writes, and keeps to
//! its lengths. [`every_fault`] takes a [`Device`] through a handoff that succeeds, and through one
//! for each death of either process, and returns the order of the calls.
//!
//! The crate `early-service-trial` does the latter with two real processes of a service.
//!
//! A trial needs no second process, no privileges and no time: both sides run on the thread of the
//! test, with the device actor of the program and a clock that jumps to the next deadline. The test
//! provides the file that [`Device::acquire`] opens, and names it by [`set`]. Data in its
//! descriptors may come at any time of that clock.
//!
//! ```
//! # use std::fmt;
//! use early_service::{Fields, MissingField, Service, State, number, trial};
//!
//! # #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
//! # struct Doors(u64);
//! # impl State for Doors {
//! #    type Command = u64;
//! #    type Reply = u64;
//! #    const NAME: &'static str = "doors";
//! #    const EXPECTED: &'static str = "a number";
//! #    fn read(fields: Fields<'_>) -> Result<Self, MissingField> {
//! #        fields.number("doors").map(Self)
//! #    }
//! #    fn write_fields(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
//! #        write!(f, "doors={}", self.0)
//! #    }
//! #    fn command(line: &[u8]) -> Result<u64, &'static str> {
//! #        number(line).ok_or(Self::EXPECTED)
//! #    }
//! #    fn apply(&mut self, command: u64) -> u64 {
//! #        std::mem::replace(&mut self.0, command)
//! #    }
//! # }
//! # impl Service for Doors {
//! #    const ABOUT: &'static str = "Counts doors.";
//! # }
//! // The longest states, and one line of each command.
//! trial::state(&[Doors(0), Doors(u64::MAX)], &["5"]).expect("a sound state");
//! ```

pub(crate) mod clock;
mod course;
mod promises;
mod traced;

use std::cell::RefCell;
use std::ffi::OsString;
use std::fmt;

use early_service_machine::schedule::Monotonic;

use crate::device::Device;
use crate::trial::course::Course;
pub use crate::trial::promises::state;

/// A process of a trial.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The first owner.
    Predecessor,
    /// The process that adopts.
    Successor,
    /// The process that PID 1 starts after the death of a successor that was alone.
    Restarted,
}

/// A step of the handoff, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Arrow {
    /// The successor has requested the state; the predecessor has frozen.
    Handoff,
    /// The predecessor has offered the state.
    State,
    /// The successor has every descriptor.
    End,
    /// The successor has confirmed that.
    Prepared,
    /// The successor is the owner.
    Commit,
    /// The predecessor leaves.
    Done,
}

/// What happens in a trial.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Nothing: the handoff succeeds.
    None,
    /// The predecessor or the successor dies after a step.
    Death(Side, Arrow),
    /// The device of the predecessor fails before the handoff.
    Device,
}

/// A call of a method of the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Call {
    /// The time since the start of the predecessor.
    pub at: Monotonic,
    /// The process.
    pub side: Side,
    /// The name of the method; `"close"` if the device or its descriptors were dropped, and
    /// `"apply"` if the device gave a command.
    pub method: &'static str,
}

impl Arrow {
    /// Each step.
    pub const ALL: [Self; 6] =
        [Self::Handoff, Self::State, Self::End, Self::Prepared, Self::Commit, Self::Done];
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Predecessor => "predecessor",
            Self::Successor => "successor",
            Self::Restarted => "restarted process",
        })
    }
}

thread_local! {
    static SETTINGS: RefCell<Vec<(String, OsString)>> = const { RefCell::new(Vec::new()) };
}

/// Sets what [`Port::setting`](crate::device::Port::setting) returns in the trials of this thread,
/// which read no environment: for example the path of the test's file.
pub fn set(name: &str, value: impl Into<OsString>) {
    SETTINGS.with_borrow_mut(|settings| settings.push((name.to_owned(), value.into())));
}

/// The last value that was set.
pub(crate) fn setting(name: &str) -> Option<OsString> {
    SETTINGS.with_borrow(|settings| {
        settings.iter().rfind(|(set, _)| set == name).map(|(_, value)| value.clone())
    })
}

/// Takes a device through one handoff; returns the calls in their order.
///
/// A process serves for three seconds before the handoff and after it, and each step takes 200 ms,
/// of a clock that the trial sets. The state does not tick. The last owner is told to stop.
///
/// A process that dies drops the device. So [`Drop`] must do nothing that a killed process does
/// not: what belongs to the end is in [`release`](Device::release).
///
/// # Errors
///
/// Returns what is wrong, a line each: `freeze` or `accept` returns other open files than the
/// device was given, `thaw` opens the device again, `keep_alive` asks to be called without a pause,
/// `accept` refuses, `acquire` fails or lends too few descriptors, or the device is open at the
/// end.
///
/// # Panics
///
/// If the device panics.
pub fn handoff<D: Device>(fault: Fault) -> Result<Vec<Call>, String> {
    Course::<D>::make(fault)
}

/// Takes a device through a handoff with each fault.
///
/// # Errors
///
/// Returns what is wrong with the first fault that shows it, as [`handoff`] does.
///
/// # Panics
///
/// If the device panics.
pub fn every_fault<D: Device>() -> Result<Vec<(Fault, Vec<Call>)>, String> {
    let deaths = Arrow::ALL.into_iter().flat_map(|arrow| {
        [Side::Predecessor, Side::Successor].map(|side| Fault::Death(side, arrow))
    });
    let faults = [Fault::None, Fault::Device].into_iter().chain(deaths);
    let course = |fault| match handoff::<D>(fault) {
        Ok(calls) => Ok((fault, calls)),
        Err(wrong) => Err(format!("{fault:?}: {wrong}")),
    };
    faults.map(course).collect()
}
