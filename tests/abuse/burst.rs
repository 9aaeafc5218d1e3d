// SPDX-License-Identifier: Apache-2.0
//! Burst: ten thousand clients that connect at once.

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

/// Threads that connect clients; each connects the next one once the last is in the backlog.
const HANDS: usize = 4;

/// How long a client that connects during the burst may wait behind earlier ones.
const SERVED: Duration = Duration::from_secs(20);

/// There are ten times as many clients as slots. A client that has just asked may still be the
/// longest idle one, and a request may wait for a thousand others.
const CROWDED: Bounds =
    Bounds { reply: CROWD, reply_anew: SERVED, returns: 10, lines: 25, ..BOUNDS };
const CROWD: Duration = Duration::from_millis(300);

/// Clients whose connect waits while the backlog is full: all are served.
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

/// Connects and sends requests one by one; reads the replies once all clients are connected.
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

/// Clients whose connect does not wait: a full backlog causes EAGAIN, and never ECONNREFUSED.
pub(crate) fn that_do_not_wait(claims: &mut Claims) {
    let scene = Scene::open(SETUP);
    let start = Instant::now();
    let (mut full, mut refused, mut connected) = (0, Vec::new(), 0);
    let mut results = Vec::new();
    // If there are many processors, the daemon may keep up with one client thread.
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

/// One and a half times the number of slots.
const LATE: usize = 1500;

/// Delay before the first request of a client: less than the time that it has.
const LATENESS: Duration = Duration::from_millis(300);

/// Clients that connect together and send their first request a moment later: none is closed before
/// it. Clients without a slot wait no longer than the others have time.
///
/// The daemon is stopped while they connect, so that it sees all of them at once, however slow the
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

/// Twice the number of slots.
const SILENT: usize = 2000;

/// Clients that send nothing: each keeps its slot for a second, and then yields to waiting ones.
pub(crate) fn that_say_nothing(claims: &mut Claims) {
    let scene = Scene::open(SETUP);
    let clients: Vec<_> = (0..SILENT).map(|_| one(&scene.daemon.socket)).collect();
    scene.wait_for_witnesses(50);
    // A later client waits until the clients before it have had their time, twice.
    let anew = Duration::from_millis(2500);
    scene.claim(claims, Bounds { reply_anew: anew, lines: 8, ..BOUNDS });
    drop(clients);
}

/// Clients of a flood for each thread. With all slots taken, almost four times as many wait in the
/// backlog; each would otherwise keep a slot for a second.
const FLOOD: usize = 4800 / HANDS;

/// Clients of another user that send nothing and reconnect as soon as they are closed.
pub(crate) fn that_flood(claims: &mut Claims) {
    flood(claims, Some(4000));
}

/// The same, by the user whose other clients send requests.
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
        // Also ends the flood if a reply is missing.
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
        // During the flood, from its first second on.
        scene.wait_for_the_one_that_stays(REPLIES);
        scene.wait_for_witnesses(ANSWERS);
    });
    // The flood counts as one only after its first clients have had their time.
    let anew = Duration::from_millis(2500);
    // One a second; a slower machine needs more seconds.
    let lines = 60.max(2 * start.elapsed().as_secs());
    scene.claim(claims, Bounds { reply: CROWD, reply_anew: anew, lines, ..BOUNDS });
}

/// Interval at which a flooder looks for closed clients. Too short: the flooder takes the
/// processors from the daemon.
const PAUSE: Duration = Duration::from_millis(20);

/// Replies to the permanent client during a flood: they take some seconds.
const REPLIES: usize = 100;

/// Few enough to arrive before the test times out, even if each takes twice its bound.
const ANSWERS: usize = 4;
