// SPDX-License-Identifier: Apache-2.0
//! Nothing follows the end, not even a phase that can follow any other.

use early_service_machine::lifecycle::{Ended, Serving};

fn step(ended: Ended) -> Serving {
    ended.serve() //~ error[E0599]: no method named `serve`
}
