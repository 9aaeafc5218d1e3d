// SPDX-License-Identifier: Apache-2.0
//! Shortage: no descriptor, or no memory, for another client.

use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use crate::claims::Claims;
use crate::crowd::{ask, exchange, lost, many, number, one};
use crate::scene::{BOUNDS, Bounds, SETUP, Scene, Setup};
use crate::vitals::{descriptors_of, processor_time};
use testkit::until;

/// Slots for clients with 32 descriptors.
const PLACES: u64 = 8;

/// Clients that connect during the shortage.
const WAITING: usize = 50;

/// How long the shortage lasts.
const SHORTAGE: Duration = Duration::from_secs(2);

/// Pause of the daemon before it accepts again; the interval of its attempts in a shortage.
const PAUSE: Duration = Duration::from_millis(100);

/// With 32 descriptors there are few slots; a hundred clients connect, ask and stay.
pub(crate) fn limit_of_32(claims: &mut Claims) {
    let scene = Scene::open(Setup { before: &["prlimit", "--nofile=32:32", "--"], ..SETUP });
    let (mut clients, mut told) = (Vec::new(), Vec::new());
    while clients.len() < 100 && told.last().is_none_or(Result::is_ok) {
        let mut client = one(&scene.daemon.socket);
        told.push(exchange(&mut client));
        clients.push(client);
        // With so few clients, one that pauses for a moment is soon the longest idle one.
        scene.wait_for_the_one_that_stays(1);
    }
    let of = told.len();
    claims.none_lost("a client that comes when all is full is answered", &lost(told), of);
    claims.at_least("clients that came", of as u64, 100, "");
    claims.at_least("clients that keep their place", scene.clients(), PLACES, "");
    scene.claim(claims, Bounds { lines: 10, memory: 2048, ..BOUNDS });
}

/// The limit falls to the number in use: connected clients are served, new clients wait.
pub(crate) fn limit_reached(claims: &mut Claims) {
    let scene = Scene::open(SETUP);
    let pid = scene.daemon.pid();
    let mut connected = many(&scene.daemon.socket, 20);
    let told = lost(connected.iter_mut().map(exchange));
    claims.none_lost("a client before it is answered", &told, connected.len());
    // No number below the limit is free, except for that of a client that has just left.
    scene.limit_descriptors(descriptors_of(pid) - 1);
    let (time, start) = (processor_time(pid), Instant::now());
    let mut waiting = many(&scene.daemon.socket, WAITING);
    waiting.iter_mut().for_each(|client| assert!(ask(client), "room"));
    let mut told = Vec::new();
    until("the shortage is over", || {
        told.extend(connected.iter_mut().map(exchange));
        scene.wait_for_the_one_that_stays(5);
        start.elapsed() > SHORTAGE
    });
    let share = (processor_time(pid) - time).as_millis() * 100 / start.elapsed().as_millis();
    let of = told.len();
    claims.none_lost("a client that is connected is answered", &lost(told), of);
    claims.at_most("processor in the shortage", u64::try_from(share).expect("small"), 30, "%");
    claims.at_least("clients that wait", waiting_of(&waiting), WAITING as u64 - 2, "");
    scene.limit_descriptors(1024);
    let over = Instant::now();
    let told = lost(waiting.iter().map(number));
    claims.none_lost("a client that waited is answered", &told, WAITING);
    claims.within("after the shortage they wait", over.elapsed(), PAUSE + PAUSE + scene.slack());
    let told = lost(connected.iter_mut().chain(&mut waiting).map(exchange));
    claims.none_lost("nobody had to go", &told, connected.len() + WAITING);
    let anew = SHORTAGE + PAUSE + PAUSE + Duration::from_secs(1);
    scene.claim(claims, Bounds { reply_anew: anew, lines: 5, ..BOUNDS });
}

/// Number of clients without a reply.
fn waiting_of(clients: &[UnixStream]) -> u64 {
    let has_none = |client: &&UnixStream| rustix::io::ioctl_fionread(client) == Ok(0);
    clients.iter().filter(has_none).count() as u64
}

/// The kernel has no file or no memory left. The test injects the error, because it cannot take
/// these from the whole machine.
pub(crate) fn of_the_machine(claims: &mut Claims) {
    for error in ["ENFILE", "ENOMEM"] {
        refused_by_the_kernel(claims, error);
    }
}

/// Number of failures of accept(2).
const FAILURES: u32 = 20;

fn refused_by_the_kernel(claims: &mut Claims, error: &str) {
    // strace runs beside the daemon, and lets 30 calls pass.
    let inject = format!("inject=accept4:error={error}:when=30..{}", 30 + FAILURES - 1);
    let quiet = ["strace", "-D", "-f", "-qq", "--seccomp-bpf", "-o", "/dev/null"];
    let failing = ["-e", "trace=accept4", "-e", &inject];
    let scene = Scene::open(Setup { before: &[&quiet[..], &failing].concat(), ..SETUP });
    let start = Instant::now();
    let mut connected = many(&scene.daemon.socket, 5);
    let told = lost(connected.iter_mut().map(exchange));
    claims.none_lost(&format!("a client before {error} is answered"), &told, connected.len());
    let mut waiting = many(&scene.daemon.socket, WAITING);
    waiting.iter_mut().for_each(|client| assert!(ask(client), "room"));
    let told = lost(waiting.iter().map(number));
    let took = start.elapsed();
    claims.none_lost(&format!("a client that came in {error} is answered"), &told, WAITING);
    // A daemon that tried again at once would have its 20 failures in a millisecond.
    let fewest = (PAUSE * (FAILURES - 2)).as_millis();
    claims.at_least(
        "20 failures last",
        u64::try_from(took.as_millis()).expect("small"),
        u64::try_from(fewest).expect("small"),
        "ms",
    );
    let told = lost(connected.iter_mut().chain(&mut waiting).map(exchange));
    claims.none_lost("nobody had to go", &told, connected.len() + WAITING);
    let anew = PAUSE * (FAILURES + 5);
    scene.claim(claims, Bounds { reply_anew: anew, lines: 5, ..BOUNDS });
}
