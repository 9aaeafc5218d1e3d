// SPDX-License-Identifier: Apache-2.0
//! systemd: what a unit passes to the daemon, and what the daemon reports to PID 1.

use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::process::Signal;

use crate::stage::{serve, start_under, state_file};
use testkit::client::{Client, allow_all_descriptors, get_counter, nc, until_status};
use testkit::daemon::{Daemon, STILL, started_with};
use testkit::host::Stopwatch;
use testkit::manager::Manager;
use testkit::scratch::Scratch;
use testkit::until;

#[test]
fn a_passed_socket_is_served_and_its_file_left_to_systemd() {
    let scratch = Scratch::new();
    let passed = UnixListener::bind(scratch.join("public")).expect("a socket");
    let mut daemon = Daemon::spawn(started_with(&passed).args(STILL));
    assert_eq!(get_counter(scratch.join("public")), 0);
    daemon.signal(Signal::TERM);
    assert!(daemon.ended().0.success());
    assert_eq!(scratch.names(), ["public"]);
}

#[test]
fn a_socket_of_its_own_is_served_beside_the_passed_one() {
    let scratch = Scratch::new();
    let passed = UnixListener::bind(scratch.join("public")).expect("a socket");
    let own = scratch.join("own");
    let mut command = started_with(&passed);
    let daemon = Daemon::spawn(command.arg("--server-socket-path").arg(&own).args(STILL));
    daemon.wait_for(&format!("Listening on UNIX socket {}", own.display()));
    assert_eq!(nc(&own, "set_counter 5\n"), "previous value 0\n");
    assert_eq!(get_counter(scratch.join("public")), 5);
}

#[test]
fn a_passed_socket_of_the_same_path_is_not_bound_again() {
    let scratch = Scratch::new();
    let public = scratch.join("public");
    let passed = UnixListener::bind(&public).expect("a socket");
    let mut command = started_with(&passed);
    let daemon = Daemon::spawn(command.arg("--server-socket-path").arg(&public).args(STILL));
    daemon.wait_for("Listening on UNIX socket");
    assert_eq!(get_counter(&public), 0);
}

#[test]
fn whoever_comes_while_it_ends_waits_for_the_next_one() {
    let scratch = Scratch::new();
    let (public, file) = (scratch.join("public"), scratch.join("state"));
    let passed = UnixListener::bind(&public).expect("a socket");
    let mut manager = Manager::new(&scratch);
    let mut command = started_with(&passed);
    // Because nobody reads its log, the daemon needs a moment to end.
    command.args(["--timer-delay-ms", "1", "--state-file"]).arg(&file).stderr(Stdio::piped());
    command.env("NOTIFY_SOCKET", &manager.path);
    let mut daemon = Daemon::spawn_unread(&mut command);
    until_status(&public, "log_lines_dropped", |dropped| dropped > 0);
    daemon.signal(Signal::TERM);
    manager.wait_for("STOPPING=1");
    let mut clients = Vec::new();
    while clients.len() < 100 && daemon.is_running() {
        let mut client = Client::connect(&public);
        client.send("get_counter\n");
        clients.push(client);
    }
    assert!(!clients.is_empty(), "it ended before a client connected");
    assert!(daemon.ended().0.success());
    let _next = Daemon::spawn(started_with(&passed).arg("--state-file").arg(&file));
    for (number, client) in clients.iter_mut().enumerate() {
        assert!(client.line().parse::<u64>().is_ok(), "client {number}");
    }
}

#[test]
fn a_blocking_passed_socket_does_not_block_the_daemon() {
    let scratch = Scratch::new();
    let public = scratch.join("public");
    let passed = UnixListener::bind(&public).expect("a socket");
    let daemon = Daemon::spawn(&mut started_with(&passed));
    daemon.wait_for("Listening on UNIX socket");
    // PID 1 clears the flag when it passes the socket to the successor. All copies share the flag.
    passed.set_nonblocking(false).expect("a descriptor");
    let mut client = Client::connect(&public);
    assert!(client.ask("set_counter 100").starts_with("previous value "));
    daemon.wait_for("103");
}

#[test]
fn a_passed_socket_is_not_taken_over() {
    let scratch = Scratch::new();
    let public = scratch.join("public");
    let passed = UnixListener::bind(&public).expect("a socket");
    let mut command = started_with(&passed);
    command.arg("--server-socket-path").arg(&public).arg("--takeover-existing-socket");
    let mut daemon = Daemon::spawn(&mut command);
    assert_eq!(daemon.ended().0.code(), Some(1));
    daemon.wait_for(&format!("error: cannot take over {}: systemd passes", public.display()));
}

#[test]
fn a_full_backlog_of_one_socket_does_not_delay_the_other() {
    allow_all_descriptors();
    let scratch = Scratch::new();
    let (public, own) = (scratch.join("public"), scratch.join("own"));
    let passed = UnixListener::bind(&public).expect("a socket");
    let mut command = started_with(&passed);
    let daemon = Daemon::spawn(command.arg("--server-socket-path").arg(&own).args(STILL));
    daemon.wait_for(&format!("Listening on UNIX socket {}", own.display()));
    // Each client keeps its slot for a second, so the last one gets a slot after four.
    let silent: Vec<_> = (0..4000).map(|_| Client::connect(&public)).collect();
    let watch = Stopwatch::start();
    assert_eq!(get_counter(&own), 0);
    let took = watch.elapsed();
    assert!(took < Duration::from_millis(2500), "{took:?}");
    drop(silent);
}

/// Starts the program with `passed` as descriptor 3, after `script`.
fn passing(passed: OwnedFd, script: &str, socket: &Path) -> Daemon {
    let mut command = Command::new("sh");
    testkit::daemon::detach(&mut command);
    let script = format!(r#"exec 3<&0 </dev/null; export LISTEN_PID=$$; {script}; exec "$0" "$@""#);
    command.arg("-c").arg(script).arg(testkit::daemon::binary()).arg("-s").arg(socket).args(STILL);
    Daemon::spawn(command.stdin(passed))
}

/// Descriptors of each kind that is not a listening UNIX stream socket, with the error.
fn strangers() -> [(OwnedFd, &'static str); 6] {
    use rustix::net::{AddressFamily, SocketAddrUnix, SocketType, bind, listen, socket};
    let packets = socket(AddressFamily::UNIX, SocketType::SEQPACKET, None).expect("a socket");
    let name = format!("early-service-{}", std::process::id());
    let name = SocketAddrUnix::new_abstract_name(name.as_bytes()).expect("short");
    // One of several tests gets the name. The sockets of the others are no stream sockets either.
    let _ = bind(&packets, &name).and_then(|()| listen(&packets, 1));
    let file = std::fs::File::open("/dev/null").expect("a file");
    let inet = std::net::TcpListener::bind("127.0.0.1:0").expect("a socket");
    [
        (file.into(), "it is not a UNIX socket"),
        (inet.into(), "it is not a UNIX socket"),
        (rustix::pipe::pipe().expect("a pipe").0, "it is not a UNIX socket"),
        (UnixDatagram::pair().expect("a pair").0.into(), "it is not a stream socket"),
        (packets, "it is not a stream socket"),
        (UnixStream::pair().expect("a pair").0.into(), "it does not listen"),
    ]
}

#[test]
fn what_is_passed_to_be_served_and_cannot_be_is_refused_by_name() {
    for (names, called) in [
        ("", "descriptor 3 of"),
        ("LISTEN_FDNAMES=early-service.socket", "'early-service.socket', descriptor 3 of"),
        ("LISTEN_FDNAMES=unknown", "'unknown', descriptor 3 of"),
    ] {
        for (passed, cause) in strangers() {
            let scratch = Scratch::new();
            let script = format!("export LISTEN_FDS=1 {names}");
            let mut daemon = passing(passed, &script, &scratch.join("sock"));
            assert_eq!(daemon.ended().0.code(), Some(1), "{names}: {cause}");
            daemon.wait_for(&format!("error: cannot serve {called} $LISTEN_FDS: {cause}"));
            assert_eq!(scratch.names(), [""; 0]);
        }
    }
}

#[test]
fn what_is_passed_for_another_purpose_is_left_alone() {
    for name in ["stored", "connection", "watchdog", "early-service"] {
        let listener = UnixListener::bind(Scratch::new().join("theirs")).expect("a socket");
        let strangers = strangers().map(|(stranger, _)| stranger);
        for passed in strangers.into_iter().chain([OwnedFd::from(listener)]) {
            let scratch = Scratch::new();
            let script = format!("export LISTEN_FDS=1 LISTEN_FDNAMES={name}");
            let ours = rustix::fs::fstat(&passed).expect("open");
            let daemon = passing(passed, &script, &scratch.join("sock"));
            daemon.wait_for(&format!(
                "Leaving alone descriptor 3 of $LISTEN_FDS, which is named '{name}'"
            ));
            daemon.wait_for("Listening on UNIX socket");
            assert_eq!(get_counter(scratch.join("sock")), 0, "{name}");
            let theirs = std::fs::metadata(format!("/proc/{}/fd/3", daemon.pid())).expect("open");
            assert_eq!((theirs.dev(), theirs.ino()), (ours.st_dev, ours.st_ino), "{name}");
        }
    }
}

#[test]
fn of_several_descriptors_those_of_a_socket_unit_are_served() {
    let scratch = Scratch::new();
    let public = scratch.join("public");
    let passed = UnixListener::bind(&public).expect("a socket");
    let script = "exec 4</dev/null 5<&3; export LISTEN_FDS=4 \
                  LISTEN_FDNAMES=early-service.socket:stored:stored:absent";
    let daemon = passing(passed.into(), script, &scratch.join("own"));
    daemon.wait_for("Leaving alone descriptor 6 of $LISTEN_FDS, which is named 'absent'");
    assert_eq!(get_counter(&public), 0);
    assert_eq!(get_counter(scratch.join("own")), 0);
}

#[test]
fn an_impossible_number_of_descriptors_is_refused() {
    let file = || OwnedFd::from(std::fs::File::open("/dev/null").expect("a file"));
    let listener =
        |scratch: &Scratch| UnixListener::bind(scratch.join("public")).expect("a socket");
    for (script, error) in [
        ("export LISTEN_FDS=2", "descriptor 4 of $LISTEN_FDS: it is not open"),
        ("export LISTEN_FDS=4000000000", "4000000000 is more than the limit of open files"),
        ("export LISTEN_FDS=many", "cannot understand $LISTEN_FDS: "),
        ("export LISTEN_FDS=-1", "cannot understand $LISTEN_FDS: "),
    ] {
        let scratch = Scratch::new();
        let mut daemon = passing(listener(&scratch).into(), script, &scratch.join("sock"));
        assert_eq!(daemon.ended().0.code(), Some(1), "{script}");
        daemon.wait_for(error);
        assert_eq!(scratch.names(), ["public"], "{script}");
    }
    for script in [
        "export LISTEN_FDS=1 LISTEN_PID=1",
        "export LISTEN_FDS=1 LISTEN_PIDFDID=1",
        "export LISTEN_FDS=0",
        "unset LISTEN_FDS",
    ] {
        let scratch = Scratch::new();
        let daemon = passing(file(), script, &scratch.join("sock"));
        daemon.wait_for("Listening on UNIX socket");
        assert_eq!(get_counter(scratch.join("sock")), 0, "{script}");
    }
}

#[test]
fn a_watchdog_too_short_to_feed_is_named_and_not_fed() {
    for (limit, line) in [
        ("10", "cannot keep up with a watchdog of 10 us: $WATCHDOG_USEC should be at least 30000"),
        ("1", "cannot keep up with a watchdog of 1 us"),
        ("0", "cannot feed the watchdog: $WATCHDOG_USEC is '0'"),
        ("3s", "cannot feed the watchdog: $WATCHDOG_USEC is '3s'"),
        ("99999999999999999999", "cannot feed the watchdog"),
    ] {
        let scratch = Scratch::new();
        let mut manager = Manager::new(&scratch);
        let mut command = testkit::daemon::program();
        command.arg("--server-socket-path").arg(scratch.join("sock"));
        command.env("NOTIFY_SOCKET", &manager.path).env("WATCHDOG_USEC", limit);
        let daemon = Daemon::spawn(&mut command);
        daemon.wait_for(line);
        // At most one sign of life in 10 ms, measured by the deadlines of ten ticks.
        let before = daemon.ticks(1).len();
        daemon.ticks(before + 10);
        let read = daemon.ticks(1).len();
        manager.read_waiting();
        let signs = manager.said.iter().filter(|said| said.starts_with("WATCHDOG=1")).count();
        assert!(signs <= 10 * (read + 5), "{limit}: {signs} signs in {read} ticks");
    }
}

#[test]
fn a_notify_socket_that_cannot_be_is_named_and_serving_goes_on() {
    for path in ["relative", "", &format!("/{}", "x".repeat(150)), &format!("@{}", "x".repeat(150))]
    {
        let scratch = Scratch::new();
        let mut command = testkit::daemon::program();
        command.arg("--server-socket-path").arg(scratch.join("sock"));
        let daemon = Daemon::spawn(command.env("NOTIFY_SOCKET", path));
        daemon.wait_for(&format!("cannot notify PID 1: $NOTIFY_SOCKET is '{path}'"));
        daemon.wait_for("Listening on UNIX socket");
    }
    let scratch = Scratch::new();
    let mut command = testkit::daemon::program();
    command.arg("--server-socket-path").arg(scratch.join("sock"));
    let daemon = Daemon::spawn(command.env("NOTIFY_SOCKET", "/nobody/here"));
    daemon.wait_for("Listening on UNIX socket");
}

#[test]
fn a_manager_that_does_not_read_does_not_stop_the_ticks() {
    let scratch = Scratch::new();
    let unread = UnixDatagram::bind(scratch.join("notify")).expect("a socket");
    let mut command = testkit::daemon::program();
    command.arg("--server-socket-path").arg(scratch.join("sock"));
    // Signs of life every few milliseconds fill the queue at once.
    command.env("NOTIFY_SOCKET", scratch.join("notify")).env("WATCHDOG_USEC", "9000");
    let daemon = Daemon::spawn(&mut command);
    let writer = UnixDatagram::unbound().expect("a socket");
    writer.set_nonblocking(true).expect("a socket");
    until("full", || writer.send_to(b"", scratch.join("notify")).is_err());
    let before = daemon.ticks(1).len();
    daemon.ticks(before + 5);
    drop(unread);
}

#[test]
fn systemd_is_told_the_phase_and_that_the_process_lives() {
    let scratch = Scratch::new();
    let mut manager = Manager::new(&scratch);
    let mute = UnixListener::bind(scratch.join("mute")).expect("a socket");
    let mut command = testkit::daemon::program();
    command.arg("--server-socket-path").arg(scratch.join("sock"));
    command.arg("--client-socket-path").arg(scratch.join("mute"));
    command.env("NOTIFY_SOCKET", &manager.path).env("WATCHDOG_USEC", "300000");
    let mut daemon = Daemon::spawn(&mut command);

    manager.wait_for("STATUS=adopting: asking the predecessor for the state");
    // The watchdog also covers the start, because the start timeout fits the slowest machine.
    assert_eq!(manager.said[0], "WATCHDOG=1", "{:?}", manager.said);
    let first = manager.said.len();
    manager.wait_until("another sign of life", |said| {
        said[first..].contains(&"WATCHDOG=1".to_owned())
    });
    assert!(!manager.said.contains(&"READY=1".to_owned()), "it does not own the counter yet");
    drop(mute);
    manager.wait_for("READY=1");
    manager.wait_for("STATUS=serving: started anew, without a state file");
    daemon.signal(Signal::TERM);
    manager.wait_for("STOPPING=1");
    manager.wait_for("STATUS=ended: writing out the log");
    until("ended", || !daemon.is_running());
}

#[test]
fn a_long_start_asks_for_more_time_with_any_watchdog() {
    for watchdog in [None, Some("3600000000")] {
        let scratch = Scratch::new();
        let mut manager = Manager::new(&scratch);
        let _mute = UnixListener::bind(scratch.join("mute")).expect("a socket");
        let mut command = testkit::daemon::program();
        command.arg("--server-socket-path").arg(scratch.join("sock"));
        command.arg("--client-socket-path").arg(scratch.join("mute"));
        command.env("NOTIFY_SOCKET", &manager.path);
        command.envs(watchdog.map(|limit| ("WATCHDOG_USEC", limit)));
        let _daemon = Daemon::spawn(&mut command);
        manager.wait_for("EXTEND_TIMEOUT_USEC=5000000");
    }
}

#[test]
fn what_systemd_had_no_room_for_is_said_again() {
    let scratch = Scratch::new();
    let mut manager = Manager::new(&scratch);
    let writer = UnixDatagram::unbound().expect("a socket");
    writer.set_nonblocking(true).expect("a socket");
    until("full", || writer.send_to(b"another's", &manager.path).is_err());
    let daemon = start_under(&manager, scratch.join("sock"), &STILL);
    daemon.wait_for("=> serving");
    assert_eq!(get_counter(&daemon.socket), 0);
    manager.wait_for("READY=1");
    assert!(manager.said.contains(&"another's".to_owned()));
}

#[test]
fn systemd_is_told_the_origin_and_the_number_of_clients() {
    let scratch = Scratch::new();
    let mut manager = Manager::new(&scratch);
    let first = serve(&scratch, "first", &STILL);
    let file = state_file(&scratch);
    let [first_socket, file] = [&first.socket, &file].map(|path| path.to_str().expect("text"));
    let options = [&STILL[..], &["--state-file", file, "-c", first_socket]].concat();
    let second = start_under(&manager, scratch.join("second"), &options);
    let sentence = format!("STATUS=serving: adopted from process {}", first.pid());
    manager.wait_for(&sentence);
    manager.wait_for(&format!("{sentence}; clients: 0"));
    let clients = [(); 3].map(|()| Client::connect(&second.socket));
    manager.wait_for(&format!("{sentence}; clients: 3"));
    // An unchanged status is not sent again.
    let lives = |said: &[String]| said.iter().filter(|said| *said == "WATCHDOG=1").count();
    let before = lives(&manager.said);
    manager.wait_until("signs of life", |said| lives(said) > before + 1);
    let told = manager.said.iter().filter(|said| said.ends_with("; clients: 3")).count();
    assert_eq!(told, 1, "{:?}", manager.said);
    drop(clients);
    manager.wait_until("0 clients again", |said| {
        said.iter().filter(|said| said.ends_with("; clients: 0")).count() == 2
    });
}
