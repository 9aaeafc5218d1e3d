// SPDX-License-Identifier: Apache-2.0
//! Trouble around the service: no journald, a journald that does not read, a machine that is busy.

use crate::claims::Claims;
use crate::guest::Initrd;
use crate::machine::Boot;
use crate::plan::{Plan, Row};
use crate::story;
use crate::ticks::{self, ticks};
use std::time::Duration;

pub(super) const PLANS: &[Plan] = &[
    Plan {
        name: "no-journald",
        initrd: Initrd::Lean,
        clients: &["boot-storm"],
        rows: &[Row { name: "initrd without journald and without a shell", holds: no_journald }],
        ..Plan::ORDINARY
    },
    Plan {
        name: "journald-stopped",
        clients: &["boot-storm"],
        over_disk: &[
            (
                "/etc/systemd/system/early-service.service.d/before.conf",
                "[Service]\nExecStartPre=+/boot-test/before-start\n",
            ),
            (
                "/boot-test/before-start",
                "#!/bin/sh\nkill -STOP \"$(systemctl show -P MainPID systemd-journald.service)\"\n\
                 mkdir /run/journald-is-stopped\n",
            ),
        ],
        in_root: r#"
            wait_until [ -e /run/journald-is-stopped ] && sleep 5
            kill -CONT "$(systemctl show -P MainPID systemd-journald.service)"
            wait_until root_serves && sleep 1
            systemctl restart systemd-journald.service && sleep 2"#,
        rows: &[Row {
            name: "journald stopped around the handoff, then restarted",
            holds: journald_stopped,
        }],
        ..Plan::ORDINARY
    },
    Plan {
        name: "busy",
        clients: &["boot-storm", "boot-busy"],
        // The same work takes twice as long, and more where the disk is waited for.
        patience: Duration::from_secs(400),
        rows: &[Row { name: "processor and disk busy all the time", holds: busy }],
        ..Plan::ORDINARY
    },
];

fn no_journald(boot: &Boot, claims: &mut Claims) {
    let in_kernel_log = boot
        .journal
        .iter()
        .filter(|record| record.field("_TRANSPORT") == Some("kernel"))
        .filter(|record| record.identifier().starts_with("early-service-initrd"))
        .any(|record| record.message().contains("booting => serving"));
    claims.that("the start of the first stage is in the kernel log", in_kernel_log, "not found");
    // Numbers of the initrd are not worth the kernel's log; from the handoff on all are there.
    let ticks = ticks(boot);
    if let Some(first) = ticks.iter().find(|tick| tick.stage == "root") {
        claims.that("the root stage goes on, not from 0", first.number > 10, first.number);
    }
    let root: Vec<_> = ticks.into_iter().filter(|tick| tick.stage == "root").collect();
    ticks::each_once_from(root.first().map_or(0, |tick| tick.number), &root, claims);
    story::first_stage_ends_well(boot, story::ADOPTED, claims);
    story::storm_is_never_refused(boot, 0, claims);
}

fn journald_stopped(boot: &Boot, claims: &mut Claims) {
    let ticks = ticks(boot);
    ticks::unbroken(&ticks, claims);
    ticks::in_rhythm(&ticks, claims);
    ticks::on_time(boot, &ticks, claims);
    story::first_stage_ends_well(boot, story::ADOPTED, claims);
    story::storm_is_never_refused(boot, 0, claims);
}

fn busy(boot: &Boot, claims: &mut Claims) {
    let ticks = ticks(boot);
    ticks::unbroken(&ticks, claims);
    ticks::in_rhythm(&ticks, claims);
    ticks::on_time(boot, &ticks, claims);
    story::first_stage_ends_well(boot, story::ADOPTED, claims);
    story::storm_is_never_refused(boot, 0, claims);
}
