// SPDX-License-Identifier: Apache-2.0
//! Sessions: clients do not notice a handoff.

use std::io::Write;
use std::process::Command;

use early_service_machine::counter::Reply;
use rustix::process::Signal;

use crate::stage::{serve, start, state_file, succeed};
use crate::wire::{Wire, number};
use testkit::client::{Client, get_counter, status, until_status};
use testkit::daemon::{Daemon, STILL, program};
use testkit::scratch::Scratch;
use testkit::until;

/// Hands over to another process on its own socket, and waits until that one serves alone.
#[track_caller]
fn hand_over(scratch: &Scratch, mut first: Daemon) -> Daemon {
    let second = succeed(scratch, "second", &first.socket, &STILL);
    second.wait_for("=> serving");
    assert!(first.ended().0.success());
    second
}

#[test]
fn clients_in_any_state_are_answered_once_and_in_order() {
    let scratch = Scratch::new();
    let first = serve(&scratch, "first", &STILL);
    let connect = || Client::connect(&first.socket);
    let (mut idle, mut half, mut return_only, mut ended) =
        (connect(), connect(), connect(), connect());
    let (mut nothing, mut status_half) = (connect(), connect());
    assert_eq!(idle.ask("set_counter 137"), "previous value 0");
    half.send("get_counter\nset_cou");
    assert_eq!(half.line(), "137");
    return_only.send("get_counter\r\nget_counter\r");
    assert_eq!(return_only.line(), "137");
    status_half.send("stat");
    ended.send("get_counter\nget_counter");
    assert_eq!(ended.line(), "137");
    // What was sent is in the server or still in the socket; both must work.
    let second = hand_over(&scratch, first);
    assert_eq!(status(&second.socket, "clients"), "7");
    assert_eq!(idle.ask("get_counter"), "137");
    return_only.send("\nget_counter\r\n");
    assert_eq!((return_only.line(), return_only.line()), ("137".to_owned(), "137".to_owned()));
    ended.finish();
    assert_eq!(ended.rest(), "137\n", "the end of input ends the last line");
    status_half.send("us\n");
    assert!(status_half.line().contains(&format!("pid={} ", second.pid())));
    half.send("nter 7\nget_counter\n");
    assert_eq!((half.line(), half.line()), ("previous value 137".to_owned(), "7".to_owned()));
    nothing.finish();
    assert_eq!(nothing.rest(), "");
}

#[test]
fn a_client_that_ended_its_input_gets_its_replies_and_the_end() {
    let scratch = Scratch::new();
    let first = serve(&scratch, "first", &STILL);
    let mut client = Client::connect(&first.socket);
    // More replies than the socket holds, so some are unsent at the handoff.
    let commands = unread(&mut client);
    client.finish();
    let _second = hand_over(&scratch, first);
    assert_eq!(client.rest().lines().count(), commands);
}

#[test]
fn an_endless_line_is_explained_by_the_next_process_too() {
    let scratch = Scratch::new();
    let first = serve(&scratch, "first", &STILL);
    let mut client = Client::connect(&first.socket);
    client.send("a".repeat(200));
    // The session is closing, but the server still reads from it.
    assert_eq!(client.line(), "Line too long: at most 128 bytes");
    let _second = hand_over(&scratch, first);
    client.send("a".repeat(100_000));
    client.finish();
    assert_eq!(client.rest(), "");
}

/// Sends commands until the server takes no more, because their replies are not read.
fn unread(client: &mut Client) -> usize {
    const COMMAND: &[u8] = b"set_counter 18446744073709551615\n";
    client.stream().set_nonblocking(true).expect("a socket");
    let (mut sent, mut stuck) = (0, 0);
    // The next write continues a partly sent command.
    while stuck < 50 {
        match client.stream().write(&COMMAND[sent % COMMAND.len()..]) {
            Ok(count) => (sent, stuck) = (sent + count, 0),
            Err(_) => {
                stuck += 1;
                std::thread::yield_now();
                let full = testkit::now() + 4_000_000;
                until("a moment", || testkit::now() > full);
            }
        }
    }
    client.stream().set_nonblocking(false).expect("a socket");
    assert!(sent > 10_000, "{sent} bytes are no test");
    sent.div_ceil(COMMAND.len())
}

#[test]
fn a_client_that_does_not_read_loses_no_reply() {
    let scratch = Scratch::new();
    let first = serve(&scratch, "first", &STILL);
    let mut client = Client::connect(&first.socket);
    let commands = unread(&mut client);
    assert_eq!(get_counter(&first.socket), u64::MAX, "no other client waits");
    let second = hand_over(&scratch, first);
    assert_eq!(client.line(), Reply::Previous(0).to_string());
    for number in 2..commands {
        assert_eq!(client.line(), Reply::Previous(u64::MAX).to_string(), "{number} of {commands}");
    }
    assert_eq!(get_counter(&second.socket), u64::MAX);
}

#[test]
fn two_processes_answer_a_thousand_commands_as_one_would() {
    let scratch = Scratch::new();
    let first = serve(&scratch, "first", &STILL);
    let mut clients: Vec<_> = (0..8).map(|_| Client::connect(&first.socket)).collect();
    first.stop();
    let commands: String = (1..=1000).map(|number| format!("set_counter {number}\n")).collect();
    let mut client = clients.pop().expect("eight");
    client.send(&commands);
    let gets = "get_counter\n".repeat(1000);
    clients.iter_mut().for_each(|client| client.send(&gets));
    // The daemon finds the commands and the request for the handoff together.
    let second = succeed(&scratch, "second", &first.socket, &STILL);
    second.wait_for("Reading starting position");
    first.signal(Signal::CONT);
    for number in 0..1000 {
        assert_eq!(client.line(), format!("previous value {number}"));
    }
    for client in &mut clients {
        let mut last = 0;
        for _ in 0..1000 {
            let number = client.line().parse().expect("a number");
            assert!(number >= last, "{number} after {last}");
            last = number;
        }
    }
    second.wait_for("=> serving");
    assert_eq!(get_counter(&second.socket), 1000);
}

#[test]
fn as_many_clients_as_there_are_places_for_go_on() {
    for count in [60, 1000] {
        let scratch = Scratch::new();
        let first = serve(&scratch, "first", &STILL);
        allow_descriptors(first.pid(), "4096");
        let mut clients: Vec<_> = (0..count).map(|_| Client::connect(&first.socket)).collect();
        for client in &mut clients {
            client.send("set_counter 137\nget_coun");
        }
        for client in &mut clients {
            assert!(client.line().starts_with("previous value"));
        }
        let mut first = first;
        let second = succeed(&scratch, "second", &first.socket, &STILL);
        allow_descriptors(second.pid(), "4096");
        second.wait_for(&format!("Adopting 137 and {count} clients"));
        assert!(first.ended().0.success());
        for client in &mut clients {
            client.send("ter\nget_counter\n");
        }
        for client in &mut clients {
            assert_eq!((client.line(), client.line()), ("137".to_owned(), "137".to_owned()));
        }
    }
}

/// Sets a process's limit of open descriptors.
fn allow_descriptors(pid: u32, limit: &str) {
    let mut command = Command::new("prlimit");
    command.args(["--pid", &pid.to_string(), &format!("--nofile={limit}:4096")]);
    assert!(command.status().expect("prlimit (util-linux)").success());
}

#[test]
fn a_successor_with_few_places_adopts_when_it_has_enough() {
    refuses_at_first("40", 0, "it has 100 clients, and we serve 20");
}

#[test]
fn a_successor_that_loses_descriptors_adopts_when_it_has_room() {
    // The limit is high enough, but half of the descriptors are in use.
    refuses_at_first("130", 60, "is missing");
}

/// A successor with this descriptor limit and `taken` descriptors in use refuses a hundred clients,
/// for the reason `why`.
#[track_caller]
fn refuses_at_first(limit: &str, taken: u32, why: &str) {
    let scratch = Scratch::new();
    let mut first = serve(&scratch, "first", &STILL);
    let mut clients: Vec<_> = (0..100).map(|_| Client::connect(&first.socket)).collect();
    for client in &mut clients {
        client.send("set_counter 137\nget_coun");
    }
    for client in &mut clients {
        assert!(client.line().starts_with("previous value"));
    }
    first.stop();
    let take = format!("for ((i = 0; i < {taken}; i++)); do exec {{held}}</dev/null; done");
    let second = Daemon::spawn(
        Command::new("bash")
            .args(["-c", &format!("{take}; exec \"$@\""), "bash"])
            .arg(program().get_program())
            .arg("--server-socket-path")
            .arg(scratch.join("second"))
            .arg("--client-socket-path")
            .arg(&first.socket)
            .arg("--state-file")
            .arg(state_file(&scratch))
            .args(STILL),
    );
    second.wait_for("Reading starting position");
    allow_descriptors(second.pid(), limit);
    first.signal(Signal::CONT);
    let refusal = second.wait_for("cannot adopt from").message;
    assert!(refusal.ends_with(why), "{refusal}");
    first.wait_for(" did not adopt the state: ");
    until("serving", || status(&first.socket, "phase") == "serving");
    for client in &mut clients {
        assert_eq!(client.ask("ter"), "137");
    }
    allow_descriptors(second.pid(), "4096");
    second.wait_for("Adopting 137 and 100 clients");
    assert!(first.ended().0.success());
    for client in &mut clients {
        assert_eq!(client.ask("get_counter"), "137");
    }
}

#[test]
fn a_client_sits_through_three_handoffs_of_the_same_socket() {
    let scratch = Scratch::new();
    let mut server = serve(&scratch, "sock", &STILL);
    let path = server.socket.clone();
    let mut old = Client::connect(&path);
    assert_eq!(old.ask("set_counter 137"), "previous value 0");
    for round in 0..3 {
        old.send("get_");
        let mut new = Client::connect(&path);
        let options = [&STILL[..], &["--takeover-existing-socket"]].concat();
        let next = start(&scratch, "sock", &options);
        next.wait_for("=> serving");
        assert!(server.ended().0.success());
        assert_eq!(old.ask("counter"), "137", "round {round}");
        assert_eq!(new.ask("get_counter"), "137", "round {round}");
        assert_eq!(scratch.names(), ["sock", "state"], "round {round}");
        server = next;
    }
    drop(old);
    until_status(&path, "clients", |clients| clients == 1);
    server.signal(Signal::TERM);
    assert!(server.ended().0.success());
    assert_eq!(scratch.names(), ["state"]);
}

#[test]
fn busy_clients_do_not_keep_the_process_from_ending() {
    for _ in 0..20 {
        let scratch = Scratch::new();
        let mut daemon = serve(&scratch, "sock", &["--timer-delay-ms", "1"]);
        let mut clients: Vec<_> = (0..30).map(|_| Client::connect(&daemon.socket)).collect();
        clients.iter_mut().for_each(|client| client.send("get_counter\n".repeat(500)));
        daemon.signal(Signal::TERM);
        for client in &mut clients {
            let _ = client.stream().write_all(b"get_counter\nhandoff 1\n");
        }
        let (status, _) = daemon.ended();
        // Nobody reads the replies: one socket holds an unread offer, which contains all other
        // sockets.
        assert!(status.success(), "{status}: {:?}", daemon.messages().last());
    }
}

#[test]
fn a_stopped_successor_delays_no_client() {
    let scratch = Scratch::new();
    let first = serve(&scratch, "first", &STILL);
    allow_descriptors(first.pid(), "4096");
    let mut clients: Vec<_> = (0..900).map(|_| Client::connect(&first.socket)).collect();
    for client in &mut clients {
        client.send("set_counter 137\nget_coun");
    }
    for client in &mut clients {
        assert!(client.line().starts_with("previous value"));
    }
    // The successor asks, but does not read the offer.
    let mut successor = Wire::ask(&first.socket, "handoff 1");
    first.wait_for(" did not adopt the state: timed out after 1000 ms; serving on");
    for client in &mut clients {
        assert_eq!(client.ask("ter"), "137");
    }
    // It finally reads that the handoff was aborted, and nothing that looks like a death.
    let mut line = successor.line();
    while line.starts_with("state ") || line.starts_with("client ") || line == "end" {
        if line.starts_with("client ") {
            successor.bytes(number(&line, "input"));
        }
        line = successor.line();
    }
    assert_eq!(line, "abort timed out after 1000 ms");
    successor.end();
}
