// SPDX-License-Identifier: Apache-2.0
//! Two soft reboots in one boot: into the same root, and into another one with a program of its own.
//! Clients watch from the initrd to power-off.

use crate::claims::Claims;
use crate::journal::Record;
use crate::machine::Boot;
use crate::plan::{Plan, Row};
use crate::story;
use crate::ticks::{self, PERIOD, Tick, ticks};
use std::time::Duration;

pub(super) const PLANS: &[Plan] = &[Plan {
    name: "soft-reboot",
    clients: &["boot-storm", "boot-sit", "boot-nc"],
    // A soft reboot kills this script, and then runs it again. /run is kept.
    in_root: r#"
        wait_until root_serves && wait_until first_is_gone
        round=$(cat /run/boot-round 2> /dev/null || echo 0)
        echo $((round + 1)) > /run/boot-round
        is_new() { [ "/proc/$(root_pid)/exe" -ef /usr/bin/early-service ]; }
        relay_is_gone() { ! systemctl -q is-active early-service-soft-reboot.service; }
        wait_until is_new && wait_until root_serves && wait_until relay_is_gone && sleep 1
        say owner "$round $(root_pid) $(stat -Lc %d:%i "/proc/$(root_pid)/root/")"
        say root "$round $(stat -c %d:%i /)"
        type_into_nc 'status\n'; wait_until nc_shows $((round + 1))
        case $round in
            0) systemctl soft-reboot; sleep 60 ;;
            1)
                modprobe overlay
                mkdir -p /run/other/upper /run/other/work /run/nextroot
                mount -t overlay overlay /run/nextroot \
                    -o lowerdir=/,upperdir=/run/other/upper,workdir=/run/other/work
                : > /run/nextroot/etc/fstab
                cp /usr/bin/early-service /run/nextroot/usr/bin/another
                mv /run/nextroot/usr/bin/another /run/nextroot/usr/bin/early-service
                # The host reads the journal from the disk.
                mount --bind /var /run/nextroot/var
                systemctl soft-reboot; sleep 60 ;;
            2) tell nc < /run/boot-nc/out ;;
        esac"#,
    is_long: true,
    rows: &[
        Row { name: "soft reboots: every number once, on its time", holds: numbers },
        Row { name: "soft reboots: no client is refused, none cut off", holds: clients },
        Row { name: "soft reboots: the new root's program is the owner", holds: replaced },
        Row { name: "soft reboots: power-off within a second", holds: power_off },
    ],
    ..Plan::ORDINARY
}];

/// A tick may lack its line only while no journal runs: if a record arrives just after journald has
/// stopped, systemd 257 fails journald's socket and discards what is in it.
fn numbers(boot: &Boot, claims: &mut Claims) {
    let ticks = ticks(boot);
    ticks::in_rhythm(&ticks, claims);
    ticks::on_time(boot, &ticks, claims);
    let first = ticks.first().map(|tick| tick.number);
    claims.that("from 0", first == Some(0), format!("{first:?}"));
    let in_order = ticks.windows(2).all(|pair| pair[0].number < pair[1].number);
    claims.that("no number twice", in_order, "it was");
    let away = without_journal(boot);
    claims.that("journald stops at both soft reboots", away.len() == 2, away.len());
    let is_excused = |due: Duration| away.iter().any(|(from, to)| (*from..*to).contains(&due));
    for pair in ticks.windows(2) {
        let missing = pair[0].number + 1..pair[1].number;
        let due = |number: u64| pair[0].deadline + PERIOD * periods(&pair[0], number);
        let lost: Vec<_> = missing.filter(|number| !is_excused(due(*number))).collect();
        claims.that("no number is missing", lost.is_empty(), format!("{lost:?}"));
    }
    for status in boot.lines("nc") {
        claims.that("no tick was late", status.contains(" ticks_late=0"), status);
    }
}

fn periods(from: &Tick, to: u64) -> u32 {
    u32::try_from(to - from.number).expect("a boot is short")
}

/// From each order to stop journald by a soft reboot to its next start.
fn without_journal(boot: &Boot) -> Vec<(Duration, Duration)> {
    let soft = boot.journal.iter().filter(|record| record.message() == "Soft-rebooting.");
    let times = |words: &str| -> Vec<Duration> {
        let records = boot.journal.iter().filter(|record| record.message() == words);
        records.map(Record::at).collect()
    };
    let (stops, starts) = (times("Journal stopped"), times("Journal started"));
    soft.filter_map(|record| {
        let at = record.at();
        let from = stops.iter().rfind(|stop| **stop < at)?;
        Some((from.saturating_sub(PERIOD), *starts.iter().find(|start| **start > at)?))
    })
    .collect()
}

fn clients(boot: &Boot, claims: &mut Claims) {
    story::storm_is_never_refused(boot, 0, claims);
    story::sitter_loses_nothing(boot, claims);
    let answers: Vec<_> = boot.lines("nc").collect();
    claims.that("nc has one answer a round", answers.len() == 3, answers.join(" | "));
    let ended = story::of_unit(boot, "boot-nc.service", "Deactivated successfully").len();
    claims.that("nc ends once", ended == 1, ended);
}

/// The process of the old root survives both soft reboots, and is replaced only in another root.
fn replaced(boot: &Boot, claims: &mut Claims) {
    let words = |key| -> Vec<Vec<&str>> {
        boot.lines(key).map(|line: &str| line.split(' ').skip(1).collect()).collect()
    };
    let (owners, roots) = (words("owner"), words("root"));
    let [first, same, other] = &owners[..] else {
        return claims.that("there are three rounds", false, owners.len());
    };
    claims.that("the same root has the same process", first == same, format!("{owners:?}"));
    claims.that("another root has another", first[0] != other[0], format!("{owners:?}"));
    let is_in = Some(&other[1..]) == roots.last().map(|root| &root[..]);
    claims.that("its root is the new one", is_in, format!("{owners:?}, roots {roots:?}"));
    claims.that("which differs", roots.first() != roots.last(), format!("{roots:?}"));
    // The survivor, the relay, and the process of the new root.
    ticks::owned_by(&["initrd", "root", "root", "root"], &ticks(boot), claims);
    let restarts = story::of_unit(boot, story::ROOT, "Scheduled restart").len();
    claims.that("systemd starts it again once", restarts == 1, restarts);
    let failures = story::of_unit(boot, story::ROOT, "Failed").len();
    claims.that("the service never fails", failures == 0, failures);
}

fn power_off(boot: &Boot, claims: &mut Claims) {
    let stops = story::of_unit(boot, story::ROOT, "Stopping ").len();
    claims.that("it is told to stop at power-off only", stops == 1, stops);
    story::stops_within_a_second(boot, story::ROOT, claims);
    if let Some(last) = ticks(boot).last() {
        story::ticks_to_the_end(boot, last.actual, story::ROOT, claims);
    }
}
