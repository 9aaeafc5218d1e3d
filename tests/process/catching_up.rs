// SPDX-License-Identifier: Apache-2.0
//! Catching up: many ticks that are due at once, and a changed period.
//!
//! To start a day later, a process runs in a time namespace whose clock is a day ahead
//! (time_namespaces(7)). The other processes are in time namespaces too, so all clocks agree.
//!
//! The counter executes any number of ticks at once. The meter executes them one by one, which is
//! the default.

use std::ffi::OsStr;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;
use std::{fs, thread};

use early_service_machine::Counter;
use early_service_machine::record::{BootId, Record};
use early_service_machine::schedule::{Monotonic, Period};
use rustix::process::{Signal, geteuid};

use crate::stage::{read_at, record, serve, state_file, succeed};
use crate::wire::{Wire, number};
use crate::{AT_ONCE, END};
use testkit::client::{Client, get_counter, nc, status};
use testkit::daemon::{Daemon, STILL, binary, detach};
use testkit::host::Stopwatch;
use testkit::journald::{Entry, Journald};
use testkit::manager::Manager;
use testkit::scratch::Scratch;
use testkit::{build, now, until};

const DAY: u64 = 86_400;
const MONTHS: u64 = 60 * DAY;

/// Runs the program in its arguments with a clock that is `seconds` ahead.
fn ahead(seconds: u64) -> Command {
    let mut unshare = Command::new("unshare");
    detach(&mut unshare);
    if !geteuid().is_root() {
        unshare.args(["--user", "--map-root-user"]);
    }
    unshare.arg("--time").arg("--monotonic").arg(seconds.to_string());
    unshare
}

/// Starts `program` on a socket in `scratch` with the state file, `seconds` later.
fn start(
    scratch: &Scratch,
    program: impl AsRef<OsStr>,
    seconds: u64,
    socket: &str,
    options: &[&str],
) -> Daemon {
    let mut command = ahead(seconds);
    command.arg(program).arg("--server-socket-path").arg(scratch.join(socket)).args(options);
    command.arg("--state-file").arg(state_file(scratch));
    let mut daemon = Daemon::spawn(&mut command);
    daemon.socket = scratch.join(socket);
    daemon
}

fn end(mut daemon: Daemon, signal: Signal) -> Daemon {
    daemon.signal(signal);
    daemon.ended();
    daemon
}

/// The lines that stand for many ticks: first number, last number and count.
fn ranges(lines: &[String]) -> Vec<[u64; 3]> {
    let range = |line: &String| {
        let (them, rest) = line.split_once(": ")?;
        let count = rest.strip_suffix(" missed ticks in one line")?;
        let (first, last) = them.split_once(' ')?.1.split_once(" to ")?;
        Some([first, last, count].map(|number| number.parse().expect("a number")))
    };
    lines.iter().filter_map(range).collect()
}

#[test]
fn any_number_of_due_ticks_is_counted_and_logged_in_one_line() {
    for (seconds, period, due) in
        [(DAY, "1", 86_400_000), (MONTHS, "100", 51_840_000), (3600, "100", 36_000)]
    {
        let scratch = Scratch::new();
        let dead = serve(&scratch, "sock", &["--timer-delay-ms", period]);
        dead.ticks(2);
        let dead = end(dead, Signal::KILL);
        let Record { snapshot: left, unlogged, .. } = record(&state_file(&scratch));

        let (watch, started) = (Stopwatch::start(), now());
        let mut daemon = start(&scratch, binary(), seconds, "sock", &["--timer-delay-ms", period]);
        daemon.wait_for("Listening on UNIX socket");
        let count = get_counter(&daemon.socket);
        let took = now() - started;
        let first = watch.own(Duration::from_nanos(took));
        assert!(first < AT_ONCE, "{first:?} until the first reply");
        let implied = |at: u64| {
            let passed = at + seconds * 1_000_000_000 - left.deadline.as_nanos();
            left.state.next + passed / left.period.as_nanos() + 1
        };
        let possible = implied(started)..=implied(started + took);
        assert!(possible.contains(&count), "{count} is not in {possible:?}");
        assert_eq!(status(&daemon.socket, "ticks_due"), "0");

        daemon.ticks(3);
        let [[first, last, many]] = ranges(&daemon.messages())[..] else {
            panic!("one line, not {:?}", ranges(&daemon.messages()))
        };
        assert_eq!((first, many), (left.state.next, last - first + 1));
        assert!(many >= due, "{many}");
        daemon.signal(Signal::TERM);
        let (ended, took) = daemon.ended();
        assert!(ended.success() && took < END, "{ended}, {took:?}");
        // Every other number has its own line, except those that the killed process had not yet
        // written. The record counts these.
        let (before, after) = (dead.all_ticks(), daemon.all_ticks());
        let written = u64::try_from(before.len()).expect("few");
        assert!((left.state.next - unlogged.ticks..=left.state.next).contains(&written));
        assert!(before.iter().copied().eq(0..written), "{before:?}");
        assert!(after.iter().copied().eq((last + 1..).take(after.len())), "{after:?}");
        let missing = record_at(&scratch, seconds).unlogged.ticks;
        assert_eq!(missing, 0, "all are in the log");
    }
}

fn record_at(scratch: &Scratch, seconds: u64) -> Record<Counter> {
    let now = now() + seconds * 1_000_000_000;
    read_at(&state_file(scratch), now).expect("a record")
}

#[test]
fn the_line_of_many_ticks_has_its_journal_fields() {
    let scratch = Scratch::new();
    let state = state_file(&scratch);
    let options = ["--timer-delay-ms", "100", "--state-file", state.to_str().expect("text")];
    end(serve(&scratch, "sock", &options[..2]), Signal::TERM);
    let mut journald = Journald::new(&scratch);
    let later = ["unshare", "--time", "--monotonic", "86400"];
    let _daemon = journald.start_by(&later, scratch.join("sock"), &options);
    let entry = journald.read_until("a line with a range", |entries| {
        entries.iter().find(|entry| entry.contains_key("TICKS")).cloned()
    });
    let field = |entry: &Entry, name: &str| entry[name].parse::<u64>().expect("a number");
    let [[first, last, count]] = ranges(&[entry["MESSAGE"].clone()])[..] else {
        panic!("a range, not {entry:?}")
    };
    assert_eq!(field(&entry, "COUNTER"), last, "the fields are those of the last one");
    assert_eq!((field(&entry, "TICKS"), count), (count, last - first + 1));
    assert!(field(&entry, "ACTUAL_NS") >= field(&entry, "DEADLINE_NS"), "{entry:?}");
    journald.read_to_tick(last + 1);
    let tick = journald.ticks().into_iter().find(|tick| tick.number == last + 1).expect("read");
    assert_eq!(tick.deadline - field(&entry, "DEADLINE_NS"), 100_000_000, "in its rhythm");
}

#[test]
fn a_record_from_the_future_is_reported_and_not_waited_for() {
    let scratch = Scratch::new();
    let options = ["--timer-delay-ms", "20"];
    end(start_and_wait(&scratch, DAY, &options), Signal::KILL);
    let daemon = serve(&scratch, "sock", &options);
    daemon.wait_for("its record has a deadline_ns ");
    daemon.wait_for("which is more than one period (20 ms)");
    assert_eq!(daemon.ticks(3)[..3], [0, 1, 2]);
}

fn start_and_wait(scratch: &Scratch, seconds: u64, options: &[&str]) -> Daemon {
    let daemon = start(scratch, binary(), seconds, "sock", options);
    daemon.wait_for("Listening on UNIX socket");
    daemon
}

fn meter() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        build::example_of("testkit", "meter").unwrap_or_else(|error| panic!("{error}"))
    })
}

/// A meter that starts `seconds` after another one ended at reading 0.
fn later_meter(scratch: &Scratch, seconds: u64, before: &[&str], options: &[&str]) -> Daemon {
    let dead = start(scratch, meter(), 0, "sock", &STILL);
    dead.wait_for("=> serving");
    end(dead, Signal::TERM);
    // The record of a run with the shorter period.
    set_period(scratch, 1);
    let program = Path::new("env");
    let meter = meter().to_str().expect("text");
    let options = [before, &[meter], options].concat();
    start_env(scratch, program, seconds, &options)
}

/// Like [`start`], but takes all arguments of `program`.
fn start_env(scratch: &Scratch, program: &Path, seconds: u64, arguments: &[&str]) -> Daemon {
    let mut command = ahead(seconds);
    command.arg(program).args(arguments).arg("--server-socket-path").arg(scratch.join("sock"));
    command.arg("--state-file").arg(state_file(scratch));
    let mut daemon = Daemon::spawn(&mut command);
    daemon.socket = scratch.join("sock");
    daemon
}

/// Sets the record's period, in milliseconds, and its deadline to now.
fn set_period(scratch: &Scratch, milliseconds: u32) {
    let path = state_file(scratch);
    let file = fs::read_to_string(&path).expect("text");
    let (head, tail) = file.split_once(" deadline_ns=").expect("a deadline");
    let service = tail.split(' ').find(|field| field.starts_with("service=")).unwrap_or_default();
    let (deadline, period) = (now(), u64::from(milliseconds) * 1_000_000);
    let text = format!("{head} deadline_ns={deadline} period_ns={period} {service}");
    fs::write(&path, crate::stage::sealed(&text)).expect("our own");
}

/// The reading in a record of the meter.
fn reading(scratch: &Scratch) -> u64 {
    let file = fs::read_to_string(state_file(scratch)).expect("text");
    number(file.trim_end(), "reading")
}

#[test]
fn catching_up_delays_neither_status_nor_manager_nor_stop() {
    const ALL: u64 = MONTHS * 1000;
    let scratch = Scratch::new();
    let mut manager = Manager::new(&scratch);
    let notify = format!("NOTIFY_SOCKET={}", manager.path.display());
    let before = [&notify, "WATCHDOG_USEC=300000"];
    let mut daemon = later_meter(&scratch, MONTHS, &before, &["--timer-delay-ms", "1"]);
    manager.wait_for("READY=1");
    let lives = |said: &[String]| said.iter().filter(|said| said.starts_with("WATCHDOG=1")).count();
    let already = lives(&manager.said);
    manager.wait_until("signs of life", |said| lives(said) > already + 2);
    // More clients than commands may be under way. Each waits and delays nobody else.
    let mut waiting: Vec<_> = (0..40).map(|_| Client::connect(&daemon.socket)).collect();
    waiting.iter_mut().for_each(|client| client.send("get_reading\n"));
    let ask = || {
        let line = nc(&daemon.socket, "nonsense\nstatus\n");
        let status = line.lines().nth(1).expect("two lines").to_owned();
        (number::<u64>(&status, "ticks_due"), number::<u64>(&status, "reading"))
    };
    let ((due, counted), first) = (ask(), reading(&scratch));
    assert!(due > 0 && due + counted >= ALL, "{due} due, {counted} counted");
    until("more are counted", || ask().1 > counted && reading(&scratch) > first);
    assert!(ask().0 > 0, "it was over before it was tried");

    daemon.signal(Signal::TERM);
    let (ended, took) = daemon.ended();
    assert!(ended.success() && took < END, "{ended}, {took:?}");
    for client in &mut waiting {
        assert_eq!(client.rest(), "", "no reply that lags behind the clock");
    }
    // The file holds the count, and the log contains every tick of it.
    let counted = reading(&scratch);
    assert!(counted < ALL, "{counted}");
    daemon.whole_log();
    let mut next = 0;
    for [first, last, count] in ranges(&daemon.messages()) {
        assert_eq!((first, count), (next, last - first + 1));
        next = last + 1;
    }
    assert_eq!(next, counted);
    let goes_on = start(&scratch, meter(), MONTHS, "sock", &["--timer-delay-ms", "1"]);
    goes_on.wait_for(&format!("Recovering at {counted} bar from "));
    goes_on.wait_for("=> serving");
    let mut goes_on = goes_on;
    goes_on.signal(Signal::TERM);
    assert!(goes_on.ended().1 < END);
    assert!(reading(&scratch) >= counted);
    let missing = goes_on.messages().into_iter().find(|line| line.contains("may be missing"));
    assert_eq!(missing, None, "all were logged");
}

#[test]
fn ticks_counted_but_not_logged_at_a_kill_are_named_later() {
    let scratch = Scratch::new();
    let daemon = later_meter(&scratch, MONTHS, &[], &["--timer-delay-ms", "1"]);
    until("readings", || reading(&scratch) > 1_000_000);
    end(daemon, Signal::KILL);
    let counted = reading(&scratch);
    let next = start(&scratch, meter(), MONTHS, "sock", &["--timer-delay-ms", "1"]);
    next.wait_for(&format!("to {} may be missing from the log", counted - 1));
}

#[test]
fn commands_during_a_catch_up_wait_and_are_answered_in_order() {
    const ALL: u64 = 20_000_000;
    let scratch = Scratch::new();
    let daemon = later_meter(&scratch, ALL / 1000, &[], &["--timer-delay-ms", "1"]);
    daemon.until_it_listens();
    let mut clients: Vec<_> = (0..40).map(|_| Client::connect(&daemon.socket)).collect();
    let lines = "nonsense\nget_reading\nset_unit kPa\nget_reading\nnonsense\nset_unit bar\n";
    for client in &mut clients {
        client.send(lines);
        client.send("get_rea");
        client.finish();
    }
    for client in &mut clients {
        let replies = client.rest();
        let replies: Vec<_> = replies.lines().collect();
        let [invalid, reading, bar, later, again, kpa, half] = replies[..] else {
            panic!("seven replies, not {replies:?}")
        };
        assert!([invalid, again, half].iter().all(|line| line.starts_with("Invalid command")));
        assert!([bar, kpa].iter().all(|line| line.starts_with("previous unit ")));
        let [reading, later]: [u64; 2] =
            [reading, later].map(|reading| reading.parse().expect("a reading"));
        assert!(reading >= ALL && later >= reading, "{reading}, {later}");
    }
}

#[test]
fn a_handoff_during_a_catch_up_carries_the_waiting_commands() {
    const ALL: u64 = 100_000_000;
    const PERIOD: [&str; 2] = ["--timer-delay-ms", "1"];
    for _ in 0..5 {
        let scratch = Scratch::new();
        let mut first = later_meter(&scratch, ALL / 1000, &[], &PERIOD);
        first.until_it_listens();
        let mut clients: Vec<_> = (0..40).map(|_| Client::connect(&first.socket)).collect();
        clients.iter_mut().for_each(|client| client.send("set_unit bar\nget_reading\n"));
        let predecessor = first.socket.to_str().expect("text");
        let options = [&PERIOD[..], &["--client-socket-path", predecessor]].concat();
        let second = start(&scratch, meter(), ALL / 1000, "second", &options);
        let adopting = second.wait_for("Adopting ").message;
        assert!(first.ended().0.success());
        for client in &mut clients {
            assert_eq!(client.line(), "previous unit bar");
            let reading: u64 = client.line().parse().expect("a reading");
            assert!(reading >= ALL, "{reading}");
        }
        let adopted = adopting.split(' ').nth(1).and_then(|reading| reading.parse().ok());
        if adopted.is_some_and(|reading: u64| reading < ALL) {
            // The replies may arrive before the line.
            second.wait_until("the line of the last of them", |lines| {
                let lines: Vec<_> = lines.iter().map(|line| line.message.clone()).collect();
                ranges(&lines).last().filter(|[_, last, _]| last + 1 >= ALL).copied()
            });
            // Exactly one of the two logs names each tick.
            let mut next = 0;
            for [first, last, _] in [&first, &second].iter().flat_map(|of| ranges(&of.messages())) {
                assert_eq!(first, next);
                next = last + 1;
            }
            return;
        }
    }
    panic!("it had caught up each time before it was asked");
}

#[test]
fn a_legacy_request_waits_for_the_catch_up_the_manager_not() {
    const ALL: u64 = 20_000_000;
    let scratch = Scratch::new();
    let mut manager = Manager::new(&scratch);
    let notify = format!("NOTIFY_SOCKET={}", manager.path.display());
    let before = [&notify, "WATCHDOG_USEC=30000"];
    let mut daemon = later_meter(&scratch, ALL / 1000, &before, &["--timer-delay-ms", "1"]);
    manager.wait_for("READY=1");
    let socket = daemon.socket.clone();
    let asker = thread::spawn(move || nc(&socket, "get_meter_and_terminate\n"));
    manager.wait_for("STATUS=draining: handing over to a successor");
    let reply = asker.join().expect("no panic");
    let reading: u64 =
        reply.split(' ').next().and_then(|reading| reading.parse().ok()).expect("a reading");
    assert!(reading >= ALL, "{reply}");
    assert!(daemon.ended().0.success());
}

/// The time until the next tick of a record, and its period.
fn ahead_of(record: &Record<Counter>) -> (u64, Period) {
    (record.snapshot.deadline.nanos_since(Monotonic::from_nanos(now())), record.snapshot.period)
}

const SHORT: [&str; 2] = ["--timer-delay-ms", "20"];
const CORRECTED: &str = "Changing the period from 3600000 ms to 20 ms";
const LENGTHENED: &str = "Changing the period from 20 ms to 3600000 ms";

/// Asserts that the daemon ticks every 20 ms, from this number on.
#[track_caller]
fn assert_short(daemon: &Daemon, scratch: &Scratch, first: u64) {
    daemon.wait_for(CORRECTED);
    assert_eq!(daemon.ticks(3)[..3], [first, first + 1, first + 2], "and no burst");
    let (left, period) = ahead_of(&record(&state_file(scratch)));
    assert!(left <= period.as_nanos() && period.as_nanos() == 20_000_000, "{left}, {period}");
}

/// Asserts that the next tick is an hour away; one may still be under way.
#[track_caller]
fn assert_long(daemon: &Daemon, scratch: &Scratch) {
    const HOUR: u64 = 3_600_000_000_000;
    daemon.wait_for(LENGTHENED);
    until("an hour to the next tick", || {
        let (left, period) = ahead_of(&record(&state_file(scratch)));
        period.as_nanos() == HOUR && left > HOUR - HOUR / 60
    });
}

#[test]
fn another_period_holds_at_once_after_a_restart() {
    for signal in [Signal::TERM, Signal::KILL] {
        let scratch = Scratch::new();
        end(serve(&scratch, "sock", &STILL), signal);
        let corrected = serve(&scratch, "sock", &SHORT);
        assert_short(&corrected, &scratch, 0);
        end(corrected, signal);
        assert_long(&serve(&scratch, "sock", &STILL), &scratch);
    }
}

#[test]
fn another_period_holds_at_once_after_a_handoff() {
    let scratch = Scratch::new();
    let mut first = serve(&scratch, "first", &STILL);
    let mut second = succeed(&scratch, "second", &first.socket, &SHORT);
    assert_short(&second, &scratch, 0);
    assert!(first.ended().0.success());
    let third = succeed(&scratch, "third", &second.socket, &STILL);
    assert_long(&third, &scratch);
    assert!(second.ended().0.success());
    let changes = third.messages().into_iter().filter(|line| line.contains("the period from"));
    assert_eq!(changes.count(), 1);
}

#[test]
fn after_a_successor_died_the_former_period_holds_at_once() {
    let scratch = Scratch::new();
    let daemon = serve(&scratch, "sock", &SHORT);
    let mut successor = Wire::ask(&daemon.socket, "handoff 1");
    let _offer = successor.offer();
    successor.say("prepared");
    assert_eq!(successor.line(), "commit");
    // The successor's record: counter 1000, next tick in an hour.
    let mut left = record(&state_file(&scratch));
    let hour = Period::from_millis(3_600_000).expect("not zero");
    left.snapshot.state = Counter { next: 1000 };
    left.snapshot.deadline = Monotonic::from_nanos(now() + hour.as_nanos());
    left.snapshot.period = hour;
    left.sequence += 1;
    let boot = fs::read("/proc/sys/kernel/random/boot_id").expect("Linux");
    let boot = BootId::parse(boot.trim_ascii_end()).expect("a boot id");
    let file = fs::File::options().write(true).open(state_file(&scratch)).expect("a state file");
    file.write_all_at(&left.encode(&boot), 0).expect("room");
    drop(successor);
    daemon.wait_for("Recovering at 1000 from ");
    daemon.wait_for(CORRECTED);
    daemon.wait_for("1002");
}
