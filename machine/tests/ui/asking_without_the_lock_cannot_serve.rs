// SPDX-License-Identifier: Apache-2.0
//! While the predecessor holds the lock, only its commit or its death makes another owner.

use early_service_machine::lifecycle::{Adopting, Asking, Serving, Theirs};

fn step(adopting: Adopting<Asking<Theirs>>) -> Serving {
    adopting.serve() //~ error[E0599]: no method named `serve`
}
