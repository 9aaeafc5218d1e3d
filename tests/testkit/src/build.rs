// SPDX-License-Identifier: Apache-2.0
//! Build: a program of this package, with the profile of the test, example or bench that starts it.
//!
//! Cargo tells only tests where the daemon is, and tells nobody where an example is. A file in the
//! target directory may be outdated.

use std::env;
use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Builds the daemon; returns its path.
pub fn daemon() -> Result<PathBuf, Box<dyn Error>> {
    let directory = cargo(&["build", "--bin", "early-service"])?;
    Ok(directory.join("early-service"))
}

/// Builds the library; returns its path.
pub fn library() -> Result<PathBuf, Box<dyn Error>> {
    Ok(cargo(&["build", "--lib"])?.join("libearly_service.rlib"))
}

/// Builds an example; returns its path.
pub fn example(name: &str) -> Result<PathBuf, Box<dyn Error>> {
    example_of("early-service", name)
}

/// The same for an example of another package of the workspace.
pub fn example_of(package: &str, name: &str) -> Result<PathBuf, Box<dyn Error>> {
    let built = cargo(&["build", "--package", package, "--example", name])?;
    let program = built.join("examples").join(name);
    if !program.exists() {
        return Err(format!("cargo build --example {name} has not made {program:?}").into());
    }
    Ok(program)
}

/// Runs cargo; returns the directory of its output.
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

/// Cargo's output directory for the profile of this test, example or bench.
pub fn profile() -> Result<PathBuf, Box<dyn Error>> {
    let program = env::current_exe()?;
    let profile = program.parent().and_then(Path::parent).ok_or("no target directory")?;
    Ok(profile.to_owned())
}
