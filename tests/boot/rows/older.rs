// SPDX-License-Identifier: Apache-2.0
//! Old against new: an update changes the root filesystem first and the initrd later; a downgrade
//! may do the reverse.
//!
//! The older build sends one line each way. Connections of its clients end with it. As the
//! successor, it begins a new rhythm.

use crate::claims::Claims;
use crate::machine::Boot;
use crate::older::Stage;
use crate::plan::{Plan, Row};
use crate::recovery;
use crate::story;
use crate::ticks::{self, ticks};

pub(super) const PLANS: &[Plan] = &[
    Plan {
        name: "older-first",
        older: Some(Stage::Initrd),
        clients: &["boot-storm", "boot-sit"],
        in_root: "
            wait_until root_serves && wait_until first_is_gone && sleep 1
            systemctl restart early-service.service && wait_until root_serves && sleep 1",
        rows: &[
            Row {
                name: "older first stage, new root stage: the count goes on",
                holds: older_first,
            },
            Row { name: "older first stage, new root stage: no client is refused", holds: refused },
        ],
        ..Plan::ORDINARY
    },
    Plan {
        name: "older-root",
        older: Some(Stage::Root),
        clients: &["boot-storm", "boot-sit"],
        // dpkg's trigger would build an initrd, which takes minutes here.
        over_disk: &[("/usr/bin/dracut", "#!/bin/sh\n")],
        in_root: r#"
            wait_until root_serves && wait_until first_is_gone && sleep 1
            dpkg --install /boot-test/early-service.deb 2>&1 | tell dpkg
            wait_until root_serves && sleep 1
            systemctl show -P ExecStart early-service.service | tell updated"#,
        rows: &[
            Row { name: "new first stage, older root stage: the count goes on", holds: older_root },
            Row { name: "new first stage, older root stage: no client is refused", holds: refused },
            Row { name: "older root stage, then updated: starts anew", holds: updated },
            Row {
                name: "older root stage, updated: restarted for want of reload",
                holds: restarted,
            },
        ],
        ..Plan::ORDINARY
    },
];

/// From then on the root stage keeps a state file, so a restart continues.
fn older_first(boot: &Boot, claims: &mut Claims) {
    goes_on(boot, claims);
    story::fails_never(boot, story::ROOT, claims);
    let ticks = ticks(boot);
    ticks::owned_by(&["initrd", "root", "root"], &ticks, claims);
    ticks::unbroken(&ticks, claims);
    ticks::in_rhythm(&ticks[ticks::count(&ticks, "initrd")..], claims);
}

fn older_root(boot: &Boot, claims: &mut Claims) {
    goes_on(boot, claims);
}

fn goes_on(boot: &Boot, claims: &mut Claims) {
    let ticks = ticks(boot);
    let owners = ticks::owners(&ticks);
    let [first, second, _] = owners[..] else {
        return claims.that("two stages, and one after the restart", false, owners.len());
    };
    let up_to_restart = &ticks[..first.len() + second.len()];
    ticks::unbroken(up_to_restart, claims);
    ticks::on_time(boot, up_to_restart, claims);
    for owner in [first, second] {
        ticks::in_rhythm(owner, claims);
    }
    story::first_stage_ends_well(boot, story::RETURNED, claims);
    story::stops_within_a_second(boot, story::ROOT, claims);
}

/// The older root stage does not write the state file, which is therefore as old as the handoff. To
/// continue from it would repeat everything logged since.
fn updated(boot: &Boot, claims: &mut Claims) {
    let command = boot.lines("updated").next().unwrap_or_default();
    claims.that("the unit is the new one", command.contains("--state-file"), command);
    let ticks = ticks(boot);
    ticks::owned_by(&["initrd", "root", "root"], &ticks, claims);
    let after = ticks::owners(&ticks).pop().unwrap_or_default();
    ticks::each_once_from(0, after, claims);
    ticks::in_rhythm(after, claims);
    recovery::told(&[], boot, &ticks, claims);
    let words = "No predecessor at ";
    let says = story::of_stage(boot, "early-service", words).last().map(|r| r.message());
    let says = says.unwrap_or_default();
    claims.that("it says that it starts at 0", says.ends_with("starting at 0"), says);
}

/// The package asks for a reload first. It restarts this release, which does not know that command.
fn restarted(boot: &Boot, claims: &mut Claims) {
    let failed = story::of_unit(boot, story::ROOT, "Reload failed");
    claims.that("the reload is tried once, and fails", failed.len() == 1, failed.len());
    let stops = story::of_unit(boot, story::ROOT, "Stopped ");
    claims.that("a restart, then power-off", stops.len() == 2, stops.len());
    let said: Vec<_> = boot.lines("dpkg").collect();
    let is_said = said.iter().any(|line| line.ends_with("cannot reload and is restarted"));
    claims.that("dpkg shows why", is_said, said.join(" | "));
}

fn refused(boot: &Boot, claims: &mut Claims) {
    let owners = ticks::owners(&ticks(boot)).len() as u64;
    // One for each process that ends.
    let Some(ends) = owners.checked_sub(1) else {
        return claims.that("there is an owner", false, "no tick at all");
    };
    story::storm_is_never_refused(boot, ends, claims);
    let sessions = boot.lines("sit-connected").count() as u64;
    let claim = "who sits connected is cut off once with each, and connects again";
    claims.that(claim, sessions == ends + 1, sessions);
}
