// SPDX-License-Identifier: Apache-2.0
//! Tests of a whole boot: a real dracut initrd, real systemd in both stages, real journald, in
//! QEMU.
//!
//! The second test shows that the first one can fail.
//!
//! The tests take minutes and need root, so they are ignored by default: `cargo test --test boot --
//! --ignored`. Their build results stay in `target/boot`.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "the table is for people to read")]

mod cache;
mod claims;
mod clock;
mod core_dump;
mod example;
mod generated;
mod guest;
mod journal;
mod machine;
mod older;
mod package;
mod plan;
mod recovery;
mod rows;
mod sabotage;
mod story;
mod telling;
mod ticks;
mod timeline;
mod tools;

use std::sync::{Mutex, PoisonError};

/// One test at a time, because each keeps two processors busy and all use the same guests.
static MACHINES: Mutex<()> = Mutex::new(());

#[test]
#[ignore = "boots virtual machines: minutes, and root"]
fn every_row_holds_on_every_guest() {
    let _alone = MACHINES.lock().unwrap_or_else(PoisonError::into_inner);
    let mut tables = guest::Guest::ALL.map(rows::of).to_vec();
    let rows = tables.iter().map(rows::Table::len).sum::<usize>();
    for table in &mut tables {
        table.plans.retain(|plan| is_meant(plan.name));
        table.tree_rows.retain(|row| is_meant(row.name));
    }
    let only = std::env::var("BOOT_GUEST").ok();
    tables.retain(|table| only.as_ref().is_none_or(|suite| table.guest.suite() == suite));
    tables.retain(|table| table.len() > 0);
    let verdicts = plan::run_all(&tables);
    assert_all_hold(&verdicts);
    assert_eq!(verdicts.len(), rows, "a row has no verdict");
}

#[test]
#[ignore = "boots virtual machines: minutes, and root"]
fn every_sabotage_breaks_its_row() {
    let _alone = MACHINES.lock().unwrap_or_else(PoisonError::into_inner);
    let survived = sabotage::survivors();
    assert!(survived.is_empty(), "the suite cannot fail:\n{}", survived.join("\n"));
}

#[test]
#[ignore = "boots virtual machines: minutes, and root"]
fn selinux_denies_what_is_known_and_no_more() {
    let _alone = MACHINES.lock().unwrap_or_else(PoisonError::into_inner);
    assert_all_hold(&plan::run_labelled(rows::selinux::PLANS, guest::Guest::Bookworm));
}

#[test]
#[ignore = "boots a virtual machine: minutes, and root"]
fn the_rpm_does_what_the_debian_package_does() {
    let _alone = MACHINES.lock().unwrap_or_else(PoisonError::into_inner);
    let verdicts = plan::run_rpm(&rows::rpm::BOOTED, rows::rpm::ROWS, guest::Guest::Bookworm);
    assert_all_hold(&verdicts);
}

fn assert_all_hold(verdicts: &[plan::Verdict]) {
    let table = plan::table(verdicts);
    println!("\n{table}");
    let broken = verdicts.iter().filter(|verdict| !verdict.broken.is_empty()).count();
    assert_eq!(broken, 0, "{broken} of {} verdicts are broken:\n{table}", verdicts.len());
}

/// Selects rows during development. `BOOT_ONLY` contains words separated by commas: only boots
/// whose name contains one of them run, on all guests or on that of `BOOT_GUEST`. A run without all
/// rows fails in any case.
fn is_meant(name: &str) -> bool {
    match std::env::var("BOOT_ONLY") {
        Ok(words) => words.split(',').any(|word| name.contains(word)),
        Err(_) => true,
    }
}

/// For people: `scripts/boot` runs only this test. `BOOT_GUEST` is `bookworm`, `trixie` or `sid`.
/// `BOOT_TIMELINE` names the file for a picture of the boot, if any.
#[test]
#[ignore = "boots a virtual machine: a minute, and root"]
fn one_boot_is_told_with_its_figures() {
    let name = std::env::var("BOOT_GUEST").unwrap_or_else(|_| "bookworm".to_owned());
    let guest = guest::Guest::ALL.into_iter().find(|guest| guest.suite() == name);
    let guest =
        guest.unwrap_or_else(|| panic!("BOOT_GUEST is {name}: say bookworm, trixie or sid"));
    let _alone = MACHINES.lock().unwrap_or_else(PoisonError::into_inner);
    let told = plan::boot_one(&telling::TOLD, guest).and_then(|(image, boot)| {
        let figures = telling::figures(&boot, &image);
        println!("\n{guest}\n\n{}\n{}", telling::log(&boot), telling::nc(&boot));
        println!("{}", figures?);
        let Some(file) = std::env::var_os("BOOT_TIMELINE") else { return Ok(()) };
        let picture = timeline::svg(&boot, guest)?;
        let file = std::path::Path::new(&file);
        std::fs::write(file, picture)
            .map_err(|error| format!("cannot write {}: {error}", file.display()))
    });
    told.unwrap_or_else(|error| panic!("{error}"));
}
