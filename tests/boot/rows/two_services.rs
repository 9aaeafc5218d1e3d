// SPDX-License-Identifier: Apache-2.0
//! Two services in one boot: ours, and one that `examples/new-service` has written, in the package
//! that `cargo deb` makes of it.
//!
//! The generated service owns the watchdog of the machine. Its dracut module brings the driver, and
//! its root stage is killed once.

use std::collections::BTreeSet;

use crate::claims::Claims;
use crate::generated::Builder;
use crate::journal::Record;
use crate::machine::Boot;
use crate::plan::{Plan, Row};
use crate::story;

const OURS: &str = "early-service";
const GENERATED: &str = "pulse";

pub(super) const PLANS: &[Plan] = &[Plan {
    name: "two-services",
    generated: Some(Builder::Dracut),
    in_initrd: r#"
        tell account-initrd < /etc/passwd
        for name in early-service pulse; do
            echo status | nc.openbsd -N -U /run/$name/$name.sock | tell "initrd $name"
        done"#,
    in_root: r#"
        is() { systemctl -q is-active "$1"; }
        is_gone() { ! is "$1"; }
        ask() { echo status | nc -N -U "/run/$1/$1.sock" | tell "$2 $1"; }
        for name in early-service pulse; do
            wait_until is $name.service && wait_until is_gone $name-initrd.service
        done
        sleep 2; ask early-service adopted; ask pulse adopted
        tell account-root < /etc/passwd
        for name in early-service pulse; do
            find /run/$name /run/$name.* -printf '%u %p\n' 2> /dev/null | tell "files $name"
            for process in /proc/[0-9]*; do
                [ "$(cat "$process/comm")" = $name ] || continue
                stat -c %U "$process" | tell "user $name"
                readlink "$process"/fd/* | tell "open $name"
            done
        done
        systemctl kill --signal=KILL pulse.service; sleep 3
        ask pulse recovered; ask early-service recovered"#,
    rows: &[
        Row { name: "two services: each hands over and keeps its count", holds: counts },
        Row { name: "two services: neither has a name of the other", holds: apart },
        Row { name: "two services: a killed one recovers, with its device", holds: recovered },
    ],
    ..Plan::ORDINARY
}];

/// The records of a service, of both stages.
fn records<'a>(boot: &'a Boot, name: &str) -> Vec<&'a Record> {
    let initrd = format!("{name}-initrd");
    let is_of = |record: &&Record| record.identifier() == name || record.identifier() == initrd;
    boot.journal.iter().filter(is_of).collect()
}

/// The numbers of a service with the process that logged them, in order.
pub(super) fn numbers(boot: &Boot, name: &str) -> Vec<(u64, u64)> {
    let ticks =
        records(boot, name).into_iter().filter(|record| record.number("ACTUAL_NS").is_some());
    let tick = |record: &Record| {
        // The generated service logs the fields of its state.
        let number = record.message().trim_start_matches("count=").parse().ok()?;
        Some((record.number("_PID")?, number))
    };
    let mut numbers: Vec<_> = ticks.filter_map(tick).collect();
    numbers.sort_by_key(|(_, number)| *number);
    numbers
}

fn counts(boot: &Boot, claims: &mut Claims) {
    for name in [OURS, GENERATED] {
        let handed_over = story::of_stage(boot, &format!("{name}-initrd"), story::ADOPTED);
        claims.that(&format!("{name} hands over once"), handed_over.len() == 1, handed_over.len());
        let numbers = numbers(boot, name);
        let processes: Vec<_> = numbers.chunk_by(|one, next| one.0 == next.0).collect();
        let lengths: Vec<_> = processes.iter().map(|chunk| chunk.len()).collect();
        let expected = if name == OURS { 2 } else { 3 };
        claims.that(
            &format!("each process of {name} ticks, one after the other"),
            lengths.len() == expected && lengths.iter().all(|length| *length > 5),
            format!("{lengths:?}"),
        );
        // The lines that a killed process has not written are lost with it.
        let before_the_kill: Vec<_> = processes.iter().take(2).copied().flatten().collect();
        let odd = before_the_kill.iter().zip(0..).find(|((_, number), due)| number != due);
        claims.that(&format!("{name} logs each number once"), odd.is_none(), format!("{odd:?}"));
    }
    for (key, pairs) in [
        ("initrd early-service", &["stage=initrd"][..]),
        ("initrd pulse", &["stage=initrd", "device=running"]),
    ] {
        status_has(boot, key, pairs, claims);
    }
}

/// The reply to `status` that a script has sent with `key` has these pairs.
pub(super) fn status_has(boot: &Boot, key: &str, pairs: &[&str], claims: &mut Claims) {
    let status = boot.lines(key).next().unwrap_or("nothing");
    for pair in pairs {
        let holds = status.split(' ').any(|each| each == *pair);
        claims.that(&format!("{key}: {pair}"), holds, status);
    }
}

fn apart(boot: &Boot, claims: &mut Claims) {
    for (name, other) in [(OURS, GENERATED), (GENERATED, OURS)] {
        let records = records(boot, name);
        claims.that(&format!("{name} logs"), records.len() > 20, records.len());
        // `TARGET=` has the name in this form.
        let forms = [other, &other.replace('-', "_")];
        let strange = records.iter().find(|record| forms.iter().any(|form| record.mentions(form)));
        claims.that(
            &format!("no record of {name} has a field with the name of {other}"),
            strange.is_none(),
            strange.map_or("", |record| record.message()),
        );
        for key in ["files", "open", "user"] {
            let key = format!("{key} {name}");
            let lines: Vec<_> = boot.lines(&key).collect();
            claims.that(&format!("there are {key}"), !lines.is_empty(), "none");
            let strange = lines.iter().find(|line| line.contains(other));
            claims.that(
                &format!("{key}: none of {other}"),
                strange.is_none(),
                format!("{strange:?}"),
            );
        }
        let key = format!("user {name}");
        let users: BTreeSet<_> = boot.lines(&key).collect();
        let is_own = users == BTreeSet::from([name]);
        claims.that(&format!("{name} runs with its own account"), is_own, format!("{users:?}"));
        let account = |key: &str| -> Vec<String> {
            let begin = format!("{name}:");
            boot.lines(key).filter(|line| line.starts_with(&begin)).map(str::to_owned).collect()
        };
        let (initrd, root) = (account("account-initrd"), account("account-root"));
        let is_one = initrd.len() == 1 && initrd == root;
        claims.that(
            &format!("{name} has one account in both stages"),
            is_one,
            format!("{initrd:?} {root:?}"),
        );
    }
}

fn recovered(boot: &Boot, claims: &mut Claims) {
    for (key, pairs) in [
        ("adopted pulse", ["origin=adopted", "device=running", "state_file=held"]),
        ("recovered pulse", ["origin=recovered", "device=running", "state_file=held"]),
        ("recovered early-service", ["origin=adopted", "phase=serving", "state_file=held"]),
    ] {
        status_has(boot, key, &pairs, claims);
    }
    let count = |key: &str| story::client_figure(boot, key, "count");
    let counts = count("adopted pulse").zip(count("recovered pulse"));
    claims.that(
        "it continues its count",
        counts.is_some_and(|(a, b)| b > a),
        format!("{counts:?}"),
    );
    claims.that("the machine is not reset", !boot.was_reset, "its watchdog fired");
    for unit in [story::FIRST, story::ROOT, "pulse-initrd.service"] {
        story::fails_never(boot, unit, claims);
    }
}
