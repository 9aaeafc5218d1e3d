// SPDX-License-Identifier: Apache-2.0
//! `early-service` for your own state: answers clients from the initrd on, and hands the state over
//! to the process on the root filesystem.
//!
//! The program is [`main!`] with a [`Service`]: a [`State`](machine::State) and its texts. Nothing
//! else depends on the state. The program `early-service` counts; `examples/camera` has another
//! state.
//!
//! # Actors
//!
//! | actor | owns | sends to |
//! | --- | --- | --- |
//! | [`ticker`] | state, timer; the state file while it ticks | server, handoff, supervisor |
//! | [`server`] | listeners and sessions while it serves | ticker, handoff |
//! | [`handoff`] | state file, sockets and the connection to the other process at all other times | ticker, server, supervisor |
//! | [`device::actor`] | the device and its descriptors, if the service has any | ticker, PID 1 |
//! | [`platform::signals`] | signal handlers | supervisor |
//! | [`journal`] | log queue, writer thread | |
//! | [`supervisor`] | lifecycle | server, handoff, PID 1 |
//!
//! All of them exist from the start to the end of the process, and all except the journal's writer
//! run on one thread. [`messages`] has every mailbox, and the two values that are shared.
//!
//! # Modules
//!
//! | module | contents |
//! | --- | --- |
//! | [`startup`] | the order of start-up, and the exit status |
//! | [`messages`] | every mailbox, with its capacity and the reason for it |
//! | [`handoff`] | both sides of a handoff, the lock and the state file |
//! | [`server`] | clients: listeners, sessions and their limits |
//! | [`device`] | the hardware of a service, if it has any |
//! | [`service`] | the interface of a state; [`counter`] implements it |
//! | [`status`] | what `status` and `systemctl status` show |
//! | [`journal`] | from a log line to journald or the kernel log |
//! | [`platform`] | clock, signals, sockets, PID 1, the switch of root |
//! | [`machine`] | every decision, without input or output |
#![forbid(unsafe_code)]
#![allow(rustdoc::private_intra_doc_links, reason = "the tables are for those who read the code")]

mod cli;
mod counter;
pub mod device;
mod fixed_buf;
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
#[doc(hidden)]
pub use service::check;
pub use startup::main;
