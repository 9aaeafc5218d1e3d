// SPDX-License-Identifier: Apache-2.0
//! Names: two services with different names, the counter and the camera of the example.
//!
//! All that a user sees of a service has its name, and nothing that the two leave in one directory
//! or in one journal is shared.

use std::process::Output;

use testkit::client::{get_counter, status};
use testkit::daemon::{self, Daemon, STILL, detach};
use testkit::journald::{Entry, Journald};
use testkit::scratch::Scratch;

use crate::camera;

/// Runs the camera to its end.
fn run(arguments: &[&str]) -> Output {
    let mut program = std::process::Command::new(camera::program());
    detach(&mut program);
    program.args(arguments).output().expect("the program runs")
}

#[test]
fn help_version_and_errors_have_the_name_of_the_service() {
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
    let help = text(run(&["--help"]).stdout);
    for expected in ["\nUsage: camera [OPTION]", " camera.sock in the first", "See camera(8)"] {
        assert!(help.contains(expected), "{expected:?} in {help}");
    }
    assert_eq!(text(run(&["--version"]).stdout), "camera 7.1\n");
    let complaint = text(run(&["--bogus"]).stderr);
    assert!(complaint.starts_with("camera: invalid option"), "{complaint}");
    for text in [help, complaint] {
        assert!(!text.contains("early"), "{text}");
    }
}

#[test]
fn two_services_in_one_directory_and_journal_do_not_meet() {
    let scratch = Scratch::new();
    let mut journald = Journald::new(&scratch);
    let as_camera = camera::program().to_str().expect("text");
    let as_camera = ["sh", "-c", r#"shift && exec "$0" "$@""#, as_camera];
    let counter = journald.start(scratch.join("a.sock"), &STILL);
    let initrd = [&STILL[..], &["--survive-systemd-kill-signal"]].concat();
    let first = journald.start_by(&as_camera, scratch.join("b.sock"), &initrd);
    let second = journald.start_by(&as_camera, scratch.join("c.sock"), &STILL);
    let of = |daemon: &Daemon, entry: &Entry| entry["SYSLOG_PID"] == daemon.pid().to_string();
    for (daemon, identifier, target) in [
        (&counter, "early-service", "early_service"),
        (&first, "camera-initrd", "camera"),
        (&second, "camera", "camera"),
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

#[test]
fn each_service_has_its_own_socket_in_the_runtime_directory() {
    let scratch = Scratch::new();
    let serve = |program: &std::ffi::OsStr, name: &str| {
        let mut command = std::process::Command::new(program);
        detach(&mut command);
        let mut daemon =
            Daemon::spawn(command.env("RUNTIME_DIRECTORY", scratch.join("")).args(STILL));
        daemon.socket = scratch.join(name);
        let line = daemon.wait_for("Listening on UNIX socket");
        assert!(line.message.ends_with(name), "{line:?}");
        daemon
    };
    let counter = serve(&daemon::binary(), "early-service.sock");
    let camera = serve(camera::program().as_os_str(), "camera.sock");
    assert_eq!(scratch.names(), ["camera.sock", "early-service.sock"]);
    assert_eq!(get_counter(&counter.socket), 0);
    assert_eq!(status(&camera.socket, "frame"), "0");
    assert_eq!(status(&camera.socket, "version"), "7.1");
    assert_eq!(camera.wait_for("serving").identifier, "camera");
}
