// SPDX-License-Identifier: Apache-2.0
//! Meter: a service other than the counter (`testkit`'s example `meter`) is handed over as the
//! counter is.
//!
//! Tests only the meter; the counter's tests cover the rest.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use rustix::process::Signal;

use crate::stage::state_file;
use testkit::build;
use testkit::client::{nc, status};
use testkit::daemon::{Daemon, STILL, detach};
use testkit::scratch::Scratch;

/// The longest unit.
const UNIT: &str = "milligrams-per-cubic-metre-at-20-degrees-Celsius";

pub(crate) fn program() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    let build = || build::example_of("testkit", "meter");
    PROGRAM.get_or_init(|| build().unwrap_or_else(|error| panic!("{error}")))
}

/// Starts the meter with the test's state file.
fn meter(scratch: &Scratch, socket: &str, options: &[&str]) -> Daemon {
    let mut command = Command::new(program());
    detach(&mut command);
    command.arg("--server-socket-path").arg(scratch.join(socket)).args(options);
    command.arg("--state-file").arg(state_file(scratch));
    Daemon::listen_at(&mut command, scratch.join(socket))
}

fn successor(scratch: &Scratch, socket: &str, predecessor: &Path) -> Daemon {
    let predecessor = predecessor.to_str().expect("text");
    meter(scratch, socket, &[&STILL[..], &["--client-socket-path", predecessor]].concat())
}

#[track_caller]
fn assert_state(daemon: &Daemon, reading: &str, unit: &str) {
    let said = ["reading", "unit"].map(|key| status(&daemon.socket, key));
    assert_eq!(said, [reading, unit]);
}

#[test]
fn each_command_is_answered_with_what_it_replaced() {
    let scratch = Scratch::new();
    let daemon = meter(&scratch, "meter", &STILL);
    let replies = nc(
        &daemon.socket,
        format!(
            "get_reading\nset_reading 18446744073709551615\nset_unit {UNIT}\nset_unit x\n\
             set_reading -1\nset_unit two words\nget_counter\n"
        ),
    );
    let expected = [
        "0",
        "previous reading 0",
        "previous unit bar",
        &format!("previous unit {UNIT}"),
        "Invalid command: set_reading -1; expected set_reading N with N from 0 to \
         18446744073709551615",
        "Invalid command: set_unit two words; expected set_unit TEXT of 1 to 48 characters",
        "Invalid command: get_counter; expected get_reading, set_reading N, set_unit, \
         get_meter_and_terminate, reload or status",
    ];
    assert_eq!(replies.lines().collect::<Vec<_>>(), expected);
}

#[test]
fn more_commands_than_a_batch_has_room_for_are_all_answered() {
    let scratch = Scratch::new();
    let daemon = meter(&scratch, "meter", &STILL);
    let replies = nc(&daemon.socket, format!("set_unit {UNIT}\n").repeat(500));
    let expected = format!("previous unit {UNIT}");
    assert_eq!(replies.lines().skip(1).filter(|reply| **reply == expected).count(), 499);
}

#[test]
fn number_and_text_are_passed_from_process_to_process() {
    let scratch = Scratch::new();
    let mut first = meter(&scratch, "first", &STILL);
    nc(&first.socket, format!("set_reading 137\nset_unit {UNIT}\n"));
    let mut second = successor(&scratch, "second", &first.socket);
    assert!(first.ended().0.success());
    second.wait_for(&format!("Adopting 137 {UNIT} and 0 clients from"));
    assert_state(&second, "137", UNIT);

    second.signal(Signal::KILL);
    second.ended();
    let third = meter(&scratch, "third", &STILL);
    third.wait_for(&format!("Recovering at 137 {UNIT} from"));
    assert_state(&third, "137", UNIT);
}

#[test]
fn the_older_line_returns_the_whole_state() {
    let scratch = Scratch::new();
    let mut daemon = meter(&scratch, "meter", &STILL);
    let reply = nc(&daemon.socket, "set_unit kPa\nget_meter_and_terminate\n");
    assert_eq!(reply, "previous unit bar\n0 kPa\n");
    daemon.wait_for("Returning meter to client and terminating the process");
    assert!(daemon.ended().0.success());
}

#[test]
fn a_tick_is_logged_in_the_words_of_the_service() {
    let scratch = Scratch::new();
    let daemon = meter(&scratch, "meter", &["--timer-delay-ms", "10"]);
    daemon.wait_for("Reading 1, bar");
    nc(&daemon.socket, "set_reading 1000\nset_unit kPa\n");
    let change = daemon.wait_for("Continuing at reading 1000, previous ");
    assert!(change.message.ends_with(", in kPa"), "{change:?}");
    daemon.wait_for("Reading 1001, kPa");
}
