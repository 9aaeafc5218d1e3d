// SPDX-License-Identifier: Apache-2.0
//! The commands of the README, typed into `nc` in the guest by root and by a stranger; and how to
//! see the initrd's lines if the initrd has its own machine ID.

use crate::claims::Claims;
use crate::machine::Boot;
use crate::plan::{Plan, Row};

pub(super) const PLANS: &[Plan] = &[Plan {
    name: "commands",
    shared_machine_id: false,
    in_initrd: r#"
        echo status | nc.openbsd -N -U "$PUBLIC" | tell initrd-public
        echo status | nc.openbsd -N -U "$FIRST" | tell initrd-private"#,
    in_root: r#"
        wait_until root_serves
        echo "set_counter 1000" | nc -N -U "$PUBLIC" | tell set
        echo "get_counter" | nc -N -U "$PUBLIC" | tell get
        printf 'get_counter\nset_counter 5\nget_counter\nnonsense\n' | nc -N -U "$PUBLIC" | tell four
        echo "status" | nc -N -U "$PUBLIC" | tell status
        as() { setpriv --reuid="$1" --regid="$2" --clear-groups nc -N -U "$PUBLIC"; }
        echo "get_counter" | as stranger stranger 2>&1 | tell stranger
        echo "get_counter" | as stranger early-service | tell member
        for line in get_counter_and_terminate pass_state_and_terminate "handoff 1"; do
            echo "$line" | as stranger early-service | tell member-ends
        done
        journalctl -q --merge -t early-service-initrd -o cat | tell merged
        wait_until first_is_gone"#,
    rows: &[
        Row { name: "nc as root, as a member, as a stranger", holds: commands },
        Row { name: "journalctl --merge shows the initrd's lines", holds: merged },
    ],
    ..Plan::ORDINARY
}];

fn commands(boot: &Boot, claims: &mut Claims) {
    let one = |key| boot.lines(key).next().unwrap_or_default();
    let number = |key| one(key).parse::<u64>().unwrap_or_default();
    for key in ["initrd-public", "initrd-private"] {
        claims.that(&format!("{key} answers"), one(key).contains("stage=initrd"), one(key));
    }
    claims.that("set_counter tells the old", one("set").starts_with("previous value "), one("set"));
    claims.that("get_counter goes on", (1000..1100).contains(&number("get")), one("get"));
    let four: Vec<_> = boot.lines("four").collect();
    let four_hold = four.len() == 4
        && four[1].starts_with("previous value ")
        && four[2].parse::<u64>().is_ok_and(|number| number < 10)
        && four[3].starts_with("Invalid command: nonsense");
    claims.that("four commands, four replies in order", four_hold, four.join(" | "));
    claims.that("status names the stage", one("status").contains("stage=root"), one("status"));
    let stranger = one("stranger");
    claims.that("a stranger is refused", stranger.contains("Permission denied"), stranger);
    claims.that("a member of the group is answered", number("member") > 0, one("member"));
    let ends: Vec<_> = boot.lines("member-ends").collect();
    let denied = ends == ["Permission denied"; 3];
    claims.that("a member cannot end it or have its state", denied, ends.join(" | "));
}

fn merged(boot: &Boot, claims: &mut Claims) {
    let numbers: Vec<u64> = boot.lines("merged").filter_map(|line| line.parse().ok()).collect();
    let from_0 = numbers.iter().copied().eq(0..numbers.len() as u64);
    claims.that("every number of the initrd is shown", from_0, format!("{numbers:?}"));
    claims.that("there are some", numbers.len() > 10, numbers.len());
}
