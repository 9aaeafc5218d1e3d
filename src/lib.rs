// SPDX-License-Identifier: Apache-2.0
//! `early-service` for your own state: answers clients from the initrd on, and hands the state to
//! the root filesystem.
//!
//! The program is [`main`] with a [`Service`]: a [`State`](machine::State) and the texts about it.
//! Nothing else knows what the state is; the counter of the program `early-service` is one.
//!
//! # Actors
//!
//! | actor | owns | may tell |
//! | --- | --- | --- |
//! | [`ticker`] | state, timer; the state file while it ticks | server, handoff, supervisor |
//! | [`server`] | listeners and sessions while it serves | ticker, handoff |
//! | [`handoff`] | state file, sockets and the connection to the other process at all other times | ticker, server, supervisor |
//! | [`platform::signals`] | signal handlers | supervisor |
//! | [`journal`] | log queue, writer thread | nobody |
//! | [`supervisor`] | lifecycle | server, handoff, PID 1 |
//!
//! All of them exist from the start to the end of the process, and all but the journal's writer run
//! on one thread. [`messages`] has every mailbox. Nobody waits for room in a mailbox, so actors
//! cannot wait for each other in a circle.
//!
//! # Where things are
//!
//! | module | what it has |
//! | --- | --- |
//! | [`startup`] | the order of start-up, and the exit status |
//! | [`messages`] | what each actor can be told, and how much may wait |
//! | [`handoff`] | both sides of a handoff, the lock and the state file |
//! | [`server`] | clients: listeners, sessions and their limits |
//! | [`journal`] | from a log line to journald or the kernel log |
//! | [`platform`] | clock, signals, PID 1, the switch of root |
//! | [`machine`] | every decision, without input or output |
#![forbid(unsafe_code)]
#![allow(rustdoc::private_intra_doc_links, reason = "the tables are for those who read the code")]

mod cli;
mod counter;
mod handoff;
mod journal;
mod messages;
mod platform;
mod server;
mod service;
mod startup;
mod status;
mod supervisor;
mod ticker;

pub use early_service_machine as machine;
pub use service::Service;
pub use startup::main;
