// SPDX-License-Identifier: Apache-2.0
//! The program `early-service`: counts from the initrd on, and hands the count to the root
//! filesystem.

use early_service_machine::Counter;

mod no_unwinder;

early_service::main!(Counter);
