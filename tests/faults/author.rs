// SPDX-License-Identifier: Apache-2.0
//! Author: `early-service-trial`, with the counter in the place of an author's program.

use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

use early_service_trial::{Words, faults};
use testkit::build;
use testkit::daemon::STILL;

fn counter() -> Command {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    let build = || build::daemon().unwrap_or_else(|error| panic!("{error}"));
    let mut command = Command::new(PROGRAM.get_or_init(build));
    command.args(STILL);
    command
}

#[test]
fn the_counter_passes_the_trial_of_an_author() {
    let words = Words { change: "set_counter 1000", ask: "get_counter" };
    assert_eq!(faults(counter, words), Ok(48));
}

#[test]
fn a_trial_finds_a_program_that_forgets_or_does_not_serve() {
    // `status` has the process id.
    let differs = faults(counter, Words { change: "", ask: "status" }).expect_err("it differs");
    assert!(differs.contains("the reply to \"status\" was"), "{differs}");
    assert!(differs.contains("booting => serving"), "without the log: {differs}");
    let program = || {
        let mut command = Command::new("sh");
        // The argument of `--state-file`.
        let script = r#"rm -f "$6"; exec "$0" "$@""#;
        command.args(["-c", script]).arg(counter().get_program()).args(STILL);
        command
    };
    let words = Words { change: "set_counter 1000", ask: "get_counter" };
    let lost = faults(program, words).expect_err("it loses its state file");
    assert!(lost.contains("was \"1000\" and is \"0\""), "{lost}");
    let program = || Command::new("false");
    let ended = faults(program, Words { change: "", ask: "" }).expect_err("it ends");
    assert!(ended.contains("the first process has ended"), "{ended}");
}
