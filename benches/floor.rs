// SPDX-License-Identifier: Apache-2.0
//! Floor: the least program that binds a UNIX socket and answers one line.
//!
//! Std alone, the release profile, the daemon's linkage (see `build.rs`): what `cargo bench` holds
//! the daemon's start against.
//! Never ends by itself, so that its memory can be looked at.

use std::env;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixListener;
use std::process::ExitCode;

fn main() -> ExitCode {
    match env::args_os().nth(1).map(serve) {
        Some(Ok(())) => ExitCode::SUCCESS,
        Some(Err(_)) | None => ExitCode::FAILURE,
    }
}

fn serve(path: impl AsRef<std::path::Path>) -> io::Result<()> {
    let listener = UnixListener::bind(path)?;
    loop {
        let (mut client, _) = listener.accept()?;
        let mut line = [0; 128];
        if client.read(&mut line)? > 0 {
            client.write_all(b"0\n")?;
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
