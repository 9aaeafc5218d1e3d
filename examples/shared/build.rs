// SPDX-License-Identifier: Apache-2.0
//! Build: the daemon, with the profile of the example or the bench that starts it.

use std::env;
use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Builds the daemon, and says where it is.
pub(crate) fn daemon() -> Result<PathBuf, Box<dyn Error>> {
    let directory = cargo(&["build", "--bin", "early-service"], &[])?;
    Ok(directory.join("early-service"))
}

/// Builds the least program of `cargo bench`, linked by this script.
#[allow(dead_code, reason = "no example starts it")]
pub(crate) fn floor(script: &str) -> Result<PathBuf, Box<dyn Error>> {
    let script = format!("link-arg=-T{script}");
    let directory = cargo(&["rustc", "--example", "floor"], &["--", "-C", &script])?;
    Ok(directory.join("examples/floor"))
}

/// Runs cargo, and says where it puts what it builds.
fn cargo(arguments: &[&str], last: &[&str]) -> Result<PathBuf, Box<dyn Error>> {
    let program = env::current_exe()?;
    let profile = program.parent().and_then(Path::parent).ok_or("no target directory")?;
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(arguments).arg("--quiet");
    cargo.args(["--manifest-path", concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml")]);
    if profile.ends_with("release") {
        cargo.arg("--release");
    }
    let status = cargo.args(last).status()?;
    if !status.success() {
        return Err(format!("cannot build with {arguments:?}: {status}").into());
    }
    Ok(profile.to_owned())
}
