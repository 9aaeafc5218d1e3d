// SPDX-License-Identifier: Apache-2.0
//! Signals: which ones end the daemon, and which do not.

use std::os::unix::net::UnixListener;
use std::process::{Command, Stdio};

use rustix::process::Signal;

use crate::END;
use crate::stage::{record, serve, state_file};
use testkit::client::{get_counter, until_served, until_status};
use testkit::daemon::{Daemon, STILL, program};
use testkit::scratch::Scratch;
use testkit::until;

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
    daemon.signal(Signal::TERM);
    daemon.wait_for("Ignoring SIGTERM in the initrd stage");
    (0..3).for_each(|_| daemon.signal(Signal::TERM));
    let count = get_counter(&daemon.socket);
    daemon.ticks(usize::try_from(count).expect("few") + 3);
    assert!(daemon.is_running());
}

/// Signals that only add a line to the log, with the line.
const SAID: [(Signal, &str); 3] = [
    (Signal::HUP, "Ignoring SIGHUP: there is nothing to reload"),
    (Signal::USR1, "Ignoring SIGUSR1"),
    (Signal::USR2, "Ignoring SIGUSR2"),
];

/// Signals that are ignored silently, including all that the kernel or a parent's timer may send.
const SILENT: [Signal; 15] = [
    Signal::ALARM,
    Signal::VTALARM,
    Signal::PROF,
    Signal::IO,
    Signal::POWER,
    Signal::STKFLT,
    Signal::PIPE,
    Signal::XFSZ,
    Signal::TTIN,
    Signal::TTOU,
    Signal::CHILD,
    Signal::URG,
    Signal::WINCH,
    Signal::CONT,
    Signal::CONT,
];

#[test]
fn a_signal_that_asks_for_nothing_ends_nothing() {
    for options in [&[][..], &[INITRD]] {
        let scratch = Scratch::new();
        let mut daemon = Daemon::serve(scratch.join("sock"), options);
        for (signal, line) in SAID {
            daemon.signal(signal);
            daemon.wait_for(line);
        }
        SILENT.into_iter().for_each(|signal| daemon.signal(signal));
        for number in (34..=64).map(|number| number.to_string()) {
            let pid = daemon.pid().to_string();
            let sent = Command::new("kill").args(["-s", &number, &pid]).status();
            assert!(sent.is_ok_and(|sent| sent.success()), "{number}");
        }
        let count = get_counter(&daemon.socket);
        daemon.ticks(usize::try_from(count).expect("few") + 2);
        daemon.signal(Signal::INT);
        assert!(daemon.ended().0.success(), "{options:?}");
        assert_eq!(scratch.names(), [""; 0]);
    }
}

#[test]
fn what_is_documented_is_what_the_mask_and_the_handlers_say() {
    let scratch = Scratch::new();
    let table = include_str!("../../docs/operations.md");
    let outcome = |name: &str| -> Option<&str> {
        let rows = table.lines().filter_map(|line| line.strip_prefix("| "));
        let mut rows = rows.filter_map(|row| row.split_once(" | "));
        let is_named = |names: &str| names.split(", ").any(|named| named == name);
        rows.find(|(names, _)| is_named(names)).map(|(_, outcome)| outcome)
    };
    let names = [
        "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2",
        "PIPE", "ALRM", "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG",
        "XCPU", "XFSZ", "VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS",
    ];
    let daemon = Daemon::serve(scratch.join("sock"), &STILL);
    let mask = |field: &str| u64::from_str_radix(&daemon.status(field), 16).expect("a mask");
    let (blocked, caught) = (mask("SigBlk"), mask("SigCgt"));
    for (at, name) in names.iter().enumerate() {
        let outcome = outcome(name).unwrap_or_else(|| panic!("SIG{name} has no row"));
        let (is_blocked, is_caught) = (blocked >> at & 1 == 1, caught >> at & 1 == 1);
        assert_eq!(is_blocked, outcome.starts_with("ignored"), "SIG{name}: {outcome}");
        let has_handler = outcome.starts_with("orderly end") || outcome.starts_with("a log line");
        // The Rust runtime has its own handlers, which report a stack overflow.
        let is_runtimes = ["SEGV", "BUS"].contains(name);
        assert_eq!(is_caught && !is_runtimes, has_handler, "SIG{name}: {outcome}");
    }
    assert_eq!(blocked >> 33, (1 << 31) - 1, "every real-time signal is ignored");
    for thread in std::fs::read_dir(format!("/proc/{}/task", daemon.pid())).expect("a process") {
        let status = std::fs::read_to_string(thread.expect("a thread").path().join("status"));
        let status = status.expect("a thread");
        let line = status.lines().find_map(|line| line.strip_prefix("SigBlk:")).expect("a mask");
        let theirs = u64::from_str_radix(line.trim(), 16).expect("a mask");
        assert_eq!(theirs & blocked, blocked, "each thread ignores what the first one ignores");
    }
}

#[test]
fn what_was_blocked_or_ignored_by_the_parent_is_heard() {
    // A shell's `&` makes a process ignore SIGINT, and perl can block signals.
    let ignored = "trap '' TERM INT HUP CHLD PIPE; exec \"$@\"";
    let block = "use POSIX; sigprocmask(SIG_BLOCK, POSIX::SigSet->new(1..31)); exec @ARGV";
    for (signal, options) in
        [(Signal::TERM, &[][..]), (Signal::INT, &[]), (Signal::INT, &[INITRD][..])]
    {
        for parent in [["sh", "-c", ignored, "sh"].as_slice(), &["perl", "-e", block]] {
            let scratch = Scratch::new();
            let socket = scratch.join("sock");
            let mut command = Command::new(parent[0]);
            testkit::daemon::detach(&mut command);
            command.args(&parent[1..]).arg(testkit::daemon::binary()).arg("-s").arg(&socket);
            let mut daemon = Daemon::spawn(command.args(options));
            daemon.wait_for("Listening on UNIX socket");
            daemon.signal(signal);
            assert!(daemon.ended().0.success(), "{signal:?} {options:?} {parent:?}");
            assert_eq!(scratch.names(), [""; 0], "{signal:?} {options:?} {parent:?}");
        }
    }
}

#[test]
fn the_limit_of_processor_time_is_a_clean_failure() {
    for options in [&[][..], &[INITRD]] {
        let scratch = Scratch::new();
        let mut daemon = Daemon::serve(scratch.join("sock"), options);
        daemon.signal(Signal::XCPU);
        assert_eq!(daemon.ended().0.code(), Some(1), "{options:?}");
        daemon.wait_for("error: the limit of processor time is reached");
        assert_eq!(scratch.names(), [""; 0], "{options:?}");
    }
}

#[test]
fn a_flood_of_signals_delays_neither_ticks_nor_replies() {
    let scratch = Scratch::new();
    let daemon = Daemon::serve(scratch.join("sock"), &[INITRD]);
    let is_over = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        for signal in [Signal::TERM, Signal::HUP] {
            let (daemon, is_over) = (&daemon, &is_over);
            scope.spawn(move || {
                while !is_over.load(std::sync::atomic::Ordering::Relaxed) {
                    daemon.signal(signal);
                }
            });
        }
        let before = daemon.ticks(1).len();
        daemon.ticks(before + 10);
        get_counter(&daemon.socket);
        is_over.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    let messages = daemon.messages();
    let ignored = messages.iter().filter(|line| line.starts_with("Ignoring")).count();
    let ticks = messages.iter().filter(|line| line.parse::<u64>().is_ok()).count();
    // One line a second of each kind, and ten ticks a second.
    assert!(ignored <= 2 * (ticks / 10 + 2), "{ignored} lines in {ticks} ticks");
}

#[test]
fn further_signals_cost_no_line_of_the_log_and_no_file() {
    for (first, further) in [(Signal::TERM, Signal::INT), (Signal::INT, Signal::INT)] {
        let scratch = Scratch::new();
        let mut daemon = serve(&scratch, "sock", &["--timer-delay-ms", "1"]);
        daemon.ticks(50);
        daemon.signal(first);
        while daemon.is_running() {
            daemon.signal(further);
        }
        let (status, _) = daemon.ended();
        assert!(status.success(), "{status}");
        assert_eq!(scratch.names(), ["state"]);
        let left = record(&state_file(&scratch));
        let named = left.unlogged.ticks;
        let numbers = daemon.all_ticks();
        let expected: Vec<_> = (0..left.snapshot.state.next - named).collect();
        assert!(numbers.starts_with(&expected), "{named} are named, and {numbers:?} logged");
    }
}

/// If nobody reads the log, the end takes half a second longer.
#[test]
fn more_signals_do_not_end_it_before_the_count_is_saved() {
    let scratch = Scratch::new();
    let socket = scratch.join("sock");
    let mut daemon = Daemon::spawn_unread(
        program()
            .arg("-s")
            .arg(&socket)
            .args(["-d", "1", "--state-file"])
            .arg(state_file(&scratch))
            .stderr(Stdio::piped()),
    );
    until_served(&socket);
    until_status(&socket, "log_lines_dropped", |dropped| dropped > 0);
    daemon.signal(Signal::TERM);
    until("the end has begun", || !socket.exists());
    while daemon.is_running() {
        daemon.signal(Signal::INT);
    }
    assert!(daemon.ended().0.success());
    let left = record(&state_file(&scratch));
    assert!(left.unlogged.ticks > 0, "the next owner names what was dropped");
}

#[test]
fn a_client_that_goes_away_while_it_is_answered_does_no_harm() {
    let scratch = Scratch::new();
    let mut daemon = Daemon::serve(scratch.join("sock"), &STILL);
    for _ in 0..20 {
        // This causes SIGPIPE, unless it is ignored.
        let mut client = testkit::client::Client::connect(&daemon.socket);
        client.send("get_counter\n".repeat(1000));
    }
    assert_eq!(get_counter(&daemon.socket), 0);
    assert!(daemon.is_running());
}
