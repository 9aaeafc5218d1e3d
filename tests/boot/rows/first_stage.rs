// SPDX-License-Identifier: Apache-2.0
//! Trouble with the first stage: killed, stopped, without a root, or missing.

use crate::claims::Claims;
use crate::guest::Initrd;
use crate::machine::Boot;
use crate::plan::{Plan, Row};
use crate::recovery;
use crate::story;
use crate::ticks::{self, PERIOD, Tick, ticks};
use std::time::Duration;

/// Runs a script with all privileges before the root stage starts. The sandbox applies even to this
/// script, so the drop-in permits the serial port for its output.
pub(super) const BEFORE_START: (&str, &str) = (
    "/etc/systemd/system/early-service.service.d/before.conf",
    "[Service]\nExecStartPre=+/boot-test/before-start\nDeviceAllow=/dev/ttyS1 w\n",
);

/// CAP_SYS_CHROOT and CAP_SYS_PTRACE.
const FOLLOWING: u64 = 1 << 18 | 1 << 19;

pub(crate) const FEW_RIGHTS: &str = "first stage: two capabilities, and no way to more";
pub(crate) const NO_RIGHTS: &str = "first stage re-rooted: no thread has a capability";

/// Claims that depend on single lines of the unit, or on the daemon.
pub(crate) const ONE_THREAD: &str = "before the switch one thread has the two";
pub(crate) const NO_THREAD: &str = "before the handoff no thread has any";
pub(crate) const BOUNDED: &str = "no more than the two could be had";
pub(crate) const NO_NEW: &str = "no program gives new privileges";

pub(crate) const RECOVERS: &str = "first stage killed, before the switch and after";

/// [`crate::sabotage`] boots this plan too.
pub(crate) const KILLED: Plan = Plan {
    name: "first-killed",
    clients: &["boot-storm"],
    in_initrd: r#"
        killed=$(first_pid) && kill -9 "$killed"
        another() { [ "$(first_pid)" != 0 ] && [ "$(first_pid)" != "$killed" ]; }
        wait_until another && sleep 1"#,
    over_disk: &[
        BEFORE_START,
        ("/boot-test/before-start", "#!/bin/sh\n. /boot-test/words.sh\nkill -9 \"$(first_pid)\"\n"),
    ],
    rows: &[
        Row { name: RECOVERS, holds: killed },
        Row { name: "first stage killed: no client is refused", holds: killed_refuses_nobody },
    ],
    ..Plan::ORDINARY
};

/// [`crate::sabotage`] boots this plan too.
pub(crate) const STOPPED: Plan = Plan {
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
        Row { name: FEW_RIGHTS, holds: few_rights },
        Row { name: NO_RIGHTS, holds: no_rights },
    ],
    ..Plan::ORDINARY
};

pub(super) const NO_ROOT: Plan = Plan {
    name: "no-root",
    clients: &["boot-storm"],
    // The file system is ext4, so mounting it as vfat fails at once; a missing one would fail after
    // a minute. The initrd's journal is lost, so PID 1's last lines are on the console, with the
    // kernel's time.
    cmdline: "rootfstype=vfat loglevel=7 systemd.log_target=kmsg printk.devkmsg=on",
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
    rows: &[
        Row { name: "switch of root fails: serves on in emergency mode", holds: no_root },
        Row { name: "switch of root fails: power-off within a second", holds: off_in_initrd },
    ],
    ..Plan::ORDINARY
};

pub(super) const PLANS: &[Plan] = &[
    KILLED,
    STOPPED,
    Plan {
        name: "unit-missing",
        clients: &["boot-storm", "boot-sit"],
        in_initrd: r#"kill -TERM "$(first_pid)""#,
        off_disk: &["/usr/lib/systemd/system/early-service-initrd.service"],
        rows: &[Row {
            name: "first stage's unit missing on the root filesystem: hands over",
            holds: unit_missing,
        }],
        ..Plan::ORDINARY
    },
    NO_ROOT,
    Plan {
        name: "no-module",
        initrd: Initrd::Without,
        over_disk: &[
            BEFORE_START,
            // Runs the program with the ID of another boot and kills it. The files are then those
            // of an earlier boot.
            (
                "/boot-test/before-start",
                r#"#!/bin/sh
set -e
. /boot-test/words.sh
umask 022
echo 0b0070f0-0000-4000-8000-000000000000 > /run/other-boot
mkdir /run/early-service-initrd
chown early-service: /run/early-service-initrd
unshare --mount sh -euc '
    mount --bind /run/other-boot /proc/sys/kernel/random/boot_id
    exec setpriv --reuid early-service --regid early-service --clear-groups \
        early-service --server-socket-path "$1" --state-file "$2"' sh "$FIRST" "$STATE" &
written() { [ -s "$STATE" ]; }
wait_until written && sleep 0.5
kill -9 $!
tell stale < "$STATE"
"#,
            ),
        ],
        in_root: "wait_until root_serves && sleep 2",
        rows: &[
            Row { name: "no module in the initrd: serves from 0", holds: no_module },
            Row { name: "files that another boot has left: serves from 0, at once", holds: stale },
        ],
        ..Plan::ORDINARY
    },
];

/// If it dies in the initrd, systemd restarts it. If it dies after the switch, the root stage
/// continues. Either one reports the number.
fn killed(boot: &Boot, claims: &mut Claims) {
    let restarts = story::of_unit(boot, story::FIRST, "Scheduled restart").len();
    claims.that("systemd starts it again in the initrd and not after", restarts == 1, restarts);
    let ticks = ticks(boot);
    ticks::owned_by(&["initrd", "initrd", "root"], &ticks, claims);
    recovery::told(&["early-service-initrd", "early-service"], boot, &ticks, claims);
    recovery::each_once_but_named(boot, &ticks, claims);
    ticks::in_rhythm(&ticks, claims);
}

fn killed_refuses_nobody(boot: &Boot, claims: &mut Claims) {
    // One for each killed process.
    story::storm_is_never_refused(boot, 2, claims);
}

fn stopped(boot: &Boot, claims: &mut Claims) {
    let watchdog = story::of_unit(boot, story::FIRST, "Watchdog timeout").len();
    claims.that("the first stage's watchdog ends it", watchdog == 1, watchdog);
    let waits = story::of_stage(boot, "early-service", "does not answer: waiting for it").len();
    claims.that("its successor says that it waits", waits == 1, waits);
    let ticks = ticks(boot);
    ticks::owned_by(&["initrd", "root"], &ticks, claims);
    recovery::told(&["early-service"], boot, &ticks, claims);
    recovery::each_once_but_named(boot, &ticks, claims);
    ticks::in_rhythm(&ticks, claims);
    story::storm_is_never_refused(boot, 1, claims);
}

/// The first stage has the minimum that it needs to enter the new root, and cannot gain more.
fn few_rights(boot: &Boot, claims: &mut Claims) {
    let threads = rights(boot, "rights-before");
    claims.that("there are threads", threads.len() > 1, threads.len());
    let able = threads.iter().filter(|rights| rights.set("CapEff") == FOLLOWING).count();
    let none = threads.iter().filter(|rights| rights.set("CapEff") == 0).count();
    let one = able == 1 && able + none == threads.len();
    claims.that(ONE_THREAD, one, format!("{threads:x?}"));
    for rights in &threads {
        let permitted = rights.set("CapPrm") == rights.set("CapEff");
        claims.that("what a thread may do it does", permitted, format!("{rights:x?}"));
        cannot_gain(rights, claims);
    }
}

/// One thread has the capabilities to follow PID 1 for as long as it needs them; then no thread has
/// any.
fn no_rights(boot: &Boot, claims: &mut Claims) {
    let before = rights(boot, "rights-before").len();
    let threads = rights(boot, "rights-after");
    claims.that("every thread is looked at", threads.len() >= before.max(2), threads.len());
    let none = threads.iter().all(|rights| rights.set("CapPrm") == 0 && rights.set("CapEff") == 0);
    claims.that(NO_THREAD, none, format!("{threads:x?}"));
    for rights in &threads {
        cannot_gain(rights, claims);
    }
}

/// A process without CAP_SETPCAP cannot reduce its bounding set, so both capabilities stay in it.
/// They could only be gained from a privileged program, which `NoNewPrivileges=` prevents.
fn cannot_gain(rights: &Rights, claims: &mut Claims) {
    claims.that(BOUNDED, rights.set("CapBnd") == FOLLOWING, format!("{rights:x?}"));
    let inherits = rights.set("CapInh") != 0 || rights.set("CapAmb") != 0;
    claims.that("nothing is inherited", !inherits, format!("{rights:x?}"));
    claims.that(NO_NEW, rights.set("NoNewPrivs") == 1, format!("{rights:x?}"));
}

/// A thread's capability sets and its flag, by their names in `/proc/PID/status`.
#[derive(Debug)]
struct Rights(Vec<(String, u64)>);

impl Rights {
    /// All bits if the field is missing.
    fn set(&self, name: &str) -> u64 {
        self.0.iter().find(|(field, _)| field == name).map_or(u64::MAX, |(_, bits)| *bits)
    }
}

/// The capability sets of each thread of the first stage.
fn rights(boot: &Boot, key: &str) -> Vec<Rights> {
    let parse = |word: &str| {
        let (field, bits) = word.split_once(':')?;
        Some((field.to_owned(), u64::from_str_radix(bits, 16).ok()?))
    };
    boot.lines(key)
        .map(|line| Rights(line.split_whitespace().filter_map(parse).collect()))
        .collect()
}

/// systemd sends the first stage SIGTERM when its successor starts.
fn unit_missing(boot: &Boot, claims: &mut Claims) {
    let heard = story::of_stage(boot, "early-service-initrd", "SIGTERM").len();
    claims.that("SIGTERM is heard, and no more", heard >= 1, heard);
    let handed_over = story::of_stage(boot, "early-service-initrd", story::ADOPTED).len();
    claims.that("the first stage hands over", handed_over == 1, handed_over);
    let ticks = ticks(boot);
    ticks::unbroken(&ticks, claims);
    ticks::in_rhythm(&ticks, claims);
    ticks::on_time(boot, &ticks, claims);
    story::storm_is_never_refused(boot, 0, claims);
    story::sitter_loses_nothing(boot, claims);
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

fn off_in_initrd(boot: &Boot, claims: &mut Claims) {
    let said = |words: &str| {
        let line = boot.console.lines().find(|line| line.contains(words))?;
        let (_, rest) = line.split_once('[')?;
        Duration::try_from_secs_f64(rest.split_once(']')?.0.trim().parse().ok()?).ok()
    };
    let (stopping, stopped) = (
        said("Stopping early-service-initrd.service"),
        said("Stopped early-service-initrd.service"),
    );
    let took = stopped.zip(stopping).map(|(stopped, stopping)| stopped.saturating_sub(stopping));
    let holds = took.is_some_and(|took| took < Duration::from_secs(1));
    claims.that("the first stage stops within a second", holds, format!("{took:?}"));
}

fn no_module(boot: &Boot, claims: &mut Claims) {
    let ticks = of_the_service(boot);
    ticks::each_once_from(0, &ticks, claims);
    ticks::in_rhythm(&ticks, claims);
    claims.that("only the root stage ticks", ticks::count(&ticks, "initrd") == 0, "");
    story::fails_never(boot, story::ROOT, claims);
    story::stops_within_a_second(boot, story::ROOT, claims);
}

fn stale(boot: &Boot, claims: &mut Claims) {
    let left = boot.lines("stale").next().unwrap_or_default();
    claims.that("there is a state file", left.starts_with("early-service-state "), left);
    let ignored =
        story::of_stage(boot, "early-service", "/state: it is of another boot (last written 2")
            .len();
    claims.that(
        "the root stage says that it is of another boot and when it was written",
        ignored == 1,
        ignored,
    );
    let nobody = story::of_stage(boot, "early-service", "No predecessor at ").len();
    claims.that("and that nobody is at the old socket", nobody == 1, nobody);
    let made = |words| story::of_stage(boot, "early-service", words).last().map(|r| r.made());
    let took = made("=> serving").zip(made("booting =>")).map(|(to, from)| to.saturating_sub(from));
    claims.that(
        "it serves at once",
        took.is_some_and(|took| took < 2 * PERIOD),
        format!("{took:?}"),
    );
}

/// Without the ticks of the process that represents another boot.
fn of_the_service(boot: &Boot) -> Vec<Tick> {
    let mut ticks = ticks(boot);
    let last = ticks.last().map(|tick| tick.pid);
    ticks.retain(|tick| Some(tick.pid) == last);
    ticks
}
