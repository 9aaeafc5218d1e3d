// SPDX-License-Identifier: Apache-2.0
//! A service that answers clients from the initrd on, and hands its state to the process on the
//! root filesystem.
//!
//! An author writes a [`State`], its texts as a [`Service`], and [`main!`]. This is a whole
//! program:
//!
//! ```
//! use std::fmt;
//!
//! use early_service::{Fields, MissingField, Service, State, number};
//!
//! /// How many people came through the door. A client sends a number, and receives the sum.
//! #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
//! struct People(u64);
//!
//! impl State for People {
//!     type Command = u64;
//!     type Reply = u64;
//!     const NAME: &'static str = "people";
//!     const EXPECTED: &'static str = "a number";
//!     fn read(fields: Fields<'_>) -> Result<Self, MissingField> {
//!         fields.number("people").map(Self)
//!     }
//!     fn write_fields(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
//!         write!(f, "people={}", self.0)
//!     }
//!     fn command(line: &[u8]) -> Result<u64, &'static str> {
//!         number(line).ok_or(Self::EXPECTED)
//!     }
//!     fn apply(&mut self, more: u64) -> u64 {
//!         self.0 = self.0.saturating_add(more);
//!         self.0
//!     }
//! }
//! impl Service for People {
//!     const ABOUT: &'static str = "Counts people from the initrd on.";
//! }
//! early_service::main!(People);
//! # assert_eq!(People::read(Fields::new(b"people=5")), Ok(People(5)));
//! ```
//!
//! The program has the options, the commands and the log of `early-service`. A service with
//! hardware adds a [`device::Device`].
//!
//! [`trial`] has the tests for both.
//!
//! # What travels
//!
//! | travels to the successor | does not travel |
//! | --- | --- |
//! | the state: the fields that [`State::write_fields`] writes | everything else in memory |
//! | the time of the next tick | threads, timers, open files, child processes |
//! | listening sockets, and clients with their unread commands and unsent replies | |
//! | the open descriptors of a device, and what waits in them | the rest of the device: [`Device::freeze`](device::Device::freeze) is the last call that can save it |
//!
//! After a crash, the next process has the last state that a client or the log could see, and the
//! descriptors of the device if PID 1 stores them.
//!
//! # Threads
//!
//! Each method of [`State`], [`Service`] and [`device::Device`] is called on one thread, between two
//! ticks. None may block, and none may panic: the process aborts, and systemd starts it again.
//! [`main!`] is called before there is a second thread.
//!
//! # Limits and units
//!
//! | what | limit |
//! | --- | --- |
//! | [`State::NAME`] | 32 bytes |
//! | [`State::MAX_FIELDS`] | 4096 bytes, by default 128 |
//! | [`State::MAX_REPLY`] | 2303 bytes, by default 64 |
//! | a command | a line of 128 bytes |
//! | [`Service::DESCRIPTORS`] | 16 names |
//! | a log record of a tick | 240 bytes |
//!
//! A program that exceeds one of the first three does not compile. Lengths are bytes. A
//! [`device::Monotonic`] is a time in nanoseconds of `CLOCK_MONOTONIC`, which stands still while the
//! machine is suspended. An option in milliseconds has a name that ends with `-ms`.
//!
//! # Versions
//!
//! Versions follow [Semantic Versioning](https://semver.org). It covers every item in this
//! documentation: a program compiles and behaves the same with each later release whose first
//! number, or second number while the first is 0, is the same. The items of the crate
//! `early-service-machine` are covered as far as this crate exports them.
//!
//! Messages between processes and the state file keep a promise of their own, which also holds
//! between releases that are not compatible here:
//! [upgrading](https://docs.rs/crate/early-service/latest/source/docs/upgrading.md).
#![forbid(unsafe_code)]

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
pub mod trial;

#[doc(inline)]
pub use early_service_machine::State;
#[doc(inline)]
pub use early_service_machine::wire::fields::{Fields, MissingField, number};
pub use service::Service;
pub use startup::main;

// Not part of the interface: for the macro.
#[doc(hidden)]
pub use service::check;
