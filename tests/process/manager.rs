// SPDX-License-Identifier: Apache-2.0
//! Manager: a socket in PID 1's place that receives the daemon's notifications (sd_notify(3)).

use std::io::ErrorKind;
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::time::Instant;

use testkit::LIMIT;
use testkit::scratch::Scratch;

/// The socket, and all lines received.
pub(crate) struct Manager {
    socket: UnixDatagram,
    pub(crate) path: PathBuf,
    pub(crate) said: Vec<String>,
}

impl Manager {
    pub(crate) fn new(scratch: &Scratch) -> Self {
        let path = scratch.join("notify");
        let socket = UnixDatagram::bind(&path).expect("a socket");
        socket.set_read_timeout(Some(LIMIT)).expect("not zero");
        Self { socket, path, said: Vec::new() }
    }

    /// Reads until the daemon has sent `what`.
    #[track_caller]
    pub(crate) fn wait_for(&mut self, what: &str) {
        self.wait_until(what, |said| said.iter().any(|said| said == what));
    }

    /// Reads until `look` accepts the lines received.
    #[track_caller]
    pub(crate) fn wait_until(&mut self, what: &str, look: impl Fn(&[String]) -> bool) {
        let mut message = [0; 1024];
        let start = Instant::now();
        while !look(&self.said) {
            assert!(start.elapsed() < LIMIT, "no {what} in {:?}", self.said);
            let count = match self.socket.recv(&mut message) {
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => panic!("no {what} in {:?}: {error}", self.said),
                Ok(count) => count,
            };
            let message = String::from_utf8_lossy(&message[..count]).into_owned();
            self.said.extend(message.lines().map(str::to_owned));
        }
    }
    /// Reads everything that has arrived.
    pub(crate) fn read_waiting(&mut self) {
        self.socket.set_nonblocking(true).expect("our own socket");
        let mut message = [0; 1024];
        while let Ok(count) = self.socket.recv(&mut message) {
            let message = String::from_utf8_lossy(&message[..count]).into_owned();
            self.said.extend(message.lines().map(str::to_owned));
        }
    }
}
