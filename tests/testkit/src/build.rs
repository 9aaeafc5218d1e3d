// SPDX-License-Identifier: Apache-2.0
//! Build: a program of this package, with the profile of the test, example or bench that starts it.
//!
//! Cargo names the daemon to tests only, and an example to nobody; and what lies in the target
//! directory may be of yesterday.

use std::env;
use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Builds the daemon, and says where it is.
pub fn daemon() -> Result<PathBuf, Box<dyn Error>> {
    let directory = cargo(&["build", "--bin", "early-service"])?;
    Ok(directory.join("early-service"))
}

/// Builds the library, and says where it is.
pub fn library() -> Result<PathBuf, Box<dyn Error>> {
    Ok(cargo(&["build", "--lib"])?.join("libearly_service.rlib"))
}

/// Builds an example, and says where it is.
pub fn example(name: &str) -> Result<PathBuf, Box<dyn Error>> {
    let program = cargo(&["build", "--example", name])?.join("examples").join(name);
    if !program.exists() {
        return Err(format!("cargo build --example {name} has not made {program:?}").into());
    }
    Ok(program)
}

/// Runs cargo, and says where it puts what it builds.
fn cargo(arguments: &[&str]) -> Result<PathBuf, Box<dyn Error>> {
    let profile = profile()?;
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(arguments).arg("--quiet");
    cargo.args(["--manifest-path", concat!(env!("CARGO_MANIFEST_DIR"), "/../../Cargo.toml")]);
    if profile.ends_with("release") {
        cargo.arg("--release");
    }
    let status = cargo.status()?;
    if !status.success() {
        return Err(format!("cannot build with {arguments:?}: {status}").into());
    }
    Ok(profile)
}

/// The directory of what cargo builds with the profile of this test, example or bench.
pub fn profile() -> Result<PathBuf, Box<dyn Error>> {
    let program = env::current_exe()?;
    let profile = program.parent().and_then(Path::parent).ok_or("no target directory")?;
    Ok(profile.to_owned())
}
