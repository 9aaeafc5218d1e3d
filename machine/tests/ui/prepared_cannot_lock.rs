// SPDX-License-Identifier: Apache-2.0
//! A prepared process has a copy of the lock and does not wait for another one.

use early_service_machine::lifecycle::{Adopting, Asking, Ours, Prepared, Theirs};

fn step(adopting: Adopting<Prepared<Theirs>>) -> Adopting<Asking<Ours>> {
    adopting.lock() //~ error[E0599]: no method named `lock`
}
