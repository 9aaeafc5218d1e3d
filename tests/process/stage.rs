// SPDX-License-Identifier: Apache-2.0
//! Stage: a daemon that keeps its state in the one file of a test, as both stages of a boot do.

use std::fs::{self, File, Permissions};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use early_service_machine::Counter;
use early_service_machine::bounds::RECORD_SIZE;
use early_service_machine::record::{BootId, DecodeError, Record};
use early_service_machine::schedule::Monotonic;
use rustix::fs::{FlockOperation, flock};

use testkit::daemon::{Daemon, copy_program, program};
use testkit::manager::Manager;
use testkit::scratch::Scratch;
use testkit::{now, until};

/// The path of the state file.
pub(crate) fn state_file(scratch: &Scratch) -> PathBuf {
    scratch.join("state")
}

/// Starts the program on `socket`, with the state file.
pub(crate) fn start(scratch: &Scratch, socket: &str, options: &[&str]) -> Daemon {
    let file = state_file(scratch);
    let file = ["--state-file", file.to_str().expect("text")];
    Daemon::start(scratch.join(socket), &[&file, options].concat())
}

/// Like [`start`], but waits until the program serves.
pub(crate) fn serve(scratch: &Scratch, socket: &str, options: &[&str]) -> Daemon {
    let daemon = start(scratch, socket, options);
    daemon.wait_for("=> serving");
    daemon.wait_for("Listening on UNIX socket");
    daemon
}

/// Starts a successor of the process that serves `predecessor`.
pub(crate) fn succeed(
    scratch: &Scratch,
    socket: &str,
    predecessor: &Path,
    options: &[&str],
) -> Daemon {
    let predecessor = ["--client-socket-path", predecessor.to_str().expect("text")];
    start(scratch, socket, &[&predecessor, options].concat())
}

/// Starts the program under `manager`, with a watchdog that expects a sign of life every second.
pub(crate) fn start_under(manager: &Manager, socket: PathBuf, options: &[&str]) -> Daemon {
    let mut command = program();
    command.arg("--server-socket-path").arg(&socket).args(options);
    command.env("NOTIFY_SOCKET", &manager.path).env("WATCHDOG_USEC", "3000000");
    let mut daemon = Daemon::spawn(&mut command);
    daemon.socket = socket;
    daemon
}

/// A copy of the program that every user can run; the original may be in a directory of root's.
pub(crate) fn for_everybody(scratch: &Scratch) -> PathBuf {
    fs::set_permissions(scratch.join(""), Permissions::from_mode(0o777)).expect("our own");
    let copy = scratch.join("early-service");
    copy_program(&copy);
    copy
}

/// Decodes the file.
pub(crate) fn read(path: &Path) -> Result<Record<Counter>, DecodeError> {
    read_at(path, now())
}

/// Decodes the file as a process does whose clock shows `now`.
pub(crate) fn read_at(path: &Path, now: u64) -> Result<Record<Counter>, DecodeError> {
    let boot = BootId::parse(boot_id().as_bytes()).expect("a boot id");
    let bytes = fs::read(path).expect("a state file");
    Record::decode(&bytes, &boot, Monotonic::from_nanos(now))
}

/// The kernel's ID of this boot.
fn boot_id() -> String {
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").expect("Linux");
    boot.trim_ascii_end().to_owned()
}

/// A state file of this boot, with these fields and a correct checksum.
pub(crate) fn forged(fields: &str) -> Vec<u8> {
    sealed(&format!("early-service-state 1 boot={} {fields}", boot_id()))
}

/// A state file with this text and a correct checksum.
pub(crate) fn sealed(text: &str) -> Vec<u8> {
    let crc = text.bytes().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| (crc >> 1) ^ (0xedb8_8320 * (crc & 1)))
    });
    let mut file = format!("{text} crc={:08x}", !crc).into_bytes();
    file.resize(RECORD_SIZE - 1, b' ');
    file.push(b'\n');
    file
}

/// The record in the file; reads again while it is being written.
#[track_caller]
pub(crate) fn record(path: &Path) -> Record<Counter> {
    let mut record = None;
    until("a record", || {
        record = read(path).ok();
        record.is_some()
    });
    record.expect("waited for")
}

/// Waits for the lock of the file, and takes it.
#[track_caller]
pub(crate) fn lock(path: &Path) -> OwnedFd {
    let file = File::options().read(true).write(true).create(true).truncate(false).open(path);
    let file = OwnedFd::from(file.expect("a state file"));
    until("the lock", || flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok());
    file
}

/// Whether a process holds the lock of the file.
pub(crate) fn is_locked(path: &Path) -> bool {
    let file = File::open(path).expect("a state file");
    flock(file, FlockOperation::NonBlockingLockExclusive).is_err()
}

/// Kills every process at the end of the test whose command line names the test's directory: those
/// that a reload has started.
pub(crate) struct Remains(PathBuf);

impl Remains {
    pub(crate) fn of(scratch: &Scratch) -> Self {
        Self(scratch.join(""))
    }
}

impl Drop for Remains {
    fn drop(&mut self) {
        let _ = Command::new("pkill").args(["-KILL", "-f"]).arg(&self.0).status();
    }
}
