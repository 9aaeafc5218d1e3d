// SPDX-License-Identifier: Apache-2.0
//! Halves: connections that are closed in one direction only.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use crate::claims::Claims;
use crate::crowd::{is_closed, many};
use crate::scene::{BOUNDS, Bounds, SETUP, Scene};
use crate::vitals::processor_time;
use testkit::until;

/// Number of clients of each kind.
const CLIENTS: usize = 300;

/// The input sent before; its last line is not terminated.
const SENT: &[u8] = b"get_counter\nnonsense\nget_counter";

/// Clients that end their output are answered and closed. Clients that end their input are closed.
/// The server waits for none of them.
pub(crate) fn of_a_connection(claims: &mut Claims) {
    let scene = Scene::open(SETUP);
    let mut no_more_questions = half_closed(&scene, Shutdown::Write);
    let mut no_more_replies = half_closed(&scene, Shutdown::Read);
    let mut neither = half_closed(&scene, Shutdown::Both);
    let start = Instant::now();

    // If one client gets no answer, there is no need to wait for the others.
    let unanswered = no_more_questions.iter_mut().find_map(|client| answered(client).err());
    let unanswered = unanswered.as_slice();
    claims.none_lost("one that sends no more is answered to its end", unanswered, CLIENTS);
    if !unanswered.is_empty() {
        return;
    }
    // The clients keep their half of the connection open.
    until("all are closed", || scene.clients() <= 3);
    claims.within("all are closed", start.elapsed(), Duration::from_secs(1) + scene.slack());
    let others = no_more_replies.iter_mut().chain(&mut neither);
    let open = others.filter_map(|client| (!is_closed(client)).then(|| "open".to_owned()));
    claims.none_lost("the others are closed", &open.collect::<Vec<_>>(), 2 * CLIENTS);

    // A closed connection costs nothing more.
    let (time, start) = (processor_time(scene.daemon.pid()), Instant::now());
    scene.wait_for_witnesses(50);
    let share = (processor_time(scene.daemon.pid()) - time).as_millis() * 100;
    let share = share / start.elapsed().as_millis().max(1);
    claims.at_most("processor afterwards", u64::try_from(share).expect("small"), 30, "%");
    scene.claim(claims, Bounds { lines: 0, ..BOUNDS });
}

fn half_closed(scene: &Scene, half: Shutdown) -> Vec<UnixStream> {
    let mut clients = many(&scene.daemon.socket, CLIENTS);
    for client in &mut clients {
        client.write_all(SENT).expect("room");
        client.shutdown(half).expect("a connection");
    }
    clients
}

/// Reads to the end and checks the replies.
fn answered(client: &mut UnixStream) -> Result<(), String> {
    let mut text = String::new();
    client.read_to_string(&mut text).map_err(|error| error.to_string())?;
    let lines: Vec<_> = text.lines().collect();
    let is_number = |line: &str| line.parse::<u64>().is_ok();
    match &lines[..] {
        [first, second, third]
            if is_number(first) && second.starts_with("Invalid command") && is_number(third) =>
        {
            Ok(())
        }
        _ => Err(format!("told {lines:?}")),
    }
}
