// SPDX-License-Identifier: Apache-2.0
//! Launch: the start of the program on disk by this process, and what the started one inherits.
//!
//! The child inherits arguments, environment and standard output. Its standard input is one end of
//! a pair of sockets, and `$RELOADED_BY` is the number of the process that has started it.

use std::env;
use std::ffi::{CString, OsString};
use std::fmt;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process;
use std::thread;

use async_channel::Receiver;
use nix::spawn::{PosixSpawnAttr, PosixSpawnFileActions, PosixSpawnFlags, posix_spawn};
use rustix::io::Errno;
use rustix::net::sockopt::{set_socket_send_buffer_size, socket_peercred};
use rustix::process::{
    Pid, Signal, WaitId, WaitIdOptions, WaitOptions, kill_process, kill_process_group, waitid,
    waitpid,
};
use rustix::stdio::dup2_stdin;
use smol::Async;

use crate::handoff::channel::{self, Peer};

/// The variable that names the process of which this one is the successor.
const RELOADED_BY: &str = "RELOADED_BY";

/// The variables that hold for one process only (sd_listen_fds(3), sd_watchdog_enabled(3),
/// systemd.exec(5)). Without `$WATCHDOG_PID`, `$WATCHDOG_USEC` holds for any process.
const OF_ONE_PROCESS: [&str; 7] = [
    "LISTEN_PID",
    "LISTEN_PIDFDID",
    "LISTEN_FDS",
    "LISTEN_FDNAMES",
    "WATCHDOG_PID",
    "SYSTEMD_EXEC_PID",
    "MAINPID",
];

/// The started child, or why it was not started.
pub(crate) type Launched = Receiver<io::Result<Child>>;

/// The program on disk: the path by which this process was started, because a symbolic link may
/// lead to a newer program by now, or else the path of its file.
pub(crate) fn program() -> io::Result<PathBuf> {
    let first = env::args_os().next().map(PathBuf::from);
    if let Some(path) = first.filter(|path| path.is_absolute()) {
        return Ok(path);
    }
    // The kernel appends this if the file was replaced (proc_pid_exe(5)).
    let mut path = fs::read_link("/proc/self/exe")?.into_os_string().into_vec();
    if let Some(length) = path.strip_suffix(b" (deleted)").map(<[u8]>::len) {
        path.truncate(length);
    }
    Ok(OsString::from_vec(path).into())
}

/// Has a thread start `program` with the arguments of this process.
pub(crate) fn launch(program: PathBuf) -> io::Result<(Launched, Peer)> {
    let (ours, theirs) = UnixStream::pair()?;
    let _ = set_socket_send_buffer_size(&ours, channel::BUFFER / 2);
    let peer = Peer::without_descriptors(Async::new(ours)?);
    let (done, started) = async_channel::bounded(1);
    // If nobody waits for the child any more, this process has ended.
    let start = move || _ = done.try_send(Child::start(&program, &theirs.into()));
    thread::Builder::new().name("reload".to_owned()).spawn(start)?;
    Ok((started, peer))
}

/// A process that this one has started, with a group of its own.
pub(crate) struct Child(Pid);

impl Child {
    fn start(program: &Path, stdin: &OwnedFd) -> io::Result<Self> {
        let text = |text: Vec<u8>| CString::new(text).map_err(io::Error::other);
        let arguments = env::args_os().map(|argument| text(argument.into_vec()));
        let arguments = arguments.collect::<io::Result<Vec<_>>>()?;
        let inherited = env::vars_os().filter(|(name, _)| {
            OF_ONE_PROCESS.into_iter().chain([RELOADED_BY]).all(|other| name != other)
        });
        let owner = (RELOADED_BY.into(), process::id().to_string().into());
        let variables = inherited.chain([owner]).map(|(name, value): (OsString, OsString)| {
            text([name.into_vec(), value.into_vec()].join(&b'='))
        });
        let variables = variables.collect::<io::Result<Vec<_>>>()?;
        let mut files = PosixSpawnFileActions::init()?;
        files.add_dup2(stdin.as_raw_fd(), 0)?;
        let mut attributes = PosixSpawnAttr::init()?;
        attributes.set_flags(PosixSpawnFlags::POSIX_SPAWN_SETPGROUP)?;
        let started = posix_spawn(program, &files, &attributes, &arguments, &variables)?;
        Ok(Self(Pid::from_raw(started.as_raw()).ok_or(Errno::SRCH)?))
    }

    pub(crate) fn pid(&self) -> Pid {
        self.0
    }

    /// Kills it, and what a broken program has started. To be called before [`reap`](Self::reap).
    pub(crate) fn kill(&self) {
        // Fails only if all of them have ended.
        let _ = kill_process_group(self.0, Signal::KILL);
        let _ = kill_process(self.0, Signal::KILL);
    }

    /// How it ended, if it has; its number stays in use.
    pub(crate) fn end(&self) -> Option<String> {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        let status = waitid(WaitId::Pid(self.0), options).ok().flatten()?;
        Some(match (status.exit_status(), status.terminating_signal()) {
            (Some(code), _) => format!("it exited with status {code}"),
            (None, signal) => format!("signal {} ended it", signal.unwrap_or_default()),
        })
    }

    /// Whether it has ended; its number is free then.
    pub(crate) fn reap(&self) -> bool {
        // An error means that it is not a child any more.
        !matches!(waitpid(Some(self.0), WaitOptions::NOHANG), Ok(None))
    }
}

/// The connection to the process that has started this one as its successor; `None` if another
/// process has started it.
///
/// # Errors
///
/// If the variable is set, and standard input is not that connection. To take over anything else
/// would make a second owner.
pub(crate) fn predecessor() -> Result<Option<UnixStream>, String> {
    let Some(owner) = env::var_os(RELOADED_BY) else {
        return Ok(None);
    };
    let fails = |why: &dyn fmt::Display| {
        format!("cannot take over from process {}: {why}", owner.to_string_lossy())
    };
    let connection = take_stdin().map_err(|error| fails(&error))?;
    let peer = socket_peercred(&connection).map(|peer| peer.pid.to_string());
    match peer {
        Ok(pid) if owner == pid.as_str() => Ok(Some(connection.into())),
        Ok(_) | Err(_) => Err(fails(&"standard input is not connected to it")),
    }
}

/// Takes standard input, and leaves /dev/null in its place: a copy would keep the connection open.
fn take_stdin() -> io::Result<OwnedFd> {
    let taken = io::stdin().as_fd().try_clone_to_owned()?;
    dup2_stdin(File::open("/dev/null")?)?;
    Ok(taken)
}
