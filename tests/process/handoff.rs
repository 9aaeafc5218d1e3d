// SPDX-License-Identifier: Apache-2.0
//! Handoff: one process continues where the other stopped.

use std::fs::{self, Permissions};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Instant;

use rustix::process::{Signal, geteuid};

use crate::AT_ONCE;
use crate::stage::for_everybody;
use testkit::client::{Client, get_counter, nc, nc_as, status};
use testkit::daemon::{Daemon, STILL};
use testkit::host::Stopwatch;
use testkit::scratch::Scratch;
use testkit::{LIMIT, until};

/// The user `nobody`: neither root nor the user of any service.
const NOBODY: [&str; 3] = ["setpriv", "--reuid=65534", "--clear-groups"];

const RETURNING: &str = "Returning counter to client and terminating the process";

fn initrd(socket: impl AsRef<Path>) -> Daemon {
    Daemon::serve(socket, &["--survive-systemd-kill-signal", "--timer-delay-ms", "20"])
}

/// A successor on its own socket.
fn root(scratch: &Scratch, predecessor: &Path) -> Daemon {
    let daemon = adopting(scratch, predecessor);
    daemon.wait_for("Listening on UNIX socket");
    daemon
}

/// Like [`root`], but does not wait until the successor listens.
fn adopting(scratch: &Scratch, predecessor: &Path) -> Daemon {
    let predecessor = predecessor.to_str().expect("text");
    let options = ["--timer-delay-ms", "20", "--client-socket-path", predecessor];
    Daemon::start(scratch.join("root"), &options)
}

#[test]
fn the_second_stage_continues_at_the_next_number_of_the_first() {
    let scratch = Scratch::new();
    let mut first = initrd(scratch.join("initrd"));
    assert_eq!(nc(&first.socket, "set_counter 1000\n").split(' ').next(), Some("previous"));
    first.wait_until("ticks", |lines| lines.iter().find(|line| line.message == "1005").cloned());

    let mut second = root(&scratch, &first.socket);
    let (status, _) = first.ended();
    assert!(status.success(), "{status}");
    assert_eq!(scratch.names(), ["root"], "the first one's socket file is gone");

    let (before, after) = (first.all_ticks(), second.ticks(10));
    let last = *before.last().expect("ticks");
    let expected: Vec<u64> = (last + 1..).take(after.len()).collect();
    assert_eq!(after, expected, "after {last}");
    first.wait_for(&format!("Handing over to process {} of user", second.pid()));
    first.wait_for("serving => draining");
    first.wait_for("draining => ended");
    first.wait_for(&format!("Process {} has adopted the state", second.pid()));
    second.wait_for(&format!("Reading starting position from socket {}", first.socket.display()));
    second.wait_for(&format!("Adopting {} and 0 clients from", last + 1));
    second.wait_for("adopting => serving");
    assert_eq!(testkit::client::status(&second.socket, "phase"), "serving");
    assert_eq!(testkit::client::status(&second.socket, "origin"), "adopted");
    let predecessor = testkit::client::status(&second.socket, "predecessor");
    assert_eq!(predecessor, first.pid().to_string());
    assert!(second.is_running());
}

#[test]
fn a_third_process_goes_on_after_the_second() {
    let scratch = Scratch::new();
    let mut sockets = ["a", "b", "c", "d"].map(|name| scratch.join(name)).into_iter();
    let mut server = Daemon::serve(sockets.next().expect("four"), &STILL);
    nc(&server.socket, "set_counter 18446744073709551615\n");
    for socket in sockets {
        let predecessor = server.socket.to_str().expect("text");
        let next = Daemon::serve(socket, &[&STILL[..], &["-c", predecessor]].concat());
        assert!(server.ended().0.success());
        assert_eq!(get_counter(&next.socket), u64::MAX);
        server = next;
    }
}

#[test]
fn where_nobody_was_the_count_starts_at_0_and_the_log_says_so() {
    let scratch = Scratch::new();
    let stale = scratch.join("stale");
    drop(UnixListener::bind(&stale).expect("a socket"));
    for predecessor in [scratch.join("absent"), stale] {
        let watch = Stopwatch::start();
        let daemon = root(&scratch, &predecessor);
        assert!(watch.elapsed() < AT_ONCE, "at once, not after {:?}", watch.elapsed());
        let path = predecessor.display();
        daemon.wait_for(&format!("Reading starting position from socket {path}"));
        let line = daemon.wait_for(&format!("warning: No predecessor at {path}: cannot connect: "));
        assert!(line.message.ends_with("; starting at 0"), "{line:?}");
        assert_eq!(daemon.ticks(2)[..2], [0, 1]);
        daemon.signal(Signal::TERM);
        daemon.wait_for("serving => ended");
    }
}

/// What a fake predecessor does after it has read the older request.
type Answer = fn(UnixStream);

const OLDER: &str = "get_counter_and_terminate\n";

/// Plays a predecessor that knows only the older request; returns the next connection with it.
fn asked_the_older_line(listener: &UnixListener) -> UnixStream {
    listener.set_nonblocking(true).expect("a descriptor");
    let mut asked = None;
    until("a successor that asks", || {
        let Ok((mut stream, _)) = listener.accept() else { return false };
        stream.set_nonblocking(false).expect("a socket");
        let mut request = String::new();
        BufReader::new(&stream).read_line(&mut request).expect("a request");
        if request == OLDER {
            asked = Some(stream);
        } else {
            assert_eq!(request, "handoff 1\n", "the better way is asked first");
            // In one write, because the successor closes once it has read a line.
            let answer = format!("Invalid command: {request}");
            stream.write_all(answer.as_bytes()).expect("a successor");
        }
        asked.is_some()
    });
    asked.expect("waited for")
}

/// Answers the next successor.
fn answer_next(listener: &UnixListener, answer: &str) {
    writeln!(asked_the_older_line(listener), "{answer}").expect("a successor");
}

/// Starts a successor of a fake predecessor.
fn fake_predecessor(scratch: &Scratch, answer: Answer) -> Daemon {
    let path = scratch.join("fake");
    let listener = UnixListener::bind(&path).expect("a socket");
    let fake = thread::spawn(move || answer(asked_the_older_line(&listener)));
    let path = path.to_str().expect("text");
    let daemon = Daemon::serve(scratch.join("root"), &[&STILL[..], &["-c", path]].concat());
    fake.join().expect("no panic");
    daemon
}

#[test]
fn an_answer_is_adopted_however_it_is_cut_and_ended() {
    let answers: [Answer; 3] = [
        |mut stream| stream.write_all(b"137\n").expect("a successor"),
        |mut stream| stream.write_all(b"137\r\n").expect("a successor"),
        |mut stream| b"137\n".iter().for_each(|byte| stream.write_all(&[*byte]).expect("a reader")),
    ];
    for answer in answers {
        let scratch = Scratch::new();
        let daemon = fake_predecessor(&scratch, answer);
        assert_eq!(get_counter(&daemon.socket), 137);
    }
}

#[test]
fn a_predecessor_that_answers_something_else_is_none() {
    let answers: [(Answer, &str); 5] = [
        (drop, "it closed the connection before a whole line"),
        (
            // The predecessor may have died in the middle of the number.
            |mut stream| stream.write_all(b"13").expect("a successor"),
            "it closed the connection before a whole line",
        ),
        (
            |mut stream| stream.write_all(b"\xff\0\x1b\n").expect("a successor"),
            "it answered '\\xff\\x00\\x1b'",
        ),
        (
            |mut stream| stream.write_all(b"18446744073709551616\n").expect("a successor"),
            "it answered '18446744073709551616'",
        ),
        (
            // An endless line: writes fail once the successor stops reading.
            |mut stream| while stream.write_all(&[b'9'; 1024]).is_ok() {},
            "it answered '999",
        ),
    ];
    for (answer, said) in answers {
        let scratch = Scratch::new();
        let daemon = fake_predecessor(&scratch, answer);
        let line = daemon.wait_for("No predecessor at");
        assert!(line.message.contains(said), "{line:?}");
        assert_eq!(get_counter(&daemon.socket), 0);
    }
}

#[test]
fn a_predecessor_that_refuses_is_asked_until_it_hands_over() {
    let scratch = Scratch::new();
    let path = scratch.join("predecessor");
    let listener = UnixListener::bind(&path).expect("a socket");
    let daemon = adopting(&scratch, &path);
    let answers = ["Permission denied", "Busy: another process is adopting", "137"];
    for answer in answers {
        answer_next(&listener, answer);
    }
    daemon.wait_for("adopting => serving");
    assert!(get_counter(&daemon.socket) >= 137);
    let messages = daemon.messages();
    for answer in &answers[..2] {
        let said = format!("answers '{answer}': asking again until it hands over or ends");
        assert_eq!(messages.iter().filter(|line| line.contains(&said)).count(), 1, "{messages:?}");
    }
}

#[test]
fn of_two_successors_one_adopts_and_the_other_waits() {
    let scratch = Scratch::new();
    let mut predecessor = initrd(scratch.join("initrd"));
    predecessor.stop();
    let sockets = ["one", "other"].map(|name| scratch.join(name));
    let mut successors = sockets.clone().map(|socket| {
        let path = predecessor.socket.to_str().expect("text");
        let daemon = Daemon::start(socket, &["--client-socket-path", path]);
        daemon.wait_for("Reading starting position");
        daemon
    });
    predecessor.signal(Signal::CONT);
    assert!(predecessor.ended().0.success());
    let adopted = |daemon: &Daemon| daemon.messages().iter().any(|line| line.contains("Adopting "));
    until("one has adopted", || successors.iter().any(adopted));
    // The other one finds no predecessor, unless it was told that it came second.
    until("both know", || {
        let knows = |daemon: &Daemon| {
            let lines = daemon.messages();
            lines.iter().any(|line| line.contains("Adopting ") || line.contains("Busy: another"))
                || lines.iter().any(|line| line.contains("No predecessor"))
        };
        successors.iter().all(knows)
    });
    // An unread request goes with the listener to the successor that adopts, which hands over in
    // turn.
    if successors.iter().all(adopted) {
        until("the first of them has left", || !successors.iter_mut().all(Daemon::is_running));
        let left = successors.iter_mut().find_map(|one| (!one.is_running()).then(|| one.ended()));
        assert!(left.expect("waited for").0.success());
    }
}

#[test]
fn a_predecessor_with_a_full_backlog_is_waited_for() {
    let scratch = Scratch::new();
    let path = scratch.join("crowded");
    let listener = UnixListener::bind(&path).expect("a socket");
    rustix::net::listen(&listener, 0).expect("a shorter backlog");
    let first = UnixStream::connect(&path).expect("the only place");
    let daemon = adopting(&scratch, &path);
    daemon.wait_for("Reading starting position");
    // Nothing shows when the daemon finds the backlog full. If it has not yet, it waits as well.
    drop((listener.accept().expect("the first"), first));
    answer_next(&listener, "137");
    daemon.wait_for("adopting => serving");
    assert!(get_counter(&daemon.socket) >= 137);
}

#[test]
fn a_predecessor_that_never_answers_is_given_up() {
    let scratch = Scratch::new();
    let path = scratch.join("mute");
    // The backlog accepts a connection and a request, but nobody reads them.
    let _mute = UnixListener::bind(&path).expect("a socket");
    let start = Instant::now();
    let daemon = root(&scratch, &path);
    daemon.wait_for("no answer within 5 s; starting at 0");
    assert!(start.elapsed().as_secs() >= 5, "given up after {:?}", start.elapsed());
    assert_eq!(daemon.ticks(1)[0], 0);
}

#[test]
fn whoever_may_ask_gets_the_count_and_ends_the_process() {
    let scratch = Scratch::new();
    let mut daemon = Daemon::serve(scratch.join("sock"), &[]);
    daemon.ticks(3);
    let answer = nc(&daemon.socket, "get_counter_and_terminate\n");
    let (status, _) = daemon.ended();
    assert!(status.success(), "{status}");
    assert_eq!(answer, format!("{}\n", daemon.all_ticks().len()));
    assert_eq!(scratch.names(), [""; 0], "its socket file is gone");
    daemon.wait_for(RETURNING);
    daemon.wait_for("Handing over to process");
}

#[test]
fn commands_before_the_request_are_answered_first() {
    let scratch = Scratch::new();
    let mut daemon = Daemon::serve(scratch.join("sock"), &STILL);
    let lines = "set_counter 41\nnonsense\nset_counter 42\nget_counter_and_terminate\n";
    let replies = nc(&daemon.socket, lines);
    assert!(replies.starts_with("previous value 0\nInvalid command: nonsense"), "{replies}");
    assert!(replies.ends_with("\nprevious value 41\n42\n"), "{replies}");
    assert!(daemon.ended().0.success());
}

/// Needs root, to run processes as two users.
#[test]
fn a_stranger_is_refused_and_named() {
    assert!(geteuid().is_root(), "this test needs root, to run as another user");
    let scratch = Scratch::new();
    let mut daemon = Daemon::serve(scratch.join("sock"), &STILL);
    fs::set_permissions(&daemon.socket, Permissions::from_mode(0o777)).expect("our own socket");
    let as_nobody = |line| nc_as(&NOBODY, &daemon.socket, line);
    assert_eq!(as_nobody("get_counter\n"), "0\n", "anyone who can connect may ask this");
    assert_eq!(as_nobody("set_counter 7\n"), "previous value 0\n", "and this");
    assert_eq!(as_nobody("get_counter_and_terminate\n"), "Permission denied\n");
    let line = daemon.wait_for("Refusing to hand over: ");
    let named = line.message.strip_prefix("warning: Refusing to hand over: process ");
    let (pid, rest) =
        named.and_then(|rest| rest.split_once(" of user ")).expect("a process and its user");
    assert!(pid.parse::<u32>().is_ok_and(|pid| pid > 1), "{line:?}");
    assert_eq!(rest, "65534 may not ask for it");
    assert!(daemon.is_running());
    assert_eq!(get_counter(&daemon.socket), 7);
}

/// Needs root, to run processes as two users.
#[test]
fn a_predecessor_that_may_not_be_asked_is_not_taken_for_none() {
    assert!(geteuid().is_root(), "this test needs root, to run as another user");
    let scratch = Scratch::new();
    let predecessor = Daemon::serve(scratch.join("first"), &STILL);
    fs::set_permissions(&predecessor.socket, Permissions::from_mode(0o600)).expect("our own");
    let mut command = std::process::Command::new("setpriv");
    let copy = for_everybody(&scratch);
    testkit::daemon::detach(&mut command);
    command.args(&NOBODY[1..]).arg(&copy).arg("-s").arg(scratch.join("second"));
    let mut daemon = Daemon::spawn(command.arg("-c").arg(&predecessor.socket).args(STILL));
    let path = predecessor.socket.display();
    let cause = "cannot connect: Permission denied (os error 13)";
    daemon.wait_for(&format!("{path}: {cause}: waiting for it"));
    fs::set_permissions(&predecessor.socket, Permissions::from_mode(0o666)).expect("our own");
    // The predecessor is asked, and refuses to hand over to another user's process.
    daemon.wait_for(&format!("{path} answers 'Permission denied': asking again"));
    assert!(daemon.is_running());
    let named = daemon.messages().iter().any(|line| line.contains("No predecessor at"));
    assert!(!named, "{:?}", daemon.messages());
}

/// Needs root, to run processes as two users.
#[test]
fn the_named_successor_may_ask() {
    assert!(geteuid().is_root(), "this test needs root, to run as another user");
    // `daemon` is user 1 on every Debian.
    for name in ["1", "daemon"] {
        let scratch = Scratch::new();
        let options = ["--successor", name, STILL[0], STILL[1]];
        let mut daemon = Daemon::serve(scratch.join("sock"), &options);
        fs::set_permissions(&daemon.socket, Permissions::from_mode(0o777)).expect("our own socket");
        let named = ["setpriv", "--reuid=1", "--clear-groups"];
        assert_eq!(nc_as(&named, &daemon.socket, "get_counter_and_terminate\n"), "0\n", "{name}");
        assert!(daemon.ended().0.success(), "{name}");
    }
}

/// Needs root, to run processes as two users.
#[test]
fn refusals_do_not_flood_the_log() {
    assert!(geteuid().is_root(), "this test needs root, to run as another user");
    let scratch = Scratch::new();
    let daemon = Daemon::serve(scratch.join("sock"), &[]);
    fs::set_permissions(&daemon.socket, Permissions::from_mode(0o777)).expect("our own socket");
    let start = testkit::now();
    let ask = "for i in $(seq 50); do echo get_counter_and_terminate | nc -N -U \"$0\"; done";
    let mut flood = std::process::Command::new(NOBODY[0]);
    flood.args(&NOBODY[1..]).args(["sh", "-c", ask]).arg(&daemon.socket);
    let answers = flood.output().expect("setpriv (util-linux) runs").stdout;
    assert_eq!(String::from_utf8_lossy(&answers), "Permission denied\n".repeat(50));
    let seconds = (testkit::now() - start).div_ceil(1_000_000_000);
    let lines = daemon.messages();
    let refusals = lines.iter().filter(|line| line.contains("Refusing")).count() as u64;
    assert!((1..=seconds + 1).contains(&refusals), "{refusals} lines in {seconds} s");
}

/// Needs root, to run processes as two users.
#[test]
fn only_root_and_the_user_of_the_service_may_request_the_state() {
    assert!(geteuid().is_root(), "this test needs root, to run as another user");
    for (asker, is_allowed) in [("0", true), ("65532", true), ("65533", false)] {
        let scratch = Scratch::new();
        let socket = scratch.join("sock");
        let mut command = std::process::Command::new("setpriv");
        let copy = for_everybody(&scratch);
        testkit::daemon::detach(&mut command);
        command.args(["--reuid=65532", "--clear-groups"]);
        command.arg(&copy).arg("-s").arg(&socket).args(STILL);
        let mut daemon = Daemon::spawn(&mut command);
        daemon.wait_for("Listening on");
        fs::set_permissions(&socket, Permissions::from_mode(0o777)).expect("we are root");
        let user = format!("--reuid={asker}");
        let answer =
            nc_as(&["setpriv", &user, "--clear-groups"], &socket, "get_counter_and_terminate\n");
        if is_allowed {
            assert_eq!(answer, "0\n", "user {asker}");
            assert!(daemon.ended().0.success(), "user {asker}");
        } else {
            assert_eq!(answer, "Permission denied\n", "user {asker}");
            assert!(daemon.is_running(), "user {asker}");
        }
    }
}

#[test]
fn a_predecessor_whose_successor_went_away_serves_on() {
    let scratch = Scratch::new();
    let mut daemon = initrd(scratch.join("sock"));
    let mut witness = Client::connect(&daemon.socket);
    witness.ask("get_counter");
    // When the daemon continues, both the request and the end of the connection are there.
    daemon.stop();
    let mut successor = Client::connect(&daemon.socket);
    successor.send("get_counter_and_terminate\n");
    drop(successor);
    daemon.signal(Signal::CONT);
    daemon.wait_for(" did not adopt the state: ");
    daemon.wait_for("draining => serving");
    let count: u64 = witness.ask("get_counter").parse().expect("a number");
    let ticks = daemon.ticks(usize::try_from(count).expect("few") + 5);
    let expected: Vec<u64> = (0..).take(ticks.len()).collect();
    assert_eq!(ticks, expected, "none missing, none twice");
    assert_eq!(status(&daemon.socket, "phase"), "serving");
    assert!(daemon.is_running());
}

#[test]
fn of_many_requests_one_gets_the_count_and_all_are_answered() {
    const ASKERS: usize = 16;
    let scratch = Scratch::new();
    let mut daemon = Daemon::serve(scratch.join("sock"), &STILL);
    nc(&daemon.socket, "set_counter 77\n");
    daemon.stop();
    let mut askers = [(); ASKERS].map(|()| Client::connect(&daemon.socket));
    for asker in &mut askers {
        asker.send("get_counter_and_terminate\n");
    }
    daemon.signal(Signal::CONT);
    let mut answers = askers.map(|mut asker| asker.rest());
    answers.sort();
    assert_eq!(answers[0], "77\n");
    assert_eq!(answers[1..], ["Busy: another process is adopting\n"; ASKERS - 1]);
    assert!(daemon.ended().0.success());
}

#[test]
fn a_socket_is_taken_over_without_refusing_a_client() {
    let scratch = Scratch::new();
    let mut first = initrd(scratch.join("sock"));
    first.ticks(5);
    let is_over = AtomicBool::new(false);
    let path = &first.socket;
    let (second, connects) = thread::scope(|scope| {
        let client = scope.spawn(|| {
            let mut connects = 0;
            while !is_over.load(Ordering::Relaxed) {
                let stream = UnixStream::connect(path).expect("a process always listens");
                stream.set_read_timeout(Some(LIMIT)).expect("not zero");
                connects += 1;
            }
            connects
        });
        let options = ["--timer-delay-ms", "20", "--takeover-existing-socket"];
        let second = Daemon::serve(path, &options);
        second.ticks(5);
        is_over.store(true, Ordering::Relaxed);
        (second, client.join().expect("no connect failed"))
    });
    assert!(connects > 10, "{connects} connects are no test");
    assert!(first.ended().0.success());
    assert_eq!(scratch.names(), ["sock"], "only the path that is served is left");
    let last = *first.all_ticks().last().expect("ticks");
    assert_eq!(second.ticks(1)[0], last + 1);
    assert!(get_counter(&second.socket) > last);
}

#[test]
fn there_may_be_nobody_to_take_over_from() {
    let scratch = Scratch::new();
    let daemon = Daemon::serve(scratch.join("sock"), &["--takeover-existing-socket"]);
    daemon.wait_for("there is nothing to take over");
    assert_eq!(daemon.ticks(1)[0], 0);
    assert_eq!(scratch.names(), ["sock"]);
}

#[test]
fn a_successor_that_gives_up_leaves_the_predecessor_serving() {
    let scratch = Scratch::new();
    let first = Daemon::serve(scratch.join("sock"), &STILL);
    nc(&first.socket, "set_counter 9\n");
    first.stop();
    let mut second = Daemon::start(&first.socket, &["--takeover-existing-socket"]);
    second.wait_for("Reading starting position from socket");
    second.signal(Signal::TERM);
    assert!(second.ended().0.success());
    assert_eq!(scratch.names(), ["sock"]);
    first.signal(Signal::CONT);
    until("the first one answers again", || nc(&first.socket, "get_counter\n") == "9\n");
}
