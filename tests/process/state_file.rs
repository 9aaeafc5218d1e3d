// SPDX-License-Identifier: Apache-2.0
//! State file: what the daemon does with whatever it finds in the file's place.

use std::ffi::OsStr;
use std::fs::{self, File, Permissions};
use std::io::Write;
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, SystemTime};

use early_service_machine::Counter;
use early_service_machine::bounds::RECORD_SIZE;
use early_service_machine::record::BootId;
use rustix::fs::{CWD, FileType, Mode, mknodat};
use rustix::process::{Signal, geteuid};

use crate::END;
use crate::stage::{for_everybody, forged, is_locked, read, record, serve, state_file};
use testkit::client::{get_counter, nc, status, until_served};
use testkit::daemon::{Daemon, STILL, detach};
use testkit::scratch::Scratch;
use testkit::{now, until};

/// The record of a process that died, at 137.
fn left_behind(scratch: &Scratch) -> Vec<u8> {
    let mut dead = serve(scratch, "dead", &STILL);
    nc(&dead.socket, "set_counter 137\n");
    dead.signal(Signal::KILL);
    dead.ended();
    fs::read(state_file(scratch)).expect("a state file")
}

/// Log lines that name the state file, except for the one that reports a recovery.
fn said_of(daemon: &Daemon, path: &Path) -> Vec<String> {
    let path = path.to_str().expect("text");
    daemon.messages().into_iter().filter(|line| line.contains(path)).collect()
}

#[test]
fn a_file_without_a_state_of_this_boot_is_ignored_and_replaced() {
    let scratch = Scratch::new();
    let good = left_behind(&scratch);
    let other = BootId::parse(b"00000000-0000-4000-8000-000000000000").expect("its form");
    let mut record = read(&state_file(&scratch)).expect("a record");
    let written = record.realtime.expect("this release writes it");
    let since_1970 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970");
    let ago = since_1970.abs_diff(Duration::from_nanos(written.as_nanos()));
    assert!(ago < Duration::from_secs(3600), "{written} is {ago:?} from now");
    let stale = record.encode(&other);
    let stale_since =
        format!("it is of another boot (last written {written}); its state does not continue");
    record.realtime = None;
    let older = record.encode(&other);
    let damaged: Vec<u8> =
        good.iter().map(|byte| if *byte == b'7' { b'8' } else { *byte }).collect();
    let long_text = b"years of work\n".repeat(100);
    for (case, content, why) in [
        ("stale", &stale[..], &*stale_since),
        ("stale, of release 0.1.0", &older, "it is of another boot; its state does not continue"),
        ("foreign", b"years of work\n", "it is not a state file of this program"),
        ("long", &long_text, "it is not a state file of this program"),
        ("damaged", &damaged, "its record is torn"),
        ("cut off", &good[..100], "its record is torn"),
        ("empty", b"", "it is empty"),
        ("zeros", &[0; RECORD_SIZE], "it is empty"),
    ] {
        let scratch = Scratch::new();
        let path = state_file(&scratch);
        fs::write(&path, content).expect("room");
        let mut daemon = serve(&scratch, "sock", &STILL);
        assert_eq!(get_counter(&daemon.socket), 0, "{case}");
        let said = said_of(&daemon, &path);
        assert_eq!(said, [format!("warning: Ignoring {}: {why}", path.display())], "{case}");
        nc(&daemon.socket, "set_counter 5\n");
        assert!(is_locked(&path), "{case}");
        daemon.signal(Signal::KILL);
        daemon.ended();
        let next = serve(&scratch, "sock", &STILL);
        assert_eq!(get_counter(&next.socket), 5, "{case}");
    }
}

#[test]
fn an_impossible_record_is_ignored_and_its_field_named() {
    let ahead = now() + 3_600_000_000_000;
    let far = format!("unlogged=0 unbroken=0 counter=5 deadline_ns={ahead} period_ns=100000000");
    for (fields, field) in [
        ("unlogged=0 unbroken=0 counter=5 deadline_ns=1 period_ns=18446744073709551615", "period"),
        ("unlogged=0 unbroken=0 counter=5 deadline_ns=1 period_ns=4294967295000001", "period_ns"),
        ("unlogged=0 unbroken=0 counter=5 deadline_ns=1 period_ns=1", "a period_ns of 1,"),
        ("unlogged=0 unbroken=0 counter=5 deadline_ns=1 period_ns=0", "a period_ns of 0,"),
        // An hour, minus the delay of a busy machine until the record is read.
        (&far, "a deadline_ns 35"),
        (
            "unlogged=0 unbroken=0 counter=5 deadline_ns=18446744073709551615 \
             period_ns=4294967295000000",
            "a deadline_ns 1844",
        ),
        (
            "unlogged=18446744073709551615 unbroken=18446744073709551615 counter=5 \
             deadline_ns=1000000 period_ns=100000000",
            "unlogged=18446744073709551615",
        ),
        ("unlogged=0 unbroken=1 counter=5 deadline_ns=1 period_ns=100000000", "unbroken=1"),
        (
            "unlogged=0 !later=1 counter=5 deadline_ns=1 period_ns=100000000",
            "the unknown key '!later'",
        ),
        ("unlogged=0 unbroken=0 counter=-5 deadline_ns=1 period_ns=100000000", "valid counter"),
    ] {
        let scratch = Scratch::new();
        let path = state_file(&scratch);
        fs::write(&path, forged(&format!("sequence=1 {fields}"))).expect("room");
        let mut daemon = serve(&scratch, "sock", &["--timer-delay-ms", "20"]);
        let said = said_of(&daemon, &path);
        let [said] = &said[..] else { panic!("one line, not {said:?}") };
        let ignoring = format!("warning: Ignoring {}: its record has ", path.display());
        assert!(said.starts_with(&ignoring) && said.contains(field), "{fields}: {said}");
        assert_eq!(daemon.ticks(3)[..3], [0, 1, 2], "{fields}");
        daemon.signal(Signal::TERM);
        let (ended, took) = daemon.ended();
        assert!(ended.success() && took < END, "{fields}: {ended}, {took:?}");
    }
}

#[test]
fn a_record_with_the_extreme_values_is_used() {
    let next = now() + 3_000_000_000_000;
    let still = format!("counter=5 deadline_ns={next} period_ns=4294967295000000");
    for (fields, counters) in [
        // The shortest period since the clock's zero: one tick per millisecond.
        ("counter=5 deadline_ns=0 period_ns=1000000", now() / 1_000_000..u64::MAX),
        (&still, 5..6),
        ("counter=18446744073709551615 deadline_ns=1 period_ns=4294967295000000", 0..1),
    ] {
        let scratch = Scratch::new();
        let path = state_file(&scratch);
        let fields = format!("sequence=18446744073709551615 unlogged=0 unbroken=0 {fields}");
        fs::write(&path, forged(&fields)).expect("room");
        let daemon = serve(&scratch, "sock", &STILL);
        daemon.wait_for("Recovering at ");
        let counter = get_counter(&daemon.socket);
        assert!(counters.contains(&counter), "{fields}: {counter}");
    }
}

#[test]
fn what_stands_behind_the_record_does_not_matter() {
    let scratch = Scratch::new();
    let good = left_behind(&scratch);
    fs::write(state_file(&scratch), [&good[..], b"and more\n"].concat()).expect("room");
    let daemon = serve(&scratch, "sock", &STILL);
    assert_eq!(get_counter(&daemon.socket), 137);
}

#[test]
fn a_new_file_is_no_news_and_has_room_for_the_record() {
    let scratch = Scratch::new();
    let path = state_file(&scratch);
    let daemon = serve(&scratch, "sock", &STILL);
    assert_eq!(said_of(&daemon, &path), [""; 0]);
    let file = fs::metadata(&path).expect("a state file");
    assert_eq!(usize::try_from(file.len()), Ok(RECORD_SIZE));
    let mode = file.permissions().mode();
    assert_eq!(mode & 0o7777, 0o600, "a process that can open it can lock it and forge its record");
}

#[test]
fn what_is_not_a_regular_file_is_named_and_left_alone() {
    type Make = fn(&Path);
    let makes: [(&str, Make); 6] = [
        ("it is not a regular file", |path| {
            mknodat(CWD, path, FileType::Fifo, Mode::RWXU, 0).expect("a pipe");
        }),
        ("Is a directory", |path| fs::create_dir(path).expect("a directory")),
        ("Too many levels of symbolic links", |path| {
            fs::write(path.with_extension("target"), "years of work").expect("room");
            symlink(path.with_extension("target"), path).expect("a link");
        }),
        ("Too many levels of symbolic links", |path| symlink("nowhere", path).expect("a link")),
        ("No such device or address", |path| {
            drop(std::os::unix::net::UnixListener::bind(path).expect("a socket"));
        }),
        ("it is not a regular file", |path| {
            let device = rustix::fs::makedev(1, 3);
            mknodat(CWD, path, FileType::CharacterDevice, Mode::RWXU, device).expect("root");
        }),
    ];
    assert!(geteuid().is_root(), "this test needs root, to make a device");
    for (why, make) in makes {
        let scratch = Scratch::new();
        let path = state_file(&scratch);
        make(&path);
        let daemon = serve(&scratch, "sock", &STILL);
        assert_eq!(get_counter(&daemon.socket), 0, "{why}");
        let [said] = &said_of(&daemon, &path)[..] else {
            panic!("one line, not {:?}", said_of(&daemon, &path))
        };
        assert!(said.starts_with("error: cannot ") && said.contains(why), "{why}: {said}");
        assert!(said.ends_with("; the state will not outlive us"), "{said}");
        let target = fs::read_to_string(path.with_extension("target"));
        assert!(target.is_err() || target.is_ok_and(|text| text == "years of work"));
    }
}

/// Needs root, to run as a user without permission.
#[test]
fn a_file_that_may_not_be_opened_or_made_is_named() {
    assert!(geteuid().is_root(), "this test needs root, to run as a user without permission");
    for is_there in [true, false] {
        let scratch = Scratch::new();
        fs::create_dir(scratch.join("open")).expect("a directory");
        fs::set_permissions(scratch.join("open"), Permissions::from_mode(0o777)).expect("our own");
        let copy = for_everybody(&scratch);
        fs::set_permissions(scratch.join(""), Permissions::from_mode(0o755)).expect("our own");
        if is_there {
            fs::write(state_file(&scratch), "").expect("room");
            let nobody = Permissions::from_mode(0o600);
            fs::set_permissions(state_file(&scratch), nobody).expect("our own");
        }
        let mut command = Command::new("setpriv");
        detach(&mut command);
        command.args(["--reuid=65534", "--clear-groups"]).arg(&copy).args(STILL);
        command.arg("-s").arg(scratch.join("open/sock"));
        command.arg("--state-file").arg(state_file(&scratch));
        let daemon = Daemon::spawn(&mut command);
        let path = state_file(&scratch);
        daemon.wait_for(&format!("cannot open state file {}: Permission denied", path.display()));
        until_served(&scratch.join("open/sock"));
        assert_eq!(get_counter(scratch.join("open/sock")), 0);
    }
}

/// Starts the program with its state file on a file system of `pages` pages, after `before`.
fn on_pages(scratch: &Scratch, pages: usize, before: &str) -> Daemon {
    let directory = scratch.join("small");
    fs::create_dir(&directory).expect("a directory");
    let mount =
        format!("mount -t tmpfs -o size={} tmpfs small && {before} exec \"$@\"", pages * 4096);
    let mut command = Command::new("unshare");
    detach(&mut command);
    if !geteuid().is_root() {
        command.args(["--user", "--map-root-user"]);
    }
    command.args(["--mount", "sh", "-c", &mount, "sh"]).current_dir(scratch.join(""));
    command.arg(testkit::daemon::binary()).args(STILL);
    command.arg("-s").arg(scratch.join("sock"));
    command.arg("--state-file").arg(directory.join("state"));
    let mut daemon = Daemon::spawn(&mut command);
    daemon.socket = scratch.join("sock");
    daemon.wait_for("Listening on UNIX socket");
    daemon
}

#[test]
fn a_full_file_system_costs_the_recovery_and_not_the_service() {
    let scratch = Scratch::new();
    let daemon = on_pages(&scratch, 1, "head -c 4096 /dev/zero >small/full;");
    let path = scratch.join("small/state");
    let said = said_of(&daemon, &path);
    let [said] = &said[..] else { panic!("one line, not {said:?}") };
    let cause = format!("cannot write the state to {}: No space left", path.display());
    assert!(said.contains(&cause), "{said}");
    assert_eq!(nc(&daemon.socket, "set_counter 5\n"), "previous value 0\n");
    assert_eq!(status(&daemon.socket, "state_file"), "failing");
    // The lock needs no space, and prevents a second owner.
    let inside = format!("/proc/{}/root{}", daemon.pid(), path.display());
    assert!(is_locked(Path::new(&inside)));
}

#[test]
fn a_file_system_that_fills_up_later_changes_nothing() {
    // The existing file is too short; the daemon reserves the remaining space too.
    for before in ["", ": >small/state;", "printf hello >small/state;"] {
        let scratch = Scratch::new();
        let daemon = on_pages(&scratch, 2, before);
        // Only the daemon's namespace has the mount.
        let inside = format!("/proc/{}/root{}", daemon.pid(), scratch.join("small").display());
        let inside = Path::new(OsStr::new(&inside));
        let mut full = File::create(inside.join("full")).expect("a file");
        while full.write(&[0; 4096]).is_ok() {}
        assert_eq!(nc(&daemon.socket, "set_counter 5\n"), "previous value 0\n");
        assert_eq!(record(&inside.join("state")).snapshot.state, Counter { next: 5 });
        assert!(!daemon.messages().iter().any(|line| line.contains("cannot")), "{before}");
    }
}

#[test]
fn an_owner_whose_file_is_replaced_serves_on() {
    type Act = fn(&Path);
    let acts: [Act; 2] = [
        |path| fs::remove_file(path).expect("our own"),
        |path| {
            fs::write(path.with_extension("new"), "").expect("room");
            fs::rename(path.with_extension("new"), path).expect("our own");
        },
    ];
    for act in acts {
        let scratch = Scratch::new();
        let first = serve(&scratch, "first", &STILL);
        act(&state_file(&scratch));
        assert_eq!(nc(&first.socket, "set_counter 5\n"), "previous value 0\n");
        // The price: a process that knows no predecessor is not kept out.
        let stranger = serve(&scratch, "stranger", &STILL);
        assert_eq!(get_counter(&stranger.socket), 0);
        // A successor receives everything that the owner has, including the lock.
        let mut second = crate::stage::succeed(&scratch, "second", &first.socket, &STILL);
        second.wait_for("is not that of");
        drop(stranger);
        second.wait_for("=> serving");
        assert!(second.is_running());
    }
}

#[test]
fn waiting_for_the_lock_follows_a_replaced_file() {
    let scratch = Scratch::new();
    let path = state_file(&scratch);
    let good = left_behind(&scratch);
    let lock = crate::stage::lock(&path);
    let waiting = crate::stage::start(&scratch, "sock", &STILL);
    waiting.wait_for("is locked by another process: waiting for it");
    fs::write(path.with_extension("new"), &good).expect("room");
    fs::rename(path.with_extension("new"), &path).expect("our own");
    waiting.wait_for("=> serving");
    assert_eq!(get_counter(&waiting.socket), 137);
    until("its lock", || is_locked(&path));
    drop(lock);
    let file = File::options().write(true).open(&path).expect("a state file");
    file.write_all_at(b"x", 0).expect("room");
}
