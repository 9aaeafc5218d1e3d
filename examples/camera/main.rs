// SPDX-License-Identifier: Apache-2.0
//! Example of a state other than the counter: a rear-view camera.
//!
//! The camera counts its frames, knows whether the gear is in reverse, and shows a text over the
//! picture. A service of your own needs these two files:
//!
//! | file | what it has | compare with |
//! | --- | --- | --- |
//! | [`state`] | the state, its commands and replies | `machine/src/counter.rs` |
//! | [`words`] | its texts for people and the journal | `src/counter.rs` |
//!
//! ```console
//! $ cargo run --example camera -- --server-socket-path /tmp/camera.sock &
//! $ printf 'set_gear reverse\nstatus\n' | nc -NU /tmp/camera.sock
//! ```

mod state;
mod words;

early_service::main!(state::Camera);
