// SPDX-License-Identifier: Apache-2.0
//! The newest Debian: the rows that depend on its kernel and its PID 1.
//!
//! From Linux 7.0 on, the kernel moves the first stage to the new root when PID 1 switches. Each of
//! these boots shows whether the first stage notices. The other rows would show the same as on the
//! released Debians.

use crate::claims::Claims;
use crate::guest::{Guest, Image};
use crate::plan::{Plan, TreeRow};
use crate::rows::{Table, first_stage, ordinary, package, root_stage};
use std::fs;

/// A whole boot; a first stage that hangs after the switch; power-off in the initrd; and power-off
/// while the first stage still serves on the root filesystem.
const PLANS: [Plan; 4] =
    [ordinary::ORDINARY, first_stage::STOPPED, first_stage::NO_ROOT, root_stage::DISABLED];

const ROWS: [TreeRow; 1] =
    [TreeRow { name: "newest Debian: its kernel moves every root directory", holds: moves_roots }];

pub(super) fn table() -> Table {
    let of_package = package::ROWS.iter().filter(|row| package::ON_NEWEST.contains(&row.name));
    let tree_rows = of_package.chain(&ROWS).copied().collect();
    Table { guest: Guest::Sid, plans: PLANS.to_vec(), tree_rows }
}

/// With an older kernel, these boots would prove nothing new.
fn moves_roots(image: &Image, claims: &mut Claims) -> Result<(), String> {
    let modules = image.tree().join("lib/modules");
    let kernels = fs::read_dir(&modules)
        .map_err(|error| format!("cannot list {}: {error}", modules.display()))?;
    for kernel in kernels {
        let release = kernel.map_err(|error| format!("cannot list: {error}"))?.file_name();
        let release = release.to_string_lossy().into_owned();
        let major = release.split('.').next().and_then(|major| major.parse::<u32>().ok());
        claims.that("it is Linux 7.0 or newer", major >= Some(7), release);
    }
    Ok(())
}
