// SPDX-License-Identifier: Apache-2.0
//! The generated service: a crate that `examples/new-service` writes, its packages, and how a guest
//! installs it.

use crate::cache::{self, Inputs, SOURCE};
use crate::package::{QUICK, SOURCES};
use crate::tools::output;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// The program that builds the initrd with the generated service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Builder {
    Dracut,
    /// Debian's default. Its initrd has no systemd.
    InitramfsTools,
}

impl Builder {
    /// The script that installs the generated service in a guest, and so builds the initrd.
    pub(crate) fn install(self) -> &'static str {
        match self {
            // Beside our package.
            Self::Dracut => {
                r#"
                dpkg -i /boot-test/pulse.deb
                cp "/boot/initrd.img-$(ls /lib/modules)" /boot/usual.img"#
            }
            // Our package needs dracut, which cannot be installed beside initramfs-tools.
            Self::InitramfsTools => {
                r#"
                apt-get -q update
                apt-get -q -y --no-install-recommends install initramfs-tools
                dpkg --purge early-service dracut
                cd /etc/initramfs-tools
                printf '%s\n' virtio_blk virtio_pci ext4 >> modules
                printf '%s\n' MODULES=list COMPRESS=gzip COMPRESSLEVEL=1 > conf.d/boot-test
                dpkg -i /boot-test/pulse.deb
                cp "/boot/initrd.img-$(ls /lib/modules)" /boot/usual.img"#
            }
        }
    }
}

/// The crate of a generated service, `pulse`, which owns the watchdog of the machine. A directory
/// is the same in each run, so that cargo builds again only what has changed.
fn write(directory: &str) -> Result<PathBuf, String> {
    let directory = cache::directory().join(directory);
    cache::remove(&directory)?;
    let mut generate = Command::new("cargo");
    generate.current_dir(SOURCE).args(["run", "--quiet", "--example", "new-service", "--"]);
    generate.args(["pulse", "--device", "/dev/watchdog", "--driver", "i6300esb"]);
    generate.args(["--library", SOURCE, "--directory"]).arg(&directory);
    output("the generator", &mut generate)?;
    let lock = Path::new(SOURCE).join("Cargo.lock");
    fs::copy(&lock, directory.join("Cargo.lock"))
        .map_err(|error| format!("cannot copy {}: {error}", lock.display()))?;
    Ok(directory)
}

/// The Debian package of the generated service. Several boots use it at the same time.
pub(crate) fn deb() -> Result<PathBuf, String> {
    static BUILT: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let build = || {
        let directory = write("pulse-deb")?;
        let target = cache::directory().join("quick-target");
        let package = directory.join("pulse.deb");
        let mut deb = Command::new("cargo");
        deb.current_dir(&directory).args(["deb", "--quiet", "--profile", "release", "--output"]);
        deb.arg(&package).envs(QUICK);
        deb.env("CARGO_TARGET_DIR", &target).env("CARGO_NET_OFFLINE", "true");
        output("cargo deb of the generated crate", &mut deb)?;
        Ok(package)
    };
    BUILT.get_or_init(build).clone()
}

/// The RPM of the generated service.
pub(crate) fn rpm() -> Result<PathBuf, String> {
    // The script archives the files that git tracks, and needs a lock file without other crates.
    const BUILD: &str = r#"
        cargo metadata --quiet --offline --format-version 1 > /dev/null
        git init --quiet && git add .
        git -c user.name=test -c user.email=test@localhost commit --quiet --message crate
        scripts/create-rpm.sh pulse.spec > /dev/null
        exec cp target/rpm/RPMS/*/pulse-[0-9]*.rpm "$1""#;
    let directory = write("pulse-rpm")?;
    let mut inputs = Inputs::new().with_path(&directory)?;
    for path in SOURCES {
        inputs = inputs.with_path(&Path::new(SOURCE).join(path))?;
    }
    cache::entry("pulse.rpm", &inputs, |to| {
        let mut build = Command::new("sh");
        build.current_dir(&directory).args(["-euc", BUILD, "sh"]).arg(to).envs(QUICK);
        output("scripts/create-rpm.sh of the generated crate", &mut build).map(drop)
    })
}
