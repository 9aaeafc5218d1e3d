// SPDX-License-Identifier: Apache-2.0
//! Full: a `/run` without a free byte.

use std::fs::{self, File};
use std::io::Write;
use std::path::PathBuf;
use std::time::Instant;

use rustix::fs::{FlockOperation, flock};
use rustix::process::{Pid, Signal, kill_process};

use crate::claims::Claims;
use crate::scene::{BOUNDS, Bounds, SETUP, Scene};
use testkit::client::{status, until_served};
use testkit::journald::{Entry, Journald, Tick};
use testkit::scratch::Scratch;
use testkit::until;

/// Mounts a file system of two pages with an empty state file and runs the daemon there: first as a
/// child, and after its death in this process.
const TWICE: &str = r#"mount -t tmpfs -o size=8k tmpfs "$0" && : >"$0/state" || exit
until [ -e "$0/go" ]; do sleep 0.02; done
"$@" &
wait $!
exec "$@""#;

/// The daemon is killed after this tick.
const KILLED_AT: u64 = 5;

/// The file system fills up while the daemon waits for the lock and has written nothing. Then the
/// daemon serves and dies, and the next one continues.
pub(crate) fn file_system(claims: &mut Claims) {
    let scratch = Scratch::new();
    let mut journald = Journald::new(&scratch);
    let small = scratch.join("small");
    fs::create_dir(&small).expect("a directory");
    let (small, state) = (small.to_str().expect("text"), small.join("state"));
    let options = ["--state-file", state.to_str().expect("text")];
    let socket = scratch.join("small/sock");
    let mut daemon = journald.spawn_by(&["sh", "-c", TWICE, small], &socket, &options);
    // Only the daemon's namespace has the mount.
    let inside = |name: &str| format!("/proc/{}/root{small}/{name}", daemon.pid()).into();
    let path: PathBuf = inside("state");
    until("the file system (this row needs the right to mount)", || path.exists());
    let lock = File::options().write(true).open(&path).expect("a state file");
    flock(&lock, FlockOperation::NonBlockingLockExclusive).expect("nobody else");
    let go: PathBuf = inside("go");
    File::create(go).expect("room for a name");
    let says = |entries: &[Entry], what: &str| {
        entries.iter().any(|entry| entry["MESSAGE"].contains(what)).then_some(())
    };
    journald.read_until("that it waits", |entries| says(entries, "waiting for it"));
    let full: PathBuf = inside("full");
    let mut full = File::create(full).expect("room for a name");
    let mut written = 0;
    while let Ok(count) = full.write(&[0; 512]) {
        written += count as u64;
    }
    claims.at_most("room that was left in it", written, 4096, "bytes");
    drop(lock);

    journald.read_to_tick(KILLED_AT);
    daemon.socket = inside("sock");
    let first = status(&daemon.socket, "pid").parse().ok().and_then(Pid::from_raw);
    kill_process(first.expect("a process id"), Signal::KILL).expect("a process");
    let killed = Instant::now();
    let before = journald.entries.len();
    let goes_on = journald.read_until("a tick of the next one", |entries| {
        let after = &entries[before..];
        let serves = after.iter().position(|entry| entry["MESSAGE"] == "booting => serving")?;
        after[serves..].iter().find_map(Tick::of)
    });
    // Ticks that were due meanwhile are caught up.
    let gone = killed.elapsed();
    claims.at_least("the number it goes on with", goes_on.number, KILLED_AT + 1, "");
    until_served(&daemon.socket);
    let scene = Scene::around(scratch, journald, daemon, SETUP);
    scene.wait_for_witnesses(100);
    let file = fs::metadata(&path).expect("a state file").len();
    claims.at_most("bytes in the state file", file, 512, "");
    // Three reports: the daemon waits for the lock, the file is empty, and the count continues.
    scene.claim(claims, Bounds { tick: BOUNDS.tick + gone, lines: 6, ..BOUNDS });
}
