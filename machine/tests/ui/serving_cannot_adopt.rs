// SPDX-License-Identifier: Apache-2.0
//! An owner requests the state from nobody: there would be two owners.

use early_service_machine::lifecycle::{Adopting, Serving, Waiting};

fn step(serving: Serving) -> Adopting<Waiting> {
    serving.adopt() //~ error[E0599]: no method named `adopt`
}
