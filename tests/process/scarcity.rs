// SPDX-License-Identifier: Apache-2.0
//! Scarcity: resource limits of the process that are too low, or nearly.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use rustix::process::Signal;

use testkit::client::{get_counter, status};
use testkit::daemon::{Daemon, binary, copy_program, detach};
use testkit::scratch::Scratch;

const STAGES: [&[&str]; 2] = [&[], &["--survive-systemd-kill-signal"]];

/// Starts the program under `prlimit` (util-linux) with these limits.
fn limited(limits: &[&str], scratch: &Scratch, options: &[&str]) -> Daemon {
    let mut command = Command::new("prlimit");
    detach(&mut command);
    command.args(limits).arg(binary()).arg("-s").arg(scratch.join("sock"));
    Daemon::spawn(command.arg("--state-file").arg(scratch.join("state")).args(options))
}

/// Whether the daemon serves. If not, asserts that it logged the reason and left no socket file.
fn serves_or_ends(mut daemon: Daemon, scratch: &Scratch, limit: &str) -> bool {
    let serves = daemon.wait_until(&format!("a word, with {limit}"), |lines| {
        lines.iter().find_map(|line| {
            let is_serving = line.message.starts_with("Listening on UNIX socket");
            let is_over = line.message.starts_with("error: cannot ")
                || line.message.contains("error while loading shared libraries");
            (is_serving || is_over).then_some(is_serving)
        })
    });
    if serves {
        get_counter(scratch.join("sock"));
        daemon.signal(Signal::INT);
    }
    let code = daemon.ended().0.code();
    assert_eq!(code == Some(0), serves, "{limit}: {code:?}");
    assert!(matches!(code, Some(0 | 1 | 127)), "{limit}: {code:?}");
    assert!(!scratch.join("sock").exists(), "{limit}: the socket file is left");
    let log = daemon.whole_log();
    let has_panicked = log.iter().any(|line| line.message.contains("panicked"));
    assert!(!has_panicked, "{limit}: {log:#?}");
    serves
}

#[test]
fn with_any_number_of_descriptors_it_serves_or_says_why_not() {
    for options in STAGES {
        let serves: Vec<_> = (3..=40)
            .map(|limit| {
                let scratch = Scratch::new();
                let limit = format!("--nofile={limit}");
                let daemon = limited(&[&limit], &scratch, options);
                serves_or_ends(daemon, &scratch, &limit)
            })
            .collect();
        assert!(serves.is_sorted() && serves[20 - 3], "twenty are enough: {serves:?}");
    }
}

#[test]
fn without_threads_it_says_why_it_ends() {
    for options in STAGES {
        for limit in 1..=5 {
            let scratch = Scratch::new();
            let (program, limit) = (scratch.join("program"), format!("--nproc={limit}"));
            copy_program(&program);
            let mut command = Command::new("setpriv");
            detach(&mut command);
            // A user without other processes. Its group permits it to write.
            let user = 60_000 + std::process::id() % 1000;
            fs::set_permissions(scratch.join(""), PermissionsExt::from_mode(0o777)).expect("ours");
            command.args([format!("--reuid={user}"), "--clear-groups".to_owned()]);
            command.args(["prlimit", &limit]).arg(&program).arg("-s").arg(scratch.join("sock"));
            let daemon = Daemon::spawn(command.args(options));
            let serves = serves_or_ends(daemon, &scratch, &limit);
            assert!(limit != "--nproc=1" || !serves, "it needs more than one");
            assert!(limit != "--nproc=5" || serves, "five are enough");
        }
    }
}

#[test]
fn a_file_size_limit_costs_the_state_file_not_the_service() {
    for options in STAGES {
        for (limit, kept) in
            [("0", "none"), ("1", "none"), ("100", "none"), ("511", "none"), ("512", "held")]
        {
            let scratch = Scratch::new();
            let mut daemon = limited(&[&format!("--fsize={limit}")], &scratch, options);
            daemon.wait_for("Listening on UNIX socket");
            let state_file = status(scratch.join("sock"), "state_file");
            assert!(state_file == kept || kept == "none" && state_file == "failing", "{limit}");
            daemon.ticks(2);
            daemon.signal(Signal::INT);
            assert!(daemon.ended().0.success(), "{limit}");
            let log = daemon.whole_log();
            let errors = log.iter().filter(|line| line.message.starts_with("error: ")).count();
            assert_eq!(errors, usize::from(kept == "none"), "{limit}: {log:#?}");
        }
    }
}

#[test]
fn a_file_size_limit_costs_the_log_not_the_service() {
    let scratch = Scratch::new();
    let log = fs::File::create(scratch.join("log")).expect("a file");
    let mut command = Command::new("prlimit");
    detach(&mut command);
    command.args(["--fsize=100"]).arg(binary()).arg("-s").arg(scratch.join("sock"));
    let mut daemon = Daemon::spawn_unread(command.args(["-d", "1"]).stderr(log));
    testkit::client::until_served(&scratch.join("sock"));
    testkit::client::until_status(&scratch.join("sock"), "log_lines_dropped", |dropped| {
        dropped > 0
    });
    daemon.signal(Signal::TERM);
    assert!(daemon.ended().0.success());
    assert_eq!(fs::metadata(scratch.join("log")).expect("a file").len(), 100);
}
