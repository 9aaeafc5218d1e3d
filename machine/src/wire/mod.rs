// SPDX-License-Identifier: Apache-2.0
//! Everything that is read from a socket or a file, and written to one: lines and their fields.

pub mod command;
pub mod fields;
pub mod handoff;
