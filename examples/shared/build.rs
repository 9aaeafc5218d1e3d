// SPDX-License-Identifier: Apache-2.0
//! Build: a program of this package, with the profile of whoever starts it.
//!
//! Cargo names the daemon to tests only, and an example to nobody; and what lies in the target
//! directory may be of yesterday.

use std::env;
use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Builds the daemon (`--bin early-service`) or an example (`--example camera`) with the profile of
/// this program, and says where it is.
pub(crate) fn build(kind: &str, name: &str) -> Result<PathBuf, Box<dyn Error>> {
    let ourselves = env::current_exe()?;
    // An example lies in target/PROFILE/examples, a test in target/PROFILE/deps.
    let profile = ourselves.parent().and_then(Path::parent).ok_or("no target directory")?;
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(["build", "--quiet", kind, name]);
    cargo.args(["--manifest-path", concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml")]);
    if profile.ends_with("release") {
        cargo.arg("--release");
    }
    let status = cargo.status().map_err(|error| format!("cannot start {cargo:?}: {error}"))?;
    if !status.success() {
        return Err(format!("cannot build {name} with {cargo:?}: {status}").into());
    }
    let directory = if kind == "--example" { profile.join("examples") } else { profile.into() };
    let program = directory.join(name);
    if !program.exists() {
        return Err(format!("{cargo:?} has not made {}", program.display()).into());
    }
    Ok(program)
}
