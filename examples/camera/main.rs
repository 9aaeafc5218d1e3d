// SPDX-License-Identifier: Apache-2.0
//! Camera: another service than the counter, carried through the boot by the same program.
//!
//! A rear-view camera counts its frames, knows whether the gear is in reverse, and lays a text over
//! the picture.
//!
//! | file | says | mirrors |
//! | --- | --- | --- |
//! | [`state`] | what the state is, its commands and replies | `machine/src/counter.rs` |
//! | [`words`] | what people and the journal see of it | `src/counter.rs` |
//!
//! ```console
//! $ cargo run --example camera -- --server-socket-path /tmp/camera.sock &
//! $ printf 'set_gear reverse\nstatus\n' | nc -NU /tmp/camera.sock
//! ```

mod state;
mod words;

use std::process::ExitCode;

fn main() -> ExitCode {
    early_service::main::<state::Camera>()
}
