// SPDX-License-Identifier: Apache-2.0
//! Floor: the least program that binds a UNIX socket and answers lines, one client after another.
//!
//! Std alone, the release profile, the daemon's linkage (see `build.rs`): what `cargo bench` holds
//! the daemon's start against, and as many commands a second as one client can get at all.
//! Takes every line for a whole one and for the same command, and never ends by itself.

use std::env;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::ExitCode;

/// As many as there can be lines in one read.
static REPLIES: [[u8; 2]; 1024] = [*b"0\n"; 1024];

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

/// As in the daemon's `main.rs`: without it, this program would load libgcc_s and the daemon not.
#[cfg(without_unwinding)]
#[allow(
    unsafe_code,
    reason = "a symbol's name is a promise that no library has another meaning for it"
)]
#[unsafe(no_mangle)]
extern "C" fn _Unwind_Backtrace() -> ! {
    std::process::abort()
}
