// SPDX-License-Identifier: Apache-2.0
//! Only a transition makes a phase: its field is private.

use early_service_machine::lifecycle::Serving;

fn step() -> Serving {
    Serving(()) //~ error[E0423]: cannot initialize a tuple struct which contains private fields
}
