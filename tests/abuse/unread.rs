// SPDX-License-Identifier: Apache-2.0
//! Unread: a thousand clients that keep sending requests and never read a reply.

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

/// Bytes that the kernel may queue for each client.
const QUEUED: u64 = 16 * 1024;

/// Ten seconds, plus the interval of the search for clients that do not read.
const CLOSED: Duration = Duration::from_millis(11_500);

pub(crate) fn by_a_thousand(claims: &mut Claims) {
    let scene = Scene::open(SETUP);
    let mut clients = many(&scene.daemon.socket, CLIENTS);
    for client in &mut clients {
        // Unread commands stay in the clients' own send buffers, which are small.
        set_socket_send_buffer_size(&*client, 4096).expect("a socket");
        client.set_nonblocking(true).expect("a socket");
    }
    let questions = b"get_counter\n".repeat(200);
    // Until the daemon has read nothing from any of them for a while.
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
    // A new client may have a thousand before it, each with a full batch.
    let anew = Duration::from_secs(2);
    // With the witnesses, there are more clients than slots, and all are busy at first. A few of
    // some 2,000 requests are those of the longest idle client; more on a busy machine.
    scene.claim(claims, Bounds { reply_anew: anew, returns: 40, lines: 30, ..BOUNDS });
}

/// Whether the daemon or the socket has taken a part.
fn is_taken(client: &mut UnixStream, bytes: &[u8]) -> bool {
    client.write(bytes).is_ok_and(|count| count > 0)
}
