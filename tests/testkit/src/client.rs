// SPDX-License-Identifier: Apache-2.0
//! Clients: a real `nc`, and connections that do what `nc` cannot.

use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::{LIMIT, until};

/// What OpenBSD's `nc` prints when it is given `input` in one write.
#[track_caller]
pub fn nc(socket: impl AsRef<Path>, input: impl AsRef<[u8]>) -> String {
    nc_as(&[], socket, input)
}

/// The same, run by the command `before`, such as one that changes the user.
#[track_caller]
pub fn nc_as(before: &[&str], socket: impl AsRef<Path>, input: impl AsRef<[u8]>) -> String {
    require_nc();
    let mut nc = Command::new("timeout")
        .arg(LIMIT.as_secs().to_string())
        .args(before)
        .args(["nc", "-N", "-U"])
        .arg(socket.as_ref())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("timeout (coreutils) runs");
    // A server that closes first is no error here: what nc printed says what came of it.
    let _ = nc.stdin.take().expect("a pipe").write_all(input.as_ref());
    let output = nc.wait_with_output().expect("our own child");
    assert_ne!(output.status.code(), Some(124), "nc did not come back");
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(!complaint.contains("failed to execute"), "{complaint}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Fails where `nc` is missing, or another one than OpenBSD's, which alone has `-N`.
fn require_nc() {
    static IS_OPENBSD: OnceLock<bool> = OnceLock::new();
    let is_openbsd = IS_OPENBSD.get_or_init(|| {
        let help = Command::new("nc").arg("-h").output();
        help.is_ok_and(|help| String::from_utf8_lossy(&help.stderr).contains("OpenBSD"))
    });
    assert!(*is_openbsd, "these tests need OpenBSD's nc: install the package netcat-openbsd");
}

/// Lets this process, and those that it starts, have as many descriptors as are allowed: for a
/// thousand clients and more.
pub fn allow_all_descriptors() {
    let limit = getrlimit(Resource::Nofile);
    let all = Rlimit { current: limit.maximum, ..limit };
    setrlimit(Resource::Nofile, all).expect("up to the maximum is allowed");
}

/// One connection.
pub struct Client(UnixStream);

impl Client {
    #[track_caller]
    pub fn connect(socket: impl AsRef<Path>) -> Self {
        UnixStream::connect(socket).expect("a server").into()
    }

    pub fn stream(&mut self) -> &mut UnixStream {
        &mut self.0
    }

    #[track_caller]
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.0.write_all(bytes.as_ref()).expect("a server that listens");
    }

    /// Says that no more will be sent.
    pub fn finish(&mut self) {
        self.0.shutdown(Shutdown::Write).expect("a connection");
    }

    /// Reads one line, a byte at a time so that nothing is read beyond it.
    #[track_caller]
    pub fn line(&mut self) -> String {
        let (mut line, mut byte) = (Vec::new(), [0]);
        loop {
            self.0.read_exact(&mut byte).expect("a line");
            if byte == *b"\n" {
                return String::from_utf8(line).expect("text");
            }
            line.extend(byte);
        }
    }

    #[track_caller]
    pub fn ask(&mut self, command: &str) -> String {
        self.send(format!("{command}\n"));
        self.line()
    }

    /// Reads to the end; a server that closes with something unread of ours resets (unix(7)).
    #[track_caller]
    pub fn rest(&mut self) -> String {
        let (mut rest, mut piece) = (Vec::new(), [0; 4096]);
        loop {
            match self.0.read(&mut piece) {
                Ok(0) => break,
                Ok(count) => rest.extend_from_slice(&piece[..count]),
                Err(error) if error.kind() == ErrorKind::ConnectionReset => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => panic!("the server neither answers nor closes: {error}"),
            }
        }
        String::from_utf8(rest).expect("text")
    }
}

impl From<UnixStream> for Client {
    fn from(stream: UnixStream) -> Self {
        stream.set_read_timeout(Some(LIMIT)).expect("not zero");
        Self(stream)
    }
}

/// A value of the status line.
#[track_caller]
pub fn status(socket: impl AsRef<Path>, key: &str) -> String {
    let line = Client::connect(socket).ask("status");
    let mut pairs = line.split(' ').filter_map(|pair| pair.split_once('='));
    let (_, value) = pairs.find(|(name, _)| *name == key).expect("a key of the status line");
    value.to_owned()
}

/// Waits until somebody listens: a socket is bound, and its file there, a moment before that.
#[track_caller]
pub fn until_served(socket: &Path) {
    until("a server", || UnixStream::connect(socket).is_ok());
}

/// Waits until the status line says so.
#[track_caller]
pub fn until_status(socket: &Path, key: &str, holds: impl Fn(u64) -> bool) {
    until(key, || holds(status(socket, key).parse().expect("a number")));
}

/// The next number to be logged.
#[track_caller]
pub fn get_counter(socket: impl AsRef<Path>) -> u64 {
    Client::connect(socket).ask("get_counter").parse().expect("a number")
}
