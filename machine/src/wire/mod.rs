// SPDX-License-Identifier: Apache-2.0
//! Wire: the lines that are read from sockets and written to them, and their fields.

pub mod command;
pub mod fields;
pub mod framing;
pub mod handoff;
pub mod legacy;
pub mod manifest;
pub mod request;
pub mod service;
