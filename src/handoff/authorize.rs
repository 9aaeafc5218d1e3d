// SPDX-License-Identifier: Apache-2.0
//! Authorization: which process may receive the state, and whose state is adopted.
//!
//! Collects the user numbers from which [`Trust`] decides. Never caches one, because a user may be
//! created, and the owner of a socket changed, at any time.

use std::fs;
use std::io;
use std::os::fd::AsFd;

use early_service_machine::trust::{OVERFLOW, Trust};
use rustix::net::UCred;
use rustix::net::sockopt::socket_peercred;
use rustix::process::geteuid;

use crate::handoff::users::User;

/// The users that this process trusts.
pub(crate) fn trust() -> Trust {
    let overflow = fs::read_to_string("/proc/sys/kernel/overflowuid").ok();
    let overflow = overflow.and_then(|text| text.trim_end().parse().ok()).unwrap_or(OVERFLOW);
    Trust { ours: geteuid().as_raw(), overflow }
}

/// The process that requested the state on `stream`, or why it may not receive it. `owner` is the
/// owner of the socket file to which it connected. `successor` is looked up now.
pub(crate) fn check(
    stream: impl AsFd,
    successor: Option<&User>,
    owner: Option<u32>,
) -> Result<UCred, String> {
    let peer = socket_peercred(stream);
    let peer = peer.map_err(|_| "the kernel does not report its user".to_owned())?;
    let named = successor.and_then(User::number).map(|user| user.as_raw());
    let (pid, uid) = (peer.pid.as_raw_nonzero(), peer.uid.as_raw());
    if trust().may_receive(uid, named, owner) {
        Ok(peer)
    } else {
        Err(format!("process {pid} of user {uid} may not ask for it"))
    }
}

/// Whether a state file of `owner` is trusted.
pub(crate) fn may_own_the_file(owner: u32, successor: Option<&User>) -> bool {
    let named = successor.and_then(User::number).map(|user| user.as_raw());
    trust().may_own_the_file(owner, named)
}

/// Why no state is adopted from a peer.
pub(crate) enum Distrust {
    /// It is a process of another user, or its user is unknown.
    Stranger(String),
    /// The kernel did not return its credentials; it may be the owner of the state.
    Unknown(io::Error),
}

/// Whether the process that listens on the other end of `stream` is trusted. The kernel reports the
/// process that called listen(2) (`SO_PEERCRED` in unix(7)).
pub(crate) fn vouch_for(stream: impl AsFd) -> Result<(), Distrust> {
    let peer = socket_peercred(stream).map_err(|error| Distrust::Unknown(error.into()))?;
    let uid = peer.uid.as_raw();
    if trust().may_offer(uid) {
        return Ok(());
    }
    let pid = peer.pid.as_raw_nonzero();
    Err(Distrust::Stranger(format!("peer (pid {pid}, uid {uid}) is not trusted")))
}
