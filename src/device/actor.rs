// SPDX-License-Identifier: Apache-2.0
//! Device actor: opens, uses, keeps and closes the device.
//!
//! Owns the device or its luggage. Never decides:
//! [`machine::device`](early_service_machine::device) decides the effects of an event, and the
//! lifecycle decides which process is the owner. Ends with the process.
//!
//! **Invariant:** a freeze stops the device before the state: `run` is dropped first, and the
//! ticker executes the commands that the device sent before the ticker freezes.

use std::io;
use std::iter;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;
use std::time::Duration;

use async_channel::{Receiver, Sender};
use early_service_machine::device::{Device as Phase, Effect, Event as Step, Kind, Need};
use futures_lite::future;
use smol::Timer;

use crate::device::{Device, Luggage, Port};
use crate::handoff::bundle::Named;
use crate::journal::message_id::Id;
use crate::messages::{Question, ToDevice, ToTicker, post};
use crate::platform::{descriptors, notify};
use crate::service::Service;
use crate::status::Status;
use crate::trial::clock::Clock;

/// The pause before copies are sent to PID 1's store again, if its queue was full.
///
/// Longer: a crash meanwhile closes the device. Shorter: PID 1 has no time to read.
const STORE_AGAIN: Duration = Duration::from_millis(100);

/// The parts of the actor.
pub(crate) struct Parts<S: Service> {
    pub(crate) mailbox: Receiver<ToDevice<S>>,
    pub(crate) ticker: Sender<ToTicker<S>>,
    pub(crate) questions: Sender<Question<S>>,
    /// Dropped when the actor has left.
    pub(crate) done_guard: Sender<()>,
    pub(crate) status: Rc<Status>,
    pub(crate) status_changed: Sender<()>,
    /// The descriptors that PID 1's store returned.
    pub(crate) stored: Vec<Named>,
    /// The clock of a trial, if this is one.
    pub(crate) trial: Option<Rc<Clock>>,
}

/// The actor.
pub(crate) struct Actor<D: Device> {
    mailbox: Receiver<ToDevice<D::Service>>,
    ticker: Sender<ToTicker<D::Service>>,
    port: Port<D::Service>,
    done_guard: Sender<()>,
    phase: Phase,
    hardware: Hardware<D>,
    /// The state with which the device is to be used.
    state: D::Service,
    /// Whether the predecessor has committed and not left yet.
    predecessor_leaves: bool,
    store: Store,
}

/// Orders for PID 1's store that it has not received yet, and the time of the next attempt.
struct Store {
    /// Names of which it is to remove what it has.
    removed: Vec<&'static str>,
    /// Copies that it is to keep, after that.
    unstored: Vec<Named>,
    again: Timer,
}

enum Hardware<D: Device> {
    None,
    Luggage(D::Luggage),
    Device(D),
}

enum Event<D: Device> {
    Message(ToDevice<D::Service>),
    Opened(D::Luggage, D::Service),
    Failed(io::Error),
}

impl<D: Device> Actor<D> {
    pub(crate) fn new(parts: Parts<D::Service>) -> Self {
        let Parts { mailbox, ticker, questions, done_guard, status, status_changed, stored, trial } =
            parts;
        let port = Port { questions, status, status_changed, trial };
        let mut actor = Self {
            mailbox,
            ticker,
            port,
            done_guard,
            phase: Phase::default(),
            hardware: Hardware::None,
            state: D::Service::default(),
            predecessor_leaves: false,
            store: Store { removed: Vec::new(), unstored: Vec::new(), again: Timer::never() },
        };
        actor.receive(stored, "PID 1's store");
        actor
    }

    pub(crate) async fn run(mut self) {
        while let Some(event) = self.next_event().await {
            match event {
                Event::Message(ToDevice::Leave) => {
                    let predecessor_leaves = self.predecessor_leaves;
                    let is_replaced = self.port.status.is_replaced.get();
                    self.step(Step::Ended { predecessor_leaves, is_replaced });
                    post(&self.ticker, ToTicker::Leave);
                    return drop(self.done_guard);
                }
                Event::Message(message) => self.handle(message),
                Event::Opened(luggage, state) => {
                    log::info!("Opened the device");
                    (self.hardware, self.state) = (Hardware::Luggage(luggage), state);
                    self.step(Step::Opened);
                }
                Event::Failed(error) => self.failed(&error),
            }
        }
    }

    /// Waits for the next event; `None` if no sender is left.
    ///
    /// Messages come first, so that a freeze does not wait for the device.
    async fn next_event(&mut self) -> Option<Event<D>> {
        let message = async { self.mailbox.recv().await.ok().map(Event::Message) };
        let device = async {
            match (&mut self.hardware, self.phase) {
                (Hardware::Device(device), _) => {
                    let Err(error) = device.run(&self.port).await;
                    Event::Failed(error)
                }
                (Hardware::None, Phase::Opening(need)) => open::<D>(need, &self.port).await,
                (Hardware::Luggage(luggage), Phase::Frozen | Phase::Lent | Phase::Given) => {
                    while let Some(again) = D::keep_alive(luggage, self.port.now()) {
                        self.port.until(again).await;
                    }
                    future::pending().await
                }
                _ => future::pending().await,
            }
        };
        let store = self.store.repeat();
        future::or(message, async { Some(future::or(store, device).await) }).await
    }

    fn handle(&mut self, message: ToDevice<D::Service>) {
        match message {
            ToDevice::HeldElsewhere => self.step(Step::Discarded),
            ToDevice::Owned { origin, predecessor_leaves, state, named } => {
                (self.state, self.predecessor_leaves) = (state, predecessor_leaves);
                self.receive(named, "the predecessor");
                self.step(Step::Owned { origin, predecessor_leaves });
            }
            ToDevice::PredecessorLeft => {
                self.predecessor_leaves = false;
                self.step(Step::PredecessorLeft);
            }
            ToDevice::Freeze(mut bundle) => {
                self.step(Step::Frozen);
                match self.copies() {
                    Ok(named) => bundle.named = named,
                    Err(error) => bundle.incomplete = Some(error),
                }
                post(&self.ticker, ToTicker::Freeze(bundle));
            }
            ToDevice::Offered => self.step(Step::Offered),
            ToDevice::Committed => self.step(Step::Committed),
            ToDevice::Leave => {}
        }
    }

    /// Takes the descriptors of another process, unless this one has the device.
    fn receive(&mut self, named: Vec<Named>, from: &str) {
        let has_own = matches!(self.phase, Phase::Frozen | Phase::Lent | Phase::Given);
        if named.is_empty() || has_own {
            return;
        }
        match accept::<D>(named) {
            Ok(luggage) => {
                self.hardware = Hardware::Luggage(luggage);
                self.step(Step::Received);
            }
            Err(why) => log::warn!("cannot use the device from {from}: {why}; opening it again"),
        }
    }

    fn failed(&mut self, error: &io::Error) {
        if self.port.status.device_failed(error) {
            log::warn!(
                MESSAGE_ID = Id::DeviceFails;
                "cannot use the device: {error}; opening it until that succeeds"
            );
            let _ = self.port.status_changed.try_send(());
        }
        self.step(Step::Failed { predecessor_leaves: self.predecessor_leaves });
    }

    /// Executes the effects of an event.
    fn step(&mut self, event: Step) {
        let (phase, effects) = self.phase.step(event);
        self.phase = phase;
        for effect in effects {
            match effect {
                // The phase shows that it is to be opened.
                Effect::Open => {}
                Effect::Thaw => self.thaw(),
                Effect::Store => {
                    self.store.unstored = self.copies().unwrap_or_else(|error| {
                        log::warn!("PID 1 does not keep the device: {error}");
                        Vec::new()
                    });
                    self.store.send();
                }
                Effect::Freeze => {
                    self.replace(|hardware| match hardware {
                        Hardware::Device(device) => Hardware::Luggage(device.freeze()),
                        other => other,
                    });
                }
                Effect::Close => self.hardware = Hardware::None,
                Effect::Unstore => {
                    self.store.unstored.clear();
                    self.store.removed = names::<D>().collect();
                    self.store.send();
                }
                Effect::Release => self.replace(|hardware| {
                    if let Hardware::Luggage(luggage) = hardware {
                        D::release(luggage);
                    }
                    Hardware::None
                }),
            }
        }
        self.port.status.device.set(Some(self.phase));
    }

    fn thaw(&mut self) {
        let (state, now) = (self.state, self.port.now());
        self.replace(|hardware| match hardware {
            Hardware::Luggage(luggage) => Hardware::Device(D::thaw(luggage, &state, now)),
            other => other,
        });
        self.port.health(Ok(()));
    }

    fn replace(&mut self, change: impl FnOnce(Hardware<D>) -> Hardware<D>) {
        self.hardware = change(std::mem::replace(&mut self.hardware, Hardware::None));
    }

    /// Copies of the descriptors for a successor; none if the device is not open.
    fn copies(&self) -> Result<Vec<Named>, io::Error> {
        let Hardware::Luggage(luggage) = &self.hardware else { return Ok(Vec::new()) };
        let copy = |(name, descriptor): (&str, BorrowedFd<'_>)| {
            Ok(Named { name: name.to_owned(), descriptor: descriptor.try_clone_to_owned()? })
        };
        names::<D>().zip(luggage.lend()).map(copy).collect()
    }
}

impl Store {
    /// Sends the orders to PID 1.
    fn send(&mut self) {
        self.again.clear();
        self.removed.retain(|name| !notify::unstore(name));
        if self.removed.is_empty() {
            self.unstored.retain(|named| !notify::store(&named.name, &named.descriptor));
        }
        if !(self.removed.is_empty() && self.unstored.is_empty()) {
            self.again.set_after(STORE_AGAIN);
        }
    }

    /// Sends them again, while PID 1's queue is full, without interrupting the device.
    async fn repeat<T>(&mut self) -> T {
        loop {
            (&mut self.again).await;
            self.send();
        }
    }
}

/// Opens the device after the pause of its need.
async fn open<D: Device>(need: Need, port: &Port<D::Service>) -> Event<D> {
    let pause = need.pause_ms();
    if pause > 0 {
        port.until(port.now().after_nanos(pause * 1_000_000)).await;
    }
    let opened = D::acquire(need, port).await.and_then(|luggage| {
        check::<D>(names::<D>().zip(luggage.lend())).map_err(io::Error::other)?;
        Ok(luggage)
    });
    match opened {
        Ok(luggage) => Event::Opened(luggage, port.state().await),
        Err(error) => Event::Failed(error),
    }
}

/// The names of the descriptors, in their order.
pub(crate) fn names<D: Device>() -> impl Iterator<Item = &'static str> {
    <D::Service as Service>::DESCRIPTORS.split(',')
}

/// Sorts descriptors by their names, and checks them.
fn accept<D: Device>(mut named: Vec<Named>) -> Result<D::Luggage, String> {
    let take = |name: &str| -> Result<OwnedFd, String> {
        let at = named.iter().position(|named| named.name == name);
        let at = at.ok_or_else(|| format!("the descriptor '{name}' is missing"))?;
        Ok(named.swap_remove(at).descriptor)
    };
    let descriptors = names::<D>().map(take).collect::<Result<Vec<_>, _>>()?;
    check::<D>(names::<D>().zip(descriptors.iter().map(AsFd::as_fd)))?;
    D::Luggage::accept(descriptors)
}

/// Checks that each descriptor is of the kind that the device states.
fn check<'a, D: Device>(
    descriptors: impl Iterator<Item = (&'static str, BorrowedFd<'a>)>,
) -> Result<(), String> {
    let kinds = D::KINDS.iter().chain(iter::repeat(&Kind::Any));
    for ((name, descriptor), expected) in descriptors.zip(kinds) {
        let found = descriptors::kind(descriptor)
            .map_err(|error| format!("cannot examine the descriptor '{name}': {error}"))?;
        if !expected.admits(found) {
            return Err(format!("the descriptor '{name}' is {found}, not {expected}"));
        }
    }
    Ok(())
}
