// SPDX-License-Identifier: Apache-2.0
//! Root: the first stage across a switch of root, by either way that a kernel has.
//!
//! A script that is PID 1 of its own namespace replaces systemd. Up to Linux 6, systemd moves the
//! mounts and changes its own root directory. From 7.0 on, pivot_root(2) succeeds in an initramfs
//! and changes the root of every process. Every kernel has both calls, so the tests use both.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::net::sockopt::socket_peercred;
use rustix::process::{Pid, Signal, geteuid, kill_process};

use crate::device::twin_program;
use crate::stage::for_everybody;
use testkit::client::Client;
use testkit::daemon::{Daemon, STILL};
use testkit::manager::Manager;
use testkit::pipe::Pipe;
use testkit::scratch::Scratch;
use testkit::until;

const FOLLOWED: &str = "Followed PID 1 to the root filesystem";
/// The request that sets PID 1's watchdog once the first stage has entered the new root.
const WATCHDOG: &str = "WATCHDOG_USEC=3000000";

/// CAP_SYS_CHROOT and CAP_SYS_PTRACE.
const FOLLOWING: u64 = 1 << 18 | 1 << 19;

/// Changes the root of PID 1 only, or of every process; or changes PID 1's user, so that reading
/// its root requires CAP_SYS_PTRACE.
#[derive(Clone, Copy, Debug)]
enum Way {
    Chroot,
    Pivot,
    Hide,
}

/// A boot in which no process can have CAP_SYS_PTRACE.
const WITHOUT_PTRACE: &[&str] = &["setpriv", "--bounding-set=-sys_ptrace"];

/// Makes nested roots and enters the first one. All have the host's programs; all but the last are
/// initrds.
const ROOTS: &str = r#"
    scratch=$1; shift
    make_root() {
        mkdir -p "$1" && mount -t tmpfs root "$1"
        for each in /bin /dev /lib /lib64 /sbin /usr; do
            if [ -L "$each" ]; then cp -a "$each" "$1/"
            elif [ -d "$each" ]; then mkdir "$1$each" && mount --rbind "$each" "$1$each"
            fi
        done
        mkdir -p "$1/etc" "$1/proc" "$1/sysroot" "$1/old" "$1$scratch"
        mount -t proc proc "$1/proc" && mount --bind "$scratch" "$1$scratch"
    }
    root=$scratch/first
    for switch in "$@"; do
        make_root "$root" && touch "$root/etc/initrd-release"
        root=$root/sysroot
    done
    make_root "$root"
    exec chroot "$scratch/first" sh -euc "$STAGE" sh "$scratch" "$@""#;

/// Starts the first stage, and switches when the test requests it. `late` also starts in the first
/// root, after PID 1 has left it.
const STAGE: &str = r#"
    scratch=$1; shift
    # Not in the directory that the kernel moves along by itself.
    (cd /usr; eval "$START") &
    (
        until [ -e "$scratch/late" ]; do sleep 0.05; done
        exec "$scratch/early-service" --survive-systemd-kill-signal \
            --server-socket-path "$scratch/late.sock" --timer-delay-ms 3600000
    ) &
    exec sh -euc "$SWITCH" sh "$scratch" 1 "$@""#;

/// exec keeps the process PID 1 across each switch, as in systemd.
const SWITCH: &str = r#"
    scratch=$1; number=$2; way=${3-}; shift 2
    if [ -z "$way" ]; then while :; do sleep 1; done; fi
    until [ -e "$scratch/switch-$number" ]; do sleep 0.05; done
    shift
    # The kernel forgets with the change of user to end it with unshare(1).
    [ "$way" != Hide ] || exec setpriv --reuid=1 --clear-groups \
        sh -c 'while [ -e "$0" ]; do sleep 0.1; done' "$scratch/switch-$number"
    cd /sysroot
    [ "$way" = Chroot ] || pivot_root . old
    exec chroot . sh -euc "$SWITCH" sh "$scratch" $((number + 1)) "$@""#;

/// The namespace in which the first stage runs.
struct Boot {
    daemon: Daemon,
    manager: Manager,
    scratch: Scratch,
}

impl Boot {
    /// Boots into the first root; `limits` precedes the first stage's command.
    fn start(ways: &[Way], limits: &str) -> Self {
        Self::start_within(&[], ways, limits)
    }

    /// Like `start`, with `around` before PID 1's command.
    fn start_within(around: &[&str], ways: &[Way], limits: &str) -> Self {
        let scratch = Scratch::new();
        for_everybody(&scratch);
        Self::start_in(scratch, around, ways, limits)
    }

    /// Like `start_within`, with the program that is in `scratch`.
    fn start_in(scratch: Scratch, around: &[&str], ways: &[Way], limits: &str) -> Self {
        assert!(geteuid().is_root(), "this test needs root, to have a root directory of its own");
        let manager = Manager::new(&scratch);
        let mut unshare = Command::new("unshare");
        unshare.args(["--mount", "--propagation", "private", "--pid", "--fork", "--kill-child"]);
        unshare.args(around).args(["sh", "-euc", ROOTS, "sh"]).arg(scratch.join(""));
        unshare.args(ways.iter().map(|way| format!("{way:?}")));
        let start = format!(
            r#"exec {limits} "$scratch/early-service" --survive-systemd-kill-signal \
                --server-socket-path "$scratch/sock" {}"#,
            STILL.join(" ")
        );
        unshare.env("START", start).env("STAGE", STAGE).env("SWITCH", SWITCH);
        unshare.env("NOTIFY_SOCKET", &manager.path).stdin(Stdio::null());
        unshare.env("LINE", scratch.join("watchdog"));
        unshare.stdout(Stdio::null());
        let daemon = Daemon::spawn(&mut unshare);
        daemon.wait_for("Listening on UNIX socket");
        Self { daemon, manager, scratch }
    }

    fn switch(&self, number: usize) {
        self.mark(&format!("switch-{number}"));
    }

    fn mark(&self, name: &str) {
        fs::write(self.scratch.join(name), "").expect("a scratch directory");
    }

    /// The directory in `/proc` of the process that serves a socket.
    fn proc_of(&self, socket: &str) -> PathBuf {
        let mut client = Client::connect(self.scratch.join(socket));
        let peer = socket_peercred(client.stream()).expect("a connection");
        Path::new("/proc").join(peer.pid.as_raw_nonzero().to_string())
    }

    fn followed(&self) -> usize {
        self.daemon.messages().iter().filter(|line| *line == FOLLOWED).count()
    }

    /// Asserts that the first stage is in PID 1's root and has dropped its capabilities.
    fn assert_settled(&self, process: &Path) {
        let init = self.init();
        until("no thread has a capability", || able(process).iter().all(|rights| *rights == 0));
        for link in ["root", "cwd"] {
            assert_eq!(directory(&process.join(link)), directory(&init.join("root")), "{link}");
        }
        assert_eq!(self.followed(), 1);
    }

    /// Asserts that the first stage serves without the capabilities, and sends PID 1 signs of life
    /// if PID 1 has asked for them.
    fn assert_serves_on(&mut self, process: &Path) {
        until("no thread has a capability", || able(process).iter().all(|rights| *rights == 0));
        let before = self.manager.said.len();
        self.manager.wait_until("signs of life", |said| {
            said[before..].iter().filter(|said| *said == "WATCHDOG=1").count() > 1
        });
        assert_eq!(self.followed(), 0);
        assert_eq!(Client::connect(self.scratch.join("sock")).ask("get_counter"), "0");
    }

    /// The namespace's PID 1, in the host's `/proc`.
    fn init(&self) -> PathBuf {
        let unshare = self.daemon.pid();
        let children = fs::read_to_string(format!("/proc/{unshare}/task/{unshare}/children"));
        Path::new("/proc").join(children.expect("a process").trim())
    }
}

fn send(process: &Path, signal: Signal) {
    let pid = process.file_name().and_then(|name| name.to_str()?.parse().ok());
    let pid = pid.and_then(Pid::from_raw).expect("a process id");
    kill_process(pid, signal).expect("the process is there");
}

/// The two capabilities, as each thread of a process has them.
fn able(process: &Path) -> Vec<u64> {
    threads(process).into_iter().map(|(_, rights)| rights).collect()
}

/// The name of each thread of a process, and which of the two capabilities it has.
fn threads(process: &Path) -> Vec<(String, u64)> {
    let threads = fs::read_dir(process.join("task")).expect("a process");
    let named = threads.map(|thread| {
        let status = fs::read_to_string(thread.expect("a thread").path().join("status"));
        let status = status.unwrap_or_default();
        let field = |key| status.lines().find_map(|line| line.strip_prefix(key)).unwrap_or("0");
        let rights = u64::from_str_radix(field("CapPrm:").trim(), 16).expect("hexadecimal");
        (field("Name:").trim().to_owned(), rights & FOLLOWING)
    });
    named.collect()
}

/// The directory that a link of `/proc` leads to.
fn directory(link: &Path) -> (u64, u64) {
    let found = fs::metadata(link).expect("we are root");
    (found.dev(), found.ino())
}

#[test]
fn the_switch_is_noticed_whichever_roots_the_kernel_changes() {
    for way in [Way::Chroot, Way::Pivot] {
        let mut boot = Boot::start(&[way], "");
        let process = boot.proc_of("sock");
        until("one thread is able", || {
            able(&process).iter().filter(|rights| **rights == FOLLOWING).count() == 1
        });
        let before = directory(&process.join("root"));
        assert_eq!(boot.followed(), 0, "{way:?}");
        boot.switch(1);
        boot.daemon.wait_for(FOLLOWED);
        boot.manager.wait_for(WATCHDOG);
        boot.assert_settled(&process);
        assert_ne!(directory(&process.join("root")), before, "{way:?}");
    }
}

#[test]
fn a_thread_that_a_device_starts_has_no_capability() {
    let scratch = Scratch::new();
    for_everybody(&scratch);
    let copied = Command::new("cp").arg(twin_program()).arg(scratch.join("early-service")).status();
    assert!(copied.is_ok_and(|status| status.success()), "room for a copy");
    let mut hardware = Pipe::new(&scratch);
    let boot = Boot::start_in(scratch, &[], &[Way::Chroot], "");
    hardware.wait_for(1);
    let process = boot.proc_of("sock");
    let able: Vec<_> =
        threads(&process).into_iter().filter(|(_, rights)| *rights == FOLLOWING).collect();
    assert_eq!(able, [("async-io".to_owned(), FOLLOWING)], "{:?}", threads(&process));
    assert!(threads(&process).contains(&("of-device".to_owned(), 0)), "{:?}", threads(&process));
    boot.switch(1);
    boot.daemon.wait_for(FOLLOWED);
    boot.assert_settled(&process);
}

#[test]
fn from_one_initrd_to_another_the_root_filesystem_is_waited_for() {
    for ways in [[Way::Chroot; 2], [Way::Pivot; 2], [Way::Pivot, Way::Chroot]] {
        let mut boot = Boot::start(&ways, "");
        let process = boot.proc_of("sock");
        boot.switch(1);
        boot.daemon.wait_for("Followed PID 1 to another initrd");
        assert_eq!(boot.followed(), 0, "{ways:?}");
        assert!(able(&process).contains(&FOLLOWING), "{ways:?}");
        assert!(!boot.manager.said.contains(&WATCHDOG.to_owned()), "{ways:?}");
        boot.switch(2);
        boot.daemon.wait_for(FOLLOWED);
        boot.manager.wait_for(WATCHDOG);
        boot.assert_settled(&process);
    }
}

#[test]
fn two_switches_between_two_looks_are_one() {
    for ways in [[Way::Chroot; 2], [Way::Pivot; 2]] {
        let boot = Boot::start(&ways, "");
        let process = boot.proc_of("sock");
        let first = boot.init();
        let before = directory(&first.join("root"));
        send(&process, Signal::STOP);
        boot.switch(1);
        boot.switch(2);
        until("two switches", || {
            let root = first.join("root");
            directory(&root) != before && !root.join("etc/initrd-release").exists()
        });
        send(&process, Signal::CONT);
        boot.daemon.wait_for(FOLLOWED);
        boot.assert_settled(&process);
    }
}

/// A security policy that forbids the call has the same effect as a missing capability.
#[test]
fn one_who_may_not_look_at_pid_1_is_moved_along_and_notices() {
    let less = "setpriv --bounding-set=-sys_ptrace,-sys_chroot";
    let mut boot = Boot::start(&[Way::Pivot], less);
    let process = boot.proc_of("sock");
    boot.daemon.wait_for("Cannot follow PID 1 to another root");
    boot.switch(1);
    boot.daemon.wait_for(FOLLOWED);
    boot.manager.wait_for(WATCHDOG);
    boot.assert_settled(&process);
}

#[test]
fn one_who_may_not_look_keeps_no_capability_and_serves_on() {
    let mut boot = Boot::start(&[Way::Chroot], &WITHOUT_PTRACE.join(" "));
    let process = boot.proc_of("sock");
    boot.daemon.wait_for("Cannot follow PID 1 to another root");
    until("no thread has a capability", || able(&process).iter().all(|rights| *rights == 0));
    boot.switch(1);
    let init = boot.init();
    until("switched", || directory(&init.join("root")) != directory(&process.join("root")));
    boot.assert_serves_on(&process);
}

#[test]
fn one_who_may_not_look_any_more_gives_up_and_serves_on() {
    let mut boot = Boot::start_within(WITHOUT_PTRACE, &[Way::Hide], "");
    let process = boot.proc_of("sock");
    until("one thread is able", || able(&process).iter().any(|rights| *rights != 0));
    boot.switch(1);
    boot.daemon.wait_for("cannot look at PID 1's root, so cannot follow it there");
    boot.assert_serves_on(&process);
    let said = boot.daemon.messages();
    assert!(!said.iter().any(|line| line.starts_with("Cannot follow PID 1")), "{said:#?}");
}

#[test]
fn one_that_starts_after_the_switch_follows_at_once() {
    let boot = Boot::start(&[Way::Chroot], "");
    let init = boot.init();
    let before = directory(&init.join("root"));
    boot.switch(1);
    until("switched", || directory(&init.join("root")) != before);
    boot.daemon.wait_for(FOLLOWED);
    boot.mark("late");
    until("followed", || boot.followed() == 2);
    let late = boot.proc_of("late.sock");
    assert_eq!(directory(&late.join("root")), directory(&init.join("root")));
}
