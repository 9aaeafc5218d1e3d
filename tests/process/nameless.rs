// SPDX-License-Identifier: Apache-2.0
//! Nameless: a socket whose name is removed, while it is served or before.

use std::fs::{self, Permissions};
use std::io::{BufRead, BufReader, Write};
use std::net::Shutdown;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use rustix::process::Signal;

use crate::stage::{serve, start_under};
use crate::wire::Wire;
use testkit::LIMIT;
use testkit::client::Client;
use testkit::daemon::{Daemon, STILL, started_with};
use testkit::manager::Manager;
use testkit::scratch::Scratch;
use testkit::until;

/// Asks until a server answers at `path`; the previous socket may have the name for a moment.
#[track_caller]
fn asked_again(path: &Path) -> u64 {
    let ask = || {
        let mut stream = UnixStream::connect(path).ok()?;
        stream.set_read_timeout(Some(LIMIT)).ok()?;
        stream.write_all(b"get_counter\n").ok()?;
        let mut reply = String::new();
        BufReader::new(stream).read_line(&mut reply).ok()?;
        reply.trim_end().parse().ok()
    };
    let mut reply = None;
    until("an answer by that name", || {
        reply = ask();
        reply.is_some()
    });
    reply.expect("waited for")
}

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).expect("a socket").mode() & 0o7777
}

#[test]
fn a_missing_name_is_bound_again_and_waiting_clients_served() {
    let scratch = Scratch::new();
    let mut daemon = serve(&scratch, "sock", &STILL);
    let path = daemon.socket.clone();
    fs::set_permissions(&path, Permissions::from_mode(0o640)).expect("our own file");
    let mut client = Client::connect(&path);
    assert_eq!(client.ask("set_counter 137"), "previous value 0");
    let seen = fs::symlink_metadata(&path).expect("a socket").ino();
    for round in 0..2 {
        // A client that connects before the removal waits in the old socket's queue.
        daemon.stop();
        let mut waiting = Client::connect(&path);
        waiting.send("get_counter\n");
        fs::remove_file(&path).expect("our own");
        daemon.signal(Signal::CONT);
        assert_eq!(waiting.line(), "137", "{round}");
        assert_eq!(asked_again(&path), 137, "{round}");
        let line = format!("The name of the socket {} was gone: bound it again", path.display());
        daemon.wait_until("both lines", |lines| {
            let said = lines.iter().filter(|said| said.message.contains(&line)).count();
            (said == round + 1).then_some(())
        });
        assert_ne!(fs::symlink_metadata(&path).expect("a socket").ino(), seen);
    }
    assert_eq!(client.ask("get_counter"), "137", "connected clients notice nothing");
    daemon.signal(Signal::TERM);
    assert!(daemon.ended().0.success());
    assert_eq!(scratch.names(), ["state"], "the fresh one goes with it");
}

#[test]
fn a_fresh_socket_has_the_mode_of_the_one_that_is_gone() {
    let scratch = Scratch::new();
    let path = scratch.join("public");
    let passed = UnixListener::bind(&path).expect("a socket");
    fs::set_permissions(&path, Permissions::from_mode(0o610)).expect("our own file");
    let daemon = Daemon::spawn(started_with(&passed).args(STILL));
    daemon.wait_for("Listening on UNIX socket");
    fs::remove_file(&path).expect("our own");
    assert_eq!(asked_again(&path), 0);
    until("its mode", || mode(&path) == 0o610);
}

#[test]
fn what_has_its_place_is_left_there_and_named_until_it_goes() {
    let scratch = Scratch::new();
    let mut manager = Manager::new(&scratch);
    let daemon = start_under(&manager, scratch.join("sock"), &STILL);
    manager.wait_for("READY=1");
    let path = daemon.socket.clone();
    let gone = format!("error: the name of the socket {} is gone: ", path.display());
    fs::remove_file(&path).expect("our own");
    fs::write(&path, "years of work").expect("room");
    daemon.wait_for(&format!("{gone}cannot bind {}: the file there is not", path.display()));
    manager.wait_until("that it is gone", |said| {
        said.iter().any(|said| said.contains("; the name of a socket is gone; clients: "))
    });
    assert_eq!(fs::read_to_string(&path).expect("still there"), "years of work");
    fs::remove_file(&path).expect("our own");
    // The file is renamed before or after the daemon binds. Either way, another process has the
    // name.
    let other = UnixListener::bind(scratch.join("other")).expect("a socket");
    fs::rename(scratch.join("other"), &path).expect("our own");
    daemon.wait_for(&format!("{gone}cannot serve {}: another process is", path.display()));
    assert!(UnixStream::connect(&path).is_ok(), "it is left there");
    drop(other);
    assert_eq!(asked_again(&path), 0, "no process listens on it any more");
    manager.wait_until("that it is back", |said| {
        let last = said.iter().rfind(|said| said.starts_with("STATUS="));
        last.is_some_and(|last| !last.contains("is gone"))
    });
}

#[test]
fn a_missing_directory_is_reported_and_the_name_restored() {
    let scratch = Scratch::new();
    let directory = scratch.join("run");
    fs::create_dir(&directory).expect("room");
    let path = directory.join("sock");
    let daemon = Daemon::serve(&path, &STILL);
    fs::remove_dir_all(&directory).expect("our own");
    daemon.wait_for(&format!("error: the name of the socket {} is gone: cannot", path.display()));
    fs::create_dir(&directory).expect("room");
    assert_eq!(asked_again(&path), 0);
    let said = daemon.messages().iter().filter(|line| line.contains("is gone: cannot")).count();
    assert_eq!(said, 1, "once, however often it is tried");
}

#[test]
fn a_passed_socket_without_a_name_is_said_and_bound_at_its_path() {
    let scratch = Scratch::new();
    let path = scratch.join("public");
    let passed = UnixListener::bind(&path).expect("a socket");
    let mut early = Client::connect(&path);
    early.send("get_counter\n");
    fs::remove_file(&path).expect("our own");
    // Like `systemctl restart` of the service. The second round also finds what a kill left behind.
    for signal in [Signal::KILL, Signal::TERM, Signal::TERM] {
        let mut daemon = Daemon::spawn(started_with(&passed).args(STILL).arg("-s").arg(&path));
        daemon.wait_for("was gone: bound it again");
        assert_eq!(asked_again(&path), 0);
        daemon.signal(signal);
        daemon.ended();
        assert_eq!(scratch.names().len(), usize::from(signal == Signal::KILL), "{signal:?}");
    }
    assert_eq!(early.line(), "0", "a client in its queue is served");
}

#[test]
fn a_name_removed_by_the_predecessor_is_restored_in_a_moment() {
    // An older release removes it if it spells the path differently.
    let scratch = Scratch::new();
    let daemon = serve(&scratch, "sock", &STILL);
    let path = daemon.socket.clone();
    let next = Daemon::serve(&path, &["--takeover-existing-socket"]);
    fs::remove_file(&path).expect("our own");
    asked_again(&path);
    next.wait_for("was gone: bound it again");
    drop(daemon);
}

#[test]
fn a_listener_that_a_successor_shut_down_is_bound_again() {
    let scratch = Scratch::new();
    let daemon = serve(&scratch, "sock", &STILL);
    let mut client = Client::connect(&daemon.socket);
    assert_eq!(client.ask("set_counter 137"), "previous value 0");
    for how in [Shutdown::Both, Shutdown::Read] {
        let mut successor = Wire::ask(&daemon.socket, "handoff 1");
        let offer = successor.offer();
        let listener = offer.listeners[0].as_fd().try_clone_to_owned().expect("a descriptor");
        UnixStream::from(listener).shutdown(how).expect("a socket");
        successor.say("abort");
        assert_eq!(asked_again(&daemon.socket), 137, "{how:?}");
        assert_eq!(client.ask("get_counter"), "137", "{how:?}");
    }
}

#[test]
fn a_rebound_socket_is_bound_again_and_gives_its_place_back() {
    let scratch = Scratch::new();
    let path = scratch.join("public");
    let passed = UnixListener::bind(&path).expect("a socket");
    let old = fs::symlink_metadata(&path).expect("a socket").ino();
    let mut daemon = Daemon::spawn(started_with(&passed).arg("--rebind").args(STILL));
    daemon.wait_for("Listening on UNIX socket");
    fs::remove_file(&path).expect("our own");
    assert_eq!(asked_again(&path), 0);
    daemon.signal(Signal::TERM);
    assert!(daemon.ended().0.success());
    assert_eq!(fs::symlink_metadata(&path).expect("a socket").ino(), old);
    assert!(fs::symlink_metadata(&path).expect("a socket").file_type().is_socket());
}

#[test]
fn a_successor_of_one_whose_name_disappeared_is_found_by_it() {
    let scratch = Scratch::new();
    let path = scratch.join("public");
    let passed = UnixListener::bind(&path).expect("a socket");
    let state = scratch.join("state").to_string_lossy().into_owned();
    let private = scratch.join("private");
    let mut first = Daemon::spawn(
        started_with(&passed).args(STILL).args(["--state-file", &state]).arg("-s").arg(&private),
    );
    first.wait_for(&format!("Listening on UNIX socket {}", private.display()));
    fs::remove_file(&path).expect("our own");
    assert_eq!(asked_again(&path), 0);
    let mut command = started_with(&passed);
    command.args(STILL).args(["--state-file", &state]).arg("-c").arg(&private);
    let next = Daemon::spawn(&mut command);
    next.wait_for("=> serving");
    assert!(first.ended().0.success());
    assert_eq!(asked_again(&path), 0);
}
