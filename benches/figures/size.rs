// SPDX-License-Identifier: Apache-2.0
//! Size: what the binary and its own libraries add to an initrd.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::programs::Programs;
use crate::sample::{Sample, Unit};
use crate::table::{Measured, Row, Table, Target};

/// Libraries that PID 1 needs in every initrd.
const EVERYWHERE: [&str; 8] = [
    "libc.so",
    "ld-linux",
    "libgcc_s.so",
    "libm.so",
    "libmount.so",
    "libblkid.so",
    "libselinux.so",
    "libpcre2-8.so",
];

pub(crate) fn rows(programs: &Programs, table: &mut Table) {
    let c = |size: fn(&Path) -> Measured| {
        programs.c.clone().map(|program| {
            let program = program?;
            let files = libraries(&program)?.into_iter().chain([program]);
            let sizes = files.map(|file| size(&file).map(|size| size.median()));
            Ok(Sample::exact(Unit::Bytes, sizes.sum::<Result<f64, String>>()?))
        })
    };
    for (figure, size, target) in [
        ("size, stripped, with libraries of its own", stripped as fn(&Path) -> Measured, 500e3),
        ("the same by zstd -19", compressed, 230e3),
    ] {
        table.push(
            Row::new(figure, size(&programs.daemon))
                .floor(size(&programs.floor))
                .c(c(size))
                .target(Target::AtMost(target)),
        );
    }
}

pub(crate) fn stripped(program: &Path) -> Measured {
    let length = fs::metadata(program).map_err(|error| error.to_string())?.len();
    Ok(Sample::exact(Unit::Bytes, length as f64))
}

pub(crate) fn compressed(program: &Path) -> Measured {
    let mut zstd = Command::new("zstd");
    zstd.args(["-19", "--quiet", "--stdout"]).arg(program).stdout(Stdio::piped());
    let mut child = zstd.spawn().map_err(|_| "zstd is not installed")?;
    let length = io::copy(&mut child.stdout.take().expect("a pipe"), &mut io::sink());
    let length = length.map_err(|error| error.to_string())?;
    let status = child.wait().map_err(|error| error.to_string())?;
    if !status.success() {
        return Err(format!("zstd failed: {status}"));
    }
    Ok(Sample::exact(Unit::Bytes, length as f64))
}

/// Libraries of the program that not every initrd contains.
fn libraries(program: &Path) -> Result<Vec<PathBuf>, String> {
    let list = Command::new("ldd").arg(program).output().map_err(|error| error.to_string())?;
    let list = String::from_utf8_lossy(&list.stdout);
    let paths =
        list.lines().filter_map(|line| line.split_whitespace().find(|w| w.starts_with('/')));
    let own = paths.filter(|path| !EVERYWHERE.iter().any(|name| path.contains(name)));
    own.map(|path| fs::canonicalize(path).map_err(|error| error.to_string())).collect()
}
