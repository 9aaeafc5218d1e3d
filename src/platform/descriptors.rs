// SPDX-License-Identifier: Apache-2.0
//! File descriptors: the size of the table, the number needed besides those of clients, and what a
//! descriptor is.

use std::io;
use std::os::fd::{AsFd, RawFd};

use early_service_machine::device::Kind;
use rustix::fs::{FileType, fstat, major, minor};
use rustix::io::{Errno, fcntl_dupfd_cloexec, retry_on_intr};
use rustix::net::sockopt::{socket_domain, socket_type};
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

/// What `descriptor` is.
pub(crate) fn kind(descriptor: impl AsFd) -> Result<Kind, Errno> {
    let status = fstat(&descriptor)?;
    Ok(match FileType::from_raw_mode(status.st_mode) {
        FileType::CharacterDevice => {
            Kind::Character(Some((major(status.st_rdev), minor(status.st_rdev))))
        }
        FileType::RegularFile => Kind::Regular,
        FileType::Fifo => Kind::Pipe,
        FileType::Socket => {
            let domain = socket_domain(&descriptor)?.as_raw().into();
            Kind::Socket(domain, socket_type(&descriptor)?.as_raw())
        }
        _ => Kind::Other,
    })
}
