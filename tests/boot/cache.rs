// SPDX-License-Identifier: Apache-2.0
//! Cache: build results under `target/boot`, named by the hash of their inputs.
//!
//! A changed input changes the name; no entry is updated in place. An entry is built under a
//! temporary name and renamed, so that an interrupted run leaves no incomplete entry. Older entries
//! are removed, because a guest takes a gigabyte.

use std::fs;
use std::path::{Path, PathBuf};

/// The repository.
pub(crate) const SOURCE: &str = env!("CARGO_MANIFEST_DIR");

/// The directory of everything that the boot tests build.
pub(crate) fn directory() -> PathBuf {
    let path = Path::new(SOURCE).join("target/boot");
    fs::create_dir_all(&path).expect("target/ can be written");
    path
}

/// The entry for these inputs; calls `build` if it does not exist.
pub(crate) fn entry(
    name: &str,
    inputs: &Inputs,
    build: impl FnOnce(&Path) -> Result<(), String>,
) -> Result<PathBuf, String> {
    let complete = directory().join(format!("{name}-{:016x}", inputs.0));
    if complete.exists() {
        return Ok(complete);
    }
    let started = std::time::Instant::now();
    let partial = directory().join(format!("{name}.partial"));
    remove(&partial)?;
    build(&partial)?;
    fs::rename(&partial, &complete)
        .map_err(|error| format!("cannot keep {}: {error}", complete.display()))?;
    for older in entries_of(name)?.iter().filter(|path| **path != complete) {
        remove(older)?;
    }
    eprintln!("built {name} in {} s", started.elapsed().as_secs());
    Ok(complete)
}

/// The complete entries with this name.
fn entries_of(name: &str) -> Result<Vec<PathBuf>, String> {
    let is_one = |path: &PathBuf| {
        let file = path.file_name().and_then(|file| file.to_str()).unwrap_or_default();
        file.rsplit_once('-').is_some_and(|(prefix, hash)| prefix == name && hash.len() == 16)
    };
    let entries = fs::read_dir(directory()).map_err(|error| format!("cannot list: {error}"))?;
    Ok(entries.filter_map(|entry| Some(entry.ok()?.path())).filter(is_one).collect())
}

/// Removes a file or a tree, if it exists.
pub(crate) fn remove(path: &Path) -> Result<(), String> {
    let removed = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    match removed {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(format!("cannot remove {}: {error}", path.display()))
        }
        _ => Ok(()),
    }
}

/// A hash of everything that determines an entry's contents (FNV-1a).
#[derive(Clone, Copy)]
pub(crate) struct Inputs(u64);

impl Inputs {
    pub(crate) fn new() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }

    pub(crate) fn with(self, bytes: &[u8]) -> Self {
        let hash = bytes.iter().chain([&0xff]).fold(self.0, |hash, byte| {
            (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
        });
        Self(hash)
    }

    /// Adds the contents and the name of a file, or of all files in a directory.
    pub(crate) fn with_path(self, path: &Path) -> Result<Self, String> {
        let explain = |error| format!("cannot read {}: {error}", path.display());
        let named = self.with(path.as_os_str().as_encoded_bytes());
        if !path.is_dir() {
            return Ok(named.with(&fs::read(path).map_err(explain)?));
        }
        let mut entries: Vec<PathBuf> = fs::read_dir(path)
            .and_then(|entries| entries.map(|entry| entry.map(|entry| entry.path())).collect())
            .map_err(explain)?;
        entries.sort();
        entries.iter().try_fold(named, |inputs, entry| inputs.with_path(entry))
    }
}
