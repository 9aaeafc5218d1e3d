// SPDX-License-Identifier: Apache-2.0
//! Floor on the daemon's crates: the smallest program that answers one line on their reactor.
//!
//! One listener on one executor, with the daemon's release profile and linkage: the part of the
//! daemon's start that is not its own code.

use std::env;
use std::io;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::ExitCode;

use futures_lite::future;
use futures_lite::io::{AsyncReadExt, AsyncWriteExt};
use smol::{Async, LocalExecutor};

/// As in the daemon. Otherwise this program would load libgcc_s and the daemon would not.
#[path = "../src/no_unwinder.rs"]
mod no_unwinder;

fn main() -> ExitCode {
    let executor = LocalExecutor::new();
    let served = env::args_os().nth(1).map(|path| future::block_on(executor.run(serve(path))));
    match served {
        Some(Ok(())) => ExitCode::SUCCESS,
        Some(Err(_)) | None => ExitCode::FAILURE,
    }
}

async fn serve(path: impl AsRef<Path>) -> io::Result<()> {
    let listener = Async::new(UnixListener::bind(path)?)?;
    loop {
        let (mut client, _) = listener.accept().await?;
        while client.read(&mut [0; 1024]).await? > 0 {
            client.write_all(b"0\n").await?;
        }
    }
}
