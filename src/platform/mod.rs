// SPDX-License-Identifier: Apache-2.0
//! What the process needs of the kernel and of PID 1: no decision is made here.

pub(crate) mod clock;
pub(crate) mod descriptors;
pub(crate) mod files;
pub(crate) mod notify;
pub(crate) mod signals;
pub(crate) mod socket;
pub(crate) mod switch_root;
