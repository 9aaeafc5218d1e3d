// SPDX-License-Identifier: Apache-2.0
//! Burst: ten thousand clients that come at once.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::{Barrier, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::process::{Signal, Uid};
use rustix::thread::set_thread_res_uid;

use crate::claims::Claims;
use crate::crowd::{ask, at_once, is_closed, lost, number, one};
use crate::scene::{BOUNDS, Bounds, SETUP, Scene};
use testkit::LIMIT;
use testkit::host::Over;

const CLIENTS: usize = 10_000;

/// As many connect at the same time; each is followed by the next as soon as it is in the backlog.
const HANDS: usize = 4;

/// How long a client that connects anew during the burst may wait behind those that came before.
const SERVED: Duration = Duration::from_secs(20);

/// With ten times as many clients as there are places, one that has just asked may be the longest
/// idle one all the same, and one that asks may have a thousand before it.
const CROWDED: Bounds =
    Bounds { reply: CROWD, reply_anew: SERVED, returns: 10, lines: 25, ..BOUNDS };
const CROWD: Duration = Duration::from_millis(300);

/// Clients whose connect waits where the backlog is full: all are served.
pub(crate) fn that_wait(claims: &mut Claims) {
    let scene = Scene::open(SETUP);
    let (start, results) = (Instant::now(), Mutex::new(Vec::new()));
    let all_are_there = Barrier::new(HANDS);
    thread::scope(|scope| {
        for _ in 0..HANDS {
            scope.spawn(|| {
                let told = come(&scene.daemon.socket, CLIENTS / HANDS, &all_are_there);
                results.lock().expect("no panic").extend(told);
            });
        }
    });
    let took = start.elapsed();
    let results = results.into_inner().expect("no panic");
    claims.none_lost("every client of the burst is answered", &lost(results), CLIENTS);
    claims.took("the burst is over", took);
    scene.claim(claims, CROWDED);
}

/// They connect, and ask, one after the other; when all are there, they read.
fn come(socket: &Path, count: usize, all_are_there: &Barrier) -> Vec<Result<u64, String>> {
    let come = |_| {
        let mut client = one(socket);
        let is_sent = ask(&mut client);
        (client, is_sent)
    };
    let clients: Vec<_> = (0..count).map(come).collect();
    all_are_there.wait();
    let answer = |(client, is_sent)| match is_sent {
        true => number(&client),
        false => Err("cannot ask".to_owned()),
    };
    clients.into_iter().map(answer).collect()
}

/// Clients whose connect does not wait: a full backlog is EAGAIN, and never ECONNREFUSED.
pub(crate) fn that_do_not_wait(claims: &mut Claims) {
    let scene = Scene::open(SETUP);
    let start = Instant::now();
    let (mut full, mut refused, mut connected) = (0, Vec::new(), 0);
    let mut results = Vec::new();
    // On a machine with many processors the daemon may keep up with one who connects.
    while full == 0 && start.elapsed() < LIMIT {
        let mut clients = Vec::new();
        for _ in 0..CLIENTS {
            match at_once(&scene.daemon.socket) {
                Ok(mut client) => {
                    let is_sent = ask(&mut client);
                    clients.push((client, is_sent));
                }
                Err(Errno::AGAIN) => full += 1,
                Err(error) => refused.push(error.to_string()),
            }
        }
        connected += clients.len();
        results.extend(clients.into_iter().map(|(client, is_sent)| {
            client.set_nonblocking(false).expect("a socket");
            client.set_read_timeout(Some(LIMIT)).expect("not zero");
            if is_sent { number(&client) } else { Err("cannot ask".to_owned()) }
        }));
    }
    claims.none_lost("no connect is refused", &refused, connected + full + refused.len());
    claims.at_least("connects that see EAGAIN", full as u64, 1, "");
    claims.none_lost("every client that connected is answered", &lost(results), connected);
    claims.took("the burst is over", start.elapsed());
    scene.claim(claims, CROWDED);
}

/// Half as many again as there are places for.
const LATE: usize = 1500;

/// The time from when the server sees them to their first question: less than they have for it.
const LATENESS: Duration = Duration::from_millis(300);

/// Clients that connect at the same moment and ask a moment later: none is closed before it has
/// asked, and those that find no place meanwhile wait, and no longer than the others have time for.
///
/// They connect while the daemon is stopped, so that it sees all of them at once, however slow the
/// machine is.
pub(crate) fn that_begin_late(claims: &mut Claims) {
    let scene = Scene::open(SETUP);
    let stopped = Instant::now();
    scene.daemon.stop();
    let mut clients: Vec<_> = (0..LATE).map(|_| one(&scene.daemon.socket)).collect();
    scene.daemon.signal(Signal::CONT);
    let stopped = stopped.elapsed();
    thread::sleep(LATENESS);
    let start = Instant::now();
    let sent: Vec<_> = clients.iter_mut().map(ask).collect();
    let told = clients.iter().zip(sent).map(|(client, is_sent)| match is_sent {
        true => number(client),
        false => Err("cannot ask".to_owned()),
    });
    claims.none_lost("every one of them is answered", &lost(told), LATE);
    let places = Duration::from_secs(2);
    claims.within("the last of them waits", start.elapsed(), places + scene.slack());
    let bounds = Bounds {
        tick: BOUNDS.tick + stopped,
        reply: CROWD + stopped,
        reply_anew: places + LATENESS + stopped,
        returns: 10,
        lines: 5,
        ..BOUNDS
    };
    scene.claim(claims, bounds);
}

/// Twice as many as there are places for.
const SILENT: usize = 2000;

/// Clients that connect and say nothing: each has a second, and then goes for those who wait.
pub(crate) fn that_say_nothing(claims: &mut Claims) {
    let scene = Scene::open(SETUP);
    let clients: Vec<_> = (0..SILENT).map(|_| one(&scene.daemon.socket)).collect();
    scene.wait_for_witnesses(50);
    // Who comes after them waits for those before it to have had their time, twice.
    let anew = Duration::from_millis(2500);
    scene.claim(claims, Bounds { reply_anew: anew, lines: 8, ..BOUNDS });
    drop(clients);
}

/// How many clients of a flood connect by one hand: with all places taken, almost four times as
/// many wait in the backlog, each of which would otherwise keep its place for a second.
const FLOOD: usize = 4800 / HANDS;

/// Clients of another user that say nothing, and come again as soon as they are closed.
pub(crate) fn that_flood(claims: &mut Claims) {
    flood(claims, Some(4000));
}

/// The same of the user whose other clients ask.
pub(crate) fn that_flood_their_own(claims: &mut Claims) {
    flood(claims, None);
}

fn flood(claims: &mut Claims, user: Option<u32>) {
    let scene = Scene::open(SETUP);
    let start = Instant::now();
    let socket = scene.daemon.socket.clone();
    fs::set_permissions(&socket, Permissions::from_mode(0o777)).expect("our own file");
    if let Some(directory) = socket.parent() {
        fs::set_permissions(directory, Permissions::from_mode(0o755)).expect("our own");
    }
    thread::scope(|scope| {
        // Ends them also if a reply does not come.
        let over = Over::default();
        for _ in 0..HANDS {
            let (whether, socket) = (over.whether(), &socket);
            scope.spawn(move || {
                if let Some(user) = user.map(Uid::from_raw) {
                    set_thread_res_uid(user, user, user).expect("root, to be another user");
                }
                let mut clients: Vec<_> = (0..FLOOD).map(|_| one(socket)).collect();
                while !whether.is_over() {
                    for client in
                        clients.iter_mut().filter_map(|client| is_closed(client).then_some(client))
                    {
                        *client = one(socket);
                    }
                    thread::sleep(PAUSE);
                }
            });
        }
        // Without the flood ever ending, and from its first second on.
        scene.wait_for_the_one_that_stays(REPLIES);
        scene.wait_for_witnesses(ANSWERS);
    });
    // Nobody floods before the first of them had their time.
    let anew = Duration::from_millis(2500);
    // One a second; the more of them, the slower the machine.
    let lines = 60.max(2 * start.elapsed().as_secs());
    scene.claim(claims, Bounds { reply: CROWD, reply_anew: anew, lines, ..BOUNDS });
}

/// The time after which a flooder looks again which of its clients are closed: shorter, and the
/// looking takes the processors from the daemon.
const PAUSE: Duration = Duration::from_millis(20);

/// Replies to the client that stays during a flood: some seconds of it.
const REPLIES: usize = 100;

/// Few enough that they come before the test gives up even where each takes twice the bound.
const ANSWERS: usize = 4;
