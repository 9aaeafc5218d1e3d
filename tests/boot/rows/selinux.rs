// SPDX-License-Identifier: Apache-2.0
//! SELinux: boots with Debian's policy, which systemd loads on the root filesystem, when the first
//! stage and its sockets have been there for seconds.
//!
//! The policy denies nothing in silence here (see [`crate::guest`]), so the list is complete.

use crate::claims::Claims;
use crate::journal::Record;
use crate::machine::Boot;
use crate::plan::{Plan, Row};
use crate::rows::first_stage::BEFORE_START;
use crate::story;
use crate::ticks::{self, ticks};
use std::collections::BTreeSet;

/// What is denied of all that concerns us: to whom, on what, and what it was about to do.
///
/// The README explains each.
const DENIED: [&str; 2] =
    ["user_t tmpfs_t:sock_file { write }", "user_t kernel_t:unix_stream_socket { connectto }"];

pub(crate) const PLANS: &[Plan] = &[
    Plan {
        name: "selinux-permissive",
        // The kernel's log is the record: no line of it may be left out for there being many.
        security: "audit=1 security=selinux selinux=1 enforcing=0 sysctl.kernel.printk_ratelimit=0",
        rows: &[
            Row { name: "SELinux, permissive: what is denied is known", holds: denied },
            Row { name: "SELinux, permissive: both stages work", holds: permissive },
        ],
        ..LABELLED
    },
    Plan {
        name: "selinux-enforcing",
        security: "audit=1 security=selinux selinux=1 enforcing=1 sysctl.kernel.printk_ratelimit=0",
        rows: &[Row { name: "SELinux, enforcing: both stages work", holds: enforcing }],
        ..LABELLED
    },
];

const LABELLED: Plan = Plan {
    clients: &["boot-storm", "boot-sit"],
    over_disk: &[
        BEFORE_START,
        (
            "/boot-test/before-start",
            "#!/bin/sh\n. /boot-test/words.sh\ntell domain < \"/proc/$(first_pid)/attr/current\"\n",
        ),
    ],
    // The client that asks is a member of the group, and confined as an ordinary user is.
    in_root: r#"
        wait_until root_serves && wait_until first_is_gone && sleep 1
        tell domain < "/proc/$(root_pid)/attr/current"
        tell enforce < /sys/fs/selinux/enforce
        echo get_counter | setpriv --reuid=stranger --regid=early-service --clear-groups \
            runcon user_u:user_r:user_t:s0 nc -N -U "$PUBLIC" 2>&1 | tell confined
        sleep 1"#,
    ..Plan::ORDINARY
};

fn denied(boot: &Boot, claims: &mut Claims) {
    let denials = denials(boot);
    let known = BTreeSet::from(DENIED.map(str::to_owned));
    let unknown: Vec<_> = denials.difference(&known).map(String::as_str).collect();
    claims.that("nothing is denied that is not known", unknown.is_empty(), unknown.join(", "));
    let unseen: Vec<_> = known.difference(&denials).map(String::as_str).collect();
    claims.that("all that is known is seen", unseen.is_empty(), unseen.join(", "));
}

/// The denials of which a process of ours is the subject, or something of ours the object.
fn denials(boot: &Boot) -> BTreeSet<String> {
    let is_ours = |record: &&Record| record.identifier().starts_with("early-service");
    let ours = boot.journal.iter().filter(is_ours);
    let processes: BTreeSet<_> = ours.filter_map(|record| record.field("_PID")).collect();
    let denials = boot.journal.iter().map(Record::message).filter(|line| line.contains("avc:"));
    denials
        .filter(|line| {
            let ours = field(line, "pid=").is_some_and(|pid| processes.contains(pid));
            ours || line.contains("early-service")
        })
        .filter_map(|line| {
            let (_, rest) = line.split_once("denied  ")?;
            let (permissions, _) = rest.split_once(" for ")?;
            let (source, target) = (field(line, "scontext=")?, field(line, "tcontext=")?);
            let class = field(line, "tclass=")?;
            Some(format!("{} {}:{class} {permissions}", domain(source), domain(target)))
        })
        .collect()
}

fn field<'a>(line: &'a str, name: &str) -> Option<&'a str> {
    line.split([' ', '\'']).find_map(|word| word.strip_prefix(name))
}

/// The type of a context, which is all that Debian's policy looks at.
fn domain(context: &str) -> &str {
    context.split(':').nth(2).unwrap_or(context)
}

fn permissive(boot: &Boot, claims: &mut Claims) {
    works(boot, "0", claims);
    let reply = boot.lines("confined").next().unwrap_or_default();
    claims.that("a confined user is answered", reply.parse::<u64>().is_ok(), reply);
}

fn enforcing(boot: &Boot, claims: &mut Claims) {
    works(boot, "1", claims);
    let reply = boot.lines("confined").next().unwrap_or_default();
    claims.that("a confined user is refused", reply.contains("Permission denied"), reply);
}

fn works(boot: &Boot, enforce: &str, claims: &mut Claims) {
    let enforced: Vec<_> = boot.lines("enforce").collect();
    claims.that("the policy is loaded", enforced == [enforce], enforced.join(", "));
    let domains: Vec<_> =
        boot.lines("domain").map(|line| domain(line.trim_end_matches('\0'))).collect();
    let expected = ["kernel_t", "initrc_t"];
    claims.that("the domains of the stages", domains == expected, domains.join(", "));
    let ticks = ticks(boot);
    ticks::unbroken(&ticks, claims);
    ticks::in_rhythm(&ticks, claims);
    ticks::on_time(boot, &ticks, claims);
    story::first_stage_ends_well(boot, story::ADOPTED, claims);
    story::fails_never(boot, story::ROOT, claims);
    story::storm_is_never_refused(boot, 0, claims);
    story::sitter_loses_nothing(boot, claims);
}
