// SPDX-License-Identifier: Apache-2.0
//! A process that hands over does not request the state that it has.

use early_service_machine::lifecycle::{Adopting, Draining, Offered, Waiting};

fn step(draining: Draining<Offered>) -> Adopting<Waiting> {
    draining.adopt() //~ error[E0599]: no method named `adopt`
}
