// SPDX-License-Identifier: Apache-2.0
//! A state that was not offered cannot be committed.

use early_service_machine::lifecycle::{Committed, Draining, Freezing};

fn step(draining: Draining<Freezing>) -> Draining<Committed> {
    draining.commit() //~ error[E0599]: no method named `commit`
}
