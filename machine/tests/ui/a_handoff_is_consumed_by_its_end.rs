// SPDX-License-Identifier: Apache-2.0
//! After the end of a handoff no process serves again.

use early_service_machine::lifecycle::{Committed, Draining, Ended, Serving};

fn step(draining: Draining<Committed>) -> (Ended, Serving) {
    (draining.end(), draining.serve()) //~ error[E0382]: use of moved value: `draining`
}
