// SPDX-License-Identifier: Apache-2.0
//! Options: the command line, from outside.

use std::process::Output;

use testkit::client::get_counter;
use testkit::daemon::{Daemon, program};
use testkit::scratch::Scratch;

fn run(arguments: &[&str]) -> Output {
    program().args(arguments).output().expect("the program runs")
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("text")
}

#[test]
fn help_names_every_option() {
    for argument in ["--help", "-h"] {
        let output = run(&[argument]);
        assert_eq!(output.status.code(), Some(0));
        assert_eq!(text(&output.stderr), "");
        for option in [
            "--server-socket-path",
            "--client-socket-path",
            "--timer-delay-ms",
            "--survive-systemd-kill-signal",
            "--takeover-existing-socket",
            "--help",
            "--version",
        ] {
            assert!(text(&output.stdout).contains(option), "{option}");
        }
    }
}

#[test]
fn version_is_that_of_the_package() {
    for argument in ["--version", "-V"] {
        let output = run(&[argument]);
        assert_eq!(output.status.code(), Some(0));
        assert_eq!(
            text(&output.stdout),
            concat!("early-service ", env!("CARGO_PKG_VERSION"), "\n")
        );
    }
}

#[test]
fn a_wrong_command_line_names_what_is_wrong_and_exits_2() {
    for (arguments, named) in [
        (&["--bogus"][..], "--bogus"),
        (&["-s", "/x", "-z"], "-z"),
        (&["stray"], "stray"),
        (&["-s"], "-s"),
        (&["-s", "/x", "--timer-delay-ms", "0"], "--timer-delay-ms"),
        (&["-s", "/x", "--timer-delay-ms=soon"], "soon"),
        (&["-s", "/x", "-c", "/x"], "--client-socket-path"),
        (&["-s", "/x", "-c", "/y", "--takeover-existing-socket"], "--takeover-existing-socket"),
        (&[], "--server-socket-path"),
    ] {
        let output = run(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        let complaint = text(&output.stderr);
        assert!(complaint.starts_with("early-service: "), "{arguments:?}: {complaint}");
        assert!(complaint.contains(named), "{arguments:?}: {complaint}");
        assert_eq!(complaint.lines().count(), 1, "{arguments:?}: {complaint}");
        assert_eq!(text(&output.stdout), "");
    }
}

#[test]
fn the_socket_is_in_the_first_runtime_directory() {
    let scratch = Scratch::new();
    for directory in ["first", "second"] {
        std::fs::create_dir(scratch.join(directory)).expect("a new directory");
    }
    let (first, second) = (scratch.join("first"), scratch.join("second"));
    let both = std::env::join_paths([&first, &second]).expect("no colon in either");
    let daemon = Daemon::spawn(program().env("RUNTIME_DIRECTORY", both));
    daemon.wait_for(&format!("Listening on UNIX socket {}/early-service.sock", first.display()));
    assert_eq!(get_counter(first.join("early-service.sock")), 0);
    assert!(!second.join("early-service.sock").exists());
}

#[test]
fn underscores_stand_for_dashes() {
    let scratch = Scratch::new();
    let (first, second) = (scratch.join("first"), scratch.join("second"));
    let predecessor = Daemon::spawn(
        program()
            .arg("--server_socket_path")
            .arg(&first)
            .args(["--timer_delay_ms=3600000", "--survive_systemd_kill_signal"]),
    );
    predecessor.wait_for("Listening on");
    let successor = Daemon::spawn(
        program().arg("--server_socket_path").arg(&second).arg("--client_socket_path").arg(&first),
    );
    successor.wait_for("Adopting 0");
    let heir = Daemon::spawn(program().arg("-s").arg(&second).arg("--takeover_existing_socket"));
    heir.wait_for("Adopting");
}
