// SPDX-License-Identifier: Apache-2.0
//! Reload: the owner starts the program on disk and hands over to it, or serves on if that fails.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use rustix::process::{Pid, Signal, kill_process};

use crate::stage::{Remains, is_locked, state_file};
use testkit::client::{Client, get_counter, nc, status};
use testkit::daemon::{Daemon, STILL, binary, copy_program, program};
use testkit::manager::Manager;
use testkit::pipe::Pipe;
use testkit::scratch::Scratch;
use testkit::starting::{self, detach};
use testkit::{build, until};

/// A service whose program can be exchanged on disk.
struct Service {
    scratch: Scratch,
    first: Daemon,
    _remains: Remains,
}

impl Service {
    /// Starts a copy of the program with these options.
    fn start(options: &[&str]) -> Self {
        Self::start_as(Scratch::new(), |scratch| {
            let mut command = Command::new(scratch.join("program"));
            detach(&mut command);
            command.arg("--server-socket-path").arg(scratch.join("socket"));
            command.arg("--state-file").arg(state_file(scratch)).args(options);
            command
        })
    }

    fn start_as(scratch: Scratch, command: impl FnOnce(&Scratch) -> Command) -> Self {
        copy_program(&scratch.join("program"));
        let socket = scratch.join("socket");
        let first = Daemon::spawn_at(&mut command(&scratch), socket);
        first.wait_for("Listening on UNIX socket");
        let _remains = Remains::of(&scratch);
        Self { scratch, first, _remains }
    }

    fn socket(&self) -> &Path {
        &self.first.socket
    }

    /// Puts another program in the place of the one that runs, as a package does. Another process
    /// makes the file, as in [`copy_program`].
    fn put(&self, content: impl AsRef<[u8]>, mode: u32) {
        let (data, fresh) = (self.scratch.join("data"), self.scratch.join("fresh"));
        fs::write(&data, content).expect("room");
        let copied = Command::new("cp").arg(&data).arg(&fresh).status();
        assert!(copied.is_ok_and(|status| status.success()), "room for a copy");
        fs::set_permissions(&fresh, Permissions::from_mode(mode)).expect("our own file");
        fs::rename(fresh, self.scratch.join("program")).expect("our own directory");
    }

    fn reload(&self) -> String {
        nc(self.socket(), "reload\n")
    }

    /// Reloads, and returns the process that serves afterwards.
    #[track_caller]
    fn reloaded(&self) -> u32 {
        let before = self.pid();
        let reply = self.reload();
        let after = self.pid();
        assert_eq!(reply, format!("reloaded: process {after} replaces process {before}\n"));
        assert_ne!(after, before);
        after
    }

    fn pid(&self) -> u32 {
        status(self.socket(), "pid").parse().expect("a number")
    }

    #[track_caller]
    fn end(&self, pid: u32) {
        kill(pid, Signal::TERM);
        until("the end of the last process", || !is_running(pid));
    }
}

fn kill(pid: u32, signal: Signal) {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).expect("a process id");
    kill_process(pid, signal).expect("the process is there");
}

/// Whether the process exists and is no zombie.
fn is_running(pid: u32) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    status.lines().any(|line| line.starts_with("State:") && !line.contains("(zombie)"))
}

fn children(pid: u32) -> String {
    let task = format!("/proc/{pid}/task/{pid}/children");
    fs::read_to_string(task).expect("a process").trim_end().to_owned()
}

fn descriptors(pid: u32) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).expect("a process").count()
}

#[test]
fn reloads_lose_no_tick_no_client_and_no_half_of_a_line() {
    let service = Service::start(&["--timer-delay-ms", "10"]);
    let (mut half, mut waiting) =
        (Client::connect(service.socket()), Client::connect(service.socket()));
    half.send("get_cou");
    assert!(waiting.ask("set_counter 100").starts_with("previous"));
    let first = service.pid();
    let mut last = first;
    let mut open = 0;
    for turn in 0..10 {
        last = service.reloaded();
        until("the old process has left", || children(last).is_empty() && !is_running(first));
        if turn == 0 {
            open = descriptors(last);
        }
        assert!(waiting.ask("get_counter").parse::<u64>().expect("a number") >= 100);
    }
    half.send("nter\n");
    assert!(half.line().parse::<u64>().expect("a number") >= 100);
    until("no more descriptors", || descriptors(last) <= open);
    assert_eq!(service.scratch.names(), ["program", "socket", "state"]);
    assert!(is_locked(&state_file(&service.scratch)));
    service.first.ticks(20);
    service.end(last);
    assert_eq!(service.scratch.names(), ["program", "state"], "the last one removes the socket");
    let mut ticks = service.first.all_ticks();
    // A process may write its last lines after the first ones of the next.
    ticks.sort_unstable();
    let jump = ticks.windows(2).filter(|two| two[1] != two[0] + 1).count();
    assert!(jump <= 1, "one command changed the number: {ticks:?}");
}

#[test]
fn the_command_reports_what_became_of_the_reload() {
    let service = Service::start(&STILL);
    let ask = || -> Output {
        let mut command = program();
        command.arg("--reload").arg("--server-socket-path").arg(service.socket());
        command.output().expect("the program starts")
    };
    let before = service.pid();
    let reloaded = ask();
    let text = String::from_utf8_lossy(&reloaded.stdout).into_owned();
    let mut lines = text.lines();
    assert!(reloaded.status.success(), "{reloaded:?}");
    assert!(lines.next().is_some_and(|line| line.starts_with("reloaded: process ")), "{text}");
    let status = lines.next().expect("a status line");
    assert!(status.contains(&format!(" predecessor={before} ")), "{status}");
    service.put("#!/bin/sh\nexit 3\n", 0o755);
    let failed = ask();
    let error = String::from_utf8_lossy(&failed.stderr).into_owned();
    assert_eq!(failed.status.code(), Some(1));
    assert_eq!(error, "early-service: not reloaded: it exited with status 3\n");
    fs::remove_file(service.socket()).expect("a socket");
    let error = String::from_utf8_lossy(&ask().stderr).into_owned();
    assert!(error.contains("cannot reload at ") && error.contains("No such file"), "{error}");
}

/// An executable for another processor: its header, and nothing else.
fn foreign() -> Vec<u8> {
    const HEADER: [u8; 20] =
        [0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0xff, 0xfe];
    [&HEADER[..], &[0; 1000]].concat()
}

#[test]
fn a_broken_program_costs_nothing_however_it_fails() {
    // Their connection is standard input, which a shell can also write to.
    const SLEEP: &str = "sleep 1000";
    const ASK: &str = "echo handoff 1 >&0";
    const PREPARE: &str =
        "while read line; do [ \"$line\" != end ] || break; done; echo prepared >&0";
    let script = |lines: &[&str]| format!("#!/bin/sh\n{}\n", lines.join("\n")).into_bytes();
    let whole = fs::read(binary()).expect("the program");
    // Without the end of its code; the debug information follows it.
    let truncated = whole[..100_000].to_vec();
    let broken: [(Vec<u8>, u32, &str); 10] = [
        (whole.clone(), 0o644, "cannot start "),
        (script(&["exit 1"]), 0o755, "it exited with status 1\n"),
        (script(&["kill -9 $$"]), 0o755, "signal 9 ended it\n"),
        (truncated, 0o755, "signal "),
        (foreign(), 0o755, "cannot start "),
        // An older release does not know of the connection.
        (script(&["exec 0</dev/null", SLEEP]), 0o755, "it does not speak the handoff\n"),
        (script(&["echo nonsense >&0", SLEEP]), 0o755, "it does not speak the handoff\n"),
        (script(&[SLEEP]), 0o755, "it did not ask for the state within 5 s\n"),
        (script(&[ASK, SLEEP]), 0o755, "timed out after 1000 ms\n"),
        (script(&[ASK, PREPARE, SLEEP]), 0o755, "it did not serve within 2 s\n"),
    ];
    // On a busy machine some of them also start too late, but not all twenty.
    let as_expected = [(); 10].map(|()| AtomicUsize::new(0));
    let meet_all = || {
        let service = Service::start(&["--timer-delay-ms", "50"]);
        let pid = service.pid();
        let mut client = Client::connect(service.socket());
        client.send("get_cou");
        for ((content, mode, expected), count) in broken.iter().zip(&as_expected) {
            service.put(content, *mode);
            let reply = service.reload();
            let why = reply.strip_prefix("not reloaded: ").expect(&reply);
            count.fetch_add(why.starts_with(expected).into(), Ordering::Relaxed);
            assert_eq!(service.pid(), pid, "{expected}");
        }
        fs::remove_file(service.scratch.join("program")).expect("a program");
        let reply = service.reload();
        assert!(reply.ends_with(": No such file or directory (os error 2)\n"), "{reply}");
        until("every child is reaped", || children(pid).is_empty());
        client.send("nter\n");
        assert!(client.line().parse::<u64>().is_ok(), "the client is still connected");
        service.put(&whole, 0o755);
        let last = service.reloaded();
        service.end(last);
        let mut ticks = service.first.all_ticks();
        // A process may write its last lines after the first ones of the next.
        ticks.sort_unstable();
        assert!(ticks.windows(2).all(|two| two[1] == two[0] + 1), "{ticks:?}");
    };
    // A few at a time, because other tests run beside this one.
    thread::scope(|scope| {
        for _ in 0..5 {
            scope.spawn(|| (0..4).for_each(|_| meet_all()));
        }
    });
    for ((.., expected), count) in broken.iter().zip(as_expected) {
        assert_ne!(count.into_inner(), 0, "no reload failed because {expected}");
    }
}

#[test]
fn one_reload_at_a_time_and_none_in_the_initrd() {
    let service = Service::start(&STILL);
    service.put("#!/bin/sh\nexec sleep 1000\n", 0o755);
    let mut first = Client::connect(service.socket());
    first.send("reload\n");
    until("a child", || !children(service.pid()).is_empty());
    assert_eq!(service.reload(), "not reloaded: another process is adopting the state\n");
    let mut successor = Client::connect(service.socket());
    assert_eq!(successor.ask("handoff 1"), "busy");
    let child = children(service.pid()).parse().expect("a process id");
    service.first.signal(Signal::TERM);
    assert_eq!(first.line(), "not reloaded: the service ends");
    until("the child was killed", || !is_running(child));

    let scratch = Scratch::new();
    let initrd = ["--survive-systemd-kill-signal"];
    let daemon = Daemon::serve(scratch.join("socket"), &[&initrd, &STILL[..]].concat());
    let reply = nc(&daemon.socket, "reload\nget_counter\n");
    assert_eq!(reply, "not reloaded: the root stage replaces the initrd stage\n0\n");
}

#[test]
fn the_program_is_found_by_the_path_by_which_it_was_started() {
    let service = Service::start_as(Scratch::new(), |scratch| {
        symlink("program", scratch.join("link")).expect("our own directory");
        let mut command = Command::new(scratch.join("link"));
        detach(&mut command);
        command.arg("--server-socket-path").arg(scratch.join("socket")).args(STILL);
        command
    });
    let exe = |pid| fs::read_link(format!("/proc/{pid}/exe")).expect("a process");
    assert!(exe(service.pid()).ends_with("program"));
    copy_program(&service.scratch.join("newer"));
    fs::remove_file(service.scratch.join("link")).expect("a link");
    symlink("newer", service.scratch.join("link")).expect("our own directory");
    assert!(exe(service.reloaded()).ends_with("newer"));
}

#[test]
fn pid_1_learns_of_the_new_main_process_and_of_nothing_else() {
    let scratch = Scratch::new();
    let mut manager = Manager::new(&scratch);
    let mut command = program();
    command.arg("--server-socket-path").arg(scratch.join("socket")).args(STILL);
    command.env("NOTIFY_SOCKET", &manager.path).env("WATCHDOG_USEC", "3000000");
    let mut first = Daemon::listen_at(&mut command, scratch.join("socket"));
    let _remains = Remains::of(&scratch);
    manager.wait_for("READY=1");
    manager.said.clear();
    let reply = nc(&first.socket, "reload\n");
    let pid = status(&first.socket, "pid");
    assert!(first.ended().0.success());
    manager.wait_for("READY=1");
    let environment = fs::read(format!("/proc/{pid}/environ")).expect("a process");
    kill(pid.parse().expect("a number"), Signal::TERM);
    manager.wait_for("STOPPING=1");
    let said = &manager.said;
    assert!(reply.starts_with("reloaded: "), "{reply}");
    let place = |what: &str| said.iter().position(|said| said == what).expect(what);
    let main = place(&format!("MAINPID={pid}"));
    assert!(main < place("READY=1") && main < place("STOPPING=1"), "{said:?}");
    // The successor's first sign of life is a second away, and another reload may come before.
    assert_eq!(said[main + 1], "WATCHDOG=1", "{said:?}");
    let before = &said[..main];
    let is_owners = |said: &String| {
        said == "WATCHDOG=1"
            || said.starts_with("STATUS=draining")
            || said.starts_with("STATUS=serving")
    };
    assert!(before.iter().all(is_owners), "the successor spoke too early: {said:?}");
    let environment = String::from_utf8_lossy(&environment);
    let names: Vec<_> = environment.split('\0').filter_map(|field| field.split_once('=')).collect();
    assert!(names.contains(&("WATCHDOG_USEC", "3000000")), "the watchdog continues");
    assert!(!names.iter().any(|(name, _)| ["WATCHDOG_PID", "LISTEN_FDS"].contains(name)));
}

#[test]
fn a_passed_socket_stays_with_systemd_and_a_rebound_one_is_put_back() {
    for options in [&[][..], &["--rebind"]] {
        let scratch = Scratch::new();
        let socket = scratch.join("socket");
        let passed = UnixListener::bind(&socket).expect("a socket");
        let service = Service::start_as(scratch, |scratch| {
            let mut command = starting::with(scratch.join("program"), &passed);
            command.arg("--state-file").arg(state_file(scratch)).args(options).args(STILL);
            command
        });
        let inode = || std::os::unix::fs::MetadataExt::ino(&fs::metadata(&socket).expect("a file"));
        let before = inode();
        let mut client = Client::connect(&socket);
        service.reloaded();
        let last = service.reloaded();
        assert_eq!(inode(), before, "{options:?}");
        assert_eq!(client.ask("get_counter"), "0");
        service.end(last);
        assert!(!service.scratch.names().contains(&"socket.passed".to_owned()), "{options:?}");
        let mut waiting = Client::connect(&socket);
        waiting.send("get_counter\n");
        let mut command = starting::with(binary(), &passed);
        let _next = Daemon::spawn(command.arg("--state-file").arg(state_file(&service.scratch)));
        assert_eq!(waiting.line(), "0", "PID 1 still listens");
    }
}

#[test]
fn a_taken_over_socket_and_no_state_file_are_reloaded_too() {
    let scratch = Scratch::new();
    let socket = scratch.join("socket");
    let old = Daemon::serve(&socket, &STILL);
    let service = Service::start_as(scratch, |scratch| {
        let mut command = Command::new(scratch.join("program"));
        detach(&mut command);
        command.arg("--server-socket-path").arg(scratch.join("socket"));
        command.arg("--takeover-existing-socket").args(STILL);
        command
    });
    drop(old);
    assert!(nc(service.socket(), "set_counter 7\n").starts_with("previous"));
    service.reloaded();
    let last = service.reloaded();
    assert_eq!(get_counter(service.socket()), 7);
    service.end(last);
    assert_eq!(service.scratch.names(), ["program"]);
}

/// The owner could not open the file, and the successor could: the lock is free, and the file has
/// the state of an earlier owner.
#[test]
fn a_successor_with_a_free_lock_waits_for_the_owner_all_the_same() {
    let scratch = Scratch::new();
    let earlier = Daemon::serve(scratch.join("earlier"), &STILL);
    drop(earlier);
    let directory = scratch.join("directory");
    let service = Service::start_as(scratch, |scratch| {
        let mut command = Command::new(scratch.join("program"));
        detach(&mut command);
        command.arg("--server-socket-path").arg(scratch.join("socket")).args(STILL);
        command.arg("--state-file").arg(scratch.join("directory/state"));
        command
    });
    service.first.wait_for("the state will not outlive us");
    assert!(nc(service.socket(), "set_counter 7\n").starts_with("previous"));
    fs::create_dir(&directory).expect("our own directory");
    let mut other = program();
    other.arg("--server-socket-path").arg(service.scratch.join("other")).args(STILL);
    other.arg("--state-file").arg(directory.join("state"));
    let mut other = Daemon::listen_at(&mut other, service.scratch.join("other"));
    assert_eq!(nc(&other.socket, "set_counter 99\n"), "previous value 0\n");
    other.signal(Signal::TERM);
    assert!(other.ended().0.success());
    service.reloaded();
    assert_eq!(get_counter(service.socket()), 7);
}

/// Only the main process can name another one, and it is that once its predecessor has left.
#[test]
fn a_reload_waits_until_the_predecessor_has_left() {
    let scratch = Scratch::new();
    let mut manager = Manager::new(&scratch);
    let service = Service::start_as(scratch, |scratch| {
        let mut command = Command::new(scratch.join("program"));
        detach(&mut command);
        command.arg("--server-socket-path").arg(scratch.join("socket")).args(STILL);
        command.env("NOTIFY_SOCKET", &manager.path);
        command
    });
    manager.wait_for("READY=1");
    // PID 1 takes no message, so the first process cannot name its successor and stays.
    let full = manager.fill();
    let second = service.reloaded();
    let mut client = Client::connect(service.socket());
    client.send("reload\n");
    assert_eq!(service.pid(), second, "its command was read");
    assert_eq!(children(second), "", "it starts the third process too early");
    manager.empty(full);
    assert!(client.line().starts_with("reloaded: "));
    let third = service.pid();
    manager.wait_for(&format!("MAINPID={third}"));
    let place = |pid| manager.said.iter().position(|said| *said == format!("MAINPID={pid}"));
    assert!(place(second) < place(third) && place(second).is_some(), "{:?}", manager.said);
    service.end(third);
}

#[test]
fn a_process_that_was_not_started_by_the_owner_takes_over_nothing() {
    let scratch = Scratch::new();
    let mut command = program();
    command.arg("--server-socket-path").arg(scratch.join("socket")).env("RELOADED_BY", "1");
    let mut daemon = Daemon::spawn(&mut command);
    assert_eq!(daemon.ended().0.code(), Some(1));
    daemon.wait_for("cannot take over from process 1: ");
    assert_eq!(scratch.names(), [""; 0]);
}

#[test]
fn a_device_stays_open_in_pid_1_and_in_use_through_a_reload() {
    let scratch = Scratch::new();
    let mut hardware = Pipe::new(&scratch);
    let mut manager = Manager::new(&scratch);
    let program: PathBuf = build::example("watchdog").expect("the example");
    let mut command = Command::new(program);
    detach(&mut command);
    command.arg("--server-socket-path").arg(scratch.join("socket")).args(STILL);
    command.arg("--state-file").arg(state_file(&scratch));
    command.env("NOTIFY_SOCKET", &manager.path).env("WATCHDOG", &hardware.path);
    let mut first = Daemon::listen_at(&mut command, scratch.join("socket"));
    let _remains = Remains::of(&scratch);
    hardware.wait_for(2);
    manager.wait_for("READY=1");
    manager.said.clear();
    fs::rename(&hardware.path, scratch.join("moved")).expect("a pipe");
    let reply = nc(&first.socket, "reload\n");
    assert!(reply.starts_with("reloaded: "), "{reply}");
    assert!(first.ended().0.success());
    hardware.wait_for(2);
    assert_eq!(status(&first.socket, "device"), "running");
    let pid: u32 = status(&first.socket, "pid").parse().expect("a number");
    manager.wait_for(&format!("MAINPID={pid}"));
    manager.read_waiting();
    assert!(!manager.said.contains(&"FDSTOREREMOVE=1".to_owned()), "{:?}", manager.said);
    assert!(!manager.stored.is_empty());
    kill(pid, Signal::TERM);
    until("the end", || !is_running(pid));
    manager.read_waiting();
    manager.stored.clear();
    // A process that another test starts at this moment has copies until it executes its program.
    until("the end of the device", || {
        hardware.look();
        hardware.is_closed
    });
    assert!(hardware.bytes.ends_with(b"V"), "{:?}", hardware.bytes);
}
