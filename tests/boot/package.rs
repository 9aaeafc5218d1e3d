// SPDX-License-Identifier: Apache-2.0
//! Package: the release binary and its packages, built like a release.

use crate::cache::{self, Inputs, SOURCE};
use crate::tools::output;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// All files of the repository that end up in the package.
const CONTENTS: &[&str] = &["conf", "dracut", "scripts/debian", "Cargo.toml"];

/// The profile of builds whose size and speed do not matter.
pub(crate) const QUICK: [(&str, &str); 2] =
    [("CARGO_PROFILE_RELEASE_LTO", "off"), ("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "16")];

/// The package and its inputs. The debug-symbol package is beside it, with the extension `ddeb`.
pub(crate) fn build() -> Result<(PathBuf, Inputs), String> {
    const PROFILE: &str = "dist";
    let mut build = Command::new("cargo");
    build.current_dir(SOURCE).args(["build", "--profile", PROFILE, "--quiet", "--bin"]);
    output("cargo build", build.arg("early-service"))?;
    let binary = Path::new(SOURCE).join("target").join(PROFILE).join("early-service");
    let mut inputs = Inputs::new().with_path(&binary)?;
    for path in CONTENTS {
        inputs = inputs.with_path(&Path::new(SOURCE).join(path))?;
    }
    const NAME: &str = "early-service.deb";
    let packages = cache::entry("packages", &inputs, |to| {
        fs::create_dir(to).map_err(|error| format!("cannot make {}: {error}", to.display()))?;
        let mut deb = Command::new("cargo");
        deb.current_dir(SOURCE).args(["deb", "--no-build", "--quiet", "--output"]);
        output("cargo deb", deb.arg(to.join(NAME))).map(drop)
    })?;
    Ok((packages.join(NAME), inputs))
}

/// Further inputs of the RPM, which is built from the sources.
pub(crate) const SOURCES: &[&str] = &[
    "Cargo.lock",
    "LICENSE",
    "README.md",
    "early-service.spec",
    "machine/Cargo.toml",
    "machine/src",
    "scripts/create-rpm.sh",
    "scripts/debian-rpm.macros",
    "src",
];

/// The RPM and its inputs.
pub(crate) fn build_rpm() -> Result<(PathBuf, Inputs), String> {
    const BUILD: &str = r#"
        scripts/create-rpm.sh early-service.spec > /dev/null
        exec cp target/rpm/RPMS/*/early-service-[0-9]*.rpm "$1""#;
    let mut inputs = Inputs::new();
    for path in CONTENTS.iter().chain(SOURCES) {
        inputs = inputs.with_path(&Path::new(SOURCE).join(path))?;
    }
    let package = cache::entry("early-service.rpm", &inputs, |to| {
        let mut build = Command::new("sh");
        build.current_dir(SOURCE).args(["-euc", BUILD, "sh"]).arg(to);
        output("scripts/create-rpm.sh", &mut build).map(drop)
    })?;
    Ok((package, inputs))
}

/// Builds programs of `examples` into the directory that it returns. They are linked statically: the
/// initrd has no library but those of the package's program.
pub(crate) fn examples(names: &[&str]) -> Result<PathBuf, String> {
    let target = cache::directory().join("quick-target");
    let platform = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let mut build = Command::new("cargo");
    build.current_dir(SOURCE).args(["build", "--release", "--quiet", "--workspace"]);
    build.args(names.iter().flat_map(|name| ["--example", name])).envs(QUICK);
    build.env("RUSTFLAGS", "-Ctarget-feature=+crt-static");
    build.args(["--target", &platform]).arg("--target-dir").arg(&target);
    output("cargo build --example", &mut build)?;
    Ok(target.join(platform).join("release/examples"))
}

/// Builds the daemon of a source tree into a target directory; variables may change the profile.
pub(crate) fn release_binary(
    source: &Path,
    target: &Path,
    variables: &[(&str, &str)],
) -> Result<PathBuf, String> {
    let mut build = Command::new("cargo");
    build.current_dir(source).args(["build", "--release", "--quiet", "--bin", "early-service"]);
    build.envs(variables.iter().copied());
    output("cargo build --release", build.arg("--target-dir").arg(target))?;
    Ok(target.join("release/early-service"))
}
