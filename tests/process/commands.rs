// SPDX-License-Identifier: Apache-2.0
//! Commands: the replies that clients receive, whatever they send.

use std::io::{ErrorKind, Write};
use std::process::Command;
use std::time::Duration;

use crate::AT_ONCE;
use testkit::client::{Client, allow_all_descriptors, get_counter, nc, status, until_status};
use testkit::daemon::{Daemon, STILL, program};
use testkit::host::Stopwatch;
use testkit::scratch::Scratch;
use testkit::until;

const EXPECTED: &str = "expected get_counter, set_counter N, get_counter_and_terminate, \
                        reload or status";

/// Maximum number of clients that the daemon serves at once.
const SESSIONS: usize = 1000;

/// A daemon that does not tick, so that its replies are known.
fn still(scratch: &Scratch) -> Daemon {
    Daemon::serve(scratch.join("sock"), &STILL)
}

#[test]
fn set_counter_replies_with_the_old_value_and_sets_the_new_one() {
    let scratch = Scratch::new();
    let daemon = Daemon::serve(scratch.join("sock"), &[]);
    daemon.ticks(3);
    let reply = nc(&daemon.socket, "set_counter 100\n");
    let previous = reply.trim_end().strip_prefix("previous value ").expect(&reply);
    assert!((3..100).contains(&previous.parse::<u64>().expect("a number")), "{reply}");
    let number: u64 = nc(&daemon.socket, "get_counter\n").trim_end().parse().expect("a number");
    assert!((100..1000).contains(&number), "{number} is not 100 or a little more");
    daemon.wait_for(&format!("Setting the counter to 100, previous value {previous}"));
    let ticks = daemon.wait_until("ticks from 100 on", |lines| {
        let messages: Vec<_> = lines.iter().map(|line| line.message.clone()).collect();
        messages.ends_with(&["100".into(), "101".into(), "102".into()]).then_some(messages)
    });
    assert!(ticks.contains(&"2".to_owned()), "{ticks:?}");
}

#[test]
fn nc_is_back_at_the_prompt_within_100_ms() {
    let scratch = Scratch::new();
    let daemon = still(&scratch);
    let try_once = || {
        let watch = Stopwatch::start();
        assert_eq!(nc(&daemon.socket, "get_counter\n"), "0\n");
        watch.elapsed()
    };
    // A busy machine may delay some attempts; a server that keeps nc waiting delays all.
    let best = (0..20).map(|_| try_once()).min().expect("twenty");
    assert!(best < Duration::from_millis(100), "{best:?} at best");
}

#[test]
fn four_lines_in_one_write_get_four_replies_in_order() {
    let scratch = Scratch::new();
    let daemon = Daemon::serve(scratch.join("sock"), &[]);
    daemon.ticks(1);
    let replies = nc(&daemon.socket, "get_counter\nset_counter 5\nget_counter\nnonsense\n");
    let [first, second, third, fourth] = *replies.lines().collect::<Vec<_>>() else {
        panic!("not four replies: {replies}");
    };
    assert!(first.parse::<u64>().is_ok_and(|number| number >= 1), "{first}");
    assert_eq!(second, format!("previous value {first}"));
    assert_eq!(third, "5");
    assert_eq!(fourth, format!("Invalid command: nonsense; {EXPECTED}"));
}

#[test]
fn lines_in_any_pieces_are_answered_once_and_in_order() {
    let scratch = Scratch::new();
    let daemon = still(&scratch);
    for (input, replies) in [
        ("get_counter\nset_counter 5\nset_counter 0\n", "0\nprevious value 0\nprevious value 5\n"),
        ("get_counter\r\nset_counter 0\r\n", "0\nprevious value 0\n"),
        ("get_counter\nget_counter", "0\n0\n"),
        ("get_counter", "0\n"),
        ("get_counter\r", &*format!("Invalid command: get_counter\\r; {EXPECTED}\n")),
        ("\n", &*format!("Invalid command: ; {EXPECTED}\n")),
        ("", ""),
    ] {
        assert_eq!(nc(&daemon.socket, input), replies, "{input:?} at once");
        let mut client = Client::connect(&daemon.socket);
        for byte in input.bytes() {
            client.send([byte]);
        }
        client.finish();
        assert_eq!(client.rest(), replies, "{input:?} byte by byte");
    }
}

#[test]
fn only_a_number_that_fits_sets_the_counter() {
    let scratch = Scratch::new();
    let daemon = still(&scratch);
    assert_eq!(nc(&daemon.socket, "set_counter 18446744073709551615\n"), "previous value 0\n");
    for wrong in ["18446744073709551616", "-1", "+1", "ten", "1.5", "0x1", "", " 1", "1 "] {
        let reply = nc(&daemon.socket, format!("set_counter {wrong}\n"));
        let expected = format!(
            "Invalid command: set_counter {wrong}; expected set_counter N with N from 0 to \
             18446744073709551615\n"
        );
        assert_eq!(reply, expected);
        assert_eq!(get_counter(&daemon.socket), u64::MAX, "after {wrong:?}");
    }
}

#[test]
fn a_thousand_commands_at_once_are_carried_out_in_order() {
    let scratch = Scratch::new();
    let daemon = still(&scratch);
    let commands: String = (1..=1000).map(|number| format!("set_counter {number}\n")).collect();
    let replies: String = (0..1000).map(|number| format!("previous value {number}\n")).collect();
    assert_eq!(nc(&daemon.socket, commands), replies);
}

#[test]
fn a_line_of_128_bytes_is_read_and_a_longer_one_is_refused() {
    let scratch = Scratch::new();
    let daemon = still(&scratch);
    let line = |length| format!("get_counter\n{}\nget_counter\n", "x".repeat(length));
    let invalid = format!("Invalid command: {}...; {EXPECTED}", "x".repeat(32));
    assert_eq!(nc(&daemon.socket, line(128)), format!("0\n{invalid}\n0\n"));
    let mut client = Client::connect(&daemon.socket);
    client.send(line(129));
    // The client does not end its input, so the server must close.
    assert_eq!(client.rest(), "0\nLine too long: at most 128 bytes\n");
}

#[test]
fn an_endless_line_is_refused_and_costs_no_memory() {
    let scratch = Scratch::new();
    let daemon = still(&scratch);
    let mut client = Client::connect(&daemon.socket);
    let piece = [b'x'; 64 * 1024];
    // The server closes at the 129th byte; later writes fail.
    until("closed", || client.stream().write_all(&piece).is_err());
    assert_eq!(client.rest(), "Line too long: at most 128 bytes\n");
    assert_eq!(get_counter(&daemon.socket), 0);
}

#[test]
fn binary_garbage_is_answered_line_by_line_and_costs_no_memory() {
    let scratch = Scratch::new();
    let daemon = still(&scratch);
    assert_eq!(get_counter(&daemon.socket), 0);
    let peak = || -> u64 {
        let kilobytes = daemon.status("VmHWM");
        kilobytes.trim_end_matches(" kB").parse().expect("a size")
    };
    let before = peak();
    let mut seed = 0x2545_f491_4f6c_dd1d_u64;
    let mut garbage = || {
        // xorshift: the same garbage in every run.
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed.to_le_bytes()[3]
    };
    for _ in 0..20 {
        let input: Vec<u8> = (0..64 * 1024).map(|_| garbage()).collect();
        for reply in nc(&daemon.socket, input).lines() {
            let is_error = reply.starts_with("Invalid command: ") || reply.starts_with("Line too");
            assert!(is_error && reply.is_ascii(), "{reply:?}");
        }
    }
    assert_eq!(nc(&daemon.socket, b"\0\xff\x1b[2J\n"), {
        format!("Invalid command: \\x00\\xff\\x1b[2J; {EXPECTED}\n")
    });
    assert_eq!(get_counter(&daemon.socket), 0);
    assert!(peak() < before + 1024, "from {before} to {} kB", peak());
}

#[test]
fn status_is_one_line_of_pairs() {
    let scratch = Scratch::new();
    let daemon = Daemon::serve(scratch.join("sock"), &[STILL[0], STILL[1]]);
    let line = nc(&daemon.socket, "status\n");
    let expected = format!(
        "stage=root phase=serving pid={} version={} origin=new predecessor=none serving_s=0 \
         clients=1 log_lines_dropped=0 state_file=none ticks_due=0 counter=0 ticks_late=0\n",
        daemon.pid(),
        env!("CARGO_PKG_VERSION"),
    );
    assert_eq!(line, expected);
    let replies = nc(&daemon.socket, "set_counter 7\nstatus\nget_counter\n");
    assert!(replies.starts_with("previous value 0\nstage=root"), "{replies}");
    assert!(replies.ends_with("counter=7 ticks_late=0\n7\n"), "{replies}");
}

#[test]
fn one_client_too_many_is_served_and_the_longest_idle_one_goes() {
    allow_all_descriptors();
    let scratch = Scratch::new();
    let daemon = still(&scratch);
    let mut clients: Vec<_> = (0..SESSIONS).map(|_| Client::connect(&daemon.socket)).collect();
    // The first client becomes the most recently active one.
    until("all are served", || clients[0].ask("status").contains(&format!("clients={SESSIONS}")));

    let mut newest = Client::connect(&daemon.socket);
    // Each of the others has a second to send its first command.
    until("one has gone", || newest.ask("status").contains(&format!("clients={SESSIONS} ")));
    let why = "Closing: more than 1000 clients, and this one was idle longest\n";
    assert_eq!(clients[1].rest(), why, "the longest idle one is closed");
    daemon.wait_for("Closing process");
    for (number, client) in clients.iter_mut().enumerate().filter(|(number, _)| *number != 1) {
        client.send("get_counter\n");
        assert_eq!(client.line(), "0", "client {number} is still served");
    }
    assert_eq!(daemon.threads(), 3);
}

#[test]
fn with_few_descriptors_the_longest_idle_client_is_closed() {
    let scratch = Scratch::new();
    let socket = scratch.join("sock");
    let program = program();
    let daemon = Daemon::spawn(
        Command::new("sh")
            .args(["-c", r#"ulimit -n 32 && exec "$@""#, "sh"])
            .arg(program.get_program())
            .arg("-s")
            .arg(&socket)
            .args(STILL),
    );
    daemon.wait_for("Listening on UNIX socket");
    let mut clients: Vec<Client> = Vec::new();
    for number in 0..100 {
        let mut client = Client::connect(&socket);
        assert_eq!(client.ask("get_counter"), "0", "client {number}");
        clients.push(client);
    }
    let why = "Closing: more than 8 clients, and this one was idle longest\n";
    assert_eq!(clients[0].rest(), why, "the longest idle one is closed");
    assert_eq!(clients[99].ask("get_counter"), "0", "the newest one is not");
}

/// Sends whole lines until both buffers are full; returns their number.
fn fill(lazy: &mut Client) -> usize {
    let stream = lazy.stream();
    stream.set_nonblocking(true).expect("a socket");
    let mut lines = 0;
    loop {
        match stream.write(b"get_counter\n") {
            Ok(count) => assert_eq!(count, 12, "a line is taken whole or not at all"),
            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
            Err(error) => panic!("cannot send: {error}"),
        }
        lines += 1;
    }
    stream.set_nonblocking(false).expect("a socket");
    lines
}

#[test]
fn a_client_that_does_not_read_delays_nobody_and_loses_nothing() {
    let scratch = Scratch::new();
    let daemon = still(&scratch);
    let (mut lazy, mut other) = (Client::connect(&daemon.socket), Client::connect(&daemon.socket));
    let mut ask_other = || {
        let watch = Stopwatch::start();
        assert_eq!(other.ask("get_counter"), "0");
        assert!(watch.elapsed() < AT_ONCE, "delayed by {:?}", watch.elapsed());
    };
    let mut sent = 0;
    until("the server has stopped to read", || {
        let lines = fill(&mut lazy);
        sent += lines;
        ask_other();
        lines == 0
    });
    assert!(sent > 1000, "{sent} lines fill no buffer");
    (0..100).for_each(|_| ask_other());
    lazy.finish();
    assert_eq!(lazy.rest(), "0\n".repeat(sent), "each is answered once");
}

#[test]
fn a_client_that_takes_no_replies_is_closed_in_the_end() {
    let scratch = Scratch::new();
    let daemon = still(&scratch);
    let (mut lazy, mut silent) = (Client::connect(&daemon.socket), Client::connect(&daemon.socket));
    until("the server has stopped to read", || {
        let lines = fill(&mut lazy);
        get_counter(&daemon.socket);
        lines == 0
    });
    until_status(&daemon.socket, "clients", |clients| clients == 2);
    assert!(lazy.rest().len() > 1000, "what was sent before is there");
    assert_eq!(silent.ask("get_counter"), "0", "to be silent is no offence");
}

#[test]
fn three_threads_do_it_all() {
    let scratch = Scratch::new();
    let daemon = Daemon::serve(scratch.join("sock"), &["--timer-delay-ms", "1"]);
    daemon.ticks(100);
    for _ in 0..100 {
        get_counter(&daemon.socket);
        assert!(daemon.threads() <= 3, "{} threads", daemon.threads());
    }
    assert_eq!(status(&daemon.socket, "stage"), "root");
}
