// SPDX-License-Identifier: Apache-2.0
//! Members: what a member of the clients' group can and cannot do (docs/security.md).
//!
//! Needs root, to act as the service, its group and a member of it.

use std::fs::{self, Permissions};
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use early_service_machine::Counter;
use rustix::process::{Signal, geteuid};

use crate::stage::{for_everybody, is_locked, record};
use testkit::client::{get_counter, nc, nc_as, status, until_served};
use testkit::daemon::{Daemon, STILL, detach};
use testkit::scratch::Scratch;
use testkit::until;

const SERVICE: u32 = 997;
const MEMBER: [&str; 5] = ["setpriv", "--reuid=1001", "--regid=1001", "--groups=997", "--"];

/// A runtime directory as systemd makes it for the service.
fn runtime_directory(scratch: &Scratch) -> PathBuf {
    assert!(geteuid().is_root(), "this test needs root, to run as several users");
    let directory = scratch.join("run");
    fs::create_dir(&directory).expect("a directory");
    fs::set_permissions(&directory, Permissions::from_mode(0o755)).expect("our own");
    chown(&directory, Some(SERVICE), Some(SERVICE)).expect("we are root");
    directory
}

/// Starts the service as its own user, with the mask of its unit.
fn start(scratch: &Scratch, options: &[&str]) -> Daemon {
    let copy = scratch.join("early-service");
    let copy = if copy.exists() { copy } else { for_everybody(scratch) };
    let directory = scratch.join("run");
    let mut command = Command::new("setpriv");
    detach(&mut command);
    command.args([&format!("--reuid={SERVICE}"), &format!("--regid={SERVICE}"), "--clear-groups"]);
    command.args(["--", "sh", "-c", "umask 0117; exec \"$@\"", "sh"]).arg(copy);
    command.arg("-s").arg(directory.join("sock"));
    command.arg("--state-file").arg(directory.join("state")).args(STILL).args(options);
    let mut daemon = Daemon::spawn(&mut command);
    daemon.socket = directory.join("sock");
    daemon
}

fn serving(scratch: &Scratch) -> Daemon {
    let daemon = start(scratch, &[]);
    daemon.wait_for("Listening on");
    daemon
}

/// Whether a member's shell can run `script` on `file`.
fn may(script: &str, file: &Path) -> bool {
    let mut command = Command::new(MEMBER[0]);
    command.args(&MEMBER[1..]).args(["sh", "-c", script, "sh"]).arg(file);
    let status = command.stdout(Stdio::null()).stderr(Stdio::null()).status();
    status.expect("setpriv (util-linux) runs").success()
}

fn end(mut daemon: Daemon) {
    daemon.signal(Signal::KILL);
    daemon.ended();
}

#[test]
fn a_member_may_ask_and_set_and_nothing_else() {
    let scratch = Scratch::new();
    let directory = runtime_directory(&scratch);
    let mut daemon = serving(&scratch);
    let (socket, state) = (directory.join("sock"), directory.join("state"));
    let ask = |line: &str| nc_as(&MEMBER, &socket, format!("{line}\n"));
    assert_eq!(ask("set_counter 777"), "previous value 0\n");
    assert_eq!(ask("get_counter"), "777\n");
    assert!(ask("status").starts_with("stage="));
    for line in ["handoff 1", "get_counter_and_terminate", "pass_state_and_terminate"] {
        assert_eq!(ask(line), "Permission denied\n", "{line}");
    }
    for (what, script) in [
        ("read the state file", "exec cat \"$1\""),
        ("write the state file", "exec 3>>\"$1\""),
        ("lock the state file", "exec 3<\"$1\" && flock --nonblock 3"),
        ("remove the state file", "exec rm -f -- \"$1\""),
        ("replace the state file", "true >\"$1.mine\" && mv -f -- \"$1.mine\" \"$1\""),
    ] {
        assert!(!may(script, &state), "a member may {what}");
    }
    assert!(!may("exec rm -f -- \"$1\"", &socket), "a member may remove the socket");
    assert!(!may("kill -TERM \"$1\"", Path::new(&daemon.pid().to_string())));
    // Acknowledged commands survive the owner, whatever a member did.
    assert!(daemon.is_running());
    end(daemon);
    let next = serving(&scratch);
    assert_eq!(get_counter(&next.socket), 777);
}

/// The file as release 0.1.0 made it: open to the group. A member has it open.
#[test]
fn a_file_that_members_have_open_is_replaced_and_its_state_kept() {
    let scratch = Scratch::new();
    let state = runtime_directory(&scratch).join("state");
    let daemon = serving(&scratch);
    nc(&daemon.socket, "set_counter 777\n");
    end(daemon);
    fs::set_permissions(&state, Permissions::from_mode(0o660)).expect("we are root");
    let mut command = Command::new(MEMBER[0]);
    let script = "exec 3<>\"$1\"; echo open; read line; echo forged >&3; flock 3; exec sleep 60";
    command.args(&MEMBER[1..]).args(["sh", "-c", script, "sh"]).arg(&state);
    let mut member = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("setpriv");
    let mut opened = [0; 5];
    let stdout = member.stdout.as_mut().expect("a pipe");
    std::io::Read::read_exact(stdout, &mut opened).expect("it has the file open");
    let before = fs::metadata(&state).expect("a file").ino();

    let daemon = serving(&scratch);
    assert_eq!(get_counter(&daemon.socket), 777);
    let file = fs::metadata(&state).expect("a file");
    assert_eq!((file.mode() & 0o7777, file.uid()), (0o600, SERVICE));
    assert_ne!(file.ino(), before, "the member's descriptor is on a file that nobody uses");
    assert!(is_locked(&state));
    member.stdin.as_mut().expect("a pipe").write_all(b"go\n").expect("it reads");
    nc(&daemon.socket, "set_counter 778\n");
    end(daemon);
    assert_eq!(record(&state).snapshot.state, Counter { next: 778 });
    let next = serving(&scratch);
    assert_eq!(get_counter(&next.socket), 778);
    assert_eq!(scratch_names(&state), ["sock", "state"], "nothing is left beside it");
    member.kill().expect("our own child");
    member.wait().expect("our own child");
}

fn scratch_names(state: &Path) -> Vec<String> {
    let directory = fs::read_dir(state.parent().expect("a directory")).expect("a directory");
    let name = |entry: std::io::Result<fs::DirEntry>| entry.expect("an entry").file_name();
    let mut names: Vec<_> =
        directory.map(|entry| name(entry).to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

#[test]
fn a_record_of_a_stranger_is_not_believed() {
    let scratch = Scratch::new();
    let state = runtime_directory(&scratch).join("state");
    let daemon = serving(&scratch);
    nc(&daemon.socket, "set_counter 666\n");
    end(daemon);
    chown(&state, Some(1001), None).expect("we are root");
    fs::set_permissions(&state, Permissions::from_mode(0o666)).expect("we are root");
    let daemon = serving(&scratch);
    let said = format!("cannot use state file {}: it belongs to user 1001", state.display());
    daemon.wait_for(&said);
    assert_eq!(get_counter(&daemon.socket), 0);
    assert_eq!(status(&daemon.socket, "state_file"), "none");
    end(daemon);
    // The user of `--successor` is trusted: a first stage continues from the second stage's file.
    let options = ["--successor", "1001"];
    let next = start(&scratch, &options);
    next.wait_for("Listening on");
    assert_eq!(get_counter(&next.socket), 666);
}

/// The first stage is root, and systemd gives its file to the user of the second.
#[test]
fn the_file_of_either_stage_serves_the_other_and_stays_private() {
    let scratch = Scratch::new();
    let directory = runtime_directory(&scratch);
    let state = directory.join("state");
    let options = ["--state-file", state.to_str().expect("text"), STILL[0], STILL[1]];
    let first = Daemon::serve(scratch.join("first"), &options);
    nc(&first.socket, "set_counter 137\n");
    assert_eq!(fs::metadata(&state).expect("a file").mode() & 0o7777, 0o600);
    chown(&state, Some(SERVICE), Some(SERVICE)).expect("we are root");
    let second = start(&scratch, &[]);
    second.wait_for("is locked by another process");
    end(first);
    until_served(&second.socket);
    until("its state", || get_counter(&second.socket) == 137);
    let file = fs::metadata(&state).expect("a file");
    assert_eq!((file.mode() & 0o7777, file.uid()), (0o600, SERVICE));
    nc(&second.socket, "set_counter 138\n");
    end(second);
    let successor = SERVICE.to_string();
    let options = [&options[..], &["--successor", &successor]].concat();
    let first = Daemon::serve(scratch.join("first"), &options);
    assert_eq!(get_counter(&first.socket), 138);
    assert_eq!(fs::metadata(&state).expect("a file").mode() & 0o7777, 0o600);
}

/// The predecessor is release 0.1.0, whose file is open to the group.
#[test]
fn a_file_open_to_members_is_replaced_after_a_handoff_too() {
    let scratch = Scratch::new();
    let state = runtime_directory(&scratch).join("state");
    let predecessor = serving(&scratch);
    nc(&predecessor.socket, "set_counter 777\n");
    fs::set_permissions(&state, Permissions::from_mode(0o660)).expect("we are root");
    let member = fs::File::options().read(true).write(true).open(&state).expect("a state file");
    let before = fs::metadata(&state).expect("a file").ino();
    let successor = start(&scratch, &["--takeover-existing-socket"]);
    successor.wait_for("=> serving");
    until("another file", || fs::metadata(&state).expect("a file").ino() != before);
    let file = fs::metadata(&state).expect("a file");
    assert_eq!((file.mode() & 0o7777, file.uid()), (0o600, SERVICE));
    assert!(is_locked(&state));
    (&member).write_all(b"forged").expect("its own descriptor");
    assert_eq!(record(&state).snapshot.state, Counter { next: 777 });
    nc(&successor.socket, "set_counter 778\n");
    end(successor);
    let next = serving(&scratch);
    assert_eq!(get_counter(&next.socket), 778);
}
