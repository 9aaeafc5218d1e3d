// SPDX-License-Identifier: Apache-2.0
//! Helpers shared by the tests, the soak, `cargo bench` and the examples.
//!
//! | module | provides |
//! | --- | --- |
//! | [`build`] | programs of this package, built with the profile of the caller |
//! | [`client`] | a real `nc`, and connections that do what `nc` cannot |
//! | [`daemon`], [`starting`] | one process under test and the lines that it logs |
//! | [`host`] | how late the machine wakes threads that could run |
//! | [`journald`] | a socket in journald's place |
//! | [`line`](mod@line) | one log line in its parts |
//! | [`load`] | clients at work, and the replies that each received |
//! | [`manager`] | a socket in the place of PID 1 |
//! | [`judge`], [`order`], [`record`] | whether replies, log and state file fit one undisturbed counter |
//! | [`orphan`] | the end of processes that a process under test has started |
//! | [`patches`] | faults, and copies of the sources to plant them in |
//! | [`pipe`] | in the place of a device, to see whether it is open and fed |
//! | [`random`] | numbers that follow from a seed |
//! | [`scratch`] | a directory that is removed with its test |
//! | [`waiting`] | waiting for a condition, with a limit |
//!
//! Helpers panic when a test cannot continue. The message says what was attempted.
#![allow(clippy::print_stderr, reason = "a failing test shows what the daemon logged")]

pub mod build;
pub mod client;
pub mod daemon;
pub mod host;
pub mod journald;
pub mod judge;
pub mod line;
pub mod load;
pub mod manager;
pub mod order;
pub mod orphan;
pub mod patches;
pub mod pipe;
pub mod random;
pub mod record;
pub mod scratch;
pub mod starting;
pub mod waiting;

pub use waiting::{LIMIT, now, until};
