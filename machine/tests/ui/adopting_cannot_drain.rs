// SPDX-License-Identifier: Apache-2.0
//! What is still awaited from a predecessor cannot be promised to a successor.

use early_service_machine::lifecycle::{Adopting, Draining};

fn step(adopting: Adopting) -> Draining {
    adopting.drain() //~ error[E0599]: no method named `drain`
}
