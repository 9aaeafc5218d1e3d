// SPDX-License-Identifier: Apache-2.0
//! A hardware watchdog that resets the machine after two seconds, fed by `examples/watchdog` with
//! the package's own units.
//!
//! The root stage may not open the watchdog, because it is an unprivileged user without devices. It
//! uses the descriptor of the initrd stage, and after a crash the one from PID 1's store. Only its
//! orderly restart, which closes the watchdog, needs a right to open it again.

use crate::claims::Claims;
use crate::example::Example;
use crate::machine::Boot;
use crate::plan::{Plan, Row};
use std::time::Duration;

/// The timeout of the driver, as the units set it.
const TIMEOUT: Duration = Duration::from_secs(2);

const ROOT_DROP_IN: &str = "/etc/systemd/system/early-service.service.d/watchdog.conf";

const STORE: &str = "[Service]\nFileDescriptorStoreMax=1\n";

const WATCHED: Plan = Plan {
    name: "watchdog",
    example: Some(Example::Watchdog),
    over_initrd: &[(
        "/etc/systemd/system/early-service-initrd.service.d/watchdog.conf",
        "[Service]\nFileDescriptorStoreMax=1\n\
         ExecStartPre=-+/usr/sbin/insmod /boot-test/watchdog.ko.xz\n\
         ExecStartPre=-+/usr/sbin/insmod /boot-test/i6300esb.ko.xz heartbeat=2\n",
    )],
    over_disk: &[(ROOT_DROP_IN, STORE)],
    ..Plan::ORDINARY
};

pub(super) const PLANS: &[Plan] = &[
    Plan {
        in_initrd: r#"
            ask() { echo status | nc.openbsd -N -U "$PUBLIC" | tell "$1"; }
            systemctl kill --signal=KILL early-service-initrd.service; sleep 2; ask first-killed
            kill -STOP "$(first_pid)"; sleep 1; kill -CONT "$(first_pid)"; sleep 1
            ask first-continued
            systemctl restart early-service-initrd.service; sleep 1; ask first-restarted"#,
        in_root: r#"
            wait_until root_serves && wait_until first_is_gone
            ask() { echo status | nc -N -U "$PUBLIC" | tell "$1"; }
            sleep 3; ask adopted
            systemctl kill --signal=KILL early-service.service; sleep 3; ask killed
            kill -STOP "$(root_pid)"; sleep 1; kill -CONT "$(root_pid)"; sleep 3; ask continued
            mkdir -p /run/systemd/system/early-service.service.d
            cp /boot-test/open.conf /run/systemd/system/early-service.service.d
            systemctl daemon-reload; systemctl restart early-service.service; sleep 3
            ask restarted"#,
        over_disk: &[
            (ROOT_DROP_IN, STORE),
            (
                "/boot-test/open.conf",
                "[Service]\nPrivateDevices=no\nDevicePolicy=closed\n\
                 DeviceAllow=/dev/watchdog rw\n\
                 ExecStartPre=+/usr/bin/chown early-service /dev/watchdog\n",
            ),
        ],
        rows: &[
            Row { name: "watchdog of 2 s: the machine is never reset", holds: never_reset },
            Row { name: "watchdog of 2 s: fed from the initrd to power-off", holds: fed },
            Row { name: "watchdog of 2 s: either stage restarted", holds: opened_again },
        ],
        ..WATCHED
    },
    Plan {
        name: "watchdog-hangs",
        // Nobody ends the service that hangs, so the hardware must.
        in_root: r#"
            wait_until root_serves && wait_until first_is_gone
            systemctl service-watchdogs no
            kill -STOP "$(root_pid)"; sleep 20"#,
        rows: &[Row { name: "watchdog of 2 s: a service that hangs is noticed", holds: reset }],
        ..WATCHED
    },
    Plan {
        name: "watchdog-fails",
        over_initrd: &[(
            "/etc/systemd/system/early-service-initrd.service.d/watchdog.conf",
            "[Service]\n\
             ExecStartPre=+/usr/sbin/insmod /boot-test/watchdog.ko.xz\n\
             ExecStartPre=+/usr/sbin/insmod /boot-test/softdog.ko.xz soft_margin=2\n",
        )],
        // No store: the process that follows a killed one opens this file, to which every write
        // fails.
        over_disk: &[(ROOT_DROP_IN, "[Service]\nEnvironment=WATCHDOG=/dev/full\n")],
        in_root: r#"
            wait_until root_serves && wait_until first_is_gone
            ask() { echo status | nc -N -U "$PUBLIC" | tell "$1"; }
            fails() { echo status | nc -N -U "$PUBLIC" | grep -q ' device=failing '; }
            sleep 3; ask adopted
            systemctl kill --signal=KILL early-service.service
            wait_until fails; ask failing; sleep 20"#,
        rows: &[Row { name: "software watchdog: fed until the feeder fails", holds: fails }],
        ..WATCHED
    },
];

const OPENED: &str = "Opened the device";

/// The times of the pings, in one list from each opening of the watchdog to its end.
fn pings(boot: &Boot) -> Vec<Vec<Duration>> {
    let mut lists = Vec::new();
    for record in &boot.journal {
        if record.message() == OPENED {
            lists.push(Vec::new());
        }
        let is_ping = record.message().contains(" after pings=");
        if let Some(pings) = lists.last_mut().filter(|_| is_ping) {
            pings.push(record.made());
        }
    }
    lists
}

fn never_reset(boot: &Boot, claims: &mut Claims) {
    claims.that("the machine is not reset", !boot.was_reset, "its watchdog fired");
    let ends = boot.lines("done").count();
    claims.that("the scripts of both stages end", ends == 2, ends);
}

fn fed(boot: &Boot, claims: &mut Claims) {
    for key in ["first-killed", "first-continued", "adopted", "killed", "continued"] {
        runs(boot, key, claims);
    }
    let pings = pings(boot);
    let count = pings.concat().len();
    let distances = pings.iter().flat_map(|pings| pings.windows(2));
    let longest = distances.map(|pair| pair[1].saturating_sub(pair[0])).max().unwrap_or_default();
    eprintln!("watchdog: {count} pings, at most {} ms apart", longest.as_millis());
    claims.that("it is fed throughout", count > 15, count);
    claims.that("within its timeout", longest < TIMEOUT, format!("{} ms", longest.as_millis()));
}

/// A process that is told to stop closes the watchdog, and the next one opens it. No other process
/// of this boot opens it.
fn opened_again(boot: &Boot, claims: &mut Claims) {
    for key in ["first-restarted", "restarted"] {
        runs(boot, key, claims);
    }
    let openings = boot.journal.iter().filter(|record| record.message() == OPENED).count();
    claims.that("it is opened at the start and at each restart", openings == 3, openings);
}

fn runs(boot: &Boot, key: &str, claims: &mut Claims) {
    let status = boot.lines(key).next().unwrap_or("nothing");
    claims.that(&format!("{key}: the device runs"), status.contains(" device=running "), status);
}

fn reset(boot: &Boot, claims: &mut Claims) {
    claims.that("the machine is reset", boot.was_reset, "it powered off or hung");
    claims.that("before the script ends", boot.lines("done").count() == 0, "the script ended");
}

fn fails(boot: &Boot, claims: &mut Claims) {
    runs(boot, "adopted", claims);
    let status = boot.lines("failing").next().unwrap_or("nothing");
    claims.that("the service says so", status.contains(" device=failing "), status);
    reset(boot, claims);
    let driver = "softdog: Initiating system reboot";
    claims.that("by this watchdog", boot.console.contains(driver), boot.console.trim());
}
