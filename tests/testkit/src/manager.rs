// SPDX-License-Identifier: Apache-2.0
//! Manager: a socket in PID 1's place that receives the daemon's notifications (sd_notify(3)).

use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::time::Instant;

use rustix::io::Errno;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};

use crate::LIMIT;
use crate::scratch::Scratch;

/// The socket, and all lines received.
pub struct Manager {
    socket: UnixDatagram,
    pub path: PathBuf,
    pub said: Vec<String>,
    /// The descriptors that the daemon had stored and not removed.
    pub stored: Vec<OwnedFd>,
}

impl Manager {
    pub fn new(scratch: &Scratch) -> Self {
        let path = scratch.join("notify");
        let socket = UnixDatagram::bind(&path).expect("a socket");
        socket.set_read_timeout(Some(LIMIT)).expect("not zero");
        Self { socket, path, said: Vec::new(), stored: Vec::new() }
    }

    /// Reads until the daemon has sent `what`.
    #[track_caller]
    pub fn wait_for(&mut self, what: &str) {
        self.wait_until(what, |said| said.iter().any(|said| said == what));
    }

    /// Reads until `look` accepts the lines received.
    #[track_caller]
    pub fn wait_until(&mut self, what: &str, look: impl Fn(&[String]) -> bool) {
        let start = Instant::now();
        while !look(&self.said) {
            assert!(start.elapsed() < LIMIT, "no {what} in {:?}", self.said);
            match self.receive() {
                Err(Errno::INTR) | Ok(()) => {}
                Err(error) => panic!("no {what} in {:?}: {error}", self.said),
            }
        }
    }

    /// Reads everything that has arrived.
    pub fn read_waiting(&mut self) {
        self.socket.set_nonblocking(true).expect("our own socket");
        while self.receive().is_ok() {}
    }

    /// Sends itself messages until its queue is full, as that of a busy PID 1.
    pub fn fill(&self) -> usize {
        let sender = UnixDatagram::unbound().expect("a socket");
        sender.set_nonblocking(true).expect("our own socket");
        (0..).take_while(|_| sender.send_to(b"FULL=1", &self.path).is_ok()).count()
    }

    /// Reads as many messages as [`fill`](Self::fill) has sent.
    pub fn empty(&mut self, full: usize) {
        for _ in 0..full {
            self.receive().expect("a message");
        }
    }

    /// Reads one notification, and stores its descriptors.
    fn receive(&mut self) -> Result<(), Errno> {
        let mut bytes = [0; 1024];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let mut pieces = [IoSliceMut::new(&mut bytes)];
        let flags = RecvFlags::CMSG_CLOEXEC;
        let count = recvmsg(&self.socket, &mut pieces, &mut ancillary, flags)?.bytes;
        for message in ancillary.drain() {
            if let RecvAncillaryMessage::ScmRights(descriptors) = message {
                self.stored.extend(descriptors);
            }
        }
        let message = String::from_utf8_lossy(&bytes[..count]).into_owned();
        if message.contains("FDSTOREREMOVE=1") {
            self.stored.clear();
        }
        self.said.extend(message.lines().map(str::to_owned));
        Ok(())
    }
}
