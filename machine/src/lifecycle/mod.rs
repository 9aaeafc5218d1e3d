// SPDX-License-Identifier: Apache-2.0
//! Lifecycle: who owns the state, and when a process serves, hands over or leaves.
//!
//! The same program runs twice in one boot. The *predecessor* hands over, the *successor* adopts.
//! The *owner* is the process that may tick and answer clients.
//!
//! Responsible for every decision about ownership. [`Lifecycle::step`] is its only entry: it takes
//! an event and returns the next phase and the effects to carry out, in this order. Never contains
//! the state of the service. The last phase is [`Ended`].
//!
//! | module | contents |
//! | --- | --- |
//! | `event` | [`Event`] and [`Effect`] |
//! | `phases` | the phases as types, and the transitions that each allows |
//! | `step` | [`Lifecycle`]: the phase and the effects that follow from each event |
//! | [`takeover`] | with which state a new owner continues |
//!
//! # Ownership
//!
//! Ownership is the lock on the state file, which always contains the current state. The lock
//! belongs to the open file description (flock(2)), and the predecessor sends a descriptor of it
//! with the state. The lock is therefore held without a gap while one of the two processes or the
//! message between them exists. A process that becomes the owner holds the lock first and then
//! loads the state.
//!
//! No effect saves the state. The owner writes each change to the file before any process can see
//! it, and a process that is not the owner has nothing to save.
//!
//! **Invariant:** a process ticks only in Serving and Draining (freezing), and answers clients only
//! in Serving. It enters Serving only with the lock, and with the orders to load the state and to
//! listen.
//!
//! **Invariant:** after the order to commit, only the end of the successor makes the predecessor
//! the owner again. No timeout does.
//!
//! The legacy protocol cannot keep these promises. If a successor dies before it reads the state
//! that was sent to it, the state and its clients are lost. If a successor gives up on a legacy
//! predecessor that is only stopped, both are owners.
//!
//! # Transitions
//!
#![doc = include_str!("transitions.md")]

mod event;
mod phases;
mod step;
pub mod takeover;

pub use event::{Effect, Event, Local, Lock, Predecessor, Successor};
pub use phases::{
    Adopting, Asking, Booting, Called, Committed, Draining, Ended, Freezing, Offered, Ours, Phase,
    Prepared, Serving, Theirs, Waiting,
};
pub use step::{Lifecycle, Outcome};
