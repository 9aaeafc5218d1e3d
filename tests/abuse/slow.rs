// SPDX-License-Identifier: Apache-2.0
//! Slow: clients that send a byte a second, and therefore never finish a line.

use std::io::Write;
use std::thread;
use std::time::Duration;

use crate::claims::Claims;
use crate::crowd::{exchange, is_closed, lost, many};
use crate::scene::{BOUNDS, Bounds, SETUP, Scene};

/// With the witnesses and the patient clients, as many as there are slots.
const SLOW: usize = 980;
const PATIENT: usize = 10;

/// Over the limit.
const NEW: usize = 200;

/// Bytes that each client sends.
const BYTES: usize = 3;

/// Slow clients fill the slots, and each sends a byte every second. Patient clients send nothing
/// after their first request. If new clients connect, the clients that never sent a request must be
/// closed.
pub(crate) fn a_byte_a_second(claims: &mut Claims) {
    let scene = Scene::open(SETUP);
    let mut slow = many(&scene.daemon.socket, SLOW);
    let mut patient = many(&scene.daemon.socket, PATIENT);
    let first = lost(patient.iter_mut().map(exchange));
    claims.none_lost("a client before it is patient is answered", &first, PATIENT);
    for _ in 0..BYTES {
        thread::sleep(Duration::from_secs(1));
        for client in &mut slow {
            let _ = client.write(b"x");
        }
    }
    let mut new = many(&scene.daemon.socket, NEW);
    let told = lost(new.iter_mut().map(exchange));
    claims.none_lost("a client that comes when all is full is answered", &told, NEW);
    let gone = slow.iter_mut().filter_map(|client| is_closed(client).then_some(())).count();
    claims.at_least("slow clients that had to go", gone as u64, (NEW / 2) as u64, "");
    let told = lost(patient.iter_mut().chain(&mut new).map(exchange));
    claims.none_lost("a client that has asked keeps its place", &told, PATIENT + NEW);
    scene.claim(claims, Bounds { lines: 5, ..BOUNDS });
}
