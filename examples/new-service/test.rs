// SPDX-License-Identifier: Apache-2.0
//! Two processes of the service, one of which is killed or stopped at each step of a handoff.

use std::process::Command;

use early_service_trial::{Words, faults};

#[test]
fn the_count_survives_a_fault_at_each_step_of_a_handoff() {
    let program = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_@NAME@"));
        // No tick changes the count.
        command.args(["--timer-delay-ms", "3600000"]);
        command
    };
    // The reply to `0` is the count.
    faults(program, Words { change: "5", ask: "0" }).expect("a service that survives");
}
