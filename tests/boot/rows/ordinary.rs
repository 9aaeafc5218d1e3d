// SPDX-License-Identifier: Apache-2.0
//! The ordinary boot: nothing fails, and clients watch from the initrd to power-off.

use crate::claims::Claims;
use crate::machine::Boot;
use crate::plan::{Plan, Row};
use crate::story;
use crate::ticks::{self, ticks};

pub(crate) const NUMBERS: &str = "ordinary boot: every number once, on its time";
pub(crate) const ENDS_WELL: &str = "ordinary boot: the first stage ends well";
pub(crate) const SPARED: &str = "ordinary boot: PID 1 spares the first stage";
pub(crate) const CLIENTS: &str = "ordinary boot: no client is refused, none loses an answer";
pub(crate) const NC: &str = "ordinary boot: nc sits through it all, half a line typed";

/// The claims of [`SPARED`]: one depends on the `@`, the other on how the switch of root is
/// noticed.
pub(crate) const NO_SIGTERM: &str = "no SIGTERM reaches the first stage";
pub(crate) const COMES_THROUGH: &str = "it comes through the switch";

pub(super) const PLANS: &[Plan] = &[ORDINARY];

/// [`crate::sabotage`] boots this plan too.
pub(crate) const ORDINARY: Plan = Plan {
    clients: &["boot-storm", "boot-sit", "boot-nc"],
    in_initrd: r#"
        note_first
        tell account-initrd < /etc/passwd; tell account-initrd < /etc/group
        stat -c '%U:%G %a' "$STATE" | tell state
        stat -c %i "$STATE" | tell state-inode
        type_into_nc 'status\nget_cou'; wait_until nc_shows 1"#,
    in_root: r#"
        wait_until root_serves && wait_until first_is_gone && sleep 2
        type_into_nc 'nter\nstatus\n'; wait_until nc_shows 3; tell nc < /run/boot-nc/out
        stat -c '%U:%G %a' "$STATE" | tell state
        stat -c %i "$STATE" | tell state-inode
        tell account-root < /etc/passwd; tell account-root < /etc/group
        systemctl show -P StatusText early-service.service | tell status
        journalctl --catalog --merge --no-pager --identifier=early-service \
            --identifier=early-service-initrd | grep -A 1 'Subject: ' | tell explained
        tell_left_of_first
        stat -c '%U:%G %a' /run/early-service /run/early-service/early-service.sock | tell owner
        for process in /proc/[0-9]*; do
            case $(cat "$process/comm") in early-service*) ;; *) continue ;; esac
            say process "$(cat "$process/comm")"
            [ "$(stat -Lc %d:%i "$process/root")" = "$(stat -c %d:%i /)" ] || say held root
            readlink "$process/cwd" "$process/exe" "$process"/fd/* | grep deleted | tell held
            grep deleted "$process/maps" | tell held
        done"#,
    rows: &[
        Row { name: NUMBERS, holds: numbers },
        Row { name: SPARED, holds: spared },
        Row { name: ENDS_WELL, holds: first_stage_ends_well },
        Row { name: CLIENTS, holds: clients },
        Row { name: NC, holds: nc },
        Row { name: "ordinary boot: one state file, for both stages to write", holds: state_file },
        Row { name: "ordinary boot: systemctl and journalctl tell its story", holds: told },
        Row { name: "ordinary boot: nothing of the initrd is held", holds: nothing_held },
        Row { name: "ordinary boot: one account in both stages", holds: one_account },
        Row { name: "ordinary boot: power-off within a second", holds: power_off },
    ],
    ..Plan::ORDINARY
};

fn numbers(boot: &Boot, claims: &mut Claims) {
    let ticks = ticks(boot);
    ticks::unbroken(&ticks, claims);
    ticks::in_rhythm(&ticks, claims);
    ticks::on_time(boot, &ticks, claims);
    if let Some(last) = ticks.last() {
        story::ticks_to_the_end(boot, last.actual, story::ROOT, claims);
    }
}

/// The first stage ignores SIGTERM, so it would survive without the `@` in its name too. Only the
/// missing signal shows the effect of the `@`.
fn spared(boot: &Boot, claims: &mut Claims) {
    let heard = story::of_stage(boot, "early-service-initrd", "SIGTERM");
    let seen = heard.first().map_or("", |record| record.message());
    claims.that(NO_SIGTERM, heard.is_empty(), seen);
    let followed = story::of_stage(boot, "early-service-initrd", "Followed PID 1").len();
    claims.that(COMES_THROUGH, followed == 1, followed);
}

fn first_stage_ends_well(boot: &Boot, claims: &mut Claims) {
    story::first_stage_ends_well(boot, story::ADOPTED, claims);
    story::fails_never(boot, story::ROOT, claims);
    story::nothing_left_of_first(boot, claims);
}

fn clients(boot: &Boot, claims: &mut Claims) {
    story::storm_is_never_refused(boot, 0, claims);
    story::sitter_loses_nothing(boot, claims);
    let owners: Vec<_> = boot.lines("owner").collect();
    let expected = ["early-service:early-service 755", "early-service:early-service 660"];
    claims.that("the socket ends up with its owner", owners == expected, owners.join(", "));
}

/// One connection: a command before the switch of root, half a command across it and the handoff,
/// and one afterwards.
fn nc(boot: &Boot, claims: &mut Claims) {
    let shown: Vec<_> = boot.lines("nc").collect();
    let [before, counter, after] = shown[..] else {
        return claims.that("three questions, three answers", false, shown.join(" | "));
    };
    let first = before.contains("stage=initrd") && before.contains("phase=serving");
    claims.that("the first stage answers", first, before);
    let root = after.contains("stage=root") && after.contains("phase=serving");
    claims.that("on the same connection the root stage answers", root, after);
    let number = |line: &str| {
        line.split(' ').find_map(|word| word.strip_prefix("counter="))?.parse::<u64>().ok()
    };
    let (asked, answered) = (counter.parse().ok(), number(after));
    let goes_on = asked.is_some() && number(before) < asked && asked <= answered;
    claims.that("half a line is kept, and its other half awaited", goes_on, shown.join(" | "));
    let ended = story::of_unit(boot, "boot-nc.service", "Deactivated successfully");
    let stopped = story::of_unit(boot, "boot-nc.service", "Stopping ");
    let sat = ended.len() == 1 && stopped.len() == 1 && stopped[0].at() <= ended[0].at();
    claims.that("nc ends at power-off, when it is told to", sat, ended.len());
}

fn state_file(boot: &Boot, claims: &mut Claims) {
    let owners: Vec<_> = boot.lines("state").collect();
    let expected = ["root:early-service 600", "early-service:early-service 600"];
    claims.that("its owner and its mode, in each stage", owners == expected, owners.join(", "));
    let inodes: Vec<_> = boot.lines("state-inode").collect();
    let same = inodes.len() == 2 && inodes[0] == inodes[1];
    claims.that("it is never replaced", same, inodes.join(", "));
}

/// What `systemctl status`, `status` and `journalctl --catalog` show.
fn told(boot: &Boot, claims: &mut Claims) {
    let shown: Vec<_> = boot.lines("nc").collect();
    let first = shown.first().and_then(|line| line.split(' ').find_map(|w| w.strip_prefix("pid=")));
    let first = first.unwrap_or_default();
    let after = shown.last().copied().unwrap_or_default();
    let origin = after.contains(&format!(" origin=adopted predecessor={first} serving_s="));
    claims.that("status names the first stage", origin, after);
    claims.that("and that a file keeps the state", after.contains(" state_file=held "), after);
    let status = boot.lines("status").next().unwrap_or_default();
    let sentence = format!("serving: adopted from process {first}; clients: ");
    claims.that("systemctl says so in a sentence", status.starts_with(&sentence), status);
    let explained: Vec<_> = boot.lines("explained").collect();
    for subject in [
        "The initrd stage survived the switch of root",
        "Early service adopted the state of its predecessor",
        "The successor has adopted the state",
    ] {
        let lines = explained.windows(2).filter(|pair| pair[0].ends_with(subject));
        let ours = lines.filter(|pair| pair[1].ends_with("Defined-By: early-service")).count();
        claims.that("journalctl explains once each", ours == 1, format!("{subject}: {ours}"));
    }
}

fn nothing_held(boot: &Boot, claims: &mut Claims) {
    let processes = boot.lines("process").count();
    claims.that("one process of ours is left", processes == 1, processes);
    let held: Vec<_> = boot.lines("held").collect();
    claims.that("it holds nothing of the initrd", held.is_empty(), held.join("; "));
}

fn one_account(boot: &Boot, claims: &mut Claims) {
    let ours = |key| -> Vec<&str> {
        boot.lines(key).filter(|line| line.starts_with("early-service:")).collect()
    };
    let (initrd, root) = (ours("account-initrd"), ours("account-root"));
    claims.that("the account is there", root.len() == 2, format!("{root:?}"));
    claims.that("the same numbers in both stages", initrd == root, format!("{initrd:?} {root:?}"));
}

fn power_off(boot: &Boot, claims: &mut Claims) {
    story::stops_within_a_second(boot, story::ROOT, claims);
}
