// SPDX-License-Identifier: Apache-2.0
//! Interfaces to the kernel and to PID 1; nothing here decides.

pub(crate) mod clock;
pub(crate) mod descriptors;
pub(crate) mod files;
pub(crate) mod notify;
pub(crate) mod signals;
pub(crate) mod socket;
pub(crate) mod switch_root;
