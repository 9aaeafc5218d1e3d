// SPDX-License-Identifier: Apache-2.0
//! A state that is still expected from a predecessor cannot be promised to a successor.

use early_service_machine::lifecycle::{Adopting, Draining, Freezing, Ours, Prepared};

fn step(adopting: Adopting<Prepared<Ours>>) -> Draining<Freezing> {
    adopting.freeze() //~ error[E0599]: no method named `freeze`
}
