// SPDX-License-Identifier: Apache-2.0
//! SELinux: boots with Debian's policy. systemd loads it on the root filesystem, when the first
//! stage and its sockets have existed for seconds.
//!
//! The policy logs all denials here (see [`crate::guest`]), so the list is complete.

use crate::claims::Claims;
use crate::guest::PolicyModule;
use crate::journal::Record;
use crate::machine::Boot;
use crate::plan::{Plan, Row};
use crate::rows::first_stage::BEFORE_START;
use crate::story;
use crate::ticks::{self, ticks};
use std::collections::{BTreeMap, BTreeSet};

/// Denials that concern us: the subject, the object and the permission.
///
/// The README explains each one.
const DENIED: [&str; 2] =
    ["user_t kernel_t:unix_stream_socket { connectto }", "user_t tmpfs_t:sock_file { write }"];

// The denials are in the kernel's log, which must not drop lines because of their rate.
const PERMISSIVE: &str =
    "audit=1 security=selinux selinux=1 enforcing=0 sysctl.kernel.printk_ratelimit=0";
const ENFORCING: &str =
    "audit=1 security=selinux selinux=1 enforcing=1 sysctl.kernel.printk_ratelimit=0";

pub(crate) const PLANS: &[(PolicyModule, Plan)] = &[
    (
        PolicyModule::None,
        Plan {
            name: "selinux-permissive",
            security: PERMISSIVE,
            rows: &[
                Row { name: "SELinux, permissive: what is denied is known", holds: denied },
                Row { name: "SELinux, permissive: both stages work", holds: permissive },
            ],
            ..LABELLED
        },
    ),
    (
        PolicyModule::None,
        Plan {
            name: "selinux-enforcing",
            security: ENFORCING,
            rows: &[Row { name: "SELinux, enforcing: both stages work", holds: enforcing }],
            ..LABELLED
        },
    ),
    (
        PolicyModule::Ours,
        Plan {
            name: "selinux-confined",
            security: ENFORCING,
            over_disk: &[
                BEFORE_START,
                DOMAIN,
                (
                    "/etc/systemd/system/early-service.service.d/rebind.conf",
                    "[Service]\nExecStart=\nExecStart=/usr/bin/early-service --rebind \
                     --server-socket-path /run/early-service/early-service.sock \
                     --client-socket-path /run/early-service-initrd/early-service.sock \
                     --state-file /run/early-service/state\n",
                ),
            ],
            rows: &[
                Row {
                    name: "SELinux, confined by conf/selinux: nothing is denied",
                    holds: nothing,
                },
                Row {
                    name: "SELinux, confined by conf/selinux: both stages work",
                    holds: confined,
                },
                Row { name: "SELinux, --rebind: the public socket has its label", holds: rebound },
            ],
            ..LABELLED
        },
    ),
];

/// The domain in which the first stage was started.
const DOMAIN: (&str, &str) = (
    "/boot-test/before-start",
    "#!/bin/sh\n. /boot-test/words.sh\ntell domain < \"/proc/$(first_pid)/attr/current\"\n",
);

const LABELLED: Plan = Plan {
    clients: &["boot-storm", "boot-sit"],
    over_disk: &[BEFORE_START, DOMAIN],
    // A policy that logs every denial makes a boot take twice as long, or much longer on a busy
    // host.
    is_long: true,
    // The client is a member of the group, and confined like an ordinary user.
    in_root: r#"
        wait_until root_serves && wait_until first_is_gone && sleep 1
        tell domain < "/proc/$(root_pid)/attr/current"
        tell enforce < /sys/fs/selinux/enforce
        echo get_counter | setpriv --reuid=stranger --regid=early-service --clear-groups \
            runcon user_u:user_r:user_t:s0 nc -N -U "$PUBLIC" 2>&1 | tell confined
        stat -c %C "$PUBLIC" | tell label-of-file
        perl -MSocket -e 'socket my $socket, AF_UNIX, SOCK_STREAM, 0 or die $!;
            connect $socket, sockaddr_un($ARGV[0]) or die $!;
            print getsockopt $socket, SOL_SOCKET, 31' "$PUBLIC" | tell label-of-socket # SO_PEERSEC
        before=$(root_pid)
        systemctl reload early-service.service; say reload "$? $(
            [ "$(root_pid)" = "$before" ] || tr -d '\0' < "/proc/$(root_pid)/attr/current")"
        sleep 1"#,
    ..Plan::ORDINARY
};

fn denied(boot: &Boot, claims: &mut Claims) {
    exactly(&DENIED, boot, claims);
}

fn nothing(boot: &Boot, claims: &mut Claims) {
    exactly(&[], boot, claims);
}

fn exactly(known: &[&str], boot: &Boot, claims: &mut Claims) {
    let denials = denials(boot);
    let denials: BTreeSet<_> = denials.iter().map(String::as_str).collect();
    let known = known.iter().copied().collect();
    let unknown: Vec<_> = denials.difference(&known).copied().collect();
    claims.that("nothing is denied that is not known", unknown.is_empty(), unknown.join(", "));
    let unseen: Vec<_> = known.difference(&denials).copied().collect();
    claims.that("all that is known is seen", unseen.is_empty(), unseen.join(", "));
}

/// The denials whose subject is one of our processes, or whose object is one of ours.
fn denials(boot: &Boot) -> Vec<String> {
    let is_ours = |record: &&Record| record.identifier().starts_with("early-service");
    let ours = boot.journal.iter().filter(is_ours);
    let processes: BTreeSet<_> = ours.filter_map(|record| record.field("_PID")).collect();
    let lines = boot.journal.iter().map(Record::message).filter(|line| line.contains("avc:"));
    let mut denials: BTreeMap<String, BTreeSet<&str>> = BTreeMap::new();
    for line in lines {
        let of_ours = field(line, "pid=").is_some_and(|pid| processes.contains(pid));
        let on_ours = ["early-service", "early_service_t"].iter().any(|name| line.contains(name));
        if let (true, Some((what, permissions))) = (of_ours || on_ours, denial(line)) {
            denials.entry(what).or_default().extend(permissions);
        }
    }
    let text = |(what, permissions): (String, BTreeSet<&str>)| {
        let permissions: Vec<_> = permissions.into_iter().collect();
        format!("{what} {{ {} }}", permissions.join(" "))
    };
    denials.into_iter().map(text).collect()
}

/// The subject, object and permissions of a denial.
fn denial(line: &str) -> Option<(String, impl Iterator<Item = &str>)> {
    let (_, rest) = line.split_once("denied  { ")?;
    let (permissions, _) = rest.split_once(" }")?;
    let (source, target) = (field(line, "scontext=")?, field(line, "tcontext=")?);
    let class = field(line, "tclass=")?;
    let what = format!("{} {}:{class}", domain(source), domain(target));
    Some((what, permissions.split(' ')))
}

fn field<'a>(line: &'a str, name: &str) -> Option<&'a str> {
    line.split([' ', '\'']).find_map(|word| word.strip_prefix(name))
}

/// The type of a context; Debian's policy uses nothing else.
fn domain(context: &str) -> &str {
    context.split(':').nth(2).unwrap_or(context)
}

fn permissive(boot: &Boot, claims: &mut Claims) {
    works(boot, "0", "initrc_t", claims);
    let reply = boot.lines("confined").next().unwrap_or_default();
    claims.that("a confined user is answered", reply.parse::<u64>().is_ok(), reply);
}

fn enforcing(boot: &Boot, claims: &mut Claims) {
    works(boot, "1", "initrc_t", claims);
    let reply = boot.lines("confined").next().unwrap_or_default();
    let refused = reply.starts_with("nc: ") && reply.ends_with("Permission denied");
    claims.that("a confined user is refused", refused, reply);
}

fn confined(boot: &Boot, claims: &mut Claims) {
    works(boot, "1", "early_service_t", claims);
    let reply = boot.lines("confined").next().unwrap_or_default();
    claims.that("a confined client is answered", reply.parse::<u64>().is_ok(), reply);
}

/// The file, and the peer that a client sees.
fn rebound(boot: &Boot, claims: &mut Claims) {
    for (key, expected) in
        [("label-of-file", "early_service_runtime_t"), ("label-of-socket", "early_service_t")]
    {
        let label = boot.lines(key).next().map(|line| domain(line.trim_end_matches('\0')));
        claims.that(key, label == Some(expected), label.unwrap_or_default());
    }
}

fn works(boot: &Boot, enforce: &str, root_stage: &str, claims: &mut Claims) {
    let enforced: Vec<_> = boot.lines("enforce").collect();
    claims.that("the policy is loaded", enforced == [enforce], enforced.join(", "));
    let domains: Vec<_> =
        boot.lines("domain").map(|line| domain(line.trim_end_matches('\0'))).collect();
    let expected = ["kernel_t", root_stage];
    claims.that("the domains of the stages", domains == expected, domains.join(", "));
    let reload = boot.lines("reload").next().unwrap_or("nothing");
    let is_same = reload.starts_with("0 ") && domain(reload) == root_stage;
    claims.that("a reload leads to the same domain", is_same, reload);
    let ticks = ticks(boot);
    ticks::unbroken(&ticks, claims);
    ticks::in_rhythm(&ticks, claims);
    ticks::on_time(boot, &ticks, claims);
    story::first_stage_ends_well(boot, story::ADOPTED, claims);
    story::fails_never(boot, story::ROOT, claims);
    story::storm_is_never_refused(boot, 0, claims);
    story::sitter_loses_nothing(boot, claims);
}
