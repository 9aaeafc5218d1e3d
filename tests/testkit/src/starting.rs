// SPDX-License-Identifier: Apache-2.0
//! Starting: the program, with nothing inherited from the process that starts it.

use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::process::{Command, Stdio};

/// The program as a `.socket` unit starts it: `socket` is descriptor 3.
pub fn with(program: impl AsRef<OsStr>, socket: &UnixListener) -> Command {
    with_descriptor(program, socket.try_clone().expect("a descriptor").into())
}

/// The program as PID 1 starts it with one descriptor, which `$LISTEN_FDNAMES` may name.
pub fn with_descriptor(program: impl AsRef<OsStr>, descriptor: OwnedFd) -> Command {
    let mut command = Command::new("sh");
    detach(&mut command);
    let script = r#"exec 3<&0 </dev/null; LISTEN_PID=$$ LISTEN_FDS=1 exec "$0" "$@""#;
    command.args(["-c", script]).arg(program);
    command.stdin(descriptor);
    command
}

/// Removes what the program would inherit from the process that starts it.
pub fn detach(command: &mut Command) {
    for variable in [
        "JOURNAL_STREAM",
        "LISTEN_FDNAMES",
        "LISTEN_FDS",
        "LISTEN_PID",
        "LISTEN_PIDFDID",
        "NOTIFY_SOCKET",
        "RUNTIME_DIRECTORY",
        "SYSTEMD_EXEC_PID",
        "WATCHDOG_PID",
        "WATCHDOG_USEC",
    ] {
        command.env_remove(variable);
    }
    command.stdin(Stdio::null());
}
