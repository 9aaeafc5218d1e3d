// SPDX-License-Identifier: Apache-2.0
//! Trouble around the service: no journald, a journald that does not read or is missing, a clock
//! that is set, a busy machine.

use crate::claims::Claims;
use crate::guest::Initrd;
use crate::machine::Boot;
use crate::plan::{Plan, Row};
use crate::story;
use crate::ticks::{self, PERIOD, ticks};
use std::time::Duration;

/// The root stage's period in [`FLOODED`]: a line for each tick, and one for the number set before
/// it, are a thousand lines a second.
const SHORT_PERIOD: Duration = Duration::from_millis(2);

/// How often the counter is set while journald is missing, and while it is stopped.
const SETS: [u64; 2] = [5000, 1000];

/// Number of lines that the log would have while journald is missing.
const LINES: u64 = 10_000;

pub(crate) const DROPS_TOLD: &str = "journald away, 10,000 lines logged: what is dropped is told";

pub(crate) const ALL_TOLD: &str = "what is told is what is missing";

/// [`crate::sabotage`] boots this plan too.
pub(crate) const FLOODED: Plan = Plan {
    name: "journald-flooded",
    clients: &["boot-storm", "boot-sit"],
    over_disk: &[(
        "/etc/systemd/system/early-service.service.d/period.conf",
        "[Service]\nExecStart=\n\
         ExecStart=/usr/bin/early-service --timer-delay-ms 2 \
         --server-socket-path /run/early-service/early-service.sock \
         --client-socket-path /run/early-service-initrd/early-service.sock \
         --state-file /run/early-service/state\n",
    )],
    in_root: r#"
        wait_until root_serves && wait_until first_is_gone && sleep 1
        units=$(systemctl list-units --plain --no-legend 'systemd-journald*' | cut -d ' ' -f 1)
        systemctl stop $units
        systemctl is-active systemd-journald.service systemd-journald.socket | tell active
        say rises away; boot-probe flood 5000; sleep 1; say falls away
        systemctl start $units; sleep 1
        journald=$(systemctl show -P MainPID systemd-journald.service)
        kill -STOP "$journald"
        say rises stopped; boot-probe flood 1000; sleep 1; say falls stopped
        kill -CONT "$journald"; sleep 1
        echo status | nc -N -U "$PUBLIC" | tell status"#,
    is_long: true,
    rows: &[
        Row { name: "journald away, 10,000 lines logged: ticks on time", holds: ticks_in_flood },
        Row {
            name: "journald away, 10,000 lines logged: answers at once",
            holds: answers_in_flood,
        },
        Row { name: DROPS_TOLD, holds: drops_told },
    ],
    ..Plan::ORDINARY
};

pub(crate) const ANY_TIME: &str = "clock set by a day, forward and back, in both stages";

/// [`crate::sabotage`] boots this plan too.
pub(crate) const CLOCK_SET: Plan = Plan {
    name: "clock-set",
    clients: &["boot-storm", "boot-sit"],
    in_initrd: SET_CLOCK,
    in_root: SET_CLOCK,
    rows: &[Row { name: ANY_TIME, holds: at_any_time }],
    ..Plan::ORDINARY
};

/// The first change of the clock on the root filesystem comes before the first stage ends, or just
/// after the handoff.
const SET_CLOCK: &str = r#"
    for step in '+1 day' '-1 day' '-1 day' '+1 day'; do set_clock "$step"; sleep 0.7; done
    [ -e /etc/initrd-release ] || wait_until first_is_gone"#;

/// Plans for any PID 1 and any kernel.
pub(super) const OF_OUR_OWN: &[Plan] = &[FLOODED, CLOCK_SET];

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
        is_long: true,
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
    // The initrd's numbers may be missing from the kernel's log; all others are there from the
    // handoff on.
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

/// Numbers change with each `set_counter`; deadlines must not.
fn ticks_in_flood(boot: &Boot, claims: &mut Claims) {
    let active: Vec<_> = boot.lines("active").collect();
    let away = active.len() == 2 && active.iter().all(|state| *state == "inactive");
    claims.that("journald is away", away, active.join(", "));
    let ticks = ticks(boot);
    ticks::on_time(boot, &ticks, claims);
    let of_root = &ticks[ticks::count(&ticks, "initrd")..];
    ticks::periods_apart(SHORT_PERIOD, of_root, claims);
}

fn answers_in_flood(boot: &Boot, claims: &mut Claims) {
    let floods: Vec<_> = boot.lines("flood").collect();
    let answered = |(line, times): (&&str, &u64)| line.starts_with(&format!("answered={times} "));
    let all = floods.len() == SETS.len() && floods.iter().zip(&SETS).all(answered);
    let ended = boot.lines("flood-ended").next().unwrap_or_default();
    claims.that("every command is answered", all, format!("{floods:?} {ended}"));
    story::storm_is_never_refused(boot, 0, claims);
    story::sitter_loses_nothing(boot, claims);
    let bound = PERIOD + story::standstill(boot);
    for when in ["away", "stopped"] {
        let slowest: Vec<_> = story::figures_between(boot, "rises", "falls", when, "slowest_ms");
        let at_once = slowest.iter().all(|&millis| Duration::from_millis(millis) < bound);
        let claim = format!("all are answered within {bound:?} while journald is {when}");
        claims.that(&claim, at_once && slowest.len() > 4, format!("{slowest:?} ms"));
    }
}

/// Dropped lines are counted, and the count is logged when journald is back.
fn drops_told(boot: &Boot, claims: &mut Claims) {
    let told: Vec<u64> = story::of_stage(boot, "early-service", " log lines dropped: ")
        .iter()
        .filter_map(|record| record.message().split(' ').next()?.parse().ok())
        .collect();
    claims.that("drops are told, each time", told.len() >= SETS.len(), format!("{told:?}"));
    let dropped = told.iter().sum::<u64>();
    let counted = story::client_figure(boot, "status", "log_lines_dropped");
    claims.that(ALL_TOLD, counted == Some(dropped), format!("{counted:?} counted, {told:?} told"));
    let ticks = ticks(boot);
    let of_root = &ticks[ticks::count(&ticks, "initrd")..];
    let missing = ticks::missing(SHORT_PERIOD, of_root);
    let sets = story::of_stage(boot, "early-service", "Setting the counter to ").len() as u64;
    // Of all settings between two ticks, only one is logged.
    let at_most = (missing + SETS.iter().sum::<u64>()).saturating_sub(sets);
    let seen = format!("{dropped} told, {missing} to {at_most} missing");
    claims.that("what is told is missing", (missing..=at_most).contains(&dropped), seen);
    let lines = dropped + sets + of_root.len() as u64;
    claims.that("there were 10,000 lines and more", lines > LINES, lines);
}

fn at_any_time(boot: &Boot, claims: &mut Claims) {
    const DAY: i64 = 24 * 60 * 60;
    let steps: Vec<i64> = boot.lines("step").filter_map(|line| line.parse().ok()).collect();
    let expected = [DAY, -DAY, -DAY, DAY, DAY, -DAY, -DAY, DAY];
    let set = steps.iter().zip(expected).all(|(step, day)| (step - day).abs() < 5);
    claims.that("the clock is set", steps.len() == expected.len() && set, format!("{steps:?}"));
    let ticks = ticks(boot);
    ticks::unbroken(&ticks, claims);
    ticks::in_rhythm(&ticks, claims);
    ticks::on_time(boot, &ticks, claims);
    story::first_stage_ends_well(boot, story::ADOPTED, claims);
    story::fails_never(boot, story::ROOT, claims);
    story::storm_is_never_refused(boot, 0, claims);
    story::sitter_loses_nothing(boot, claims);
}
