// SPDX-License-Identifier: Apache-2.0
//! Meddling: what another process can do to a socket that it shares with the daemon.
//!
//! O_NONBLOCK and socket options are common to all processes with a copy of a socket: a successor
//! that was offered it, or any process that has the listener passed by systemd.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

use early_service_machine::Counter;
use early_service_machine::bounds::RECORD_SIZE;
use rustix::fs::{FlockOperation, OFlags, fcntl_setfl, flock};
use rustix::io::ioctl_fionbio;
use rustix::net::sockopt::{
    Timeout, set_socket_passcred, set_socket_send_buffer_size, set_socket_timeout,
    socket_send_buffer_size,
};

use crate::stage::{is_locked, lock, record, serve, state_file};
use crate::wire::{Offer, Wire};
use testkit::client::{Client, get_counter, nc};
use testkit::daemon::{Daemon, STILL};
use testkit::scratch::Scratch;
use testkit::until;

/// All sockets of the offer.
fn all(offer: &Offer) -> Vec<&OwnedFd> {
    let clients = offer.clients.iter().map(|client| &client.socket);
    offer.listeners.iter().chain(clients).collect()
}

/// A client that sends commands and reads no reply, until no more fits.
fn unread(daemon: &Daemon) -> UnixStream {
    let mut client = UnixStream::connect(&daemon.socket).expect("a server");
    client.set_nonblocking(true).expect("a socket");
    let full = |client: &mut UnixStream| client.write(b"nonsense\n").map_err(|error| error.kind());
    until("its replies are in the way", || full(&mut client) == Err(ErrorKind::WouldBlock));
    client
}

#[test]
fn a_successor_that_makes_sockets_blocking_stops_nobody() {
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
    // All pending replies are sent once the client reads them.
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

/// The lock and the flags belong to the open file, of which the successor has a copy.
#[test]
fn meddling_with_the_state_file_by_a_successor_is_undone() {
    let scratch = Scratch::new();
    let daemon = serve(&scratch, "sock", &STILL);
    let mut successor = Wire::ask(&daemon.socket, "handoff 1");
    let offer = successor.offer();
    let lock = offer.lock.as_ref().expect("the lock");
    fcntl_setfl(lock, OFlags::APPEND | OFlags::NONBLOCK).expect("a file");
    flock(lock, FlockOperation::Unlock).expect("a file");
    successor.say("abort");
    daemon.wait_for("did not adopt the state: it aborted; serving on");
    assert_eq!(nc(&daemon.socket, "set_counter 5000\n"), "previous value 0\n");
    let path = state_file(&scratch);
    assert_eq!(record(&path).snapshot.state, Counter { next: 5000 });
    assert_eq!(usize::try_from(fs::metadata(&path).expect("a file").len()), Ok(RECORD_SIZE));
    assert!(is_locked(&path), "no second owner is possible");
}

#[test]
fn a_predecessor_without_its_lock_does_not_own() {
    let scratch = Scratch::new();
    let daemon = serve(&scratch, "sock", &STILL);
    let mut successor = Wire::ask(&daemon.socket, "handoff 1");
    let offer = successor.offer();
    flock(offer.lock.as_ref().expect("the lock"), FlockOperation::Unlock).expect("a file");
    let other = lock(&state_file(&scratch));
    let mut client = Client::connect(&daemon.socket);
    client.send("get_counter\n");
    successor.say("abort");
    daemon.wait_for(": trying again");
    assert!(!daemon.messages().iter().any(|line| line.contains("serving on")), "two owners");
    drop(other);
    daemon.wait_for("did not adopt the state: it aborted; serving on");
    assert_eq!(client.line(), "0", "it was kept waiting");
}
