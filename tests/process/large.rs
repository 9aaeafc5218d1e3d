// SPDX-License-Identifier: Apache-2.0
//! Large: a state of 3.9 kB, which has two slots in the state file (`testkit`'s example `notes`).

use std::fs;
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::thread;

use early_service_machine::slots::{SLOT, SLOTS};
use rustix::process::Signal;
use testkit::build;
use testkit::client::{Client, nc, status};
use testkit::daemon::{Daemon, STILL, detach};
use testkit::random::Random;
use testkit::scratch::Scratch;

use crate::stage::state_file;

/// Starts the notes with the state file of the test.
fn notes(scratch: &Scratch, socket: &str, options: &[&str]) -> Daemon {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    let program = PROGRAM.get_or_init(|| {
        build::example_of("testkit", "notes").unwrap_or_else(|error| panic!("{error}"))
    });
    let mut command = Command::new(program);
    detach(&mut command);
    command.arg("--server-socket-path").arg(scratch.join(socket)).args(STILL).args(options);
    command.arg("--state-file").arg(state_file(scratch));
    Daemon::listen_at(&mut command, scratch.join(socket))
}

/// Writes other notes; returns those before.
fn write(socket: &Path, notes: &str) -> String {
    nc(socket, format!("{notes}\n")).trim_end().to_owned()
}

#[test]
fn a_large_state_is_handed_over_killed_and_recovered() {
    let scratch = Scratch::new();
    let mut first = notes(&scratch, "first", &[]);
    assert_eq!(write(&first.socket, "b 3900"), "a 1");
    let length = fs::metadata(state_file(&scratch)).expect("a file").len();
    assert_eq!(usize::try_from(length), Ok(SLOTS), "the room is there before it is used");
    let predecessor = first.socket.to_str().expect("text");
    let mut second = notes(&scratch, "second", &["--client-socket-path", predecessor]);
    assert!(first.ended().0.success());
    second.wait_for("Adopting b 3900 and 0 clients from");
    assert_eq!(status(&second.socket, "origin"), "adopted");
    assert!(!nc(&second.socket, "status\n").contains("text="), "there is no room for it");
    second.signal(Signal::KILL);
    second.ended();
    let third = notes(&scratch, "third", &[]);
    third.wait_for("Recovering at b 3900 from");
    assert_eq!(write(&third.socket, "c 7"), "b 3900");
}

#[test]
fn a_torn_record_leaves_the_change_before() {
    for (torn, changes) in [(SLOT, 3), (0, 2)] {
        let scratch = Scratch::new();
        let mut first = notes(&scratch, "first", &[]);
        let change = |count| write(&first.socket, &format!("b {}", 3900 - count));
        let before = (0..changes).map(change).collect::<Vec<_>>().pop().expect("a change");
        first.signal(Signal::KILL);
        first.ended();
        // The newest record is the one that the changes made; half of it is of another one.
        let path = state_file(&scratch);
        let mut file = fs::read(&path).expect("a state file");
        let newest = newest_slot(&file);
        assert_eq!(newest, torn, "each change goes to the other slot");
        file[newest + 2000..newest + 3000].fill(b'z');
        fs::write(&path, file).expect("our own");
        let second = notes(&scratch, "first", &[]);
        second.wait_for(&format!("Recovering at {before} from"));
    }
}

/// Where the record with the highest sequence number begins.
fn newest_slot(file: &[u8]) -> usize {
    let sequence = |at: usize| {
        let text = String::from_utf8_lossy(&file[at..]);
        let field = text.split(' ').find_map(|field| field.strip_prefix("sequence="));
        field.and_then(|number| number.parse::<u64>().ok())
    };
    if sequence(SLOT) > sequence(0) { SLOT } else { 0 }
}

#[test]
fn acknowledged_changes_survive_kills_in_the_middle_of_writes() {
    const ROUNDS: u64 = 20;
    let mut random = Random::new(ROUNDS);
    let scratch = Scratch::new();
    let mut expected = vec!["a 1".to_owned()];
    for round in 0..ROUNDS {
        let mut daemon = notes(&scratch, "sock", &[]);
        let letters = ('a'..='z').cycle().skip(usize::try_from(round).expect("few"));
        let changes: Vec<_> = letters.take(4000).zip(0..).collect();
        let changes: Vec<_> =
            changes.iter().map(|(letter, at)| format!("{letter} {}", 3900 - at % 1000)).collect();
        let mut client = Client::connect(&daemon.socket);
        let found = client.ask(&changes[0]);
        assert!(expected.contains(&found), "{found} in round {round}");
        let mut stream: UnixStream = client.stream().try_clone().expect("a descriptor");
        let sent = changes[1..].iter().map(|change| format!("{change}\n")).collect::<String>();
        let writer = thread::spawn(move || {
            // Ends when the process is killed.
            let _ = stream.write_all(sent.as_bytes());
        });
        let until = usize::try_from(random.number(0..200)).expect("few");
        (0..until).for_each(|_| _ = client.line());
        daemon.signal(Signal::KILL);
        daemon.ended();
        writer.join().expect("it ends");
        let answered = 1 + until + client.rest().lines().count();
        // Any change that was not answered may be in the file, and none before those.
        expected = changes[answered - 1..].to_vec();
    }
}
