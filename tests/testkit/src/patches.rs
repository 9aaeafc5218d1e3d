// SPDX-License-Identifier: Apache-2.0
//! Planted faults: the patches of `tests/patches`, and copies of the sources that they are applied
//! to.
//!
//! `tests/patches/README.md` describes the files. A patch is named without its suffix; its name
//! begins with the ring of tests that must notice the fault.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Entries of the repository that no build needs: output, and the fuzz targets' own workspace.
const NOT_COPIED: [&str; 3] = [".git", "fuzz", "target"];

/// The root directory of the repository.
pub fn repository() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    root.canonicalize().expect("testkit is in the repository")
}

/// The patches of this ring, or of all rings if it is empty, in order.
pub fn of_ring(ring: &str) -> Vec<String> {
    let directory = repository().join("tests/patches");
    let files = fs::read_dir(directory).expect("tests/patches can be read");
    let mut names: Vec<_> = files
        .filter_map(|file| {
            let name = file.expect("an entry").file_name().into_string().expect("text");
            name.strip_suffix(".patch").map(str::to_owned)
        })
        .filter(|name| name.starts_with(ring))
        .collect();
    names.sort();
    names
}

/// The sentence in the head of a patch that says which fault it plants.
pub fn fault(name: &str) -> String {
    let text = text(name).unwrap_or_else(|error| panic!("{error}"));
    text.lines().nth(1).unwrap_or_default().to_owned()
}

/// The files that a patch changes, relative to the repository.
pub fn files(name: &str) -> Result<Vec<String>, String> {
    let text = text(name)?;
    Ok(text.lines().filter_map(|line| line.strip_prefix("+++ b/")).map(str::to_owned).collect())
}

fn path(name: &str) -> PathBuf {
    repository().join(format!("tests/patches/{name}.patch"))
}

fn text(name: &str) -> Result<String, String> {
    let path = path(name);
    fs::read_to_string(&path).map_err(|error| format!("cannot read {}: {error}", path.display()))
}

/// Returns an error if a patch does not fit the current sources.
pub fn check(name: &str) -> Result<(), String> {
    apply(&repository(), &path(name), &["--check"])
}

/// A copy of the sources.
pub struct Tree(PathBuf);

impl Tree {
    /// Copies the sources to `root`, which must not exist yet.
    ///
    /// The copies are new files, so cargo does not reuse an older build.
    pub fn copy_to(root: PathBuf) -> Result<Self, String> {
        copy(&repository(), &root, &NOT_COPIED)?;
        Ok(Self(root))
    }

    pub fn root(&self) -> &Path {
        &self.0
    }

    pub fn plant(&self, name: &str) -> Result<(), String> {
        apply(&self.0, &path(name), &[])
    }

    pub fn remove(&self, name: &str) -> Result<(), String> {
        apply(&self.0, &path(name), &["--reverse"])
    }
}

/// Runs `git apply` in a directory as if it were outside any repository.
///
/// Inside a repository, `git apply` ignores patches for files outside the current directory.
fn apply(root: &Path, patch: &Path, options: &[&str]) -> Result<(), String> {
    let mut git = Command::new("git");
    git.arg("apply").args(options).arg(patch).current_dir(root);
    git.env("GIT_CEILING_DIRECTORIES", root.parent().unwrap_or(root));
    for variable in ["GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"] {
        git.env_remove(variable);
    }
    let output = git.output().map_err(|error| format!("cannot run git (package git): {error}"))?;
    let complaint = String::from_utf8_lossy(&output.stderr);
    let success = output.status.success();
    success.then_some(()).ok_or_else(|| format!("cannot apply {}: {complaint}", patch.display()))
}

fn copy(from: &Path, to: &Path, except: &[&str]) -> Result<(), String> {
    let explain = |error| format!("cannot copy {} to {}: {error}", from.display(), to.display());
    if !from.is_dir() {
        return fs::copy(from, to).map(drop).map_err(explain);
    }
    fs::create_dir_all(to).map_err(explain)?;
    for file in fs::read_dir(from).map_err(explain)? {
        let name = file.map_err(explain)?.file_name();
        if !except.iter().any(|left_out| name == *left_out) {
            copy(&from.join(&name), &to.join(&name), except)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scratch::Scratch;

    #[test]
    fn every_patch_applies_to_the_sources_as_they_are() {
        let names = of_ring("");
        let stale: Vec<_> = names.iter().filter_map(|name| check(name).err()).collect();
        assert!(!names.is_empty() && stale.is_empty(), "see tests/patches/README.md: {stale:#?}");
    }

    #[test]
    fn every_patch_says_which_fault_it_plants() {
        for name in of_ring("") {
            let fault = fault(&name);
            assert!(fault.ends_with('.') && !fault.starts_with("---"), "{name}: {fault:?}");
        }
    }

    /// Each ring of tests compares its patches with its own table.
    #[test]
    fn every_patch_belongs_to_a_ring() {
        for name in of_ring("") {
            let target = name.strip_prefix("fuzz-").and_then(|rest| rest.split('-').next());
            let is_known = match target {
                Some(target) => {
                    repository().join(format!("fuzz/fuzz_targets/{target}.rs")).exists()
                }
                None => name.starts_with("abuse-") || name.starts_with("boot-"),
            };
            assert!(is_known, "no ring uses {name}");
        }
    }

    #[test]
    fn a_stale_patch_is_refused_and_a_fresh_one_changes_the_file() {
        // Inside the repository, where `git apply` would ignore the patch.
        let target = crate::build::profile().expect("a target directory");
        let scratch = Scratch::within(&target);
        let (file, patch) = (scratch.join("file"), scratch.join("patch"));
        let text = "Says nothing.\n--- a/file\n+++ b/file\n@@ -1 +1 @@\n-one\n+two\n";
        fs::write(&patch, text).expect("room");
        fs::write(&file, "one\n").expect("room");
        assert_eq!(apply(&scratch.join(""), &patch, &[]), Ok(()));
        assert_eq!(fs::read_to_string(&file).expect("a file"), "two\n");
        let refused = apply(&scratch.join(""), &patch, &[]);
        assert!(refused.is_err_and(|why| why.contains("patch does not apply")));
    }
}
