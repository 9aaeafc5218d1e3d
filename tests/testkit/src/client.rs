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

/// The output of OpenBSD's `nc` if `input` is written to it at once.
#[track_caller]
pub fn nc(socket: impl AsRef<Path>, input: impl AsRef<[u8]>) -> String {
    nc_as(&[], socket, input)
}

/// Like [`nc`], but run by the command `before`, which may change the user.
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
    // A server may close first; the output of nc shows the result.
    let _ = nc.stdin.take().expect("a pipe").write_all(input.as_ref());
    let output = nc.wait_with_output().expect("our own child");
    assert_ne!(output.status.code(), Some(124), "nc did not come back");
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(!complaint.contains("failed to execute"), "{complaint}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Fails if `nc` is missing or is not OpenBSD's, because only that one has `-N`.
fn require_nc() {
    static IS_OPENBSD: OnceLock<bool> = OnceLock::new();
    let is_openbsd = IS_OPENBSD.get_or_init(|| {
        let help = Command::new("nc").arg("-h").output();
        help.is_ok_and(|help| String::from_utf8_lossy(&help.stderr).contains("OpenBSD"))
    });
    assert!(*is_openbsd, "these tests need OpenBSD's nc: install the package netcat-openbsd");
}

/// Raises the descriptor limit of this process and its children to the maximum, for a thousand
/// clients and more.
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

    /// Ends the client's output.
    pub fn finish(&mut self) {
        self.0.shutdown(Shutdown::Write).expect("a connection");
    }

    /// Reads one line and nothing beyond it, byte by byte.
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

    /// Reads to the end. A server that closes with unread input resets the connection (unix(7)).
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

/// A value in the status line.
#[track_caller]
pub fn status(socket: impl AsRef<Path>, key: &str) -> String {
    let line = Client::connect(socket).ask("status");
    let mut pairs = line.split(' ').filter_map(|pair| pair.split_once('='));
    let (_, value) = pairs.find(|(name, _)| *name == key).expect("a key of the status line");
    value.to_owned()
}

/// Waits until a server listens, which is a moment after the socket file exists.
#[track_caller]
pub fn until_served(socket: &Path) {
    until("a server", || UnixStream::connect(socket).is_ok());
}

/// Waits until a value in the status line satisfies the condition.
#[track_caller]
pub fn until_status(socket: &Path, key: &str, holds: impl Fn(u64) -> bool) {
    until(key, || holds(status(socket, key).parse().expect("a number")));
}

/// The next number to be logged.
#[track_caller]
pub fn get_counter(socket: impl AsRef<Path>) -> u64 {
    Client::connect(socket).ask("get_counter").parse().expect("a number")
}
