// SPDX-License-Identifier: Apache-2.0
//! A CAN bus with a client that sends 100,000 requests from the initrd on, answered by
//! `examples/can` with the package's own units, through five handoffs and then kills.
//!
//! The root stage may not open a CAN socket: its unit allows only AF_UNIX, and gives it a network
//! namespace without the interface. It uses the socket of the initrd stage, and after a crash the
//! one from PID 1's store.

use crate::claims::Claims;
use crate::example::Example;
use crate::journal::Record;
use crate::machine::Boot;
use crate::plan::{Plan, Row};
use crate::story;
use std::time::Duration;

/// Number of requests, as in `boot-can.service`.
const REQUESTS: u64 = 100_000;
/// That of the initrd stage, and two in each of the scenario's rounds.
const HANDOFFS: usize = 5;
/// Maximum median wait for an answer, as a multiple of that for a program that only answers.
const TIMES_ECHO: u64 = 5;

pub(super) const PLANS: &[Plan] = &[Plan {
    name: "can",
    example: Some(Example::Can),
    clients: &["boot-echo", "boot-can"],
    over_initrd: &[(
        "/etc/systemd/system/early-service-initrd.service.d/can.conf",
        "[Service]\nFileDescriptorStoreMax=1\nEnvironment=CAN_INTERFACE=vcan0\n\
         ExecStartPre=+/boot-test/modules.sh\nExecStartPre=+/usr/bin/can_client up\n",
    )],
    over_disk: &[(
        "/etc/systemd/system/early-service.service.d/can.conf",
        "[Service]\nFileDescriptorStoreMax=1\n",
    )],
    in_initrd: r#"
        ask() { echo status | nc.openbsd -N -U "$PUBLIC"; }
        answers() { case $(ask) in *" frames=0 "*) false ;; *" frames="*) ;; *) false ;; esac; }
        wait_until answers; ask | tell first"#,
    in_root: r#"
        all_sent() { ! systemctl -q is-active boot-can.service; }
        wait_until root_serves && wait_until first_is_gone
        # Like the root stage.
        renice -n 0 -p "$(systemctl show -P MainPID boot-echo.service)" > /dev/null
        # Takes over from the root stage, which PID 1 then starts again, and hands over to it.
        for round in 1 2; do
            systemd-run --quiet --wait --collect --unit "round-$round" -p RuntimeMaxSec=30 \
                -p User=early-service -p UMask=0117 -p RuntimeDirectory=early-service-initrd \
                /usr/bin/early-service --server-socket-path "$FIRST" \
                --client-socket-path "$PUBLIC" --state-file "$STATE" || say gave-up "$round"
        done
        touch /run/early-service/handed-over
        wait_until all_sent || wait_until all_sent"#,
    rows: &[
        Row { name: "CAN: no frame lost or answered twice in five handoffs", holds: handed_over },
        Row {
            name: "CAN: within five times the wait for a program that only answers",
            holds: answers_soon,
        },
        Row { name: "CAN: after a kill at most the frame in hand is lost", holds: killed },
    ],
    ..Plan::ORDINARY
}];

/// The number of a field.
fn number(line: &str, key: &str) -> Option<u64> {
    line.split(' ').find_map(|word| word.strip_prefix(key)?.strip_prefix('=')?.parse().ok())
}

/// A part of the boot in which the client sent some requests at a time, and some one by one.
struct Turn {
    started: Duration,
    /// The longest wait for an answer when some were sent at a time.
    longest: u64,
    /// The times to the answers of the service and of `echo`, in microseconds.
    singles: Vec<(u64, u64)>,
}

impl Turn {
    fn read(line: &str) -> Option<Self> {
        let (started, line) = line.split_once(' ')?;
        let (longest, singles) = line.split_once(' ')?;
        let single = |word: &str| {
            let (service, echo) = word.split_once('/')?;
            Some((service.parse().ok()?, echo.parse().ok()?))
        };
        Some(Self {
            started: Duration::from_micros(started.parse().ok()?),
            longest: longest.parse().ok()?,
            singles: singles.split(' ').map(single).collect::<Option<_>>()?,
        })
    }
}

/// The time within which this many of 1,000 answers were received.
fn percentile(times: &mut [u64], per_mille: usize) -> u64 {
    times.sort_unstable();
    let rank = (times.len() * per_mille).div_ceil(1000).max(1);
    times.get(rank - 1).copied().unwrap_or_default()
}

/// The times of the handoffs: from the predecessor's first message to the last one.
fn handoffs(boot: &Boot) -> Vec<(Duration, Duration)> {
    let times = |text: &str| {
        let said = boot.journal.iter().filter(|record| record.message().contains(text));
        said.map(Record::made).collect::<Vec<_>>()
    };
    let (started, ended) = (times("Handing over to process"), times("has adopted the state"));
    started.into_iter().zip(ended).collect()
}

fn handed_over(boot: &Boot, claims: &mut Claims) {
    let first_kill = boot.said.iter().position(|(key, _)| key == "can-kill").unwrap_or_default();
    claims.that("the service is killed afterwards", first_kill > 0, first_kill);
    let trouble = |(key, _): &&(String, _)| ["can-lost", "can-twice"].contains(&key.as_str());
    let first = boot.said[..first_kill].iter().find(trouble);
    claims.that("no request is lost or answered twice", first.is_none(), format!("{first:?}"));
    let flood = boot.lines("can-flood").next().unwrap_or("nothing");
    let count = |key| number(flood, key).unwrap_or_default();
    claims.that("all requests are answered", count("answered") >= REQUESTS, flood);
    claims.that("each is counted once", count("counted") == count("answered"), flood);
    eprintln!("can: {flood}");
    let handoffs = handoffs(boot);
    claims.that("the service is handed over", handoffs.len() == HANDOFFS, handoffs.len());
    story::fails_never(boot, "early-service-initrd.service", claims);
}

/// The times are the guest's, which load on the host does not change.
fn answers_soon(boot: &Boot, claims: &mut Claims) {
    let turns: Vec<_> = boot.lines("can-turn").filter_map(Turn::read).collect();
    let Some(&(started, ended)) = handoffs(boot).first() else {
        return claims.that("the service is handed over", false, "never");
    };
    let first_during = turns.partition_point(|turn| turn.started < started).saturating_sub(1);
    let first_after = turns.partition_point(|turn| turn.started < ended);
    let phases = [
        ("before", &turns[..first_during]),
        ("during", &turns[first_during..first_after]),
        ("after", &turns[first_after..]),
    ];
    for (phase, turns) in phases {
        let singles = || turns.iter().flat_map(|turn| &turn.singles);
        let mut service: Vec<_> = singles().map(|single| single.0).collect();
        let mut echo: Vec<_> = singles().map(|single| single.1).collect();
        let [mine, least] = [&mut service, &mut echo]
            .map(|times| [500, 990, 999, 1000].map(|at| percentile(times, at)));
        let longest = turns.iter().map(|turn| turn.longest).max().unwrap_or_default();
        eprintln!(
            "can: {phase} the handoff: {} single requests, median, 99 %, 99.9 % and longest in us: \
             {mine:?}, of a program that only answers {least:?}; many at a time {longest}",
            service.len(),
        );
        if phase != "during" {
            let is_soon = service.len() > 500 && mine[0] <= TIMES_ECHO * least[0];
            claims.that(&format!("answers {phase} the handoff"), is_soon, format!("{mine:?}"));
        }
    }
}

fn killed(boot: &Boot, claims: &mut Claims) {
    let twice = boot.lines("can-twice").next();
    claims.that("no request is answered twice", twice.is_none(), format!("{twice:?}"));
    let kills: Vec<_> = boot.lines("can-kill").collect();
    let mut missing = 0;
    let mut sums = [0, 0];
    for kill in &kills {
        let count = |key| number(kill, key).unwrap_or_default();
        let lost = count("lost");
        let uncounted = count("answered").checked_sub(count("counted") + missing);
        let at_most_one = uncounted.is_some_and(|uncounted| lost + uncounted <= 1);
        claims.that("a kill loses or does not count at most one request", at_most_one, kill);
        claims.that("others wait for the next process", count("waited") > 0, kill);
        let uncounted = uncounted.unwrap_or_default();
        missing += uncounted;
        sums = [sums[0] + lost, sums[1] + uncounted];
    }
    let [lost, uncounted] = sums;
    eprintln!(
        "can: of {} kills, {lost} between a request and its answer, {uncounted} between the answer \
         and its count",
        kills.len()
    );
    claims.that("some kills are between a request and its answer", lost > 0, lost);
}
