// SPDX-License-Identifier: Apache-2.0
//! After the end of a handoff nobody goes back to serving.

use early_service_machine::lifecycle::{Draining, Ended, Serving};

fn step(draining: Draining) -> (Ended, Serving) {
    (draining.end(), draining.serve()) //~ error[E0382]: use of moved value: `draining`
}
