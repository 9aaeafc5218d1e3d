// SPDX-License-Identifier: Apache-2.0
//! Users: the user of `--successor`, wherever the account is defined and whenever it appears.
//!
//! Each test gives the daemon its own accounts in a mount namespace, and therefore needs root.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use rustix::process::geteuid;

use testkit::client::nc_as;
use testkit::daemon::{Daemon, STILL, program};
use testkit::scratch::Scratch;
use testkit::starting::detach;

const UNKNOWN: &str = "There is no user \"latecomer\", whom --successor names: looking again";

/// Starts the daemon with the test's own `/etc/passwd` and an empty `/run`; `latecomer` is its
/// successor.
fn start(scratch: &Scratch, passwd: &str) -> Daemon {
    assert!(geteuid().is_root(), "this test needs root, to mount and to be several users");
    const OWN: &str = r#"
        mount --bind "$1" /etc/passwd
        mount -t tmpfs tmpfs /run && mkdir /run/userdb
        shift; exec "$@""#;
    fs::write(scratch.join("passwd"), passwd).expect("our own");
    let mut command = Command::new("unshare");
    detach(&mut command);
    command.args(["--mount", "--propagation", "private", "sh", "-euc", OWN, "sh"]);
    command.arg(scratch.join("passwd")).arg(program().get_program());
    command.arg("-s").arg(scratch.join("sock")).args(STILL).args(["--successor", "latecomer"]);
    let mut daemon = Daemon::spawn(&mut command);
    daemon.wait_for("Listening on");
    daemon.socket = scratch.join("sock");
    fs::set_permissions(&daemon.socket, Permissions::from_mode(0o777)).expect("we are root");
    daemon
}

fn ask(daemon: &Daemon) -> String {
    let asker = ["setpriv", "--reuid=4711", "--clear-groups"];
    nc_as(&asker, &daemon.socket, "get_counter_and_terminate\n")
}

#[test]
fn an_unknown_successor_is_reported_and_looked_up_later() {
    let scratch = Scratch::new();
    let mut daemon = start(&scratch, "root:x:0:0::/:/bin/sh\n");
    daemon.wait_for(UNKNOWN);
    assert_eq!(ask(&daemon), "Permission denied\n");
    // Into the same file, because that file is mounted.
    fs::write(scratch.join("passwd"), "latecomer:x:4711:4711::/:/bin/false\n").expect("our own");
    assert_eq!(ask(&daemon), "0\n");
    assert!(daemon.ended().0.success());
}

#[test]
fn a_successor_that_only_a_user_record_knows_may_ask() {
    let scratch = Scratch::new();
    let mut daemon = start(&scratch, "root:x:0:0::/:/bin/sh\n");
    let record = format!("/proc/{}/root/run/userdb/latecomer.user", daemon.pid());
    fs::write(record, r#"{ "userName": "latecomer", "uid": 4711, "gid": 4711 }"#).expect("/run");
    assert_eq!(ask(&daemon), "0\n");
    assert!(daemon.ended().0.success());
}

#[test]
fn a_successor_removed_from_the_lists_keeps_its_number() {
    let scratch = Scratch::new();
    let mut daemon = start(&scratch, "latecomer:x:4711:4711:\u{fffd}:/:/bin/false\n");
    fs::write(scratch.join("passwd"), "root:x:0:0::/:/bin/sh\n").expect("our own");
    let named = daemon.messages().iter().any(|line| line.contains("There is no user"));
    assert!(!named, "{:?}", daemon.messages());
    assert_eq!(ask(&daemon), "0\n");
    assert!(daemon.ended().0.success());
}

#[test]
fn a_successor_whose_number_has_changed_has_the_new_one() {
    let scratch = Scratch::new();
    let daemon = start(&scratch, "latecomer:x:4711:4711::/:/bin/false\n");
    fs::write(scratch.join("passwd"), "latecomer:x:4712:4712::/:/bin/false\n").expect("our own");
    assert_eq!(ask(&daemon), "Permission denied\n");
}
