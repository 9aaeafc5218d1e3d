// SPDX-License-Identifier: Apache-2.0
//! Signals: how it ends, and what does not end it.

use std::os::unix::net::UnixListener;
use std::process::Stdio;

use rustix::process::Signal;

use crate::client::{get_counter, until_served, until_status};
use crate::daemon::{Daemon, STILL, program};
use crate::scratch::Scratch;
use crate::{END, until};

const INITRD: &str = "--survive-systemd-kill-signal";

#[test]
fn a_stop_removes_the_socket_writes_out_the_log_and_succeeds() {
    for (signal, options) in
        [(Signal::TERM, &[][..]), (Signal::INT, &[]), (Signal::INT, &[INITRD][..])]
    {
        let scratch = Scratch::new();
        let mut daemon = Daemon::serve(scratch.join("sock"), options);
        let count = get_counter(&daemon.socket);
        daemon.signal(signal);
        let (status, took) = daemon.ended();
        assert!(status.success(), "{signal:?} {options:?}: {status}");
        assert!(took < END, "{signal:?} {options:?}: {took:?}");
        assert_eq!(scratch.names(), [""; 0], "{signal:?} {options:?}: the socket file is gone");
        let ticks = daemon.all_ticks();
        assert!(ticks.len() as u64 >= count, "{signal:?} {options:?}: lines are missing");
    }
}

#[test]
fn a_successor_that_still_waits_ends_as_well() {
    let scratch = Scratch::new();
    let path = scratch.join("mute");
    let _mute = UnixListener::bind(&path).expect("a socket");
    let options = ["--client-socket-path", path.to_str().expect("text")];
    let mut daemon = Daemon::start(scratch.join("sock"), &options);
    daemon.wait_for("Reading starting position from socket");
    daemon.signal(Signal::TERM);
    let (status, took) = daemon.ended();
    assert!(status.success() && took < END, "{status} after {took:?}");
    daemon.wait_for("adopting => ended");
    assert_eq!(scratch.names(), ["mute"]);
}

#[test]
fn the_initrd_stage_ignores_sigterm_and_says_so() {
    let scratch = Scratch::new();
    let mut daemon = Daemon::serve(scratch.join("sock"), &[INITRD]);
    for count in 1..=3 {
        daemon.signal(Signal::TERM);
        daemon.wait_until("SIGTERM in the log", |lines| {
            let ignored = |line: &&_| {
                let line: &crate::daemon::Line = line;
                line.message.contains("Ignoring SIGTERM in the initrd stage")
            };
            (lines.iter().filter(ignored).count() == count).then_some(())
        });
    }
    let count = get_counter(&daemon.socket);
    daemon.ticks(usize::try_from(count).expect("few") + 3);
    assert!(daemon.is_running());
}

#[test]
fn a_second_signal_does_not_wait_for_the_order() {
    let scratch = Scratch::new();
    // With a log that nobody reads the end in order takes half a second; on a machine that is so
    // busy that the second signal comes later than that, there is another try.
    let was_cut_short = (0..10).any(|number| {
        let socket = scratch.join(number.to_string());
        let mut daemon = Daemon::spawn_unread(
            program().arg("-s").arg(&socket).args(["-d", "1"]).stderr(Stdio::piped()),
        );
        until_served(&socket);
        until_status(&socket, "log_lines_dropped", |dropped| dropped > 0);
        daemon.signal(Signal::TERM);
        until("the end has begun", || !socket.exists());
        daemon.signal(Signal::INT);
        let status = daemon.ended().0;
        assert!(matches!(status.code(), Some(0 | 1)), "{status}");
        status.code() == Some(1)
    });
    assert!(was_cut_short, "the second signal never ended it");
}

#[test]
fn a_client_that_goes_away_while_it_is_answered_does_no_harm() {
    let scratch = Scratch::new();
    let mut daemon = Daemon::serve(scratch.join("sock"), &STILL);
    for _ in 0..20 {
        // SIGPIPE, if it were not ignored.
        let mut client = crate::client::Client::connect(&daemon.socket);
        client.send("get_counter\n".repeat(1000));
    }
    assert_eq!(get_counter(&daemon.socket), 0);
    assert!(daemon.is_running());
}
