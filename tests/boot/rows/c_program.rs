// SPDX-License-Identifier: Apache-2.0
//! The unit files of the C programs, with our program.
//!
//! Both forms run the first stage as root, without an `@` and without the name of a successor. They
//! give the socket away with chown(1): its new owner may adopt. In the first form each stage has
//! its own socket. In the second form the root stage takes over the first stage's socket.

use crate::claims::Claims;
use crate::journal::Record;
use crate::machine::Boot;
use crate::plan::{Plan, Row};
use crate::story;
use crate::ticks::{self, ticks};

/// All directives of the first stage's files; they differ in `RuntimeDirectory=`.
macro_rules! first_unit {
    ($directory:literal) => {
        concat!(
            "[Unit]\n\
             Description=Example Early Service inside the Initial Ramdisk (initrd)\n\
             DefaultDependencies=no\n\
             Before=sysinit.target\n\
             IgnoreOnIsolate=yes\n\
             [Service]\n\
             User=root\n\
             Group=root\n\
             Type=exec\n\
             ExecStart=/usr/bin/early-service \
             --server_socket_path ${RUNTIME_DIRECTORY}/early-service.sock \
             --survive_systemd_kill_signal\n\
             ExecStartPost=/usr/bin/chown -R early-service:early-service ${RUNTIME_DIRECTORY}\n\
             SyslogIdentifier=early-service-initrd\n\
             UMask=0007\n\
             RuntimeDirectoryMode=0750\n",
            $directory,
            "[Install]\n\
             WantedBy=sysinit.target\n"
        )
    };
}

/// All directives of the root stage's files; they differ in how the predecessor is found.
macro_rules! root_unit {
    ($predecessor:literal) => {
        concat!(
            "[Unit]\n\
             Description=Example Early Service on the Root Filesystem\n\
             DefaultDependencies=no\n\
             Before=sysinit.target\n\
             IgnoreOnIsolate=yes\n\
             [Service]\n\
             User=early-service\n\
             Group=early-service\n\
             Type=exec\n\
             ExecStart=/usr/bin/early-service \
             --server_socket_path ${RUNTIME_DIRECTORY}/early-service.sock ",
            $predecessor,
            "\n\
             Restart=always\n\
             UMask=0007\n\
             RuntimeDirectory=early-service\n\
             RuntimeDirectoryMode=0750\n\
             StateDirectory=early-service\n\
             StateDirectoryMode=0755\n\
             [Install]\n\
             WantedBy=multi-user.target\n"
        )
    };
}

const FIRST_OF_TWO: &str = first_unit!("RuntimeDirectory=early-service-initrd\n");
const ROOT_OF_TWO: &str =
    root_unit!("--client_socket_path /run/early-service-initrd/early-service.sock");
const FIRST_OF_ONE: &str =
    first_unit!("RuntimeDirectory=early-service\nRuntimeDirectoryPreserve=yes\n");
const ROOT_OF_ONE: &str = root_unit!("--takeover_existing_socket");

const FIRST_UNIT: &str = "/usr/lib/systemd/system/early-service-initrd.service";
const ROOT_UNIT: &str = "/usr/lib/systemd/system/early-service.service";
/// Our dracut module adds this to the unit; the C programs' module does not.
const NO_DROP_IN: (&str, &str) =
    ("/usr/lib/systemd/system/early-service-initrd.service.d/50-initrd.conf", "");
/// Their dracut module enables the unit in this way.
const ENABLED: (&str, &str) = (
    "/etc/systemd/system/sysinit.target.d/enabled.conf",
    "[Unit]\nWants=early-service-initrd.service\n",
);
/// The C programs have no socket unit.
const NO_SOCKET_UNIT: &[&str] = &[
    "/usr/lib/systemd/system/early-service.socket",
    "/etc/systemd/system/sockets.target.wants/early-service.socket",
];

const TELL_STATUS: &str = r#"
    wait_until root_serves && wait_until first_is_gone && sleep 1
    echo status | nc -N -U "$PUBLIC" | tell status; sleep 1"#;

pub(crate) const GOES_ON: &str = "units of the C program, one socket: the count goes on";
pub(crate) const HANDS_OVER: &str = "the first stage hands over once";

/// [`crate::sabotage`] boots this plan too.
pub(crate) const ONE_SOCKET: Plan = Plan {
    name: "c-program-one-socket",
    clients: &["boot-storm"],
    in_initrd: r#"wait_until [ -S "$PUBLIC" ]; sleep 0.5; stat -c '%U %a' "$PUBLIC" | tell owner"#,
    in_root: TELL_STATUS,
    over_initrd: &[(FIRST_UNIT, FIRST_OF_ONE), NO_DROP_IN, ENABLED],
    over_disk: &[(FIRST_UNIT, FIRST_OF_ONE), (ROOT_UNIT, ROOT_OF_ONE)],
    off_disk: NO_SOCKET_UNIT,
    rows: &[
        Row { name: GOES_ON, holds: goes_on },
        Row {
            name: "units of the C program, one socket: no client is refused",
            holds: refuses_nobody,
        },
    ],
    ..Plan::ORDINARY
};

pub(super) const PLANS: &[Plan] = &[
    Plan {
        name: "c-program-two-sockets",
        in_initrd: r#"wait_until [ -S "$FIRST" ]; sleep 0.5; stat -c '%U %a' "$FIRST" | tell owner"#,
        in_root: TELL_STATUS,
        over_initrd: &[(FIRST_UNIT, FIRST_OF_TWO), NO_DROP_IN, ENABLED],
        over_disk: &[(FIRST_UNIT, FIRST_OF_TWO), (ROOT_UNIT, ROOT_OF_TWO)],
        off_disk: NO_SOCKET_UNIT,
        rows: &[Row {
            name: "units of the C program, a socket for each stage: the count goes on",
            holds: goes_on,
        }],
        ..Plan::ORDINARY
    },
    ONE_SOCKET,
];

fn goes_on(boot: &Boot, claims: &mut Claims) {
    let owner = boot.lines("owner").next().unwrap_or_default();
    claims.that("the socket is given away", owner == "early-service 770", owner);
    let ticks = ticks(boot);
    ticks::owned_by(&["initrd", "root"], &ticks, claims);
    ticks::unbroken(&ticks, claims);
    ticks::in_rhythm(&ticks, claims);
    ticks::on_time(boot, &ticks, claims);
    let refusals = story::of_stage(boot, "early-service", "Permission denied");
    let seen = refusals.first().map_or("", |record| record.message());
    claims.that("the successor is not refused", refusals.is_empty(), seen);
    let handed_over = story::of_stage(boot, "early-service-initrd", story::ADOPTED).len();
    claims.that(HANDS_OVER, handed_over == 1, handed_over);
    let ended = said_of(story::FIRST, boot, "Deactivated successfully").len();
    claims.that("the first stage ends once, with success", ended == 1, ended);
    for unit in [story::FIRST, story::ROOT] {
        for words in ["Failed", "code=", "Scheduled restart", "timed out"] {
            let complaints = said_of(unit, boot, words);
            let seen = complaints.first().copied().unwrap_or_default();
            claims.that(&format!("{unit} never comes to {words:?}"), complaints.is_empty(), seen);
        }
    }
    let status = boot.lines("status").next().unwrap_or_default();
    let adopted = status.contains("stage=root") && status.contains(" origin=adopted ");
    claims.that("the root stage answers, and says that it has adopted", adopted, status);
}

/// PID 1's lines about a unit. These units start before journald, so the first lines are in the
/// kernel's log, without fields.
fn said_of<'a>(unit: &str, boot: &'a Boot, words: &str) -> Vec<&'a str> {
    let of_systemd = boot.journal.iter().filter(|record| record.identifier() == "systemd");
    let messages = of_systemd.map(Record::message);
    messages.filter(|message| message.contains(unit) && message.contains(words)).collect()
}

fn refuses_nobody(boot: &Boot, claims: &mut Claims) {
    story::storm_is_never_refused(boot, 0, claims);
}
