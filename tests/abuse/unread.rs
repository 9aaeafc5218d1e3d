// SPDX-License-Identifier: Apache-2.0
//! Unread: a thousand clients that ask and ask, and never read a reply.

use std::io::Write;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use rustix::io::ioctl_fionread;
use rustix::net::sockopt::set_socket_send_buffer_size;

use crate::claims::Claims;
use crate::crowd::{is_closed, many};
use crate::scene::{BOUNDS, Bounds, SETUP, Scene};
use testkit::{now, until};

const CLIENTS: usize = 1000;

/// What may wait in the kernel for one of them, in bytes.
const QUEUED: u64 = 16 * 1024;

/// Ten seconds, and what it takes to look for those who have not read for so long.
const CLOSED: Duration = Duration::from_millis(11_500);

pub(crate) fn by_a_thousand(claims: &mut Claims) {
    let scene = Scene::open(SETUP);
    let mut clients = many(&scene.daemon.socket, CLIENTS);
    for client in &mut clients {
        // What they have asked and the daemon has not read is their own memory, and little of it.
        set_socket_send_buffer_size(&*client, 4096).expect("a socket");
        client.set_nonblocking(true).expect("a socket");
    }
    let questions = b"get_counter\n".repeat(200);
    // Until the daemon has not taken anything from any of them for a while.
    let mut last = now();
    until("nobody can ask any more", || {
        for client in &mut clients {
            if is_taken(client, &questions) {
                last = now();
            }
        }
        now() - last > 1_000_000_000
    });
    let queued = clients.iter().filter_map(|client| ioctl_fionread(client).ok());
    let most = queued.clone().max().unwrap_or_default();
    claims.at_least(
        "clients with replies unread",
        queued.filter(|queued| *queued > 0).count() as u64,
        900,
        "",
    );
    claims.at_most("replies in the kernel for one of them", most, QUEUED, "bytes");

    until("all are closed", || scene.clients() <= 3);
    let took = Duration::from_nanos(now() - last);
    claims.within("the last of them is closed", took, CLOSED + scene.slack());
    let open =
        clients.iter_mut().filter_map(|client| (!is_closed(client)).then(|| "open".to_owned()));
    claims.none_lost("every one of them is closed", &open.collect::<Vec<_>>(), CLIENTS);
    // Who comes anew may find a thousand before it, each with a full batch.
    let anew = Duration::from_secs(2);
    // With the witnesses they are more than there are places for, and all of them busy at first: of
    // some 2,000 questions a few are those of who was idle longest, more of them on a busy machine.
    scene.claim(claims, Bounds { reply_anew: anew, returns: 40, lines: 30, ..BOUNDS });
}

/// Whether the daemon, or the socket, has taken some of it.
fn is_taken(client: &mut UnixStream, bytes: &[u8]) -> bool {
    client.write(bytes).is_ok_and(|count| count > 0)
}
