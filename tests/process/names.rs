// SPDX-License-Identifier: Apache-2.0
//! Names: two services with different names, the counter and testkit's meter.
//!
//! Everything that a user sees of a service has its name. Two services share no file in a directory
//! and no entry in a journal.

use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixListener;
use std::process::{Command, Output};

use rustix::process::Signal;
use testkit::client::{get_counter, status};
use testkit::daemon::{self, Daemon, STILL, detach};
use testkit::journald::{Entry, Journald};
use testkit::scratch::Scratch;

use crate::meter;

/// Runs the meter to its end.
fn run(arguments: &[&str]) -> Output {
    let mut program = Command::new(meter::program());
    detach(&mut program);
    program.args(arguments).output().expect("the program runs")
}

#[test]
fn help_version_and_errors_have_the_name_of_the_service() {
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
    let help = text(run(&["--help"]).stdout);
    for expected in ["\nUsage: meter [OPTION]", " meter.sock in the first", "See meter(8)"] {
        assert!(help.contains(expected), "{expected:?} in {help}");
    }
    assert_eq!(text(run(&["--version"]).stdout), "meter 7.1\n");
    let complaint = text(run(&["--bogus"]).stderr);
    assert!(complaint.starts_with("meter: invalid option"), "{complaint}");
    for text in [help, complaint] {
        assert!(!text.contains("early"), "{text}");
    }
}

#[test]
fn two_services_in_one_directory_and_journal_do_not_meet() {
    let scratch = Scratch::new();
    let mut journald = Journald::new(&scratch);
    let as_meter = meter::program().to_str().expect("text");
    let as_meter = ["sh", "-c", r#"shift && exec "$0" "$@""#, as_meter];
    let counter = journald.start(scratch.join("a.sock"), &STILL);
    let initrd = [&STILL[..], &["--survive-systemd-kill-signal"]].concat();
    let first = journald.start_by(&as_meter, scratch.join("b.sock"), &initrd);
    let second = journald.start_by(&as_meter, scratch.join("c.sock"), &STILL);
    let of = |daemon: &Daemon, entry: &Entry| entry["SYSLOG_PID"] == daemon.pid().to_string();
    for (daemon, identifier, target) in [
        (&counter, "early-service", "early_service"),
        (&first, "meter-initrd", "meter"),
        (&second, "meter", "meter"),
    ] {
        let names = journald.read_until("a line of each", |entries| {
            let entry = entries.iter().find(|entry| of(daemon, entry))?;
            Some((entry["SYSLOG_IDENTIFIER"].clone(), entry["TARGET"].clone()))
        });
        assert_eq!(names, (identifier.to_owned(), target.to_owned()));
    }
    for entry in journald.entries.iter().filter(|entry| !of(&counter, entry)) {
        let strange = entry.iter().find(|(_, value)| value.contains("early-service"));
        assert!(strange.is_none_or(|(_, value)| value.contains("/tmp")), "{strange:?}");
    }
    assert_eq!(journald.complaint(), "");
}

/// Starts a successor of `predecessor` with its own state file.
fn successor(scratch: &Scratch, service: &str, predecessor: &Daemon) -> Daemon {
    let predecessor = predecessor.socket.to_str().expect("text");
    let options = [&STILL[..], &["--client-socket-path", predecessor]].concat();
    start(scratch, service, &format!("{service}2"), &options)
}

/// Starts a service on the socket `name`, with the state file `name.state`.
fn start(scratch: &Scratch, service: &str, name: &str, options: &[&str]) -> Daemon {
    let program = match service {
        "meter" => meter::program().into(),
        _ => daemon::binary(),
    };
    let mut command = Command::new(program);
    detach(&mut command);
    command.arg("--server-socket-path").arg(scratch.join(name)).args(options);
    command.arg("--state-file").arg(scratch.join(format!("{name}.state")));
    Daemon::spawn_at(&mut command, scratch.join(name))
}

#[test]
fn another_service_is_refused_by_name_on_both_sides() {
    for (owner, asks) in [("early-service", "meter"), ("meter", "early-service")] {
        let scratch = Scratch::new();
        let first = start(&scratch, owner, "first", &STILL);
        first.wait_for("Listening on UNIX socket");
        let second = successor(&scratch, asks, &first);
        let pid = second.pid();
        let why = format!("process {pid} asks for the state of service '{asks}', not '{owner}'");
        let answer = format!("answers 'abort {why}': asking again");
        second.wait_for(&answer);
        first.wait_for(&format!("Refusing to hand over: {why}"));
        // The successor asks again, each time without success.
        assert_eq!(status(&first.socket, "phase"), "serving");
        assert!(second.messages().iter().all(|line| !line.contains("=> serving")));
    }
}

#[test]
fn a_process_that_asks_names_its_service() {
    let scratch = Scratch::new();
    let predecessor = UnixListener::bind(scratch.join("first")).expect("a socket");
    let path = scratch.join("first");
    let options = ["--client-socket-path", path.to_str().expect("text")];
    let second = start(&scratch, "meter", "second", &options);
    let (mut stream, _) = predecessor.accept().expect("a successor");
    let mut request = String::new();
    BufReader::new(&stream).read_line(&mut request).expect("a request");
    assert_eq!(request, "handoff 1 service=meter\n");
    // An older release does not compare names, and sends the state of another service.
    let state = "state 1 reading=5 unit=x deadline_ns=1 period_ns=100000000";
    stream
        .write_all(format!("{state} lock=0 listeners=0 clients=0\nend\n").as_bytes())
        .expect("room");
    let why = "its state is of service 'early-service', not 'meter'";
    second.wait_for(&format!("cannot adopt from {}: {why}", path.display()));
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    assert_eq!(answer, format!("abort {why}\n"));
}

#[test]
fn a_state_file_of_another_service_is_left_alone() {
    for (dead, other) in [("early-service", "meter"), ("meter", "early-service")] {
        let scratch = Scratch::new();
        let mut first = start(&scratch, dead, "x", &STILL);
        first.wait_for("Listening on UNIX socket");
        let state = scratch.join("x.state");
        first.signal(Signal::KILL);
        first.ended();
        let record = fs::read(&state).expect("a state file");
        let is_named = String::from_utf8_lossy(&record).contains(" service=meter");
        assert_eq!(is_named, dead == "meter");

        let mut second = start(&scratch, other, "x", &STILL);
        second.wait_for("Listening on UNIX socket");
        second.wait_for(&format!(
            "cannot use state file {}: its state is of service '{dead}', not '{other}'; the state \
             will not outlive us",
            state.display()
        ));
        assert_eq!(status(&second.socket, "state_file"), "none");
        assert_eq!(status(&second.socket, "origin"), "new");
        second.signal(Signal::TERM);
        second.ended();
        assert_eq!(fs::read(&state).expect("a state file"), record);

        let third = start(&scratch, dead, "x", &STILL);
        third.wait_for("Recovering at ");
    }
}

#[test]
fn no_service_owns_while_another_one_holds_the_lock_of_its_file() {
    let scratch = Scratch::new();
    let mut counter = start(&scratch, "early-service", "x", &STILL);
    counter.wait_for("Listening on UNIX socket");
    fs::hard_link(scratch.join("x.state"), scratch.join("y.state")).expect("a second name");
    let meter = start(&scratch, "meter", "y", &STILL);
    meter.wait_for("is locked by another process: waiting for it");
    assert!(meter.messages().iter().all(|line| !line.contains("=> serving")));
    counter.signal(Signal::KILL);
    counter.ended();
    meter.wait_for("its state is of service 'early-service', not 'meter'");
    meter.wait_for("Listening on UNIX socket");
    // The meter has let go of the lock.
    let counter = start(&scratch, "early-service", "x", &STILL);
    counter.wait_for("Recovering at 0 from");
}

#[test]
fn each_service_has_its_own_socket_in_the_runtime_directory() {
    let scratch = Scratch::new();
    let serve = |program: &OsStr, name: &str| {
        let mut command = Command::new(program);
        detach(&mut command);
        let mut daemon =
            Daemon::spawn(command.env("RUNTIME_DIRECTORY", scratch.join("")).args(STILL));
        daemon.socket = scratch.join(name);
        let line = daemon.wait_for("Listening on UNIX socket");
        assert!(line.message.ends_with(name), "{line:?}");
        daemon
    };
    let counter = serve(&daemon::binary(), "early-service.sock");
    let meter = serve(meter::program().as_os_str(), "meter.sock");
    assert_eq!(scratch.names(), ["early-service.sock", "meter.sock"]);
    assert_eq!(get_counter(&counter.socket), 0);
    assert_eq!(status(&meter.socket, "reading"), "0");
    assert_eq!(status(&meter.socket, "version"), "7.1");
    assert_eq!(meter.wait_for("serving").identifier, "meter");
}
