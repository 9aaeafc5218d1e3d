// SPDX-License-Identifier: Apache-2.0
//! Trouble with the second stage: disabled, failing, started twice, killed during the handoff,
//! restarted, stopped, killed.

use crate::claims::Claims;
use crate::machine::Boot;
use crate::plan::{Plan, Row};
use crate::recovery;
use crate::story;
use crate::ticks::{self, PERIOD, Tick, ticks};
use std::time::Duration;

pub(super) const DISABLED: Plan = Plan {
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
};

/// Plans for any PID 1 and any kernel.
pub(super) const OF_OUR_OWN: &[Plan] = &[
    Plan {
        name: "two-successors",
        clients: &["boot-storm", "boot-sit"],
        over_disk: &[
            (
                "/etc/systemd/system/early-service.service.d/fail.conf",
                "[Service]\nExecStartPre=+/boot-test/before-start\nTimeoutStartSec=5\n",
            ),
            // Fails twice. Then the predecessor is stopped, so that both successors ask before it
            // reads either request.
            (
                "/boot-test/before-start",
                r#"#!/bin/sh
. /boot-test/words.sh
for n in 1 2; do mkdir /run/failed-$n && exit 1; done
kill -STOP "$(first_pid)"
systemctl start --no-block second.service
wait_until is_adopting second.service
"#,
            ),
            (
                "/etc/systemd/system/second.service",
                "[Unit]\nDescription=Boot test, another successor\n\
                 [Service]\nType=notify\nTimeoutStartSec=infinity\nTimeoutStopSec=2\n\
                 User=early-service\nGroup=early-service\nUMask=0117\n\
                 ExecStart=/usr/bin/early-service \
                 --server-socket-path /run/early-service/second.sock \
                 --client-socket-path /run/early-service-initrd/early-service.sock \
                 --state-file /run/early-service/state\n",
            ),
        ],
        // The service has 5 s to start here, unless it asks for more.
        in_root: r#"
            wait_until is_adopting early-service.service
            kill -CONT "$(first_pid)"
            wait_until systemctl -q is-active second.service && wait_until first_is_gone
            sleep 6
            systemctl show -P StatusText early-service.service | tell waits
            systemctl stop second.service
            wait_until root_serves && sleep 1
            systemctl start --no-block second.service
            wait_until is_adopting second.service && sleep 1"#,
        rows: &[
            Row { name: "root stage fails twice, and nobody notices", holds: fails_twice },
            Row { name: "two successors at once: one adopts, the other waits", holds: two_at_once },
            Row { name: "a successor waits for as long as it takes", holds: waits_for_long },
            Row { name: "power-off while a successor waits: within a second", holds: off_waiting },
        ],
        ..Plan::ORDINARY
    },
    Plan {
        name: "ended-in-the-handoff",
        clients: &["boot-storm", "boot-sit"],
        off_disk: &["/etc/systemd/system/multi-user.target.wants/early-service.service"],
        in_root: r#"
            mkdir /run/other && chown early-service: /run/other
            chrt --fifo 1 boot-probe kill setpriv --reuid early-service --regid early-service --clear-groups \
                early-service --server-socket-path /run/other/early-service.sock \
                --client-socket-path PREDECESSOR --state-file "$STATE"
            systemctl start early-service.service
            wait_until root_serves && wait_until first_is_gone && sleep 2"#,
        is_long: true,
        rows: &[
            Row { name: "successors killed in the handoff: no tick is lost", holds: ended_in_it },
            Row { name: "successors killed in the handoff: no client is lost", holds: none_lost },
        ],
        ..Plan::ORDINARY
    },
];

pub(super) const PLANS: &[Plan] = &[
    DISABLED,
    Plan {
        name: "root-again",
        clients: &["boot-storm"],
        in_root: r#"
            wait_until root_serves && wait_until first_is_gone && sleep 1
            systemctl restart early-service.service && wait_until root_serves && sleep 1
            kill -STOP "$(root_pid)" && sleep 2 && kill -CONT "$(root_pid)" && sleep 1
            killed=$(root_pid) && kill -9 "$killed"
            another() { root_serves && [ "$(root_pid)" != "$killed" ]; }
            wait_until another && sleep 2"#,
        rows: &[
            Row { name: "root stage restarted, stopped for seconds, killed", holds: again },
            Row { name: "root stage restarted: no line is lost", holds: restarted },
            Row { name: "root stage stopped for seconds: catches up", holds: catches_up },
            Row { name: "root stage away: clients wait and none is refused", holds: clients_wait },
        ],
        ..Plan::ORDINARY
    },
];

fn disabled(boot: &Boot, claims: &mut Claims) {
    let ticks = ticks(boot);
    ticks::each_once_from(0, &ticks, claims);
    ticks::in_rhythm(&ticks, claims);
    ticks::on_time(boot, &ticks, claims);
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
    ticks::in_rhythm(&ticks, claims);
    story::first_stage_ends_well(boot, story::ADOPTED, claims);
}

/// The predecessor is stopped for more than a second: all wait, and it catches up its ticks.
fn two_at_once(boot: &Boot, claims: &mut Claims) {
    let ticks = ticks(boot);
    ticks::owned_by(&["initrd", "root", "root"], &ticks, claims);
    let of_first = ticks.iter().filter(|tick| tick.stage == "initrd");
    let latest = of_first.map(Tick::late).max().unwrap_or_default();
    claims.that("the predecessor was stopped", latest > 2 * PERIOD, format!("{latest:?}"));
    let adopters = units_that_say(boot, "Adopting ");
    claims.that("one adopts", adopters == ["second.service"], adopters.join(", "));
    let waiters = units_that_say(boot, ": waiting");
    claims.that("the other says that it waits", waiters.contains(&story::ROOT), waiters.join(", "));
}

/// It waits longer than its start may take, and then continues from the state file.
fn waits_for_long(boot: &Boot, claims: &mut Claims) {
    let status = boot.lines("waits").next().unwrap_or_default();
    claims.that("systemctl shows what it waits for", status.contains("another process"), status);
    for words in ["timed out", "Failed with result 'timeout'"] {
        let complaints = story::of_unit(boot, story::ROOT, words).len();
        claims.that(&format!("PID 1 never comes to {words:?}"), complaints == 0, complaints);
    }
    let made = |words| story::of_stage(boot, "early-service", words).first().map(|r| r.made());
    let took =
        made("Recovering at").zip(made("booting =>")).map(|(to, from)| to.saturating_sub(from));
    let long = took.is_some_and(|took| took > Duration::from_secs(6));
    claims.that("it waits for more than six seconds", long, format!("{took:?}"));
    let ticks = ticks(boot);
    recovery::told(&["early-service"], boot, &ticks, claims);
    // The stopped process takes along the connection that it is about to answer, and that of the
    // permanent client.
    story::storm_is_never_refused(boot, 1, claims);
    let sessions = boot.lines("sit-connected").count();
    claims.that("who sits connected is cut off once", sessions == 2, sessions);
}

fn off_waiting(boot: &Boot, claims: &mut Claims) {
    let started = story::of_unit(boot, "second.service", "Started ").len();
    claims.that("the other one does not become ready again", started == 1, started);
    story::off_within_a_second(boot, "second.service", claims);
    story::off_within_a_second(boot, story::ROOT, claims);
}

/// The units of the root stage's processes whose log lines contain these words.
fn units_that_say<'a>(boot: &'a Boot, words: &'a str) -> Vec<&'a str> {
    let said = story::of_stage(boot, "early-service", words);
    said.into_iter().filter_map(|record| record.field("_SYSTEMD_UNIT")).collect()
}

/// The predecessor continues, unless the killed process was the owner by then.
fn ended_in_it(boot: &Boot, claims: &mut Claims) {
    let over = boot.lines("kill-over").next().unwrap_or_default();
    claims.that("the killing comes to its end", !over.is_empty(), "it did not");
    let hit = story::of_stage(boot, "early-service-initrd", "did not adopt the state").len();
    let asked = story::of_stage(boot, "early-service-initrd", "Handing over to process").len();
    eprintln!("killed in the handoff: {hit} of {asked} ({over})");
    claims.that("many are killed in the middle", hit >= 10, format!("{hit} of {asked}; {over}"));
    let ticks = ticks(boot);
    recovery::each_once_but_named(boot, &ticks, claims);
    ticks::in_rhythm(&ticks, claims);
    let owners = ticks::owners(&ticks);
    let one_after_another = owners.is_sorted_by_key(|ticks| &ticks[0].stage) && owners.len() <= 3;
    claims.that("one owner after another", one_after_another, owners.len());
}

fn none_lost(boot: &Boot, claims: &mut Claims) {
    // If the last killed process was the owner, its connections end with it.
    let owners_killed = recovery::count(boot);
    story::storm_is_never_refused(boot, owners_killed, claims);
    if owners_killed == 0 {
        story::sitter_loses_nothing(boot, claims);
    }
}

fn again(boot: &Boot, claims: &mut Claims) {
    let restarts = story::of_unit(boot, story::ROOT, "Scheduled restart").len();
    claims.that("systemd starts the killed one again", restarts == 1, restarts);
    let ticks = ticks(boot);
    ticks::owned_by(&["initrd", "root", "root", "root"], &ticks, claims);
    recovery::told(&["early-service", "early-service"], boot, &ticks, claims);
    recovery::each_once_but_named(boot, &ticks, claims);
    ticks::in_rhythm(&ticks, claims);
}

/// A process that is told to stop logs all queued lines, so no number is missing up to the kill.
fn restarted(boot: &Boot, claims: &mut Claims) {
    let ticks = ticks(boot);
    let owners = ticks::owners(&ticks);
    let up_to_kill = owners.iter().take(3).map(|ticks| ticks.len()).sum::<usize>();
    ticks::each_once_from(0, &ticks[..up_to_kill], claims);
    let told = story::of_unit(boot, story::ROOT, "Stopping ").len();
    claims.that("it is told to stop twice, the second time at power-off", told == 2, told);
    story::stops_within_a_second(boot, story::ROOT, claims);
}

fn catches_up(boot: &Boot, claims: &mut Claims) {
    let ticks = ticks(boot);
    let owners = ticks::owners(&ticks);
    let Some(stopped) = owners.get(2) else {
        return claims.that("there is a third owner", false, owners.len());
    };
    let first = stopped[0].number;
    ticks::each_once_from(first, stopped, claims);
    let latest = stopped.iter().map(Tick::late).max().unwrap_or_default();
    claims.that(
        "it was stopped for seconds",
        latest > Duration::from_secs(1),
        format!("{latest:?}"),
    );
    let last = stopped.last().map(Tick::late).unwrap_or_default();
    claims.that("it is on time again", last < PERIOD, format!("{last:?}"));
}

fn clients_wait(boot: &Boot, claims: &mut Claims) {
    // One for each process that ends while it owns the counter.
    story::storm_is_never_refused(boot, 2, claims);
}
