// SPDX-License-Identifier: Apache-2.0
//! Faults: handoffs between two processes under load, with faults in either process.
//!
//! Each try is a whole handoff with ten active clients. One process is killed or stopped.
//! Everything observed is then compared with the results of one undisturbed counter.
//!
//! | file | is |
//! | --- | --- |
//! | [`author`] | the trial that the author of a service runs |
//! | [`arrows`] | faults at each arrow of the exchange |
//! | [`device`] | faults at each arrow, for a service with hardware |
//! | [`instants`] | faults at random times |
//! | [`reload`] | faults at each arrow of a reload |
//! | [`relay`] | a thousand handoffs in a row without a fault, and how long they take |
//! | [`reloads`] | a thousand reloads in a row, beside as many restarts |
//! | [`trial`] | one try |
//! | [`early_service_trial::proxy`] | stands between the processes, to stop the exchange at an arrow |
//! | [`load`] | the clients |
//! | [`judge`], [`order`] | what is right and what is not |
//! | [`service`] | the programs, and what differs between them |
//!
//! `FAULTS_TRIES` (20 for each arrow, side and fault, half of them before the arrow is delivered),
//! `FAULTS_TRIES_METER` (4, of another service), `FAULTS_TRIES_RELOAD` (2), `FAULTS_INSTANTS` (1000)
//! and `FAULTS_HANDOFFS` in the environment set the number of tries; `FAULTS_SEED` repeats tries. A
//! table shows the tries for each fault, and the permitted losses.
#![allow(clippy::print_stderr, reason = "a test that fails shows what the daemon logged")]

mod arrows;
mod author;
mod device;
mod instants;
mod relay;
mod reload;
mod reloads;

mod crowd;
mod service;
mod trial;

use testkit::now;

/// A number from the environment, or `otherwise`.
fn number_from(variable: &str, otherwise: u64) -> u64 {
    match std::env::var(variable) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{variable}={text} is not a number")),
        Err(_) => otherwise,
    }
}

/// The seed of a test's random numbers: `FAULTS_SEED`, or a new one each time.
fn seed() -> u64 {
    number_from("FAULTS_SEED", now())
}
