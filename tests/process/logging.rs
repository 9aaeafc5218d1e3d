// SPDX-License-Identifier: Apache-2.0
//! Logging: lines and fields, and a log that nobody reads.

use std::process::Stdio;
use std::thread;
use std::time::Duration;

use rustix::process::Signal;

use crate::ticks::implied;
use crate::{AT_ONCE, END};
use testkit::client::{get_counter, nc, status, until_served, until_status};
use testkit::daemon::{Daemon, STILL, program};
use testkit::host::Stopwatch;
use testkit::journald::{Entry, Journald};
use testkit::line::Line;
use testkit::now;
use testkit::scratch::Scratch;

#[test]
fn standard_error_gets_one_readable_line_for_each_record() {
    let scratch = Scratch::new();
    for (options, identifier) in
        [(&[][..], "early-service"), (&["--survive-systemd-kill-signal"], "early-service-initrd")]
    {
        let started = now();
        let mut daemon = Daemon::serve(scratch.join("sock"), options);
        daemon.ticks(2);
        daemon.signal(Signal::INT);
        assert!(daemon.ended().0.success());
        daemon.wait_for("serving => ended");
        let path = daemon.socket.display();
        let lines = daemon.wait_until("every line", |lines| Some(lines.to_vec()));
        // Logged if there is no other root to follow PID 1 to, such as in a container.
        let is_ours = |message: &&str| !message.starts_with("Cannot follow PID 1");
        let messages = lines.iter().map(|line| &*line.message).filter(is_ours);
        let listening = format!("Listening on UNIX socket {path}");
        let expected = ["booting => serving", &listening, "0", "1"];
        assert_eq!(messages.take(4).collect::<Vec<_>>(), expected);
        let mut last = started / 1000 * 1000;
        for line in &lines {
            assert_eq!((&*line.identifier, line.pid), (identifier, daemon.pid()), "{line:?}");
            assert!((last..=now()).contains(&line.time), "in order and in time: {line:?}");
            last = line.time;
        }
    }
}

#[test]
fn the_journal_gets_every_field() {
    let scratch = Scratch::new();
    let mut journald = Journald::new(&scratch);
    let first = journald.start(scratch.join("initrd"), &["--survive-systemd-kill-signal"]);
    journald.read_to_tick(2);
    let predecessor = first.socket.to_str().expect("text");
    let successor = journald.start(scratch.join("root"), &["--client-socket-path", predecessor]);
    // Each process writes its lines when its own writer thread runs.
    journald.read_until("ticks of both, and the end of the first", |entries| {
        let is_there = |identifier: &str, holds: fn(&Entry) -> bool| {
            entries.iter().any(|entry| entry["SYSLOG_IDENTIFIER"] == identifier && holds(entry))
        };
        let has_ticked = is_there("early-service", |entry| entry.contains_key("COUNTER"));
        let ended = |entry: &Entry| entry["MESSAGE"] == "draining => ended";
        (has_ticked && is_there("early-service-initrd", ended)).then_some(())
    });

    let find = |message: &str| -> &Entry {
        let mut entries = journald.entries.iter();
        entries.find(|entry| entry["MESSAGE"] == message).unwrap_or_else(|| panic!("no {message}"))
    };
    for (message, stage, phase) in [
        (&*format!("Listening on UNIX socket {predecessor}"), "initrd", "serving"),
        ("2", "initrd", "serving"),
        (&*format!("Reading starting position from socket {predecessor}"), "root", "adopting"),
        ("serving => draining", "initrd", "draining"),
        (&*format!("Listening on UNIX socket {}", successor.socket.display()), "root", "serving"),
    ] {
        let entry = find(message);
        assert_eq!((&*entry["STAGE"], &*entry["PHASE"]), (stage, phase), "{entry:?}");
        assert_eq!(entry["PRIORITY"], "5", "{entry:?}");
        let identifier = if stage == "initrd" { "early-service-initrd" } else { "early-service" };
        assert_eq!(entry["SYSLOG_IDENTIFIER"], identifier, "{entry:?}");
        let is_tick = ["COUNTER", "DEADLINE_NS", "ACTUAL_NS"].map(|name| entry.contains_key(name));
        assert_eq!(is_tick, [message == "2"; 3], "{entry:?}");
    }
    for tick in journald.ticks() {
        assert!(tick.actual >= tick.deadline && tick.actual <= now(), "{tick:?}");
        assert_eq!(find(&tick.number.to_string())["COUNTER"], tick.number.to_string());
    }
    let numbers: Vec<_> = journald.ticks().iter().map(|tick| tick.number).collect();
    assert_eq!(numbers, (0..).take(numbers.len()).collect::<Vec<u64>>(), "each once over both");
    assert_eq!(journald.complaint(), "", "nothing goes to standard error");
}

#[test]
fn warnings_have_their_own_priority() {
    let scratch = Scratch::new();
    let mut journald = Journald::new(&scratch);
    let absent = scratch.join("absent");
    let options = [&STILL[..], &["-c", absent.to_str().expect("text")]].concat();
    let _daemon = journald.start(scratch.join("sock"), &options);
    let priority = journald.read_until("a warning", |entries| {
        let warning =
            entries.iter().find(|entry| entry["MESSAGE"].starts_with("No predecessor"))?;
        Some(warning["PRIORITY"].clone())
    });
    assert_eq!(priority, "4");
}

#[test]
fn where_there_is_no_journal_standard_error_gets_the_lines() {
    let scratch = Scratch::new();
    let journald = Journald::new(&scratch);
    journald.remove();
    let _daemon = journald.start(scratch.join("sock"), &STILL);
    testkit::until("lines", || journald.complaint().contains("]: Listening on UNIX socket"));
}

#[test]
fn only_the_stream_of_the_journal_selects_the_journal() {
    // To the daemon, systemd has started it and a journal exists.
    for (case, stream, stderr) in [
        ("append:", None, "file"),
        ("append: with standard output in the journal", Some("1:1"), "file"),
        ("null", None, "/dev/null"),
        ("null with standard output in the journal", Some("1:1"), "/dev/null"),
    ] {
        for options in [&STILL[..], &[&STILL[..], &["--survive-systemd-kill-signal"]].concat()] {
            let scratch = Scratch::new();
            let mut journald = Journald::new(&scratch);
            let stderr = if stderr == "file" { scratch.join("stderr") } else { stderr.into() };
            let socket = scratch.join("sock");
            let _daemon = journald.spawn_as_systemd(&socket, stream, &stderr, options);
            until_served(&socket);
            if stderr.starts_with("/dev") {
                // The writer has selected its destination by now.
                get_counter(&socket);
                journald.receive();
            } else {
                testkit::until("lines", || journald.complaint().contains("Listening on UNIX"));
            }
            assert!(journald.entries.is_empty(), "{case}: {:?}", journald.entries);
        }
    }
}

/// So short that any log is full soon.
const PERIOD: u64 = 2_000_000;
const OFTEN: [&str; 2] = ["--timer-delay-ms", "2"];

#[test]
fn an_unread_journal_delays_neither_ticks_nor_replies() {
    let watch = Stopwatch::start();
    let scratch = Scratch::new();
    let mut journald = Journald::new(&scratch);
    let daemon = journald.start(scratch.join("sock"), &OFTEN);
    until_status(&daemon.socket, "log_lines_dropped", |dropped| dropped > 100);

    let asked: Vec<_> = (0..100)
        .map(|_| {
            let (before, count) = (now(), get_counter(&daemon.socket));
            (before, count, now())
        })
        .collect();
    // When the log is read again, it reports what is missing. The deadlines show when ticks were
    // due.
    let reported = journald.read_until("a report of the lines dropped", |entries| {
        let report = |entry: &Entry| {
            let message = entry["MESSAGE"].clone();
            message
                .strip_suffix(" log lines dropped: the log was not read fast enough")?
                .parse()
                .ok()
        };
        entries.iter().find_map(report)
    });
    let ticks = journald.ticks();
    assert_eq!(ticks[0].number, 0);
    for (before, count, after) in asked {
        let took = watch.own(Duration::from_nanos(after - before));
        assert!(took < AT_ONCE, "a reply took {took:?}");
        let possible = implied(&ticks, PERIOD, before)..=implied(&ticks, PERIOD, after);
        assert!(possible.contains(&count), "{count} is not in {possible:?}");
    }
    for tick in &ticks {
        assert_eq!(tick.deadline, ticks[0].deadline + tick.number * PERIOD, "{tick:?}");
        let delay = watch.own(Duration::from_nanos(tick.actual - tick.deadline));
        assert!(delay < AT_ONCE, "{tick:?}");
    }

    // Each number is logged once or counted as dropped. After the gap, the log continues.
    let reported: u64 = reported;
    journald.read_to_tick(get_counter(&daemon.socket));
    let ticks = journald.ticks();
    assert!(ticks.windows(2).all(|pair| pair[0].number < pair[1].number), "in order, none twice");
    let missing = ticks.last().expect("ticks").number + 1 - ticks.len() as u64;
    assert!(missing > 100 && reported > 100, "{missing} missing, {reported} reported");
    let dropped: u64 = status(&daemon.socket, "log_lines_dropped").parse().expect("a number");
    assert!(missing <= dropped, "{missing} missing, {dropped} counted");
}

#[test]
fn an_unread_standard_error_delays_neither_ticks_nor_replies() {
    let watch = Stopwatch::start();
    let scratch = Scratch::new();
    let socket = scratch.join("sock");
    let mut daemon =
        Daemon::spawn_unread(program().arg("-s").arg(&socket).args(OFTEN).stderr(Stdio::piped()));
    until_served(&socket);
    until_status(&socket, "log_lines_dropped", |dropped| dropped > 100);

    let ask = || {
        let (before, count, after) = (now(), get_counter(&socket), now());
        let took = watch.own(Duration::from_nanos(after - before));
        assert!(took < AT_ONCE, "a reply took {took:?}");
        (before, count, after)
    };
    let first = ask();
    for _ in 0..100 {
        let later = ask();
        // Between two replies there are as many ticks as deadlines.
        let ticks = later.1 - first.1;
        let fewest = later.0.saturating_sub(first.2) / PERIOD;
        let most = (later.2 - first.0) / PERIOD + 1;
        assert!((fewest..=most).contains(&ticks), "{ticks} is not in {fewest}..={most}");
    }

    daemon.read_at_last();
    daemon.wait_for("log lines dropped: the log was not read fast enough");
    let ticks = daemon.ticks(300);
    assert!(ticks.windows(2).all(|pair| pair[0] < pair[1]), "in order, none twice");
}

#[test]
fn a_log_that_nobody_reads_does_not_hold_up_the_end() {
    let scratch = Scratch::new();
    let socket = scratch.join("sock");
    let mut daemon =
        Daemon::spawn_unread(program().arg("-s").arg(&socket).args(OFTEN).stderr(Stdio::piped()));
    until_served(&socket);
    until_status(&socket, "log_lines_dropped", |dropped| dropped > 0);
    daemon.signal(Signal::TERM);
    let (status, took) = daemon.ended();
    assert!(status.success(), "{status}");
    assert!(took < END, "{took:?}");
    assert!(!socket.exists());
}

/// Size of the queue of log records.
const QUEUE: usize = 256;

/// Longer than the time for which a process waits for its lines at the end.
const STOPPED: Duration = Duration::from_millis(600);
const PAUSE: Duration = Duration::from_millis(30);

#[test]
fn a_process_stopped_at_its_end_writes_its_queued_lines() {
    let scratch = Scratch::new();
    for number in 0..10 {
        let socket = scratch.join(format!("{number}"));
        let mut command = program();
        command.arg("-s").arg(&socket).args(OFTEN).stderr(Stdio::piped());
        let mut daemon = Daemon::spawn_unread(&mut command);
        until_served(&socket);
        until_status(&socket, "log_lines_dropped", |dropped| dropped > 0);
        daemon.signal(Signal::TERM);
        testkit::until("only the lines are left to do", || !socket.exists());
        daemon.signal(Signal::STOP);
        testkit::until("stopped", || ["T", "Z"].contains(&&daemon.status("State")[..1]));
        if daemon.status("State").starts_with('Z') {
            // On a busy machine, the process may end before the signal arrives.
            continue;
        }
        thread::sleep(STOPPED);
        daemon.signal(Signal::CONT);
        // Enough time for the process to end, if it wrongly counts the pause as the writer's.
        thread::sleep(PAUSE);
        daemon.read_at_last();
        assert!(daemon.ended().0.success());
        let lines = daemon.whole_log();
        let is_report = |line: &Line| line.message.contains("log lines dropped");
        let first = lines.iter().position(is_report).expect("some were dropped");
        let written = lines[first..].iter().filter(|line| !is_report(line)).count();
        assert_eq!(written, QUEUE, "all that were queued when the process was stopped");
        return;
    }
    panic!("the process was never stopped in time");
}

#[test]
fn lines_that_are_queued_at_the_end_are_written() {
    let scratch = Scratch::new();
    let mut daemon = Daemon::serve(scratch.join("sock"), &STILL);
    let watch = Stopwatch::start();
    let answer = nc(&daemon.socket, "set_counter 7\nget_counter_and_terminate\n");
    assert_eq!(answer, "previous value 0\n7\n");
    assert!(daemon.ended().0.success());
    daemon.wait_for("Returning counter to client and terminating the process");
    daemon.wait_for("draining => ended");
    assert!(watch.elapsed() < AT_ONCE, "{:?}", watch.elapsed());
}
