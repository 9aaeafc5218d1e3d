// SPDX-License-Identifier: Apache-2.0
//! File descriptors: how many the process needs beside those of its clients.

use std::io;
use std::os::fd::RawFd;

use rustix::io::{Errno, fcntl_dupfd_cloexec, retry_on_intr};
use rustix::process::{Resource, getrlimit};

/// Descriptors needed beside those that are open once the start is done: the state file, a
/// predecessor, a client, and one that is open for a moment.
const SPARE: usize = 4;

/// Has the kernel make its table of our descriptors as large as it will ever be, at most `most`.
///
/// The table doubles when a descriptor finds no place, and in a process with threads each time waits
/// for an RCU grace period: some 10 ms on a busy machine (measured), in the middle of a handoff, when
/// hundreds of clients arrive.
/// To be called while there is one thread; the table takes 8 kB.
pub(crate) fn reserve(most: usize) {
    let limit = getrlimit(Resource::Nofile).current.map(usize::try_from);
    let limit = limit.and_then(Result::ok).unwrap_or(usize::MAX).min(most);
    let last = RawFd::try_from(limit).unwrap_or_default() - 1;
    // If this fails, the table grows as it would have.
    drop(fcntl_dupfd_cloexec(io::stderr(), last));
}

/// Checks that [`SPARE`] descriptors are left.
///
/// With fewer, the process would accept clients and never answer them.
pub(crate) fn check_spare() -> Result<(), Errno> {
    let spare = [(); SPARE].map(|()| retry_on_intr(|| fcntl_dupfd_cloexec(io::stderr(), 0)));
    spare.into_iter().try_for_each(|spare| spare.map(drop))
}
