// SPDX-License-Identifier: Apache-2.0
//! A copy of a phase would be a second owner.

use early_service_machine::lifecycle::Serving;

fn step(serving: Serving) -> (Serving, Serving) {
    (serving, serving) //~ error[E0382]: use of moved value: `serving`
}
