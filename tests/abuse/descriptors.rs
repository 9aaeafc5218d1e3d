// SPDX-License-Identifier: Apache-2.0
//! Descriptors: clients send them along with commands, to a server that expects none.

use std::fs::File;
use std::io::{IoSlice, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};

use crate::claims::Claims;
use crate::crowd::{lost, many, number, one};
use crate::scene::{BOUNDS, Bounds, SETUP, Scene};
use crate::vitals::descriptors_of;
use testkit::until;

const CLIENTS: usize = 20;

/// Maximum number in one message (`SCM_MAX_FD`).
pub(crate) const DESCRIPTORS: usize = 253;

/// How often each client sends that many.
const TIMES: usize = 20;

/// Further descriptors: the witnesses, a connection whose end is not yet known, and received
/// descriptors that the kernel is still closing.
const OTHERS: u64 = 5;

/// Descriptors arrive with whole commands and with parts of one.
pub(crate) fn uninvited(claims: &mut Claims) {
    let scene = Scene::open(SETUP);
    let before = descriptors_of(scene.daemon.pid());
    let mut clients = many(&scene.daemon.socket, CLIENTS);
    let file = File::open("/dev/null").expect("a device");
    let file = [file.as_fd(); DESCRIPTORS];
    let (mut results, mut sent) = (Vec::new(), 0);
    for _ in 0..TIMES {
        for client in &mut clients {
            for piece in [&b"get_"[..], b"counter\nget_counter\n"] {
                send(client, piece, &file);
                sent += DESCRIPTORS;
            }
            results.extend([number(client), number(client)]);
        }
    }
    let of = results.len();
    claims.at_least("descriptors sent", sent as u64, 200_000, "");
    claims.none_lost("the commands beside them are answered", &lost(results), of);
    let most = before + CLIENTS as u64 + OTHERS;
    claims.at_most("descriptors open in the daemon", scene.vitals.descriptors(), most, "");
    scene.claim(claims, BOUNDS);
    by_a_successor(claims);
}

/// A client that may take over sends an endless line instead of receiving, until it is refused. The
/// count may pause for its handoff.
fn by_a_successor(claims: &mut Claims) {
    let scene = Scene::open(SETUP);
    let most = descriptors_of(scene.daemon.pid()) + DESCRIPTORS as u64 + OTHERS;
    let mut successor = one(&scene.daemon.socket);
    successor.write_all(b"handoff 1\n").expect("room");
    until("the handoff", || is_offered(&mut successor));
    let file = File::open("/dev/null").expect("a device");
    let file = [file.as_fd(); DESCRIPTORS];
    successor.set_nonblocking(true).expect("a socket");
    let mut sent = 0;
    until("it is turned away", || match try_to_send(&successor, b"x", &file) {
        Ok(_) => {
            sent += DESCRIPTORS as u64;
            false
        }
        Err(error) => error != Errno::AGAIN,
    });
    claims.at_least("descriptors sent by a successor", sent, 10_000, "");
    let open = scene.vitals.descriptors();
    claims.at_most("descriptors of a successor that are open", open, most, "");
    let turned = Bounds { reply: OFFERED, reply_anew: OFFERED, tick: OFFERED, lines: 2, ..BOUNDS };
    scene.claim(claims, turned);
}

/// How long a successor may delay a handoff, plus a period.
const OFFERED: Duration = Duration::from_millis(1100);

/// Whether a part of the offer has arrived.
fn is_offered(successor: &mut UnixStream) -> bool {
    matches!(successor.read(&mut [0; 4096]), Ok(1..))
}

/// Sends descriptors and bytes in one message.
pub(crate) fn send(client: &UnixStream, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) {
    assert_eq!(try_to_send(client, bytes, descriptors), Ok(bytes.len()), "a server that reads");
}

fn try_to_send(
    client: &UnixStream,
    bytes: &[u8],
    descriptors: &[BorrowedFd<'_>],
) -> Result<usize, Errno> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    assert!(control.push(SendAncillaryMessage::ScmRights(descriptors)), "room");
    sendmsg(client, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL)
}
