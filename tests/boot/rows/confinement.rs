// SPDX-License-Identifier: Apache-2.0
//! Confinement: what the root stage cannot do, tried from inside its sandbox.
//!
//! `tests/boot/guest/tries.pl` makes the attempts. systemd runs it by `ExecStartPost=`, with the
//! user, namespaces and filters of the service. A separate claim compares these with the service's.
//! The same attempts must succeed outside the sandbox; otherwise their failure inside proves
//! nothing.

use crate::claims::Claims;
use crate::machine::Boot;
use crate::plan::{Plan, Row};
use std::collections::BTreeMap;

pub(crate) const SOCKETS: &str = "root stage confined: opens no socket to a network";
pub(crate) const FILES: &str = "root stage confined: writes to its runtime directory alone";
pub(crate) const RIGHTS: &str = "root stage confined: gains no right";

/// Claims that depend on single lines of the unit.
pub(crate) const NO_NETWORK: &str = "no network socket is opened";
pub(crate) const READ_ONLY: &str = "the file system itself refuses";
pub(crate) const ONE_DIRECTORY: &str = "nothing can be written but the runtime directory";
pub(crate) const NO_CAPABILITY: &str = "the service has no capability, nor could have";

pub(super) const PLANS: &[Plan] = &[CONFINED];

/// [`crate::sabotage`] boots this plan too.
pub(crate) const CONFINED: Plan = Plan {
    name: "confined",
    is_long: true,
    over_disk: &[
        (
            "/etc/systemd/system/early-service.service.d/tries.conf",
            "[Service]\nExecStartPost=/boot-test/inside\nTimeoutStartSec=60\n",
        ),
        (
            "/boot-test/inside",
            r#"#!/bin/sh
. /boot-test/words.sh
cd /run/early-service
/boot-test/tries.pl sockets writes search rights gains > tries
walls self > walls
"#,
        ),
    ],
    // Another directory that anybody may write to, as on every ordinary system.
    off_disk: &["/etc/systemd/system/dev-mqueue.mount"],
    in_root: r#"
        wait_until root_serves && wait_until first_is_gone
        tell inside < /run/early-service/tries
        tell walls-inside < /run/early-service/walls
        walls "$(root_pid)" | tell walls
        id -u early-service | tell user
        /boot-test/tries.pl sockets writes rights | tell outside
        setpriv --reuid stranger --regid stranger --clear-groups \
            /boot-test/tries.pl search gains | tell outside-stranger"#,
    rows: &[
        Row { name: SOCKETS, holds: sockets },
        Row { name: FILES, holds: files },
        Row { name: RIGHTS, holds: rights },
        Row { name: "root stage confined: outside, every attempt succeeds", holds: outside },
    ],
    ..Plan::ORDINARY
};

/// The result of each attempt whose name begins with `kind`.
fn attempts<'a>(boot: &'a Boot, key: &'a str, kind: &str) -> BTreeMap<&'a str, &'a str> {
    let attempts = boot.lines(key).filter_map(|line| line.split_once('\t'));
    attempts.filter_map(|(what, result)| Some((what.strip_prefix(kind)?, result))).collect()
}

/// The filter killed the process that made the call.
const ENDED: &str = "signal 31";

fn sockets(boot: &Boot, claims: &mut Claims) {
    let mut families = attempts(boot, "inside", "socket AF_");
    let own = families.remove("UNIX");
    claims.that("its own kind of socket is opened", own == Some("done"), format!("{own:?}"));
    let refused = families.values().all(|&result| result == "EAFNOSUPPORT");
    claims.that(NO_NETWORK, families.len() == 4 && refused, format!("{families:?}"));
    let ring = attempts(boot, "inside", "call io_uring_setup");
    claims.that("nor by io_uring", ring.get("") == Some(&ENDED), format!("{ring:?}"));
    let interfaces = attempts(boot, "inside", "interface ");
    let one = interfaces.keys().eq(&["lo"]);
    claims.that("there is no network to be seen", one, format!("{interfaces:?}"));
}

fn files(boot: &Boot, claims: &mut Claims) {
    const OWN: &str = "/run/early-service";
    let mut created = attempts(boot, "inside", "create in ");
    let own = created.remove(OWN);
    claims.that("a file is created in its directory", own == Some("done"), format!("{own:?}"));
    let none = !created.is_empty() && created.values().all(|&result| result != "done");
    claims.that("and in no other", none, format!("{created:?}"));
    // Not only by the directory's mode, which an administrator could change by mistake.
    for directory in ["/usr", "/usr/bin", "/etc", "/var", "/var/tmp", "/tmp", "/run", "/boot"] {
        let result = created.get(directory);
        let claim = format!("{READ_ONLY}, in {directory}");
        claims.that(&claim, result == Some(&"EROFS"), format!("{result:?}"));
    }
    let opened = attempts(boot, "inside", "open ");
    let none = !opened.is_empty() && opened.values().all(|&result| result != "done");
    claims.that("no file of the system is opened for writing", none, format!("{opened:?}"));
    let writable: Vec<_> = attempts(boot, "inside", "writable ").into_keys().collect();
    let expected = [OWN, "/run/early-service/state", "/run/early-service/tries"];
    claims.that(ONE_DIRECTORY, writable == expected, writable.join(" "));
}

fn rights(boot: &Boot, claims: &mut Claims) {
    let calls = attempts(boot, "inside", "call ");
    for (call, expected) in [
        ("capset", ENDED),
        ("chroot", ENDED),
        ("mount", ENDED),
        ("setuid", ENDED),
        ("personality", "EPERM"),
        // Denied by a filter, or by the kernel itself if it can.
        ("mmap", "EPERM EACCES"),
    ] {
        let result = calls.get(call).copied().unwrap_or_default();
        let refused = !result.is_empty() && expected.contains(result);
        claims.that(&format!("{call} is refused"), refused, result);
    }
    let namespaces = attempts(boot, "inside", "unshare ");
    let refused = namespaces.len() == 3 && namespaces.values().all(|&result| result == "EPERM");
    claims.that("no namespace is made", refused, format!("{namespaces:?}"));
    let init = attempts(boot, "inside", "signal PID 1");
    claims.that("PID 1 gets no signal", init.get("") == Some(&"EPERM"), format!("{init:?}"));

    let user = boot.lines("user").next().unwrap_or_default();
    for program in ["setuid-cat", "capable-cat"] {
        let gained = attempts(boot, "inside", &format!("gain {program} "));
        let nothing = gained.get("user") == Some(&user)
            && gained.get("CapPrm").is_some_and(|set| is_empty(set))
            && gained.get("CapEff").is_some_and(|set| is_empty(set));
        claims.that(&format!("{program} gives nothing"), nothing, format!("{gained:?}"));
    }

    let (service, inside): (Vec<_>, Vec<_>) =
        (boot.lines("walls").collect(), boot.lines("walls-inside").collect());
    let odd = service.iter().find(|line| !inside.contains(line));
    let odd = odd.or_else(|| inside.iter().find(|line| !service.contains(line)));
    let same = service.len() > 20 && odd.is_none();
    claims.that("the service is held by the walls that were tried", same, format!("{odd:?}"));
    let field = |name: &str| {
        let line = service.iter().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.unwrap_or_default().split_whitespace().collect::<Vec<_>>()
    };
    let ids = field("Uid");
    let own = ids.len() == 4 && ids.iter().all(|id| *id == user) && user != "0";
    claims.that("it runs as its own user", own, format!("{ids:?}"));
    for name in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        let set = field(name);
        let none = set.len() == 1 && is_empty(set[0]);
        claims.that(&format!("{NO_CAPABILITY}: {name}"), none, format!("{set:?}"));
    }
    for (name, expected) in [("NoNewPrivs", "1"), ("Seccomp", "2")] {
        let value = field(name);
        claims.that(&format!("{name} is {expected}"), value == [expected], format!("{value:?}"));
    }
}

fn is_empty(set: &str) -> bool {
    u64::from_str_radix(set, 16) == Ok(0)
}

fn outside(boot: &Boot, claims: &mut Claims) {
    for kind in ["socket ", "create in ", "open ", "call ", "unshare ", "signal "] {
        let (inside, outside) = (attempts(boot, "inside", kind), attempts(boot, "outside", kind));
        let same = !inside.is_empty() && inside.keys().eq(outside.keys());
        claims.that("the same is tried", same, format!("{inside:?} {outside:?}"));
        let failed: Vec<_> = outside.iter().filter(|(_, result)| **result != "done").collect();
        claims.that("root can do it", failed.is_empty(), format!("{kind}{failed:?}"));
    }
    let gained = attempts(boot, "outside-stranger", "gain ");
    let user = gained.get("setuid-cat user");
    claims.that("set-user-ID makes a stranger root", user == Some(&"0"), format!("{gained:?}"));
    let set = gained.get("capable-cat CapEff");
    let all = set.is_some_and(|set| !is_empty(set));
    claims.that("file capabilities reach a stranger", all, format!("{gained:?}"));
    let found = attempts(boot, "outside-stranger", "writable ");
    for directory in ["/tmp", "/var/tmp", "/dev/shm", "/dev/mqueue"] {
        let is_found = found.contains_key(directory);
        claims.that("a stranger finds what can be written", is_found, directory);
    }
}
