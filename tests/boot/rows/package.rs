// SPDX-License-Identifier: Apache-2.0
//! The package and its units, as far as a guest's tree shows them without a boot.

use crate::cache;
use crate::claims::Claims;
use crate::guest::{Image, Initrd, chroot, copy};
use crate::plan::TreeRow;
use crate::tools::output;
use std::fmt::Display;
use std::fs;
use std::path::Path;
use std::process::Command;

pub(super) const ROWS: &[TreeRow] = &[
    TreeRow { name: INSTALLS, holds: installed },
    TreeRow { name: "package: disabled, it stays out of the initrd", holds: disabled },
    TreeRow { name: "package: removal takes all of it away", holds: removed },
    TreeRow { name: "package: adds at most 275 kB to the initrd", holds: small },
    TreeRow { name: "package: brings its own files into the initrd, and no others", holds: own },
    TreeRow { name: VERIFIED, holds: units },
];

/// The rows for the newest Debian too; the others depend only on dpkg and dracut.
pub(super) const ON_NEWEST: [&str; 2] = [INSTALLS, VERIFIED];

const INSTALLS: &str = "package: installs, enables and is in the initrd";
const VERIFIED: &str = "units: verified without a word, exposure at most 1.0";

pub(super) const LINKS: [&str; 3] = [
    "etc/systemd/system/multi-user.target.wants/early-service.service",
    "etc/systemd/system/sockets.target.wants/early-service.socket",
    "etc/systemd/system/initrd.target.wants/early-service-initrd.service",
];

const IN_INITRD: [&str; 5] = [
    "usr/bin/early-service",
    "system/early-service-initrd.service",
    "system/early-service.socket",
    "system/early-service.socket.d/50-initrd.conf",
    "system/initrd.target.wants/early-service-initrd.service",
];

fn installed(image: &Image, claims: &mut Claims) -> Result<(), String> {
    for link in LINKS {
        let there = image.tree().join(link).symlink_metadata().is_ok();
        claims.that("enabled", there, format!("{link} is missing"));
    }
    for initrd in [Initrd::Usual, Initrd::Lean] {
        let contents = contents(&image.initrd(initrd))?;
        for file in IN_INITRD {
            let there = contents.lines().any(|line| line.ends_with(file));
            claims.that(&format!("in the {initrd:?} initrd"), there, format!("{file} is missing"));
        }
    }
    Ok(())
}

fn disabled(image: &Image, claims: &mut Claims) -> Result<(), String> {
    let tree = copy_of(image, "disabled")?;
    let script = "#!/bin/sh\nset -e\nsystemctl -q disable early-service.service\n\
                  dracut --quiet --force /boot/disabled.img \"$(ls /lib/modules)\"\n";
    run_in(&tree, script)?;
    let contents = contents(&tree.join("boot/disabled.img"))?;
    let found = contents.lines().find(|line| line.contains("early-service"));
    claims.that("nothing of it in the initrd", found.is_none(), found.unwrap_or_default());
    claims.that("an initrd all the same", contents.contains("systemd/systemd"), "no systemd in it");
    for link in LINKS {
        let there = tree.join(link).symlink_metadata().is_ok();
        claims.that("disable undoes all of enable", !there, format!("{link} is left"));
    }
    cache::remove(&tree)
}

/// Total size, compressed by gzip: measured 267 kB, of which the reload of a service is 17 kB. The C
/// example with glib adds 1,467 kB.
const MOST_ADDED: usize = 275_000;

fn small(image: &Image, claims: &mut Claims) -> Result<(), String> {
    let added = image.added_to_initrd()?;
    eprintln!("{}: {added} bytes added to a gzip initrd", image.guest);
    claims.that("it adds something", added > 0, added);
    let within = added <= MOST_ADDED;
    claims.that(&format!("at most {MOST_ADDED} bytes"), within, format!("{added} bytes"));
    Ok(())
}

/// No library, tool or unit of another package; links must be in the directory of links.
fn own(image: &Image, claims: &mut Claims) -> Result<(), String> {
    const LINKS: &str = "usr/lib/systemd/system/initrd.target.wants";
    let (with, without) =
        (contents(&image.initrd(Initrd::Usual))?, contents(&image.initrd(Initrd::Without))?);
    let before: Vec<_> = without.lines().collect();
    let brought: Vec<_> = with.lines().filter(|file| !before.contains(file)).collect();
    claims.that("it brings its program", brought.contains(&"usr/bin/early-service"), "");
    let foreign = brought.iter().find(|file| !file.contains("early-service") && **file != LINKS);
    claims.that("all of it is its own", foreign.is_none(), foreign.unwrap_or(&""));
    Ok(())
}

fn removed(image: &Image, claims: &mut Claims) -> Result<(), String> {
    let tree = copy_of(image, "removed")?;
    run_in(
        &tree,
        "#!/bin/sh\nset -e\ndpkg --purge early-service\ncp /boot/initrd.img-* /boot/after\n",
    )?;
    let contents = contents(&tree.join("boot/after"))?;
    let found = contents.lines().find(|line| line.contains("early-service"));
    claims.that("nothing of it in the initrd", found.is_none(), found.unwrap_or_default());
    let mut find = Command::new("find");
    find.arg(&tree).args(["-name", "*early-service*", "-not", "-path", "*/boot-test/*"]);
    let left = output("find", &mut find)?;
    claims.that("nothing of it in the tree", left.is_empty(), left.trim().replace('\n', ", "));
    cache::remove(&tree)
}

fn units(image: &Image, claims: &mut Claims) -> Result<(), String> {
    let tree = copy_of(image, "units")?;
    // Without `man`, which the guest does not have; the page itself is checked below.
    let said = run_in(
        &tree,
        "#!/bin/sh\nsystemd-analyze verify --man=no early-service.service \
         early-service-initrd.service early-service-soft-reboot.service early-service.socket \
         2>&1\n",
    )?;
    claims.that("systemd-analyze verify says nothing", said.is_empty(), said.trim());
    // dpkg omits manual pages in the guest, but this list contains them.
    let files = run_in(&tree, "#!/bin/sh\ndpkg -L early-service\n")?;
    let has_page = files.lines().any(|file| file == "/usr/share/man/man8/early-service.8.gz");
    claims.that("the page that they name is in the package", has_page, files.replace('\n', ", "));
    for unit in ["early-service.service", "early-service-soft-reboot.service"] {
        let script =
            format!("#!/bin/sh\nsystemd-analyze security --offline=true --no-pager {unit}\n");
        let said = run_in(&tree, &script)?;
        let words = format!("Overall exposure level for {unit}: ");
        let exposure = said
            .lines()
            .find_map(|line| line.split_once(&words))
            .and_then(|(_, rest)| rest.split(' ').next()?.parse::<f32>().ok());
        let holds = exposure.is_some_and(|exposure| exposure <= 1.0);
        claims.that(&format!("{unit}: exposure at most 1.0"), holds, format!("{exposure:?}"));
    }
    cache::remove(&tree)
}

/// A copy of the tree that may be changed.
pub(super) fn copy_of(image: &Image, purpose: &str) -> Result<std::path::PathBuf, String> {
    let tree = cache::directory().join("runs").join(format!("{purpose}-{:?}", image.guest));
    cache::remove(&tree)?;
    fs::create_dir_all(cache::directory().join("runs"))
        .map_err(|error| format!("cannot make the directory of the runs: {error}"))?;
    copy(&image.tree(), &tree)?;
    Ok(tree)
}

pub(super) fn run_in(tree: &Path, script: &str) -> Result<String, String> {
    let path = tree.join("boot-test/script");
    fs::write(&path, script)
        .map_err(|error| format!("cannot write {}: {error}", path.display()))?;
    output("chmod", Command::new("chmod").arg("755").arg(&path))?;
    chroot(tree, &["/boot-test/script"])
}

/// The names in an uncompressed initrd: several cpio archives with zeros between them
/// (`initramfs/buffer-format` in the kernel's documentation).
pub(super) fn contents(initrd: &Path) -> Result<String, String> {
    let explain = |what: &dyn Display| format!("cannot list {}: {what}", initrd.display());
    let bytes = fs::read(initrd).map_err(|error| explain(&error))?;
    let (mut names, mut rest) = (String::new(), bytes.as_slice());
    while let Some(zeros) = rest.iter().position(|byte| *byte != 0) {
        let (name, size) =
            entry(&rest[zeros..]).ok_or_else(|| explain(&"it is not cpio's newc"))?;
        if name != "TRAILER!!!" {
            names = names + &name + "\n";
        }
        rest = rest.get(zeros + size..).ok_or_else(|| explain(&"it is cut off"))?;
    }
    Ok(names)
}

/// The name of the entry at the beginning of these bytes, and the entry's size.
fn entry(bytes: &[u8]) -> Option<(String, usize)> {
    const HEADER: usize = 110;
    let field = |number: usize| {
        let digits = bytes.get(6 + 8 * number..)?.get(..8)?;
        usize::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
    };
    let (file_size, name_size) = (field(6)?, field(11)?);
    let name = bytes.get(HEADER..)?.get(..name_size.checked_sub(1)?)?;
    let size = (HEADER + name_size).next_multiple_of(4) + file_size.next_multiple_of(4);
    bytes.starts_with(b"070701").then(|| (String::from_utf8_lossy(name).into_owned(), size))
}
