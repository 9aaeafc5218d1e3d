// SPDX-License-Identifier: Apache-2.0
//! Tools: the host's programs that the boot tests need, and how to run them.
//!
//! A missing tool is a failure that names it, never a skipped test.

use std::fs;
use std::path::Path;
use std::process::Command;

/// Every program, with its Debian package.
const NEEDED: [(&str, &str); 22] = [
    ("cargo-deb", "cargo install cargo-deb --locked"),
    ("checkmodule", "checkpolicy"),
    ("chroot", "coreutils"),
    ("cpio", "cpio"),
    ("debugfs", "e2fsprogs"),
    ("diff", "diffutils"),
    ("dpkg-deb", "dpkg"),
    ("gdb", "gdb"),
    ("git", "git"),
    ("gzip", "gzip"),
    ("journalctl", "systemd"),
    ("mke2fs", "e2fsprogs"),
    ("mmdebstrap", "mmdebstrap"),
    ("objcopy", "binutils"),
    ("qemu-system-x86_64", "qemu-system-x86"),
    ("readelf", "binutils"),
    ("rpm", "rpm"),
    ("rpmbuild", "rpm"),
    ("rpmlint", "rpmlint"),
    ("semodule_package", "semodule-utils"),
    ("tar", "tar"),
    ("unshare", "util-linux"),
];

/// Panics unless these tools exist.
pub(crate) fn require(tools: &[&str]) {
    let missing: Vec<_> = NEEDED
        .iter()
        .filter(|(name, _)| tools.contains(name) && !is_there(name))
        .map(|(name, source)| format!("{name} (from {source})"))
        .collect();
    assert!(missing.is_empty(), "missing tools: {}", missing.join(", "));
}

/// Panics unless every tool exists.
pub(crate) fn require_all() {
    require(&NEEDED.map(|(name, _)| name));
    // Only root can make Debian's trees with the right owners.
    let uid = output("id", Command::new("id").arg("-u")).expect("id answers");
    assert_eq!(uid.trim(), "0", "the boot tests build whole systems and must run as root");
}

fn is_there(name: &str) -> bool {
    std::env::var_os("PATH")
        .is_some_and(|paths| std::env::split_paths(&paths).any(|path| path.join(name).is_file()))
}

/// The contents of a file that must be there.
pub(crate) fn read(path: &Path) -> Vec<u8> {
    fs::read(path).unwrap_or_else(|error| panic!("cannot read {}: {error}", path.display()))
}

/// Runs `command` to its end and returns what it wrote to standard output.
pub(crate) fn output(what: &str, command: &mut Command) -> Result<String, String> {
    let output = command.output().map_err(|error| format!("cannot run {what}: {error}"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said).into_owned();
    let lines: Vec<_> = said.lines().collect();
    let tail = lines[lines.len().saturating_sub(25)..].join("\n  ");
    Err(format!("{what} failed with {}:\n  {tail}", output.status))
}
