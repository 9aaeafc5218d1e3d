// SPDX-License-Identifier: Apache-2.0
//! A process that owns nothing yet has nothing to hand over.

use early_service_machine::lifecycle::{Booting, Draining, Freezing};

fn step(booting: Booting) -> Draining<Freezing> {
    booting.freeze() //~ error[E0599]: no method named `freeze`
}
