// SPDX-License-Identifier: Apache-2.0
//! Floor: the smallest program that binds a UNIX socket and answers lines, one client at a time.
//!
//! Uses only the standard library; has the daemon's release profile and, like it, no unwinder.
//! `cargo bench` compares the daemon's start with it, and the commands a second of one client. It
//! assumes that each line arrives whole and is the same command, and never ends by itself.

use std::env;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::ExitCode;

/// Maximum number of lines in one read.
static REPLIES: [[u8; 2]; 1024] = [*b"0\n"; 1024];

/// As in the daemon. Otherwise this program would load libgcc_s and the daemon would not.
#[path = "../src/no_unwinder.rs"]
mod no_unwinder;

fn main() -> ExitCode {
    match env::args_os().nth(1).map(serve) {
        Some(Ok(())) => ExitCode::SUCCESS,
        Some(Err(_)) | None => ExitCode::FAILURE,
    }
}

fn serve(path: impl AsRef<Path>) -> io::Result<()> {
    let listener = UnixListener::bind(path)?;
    loop {
        let (mut client, _) = listener.accept()?;
        let mut lines = [0; 1024];
        let mut length = client.read(&mut lines)?;
        while length > 0 {
            let count = lines[..length].iter().filter(|byte| **byte == b'\n').count();
            client.write_all(REPLIES[..count].as_flattened())?;
            length = client.read(&mut lines)?;
        }
    }
}
