// SPDX-License-Identifier: Apache-2.0
//! Refusing: offers that a successor does not adopt, and what it reports.

use std::fs::File;
use std::net::TcpListener;
use std::os::fd::AsFd;
use std::os::unix::net::{UnixDatagram, UnixListener};

use early_service_machine::bounds::MAX_HANDOFF_LINE;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketType, bind, listen, socket};

use crate::pair::{Pair, client};
use crate::stage::{lock, state_file};
use crate::wire::{Wire, borrowed, state};
use testkit::now;

const NO_CLIENT: &str = "client input=0 replies=0 ended=0 closing=0\n";

/// Sends what the successor must not adopt.
type Send = fn(&Pair, &mut Wire);

#[test]
fn an_inconsistent_offer_is_refused_with_a_reason() {
    let cases: [(&str, Send); 22] = [
        (
            "cannot understand 'state 1 counter=137 deadline_ns=5': it has no valid period_ns",
            |_, wire| {
                wire.say("state 1 counter=137 deadline_ns=5");
            },
        ),
        ("cannot understand 'state 1 counter=x'", |_, wire| wire.say("state 1 counter=x")),
        ("cannot understand 'state 2 counter=137'", |_, wire| wire.say("state 2 counter=137")),
        ("it has a period_ns of 18446744073709551615,", |_, wire| {
            wire.say(
                "state 1 counter=5 deadline_ns=1 period_ns=18446744073709551615 lock=1 \
                 listeners=0 clients=0",
            );
        }),
        ("its state has a deadline_ns 18", |_, wire| {
            wire.say(
                "state 1 counter=5 deadline_ns=18446744073709551615 period_ns=100000000 lock=1 \
                 listeners=0 clients=0",
            );
        }),
        ("a listener is missing", |_, wire| wire.say(&state(137, true, 1, 0))),
        ("it has a period_ns of 1,", |_, wire| {
            wire.say("state 1 counter=5 deadline_ns=1 period_ns=1 lock=1 listeners=0 clients=0");
        }),
        // Behind more than an abort has room for.
        ("it has the unknown key '!later'", |_, wire| {
            let long = "x".repeat(600);
            wire.say(&format!("{} long={long} !later=1", state(137, true, 0, 0)));
        }),
        ("the lock is missing", |_, wire| {
            wire.say(&state(137, true, 0, 0));
            wire.say("end");
        }),
        ("it has the unknown key '!client'", |_, wire| {
            wire.say(&state(137, true, 0, 1));
            wire.send(NO_CLIENT.replace("input", "!client=1 input"), &borrowed(&[client().1]));
        }),
        ("which is more than one period (1 ms)", |_, wire| {
            let deadline = now() + 60_000_000_000;
            wire.say(&format!(
                "state 1 counter=5 deadline_ns={deadline} period_ns=1000000 lock=1 listeners=0 \
                 clients=0"
            ));
        }),
        ("it is not a UNIX socket", |pair, wire| {
            let line = format!("{}\n", state(137, true, 1, 0));
            wire.send(line, &[pair.lock.as_fd()]);
        }),
        ("it does not listen", |_, wire| {
            wire.send(format!("{}\n", state(137, true, 1, 0)), &borrowed(&[client().1]));
        }),
        ("the descriptor of a client is missing", |_, wire| {
            wire.say(&state(137, true, 0, 1));
            wire.send(NO_CLIENT, &[]);
        }),
        ("0 of 1 clients came", |pair, wire| {
            wire.say(&state(137, true, 0, 1));
            pair.end(wire);
        }),
        ("more than 0 clients came", |_, wire| {
            wire.say(&state(137, true, 0, 0));
            wire.send(NO_CLIENT, &borrowed(&[client().1]));
        }),
        ("the lock is missing", |_, wire| {
            wire.say(&state(137, true, 0, 0));
            wire.say("end");
        }),
        ("more descriptors came than were announced", |pair, wire| {
            wire.say(&state(137, true, 0, 0));
            wire.send("end\n", &[pair.lock.as_fd(), pair.lock.as_fd()]);
        }),
        ("the descriptor 'can0' was not asked for", |pair, wire| {
            wire.say(&format!("{} named=1", state(137, true, 0, 0)));
            wire.send("named can0\n", &[pair.lock.as_fd()]);
        }),
        ("a client with 5000 bytes of input and 0 of replies does not fit", |_, wire| {
            wire.say(&state(137, true, 0, 1));
            wire.send("client input=5000 replies=0 ended=0 closing=0\n", &borrowed(&[client().1]));
        }),
        ("it has 1005 clients, and we serve 1004", |_, wire| {
            wire.say(&state(137, true, 0, 1005));
        }),
        ("it does not hold the lock, and we do not either", |_, wire| {
            wire.say(&state(137, false, 0, 0));
            wire.say("end");
        }),
    ];
    let pair = Pair::new();
    // Adjacent cases differ in more than numbers, because repeated lines are logged once.
    for (why, send) in cases {
        let mut wire = pair.predecessor.asked_for_the_exchange();
        send(&pair, &mut wire);
        let said = wire.line();
        assert!(said.starts_with("abort ") && said.contains(why), "{why}: {said:?}");
        wire.end();
        pair.successor.wait_for(why);
    }
    pair.hand_over();
}

#[test]
fn a_descriptor_of_the_wrong_kind_is_refused_by_name() {
    let listeners: [(&str, Send); 3] = [
        ("a socket of the predecessor: it is not a stream socket", |_, wire| {
            let socket = socket(AddressFamily::UNIX, SocketType::SEQPACKET, None);
            let socket = socket.expect("a socket");
            bind(&socket, &SocketAddrUnix::new_unnamed()).expect("a name of the kernel's");
            listen(&socket, 1).expect("a bound socket");
            wire.send(format!("{}\n", state(137, true, 1, 0)), &[socket.as_fd()]);
        }),
        ("a socket of the predecessor: it is not a UNIX socket", |_, wire| {
            let socket = TcpListener::bind("127.0.0.1:0").expect("a port");
            wire.send(format!("{}\n", state(137, true, 1, 0)), &[socket.as_fd()]);
        }),
        ("a socket of the predecessor: it does not listen", |_, wire| {
            let socket = socket(AddressFamily::UNIX, SocketType::STREAM, None).expect("a socket");
            wire.send(format!("{}\n", state(137, true, 1, 0)), &[socket.as_fd()]);
        }),
    ];
    let clients: [(&str, Send); 3] = [
        ("cannot serve a client: it is not a stream socket", |_, wire| {
            let (socket, _other) = UnixDatagram::pair().expect("a pair");
            wire.send(NO_CLIENT, &[socket.as_fd()]);
        }),
        ("cannot serve a client: it listens", |pair, wire| {
            let socket = UnixListener::bind(pair.scratch.join("other")).expect("a socket");
            wire.send(NO_CLIENT, &[socket.as_fd()]);
        }),
        ("cannot serve a client: it is not a UNIX socket", |_, wire| {
            let zero = File::open("/dev/zero").expect("a device");
            wire.send(NO_CLIENT, &[zero.as_fd()]);
        }),
    ];
    let locks: [(&str, Send); 5] = [
        ("its lock is not on a regular file", |_, wire| {
            let zero = File::options().read(true).write(true).open("/dev/zero").expect("a device");
            wire.send("end\n", &[zero.as_fd()]);
        }),
        ("its lock is not on a regular file", |_, wire| {
            wire.send("end\n", &borrowed(&[client().1]));
        }),
        ("its lock is not that of ", |pair, wire| {
            let other = lock(&pair.scratch.join("other state"));
            wire.send("end\n", &[other.as_fd()]);
        }),
        ("its lock is on a file that is not open for reading and writing", |pair, wire| {
            let file = File::open(state_file(&pair.scratch)).expect("the state file");
            wire.send("end\n", &[file.as_fd()]);
        }),
        ("its descriptor does not hold the lock", |pair, wire| {
            let file = File::options().read(true).write(true).open(state_file(&pair.scratch));
            wire.send("end\n", &[file.expect("the state file").as_fd()]);
        }),
    ];
    let pair = Pair::new();
    let refuse = |why: &str, offer: Option<String>, send: Send| {
        let mut wire = pair.predecessor.asked_for_the_exchange();
        if let Some(offer) = offer {
            wire.say(&offer);
        }
        send(&pair, &mut wire);
        let said = wire.line();
        assert!(said.starts_with("abort ") && said.contains(why), "{why}: {said:?}");
        wire.end();
        pair.successor.wait_for(why);
    };
    listeners.into_iter().for_each(|(why, send)| refuse(why, None, send));
    clients.into_iter().for_each(|(why, send)| refuse(why, Some(state(137, true, 0, 1)), send));
    locks.into_iter().for_each(|(why, send)| refuse(why, Some(state(137, true, 0, 0)), send));
    pair.hand_over();
}

#[test]
fn one_that_cannot_be_adopted_from_is_asked_less_and_less_often() {
    type Fail = fn(&mut Wire, u64);
    // A different line each time, but the same reason.
    let fails: [(&str, Fail); 4] = [
        ("a key is missing", |wire, number| {
            wire.say(&format!("state 1 counter={number}"));
            assert!(wire.line().starts_with("abort cannot understand "));
        }),
        ("a number does not fit", |wire, number| {
            wire.say(&state(number, true, 0, 2000 + usize::try_from(number).expect("few")));
            assert!(wire.line().starts_with("abort it has "));
        }),
        ("taken back", |wire, number| {
            wire.say(&state(number, true, 0, 0));
            wire.say(&format!("abort attempt {number}"));
        }),
        ("gone", |wire, number| wire.say(&state(number, true, 0, 0))),
    ];
    for (case, fail) in fails {
        let pair = Pair::new();
        let mut asked = Vec::new();
        for number in 0..5 {
            let mut wire = pair.predecessor.asked_for_the_exchange();
            asked.push(now());
            fail(&mut wire, number);
        }
        // Minimum pauses: the first one twice, then each twice as long as the one before.
        let pauses: Vec<_> = asked.windows(2).map(|at| (at[1] - at[0]) / 1_000_000).collect();
        for (pause, least) in pauses.iter().zip([100, 200, 400, 800]) {
            assert!(*pause + 20 >= least, "{case}: {pauses:?} ms");
        }
        let lines = pair.successor.messages();
        let said = |line: &&String| line.contains("cannot adopt") || line.contains(" answers '");
        assert_eq!(lines.iter().filter(said).count(), usize::from(case != "gone"), "{lines:?}");
        pair.hand_over();
    }
}

#[test]
fn something_else_than_the_exchange_after_the_state_is_refused() {
    let endless = "x".repeat(MAX_HANDOFF_LINE + 1);
    let pair = Pair::new();
    for (word, why) in [
        ("nonsense", "cannot understand 'nonsense'"),
        ("prepared", "'prepared' comes too early"),
        ("commit", "'commit' comes too early"),
        (&endless, "is too long"),
    ] {
        let mut wire = pair.offer_nothing_but_the_state();
        wire.say(word);
        let said = wire.line();
        assert!(said.starts_with("abort ") && said.contains(why), "{why}: {said:?}");
        wire.end();
    }
    pair.hand_over();
}

#[test]
fn a_legacy_predecessor_beside_a_locked_file_is_not_used() {
    for answer in ["Invalid command: handoff 1", &"x".repeat(1000)] {
        let pair = Pair::new();
        let (mut wire, _) = pair.predecessor.asked();
        wire.say(answer);
        let said = "does not know the handoff, and another process holds the lock: waiting";
        pair.successor.wait_for(said);
        pair.hand_over();
    }
}
