// SPDX-License-Identifier: Apache-2.0
//! Whoever hands over goes back to serving, or ends; it does not ask for what it gives.

use early_service_machine::lifecycle::{Adopting, Draining};

fn step(draining: Draining) -> Adopting {
    draining.adopt() //~ error[E0599]: no method named `adopt`
}
