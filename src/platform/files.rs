// SPDX-License-Identifier: Apache-2.0
//! Files: their identity, and paths derived from other paths.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::Stat;
use rustix::process::geteuid;

/// How many symbolic links are followed: as many as the kernel follows.
const MAX_LINKS: u32 = 40;

/// Whether both are of one file.
pub(crate) fn is_same(one: &Stat, other: &Stat) -> bool {
    (one.st_dev, one.st_ino) == (other.st_dev, other.st_ino)
}

/// Device and inode of the file at `path`, without following a symbolic link.
pub(crate) fn identity(path: &Path) -> Option<(u64, u64)> {
    let file = fs::symlink_metadata(path).ok()?;
    Some((file.dev(), file.ino()))
}

/// A name beside `path`.
pub(crate) fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(suffix);
    name.into()
}

/// The absolute form of `path`, with symbolic links resolved; the file need not exist. Returns a
/// path that cannot be resolved unchanged: the call that uses it reports the reason.
pub(crate) fn resolve(path: &Path) -> PathBuf {
    let mut resolved = path.to_owned();
    for _ in 0..MAX_LINKS {
        let Some(name) = resolved.file_name() else { break };
        let directory = resolved.parent().filter(|directory| !directory.as_os_str().is_empty());
        let Ok(directory) = fs::canonicalize(directory.unwrap_or(Path::new("."))) else { break };
        let found = directory.join(name);
        match trusted_target(&found) {
            Some(target) => resolved = directory.join(target),
            None => return found,
        }
    }
    path.to_owned()
}

/// The target of a symbolic link, if root or this user owns the link. Another user's link could
/// lead anywhere.
fn trusted_target(link: &Path) -> Option<PathBuf> {
    let target = fs::read_link(link).ok()?;
    let owner = fs::symlink_metadata(link).ok()?.uid();
    (owner == 0 || owner == geteuid().as_raw()).then_some(target)
}

/// Whether both paths name one file, or would name it if it existed.
pub(crate) fn are_same_path(one: &Path, other: &Path) -> bool {
    let file = |path| fs::metadata(path).ok().map(|file| (file.dev(), file.ino()));
    one == other
        || resolve(one) == resolve(other)
        || file(one).is_some_and(|one| file(other) == Some(one))
}

/// Removes a file; logs an error if it still exists.
pub(crate) fn remove(path: &Path) {
    if let Err(error) = fs::remove_file(path) {
        if error.kind() != io::ErrorKind::NotFound {
            log::error!("cannot remove {}: {error}", path.display());
        }
    }
}
