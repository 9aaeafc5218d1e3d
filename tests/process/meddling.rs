// SPDX-License-Identifier: Apache-2.0
//! Meddling: what another process may have done to a socket that it shares with the daemon.
//!
//! O_NONBLOCK and the options of a socket belong to everybody who holds a copy of it: the successor
//! that was offered the sockets, and whoever else has the listener that systemd passes.

use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

use rustix::io::ioctl_fionbio;
use rustix::net::sockopt::{
    Timeout, set_socket_passcred, set_socket_send_buffer_size, set_socket_timeout,
    socket_send_buffer_size,
};

use crate::client::{Client, get_counter};
use crate::daemon::{Daemon, STILL};
use crate::scratch::Scratch;
use crate::stage::serve;
use crate::until;
use crate::wire::{Offer, Wire};

/// Everything that the offer has a copy of.
fn all(offer: &Offer) -> Vec<&OwnedFd> {
    let clients = offer.clients.iter().map(|client| &client.socket);
    offer.listeners.iter().chain(clients).collect()
}

/// A client that asks and does not read, until no more fits.
fn unread(daemon: &Daemon) -> UnixStream {
    let mut client = UnixStream::connect(&daemon.socket).expect("a server");
    client.set_nonblocking(true).expect("a socket");
    let full = |client: &mut UnixStream| client.write(b"nonsense\n").map_err(|error| error.kind());
    until("its replies are in the way", || full(&mut client) == Err(ErrorKind::WouldBlock));
    client
}

#[test]
fn a_successor_that_makes_every_socket_wait_and_gives_up_stops_nobody() {
    let scratch = Scratch::new();
    let daemon = serve(&scratch, "sock", &STILL);
    let mut idle = Client::connect(&daemon.socket);
    assert_eq!(idle.ask("set_counter 137"), "previous value 0");
    let mut unread = unread(&daemon);
    let mut successor = Wire::ask(&daemon.socket, "handoff 1");
    let offer = successor.offer();
    for socket in all(&offer) {
        ioctl_fionbio(socket, false).expect("a socket");
        for direction in [Timeout::Recv, Timeout::Send] {
            set_socket_timeout(socket, direction, None).expect("a socket");
        }
        set_socket_passcred(socket, true).expect("a socket");
    }
    successor.say("abort");
    daemon.wait_for("did not adopt the state: it aborted; serving on");
    assert_eq!(get_counter(&daemon.socket), 137, "a new client");
    assert_eq!(idle.ask("get_counter"), "137", "one that the successor had");
    // Read at last, everything that waits is sent.
    unread.set_nonblocking(false).expect("a socket");
    unread.shutdown(Shutdown::Write).expect("a connection");
    let mut replies = String::new();
    Client::connect(&daemon.socket).ask("status");
    unread.read_to_string(&mut replies).expect("text");
    assert!(replies.lines().all(|line| line.starts_with("Invalid command: nonsense")));
    assert_eq!(get_counter(&daemon.socket), 137);
}

#[test]
fn a_client_that_comes_back_costs_no_more_memory_than_before() {
    let scratch = Scratch::new();
    let daemon = serve(&scratch, "sock", &STILL);
    let mut client = Client::connect(&daemon.socket);
    assert_eq!(client.ask("get_counter"), "0");
    let mut successor = Wire::ask(&daemon.socket, "handoff 1");
    let offer = successor.offer();
    let socket = &offer.clients[0].socket;
    let before = socket_send_buffer_size(socket).expect("a socket");
    set_socket_send_buffer_size(socket, 8 * before).expect("a socket");
    assert!(socket_send_buffer_size(socket).expect("a socket") > before);
    successor.say("abort");
    daemon.wait_for("did not adopt the state: it aborted; serving on");
    assert_eq!(client.ask("get_counter"), "0");
    assert_eq!(socket_send_buffer_size(socket), Ok(before));
}
