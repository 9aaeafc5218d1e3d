// SPDX-License-Identifier: Apache-2.0
//! In flight: another process has sent descriptors of the daemon's user, and nobody receives them.
//!
//! The kernel counts them for each user. If there are more than a process's limit of open files,
//! the process cannot send any without privileges (ETOOMANYREFS in unix(7)). A handoff sends
//! descriptors, so it must wait for the others.

use std::fs::{self, File, Permissions};
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::process;
use std::sync::mpsc::{Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::process::{Uid, geteuid};
use rustix::thread::set_thread_res_uid;

use crate::claims::Claims;
use crate::crowd::{exchange, lost, many};
use crate::descriptors::{DESCRIPTORS, send};
use crate::scene::{BOUNDS, Bounds, SETUP, Scene};
use testkit::daemon::copy_program;
use testkit::journald::Journald;
use testkit::scratch::Scratch;
use testkit::until;

/// The limit of both daemons.
const LIMIT: &str = "--nofile=100:100";

const CLIENTS: usize = 30;

/// How long the handoff must wait.
const HELD: Duration = Duration::from_secs(3);

pub(crate) fn of_the_same_user(claims: &mut Claims) {
    assert!(geteuid().is_root(), "this row needs root, to be another user");
    // The kernel counts by user, and no other process has this one.
    let user = 61_000 + process::id() % 1000;
    let scratch = Scratch::new();
    let everybody = |path, mode| fs::set_permissions(path, Permissions::from_mode(mode));
    everybody(scratch.join(""), 0o777).expect("our own");
    let program = scratch.join("early-service");
    copy_program(&program);
    let journald = Journald::new(&scratch);
    everybody(scratch.join("run/systemd/journal/socket"), 0o777).expect("our own");
    let (program, state) =
        (program.display().to_string(), scratch.join("state").display().to_string());
    let (reuid, exec) = (format!("--reuid={user}"), r#"shift; exec "$0" "$@""#);
    let limited = ["prlimit", LIMIT, "--", "setpriv", &reuid, "--clear-groups"];
    let before = [&limited[..], &["sh", "-c", exec, &program]].concat();
    let (socket, options) = (scratch.join("sock"), ["--state-file", &state]);
    let predecessor = journald.start_by(&before, socket.clone(), &options);
    let takes_over = [&options[..], &["--takeover-existing-socket"]].concat();

    let holder = Holder::new(user);
    let mut clients = many(&socket, CLIENTS);
    let told = lost(clients.iter_mut().map(exchange));
    claims.none_lost("a client before it is answered", &told, CLIENTS);
    let successor = journald.spawn_by(&before, &socket, &takes_over);
    let mut scene = Scene::around(scratch, journald, predecessor, SETUP);
    let start = Instant::now();
    let mut told = Vec::new();
    until("the handoff was tried for long enough", || {
        told.extend(clients.iter_mut().map(exchange));
        scene.wait_for_the_one_that_stays(5);
        start.elapsed() > HELD
    });
    let of = told.len();
    claims.none_lost("a client is answered meanwhile", &lost(told), of);
    holder.let_go();
    let start = Instant::now();
    let mut predecessor = scene.replace_daemon(successor);
    until("the successor has adopted it", || !predecessor.is_running());
    claims.within(
        "then it is handed over",
        start.elapsed(),
        Duration::from_secs(4) + scene.slack(),
    );
    let told = lost(clients.iter_mut().map(exchange));
    claims.none_lost("a client is answered by the successor", &told, CLIENTS);
    scene.claim(claims, Bounds { lines: 20, ..BOUNDS });
}

/// A process that has sent descriptors to itself, counted for another user.
struct Holder {
    orders: Sender<()>,
    thread: JoinHandle<()>,
}

impl Holder {
    fn new(user: u32) -> Self {
        let (orders, ordered) = channel();
        let (tell, told) = channel();
        let thread = thread::spawn(move || {
            let uid = Uid::from_raw(user);
            set_thread_res_uid(uid, uid, uid).expect("root");
            let (ours, theirs) = UnixStream::pair().expect("a pair");
            let file = File::open("/dev/null").expect("a device");
            send(&ours, b"x", &[file.as_fd(); DESCRIPTORS]);
            tell.send(()).expect("somebody waits");
            let _ = ordered.recv();
            drop((ours, theirs));
        });
        told.recv().expect("the descriptors are sent");
        Self { orders, thread }
    }

    fn let_go(self) {
        drop(self.orders);
        self.thread.join().expect("no panic");
    }
}
