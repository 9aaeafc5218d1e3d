// SPDX-License-Identifier: Apache-2.0
//! Names of a listener: the path that clients use, and the names beside it.
//!
//! | name | what it is |
//! | --- | --- |
//! | `PATH` | the socket to which clients connect |
//! | `PATH.successor`, `PATH.successor1` … | a successor's socket, until it replaces `PATH` |
//! | `PATH.passed` | the socket that systemd passed, while a fresh one is at `PATH` |
//!
//! The kernel keeps the name by which a socket was bound, even after a rename. So each name from an
//! address is reduced to its `PATH`.

use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixStream};
use std::path::{Path, PathBuf};

use smol::Async;

use crate::platform::files::with_suffix;

const SUCCESSOR_SUFFIX: &str = ".successor";
const SAVED_SUFFIX: &str = ".passed";

/// The name of a successor's socket, if `others` successors of the same path are waiting.
pub(super) fn successor_name(path: &Path, others: u32) -> PathBuf {
    let name = with_suffix(path, SUCCESSOR_SUFFIX);
    if others > 0 { with_suffix(&name, &others.to_string()) } else { name }
}

/// The name by which a fresh socket is bound, and which the passed socket gets in exchange.
pub(super) fn saved_name(path: &Path) -> PathBuf {
    with_suffix(path, SAVED_SUFFIX)
}

/// The path without the suffix of [`successor_name`] or [`saved_name`].
fn without_suffix(name: &Path) -> PathBuf {
    let bytes = name.as_os_str().as_bytes();
    if let Some(path) = bytes.strip_suffix(SAVED_SUFFIX.as_bytes()) {
        return OsStr::from_bytes(path).into();
    }
    let digits = bytes.iter().rev().take_while(|byte| byte.is_ascii_digit()).count();
    let suffixed = bytes.get(..bytes.len() - digits).unwrap_or(bytes);
    let path = suffixed.strip_suffix(SUCCESSOR_SUFFIX.as_bytes()).unwrap_or(bytes);
    OsStr::from_bytes(path).into()
}

/// The path of the listener that `stream` is connected to; empty if it has none.
pub(crate) fn path_of_peer(stream: &Async<UnixStream>) -> PathBuf {
    path_of(&stream.get_ref().peer_addr())
}

/// The path of an address; empty if it has none.
pub(super) fn path_of(address: &io::Result<SocketAddr>) -> PathBuf {
    let path = address.as_ref().ok().and_then(|address| address.as_pathname().map(without_suffix));
    path.unwrap_or_default()
}

/// The name of an address in the abstract namespace, as systemd writes it; empty if it has none.
pub(super) fn abstract_name(address: &io::Result<SocketAddr>) -> PathBuf {
    let name = address.as_ref().ok().and_then(SocketAddr::as_abstract_name);
    name.map(|name| format!("@{}", name.escape_ascii()).into()).unwrap_or_default()
}

/// Whether both are the address of one socket.
pub(super) fn are_same(one: &io::Result<SocketAddr>, other: &io::Result<SocketAddr>) -> bool {
    let (Ok(one), Ok(other)) = (one, other) else { return false };
    match (one.as_pathname(), one.as_abstract_name()) {
        (Some(path), _) => other.as_pathname() == Some(path),
        (None, Some(name)) => other.as_abstract_name() == Some(name),
        (None, None) => false,
    }
}
