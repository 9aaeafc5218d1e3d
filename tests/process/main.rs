// SPDX-License-Identifier: Apache-2.0
//! Process: the daemon as a process, with real sockets, real signals and a real `nc`.
//!
//! A test waits for a condition, at most [`testkit::LIMIT`], and never for a time. Exact times are
//! compared with the deadlines that the daemon logs. A bound on a duration excludes the delays of
//! the machine ([`testkit::host`]).
//!
//! | file | shows |
//! | --- | --- |
//! | [`adopting`] | a successor, and predecessors of all kinds |
//! | [`bounds`] | a service that does not keep to its bounds |
//! | [`catalog`] | the entries of the catalog |
//! | [`catching_up`] | many ticks that are due, and another period |
//! | [`commands`] | commands of clients |
//! | [`device`] | the watchdog of the example: always open, used by one process |
//! | [`exchange`] | a predecessor, and successors of all kinds |
//! | [`handoff`] | one process after the other |
//! | [`inheritance`] | listeners across a handoff, and their files |
//! | [`large`] | a state of 3.9 kB |
//! | [`logging`] | lines, fields, and a log that nobody reads |
//! | [`manual`] | the manual page, compared with the program |
//! | [`meddling`] | changes that another process makes to a shared socket or file |
//! | [`members`] | the permissions of a member of the clients' group |
//! | [`memory`] | no memory is left allocated |
//! | [`meter`] | the handoff with a service other than the counter |
//! | [`names`] | two services with different names |
//! | [`nameless`] | a socket whose name disappears |
//! | [`new_service`] | the crate that the generator writes |
//! | [`older`] | the C programs on the other side, and who may ask |
//! | [`options`] | the command line |
//! | [`ownership`] | the lock, and who waits for it |
//! | [`passing_errors`] | a passing shortage costs time and nothing else |
//! | [`rebinding`] | a fresh socket in the place of a passed one |
//! | [`recovery`] | continuing after a death or a stop |
//! | [`refusing`] | offers that a successor does not adopt |
//! | [`reload`] | the owner hands over to the program on disk |
//! | [`root`] | the first stage across a switch of root |
//! | [`scarcity`] | resource limits that are too low |
//! | [`sessions`] | clients across a handoff |
//! | [`signals`] | signals and the end |
//! | [`sockets`] | the socket file |
//! | [`spelling`] | one socket by several names, and names of all kinds |
//! | [`state_file`] | files in the place of the state file |
//! | [`systemd`] | passed sockets, notifications |
//! | [`ticks`] | ticks on time, and catching up |
//!
//! The tests need `nc` (netcat-openbsd), `journalctl` (systemd), `groff` (groff-base), `strace` and
//! util-linux. Tests that put a socket in journald's place need a mount namespace: root, or user
//! namespaces. A missing tool fails a test and is named.
#![allow(clippy::print_stderr, reason = "a test that fails shows what the daemon logged")]

mod adopting;
mod bounds;
mod catalog;
mod catching_up;
mod commands;
mod device;
mod exchange;
mod handoff;
mod inheritance;
mod large;
mod logging;
mod manual;
mod meddling;
mod members;
mod memory;
mod meter;
mod nameless;
mod names;
mod new_service;
mod older;
mod options;
mod ownership;
mod passing_errors;
mod rebinding;
mod recovery;
mod refusing;
mod reload;
mod root;
mod scarcity;
mod sessions;
mod signals;
mod sockets;
mod spelling;
mod state_file;
mod systemd;
mod ticks;

mod pair;
mod stage;
mod users;
mod wire;

use std::time::Duration;

/// Limit for an operation that takes microseconds, unless it waits for something.
const AT_ONCE: Duration = Duration::from_secs(3);

/// Limit for a clean shutdown, as promised for power-off.
const END: Duration = Duration::from_secs(1);
