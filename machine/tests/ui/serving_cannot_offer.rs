// SPDX-License-Identifier: Apache-2.0
//! A state that still changes cannot be offered.

use early_service_machine::lifecycle::{Draining, Offered, Serving};

fn step(serving: Serving) -> Draining<Offered> {
    serving.offer() //~ error[E0599]: no method named `offer`
}
