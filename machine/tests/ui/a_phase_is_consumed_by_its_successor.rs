// SPDX-License-Identifier: Apache-2.0
//! One process is in one phase: to serve twice would be to own twice.

use early_service_machine::lifecycle::{Booting, Serving};

fn step(booting: Booting) -> (Serving, Serving) {
    (booting.serve(), booting.serve()) //~ error[E0382]: use of moved value: `booting`
}
