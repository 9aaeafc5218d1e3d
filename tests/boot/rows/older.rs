// SPDX-License-Identifier: Apache-2.0
//! Old against new: an update changes the root filesystem first and the initrd later, and going back
//! is the same the other way round.
//!
//! The older build speaks one line each way: the connections of its clients end with it, and where
//! it is the successor it begins a rhythm of its own.

use crate::claims::Claims;
use crate::machine::Boot;
use crate::older::Stage;
use crate::plan::{Plan, Row};
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
        rows: &[
            Row { name: "new first stage, older root stage: the count goes on", holds: older_root },
            Row { name: "new first stage, older root stage: no client is refused", holds: refused },
        ],
        ..Plan::ORDINARY
    },
];

/// From then on the root stage keeps a state file: a restart continues.
fn older_first(boot: &Boot, claims: &mut Claims) {
    goes_on(boot, &["initrd", "root", "root"], claims);
    let ticks = ticks(boot);
    let of_root = ticks::count(&ticks, "initrd");
    ticks::in_rhythm(&ticks[of_root..], claims);
}

fn older_root(boot: &Boot, claims: &mut Claims) {
    goes_on(boot, &["initrd", "root"], claims);
}

fn goes_on(boot: &Boot, owners: &[&str], claims: &mut Claims) {
    let ticks = ticks(boot);
    ticks::unbroken(&ticks, claims);
    ticks::on_time(boot, &ticks, claims);
    ticks::owned_by(owners, &ticks, claims);
    for owner in ticks::owners(&ticks) {
        ticks::in_rhythm(owner, claims);
    }
    story::first_stage_ends_well(boot, story::RETURNED, claims);
    story::fails_never(boot, story::ROOT, claims);
    story::stops_within_a_second(boot, story::ROOT, claims);
}

fn refused(boot: &Boot, claims: &mut Claims) {
    // One with each process that ends.
    let ends = ticks::owners(&ticks(boot)).len() as u64 - 1;
    story::storm_is_never_refused(boot, ends, claims);
    let sessions = boot.lines("sit-connected").count() as u64;
    let claim = "who sits connected is cut off once with each, and connects again";
    claims.that(claim, sessions == ends + 1, sessions);
}
