// SPDX-License-Identifier: Apache-2.0
//! A process is in one phase at a time: serving twice would be owning twice.

use early_service_machine::lifecycle::{Booting, Serving};

fn step(booting: Booting) -> (Serving, Serving) {
    (booting.serve(), booting.serve()) //~ error[E0382]: use of moved value: `booting`
}
