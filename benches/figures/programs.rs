// SPDX-License-Identifier: Apache-2.0
//! Programs: the packaged daemon, the floor and the C programs, built and ready to start.
//!
//! The daemon has the options of its units' `ExecStart=`, with a scratch directory instead of
//! `/run`. Differences to the unit: a bound path instead of a passed socket, no sandbox, no
//! `Nice=`.

use std::env;
use std::error::Error;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use testkit::build;
use testkit::scratch::Scratch;

const INITRD: &str = include_str!("../../conf/early-service-initrd.service");
const ROOT: &str = include_str!("../../conf/early-service.service");

/// `LimitNOFILE=` in both units.
pub(crate) const DESCRIPTORS: u64 = 2048;

/// A command before the daemon's command line.
pub(crate) type Around<'a> = &'a [OsString];

/// No command.
pub(crate) const ALONE: Around<'static> = &[];

/// The C sources, without their extension.
const C: [&str; 2] = ["glib", "loop"];

/// The paths of the programs.
pub(crate) struct Programs {
    pub(crate) daemon: PathBuf,
    pub(crate) floor: PathBuf,
    /// The smallest program on the daemon's crates.
    floor_async: PathBuf,
    /// The C programs for GIO and for glib's bare loop, or why one could not be built.
    pub(crate) c: [Result<PathBuf, String>; 2],
    /// The directory of the C programs.
    _scratch: Scratch,
}

/// A program to start, and the socket on which it will listen.
pub(crate) struct Start {
    pub(crate) command: Command,
    pub(crate) socket: PathBuf,
}

impl Programs {
    pub(crate) fn build() -> Result<Self, Box<dyn Error>> {
        let scratch = Scratch::new();
        let c = C.map(|name| compile(name, &scratch.join(name)));
        // The daemon last: the build of the examples adds features to its dependencies.
        let (floor, floor_async) = (build::example("floor")?, build::example("floor_async")?);
        Ok(Self { daemon: build::daemon()?, floor, floor_async, c, _scratch: scratch })
    }

    /// The first stage.
    pub(crate) fn initrd(&self, run: &Run) -> Start {
        self.unit(INITRD, run, ALONE, &[])
    }

    /// The first stage, started by another program and with further options.
    pub(crate) fn initrd_by(&self, run: &Run, by: Around<'_>, options: &[&str]) -> Start {
        self.unit(INITRD, run, by, options)
    }

    /// The second stage.
    pub(crate) fn root(&self, run: &Run, options: &[&str]) -> Start {
        self.unit(ROOT, run, ALONE, options)
    }

    pub(crate) fn floor_by(&self, run: &Run, by: Around<'_>) -> Start {
        let socket = run.join("floor");
        Start { command: started(by, &self.floor, run, [&socket]), socket }
    }

    pub(crate) fn floor_async(&self, run: &Run) -> Start {
        let socket = run.join("floor");
        Start { command: started(ALONE, &self.floor_async, run, [&socket]), socket }
    }

    pub(crate) fn c(&self, run: &Run) -> [Result<Start, String>; 2] {
        self.c.clone().map(|program| {
            let program = program?;
            let name = program.file_name().expect("one of two").to_string_lossy().into_owned();
            let socket = run.join(&name);
            Ok(Start { command: started(ALONE, &program, run, [&socket]), socket })
        })
    }

    fn unit(&self, unit: &str, run: &Run, by: Around<'_>, options: &[&str]) -> Start {
        let mut words = exec_start(unit).into_iter();
        let program = words.next().expect("a program");
        // `@`: the next word is argv[0]. A program before it sets argv[0] itself.
        let name = program.strip_prefix('@').and_then(|_| words.next());
        let arguments: Vec<_> = words.map(|word| run.path(word)).collect();
        let mut command = started(by, &self.daemon, run, &arguments);
        if let Some(name) = name.filter(|_| by.is_empty()) {
            command.arg0(name);
        }
        command.args(options).env("NOTIFY_SOCKET", run.join("notify"));
        if let Some((_, seconds)) = unit.split_once("\nWatchdogSec=") {
            let seconds = seconds.lines().next().unwrap_or_default();
            command.env("WATCHDOG_USEC", format!("{seconds}000000"));
        }
        let mut after = arguments.iter().skip_while(|word| *word != "--server-socket-path");
        let socket = after.nth(1).expect("a socket of its own").into();
        Start { command, socket }
    }
}

/// A directory that replaces `/run`.
pub(crate) struct Run {
    scratch: Scratch,
    /// PID 1's end of `Type=notify`; nobody reads it.
    _notifications: UnixDatagram,
}

impl Run {
    pub(crate) fn new() -> Self {
        // In memory, like `/run`.
        let memory = Path::new("/dev/shm");
        let scratch = if memory.is_dir() { Scratch::within(memory) } else { Scratch::new() };
        let notifications = UnixDatagram::bind(scratch.join("notify")).expect("a socket");
        let run = Self { scratch, _notifications: notifications };
        run.clear();
        run
    }

    /// Restores the state after `RuntimeDirectory=`.
    pub(crate) fn clear(&self) {
        for directory in ["early-service-initrd", "early-service"] {
            let directory = self.scratch.join(directory);
            let _ = fs::remove_dir_all(&directory);
            fs::create_dir(&directory).expect("a new directory");
        }
        for socket in ["floor"].iter().chain(&C) {
            let _ = fs::remove_file(self.scratch.join(socket));
        }
    }

    pub(crate) fn join(&self, name: &str) -> PathBuf {
        self.scratch.join(name)
    }

    fn path(&self, word: &str) -> OsString {
        word.strip_prefix("/run/")
            .map_or_else(|| word.into(), |name| self.scratch.join(name).into())
    }
}

/// A command that inherits nothing of ours; its standard error is a file.
fn started<A: AsRef<OsStr>>(
    by: Around<'_>,
    program: &Path,
    run: &Run,
    arguments: impl IntoIterator<Item = A>,
) -> Command {
    let mut words = by.iter().map(OsString::as_os_str).chain([program.as_os_str()]);
    let mut command = Command::new(words.next().expect("at least the program"));
    let log = fs::File::options().create(true).append(true).open(run.join("log"));
    command.args(words).args(arguments).stdin(Stdio::null()).stdout(Stdio::null());
    command.stderr(log.expect("a file")).env_clear();
    // Needed to find Valgrind and strace; PID 1 sets the same.
    if let Some(path) = env::var_os("PATH").filter(|_| !by.is_empty()) {
        command.env("PATH", path);
    }
    command
}

/// The words of `ExecStart=`.
fn exec_start(unit: &str) -> Vec<&str> {
    let (_, lines) = unit.split_once("\nExecStart=").expect("a unit that starts something");
    let mut words = Vec::new();
    for line in lines.lines() {
        let part = line.strip_suffix('\\');
        words.extend(part.unwrap_or(line).split_whitespace());
        if part.is_none() {
            break;
        }
    }
    words
}

/// Compiles a C program, or returns why that is not possible.
fn compile(name: &str, to: &Path) -> Result<PathBuf, String> {
    let missing = "needs gcc, pkg-config and libglib2.0-dev";
    let flags = Command::new("pkg-config").args(["--cflags", "--libs", "gio-2.0"]).output();
    let flags = flags.ok().filter(|flags| flags.status.success()).ok_or(missing)?;
    let flags = String::from_utf8_lossy(&flags.stdout).into_owned();
    let source = format!(concat!(env!("CARGO_MANIFEST_DIR"), "/benches/{}.c"), name);
    let mut gcc = Command::new("gcc");
    gcc.args(["-O2", "-s", "-Wl,--as-needed", "-o"])
        .arg(to)
        .arg(source)
        .args(flags.split_whitespace());
    match gcc.status() {
        Ok(status) if status.success() => Ok(to.to_owned()),
        Ok(status) => Err(format!("gcc failed: {status}")),
        Err(_) => Err(missing.to_owned()),
    }
}
