// SPDX-License-Identifier: Apache-2.0
//! Camera: the service of `examples/camera` goes through the handoff as the counter does.
//!
//! Tests only the camera; the counter's tests cover the rest.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use rustix::process::Signal;

use crate::stage::state_file;
use testkit::build;
use testkit::client::{nc, status};
use testkit::daemon::{Daemon, STILL, detach};
use testkit::scratch::Scratch;

/// The longest overlay.
const OVERLAY: &str = "caution/trailer/coupled/reverse-with-assistance!";

pub(crate) fn program() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| build::example("camera").unwrap_or_else(|error| panic!("{error}")))
}

/// Starts the camera with the test's state file.
pub(crate) fn camera(scratch: &Scratch, socket: &str, options: &[&str]) -> Daemon {
    let mut command = Command::new(program());
    detach(&mut command);
    command.arg("--server-socket-path").arg(scratch.join(socket)).args(options);
    command.arg("--state-file").arg(state_file(scratch));
    Daemon::listen_at(&mut command, scratch.join(socket))
}

fn successor(scratch: &Scratch, socket: &str, predecessor: &Path) -> Daemon {
    let predecessor = predecessor.to_str().expect("text");
    camera(scratch, socket, &[&STILL[..], &["--client-socket-path", predecessor]].concat())
}

/// The frame, the gear and the overlay.
#[track_caller]
fn assert_state(daemon: &Daemon, frame: &str, gear: &str, overlay: &str) {
    let said = ["frame", "gear", "overlay"].map(|key| status(&daemon.socket, key));
    assert_eq!(said, [frame, gear, overlay]);
}

#[test]
fn each_command_is_answered_with_what_it_replaced() {
    let scratch = Scratch::new();
    let daemon = camera(&scratch, "camera", &STILL);
    let replies = nc(
        &daemon.socket,
        format!(
            "get_frame\nset_frame 18446744073709551615\nset_gear reverse\nset_overlay {OVERLAY}\n\
             set_overlay x\nset_gear park\nset_overlay two words\nget_counter\n"
        ),
    );
    let expected = [
        "0",
        "previous frame 0",
        "previous gear drive",
        "previous overlay rear",
        &format!("previous overlay {OVERLAY}"),
        "Invalid command: set_gear park; expected set_gear reverse or set_gear drive",
        "Invalid command: set_overlay two words; expected set_overlay TEXT of 1 to 48 characters",
        "Invalid command: get_counter; expected get_frame, set_frame N, set_gear, set_overlay, \
         get_camera_and_terminate or status",
    ];
    assert_eq!(replies.lines().collect::<Vec<_>>(), expected);
}

#[test]
fn more_commands_than_a_batch_has_room_for_are_all_answered() {
    let scratch = Scratch::new();
    let daemon = camera(&scratch, "camera", &STILL);
    let replies = nc(&daemon.socket, format!("set_overlay {OVERLAY}\n").repeat(500));
    let expected = format!("previous overlay {OVERLAY}");
    assert_eq!(replies.lines().skip(1).filter(|reply| **reply == expected).count(), 499);
}

#[test]
fn frame_gear_and_overlay_go_from_process_to_process() {
    let scratch = Scratch::new();
    let mut first = camera(&scratch, "first", &STILL);
    nc(&first.socket, format!("set_frame 137\nset_gear reverse\nset_overlay {OVERLAY}\n"));
    let mut second = successor(&scratch, "second", &first.socket);
    assert!(first.ended().0.success());
    second.wait_for(&format!("Adopting 137 reverse {OVERLAY} and 0 clients from"));
    assert_state(&second, "137", "reverse", OVERLAY);

    second.signal(Signal::KILL);
    second.ended();
    let third = camera(&scratch, "third", &STILL);
    third.wait_for(&format!("Recovering at 137 reverse {OVERLAY} from"));
    assert_state(&third, "137", "reverse", OVERLAY);
}

#[test]
fn the_older_line_returns_the_whole_state() {
    let scratch = Scratch::new();
    let mut daemon = camera(&scratch, "camera", &STILL);
    let reply = nc(&daemon.socket, "set_gear reverse\nget_camera_and_terminate\n");
    assert_eq!(reply, "previous gear drive\n0 reverse rear\n");
    daemon.wait_for("Returning camera to client and terminating the process");
    assert!(daemon.ended().0.success());
}

#[test]
fn a_frame_is_logged_as_one_with_its_gear() {
    let scratch = Scratch::new();
    let daemon = camera(&scratch, "camera", &["--timer-delay-ms", "10"]);
    daemon.wait_for("Frame 1, drive");
    nc(&daemon.socket, "set_frame 1000\nset_gear reverse\n");
    let change = daemon.wait_for("Continuing at frame 1000, previous frame ");
    assert!(change.message.ends_with(", in reverse as rear"), "{change:?}");
    daemon.wait_for("Frame 1001, reverse");
}
