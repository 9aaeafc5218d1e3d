// SPDX-License-Identifier: Apache-2.0
//! Files: which one is which, and names made from others.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use rustix::fs::Stat;

/// Whether both are of one file.
pub(crate) fn is_same(one: &Stat, other: &Stat) -> bool {
    (one.st_dev, one.st_ino) == (other.st_dev, other.st_ino)
}

/// A name beside `path`.
pub(crate) fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(suffix);
    name.into()
}
