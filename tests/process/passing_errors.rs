// SPDX-License-Identifier: Apache-2.0
//! Passing errors: a system call that fails for a moment causes no second owner and no lost state.
//!
//! strace(1) makes the calls on one file fail.

use std::ffi::OsString;
use std::fs::{self, Permissions};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::Command;

use early_service_machine::Counter;
use early_service_machine::record::BootId;
use rustix::process::Signal;

use crate::stage::{record, serve, state_file, succeed};
use crate::wire::Wire;
use testkit::client::{Client, get_counter, nc, status};
use testkit::daemon::{Daemon, STILL, binary, detach};
use testkit::scratch::Scratch;
use testkit::until;

const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// Errors that a call may return for a moment.
const ERRORS: [&str; 6] = ["ENOLCK", "ENOMEM", "ENFILE", "EMFILE", "EIO", "EINTR"];

/// Every call on the state file or the boot ID with which a start obtains the lock and the state.
const CALLS: [(&str, bool); 6] = [
    ("openat", false),
    ("openat", true),
    ("fstat,newfstatat", false),
    ("stat,statx,newfstatat", false),
    ("flock", false),
    ("pread64", false),
];

/// Starts the program with an injected error: `call` on `path` fails as `how` says.
fn start_with(scratch: &Scratch, socket: &str, path: &Path, call: &str, how: &str) -> Daemon {
    let mut command = Command::new("strace");
    detach(&mut command);
    // With -D the process that is started is the daemon.
    command.args(["-D", "-f", "-qq", "-o", "/dev/null", "-P"]).arg(path);
    let mut inject = OsString::from(format!("inject={call}:"));
    inject.push(how);
    command.arg("-e").arg(inject).arg(binary()).args(STILL);
    command.arg("-s").arg(scratch.join(socket)).arg("--state-file").arg(state_file(scratch));
    let mut daemon = Daemon::spawn(&mut command);
    daemon.socket = scratch.join(socket);
    daemon
}

/// Every case: a name for it, the file, the call and the injection.
fn cases(scratch: &Scratch) -> impl Iterator<Item = (std::path::PathBuf, &'static str, String)> {
    let file = state_file(scratch);
    CALLS.into_iter().flat_map(move |(call, is_boot_id)| {
        let path = if is_boot_id { BOOT_ID.into() } else { file.clone() };
        ERRORS.into_iter().map(move |error| (path.clone(), call, format!("error={error}:when=1")))
    })
}

#[test]
fn an_error_of_a_moment_makes_no_second_owner() {
    let scratch = Scratch::new();
    let mut owner = serve(&scratch, "owner", &STILL);
    nc(&owner.socket, "set_counter 5000\n");
    let others: Vec<_> = cases(&scratch)
        .enumerate()
        .map(|(number, (path, call, how))| {
            let case = format!("{call} on {}: {how}", path.display());
            (start_with(&scratch, &format!("other{number}"), &path, call, &how), case)
        })
        .collect();
    for (other, case) in &others {
        let said = other.wait_until(case, |lines| {
            let end =
                |line: &str| line.contains("is locked by another") || line.contains("serving");
            lines.iter().find(|line| end(&line.message)).map(|line| line.message.clone())
        });
        assert!(said.contains("is locked by another process"), "{case}: {said}");
    }
    owner.signal(Signal::KILL);
    owner.ended();
    // Each one continues from the last acknowledged state.
    let mut left = others;
    while !left.is_empty() {
        let mut found = None;
        until("the next owner", || {
            found = left.iter().position(|(other, _)| {
                other.messages().iter().any(|line| line.contains("=> serving"))
            });
            found.is_some()
        });
        let (mut next, case) = left.swap_remove(found.expect("waited for"));
        assert_eq!(get_counter(&next.socket), 5000, "{case}");
        let is_serving =
            |other: &Daemon| other.messages().iter().any(|line| line.contains("=> serving"));
        assert!(!left.iter().any(|(other, _)| is_serving(other)), "{case}: not alone");
        next.signal(Signal::KILL);
        next.ended();
    }
}

#[test]
fn an_error_of_a_moment_at_a_start_loses_no_state() {
    for (path, call, how) in cases(&Scratch::new()) {
        let scratch = Scratch::new();
        let path = if path == Path::new(BOOT_ID) { path } else { state_file(&scratch) };
        let case = format!("{call} on {}: {how}", path.display());
        let mut dead = serve(&scratch, "sock", &STILL);
        nc(&dead.socket, "set_counter 5000\n");
        dead.signal(Signal::KILL);
        dead.ended();
        let next = start_with(&scratch, "sock", &path, call, &how);
        next.wait_for("=> serving");
        next.wait_for("Listening on");
        assert_eq!(get_counter(&next.socket), 5000, "{case}");
        let hidden = next.messages().iter().any(|line| line.contains("will not outlive us"));
        assert!(!hidden, "{case}: {:?}", next.messages());
    }
}

#[test]
fn a_lasting_error_is_logged_once_and_does_not_block_the_end() {
    for (call, is_boot_id) in CALLS {
        let scratch = Scratch::new();
        drop(serve(&scratch, "sock", &STILL));
        let path = if is_boot_id { BOOT_ID.into() } else { state_file(&scratch) };
        let mut daemon = start_with(&scratch, "sock", &path, call, "error=ENOMEM");
        daemon.wait_for(": trying again");
        let wait = testkit::now() + 300_000_000;
        until("some tries", || testkit::now() > wait);
        let said = daemon.messages();
        let tries = said.iter().filter(|line| line.contains("trying again")).count();
        assert_eq!(tries, 1, "{call}: {said:?}");
        assert!(!said.iter().any(|line| line.contains("serving")), "{call}: {said:?}");
        daemon.signal(Signal::TERM);
        assert!(daemon.ended().0.success(), "{call}");
        assert_eq!(scratch.names(), ["state"], "{call}");
    }
}

/// The successor owned, changed the state and died; the predecessor cannot read the file at first.
#[test]
fn a_state_unreadable_for_a_moment_is_not_replaced() {
    for error in ERRORS {
        let scratch = Scratch::new();
        // The start reads twice. The third read takes the state back.
        let how = format!("error={error}:when=3");
        let daemon = start_with(&scratch, "sock", &state_file(&scratch), "pread64", &how);
        daemon.wait_for("Listening on");
        let mut client = Client::connect(&daemon.socket);
        assert_eq!(client.ask("set_counter 137"), "previous value 0");
        let mut successor = Wire::ask(&daemon.socket, "handoff 1");
        let _offer = successor.offer();
        successor.say("prepared");
        assert_eq!(successor.line(), "commit");
        let mut owned = record(&state_file(&scratch));
        owned.sequence += 1;
        owned.snapshot.state = Counter { next: 777 };
        let boot = fs::read(BOOT_ID).expect("Linux");
        let boot = BootId::parse(boot.trim_ascii_end()).expect("a boot id");
        let file = fs::File::options().write(true).open(state_file(&scratch));
        file.expect("our own").write_all_at(&owned.encode(&boot), 0).expect("room");
        drop((successor, _offer));
        daemon.wait_for("serving on");
        assert_eq!(client.ask("get_counter"), "777", "{error}");
    }
}

/// A member may have the file of release 0.1.0 open, until it is replaced.
#[test]
fn an_open_file_is_replaced_despite_a_passing_error() {
    for call in ["openat", "rename,renameat,renameat2"] {
        for error in ["ENFILE", "ENOMEM", "EIO"] {
            let scratch = Scratch::new();
            let file = state_file(&scratch);
            let mut dead = serve(&scratch, "sock", &STILL);
            nc(&dead.socket, "set_counter 5000\n");
            dead.signal(Signal::KILL);
            dead.ended();
            fs::set_permissions(&file, Permissions::from_mode(0o660)).expect("our own");
            let before = fs::metadata(&file).expect("a file").ino();
            let fresh = file.with_file_name("state.new");
            let how = format!("error={error}:when=1");
            let next = start_with(&scratch, "sock", &fresh, call, &how);
            next.wait_for("Listening on");
            assert_ne!(fs::metadata(&file).expect("a file").ino(), before, "{call}: {error}");
            assert_eq!(get_counter(&next.socket), 5000, "{call}: {error}");
        }
    }
}

/// If the state file cannot be written, the next owner does not continue from an older state.
#[test]
fn the_offer_counts_and_not_the_file_that_had_no_room() {
    for dies in [false, true] {
        let scratch = Scratch::new();
        let mut dead = serve(&scratch, "sock", &STILL);
        nc(&dead.socket, "set_counter 11\n");
        dead.signal(Signal::KILL);
        dead.ended();
        let file = state_file(&scratch);
        let daemon = start_with(&scratch, "sock", &file, "pwrite64", "error=ENOSPC");
        daemon.wait_for("Listening on");
        let mut client = Client::connect(&daemon.socket);
        assert_eq!(client.ask("set_counter 777"), "previous value 11");
        assert_eq!(status(&daemon.socket, "state_file"), "failing");
        if dies {
            // The successor dies, and the predecessor takes the state back.
            let mut successor = Wire::ask(&daemon.socket, "handoff 1");
            let offer = successor.offer();
            successor.say("prepared");
            assert_eq!(successor.line(), "commit");
            drop((successor, offer));
            daemon.wait_for("serving on");
            assert_eq!(client.ask("get_counter"), "777");
        } else {
            let successor = succeed(&scratch, "next", &daemon.socket, &STILL);
            successor.wait_for("=> serving");
            assert_eq!(client.ask("get_counter"), "777");
            until("the record", || record(&file).snapshot.state == Counter { next: 777 });
        }
    }
}

/// An error of the connection must not count as its end, or both processes would own the state.
#[test]
fn a_passing_error_in_a_handoff_makes_no_second_owner() {
    let calls = [("recvmsg", 1..6), ("sendto", 1..4), ("sendmsg", 1..4)];
    let mut cases = Vec::new();
    for (call, times) in calls {
        for (when, error) in times.zip(["EINTR", "ENOMEM", "ENOBUFS", "EINTR", "ENOMEM"]) {
            for at_predecessor in [false, true] {
                cases.push((format!("inject={call}:error={error}:when={when}"), at_predecessor));
            }
        }
    }
    for (inject, at_predecessor) in cases {
        let case = format!("{inject} in the predecessor: {at_predecessor}");
        let scratch = Scratch::new();
        let start = |socket: &str, is_traced: bool, more: &[&str]| {
            let mut command = Command::new("strace");
            detach(&mut command);
            command.args(["-D", "-f", "-qq", "-o", "/dev/null"]);
            if is_traced {
                command.args(["-e", &inject]);
            } else {
                command.args(["-e", "trace=none"]);
            }
            command.arg(binary()).args(STILL).args(more).arg("-s").arg(scratch.join(socket));
            command.arg("--state-file").arg(state_file(&scratch));
            let mut daemon = Daemon::spawn(&mut command);
            daemon.socket = scratch.join(socket);
            daemon
        };
        let mut dead = serve(&scratch, "first", &STILL);
        nc(&dead.socket, "set_counter 137\n");
        dead.signal(Signal::KILL);
        dead.ended();
        let mut predecessor = start("first", at_predecessor, &[]);
        predecessor.wait_for("Listening on");
        let first = predecessor.socket.clone();
        let first = ["-c", first.to_str().expect("text")];
        let mut successor = start("second", !at_predecessor, &first);
        successor.wait_for("=> serving");
        predecessor.ended();
        assert_eq!(get_counter(&successor.socket), 137, "{case}");
        assert!(successor.is_running(), "{case}");
        let twice = predecessor.messages().iter().any(|line| line.contains("serving on"));
        let asked = successor.messages().iter().filter(|line| line.contains("serving")).count();
        assert!(!twice || asked == 1, "{case}: {:?}", predecessor.messages());
    }
}
