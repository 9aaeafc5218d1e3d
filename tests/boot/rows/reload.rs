// SPDX-License-Identifier: Apache-2.0
//! Reload: the program is replaced while clients are at work, by an upgrade and by `systemctl
//! reload`.
//!
//! `updates.rs` tests which updates reload.

use crate::claims::Claims;
use crate::machine::Boot;
use crate::plan::{Plan, Row};
use crate::story;
use crate::ticks::{self, ticks};

pub(super) const PLANS: &[Plan] = &[Plan {
    name: "reload",
    clients: &["boot-storm", "boot-sit", "boot-nc"],
    // dpkg's trigger would build an initrd.
    over_disk: &[("/usr/bin/dracut", "#!/bin/sh\n")],
    in_initrd: r#"echo reload | nc.openbsd -N -U "$PUBLIC" | tell initrd"#,
    in_root: r#"
        wait_until root_serves && wait_until first_is_gone
        unit=early-service.service program=/usr/bin/early-service
        group=/sys/fs/cgroup/system.slice/$unit
        # The same package as a higher version, with a program that says so.
        dpkg-deb --raw-extract /boot-test/early-service.deb /repack
        sed -i 's/^Version: .*/Version: 9.9.9/' /repack/DEBIAN/control
        version=$($program --version | cut -d ' ' -f 2)
        LC_ALL=C sed -i "s/$version/9.9.9/g" "/repack$program"
        dpkg-deb -Znone --build --root-owner-group /repack /higher.deb > /dev/null
        # Eight besides the two from the initrd.
        sitters=
        for _ in 1 2 3 4 5 6 7 8; do boot-probe sit & sitters="$sitters $!"; done
        # PID 1's view of the service, and the processes and files that belong to it.
        about() {
            pid=$(root_pid); say pid "$pid"
            say "$1" "$(systemctl is-active $unit) restarts=$(systemctl show -P NRestarts $unit) \
processes=$(wc -l < $group/cgroup.procs) main=$([ "$(cat $group/cgroup.procs)" = "$pid" ] && echo yes)"
        }
        another() { [ "$(root_pid)" != "$pid" ]; }
        files() { ls -A /run/early-service /run/early-service-initrd 2> /dev/null; }
        about before; sleep 1
        dpkg --install /higher.deb 2>&1 | tell dpkg
        wait_until another; about upgraded
        type_into_nc 'status\n'; wait_until nc_shows 1; tell nc < /run/boot-nc/out
        sleep 1; kill $sitters
        systemctl stop boot-storm.service boot-sit.service; say clients stopped
        sleep 0.5; descriptors=$(ls /proc/$(root_pid)/fd | wc -l) files=$(files)
        for _ in 1 2 3 4 5 6 7 8 9 10; do
            systemctl reload $unit || say reload-failed "$?"
            about reloaded
        done
        sleep 0.5; say descriptors "$(($(ls /proc/$(root_pid)/fd | wc -l) - descriptors))"
        say files "$([ "$files" = "$(files)" ] && echo same)"
        # The watchdog (WatchdogSec=3).
        sleep 10; about watched
        # Programs that do not take over.
        mv $program /program; put() { chmod 755 /broken; mv /broken $program; }
        refuses() {
            systemctl reload $unit 2> /dev/null; say "$1" "$? $(echo reload | nc -N -U "$PUBLIC")"
            about "$1"
        }
        printf '#!/bin/sh\nexit 1\n' > /broken; put; refuses exits
        head -c 4096 /program > /broken; put; refuses truncated
        mv /program $program; systemctl reload $unit; about mended
        say ticks end
        systemctl kill --kill-who=main --signal=KILL $unit; wait_until another; wait_until root_serves
        about killed; systemctl reload $unit; systemctl restart $unit; about restarted
        systemctl reload $unit; systemctl stop $unit; say stopped "$(systemctl is-active $unit) $(
            systemctl show -P Result $unit)"
        systemctl start $unit; about started"#,
    is_long: true,
    rows: &[
        Row { name: "reload: an upgrade under load cuts nobody off", holds: upgrade },
        Row { name: "reload: ten times in a row leave nothing behind", holds: ten_times },
        Row { name: "reload: a program that does not start is refused", holds: broken },
        Row { name: "reload: kill, restart and stop work as before", holds: afterwards },
        Row { name: "reload: refused in the initrd", holds: initrd },
    ],
    ..Plan::ORDINARY
}];

/// One process, which PID 1 takes for the main one.
fn is_well(boot: &Boot, key: &str, restarts: u32, claims: &mut Claims) {
    let expected = format!("active restarts={restarts} processes=1 main=yes");
    let said: Vec<_> = boot.lines(key).filter(|line| line.starts_with("active ")).collect();
    let holds = !said.is_empty() && said.iter().all(|line| *line == expected);
    claims.that(&format!("{key}: {expected}"), holds, said.join("; "));
}

fn upgrade(boot: &Boot, claims: &mut Claims) {
    is_well(boot, "before", 0, claims);
    is_well(boot, "upgraded", 0, claims);
    let log = boot.lines("dpkg").collect::<Vec<_>>().join(" | ");
    claims.that("dpkg prints no error", !log.contains("early-service: "), &log);
    let status = boot.lines("nc").next().unwrap_or("nothing");
    claims.that("the old connection, the new version", status.contains("version=9.9.9"), status);
    let pids: Vec<_> = boot.lines("pid").collect();
    let is_new = pids.len() > 1 && pids[0] != pids[1];
    claims.that("PID 1 names the new process", is_new, pids.join(" "));
    story::storm_is_never_refused(boot, 0, claims);
    let connected = boot.lines("sit-connected").count();
    claims.that("nine connections, each once", connected == 9, connected);
    let ended: Vec<_> = boot.lines("sit-ended").collect();
    claims.that("none is cut off", ended.is_empty(), ended.join("; "));
    // Of all processes up to the kill.
    let all = ticks(boot);
    let owners = ticks::owners(&all);
    let last = boot.said.iter().position(|(key, _)| key == "ticks").unwrap_or_default();
    let said = boot.said[..last].iter().filter(|(key, _)| key == "pid");
    let processes = said.map(|(_, pid)| pid.as_str()).collect::<Vec<_>>();
    let count: usize = owners
        .iter()
        .take_while(|ticks| {
            ticks[0].stage == "initrd" || processes.contains(&ticks[0].pid.to_string().as_str())
        })
        .map(|ticks| ticks.len())
        .sum();
    let ticks = &all[..count];
    ticks::unbroken(ticks, claims);
    ticks::in_rhythm(ticks, claims);
    let reached =
        ticks.last().is_some_and(|tick| processes.last() == Some(&&*tick.pid.to_string()));
    claims.that("to the last reload", reached, format!("{:?}", ticks.last()));
}

fn ten_times(boot: &Boot, claims: &mut Claims) {
    is_well(boot, "reloaded", 0, claims);
    let reloads = boot.lines("reloaded").count();
    claims.that("ten reloads", reloads == 10, reloads);
    let failed = boot.lines("reload-failed").count();
    claims.that("none fails", failed == 0, failed);
    for (key, expected) in [("descriptors", "0"), ("files", "same")] {
        let said = boot.lines(key).next().unwrap_or("nothing");
        claims.that(&format!("{key}: {expected}"), said == expected, said);
    }
    is_well(boot, "watched", 0, claims);
}

fn broken(boot: &Boot, claims: &mut Claims) {
    for (key, reason) in [("exits", "it exited with status 1"), ("truncated", "")] {
        let said = boot.lines(key).next().unwrap_or("nothing");
        let (status, answer) = said.split_once(' ').unwrap_or((said, ""));
        claims.that(&format!("{key}: systemctl fails"), status == "1", said);
        let holds = answer.starts_with("not reloaded: ") && answer.contains(reason);
        claims.that(&format!("{key}: the answer is the reason"), holds, said);
        is_well(boot, key, 0, claims);
    }
    is_well(boot, "mended", 0, claims);
}

fn afterwards(boot: &Boot, claims: &mut Claims) {
    is_well(boot, "killed", 1, claims);
    is_well(boot, "restarted", 0, claims);
    let stopped = boot.lines("stopped").next().unwrap_or("nothing");
    claims.that("stopped, with success", stopped == "inactive success", stopped);
    is_well(boot, "started", 0, claims);
}

fn initrd(boot: &Boot, claims: &mut Claims) {
    let answer = boot.lines("initrd").next().unwrap_or("nothing");
    claims.that("the answer is the reason", answer.starts_with("not reloaded: "), answer);
}
