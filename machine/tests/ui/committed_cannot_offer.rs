// SPDX-License-Identifier: Apache-2.0
//! A state that has another owner cannot be offered again.

use early_service_machine::lifecycle::{Committed, Draining, Offered};

fn step(draining: Draining<Committed>) -> Draining<Offered> {
    draining.offer() //~ error[E0599]: no method named `offer`
}
