// SPDX-License-Identifier: Apache-2.0
//! Ownership is transferred once.

use early_service_machine::lifecycle::{Committed, Draining};

fn step(draining: Draining<Committed>) -> Draining<Committed> {
    draining.commit() //~ error[E0599]: no method named `commit`
}
