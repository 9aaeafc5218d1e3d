// SPDX-License-Identifier: Apache-2.0
//! Actors that have been told to stop first confirm it: one may have stopped already.

use early_service_machine::lifecycle::{Draining, Freezing, Serving};

fn step(draining: Draining<Freezing>) -> Serving {
    draining.serve() //~ error[E0599]: no method named `serve`
}
