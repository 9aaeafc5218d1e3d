// SPDX-License-Identifier: Apache-2.0
//! Build: the daemon, with the profile of the example that starts it.

use std::env;
use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Builds the daemon with the profile of this example, and says where it is.
pub(crate) fn daemon() -> Result<PathBuf, Box<dyn Error>> {
    let example = env::current_exe()?;
    let profile = example.parent().and_then(Path::parent).ok_or("no target directory")?;
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(["build", "--quiet", "--bin", "early-service"]);
    cargo.args(["--manifest-path", concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml")]);
    if profile.ends_with("release") {
        cargo.arg("--release");
    }
    let status = cargo.status()?;
    if !status.success() {
        return Err(format!("cannot build the daemon: {status}").into());
    }
    Ok(profile.join("early-service"))
}
