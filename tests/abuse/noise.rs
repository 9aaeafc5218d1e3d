// SPDX-License-Identifier: Apache-2.0
//! Noise: endless lines, and bytes that are not lines.

use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use early_service_machine::wire::command::TOO_LONG;

use crate::claims::Claims;
use crate::crowd::{ask, exchange, number, one};
use crate::scene::{BOUNDS, Bounds, SETUP, Scene};
use testkit::daemon::{Daemon, STILL};
use testkit::scratch::Scratch;
use testkit::{LIMIT, until};

/// Threads that make the noise.
const HANDS: usize = 4;

/// A line has at most 128 bytes, and possibly a `\r`; the next byte is too many.
const TOO_MANY: usize = 130;

/// Number of endless lines.
const LINES: usize = 200;

/// Bytes of an endless line that the server may read and discard, so that its client sees why it is
/// closed; and the bytes that are in the socket at that time.
const TAKEN: u64 = 1_500_000;

const GARBAGE: u64 = 100_000_000;

/// Number of clients that send garbage.
const POURING: u64 = 2;

/// Invalid lines of one client: several times as many as one read takes. Their replies fit into the
/// kernel's queue.
const AHEAD: usize = 40;

/// The server answers an endless line, and closes the connection, at its first excess byte.
pub(crate) fn endless_line(claims: &mut Claims) {
    let scene = Scene::open(SETUP);
    let start = Instant::now();
    let mut short = one(&scene.daemon.socket);
    short.write_all(&[b'x'; TOO_MANY]).expect("room");
    let mut told = String::new();
    let read = short.read_to_string(&mut told);
    let took = start.elapsed();
    let is_told = read.is_ok() && told == format!("{TOO_LONG}\n");
    let lost: Vec<_> = (!is_told).then(|| format!("{read:?} {told:?}")).into_iter().collect();
    claims.none_lost(&format!("{TOO_MANY} bytes are answered and closed"), &lost, 1);
    claims.within("that takes", took, Duration::from_millis(100) + scene.slack());

    let (sent, most) = (AtomicU64::new(0), AtomicU64::new(0));
    thread::scope(|scope| {
        for _ in 0..HANDS {
            scope.spawn(|| {
                for _ in 0..LINES / HANDS {
                    let line = go_on_without_end(&scene.daemon.socket);
                    sent.fetch_add(line, Ordering::Relaxed);
                    most.fetch_max(line, Ordering::Relaxed);
                }
            });
        }
    });
    claims.at_least("bytes of endless lines", sent.into_inner() / 1_000_000, 20, "MB");
    claims.at_most("bytes taken of one line", most.into_inner(), TAKEN, "");
    scene.claim(claims, Bounds { lines: 40, ..BOUNDS });
}

/// Sends until the server closes; returns the number of bytes.
fn go_on_without_end(socket: &Path) -> u64 {
    let mut client = one(socket);
    client.set_write_timeout(Some(LIMIT)).expect("not zero");
    let piece = [b'x'; 64 * 1024];
    let mut sent = 0;
    while sent <= 2 * TAKEN {
        let Ok(count) = client.write(&piece) else { break };
        sent += count as u64;
    }
    sent
}

/// A client that is far ahead of its replies delays the client behind it by one read at most.
///
/// The replies show the order of the turns, on any machine: after an aborted handoff, the server
/// resumes all clients at once, in the order in which they arrived.
pub(crate) fn far_ahead(claims: &mut Claims) {
    let scratch = Scratch::new();
    let daemon = Daemon::serve(scratch.join("sock"), &STILL);
    let [mut ahead, mut behind] = [(); 2].map(|()| one(&daemon.socket));
    for client in [&mut ahead, &mut behind] {
        assert_eq!(exchange(client), Ok(0), "it has a place");
    }
    let successor = one(&daemon.socket);
    (&successor).write_all(b"handoff 1\n").expect("room");
    let offered = (&successor).read(&mut [0; 4096]);
    assert!(offered.is_ok_and(|count| count > 0), "the server stands still for an offer");
    let mut lines = [[b'x'; 127].as_slice(), b"\n"].concat().repeat(AHEAD);
    lines.extend(b"set_counter 777\n");
    ahead.write_all(&lines).expect("room");
    assert!(ask(&mut behind), "room");
    drop(successor);
    let told = number(&behind);
    let lost: Vec<_> = (told != Ok(0)).then(|| format!("{told:?}")).into_iter().collect();
    claims.none_lost("a client behind it has its turn before its end", &lost, 1);
    until("its lines are carried out", || exchange(&mut behind) == Ok(777));
}

/// Random bytes, in lines short enough that the connection stays open. Each connection is written
/// and read at full speed, so that the server always has work for it.
pub(crate) fn garbage(claims: &mut Claims) {
    let scene = Scene::open(SETUP);
    let (bytes, replies) = (any_bytes(), AtomicU64::new(0));
    let clients: Vec<_> = (0..POURING).map(|_| one(&scene.daemon.socket)).collect();
    let sent = thread::scope(|scope| {
        let pouring = clients.iter().map(|client| {
            scope.spawn(|| replies.fetch_add(drained(client), Ordering::Relaxed));
            scope.spawn(|| poured(client, &bytes))
        });
        let pouring: Vec<_> = pouring.collect();
        pouring.into_iter().map(|sent| sent.join().expect("no panic")).sum::<u64>()
    });
    claims.at_least("bytes of garbage sent", sent / 1_000_000, GARBAGE / 1_000_000, "MB");
    let replies = replies.into_inner() / 1_000_000;
    claims.at_least("bytes of replies to it", replies, GARBAGE / 1_000_000, "MB");
    scene.claim(claims, Bounds { lines: 0, ..BOUNDS });
}

/// Sends the garbage, then ends the output; returns the number of bytes sent.
fn poured(mut client: &UnixStream, bytes: &[u8]) -> u64 {
    let mut sent = 0;
    while sent < GARBAGE / POURING {
        let from = usize::try_from(sent).expect("small") % bytes.len();
        match client.write(&bytes[from..]) {
            Ok(count) => sent += count as u64,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(_) => break,
        }
    }
    let _ = client.shutdown(Shutdown::Write);
    sent
}

/// Reads to the end; returns the number of bytes.
fn drained(mut client: &UnixStream) -> u64 {
    let (mut replies, mut read) = ([0; 64 * 1024], 0);
    while let Ok(count @ 1..) = client.read(&mut replies) {
        read += count as u64;
    }
    read
}

/// A megabyte of random bytes, with a newline at least every 128.
fn any_bytes() -> Vec<u8> {
    let mut random = 1_u64;
    let byte = |at: usize| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        if at % 128 == 127 { b'\n' } else { random.to_be_bytes()[0] }
    };
    (0..1 << 20).map(byte).collect()
}
