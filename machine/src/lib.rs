// SPDX-License-Identifier: Apache-2.0
//! The decisions of `early-service`, without input or output.
//!
//! Nothing here reads a clock, opens a file or allocates. Times, bytes and events are arguments;
//! deadlines, replies and orders to the actors are results. Tables, pairs of state machines and
//! fuzzers can therefore test every rule, with repeatable results.
//!
//! | module | decides |
//! | --- | --- |
//! | [`lifecycle`] | who owns the state, and when a process serves, hands over or leaves |
//! | [`device`] | when the hardware of a service is opened, used and closed |
//! | [`schedule`] | when the next tick is due, and which ones were missed |
//! | [`timeline`] | how a state ticks, and from where the next owner continues |
//! | [`state`] | what a state must implement |
//! | [`counter`] | the state of `early-service`, its commands and its replies |
//! | [`bounds`] | how long each line, record and reply may be |
//! | [`contract`] | whether a state keeps what it promises |
//! | [`record`] | what the state file contains |
//! | [`realtime`] | how a time of the wall clock is shown |
//! | [`slots`] | the same for a state of up to 4 kB |
//! | [`wire::command`] | which lines a client may send |
//! | [`wire::handoff`] | which messages predecessor and successor exchange |
//! | [`wire::fields`] | how records and messages encode their values |
//! | [`trust`] | which users may receive the state, and whose state is adopted |
//!
//! An author of a service uses the items that `early-service` exports. Only they keep the rule of
//! versions; everything else may change with each release.
//!
//! Only [`counter`] knows that the state is a counter. Another state needs another such module.
//!
//! **Invariant:** no input makes this crate panic. The lints in its manifest forbid indexing,
//! unchecked arithmetic and `unwrap`; the fuzz targets look for other causes.
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
pub mod contract;
pub mod counter;
pub mod device;
pub mod lifecycle;
pub mod realtime;
pub mod record;
pub mod schedule;
pub mod slots;
pub mod state;
pub mod timeline;
pub mod trust;
pub mod wire;

pub use counter::Counter;
pub use state::State;
