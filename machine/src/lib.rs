// SPDX-License-Identifier: Apache-2.0
//! The pure half of `early-service`: what it decides, without the means to do it.
//!
//! Nothing here reads a clock, opens a file or allocates.
//! Time comes in as an argument and the next deadline goes out; bytes come in and replies go out;
//! events come in and orders to the actors go out.
//! So every rule can be tried in a table, driven by two machines against each other, or fuzzed,
//! in microseconds and with the same result each time.
//!
//! | module | decides |
//! | --- | --- |
//! | [`lifecycle`] | who owns the state, and when a process hands over, serves or leaves |
//! | [`schedule`] | when the next tick is due, and which ones were missed |
//! | [`state`] | what a state must say of itself |
//! | [`timeline`] | which ticks are due of a state that ticks, and from where it goes on |
//! | [`counter`] | the state itself, its commands and its replies |
//! | [`wire::command`] | where a line ends, and what it asks for |
//! | [`wire::handoff`] | what predecessor and successor say to each other |
//! | [`record`] | what stands in the state file |
//! | [`wire::fields`] | how both of them write numbers down |
//! | [`trust`] | which users may receive the state, and whose state is adopted |
//!
//! Everything that knows that the state is a *counter* stands in [`counter`].
//! To carry another state, write another such module.
//!
//! No input makes this crate panic: the lints of its manifest forbid indexing, unchecked
//! arithmetic, `unwrap` and the like, and the fuzz targets try the rest.
#![no_std]
#![cfg_attr(
    test,
    allow(
        clippy::arithmetic_side_effects,
        clippy::expect_used,
        clippy::wildcard_enum_match_arm,
        reason = "a test fails by panicking"
    )
)]

#[cfg(test)]
extern crate std;

pub mod bounds;
pub mod counter;
pub mod lifecycle;
pub mod record;
pub mod schedule;
pub mod state;
pub mod timeline;
pub mod trust;
pub mod wire;

pub use counter::Counter;
pub use state::State;
