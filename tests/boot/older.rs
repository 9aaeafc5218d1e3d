// SPDX-License-Identifier: Apache-2.0
//! Older: the last build with a handoff of one line each way, for the rows that combine it with the
//! present one.
//!
//! An update changes the root filesystem first and the initrd later; a downgrade may do the
//! reverse. The rows therefore try each build in each stage, with its own units.

use crate::cache::{self, Inputs, SOURCE};
use crate::guest::copy;
use crate::package::{QUICK, release_binary};
use crate::tools::{output, read};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// This build understands only `get_counter_and_terminate` from a successor, and keeps no state
/// file.
const COMMIT: &str = "02a2953";

/// The stage that runs the older build.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    Initrd,
    Root,
}

const UNITS: &str = "/usr/lib/systemd/system";

/// Files installed in both stages: the file in the repository, its directory and its name.
const IN_BOTH: &[(&str, &str)] = &[
    ("conf/early-service-initrd.service", "early-service-initrd.service"),
    ("conf/early-service.socket", "early-service.socket"),
];
const IN_INITRD: &[(&str, &str)] = &[
    ("dracut/50early-service/initrd-service.conf", "early-service-initrd.service.d/50-initrd.conf"),
    ("dracut/50early-service/initrd-socket.conf", "early-service.socket.d/50-initrd.conf"),
];
const IN_ROOT: &[(&str, &str)] = &[("conf/early-service.service", "early-service.service")];

/// The build, ready to be added to an initrd or a disk.
#[derive(Clone)]
pub(crate) struct Older(PathBuf);

impl Older {
    /// Builds it, or uses the cache.
    pub(crate) fn build() -> Result<Self, String> {
        let inputs =
            QUICK.iter().fold(Inputs::new().with(COMMIT.as_bytes()), |inputs, (_, value)| {
                inputs.with(value.as_bytes())
            });
        cache::entry("older", &inputs, |to| {
            let tree = cache::directory().join("older-source");
            cache::remove(&tree)?;
            for directory in [to, &tree] {
                fs::create_dir_all(directory)
                    .map_err(|error| format!("cannot make {}: {error}", directory.display()))?;
            }
            export(&tree)?;
            let target = cache::directory().join("quick-target");
            copy(&release_binary(&tree, &target, &QUICK)?, &to.join("early-service"))?;
            for part in ["conf", "dracut"] {
                copy(&tree.join(part), &to.join(part))?;
            }
            cache::remove(&tree)
        })
        .map(Self)
    }

    /// Its files for a stage: path in the guest, and contents.
    pub(crate) fn files(&self, stage: Stage) -> Vec<(String, Vec<u8>)> {
        let of_stage = match stage {
            Stage::Initrd => IN_INITRD,
            Stage::Root => IN_ROOT,
        };
        let units = IN_BOTH.iter().chain(of_stage);
        let units = units.map(|(file, unit)| (format!("{UNITS}/{unit}"), self.read(file)));
        let binary = ("/usr/bin/early-service".to_owned(), self.read("early-service"));
        units.chain([binary]).collect()
    }

    fn read(&self, file: &str) -> Vec<u8> {
        read(&self.0.join(file))
    }
}

/// Exports the sources of that commit to a directory.
fn export(to: &Path) -> Result<(), String> {
    let archive = to.join("archive.tar");
    let mut git = Command::new("git");
    // The suite runs as root, but the clone may belong to another user. Nothing in it is run here.
    git.args(["-c", "safe.directory=*", "-C", SOURCE, "archive", "--output"]);
    output("git archive", git.arg(&archive).arg(COMMIT)).map_err(|error| {
        format!(
            "the rows of old against new build commit {COMMIT}, which is not to be had here; \
             a clone without history gets it by git fetch --unshallow: {error}"
        )
    })?;
    output("tar", Command::new("tar").arg("-C").arg(to).arg("-xf").arg(&archive)).map(drop)
}
