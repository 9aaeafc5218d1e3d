// SPDX-License-Identifier: Apache-2.0
//! File descriptors: the size of the table, and the number needed besides those of clients.

use std::io;
use std::os::fd::RawFd;

use rustix::io::{Errno, fcntl_dupfd_cloexec, retry_on_intr};
use rustix::process::{Resource, getrlimit};

/// Descriptors needed besides those that are open after the start: the state file, a predecessor, a
/// client, and a temporary one.
const SPARE: usize = 4;

/// Grows the kernel's table of our descriptors to the final size, at most `most` descriptors.
///
/// The table doubles when it is full. In a process with threads, that waits for an RCU grace
/// period: about 10 ms on a busy machine (measured), during a handoff in which hundreds of clients
/// arrive. To be called while there is one thread; the table takes 8 kB.
pub(crate) fn reserve(most: usize) {
    let limit = getrlimit(Resource::Nofile).current.map(usize::try_from);
    let limit = limit.and_then(Result::ok).unwrap_or(usize::MAX).min(most);
    let last = RawFd::try_from(limit).unwrap_or_default() - 1;
    // If this fails, the table grows later.
    drop(fcntl_dupfd_cloexec(io::stderr(), last));
}

/// Checks that [`SPARE`] descriptors are left. Without them, the process would accept clients and
/// never answer them.
pub(crate) fn check_spare() -> Result<(), Errno> {
    let spare = [(); SPARE].map(|()| retry_on_intr(|| fcntl_dupfd_cloexec(io::stderr(), 0)));
    spare.into_iter().try_for_each(|spare| spare.map(drop))
}
