// SPDX-License-Identifier: Apache-2.0
//! Detour: starts the program named by `$DETOUR_PROGRAM`, with the test inside its reload.
//!
//! A reload starts `argv[0]`, which is this file. It sends its standard input, the connection to
//! the predecessor, to the test that listens at `$DETOUR`, and becomes the program, with the
//! connection to the test in that place. So both processes are real, and the test can stop the
//! exchange between them.

use std::env;
use std::error::Error;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::Command;

use rustix::net::sockopt::socket_peercred;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};

fn main() -> Result<(), Box<dyn Error>> {
    let program = env::var_os("DETOUR_PROGRAM").ok_or("no $DETOUR_PROGRAM")?;
    let mut arguments = env::args_os();
    let mut command = Command::new(program);
    command.arg0(arguments.next().ok_or("no argv[0]")?).args(arguments);
    if env::var_os("RELOADED_BY").is_some() {
        let test = UnixStream::connect(env::var_os("DETOUR").ok_or("no $DETOUR")?)?;
        let (stdin, mut space) =
            (io::stdin(), [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))]);
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        let sent = [stdin.as_fd()];
        assert!(ancillary.push(SendAncillaryMessage::ScmRights(&sent)), "room for one");
        sendmsg(&test, &[IoSlice::new(b"\n")], &mut ancillary, SendFlags::NOSIGNAL)?;
        let predecessor = socket_peercred(&test)?.pid;
        command.env("RELOADED_BY", predecessor.to_string()).stdin(OwnedFd::from(test));
    }
    Err(command.exec().into())
}
