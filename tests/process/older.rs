// SPDX-License-Identifier: Apache-2.0
//! Older: the C programs as the other side, and the users that may ask.
//!
//! The first form speaks `get_counter_and_terminate` between two sockets, the second form
//! `pass_state_and_terminate` on one. Neither uses a state file.

use std::fs::{self, Permissions};
use std::io::{IoSliceMut, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::Command;

use early_service_machine::record::DecodeError;
use rustix::net::sockopt::socket_acceptconn;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use rustix::process::geteuid;

use crate::stage::{for_everybody, is_locked, read, serve, start, state_file, succeed};
use crate::wire::{Predecessor, Wire};
use testkit::client::{Client, get_counter, nc_as};
use testkit::daemon::{Daemon, STILL, detach};
use testkit::scratch::Scratch;
use testkit::until;

const PASS: &str = "pass_state_and_terminate";
const GET: &str = "get_counter_and_terminate";

/// Reads the first byte and the descriptors that come with it, as the C program does.
fn first_byte(stream: &UnixStream) -> (Vec<u8>, Vec<OwnedFd>) {
    let mut bytes = [0xff; 1];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(8))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut room = [IoSliceMut::new(&mut bytes)];
    let received = recvmsg(stream, &mut room, &mut control, RecvFlags::empty()).expect("a byte");
    let descriptors = control.drain().flat_map(|message| match message {
        RecvAncillaryMessage::ScmRights(descriptors) => descriptors.collect::<Vec<_>>(),
        _ => Vec::new(),
    });
    let descriptors = descriptors.collect();
    (bytes[..received.bytes].to_vec(), descriptors)
}

#[test]
fn the_listener_of_the_request_is_passed_before_the_state() {
    let scratch = Scratch::new();
    let mut daemon = serve(&scratch, "sock", &STILL);
    let mut client = Client::connect(&daemon.socket);
    assert_eq!(client.ask("set_counter 137"), "previous value 0");
    let mut successor = Wire::ask(&daemon.socket, PASS);
    let (byte, descriptors) = first_byte(&successor.stream);
    assert_eq!((byte.as_slice(), descriptors.len()), (&[0][..], 1));
    assert_eq!(successor.line(), "137");
    successor.end();
    assert!(successor.descriptors.is_empty());
    assert!(daemon.ended().0.success());
    assert_eq!(client.rest(), "", "the older program takes no clients");
    assert_eq!(scratch.names(), ["sock", "state"], "the socket is the successor's now");
    assert_eq!(socket_acceptconn(&descriptors[0]), Ok(true));
    let listener = UnixListener::from(descriptors.into_iter().next().expect("one"));
    let address = listener.local_addr().expect("a bound socket");
    assert_eq!(address.as_pathname(), Some(&*scratch.join("sock")));
    let mut waiting = UnixStream::connect(scratch.join("sock")).expect("it listens");
    waiting.write_all(b"x").expect("a connection");
    listener.set_nonblocking(false).expect("a descriptor");
    listener.accept().expect("the one that waits");
    assert_eq!(
        read(&state_file(&scratch)),
        Err(DecodeError::Empty),
        "it knows nothing of the file"
    );
    assert!(!is_locked(&state_file(&scratch)));
}

#[test]
fn the_count_alone_is_returned_and_the_record_withdrawn() {
    let scratch = Scratch::new();
    let mut daemon = serve(&scratch, "sock", &STILL);
    Client::connect(&daemon.socket).ask("set_counter 137");
    let mut successor = Wire::ask(&daemon.socket, GET);
    assert_eq!(successor.bytes(4), b"137\n");
    successor.end();
    assert!(successor.descriptors.is_empty());
    assert!(daemon.ended().0.success());
    assert_eq!(scratch.names(), ["state"]);
    assert_eq!(read(&state_file(&scratch)), Err(DecodeError::Empty));
    let next = serve(&scratch, "sock", &STILL);
    assert_eq!(get_counter(&next.socket), 0, "what the older program did is not in the file");
}

/// How an older program answers a request.
type Behaviour = fn(&Predecessor, &mut Wire, &str);

/// Plays an older program until the daemon has adopted from it.
#[track_caller]
fn adopt_from(behaviour: Behaviour, takes_over: bool, scratch: &Scratch) -> (Predecessor, Daemon) {
    let older = Predecessor::at(scratch.join("older"));
    let daemon = if takes_over {
        start(scratch, "older", &[&STILL[..], &["--takeover-existing-socket"]].concat())
    } else {
        succeed(scratch, "root", &older.path, &STILL)
    };
    until("adopted", || {
        if let Ok((stream, _)) = older.listener.accept() {
            let mut wire = Wire::new(stream);
            let request = wire.line();
            if !request.is_empty() {
                behaviour(&older, &mut wire, &request);
            }
        }
        daemon.messages().iter().any(|line| line == "adopting => serving")
    });
    (older, daemon)
}

fn invalid(wire: &mut Wire, request: &str) {
    let _ = wire.stream.write_all(format!("Invalid command: {request}\n").as_bytes());
}

/// The first form: knows only its own command.
const FIRST: Behaviour = |_, wire, request| match request {
    GET => wire.say("137"),
    _ => invalid(wire, request),
};

/// The first form, if it closes after an unknown command.
const CLOSING: Behaviour = |_, wire, request| {
    if request == GET {
        wire.say("137");
    }
};

/// The second form: sends its listener with one byte, then its state.
const SECOND: Behaviour = |older, wire, request| match request {
    PASS => {
        wire.send(b"\0", &[older.listener.as_fd()]);
        wire.say("137");
    }
    _ => invalid(wire, request),
};

/// The second form, if it closes after an unknown command.
const SECOND_CLOSING: Behaviour = |older, wire, request| {
    if request == PASS {
        SECOND(older, wire, request);
    }
};

/// The first form, if it refuses twice.
const REFUSING: Behaviour = |older, wire, request| {
    if older.path.with_extension("asked-twice").exists() {
        return FIRST(older, wire, request);
    }
    if request == GET {
        let once = older.path.with_extension("asked");
        let mark = if once.exists() { older.path.with_extension("asked-twice") } else { once };
        fs::write(mark, "").expect("room");
        wire.say("Permission denied");
    } else {
        invalid(wire, request);
    }
};

#[test]
fn every_legacy_program_is_adopted_from() {
    let behaviours: [(&str, Behaviour); 5] = [
        ("first form", FIRST),
        ("closing", CLOSING),
        ("second form", SECOND),
        ("second form, closing", SECOND_CLOSING),
        ("refusing", REFUSING),
    ];
    for (name, behaviour) in behaviours {
        for takes_over in [false, true] {
            let scratch = Scratch::new();
            let (older, daemon) = adopt_from(behaviour, takes_over, &scratch);
            let case = format!("{name}, {takes_over}: {:?}", daemon.messages());
            daemon.wait_for("Adopting 137 and 0 clients from");
            daemon.wait_for("Listening on UNIX socket");
            drop(older);
            assert_eq!(get_counter(&daemon.socket), 137, "{case}");
            assert!(is_locked(&state_file(&scratch)), "{case}");
            let names = scratch.names();
            assert!(!names.iter().any(|name| name.contains("successor")), "{names:?}, {case}");
        }
    }
}

#[test]
fn a_passed_legacy_listener_is_served_with_its_backlog() {
    let scratch = Scratch::new();
    let older = Predecessor::at(scratch.join("older"));
    let before = fs::symlink_metadata(&older.path).expect("a socket");
    let options = [&STILL[..], &["--takeover-existing-socket"]].concat();
    let daemon = start(&scratch, "older", &options);
    let (mut wire, request) = older.asked();
    assert_eq!(request, format!("handoff 1 listener={}", older.path.display()));
    invalid(&mut wire, &request);
    let (mut wire, request) = older.asked();
    assert_eq!(request, PASS);
    let mut waiting = Client::connect(&older.path);
    waiting.send("get_counter\n");
    SECOND(&older, &mut wire, &request);
    drop((wire, older));
    assert_eq!(waiting.line(), "137");
    let after = fs::symlink_metadata(scratch.join("older")).expect("a socket");
    assert_eq!(before.ino(), after.ino(), "the very same socket");
    assert_eq!(get_counter(&daemon.socket), 137);
}

#[test]
fn without_a_legacy_listener_a_new_socket_takes_its_place() {
    let scratch = Scratch::new();
    let (older, daemon) = adopt_from(FIRST, true, &scratch);
    daemon.wait_for("Listening on UNIX socket");
    assert_eq!(get_counter(&older.path), 137, "the name leads to the new one");
    drop(older);
    assert_eq!(get_counter(&daemon.socket), 137);
    assert_eq!(scratch.names(), ["older", "state"]);
}

fn as_user(user: &str, program: &Path) -> Command {
    let mut command = Command::new("setpriv");
    detach(&mut command);
    command.arg(format!("--reuid={user}")).arg("--clear-groups").arg(program);
    command
}

/// The reply to a process of this user, on a socket that everybody can open.
fn asked_by(user: &str, request: &str, socket: &Path) -> String {
    fs::set_permissions(socket, Permissions::from_mode(0o777)).expect("we are root");
    let before = ["setpriv", &format!("--reuid={user}"), "--clear-groups"];
    nc_as(&before, socket, format!("{request}\n"))
}

/// Needs root, to run processes as several users.
#[test]
fn the_three_requests_are_for_root_own_user_and_successor() {
    assert!(geteuid().is_root(), "this test needs root, to run as several users");
    let named = "65532";
    for request in ["handoff 1", PASS, GET] {
        for (asker, may) in [("0", true), ("65531", true), (named, true), ("65533", false)] {
            let case = format!("user {asker}: {request}");
            let scratch = Scratch::new();
            let copy = for_everybody(&scratch);
            let mut command = as_user("65531", &copy);
            command.arg("-s").arg(scratch.join("sock")).args(STILL).args(["--successor", named]);
            let daemon = Daemon::spawn(&mut command);
            daemon.wait_for("Listening on");
            let answer = asked_by(asker, request, &scratch.join("sock"));
            if may {
                daemon.wait_for(&format!(" of user {asker}"));
                assert!(!answer.contains("denied"), "{case}: {answer}");
            } else {
                assert_eq!(answer, "Permission denied\n", "{case}");
                let refused = daemon.wait_for("Refusing to hand over: process ").message;
                assert!(refused.ends_with(" of user 65533 may not ask for it"), "{refused}");
                assert_eq!(get_counter(scratch.join("sock")), 0, "{case}");
            }
        }
    }
}

/// Needs root, to give a file away.
#[test]
fn the_owner_of_the_socket_file_may_have_the_state() {
    assert!(geteuid().is_root(), "this test needs root, to run as several users");
    for request in ["handoff 1", PASS, GET] {
        for (owner, asker, may) in
            [(65533, "65533", true), (65533, "65532", false), (65534, "65534", false)]
        {
            let case = format!("user {asker}, socket of user {owner}: {request}");
            let scratch = Scratch::new();
            let daemon = Daemon::serve(scratch.join("sock"), &STILL);
            std::os::unix::fs::chown(scratch.join("sock"), Some(owner), None).expect("we are root");
            let answer = asked_by(asker, request, &scratch.join("sock"));
            if may {
                daemon.wait_for(&format!(" of user {asker}"));
                assert!(!answer.contains("denied"), "{case}: {answer}");
            } else {
                assert_eq!(answer, "Permission denied\n", "{case}");
            }
        }
    }
}

/// The number stands for every user that a namespace does not map, so it identifies nobody.
#[test]
fn user_65534_is_nobody_to_hand_over_to_whoever_names_it() {
    assert!(geteuid().is_root(), "this test needs root, to run as several users");
    for request in ["handoff 1", PASS, GET] {
        let scratch = Scratch::new();
        let copy = for_everybody(&scratch);
        let mut command = as_user("65534", &copy);
        command.arg("-s").arg(scratch.join("sock")).args(STILL).args(["--successor", "65534"]);
        let daemon = Daemon::spawn(&mut command);
        daemon.wait_for("Listening on");
        daemon.wait_for("User 65534, whom --successor names, may not have the state");
        let before = ["setpriv", "--reuid=65534", "--clear-groups"];
        let answer = nc_as(&before, scratch.join("sock"), format!("{request}\n"));
        assert_eq!(answer, "Permission denied\n", "{request}");
        let refused = daemon.wait_for("Refusing to hand over: process ").message;
        assert!(refused.ends_with(" of user 65534 may not ask for it"), "{refused}");
    }
}

/// Needs root, to run processes as two users.
#[test]
fn a_predecessor_of_another_user_is_not_believed() {
    assert!(geteuid().is_root(), "this test needs root, to run as two users");
    let scratch = Scratch::new();
    let copy = for_everybody(&scratch);
    let mut command = as_user("65534", &copy);
    let fake = Daemon::spawn(command.arg("-s").arg(scratch.join("fake")).args(STILL));
    fake.wait_for("Listening on");
    Client::connect(scratch.join("fake")).ask("set_counter 666");
    let daemon = succeed(&scratch, "root", &scratch.join("fake"), &STILL);
    let said = format!("peer (pid {}, uid 65534) is not trusted", fake.pid());
    daemon.wait_for(&said);
    daemon.wait_for("=> serving");
    assert_eq!(get_counter(&daemon.socket), 0);
    assert_eq!(get_counter(scratch.join("fake")), 666, "it was not even asked");
}
