// SPDX-License-Identifier: Apache-2.0
//! Pair: a predecessor that the test plays, and the daemon that adopts from it.

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;

use crate::stage::{is_locked, lock, state_file, succeed};
use crate::wire::{Predecessor, Wire, state};
use testkit::LIMIT;
use testkit::client::get_counter;
use testkit::daemon::{Daemon, STILL};
use testkit::scratch::Scratch;

/// A predecessor with the lock, and its successor.
pub(crate) struct Pair {
    pub(crate) scratch: Scratch,
    pub(crate) predecessor: Predecessor,
    pub(crate) lock: OwnedFd,
    pub(crate) successor: Daemon,
}

impl Pair {
    pub(crate) fn new() -> Self {
        let scratch = Scratch::new();
        let predecessor = Predecessor::new(&scratch);
        let lock = lock(&state_file(&scratch));
        let successor = succeed(&scratch, "root", &predecessor.path, &STILL);
        Self { scratch, predecessor, lock, successor }
    }

    /// Sends an offer without clients, except for its last line.
    pub(crate) fn offer_nothing_but_the_state(&self) -> Wire {
        let mut wire = self.predecessor.asked_for_the_exchange();
        wire.say(&state(137, true, 0, 0));
        wire
    }

    pub(crate) fn end(&self, wire: &mut Wire) {
        wire.send("end\n", &[self.lock.as_fd()]);
    }

    /// Hands over to the next process that asks.
    #[track_caller]
    pub(crate) fn hand_over(self) -> (Scratch, Daemon) {
        let mut wire = self.offer_nothing_but_the_state();
        self.end(&mut wire);
        assert_eq!(wire.line(), "prepared");
        wire.say("commit");
        assert_eq!(wire.line(), "done");
        drop(self.lock);
        assert_eq!(get_counter(&self.successor.socket), 137);
        assert!(is_locked(&state_file(&self.scratch)), "the lock is with the successor");
        (self.scratch, self.successor)
    }
}

/// Both ends of a connection: the client's end and the server's, which is handed over.
pub(crate) fn client() -> (UnixStream, OwnedFd) {
    let (client, served) = UnixStream::pair().expect("a pair");
    client.set_read_timeout(Some(LIMIT)).expect("not zero");
    (client, served.into())
}
