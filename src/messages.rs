// SPDX-License-Identifier: Apache-2.0
//! Mailboxes: all messages from one actor to another.
//!
//! Each mailbox has room for all messages that can be in flight to its owner at once. So sending
//! never waits, and actors cannot wait for each other in a cycle.
//!
//! | to | message | from |
//! | --- | --- | --- |
//! | supervisor | `lifecycle::Event` | ticker, handoff, signals |
//! | ticker | [`ToTicker`], [`Question`] | server, handoff, device; device |
//! | server | [`ToServer`] | supervisor, ticker, handoff |
//! | handoff | [`ToHandoff`] | supervisor, ticker, server |
//! | device, if there is one | [`ToDevice`] | server, handoff |
//!
//! Two queues are not mailboxes of actors; their owners define them:
//!
//! | queue | holds | capacity |
//! | --- | --- | --- |
//! | `ready` of the [`server`](crate::server) | the slots of sessions that can continue | every slot; a slot is in it once at most |
//! | [`journal::queue`](crate::journal::queue) | log records | 256 slots; records that do not fit are dropped and counted |
//!
//! Two values are shared instead of sent:
//!
//! | shared | written by | read by | why it is not a message |
//! | --- | --- | --- | --- |
//! | [`Status`](crate::status::Status), an `Rc` from [`startup`](crate::startup) | handoff, server | server, supervisor | it changes with each client, and is read much less often |
//! | [`LOG`](crate::journal::LOG), a static | every thread that logs; the log's writer; the supervisor | the log's writer, ticker, server | the crate `log` takes one logger for the process, and a thread that logs must not wait |

use std::marker::PhantomData;
use std::mem::ManuallyDrop;
use std::os::unix::net::UnixStream;

use async_channel::{Receiver, Sender, TrySendError};
use early_service_machine::lifecycle::takeover::{Origin, Start};
use early_service_machine::lifecycle::{Effect, Event};
use early_service_machine::record::Unlogged;
use early_service_machine::state::State;
use smol::Async;

use crate::handoff::bundle::{Bundle, Named};
use crate::handoff::channel::Peer;
use crate::handoff::request::HandoffRequest;
use crate::handoff::state_file::StateFile;
use crate::server::batch::Batch;
use crate::server::listener::Listener;
use crate::server::session::Session;
use crate::service::Service;

/// The maximum number of batches that are with the ticker at once. More: memory without a benefit,
/// because the ticker answers within microseconds. Fewer: the server waits for the ticker.
pub(crate) const IN_FLIGHT: usize = 16;

/// The maximum number of clients accepted in one turn of the server. Large enough to absorb a
/// burst, small enough not to delay a tick.
pub(crate) const ACCEPTS: usize = 16;

/// The maximum number of requests that wait for the handoff actor: those of one turn of the server.
/// Fewer: unauthorized requests could displace that of the successor.
pub(crate) const HANDOFF_REQUESTS: usize = ACCEPTS;

/// Orders that may be in flight besides the batches: load or listen, freeze, catch up first, one of
/// `Logged` and `Unlogged`, and leave; and one to spare.
const ORDERS: usize = 6;

/// Questions of the device that may wait for the ticker: the last one, and one for each message to
/// the device, because a message drops the device's future. More: memory without a benefit. Fewer:
/// a device whose future was dropped waits for the ticker, and if it is dropped again meanwhile, its
/// command is lost.
const QUESTIONS: usize = 8;

/// A message to the ticker.
pub(crate) enum ToTicker<S: Service> {
    /// From the handoff: continue the ticks from here.
    Load(Start<S>, Option<StateFile>),
    /// From the server: carry out the commands of one read.
    CarryOut { slot: usize, batch: Box<Batch<S>> },
    /// From the server, after the last batch: stop ticking, add the state and its file to the
    /// server's sockets, send the whole bundle to the handoff, and report that to the supervisor.
    Freeze(Bundle<S>),
    /// From the handoff, before `Freeze`: no tick may be due when the ticker freezes, because the
    /// successor does not know deadlines.
    CatchUpFirst,
    /// From the handoff: the predecessor died, and its last ticks before this state are not known
    /// to be in the log.
    Unlogged(S, Unlogged),
    /// From the handoff: the predecessor has logged all its ticks.
    Logged,
    /// From the server, after the last batch: stop ticking, and leave.
    Leave,
}

/// A question of the device: execute the command, if there is one, and answer with the state.
pub(crate) struct Question<S: Service> {
    pub(crate) command: Option<S::Command>,
    /// Has room for the only answer. The other end is closed if the device's future was dropped.
    pub(crate) answer: Sender<Answer<S>>,
}

/// The state, and the reply to the command.
pub(crate) type Answer<S> = (S, Option<<S as State>::Reply>);

/// From the device to the ticker, which takes a question only when no tick is due. So the device
/// may wait here, and the ticker never waits for the device.
pub(crate) fn questions<S: Service>() -> (Sender<Question<S>>, Receiver<Question<S>>) {
    async_channel::bounded(QUESTIONS)
}

/// A message to the device.
pub(crate) enum ToDevice<S: Service> {
    /// From the handoff: another process is the owner.
    HeldElsewhere,
    /// From the handoff: the process is the owner, with this state and these descriptors.
    Owned { origin: Origin, predecessor_leaves: bool, state: S, named: Vec<Named> },
    /// From the handoff: the predecessor has left.
    PredecessorLeft,
    /// From the server, after the last batch: stop using the device, add copies of its descriptors
    /// to the server's sockets, and have the ticker freeze.
    Freeze(Bundle<S>),
    /// From the handoff: the bundle is about to be offered.
    Offered,
    /// From the handoff: the successor is about to become the owner.
    Committed,
    /// From the server, after the last batch: close the device, have the ticker leave, and leave.
    Leave,
}

/// What only a service with a device has, such as the way to the device.
///
/// The compiler leaves out of a service without descriptors what is done with it. That includes its
/// destructor, which would otherwise be in every service: so this value is dropped by hand.
pub(crate) struct OfDevice<S: Service, T>(ManuallyDrop<Option<T>>, PhantomData<S>);

impl<S: Service, T> OfDevice<S, T> {
    const EXISTS: bool = !S::DESCRIPTORS.is_empty();

    pub(crate) const fn new(value: Option<T>) -> Self {
        Self(ManuallyDrop::new(value), PhantomData)
    }

    /// The value, if there is a device.
    pub(crate) fn get(&self) -> Option<&T> {
        if Self::EXISTS { self.0.as_ref() } else { None }
    }

    /// The value, to change it.
    pub(crate) fn get_mut(&mut self) -> Option<&mut T> {
        if Self::EXISTS { self.0.as_mut() } else { None }
    }
}

impl<S: Service, T> Drop for OfDevice<S, T> {
    fn drop(&mut self) {
        if Self::EXISTS {
            *self.0 = None;
        }
    }
}

/// The device's mailbox: one message of each kind.
pub(crate) fn to_device<S: Service>() -> (Sender<ToDevice<S>>, Receiver<ToDevice<S>>) {
    async_channel::bounded(7)
}

/// The ticker's mailbox: every batch and the orders.
pub(crate) fn to_ticker<S: Service>() -> (Sender<ToTicker<S>>, Receiver<ToTicker<S>>) {
    async_channel::bounded(IN_FLIGHT + ORDERS)
}

/// A message to the server.
pub(crate) enum ToServer<S: Service> {
    /// From the handoff: accept and answer clients on these sockets.
    #[allow(clippy::vec_box, reason = "as in the bundle")]
    Listen(Vec<Listener>, Vec<Box<Session<S>>>),
    /// From the supervisor: stop; once every batch has returned, have the ticker freeze with the
    /// sockets.
    Freeze,
    /// From the handoff: the predecessor has left, so no client can connect to its listeners now.
    PredecessorLeft,
    /// From the ticker: the batch of this slot, with its replies, or with its commands if due ticks
    /// must come first.
    BatchDone { slot: usize, batch: Box<Batch<S>> },
    /// From the ticker: no tick is due any more, so it executes commands again.
    CaughtUp,
    /// From the handoff: continue the session of a client whose reload has failed.
    Resume(Box<Session<S>>),
    /// From the supervisor: accept no client and read nothing more, send the replies of the batches
    /// in flight, have the ticker leave, and leave.
    Leave,
}

/// The server's mailbox: every batch, a `CaughtUp` for each that was returned with its commands,
/// and the orders.
pub(crate) fn to_server<S: Service>() -> (Sender<ToServer<S>>, Receiver<ToServer<S>>) {
    async_channel::bounded(2 * IN_FLIGHT + ORDERS)
}

/// A message to the handoff actor.
pub(crate) enum ToHandoff<S: Service> {
    /// From the supervisor.
    Order(Effect),
    /// From the server: the client on this connection requested the state; with the owner of the
    /// socket file to which the client connected.
    Requested(Async<UnixStream>, HandoffRequest, Option<u32>),
    /// From the server: this client asks for a reload; with the owner of the socket file to which
    /// it connected.
    Reload(Box<Session<S>>, Option<u32>),
    /// From the ticker, freezing: everything that this process owns.
    Frozen(Bundle<S>),
}

/// The handoff actor's mailbox: the requests, the orders of two steps of the lifecycle, and the
/// frozen bundle.
pub(crate) fn to_handoff<S: Service>() -> (Sender<ToHandoff<S>>, Receiver<ToHandoff<S>>) {
    async_channel::bounded(HANDOFF_REQUESTS + 2 * 3 + 1)
}

/// The supervisor's mailbox, for the reports of the actors.
///
/// Five reports of the handoff actor: at most two about the lock, one about the other process until
/// an order follows, and two requests, before and after that report. One of the ticker, which
/// freezes once for each request. One of the signals, which report once.
pub(crate) fn to_supervisor() -> (Sender<Event>, Receiver<Event>) {
    async_channel::bounded(7)
}

/// From the signals to the supervisor: PID 1 has continued the process (SIGCONT). One is enough,
/// because a second one would ask for the same look at PID 1's root.
pub(crate) fn continued() -> (Sender<()>, Receiver<()>) {
    async_channel::bounded(1)
}

/// Nothing is ever sent; the channel closes once the ticker and the handoff actor have dropped
/// their senders, and the lock before that.
pub(crate) fn done() -> (Sender<()>, Receiver<()>) {
    async_channel::bounded(1)
}

/// From the handoff actor to the end of [`startup`](crate::startup): the only successor, which
/// waits until the log is written.
pub(crate) fn log_flushed() -> (Sender<Peer>, Receiver<Peer>) {
    async_channel::bounded(1)
}

/// Sends `message`; it is lost if the actor has left, because then the process ends.
///
/// # Panics
///
/// If the mailbox is full. A full mailbox means that a capacity in this file is wrong; load cannot
/// cause it.
pub(crate) fn post<M>(to: &Sender<M>, message: M) {
    let is_full = matches!(to.try_send(message), Err(TrySendError::Full(_)));
    assert!(!is_full, "a mailbox has room for all messages in flight to its owner");
}
