// SPDX-License-Identifier: Apache-2.0
//! The Debian package on a running system: what an update reloads, and what a removal stops. At its
//! end, what rescue mode and emergency mode stop.
//!
//! `dpkg.rs` tests without a boot which units dpkg's calls enable.

use crate::claims::Claims;
use crate::machine::Boot;
use crate::plan::{Plan, Row};
use crate::story;

pub(super) const PLANS: &[Plan] = &[Plan {
    name: "package-updates",
    // dpkg's trigger would build an initrd each time.
    over_disk: &[("/usr/bin/dracut", "#!/bin/sh\n")],
    in_root: r#"
        wait_until root_serves && wait_until first_is_gone
        unit=early-service.service
        # Says what comes of dpkg's work: its status, the package's, and whether the program is another.
        after() {
            before=$(root_pid); key=$1; shift
            "$@" > /run/dpkg-log 2>&1; status=$?
            [ "$key" = removed ] || is_settled
            another=$([ "$(root_pid)" = "$before" ] || echo another)
            say "$key" "$status $(dpkg-query -W -f '${db:Status-Abbrev}' early-service)$(
                systemctl is-active $unit) $(systemctl is-enabled $unit 2> /dev/null) $another"
            [ "$status" = 0 ] || tell log < /run/dpkg-log
        }
        is_settled() { systemctl -q is-active $unit || sleep 1; }
        update() { after "$1" dpkg --install /boot-test/early-service.deb; }
        update enabled
        systemctl -q disable $unit; update disabled; systemctl -q enable $unit
        printf '#!/bin/sh\nexit 101\n' > /usr/sbin/policy-rc.d; chmod 755 /usr/sbin/policy-rc.d
        update forbidden; rm /usr/sbin/policy-rc.d
        systemctl -q mask $unit; update masked; systemctl -q unmask $unit
        systemctl -q start early-service.socket $unit
        systemctl -q stop early-service.socket $unit; update stopped
        systemctl is-active early-service.socket | tell stopped-socket
        systemctl -q start early-service.socket $unit
        # A package with a program that does not start.
        dpkg-deb --raw-extract /boot-test/early-service.deb /repack
        printf '#!/bin/sh\necho broken; exit 1\n' > /repack/usr/bin/early-service
        dpkg-deb -Znone --build --root-owner-group /repack /broken.deb > /dev/null
        after broken dpkg --install /broken.deb; tell broken-log < /run/dpkg-log
        update repaired
        mkdir -p /run/systemd/system/$unit.d
        printf '[Service]\nExecStartPre=/bin/false\n' > /run/systemd/system/$unit.d/fail.conf
        systemctl daemon-reload; systemctl kill --signal=KILL $unit
        fails() { [ "$(systemctl is-active $unit)" != active ]; }
        wait_until fails; update failing
        rm /run/systemd/system/$unit.d/fail.conf; update mended
        systemctl -q mask $unit
        after removed dpkg --remove early-service
        systemctl is-active early-service.socket | tell socket
        rm /etc/systemd/system/$unit
        update again
        wait_until root_serves
        # rescue.target and emergency.target stop this script too, so another one goes on.
        cat > /run/boot-isolate << 'END'
            . /boot-test/words.sh
            is_off() { ! systemctl -q is-active early-service.service; }
            for target in rescue emergency; do
                systemctl start early-service.socket early-service.service
                systemctl isolate --no-block $target.target; wait_until is_off
                say isolated "$target $(systemctl is-active early-service.service) $(
                    systemctl is-active early-service.socket)"
            done
            systemctl poweroff
END
        systemd-run --quiet --unit=boot-isolate --property=DefaultDependencies=no \
            --property=IgnoreOnIsolate=yes sh /run/boot-isolate
        sleep 60"#,
    is_long: true,
    rows: &[
        Row { name: "dpkg: an update reloads what runs, and nothing else", holds: reloads },
        Row { name: "dpkg: a program that does not start replaces nothing", holds: broken },
        Row { name: "dpkg: units that are masked or fail do not stop it", holds: does_not_fail },
        Row { name: "dpkg: a removal stops all of it, also what is masked", holds: stops },
        Row { name: "rescue and emergency mode stop it within a second", holds: isolated },
    ],
    ..Plan::ORDINARY
}];

fn isolated(boot: &Boot, claims: &mut Claims) {
    let isolated: Vec<_> = boot.lines("isolated").collect();
    let expected = ["rescue inactive inactive", "emergency inactive inactive"];
    claims.that("both end it, without a failure", isolated == expected, isolated.join(", "));
    story::stops_within_a_second(boot, story::ROOT, claims);
}

fn claim(boot: &Boot, key: &str, expected: &str, claims: &mut Claims) {
    let said = boot.lines(key).next().unwrap_or("nothing").trim_end();
    let log = boot.lines("log").collect::<Vec<_>>().join(" | ");
    claims.that(&format!("{key}: {expected}"), said == expected, format!("{said}; {log}"));
}

fn reloads(boot: &Boot, claims: &mut Claims) {
    claim(boot, "enabled", "0 ii active enabled another", claims);
    claim(boot, "disabled", "0 ii active disabled another", claims);
    claim(boot, "forbidden", "0 ii active enabled", claims);
    claim(boot, "stopped", "0 ii inactive enabled", claims);
    claim(boot, "stopped-socket", "inactive", claims);
    let reloads = story::of_stage(boot, "early-service", "to reload").len();
    claims.that("three updates reload", reloads == 3, reloads);
}

/// A restart would end the service, so the old program stays.
fn broken(boot: &Boot, claims: &mut Claims) {
    claim(boot, "broken", "0 ii active enabled", claims);
    let log = boot.lines("broken-log").collect::<Vec<_>>().join(" | ");
    let says = log.contains("the old program continues to run: broken");
    claims.that("dpkg shows why", says, log);
    claim(boot, "repaired", "0 ii active enabled another", claims);
}

fn does_not_fail(boot: &Boot, claims: &mut Claims) {
    // If a running unit is masked, PID 1 drops its settings, and the watchdog kills it.
    let masked = boot.lines("masked").next().unwrap_or("nothing");
    claims.that("masked: dpkg succeeds", masked.starts_with("0 ii "), masked);
    let failing = boot.lines("failing").next().unwrap_or("nothing");
    let is_well = failing.starts_with("0 ii ") && !failing.contains(" active");
    claims.that("failing: dpkg succeeds all the same", is_well, failing);
    claim(boot, "mended", "0 ii active enabled another", claims);
}

fn stops(boot: &Boot, claims: &mut Claims) {
    let removed = boot.lines("removed").next().unwrap_or("nothing");
    let is_stopped = removed.starts_with("0 rc inactive") || removed.starts_with("0 rc failed");
    claims.that("removed: the service is stopped", is_stopped, removed);
    let socket = boot.lines("socket").next().unwrap_or("nothing");
    claims.that("removed: the socket too", socket == "inactive", socket);
    claim(boot, "again", "0 ii active enabled another", claims);
}
