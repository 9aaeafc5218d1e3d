// SPDX-License-Identifier: Apache-2.0
//! The daemon as a process, with real sockets, real signals and a real `nc`.
//!
//! Nothing here sleeps for a time and then hopes: a test waits for a condition, at most [`LIMIT`].
//! What must be exact is measured against the clock, by the deadlines that the daemon logs; what is
//! only fast is bounded by what a busy machine still keeps.
//!
//! | file | shows |
//! | --- | --- |
//! | [`adopting`] | a successor, and predecessors of all kinds |
//! | [`camera`] | the same with another service, that of the example |
//! | [`catalog`] | what `journalctl --catalog` says |
//! | [`catching_up`] | many ticks that are due, and another period |
//! | [`commands`] | what clients see |
//! | [`exchange`] | a predecessor, and successors of all kinds |
//! | [`handoff`] | one process after the other |
//! | [`inheritance`] | how listeners come to the next process, and their files |
//! | [`logging`] | lines, fields, and a log that nobody reads |
//! | [`manual`] | the manual page, held against the program |
//! | [`meddling`] | what somebody else may have done to a socket that is ours too |
//! | [`members`] | what a member of the clients' group can do |
//! | [`memory`] | what is left of commands and connections |
//! | [`nameless`] | a socket whose name disappears |
//! | [`older`] | the C programs on the other side, and who may ask |
//! | [`options`] | the command line |
//! | [`ownership`] | the lock, and who waits for it |
//! | [`passing_errors`] | what a shortage of a moment costs: time, and nothing else |
//! | [`rebinding`] | a fresh socket in the place of a passed one |
//! | [`recovery`] | going on after a death or a stop |
//! | [`refusing`] | what a successor does not adopt |
//! | [`root`] | the first stage across a switch of root |
//! | [`scarcity`] | limits of the process that leave too little |
//! | [`sessions`] | what clients notice of a handoff |
//! | [`signals`] | how it ends |
//! | [`sockets`] | what becomes of the socket file |
//! | [`spelling`] | one socket by several names, and names of all kinds |
//! | [`state_file`] | what is found in its place |
//! | [`systemd`] | passed sockets, notifications |
//! | [`ticks`] | rhythm, and catching up |
//!
//! They need `nc` (netcat-openbsd), `journalctl` (systemd), `groff` (groff-base), `strace` and util-linux;
//! those that put a socket in journald's place need a mount namespace, which root has, and a user
//! where user namespaces are allowed.
//! What is missing fails a test and is named.
#![allow(clippy::print_stderr, reason = "a test that fails shows what the daemon logged")]

mod adopting;
mod camera;
mod catalog;
mod catching_up;
mod commands;
mod exchange;
mod handoff;
mod inheritance;
mod logging;
mod manual;
mod meddling;
mod members;
mod memory;
mod nameless;
mod older;
mod options;
mod ownership;
mod passing_errors;
mod rebinding;
mod recovery;
mod refusing;
mod root;
mod scarcity;
mod sessions;
mod signals;
mod sockets;
mod spelling;
mod state_file;
mod systemd;
mod ticks;

mod manager;
mod pair;
mod stage;
mod users;
mod wire;

use std::time::Duration;

/// How long something may take on a busy machine that takes microseconds on an idle one, and for
/// ever where it waits for what it must not wait for.
const AT_ONCE: Duration = Duration::from_secs(3);

/// How long the end in order may take: so much is promised to whoever powers off.
const END: Duration = Duration::from_secs(1);
