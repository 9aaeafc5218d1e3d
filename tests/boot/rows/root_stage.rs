// SPDX-License-Identifier: Apache-2.0
//! Trouble with the second stage: disabled, failing, restarted, killed.

use crate::claims::Claims;
use crate::machine::Boot;
use crate::plan::{Plan, Row};
use crate::story;
use crate::ticks::{self, PERIOD, ticks};

pub(super) const PLANS: &[Plan] = &[
    Plan {
        name: "disabled",
        clients: &["boot-storm"],
        off_disk: &[
            "/etc/systemd/system/multi-user.target.wants/early-service.service",
            "/etc/systemd/system/sockets.target.wants/early-service.socket",
            "/etc/systemd/system/initrd.target.wants/early-service-initrd.service",
        ],
        in_root: r#"sleep 3; echo status | nc -N -U "$PUBLIC" | tell status"#,
        rows: &[Row { name: "root stage disabled: the first serves on", holds: disabled }],
        ..Plan::ORDINARY
    },
    Plan {
        name: "fails-twice",
        clients: &["boot-storm"],
        over_disk: &[
            (
                "/etc/systemd/system/early-service.service.d/fail.conf",
                "[Service]\nExecStartPre=+/boot-test/fail-twice\n",
            ),
            (
                "/boot-test/fail-twice",
                "#!/bin/sh\nfor n in 1 2; do mkdir /run/failed-$n && exit 1; done; exit 0\n",
            ),
        ],
        rows: &[Row { name: "root stage fails twice, then adopts", holds: fails_twice }],
        ..Plan::ORDINARY
    },
    Plan {
        name: "restarted",
        clients: &["boot-storm"],
        in_root: "
            wait_until root_serves && wait_until first_is_gone && sleep 1
            systemctl restart early-service.service && wait_until root_serves && sleep 2",
        rows: &[Row { name: "root stage restarted by hand", holds: restarted }],
        ..Plan::ORDINARY
    },
    Plan {
        name: "killed",
        clients: &["boot-storm"],
        in_root: r#"
            wait_until root_serves && wait_until first_is_gone && sleep 1
            killed=$(root_pid) && kill -9 "$killed"
            another() { root_serves && [ "$(root_pid)" != "$killed" ]; }
            wait_until another && sleep 2"#,
        rows: &[Row { name: "root stage killed with -9", holds: killed }],
        ..Plan::ORDINARY
    },
];

fn disabled(boot: &Boot, claims: &mut Claims) {
    let ticks = ticks(boot);
    ticks::each_once_from(0, &ticks, claims);
    ticks::on_time(PERIOD, &ticks, claims);
    claims.that("only the first stage ticks", ticks::count(&ticks, "root") == 0, "");
    let status = boot.lines("status").next().unwrap_or_default();
    claims.that("the first stage answers", status.contains("stage=initrd"), status);
    story::storm_is_never_refused(boot, 0, claims);
    story::fails_never(boot, story::FIRST, claims);
    story::stops_within_a_second(boot, story::FIRST, claims);
    if let Some(last) = ticks.last() {
        story::ticks_to_the_end(boot, last.actual, story::FIRST, claims);
    }
}

fn fails_twice(boot: &Boot, claims: &mut Claims) {
    let failures = story::of_unit(boot, story::ROOT, "Failed with result 'exit-code'").len();
    claims.that("it fails twice", failures == 2, failures);
    let ticks = ticks(boot);
    ticks::unbroken(&ticks, claims);
    ticks::on_time(PERIOD, &ticks, claims);
    story::first_stage_ends_well(boot, claims);
    story::storm_is_never_refused(boot, 1, claims);
}

fn restarted(boot: &Boot, claims: &mut Claims) {
    story::fails_never(boot, story::ROOT, claims);
    begins_again(boot, claims);
    // One connection at the handoff, one at the restart.
    story::storm_is_never_refused(boot, 2, claims);
}

fn killed(boot: &Boot, claims: &mut Claims) {
    let restarts = story::of_unit(boot, story::ROOT, "Scheduled restart").len();
    claims.that("systemd starts it again", restarts == 1, restarts);
    begins_again(boot, claims);
    story::storm_is_never_refused(boot, 2, claims);
}

/// The first kind of handoff keeps no state on disk: whoever starts without a predecessor begins at
/// 0. With the state file this becomes [`ticks::unbroken`].
fn begins_again(boot: &Boot, claims: &mut Claims) {
    let ticks = ticks(boot);
    let runs = ticks::runs(&ticks);
    claims.that("one owner after another", runs.len() == 2, format!("{} runs", runs.len()));
    for run in runs {
        ticks::each_once_from(0, run, claims);
    }
}
