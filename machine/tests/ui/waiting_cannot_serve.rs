// SPDX-License-Identifier: Apache-2.0
//! A process that does not know who holds the lock cannot become the owner.

use early_service_machine::lifecycle::{Adopting, Serving, Waiting};

fn step(adopting: Adopting<Waiting>) -> Serving {
    adopting.serve() //~ error[E0599]: no method named `serve`
}
