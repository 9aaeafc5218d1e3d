// SPDX-License-Identifier: Apache-2.0
//! Trouble with the first stage: killed, stopped, left without a root, or not there at all.

use crate::claims::Claims;
use crate::guest::Initrd;
use crate::machine::Boot;
use crate::plan::{Plan, Row};
use crate::story;
use crate::ticks::{self, ticks};

/// Has the root stage run a script, with all rights, before its own start; the port that it speaks
/// through is a device, which the sandbox keeps even from such a script.
const BEFORE_START: (&str, &str) = (
    "/etc/systemd/system/early-service.service.d/before.conf",
    "[Service]\nExecStartPre=+/boot-test/before-start\nDeviceAllow=/dev/ttyS1 w\n",
);

pub(super) const PLANS: &[Plan] = &[
    Plan {
        name: "first-killed-before",
        clients: &["boot-storm"],
        in_initrd: r#"
            killed=$(first_pid) && kill -9 "$killed"
            another() { [ "$(first_pid)" != 0 ] && [ "$(first_pid)" != "$killed" ]; }
            wait_until another"#,
        rows: &[Row { name: "first stage killed before the switch", holds: killed_before }],
        ..Plan::ORDINARY
    },
    Plan {
        name: "first-killed-after",
        clients: &["boot-storm"],
        over_disk: &[
            BEFORE_START,
            (
                "/boot-test/before-start",
                "#!/bin/sh\n. /boot-test/words.sh\nkill -9 \"$(first_pid)\"\n",
            ),
        ],
        rows: &[Row { name: "first stage killed after the switch", holds: killed_after }],
        ..Plan::ORDINARY
    },
    Plan {
        name: "first-stopped",
        clients: &["boot-storm"],
        in_initrd: r#"tell_rights rights-before "$(first_pid)""#,
        over_disk: &[
            BEFORE_START,
            (
                "/boot-test/before-start",
                r#"#!/bin/sh
. /boot-test/words.sh
armed() { [ "$(systemctl show -P WatchdogUSec early-service-initrd.service)" != 0 ]; }
wait_until armed
tell_rights rights-after "$(first_pid)"
kill -STOP "$(first_pid)"
"#,
            ),
        ],
        rows: &[
            Row { name: "first stage stopped: its watchdog ends it", holds: stopped },
            Row { name: "first stage re-rooted: no thread has a capability", holds: no_rights },
        ],
        ..Plan::ORDINARY
    },
    Plan {
        name: "no-root",
        clients: &["boot-storm"],
        // The file system is ext4: mounting it fails at once, as a missing one does after a minute.
        cmdline: "rootfstype=vfat",
        over_initrd: &[
            (
                "/etc/systemd/system/emergency.service",
                "[Unit]\nDefaultDependencies=no\nIgnoreOnIsolate=yes\n\
                 [Service]\nType=idle\nExecStart=/bin/sh /boot-test/emergency.sh\n",
            ),
            (
                "/boot-test/emergency.sh",
                r#". /boot-test/words.sh
sleep 1; echo status | nc.openbsd -N -U "$PUBLIC" | tell status
sleep 2; echo status | nc.openbsd -N -U "$PUBLIC" | tell status
systemctl is-active emergency.target | tell emergency
journalctl -q -o cat -t early-service-initrd | tell line
systemctl poweroff
"#,
            ),
        ],
        rows: &[Row { name: "switch of root fails: serves on in emergency mode", holds: no_root }],
        ..Plan::ORDINARY
    },
    Plan {
        name: "no-module",
        initrd: Initrd::Without,
        in_root: "wait_until root_serves && sleep 2",
        rows: &[Row { name: "no module in the initrd: serves from 0", holds: no_module }],
        ..Plan::ORDINARY
    },
];

/// Until there is a state file, the first stage begins again at 0.
fn killed_before(boot: &Boot, claims: &mut Claims) {
    let restarts = story::of_unit(boot, story::FIRST, "Scheduled restart").len();
    claims.that("systemd starts the first stage again", restarts == 1, restarts);
    let ticks = ticks(boot);
    let runs = ticks::runs(&ticks);
    claims.that("one owner after another", runs.len() == 2, format!("{} runs", runs.len()));
    for run in runs {
        ticks::each_once_from(0, run, claims);
    }
    story::storm_is_never_refused(boot, 2, claims);
}

/// Until there is a state file, the root stage begins again at 0.
fn killed_after(boot: &Boot, claims: &mut Claims) {
    let again = story::of_unit(boot, story::FIRST, "Scheduled restart").len();
    claims.that("the first stage does not come back", again == 0, again);
    begins_again_in_root(boot, claims);
    story::storm_is_never_refused(boot, 1, claims);
}

fn stopped(boot: &Boot, claims: &mut Claims) {
    let watchdog = story::of_unit(boot, story::FIRST, "Watchdog timeout").len();
    claims.that("the first stage's watchdog ends it", watchdog == 1, watchdog);
    begins_again_in_root(boot, claims);
    story::storm_is_never_refused(boot, 1, claims);
}

/// What following PID 1 takes is held by one thread for as long as it takes that, and then by none.
fn no_rights(boot: &Boot, claims: &mut Claims) {
    // Both CAP_SYS_CHROOT and CAP_SYS_PTRACE.
    const FOLLOWING: u64 = 1 << 18 | 1 << 19;
    let before = rights(boot, "rights-before");
    let able = before.iter().filter(|&&(_, effective)| effective == FOLLOWING).count();
    let none = before.iter().filter(|&&rights| rights == (0, 0)).count();
    let one = able == 1 && able + none == before.len();
    claims.that("before the switch one thread has them", one, format!("{before:x?}"));
    let after = rights(boot, "rights-after");
    claims.that("every thread is looked at", after.len() >= before.len().max(2), after.len());
    let all = after.iter().all(|&rights| rights == (0, 0));
    claims.that("before the handoff no thread has any", all, format!("{after:x?}"));
}

/// The permitted and the effective capabilities of each thread; all of them where that is unclear.
fn rights(boot: &Boot, key: &str) -> Vec<(u64, u64)> {
    let parse = |line: &str| {
        let (permitted, effective) = line.trim().split_once(' ')?;
        let bits = |word| u64::from_str_radix(word, 16).ok();
        Some((bits(permitted)?, bits(effective)?))
    };
    boot.lines(key).map(|line| parse(line).unwrap_or((u64::MAX, u64::MAX))).collect()
}

fn begins_again_in_root(boot: &Boot, claims: &mut Claims) {
    let ticks = ticks(boot);
    let runs = ticks::runs(&ticks);
    claims.that("one owner after another", runs.len() == 2, format!("{} runs", runs.len()));
    for (run, stage) in runs.iter().zip(["initrd", "root"]) {
        ticks::each_once_from(0, run, claims);
        claims.that(&format!("{stage} has its turn"), run[0].stage == stage, &run[0].stage);
    }
}

fn no_root(boot: &Boot, claims: &mut Claims) {
    let emergency = boot.lines("emergency").next().unwrap_or_default();
    claims.that("emergency.target is reached", !emergency.is_empty(), emergency);
    let counters: Vec<u64> = boot
        .lines("status")
        .filter(|line| line.contains("stage=initrd") && line.contains("phase=serving"))
        .filter_map(|line| line.split(' ').find_map(|word| word.strip_prefix("counter=")))
        .filter_map(|number| number.parse().ok())
        .collect();
    let advances = counters.len() == 2 && counters[1] >= counters[0] + 15;
    claims.that("it serves and counts on", advances, format!("{counters:?}"));
    let numbers: Vec<u64> = boot.lines("line").filter_map(|line| line.parse().ok()).collect();
    let in_order = numbers.iter().copied().eq(0..numbers.len() as u64);
    claims.that("every number once and in order", in_order, format!("{numbers:?}"));
    story::storm_is_never_refused(boot, 0, claims);
}

fn no_module(boot: &Boot, claims: &mut Claims) {
    let ticks = ticks(boot);
    ticks::each_once_from(0, &ticks, claims);
    claims.that("only the root stage ticks", ticks::count(&ticks, "initrd") == 0, "");
    story::fails_never(boot, story::ROOT, claims);
    story::stops_within_a_second(boot, story::ROOT, claims);
}
