// SPDX-License-Identifier: Apache-2.0
//! A hardware watchdog that resets the machine after two seconds, fed by `examples/watchdog` with
//! the package's own units.
//!
//! The root stage may not open the watchdog: it is an unprivileged user without devices. It uses the
//! descriptor of the initrd stage, and after a crash the one from PID 1's store.

use crate::claims::Claims;
use crate::example::Example;
use crate::machine::Boot;
use crate::plan::{Plan, Row};
use crate::story;
use std::time::Duration;

/// The timeout of the driver, as the units set it.
const TIMEOUT: Duration = Duration::from_secs(2);

const STORE: &str = "[Service]\nFileDescriptorStoreMax=1\n";

const WATCHED: Plan = Plan {
    name: "watchdog",
    example: Some(Example::Watchdog),
    over_initrd: &[(
        "/etc/systemd/system/early-service-initrd.service.d/watchdog.conf",
        "[Service]\nFileDescriptorStoreMax=1\n\
         ExecStartPre=+/usr/sbin/insmod /boot-test/watchdog.ko.xz\n\
         ExecStartPre=+/usr/sbin/insmod /boot-test/i6300esb.ko.xz heartbeat=2\n",
    )],
    over_disk: &[("/etc/systemd/system/early-service.service.d/watchdog.conf", STORE)],
    ..Plan::ORDINARY
};

pub(super) const PLANS: &[Plan] = &[
    Plan {
        in_root: r#"
            wait_until root_serves && wait_until first_is_gone
            ask() { echo status | nc -N -U "$PUBLIC" | tell "$1"; }
            sleep 3; ask adopted
            systemctl kill --signal=KILL early-service.service; sleep 3; ask restarted
            kill -STOP "$(root_pid)"; sleep 1; kill -CONT "$(root_pid)"; sleep 3; ask continued"#,
        rows: &[
            Row { name: "watchdog of 2 s: the machine is never reset", holds: never_reset },
            Row { name: "watchdog of 2 s: fed from the initrd to power-off", holds: fed },
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
];

/// The times at which pings were logged.
fn pings(boot: &Boot) -> Vec<Duration> {
    let pings = boot.journal.iter().filter(|record| record.message().contains(" pings after "));
    pings.map(|record| record.made()).collect()
}

fn never_reset(boot: &Boot, claims: &mut Claims) {
    claims.that("the machine is not reset", !boot.was_reset, "its watchdog fired");
    claims.that("the script ends", boot.lines("done").count() == 1, boot.console.len());
    story::fails_never(boot, "early-service-initrd.service", claims);
}

fn fed(boot: &Boot, claims: &mut Claims) {
    for key in ["adopted", "restarted", "continued"] {
        let status = boot.lines(key).next().unwrap_or("nothing");
        claims.that(
            &format!("{key}: the device runs"),
            status.contains(" device=running "),
            status,
        );
    }
    let pings = pings(boot);
    let longest = pings.windows(2).map(|pair| pair[1].saturating_sub(pair[0])).max();
    let longest = longest.unwrap_or_default();
    eprintln!("watchdog: {} pings, at most {} ms apart", pings.len(), longest.as_millis());
    claims.that("it is fed throughout", pings.len() > 15, pings.len());
    claims.that("within its timeout", longest < TIMEOUT, format!("{} ms", longest.as_millis()));
}

fn reset(boot: &Boot, claims: &mut Claims) {
    claims.that("the machine is reset", boot.was_reset, "it powered off or hung");
    claims.that("before the script ends", boot.lines("done").count() == 0, "the script ended");
}
