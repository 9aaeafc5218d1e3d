// SPDX-License-Identifier: Apache-2.0
//! An owner does not ask anybody for the state: there would be two of them.

use early_service_machine::lifecycle::{Adopting, Serving};

fn step(serving: Serving) -> Adopting {
    serving.adopt() //~ error[E0599]: no method named `adopt`
}
