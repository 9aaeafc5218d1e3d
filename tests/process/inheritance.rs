// SPDX-License-Identifier: Apache-2.0
//! Inheritance: how listeners reach the next process, and when their files are removed.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use rustix::net::sockopt::socket_peercred;
use rustix::process::Signal;

use crate::stage::{serve, start, state_file, succeed};
use crate::wire::Wire;
use testkit::LIMIT;
use testkit::client::{Client, get_counter, nc};
use testkit::daemon::{Daemon, STILL, started_with};
use testkit::scratch::Scratch;

fn inode(path: &Path) -> u64 {
    fs::symlink_metadata(path).expect("a socket").ino()
}

/// The PID that a new client sees as its server's.
fn server_of(path: &Path) -> u32 {
    let stream = UnixStream::connect(path).expect("a server");
    let pid = socket_peercred(&stream).expect("credentials").pid;
    pid.as_raw_nonzero().get().try_into().expect("a process id")
}

#[test]
fn one_socket_passes_three_processes_and_refuses_no_client() {
    let scratch = Scratch::new();
    let mut server = serve(&scratch, "sock", &["--timer-delay-ms", "20"]);
    let path = server.socket.clone();
    let socket = inode(&path);
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        let clients = scope.spawn(|| {
            let (mut last, mut answers) = (0, 0);
            while !is_over.load(Ordering::Relaxed) {
                let count = get_counter(&path);
                assert!(count >= last, "{count} after {last}");
                (last, answers) = (count, answers + 1);
            }
            answers
        });
        let mut ticks = Vec::new();
        for round in 0..3 {
            let options = ["--timer-delay-ms", "20", "--takeover-existing-socket"];
            let next = start(&scratch, "sock", &options);
            next.wait_for("=> serving");
            next.wait_for("Listening on");
            assert!(server.ended().0.success(), "round {round}");
            ticks.extend(server.all_ticks());
            assert_eq!(inode(&path), socket, "round {round}");
            assert_eq!(server_of(&path), next.pid(), "round {round}");
            assert_eq!(scratch.names(), ["sock", "state"], "round {round}");
            server = next;
        }
        server.ticks(3);
        is_over.store(true, Ordering::Relaxed);
        assert!(clients.join().expect("nobody was refused") > 10);
        server.signal(Signal::TERM);
        assert!(server.ended().0.success());
        ticks.extend(server.all_ticks());
        let expected: Vec<u64> = (0..).take(ticks.len()).collect();
        assert_eq!(ticks, expected, "none missing, none twice");
    });
    assert_eq!(scratch.names(), ["state"], "the last one takes the file with it");
}

#[test]
fn the_next_process_serves_the_clients_in_the_backlog() {
    for takes_over in [true, false] {
        let scratch = Scratch::new();
        let mut first = serve(&scratch, "first", &STILL);
        nc(&first.socket, "set_counter 137\n");
        first.stop();
        let mut waiting: Vec<_> = (0..100).map(|_| Client::connect(&first.socket)).collect();
        waiting.iter_mut().for_each(|client| client.send("get_counter\n"));
        let next = if takes_over {
            start(&scratch, "first", &[&STILL[..], &["--takeover-existing-socket"]].concat())
        } else {
            succeed(&scratch, "second", &first.socket, &STILL)
        };
        next.wait_for("Reading starting position");
        let mut late: Vec<_> = (0..20).map(|_| Client::connect(&first.socket)).collect();
        late.iter_mut().for_each(|client| client.send("get_counter\n"));
        first.signal(Signal::CONT);
        for client in waiting.iter_mut().chain(&mut late) {
            assert_eq!(client.line(), "137", "{takes_over}");
        }
        assert!(first.ended().0.success());
        let name = if takes_over { "first" } else { "second" };
        assert_eq!(scratch.names(), [name, "state"]);
    }
}

#[test]
fn a_frozen_predecessor_s_backlog_is_served_by_the_successor() {
    // Nobody accepts between the request and the end, so a new client waits for the next process.
    let scratch = Scratch::new();
    let mut first = serve(&scratch, "first", &STILL);
    nc(&first.socket, "set_counter 137\n");
    let mut successor = Wire::ask(&first.socket, "handoff 1");
    let offer = successor.offer();
    let mut late = UnixStream::connect(&first.socket).expect("it listens");
    late.set_read_timeout(Some(LIMIT)).expect("not zero");
    successor.say("prepared");
    assert_eq!(successor.line(), "commit");
    successor.say("done");
    assert!(first.ended().0.success());
    let listener = UnixListener::from(offer.listeners.into_iter().next().expect("one"));
    let (mut accepted, _) = listener.accept().expect("the one that waits");
    std::io::Write::write_all(&mut accepted, b"137\n").expect("a client");
    assert_eq!(Wire::new(late.try_clone().expect("a descriptor")).line(), "137");
    std::io::Write::write_all(&mut late, b"x").expect("a server");
}

#[test]
fn a_socket_passed_to_both_stays_and_shows_the_new_owner() {
    let scratch = Scratch::new();
    let path = scratch.join("public");
    let passed = UnixListener::bind(&path).expect("a socket");
    let file = state_file(&scratch);
    let file = ["--state-file", file.to_str().expect("text")];
    let mut first = Daemon::spawn(
        started_with(&passed).args(STILL).args(file).arg("-s").arg(scratch.join("private")),
    );
    first.wait_for("=> serving");
    first.wait_for(&format!("Listening on UNIX socket {}", scratch.join("private").display()));
    let mut client = Client::connect(&path);
    client.ask("set_counter 137");
    assert_eq!(server_of(&path), first.pid());
    let mut command = started_with(&passed);
    let mut second =
        Daemon::spawn(command.args(STILL).args(file).arg("-c").arg(scratch.join("private")));
    second.wait_for("=> serving");
    assert!(first.ended().0.success());
    assert_eq!(client.ask("get_counter"), "137");
    assert_eq!(get_counter(&path), 137);
    assert_eq!(server_of(&path), second.pid());
    assert_eq!(scratch.names(), ["public", "state"]);
    second.signal(Signal::TERM);
    assert!(second.ended().0.success());
    assert_eq!(scratch.names(), ["public", "state"], "its file is systemd's business");
}

#[test]
fn a_file_that_took_the_place_of_the_socket_is_not_removed() {
    let scratch = Scratch::new();
    let mut daemon = serve(&scratch, "sock", &STILL);
    fs::remove_file(&daemon.socket).expect("our own");
    let other = UnixListener::bind(&daemon.socket).expect("a socket");
    daemon.signal(Signal::TERM);
    assert!(daemon.ended().0.success());
    assert_eq!(scratch.names(), ["sock", "state"]);
    drop(other);
    let mut daemon = serve(&scratch, "sock", &STILL);
    let mut successor = Wire::ask(&daemon.socket, "handoff 1");
    drop(successor.offer());
    fs::remove_file(&daemon.socket).expect("our own");
    let _other = UnixListener::bind(&daemon.socket).expect("a socket");
    successor.say("abort");
    daemon.wait_for("draining => serving");
    daemon.signal(Signal::TERM);
    assert!(daemon.ended().0.success());
    assert_eq!(scratch.names(), ["sock", "state"], "nor by one that took its offer back");
}
