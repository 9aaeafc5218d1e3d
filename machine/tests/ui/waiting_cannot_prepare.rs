// SPDX-License-Identifier: Apache-2.0
//! A process that has asked nobody has nothing to prepare.

use early_service_machine::lifecycle::{Adopting, Ours, Prepared, Waiting};

fn step(adopting: Adopting<Waiting>) -> Adopting<Prepared<Ours>> {
    adopting.prepare() //~ error[E0599]: no method named `prepare`
}
