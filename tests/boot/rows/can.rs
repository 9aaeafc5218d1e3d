// SPDX-License-Identifier: Apache-2.0
//! A CAN bus with a client that sends 10,000 requests from the initrd on, answered by
//! `examples/can` with the package's own units.
//!
//! The root stage may not open a CAN socket: its unit allows only AF_UNIX, and gives it a network
//! namespace without the interface. It uses the socket of the initrd stage, and after a crash the
//! one from PID 1's store.

use crate::claims::Claims;
use crate::example::Example;
use crate::machine::Boot;
use crate::plan::{Plan, Row};
use crate::story;

/// Number of requests, as in `boot-can.service`.
const REQUESTS: u64 = 10_000;
const KILLS: u64 = 5;

pub(super) const PLANS: &[Plan] = &[Plan {
    name: "can",
    example: Some(Example::Can),
    clients: &["boot-can"],
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
        ask() { echo status | nc -N -U "$PUBLIC" | tell "$1"; }
        restarted() { [ "$(systemctl show -P NRestarts early-service.service)" -ge "$1" ]; }
        all_sent() { ! systemctl -q is-active boot-can.service; }
        wait_until root_serves && wait_until first_is_gone
        ask adopted
        for kill in 1 2 3 4 5; do
            systemctl kill --signal=KILL early-service.service
            wait_until restarted "$kill"
            wait_until root_serves
        done
        ask restarted
        wait_until all_sent
        ask finished"#,
    rows: &[
        Row { name: "CAN: no frame lost or answered twice in the handoff", holds: handed_over },
        Row { name: "CAN: after a kill at most the frame in hand is lost", holds: killed },
    ],
    ..Plan::ORDINARY
}];

/// The number of a field.
fn number(line: &str, key: &str) -> Option<u64> {
    line.split(' ').find_map(|word| word.strip_prefix(key)?.strip_prefix('=')?.parse().ok())
}

/// The frames that the service has counted, according to a line of `status`.
fn frames(boot: &Boot, key: &str) -> u64 {
    boot.lines(key).find_map(|line| number(line, "frames")).unwrap_or_default()
}

/// The longest wait for an answer among these reports.
fn slowest<'a>(reports: impl Iterator<Item = &'a str>) -> u64 {
    reports.filter_map(|line| number(line, "slowest_us")).max().unwrap_or_default()
}

fn handed_over(boot: &Boot, claims: &mut Claims) {
    let adopted = boot.said.iter().position(|(key, _)| key == "adopted").unwrap_or_default();
    let until_then = &boot.said[..adopted];
    for trouble in ["can-lost", "can-twice"] {
        let first = until_then.iter().find(|(key, _)| key == trouble);
        claims.that(&format!("no {trouble}"), first.is_none(), format!("{first:?}"));
    }
    let counts = ["first", "adopted", "restarted"].map(|key| frames(boot, key));
    let grows = counts[0] > 0 && counts.is_sorted_by(|a, b| a < b) && counts[2] < REQUESTS;
    claims.that("requests arrive throughout", grows, format!("{counts:?}"));
    let reports = until_then.iter().filter(|(key, _)| key == "can");
    let slowest = slowest(reports.map(|(_, line)| line.as_str()));
    eprintln!("can: {} frames until the handoff, an answer within {slowest} us", counts[1]);
    story::fails_never(boot, "early-service-initrd.service", claims);
}

fn killed(boot: &Boot, claims: &mut Claims) {
    let twice = boot.lines("can-twice").next();
    claims.that("no request is answered twice", twice.is_none(), format!("{twice:?}"));
    let lost = boot.lines("can-lost").count() as u64;
    claims.that("a kill loses at most one request", lost <= KILLS, lost);
    let last = boot.lines("can").last().unwrap_or("nothing");
    let all = last.starts_with(&format!("up_to={REQUESTS} "));
    claims.that("the others are answered", all, last);
    let counted = frames(boot, "finished");
    let exact = counted + lost <= REQUESTS && counted + KILLS >= REQUESTS;
    claims.that("the answered requests are counted", exact, format!("{counted}, {lost} lost"));
    let slowest = slowest(boot.lines("can"));
    eprintln!("can: {KILLS} kills lose {lost} of {REQUESTS} frames, an answer within {slowest} us");
}
