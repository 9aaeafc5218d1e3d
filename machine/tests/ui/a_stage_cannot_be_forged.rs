// SPDX-License-Identifier: Apache-2.0
//! A stage alone is not a phase: only a transition makes a phase of it.

use early_service_machine::lifecycle::{Adopting, Asking, Ours};

fn step(asking: Asking<Ours>) -> Adopting<Asking<Ours>> {
    Adopting(asking) //~ error[E0423]: cannot initialize a tuple struct which contains private fields
}
