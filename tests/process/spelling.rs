// SPDX-License-Identifier: Apache-2.0
//! Spelling: one socket with several names, and names of all kinds and lengths.

use std::ffi::OsStr;
use std::fs;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, lchown, symlink};
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use rustix::process::{Signal, geteuid};

use testkit::client::{Client, get_counter};
use testkit::daemon::{Daemon, STILL, program, started_with};
use testkit::scratch::Scratch;

/// Spellings of `real/sock`: `alias` is a link to `real`, and `link` to the socket.
const SPELLINGS: [&str; 6] =
    ["alias/sock", "link", "real//sock", "real/./sock", "real/../alias/sock", "chain"];

/// A directory with all these names.
fn spelled() -> Scratch {
    let scratch = Scratch::new();
    fs::create_dir(scratch.join("real")).expect("room");
    symlink("real", scratch.join("alias")).expect("room");
    symlink("real/sock", scratch.join("link")).expect("room");
    symlink(scratch.join("link"), scratch.join("chain")).expect("room");
    scratch
}

fn inode(path: &Path) -> u64 {
    fs::symlink_metadata(path).expect("a file").ino()
}

/// Starts the program in the scratch directory, with a relative path.
fn start_in(scratch: &Scratch, socket: &str, options: &[&str]) -> Daemon {
    let mut command = program();
    command.current_dir(scratch.join("")).args(["-s", socket]).args(STILL).args(options);
    Daemon::spawn(&mut command)
}

#[test]
fn any_spelling_of_the_option_finds_the_passed_socket() {
    for spelling in SPELLINGS {
        let scratch = spelled();
        let path = scratch.join("real/sock");
        let passed = UnixListener::bind(&path).expect("a socket");
        for is_relative in [false, true] {
            let mut command = started_with(&passed);
            command.current_dir(scratch.join("")).args(STILL).arg("-s");
            let daemon = Daemon::spawn(match is_relative {
                true => command.arg(spelling),
                false => command.arg(scratch.join(spelling)),
            });
            daemon.wait_for("Listening on UNIX socket");
            assert_eq!(get_counter(&path), 0, "{spelling}");
            let mut refused = Daemon::spawn(
                started_with(&passed)
                    .args(["-s", scratch.join(spelling).to_str().expect("text")])
                    .arg("--takeover-existing-socket"),
            );
            refused.wait_for("systemd passes that socket");
            assert_eq!(refused.ended().0.code(), Some(1), "{spelling}");
        }
    }
}

#[test]
fn a_takeover_by_another_name_keeps_the_name_and_refuses_none() {
    for spelling in SPELLINGS {
        let scratch = spelled();
        let path = scratch.join("real/sock");
        let mut server = Daemon::serve(&path, &STILL);
        let socket = inode(&path);
        let is_over = AtomicBool::new(false);
        thread::scope(|scope| {
            let clients = scope.spawn(|| {
                while !is_over.load(Ordering::Relaxed) {
                    get_counter(&path);
                }
            });
            // The alias, the real path, and the alias as a relative path.
            for by in [scratch.join(spelling), path.clone(), PathBuf::from(spelling)] {
                let by = by.to_str().expect("text");
                let next = start_in(&scratch, by, &["--takeover-existing-socket"]);
                next.wait_for("Listening on");
                assert!(server.ended().0.success(), "{by}");
                assert_eq!(inode(&path), socket, "{by}");
                server = next;
            }
            is_over.store(true, Ordering::Relaxed);
            clients.join().expect("nobody is refused");
        });
        assert_eq!(get_counter(scratch.join(spelling)), 0);
        server.signal(Signal::TERM);
        assert!(server.ended().0.success());
        assert!(fs::symlink_metadata(&path).is_err(), "{spelling}: the last one removes the file");
        assert_eq!(scratch.names(), ["alias", "chain", "link", "real"]);
    }
}

#[test]
fn a_link_to_nothing_is_where_the_socket_is_bound_each_time() {
    let scratch = spelled();
    for _ in 0..2 {
        let mut daemon = Daemon::serve(scratch.join("chain"), &STILL);
        assert_eq!(get_counter(scratch.join("real/sock")), 0);
        daemon.signal(Signal::TERM);
        assert!(daemon.ended().0.success());
    }
    if geteuid().is_root() {
        lchown(scratch.join("link"), Some(4000), None).expect("our own");
        let mut daemon = Daemon::start(scratch.join("link"), &STILL);
        daemon.wait_for("the file there is not a socket");
        assert!(!daemon.ended().0.success(), "a stranger does not choose the socket");
        assert!(!scratch.join("real/sock").exists());
    }
}

#[test]
fn no_spelling_makes_it_ask_its_own_socket() {
    for spelling in SPELLINGS {
        let scratch = spelled();
        let mut command = program();
        command.current_dir(scratch.join("")).arg("-s").arg(scratch.join("real/sock"));
        let mut daemon = Daemon::spawn(command.args(["-c", spelling]));
        daemon.wait_for("--client-socket-path and --server-socket-path are both");
        assert_eq!(daemon.ended().0.code(), Some(2), "{spelling}");
    }
}

#[test]
fn sockets_without_a_path_are_told_apart_and_named() {
    let scratch = Scratch::new();
    let name = scratch.join("abstract").to_string_lossy().into_owned();
    let address = SocketAddr::from_abstract_name(&name).expect("a name");
    let passed = UnixListener::bind_addr(&address).expect("a socket");
    let state = scratch.join("state").to_string_lossy().into_owned();
    let private = scratch.join("private");
    let first = Daemon::spawn(
        started_with(&passed).args(STILL).args(["--state-file", &state]).arg("-s").arg(&private),
    );
    first.wait_for(&format!("Listening on UNIX socket @{name}"));
    first.wait_for("private");
    // The successor is passed another socket. Both are served while both exist.
    let other = SocketAddr::from_abstract_name(format!("{name}.other")).expect("a name");
    let other = UnixListener::bind_addr(&other).expect("a socket");
    let mut client = UnixStream::connect_addr(&address).map(Client::from).expect("it listens");
    assert_eq!(client.ask("set_counter 5"), "previous value 0");
    first.stop();
    let mut waiting = UnixStream::connect_addr(&address).map(Client::from).expect("it listens");
    waiting.send("get_counter\n");
    let next = Daemon::spawn(
        started_with(&other).args(STILL).args(["--state-file", &state]).arg("-c").arg(&private),
    );
    next.wait_for("Reading starting position");
    first.signal(Signal::CONT);
    next.wait_for(&format!("Listening on UNIX socket @{name}.other"));
    assert_eq!(waiting.line(), "5", "from the queue of the first one's socket");
    assert_eq!(client.ask("get_counter"), "5");
}

/// Names that a handoff line cannot carry, and one that it can.
const NAMES: [&[u8]; 7] =
    [b"a\nb", b"a\n", b"a\rb", b"a\r", b"a\xff\xfeb", b" a listener= b ", b"a\\x0ab.successor"];

#[test]
fn a_socket_of_any_name_is_taken_over_and_keeps_it() {
    for name in NAMES {
        let scratch = Scratch::new();
        let path = scratch.join(OsStr::from_bytes(name));
        let mut server = Daemon::serve(&path, &STILL);
        let socket = inode(&path);
        for round in 0..2 {
            let next =
                Daemon::serve(&path, &[&STILL[..], &["--takeover-existing-socket"]].concat());
            assert!(server.ended().0.success(), "{name:?}");
            assert_eq!(inode(&path), socket, "{name:?} in round {round}");
            assert_eq!(get_counter(&path), 0, "{name:?}");
            server = next;
        }
        assert_eq!(scratch.names().len(), 1, "{name:?}: {:?}", scratch.names());
    }
}

/// A path of `length` bytes, with a name of one byte or of as many as fit.
fn long(scratch: &Scratch, length: usize, is_name_short: bool) -> PathBuf {
    let room = length - scratch.join("").as_os_str().len();
    if !is_name_short {
        return scratch.join("n".repeat(room));
    }
    let directory = scratch.join("d".repeat(room - 2));
    fs::create_dir_all(&directory).expect("room");
    directory.join("n")
}

#[test]
fn every_path_that_can_be_served_can_be_taken_over() {
    for (length, is_name_short) in
        [97, 98, 100, 106, 107].into_iter().flat_map(|length| [(length, false), (length, true)])
    {
        let scratch = Scratch::new();
        let path = long(&scratch, length, is_name_short);
        assert_eq!(path.as_os_str().len(), length);
        let mut server = Daemon::serve(&path, &STILL);
        let socket = inode(&path);
        for _ in 0..2 {
            let next =
                Daemon::serve(&path, &[&STILL[..], &["--takeover-existing-socket"]].concat());
            assert!(server.ended().0.success(), "{length}");
            assert_eq!((inode(&path), get_counter(&path)), (socket, 0), "{length}");
            server = next;
        }
        server.signal(Signal::TERM);
        assert!(server.ended().0.success());

        let passed = UnixListener::bind(&path).expect("a socket");
        let old = inode(&path);
        for _ in 0..2 {
            let mut daemon = Daemon::spawn(started_with(&passed).arg("--rebind").args(STILL));
            daemon.wait_for("Listening on UNIX socket");
            assert_ne!(inode(&path), old, "{length}: {:?}", daemon.messages());
            assert_eq!(get_counter(&path), 0, "{length}");
            daemon.signal(Signal::TERM);
            assert!(daemon.ended().0.success());
            assert_eq!(inode(&path), old, "{length}: it has its place again");
        }
        let directory = path.parent().expect("it has one");
        assert_eq!(fs::read_dir(directory).expect("ours").count(), 1, "{length}: nothing is left");
    }
}

#[test]
fn a_path_that_no_client_can_reach_is_refused_in_one_line() {
    let scratch = Scratch::new();
    let path = long(&scratch, 108, false);
    let too_long = "the path of a socket has at most 107 bytes, and this one has 108";
    for (option, what) in [
        (&["-s"][..], "cannot bind"),
        (&["--takeover-existing-socket", "-s"], "cannot take over"),
        (&["-s", scratch.join("sock").to_str().expect("text"), "-c"], "cannot adopt from"),
    ] {
        let mut daemon = Daemon::spawn(program().args(option).arg(&path));
        daemon.wait_for(&format!("error: {what} {}: {too_long}", path.display()));
        assert_eq!(daemon.ended().0.code(), Some(1), "{what}");
        assert_eq!(daemon.messages().len(), 1, "{what}");
    }
}

#[test]
fn a_directory_longer_than_its_link_is_used_through_the_link() {
    let scratch = Scratch::new();
    let deep = scratch.join("d".repeat(120));
    fs::create_dir(&deep).expect("room");
    symlink(&deep, scratch.join("l")).expect("room");
    let path = scratch.join("l/sock");
    let mut server = Daemon::serve(&path, &STILL);
    let socket = inode(&path);
    let mut next = Daemon::serve(&path, &[&STILL[..], &["--takeover-existing-socket"]].concat());
    assert!(server.ended().0.success());
    assert_eq!((inode(&path), get_counter(&path)), (socket, 0));
    next.signal(Signal::TERM);
    assert!(next.ended().0.success());
    assert_eq!(fs::read_dir(&deep).expect("ours").count(), 0, "nothing is left");
}
