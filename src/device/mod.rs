// SPDX-License-Identifier: Apache-2.0
//! Device: the hardware of a service, which its owner uses from the initrd to power-off.
//!
//! A [`Device`] is the live half of a service: it feeds a watchdog, or answers on a bus. Its
//! descriptors, the [`Luggage`], travel: to the successor in a handoff, and to PID 1's store, which
//! returns them after a crash. [`main`] runs a service with a device; there is no cost for a
//! service without one.
//!
//! | what happens | called, in this order |
//! | --- | --- |
//! | the process is the first owner of this boot | [`acquire`](Device::acquire), `thaw`, `run` |
//! | it hands over | `run` is dropped, [`freeze`](Device::freeze), [`keep_alive`](Device::keep_alive) until its end |
//! | it adopts, also from PID 1's store | [`accept`](Luggage::accept), [`thaw`](Device::thaw), [`run`](Device::run) |
//! | its offer fails | `thaw`, `run` |
//! | the device fails | the luggage is dropped, `acquire` after a pause, `thaw`, `run` |
//! | the process is told to stop | `run` is dropped, `freeze`, [`release`](Device::release) |
//!
//! An error of `run` or `acquire` is shown by `status` and by `systemctl status`.

pub(crate) mod actor;
mod port;

use std::convert::Infallible;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::pin::Pin;
use std::process::ExitCode;

pub use early_service_machine::device::{Kind, Need};
pub use early_service_machine::schedule::Monotonic;

use crate::device::actor::{Actor, Parts};
pub use crate::device::port::Port;
use crate::service::Service;
use crate::startup;

/// The descriptors of a device, in the order of the names in
/// [`Service::DESCRIPTORS`].
pub trait Luggage: Sized + 'static {
    /// The descriptors.
    fn lend(&self) -> Vec<BorrowedFd<'_>>;

    /// Checks descriptors of another process, and takes them: one for each name.
    ///
    /// # Errors
    ///
    /// Returns why they do not fit the names, for example another device. The process then opens
    /// the device itself, as soon as no other process has it.
    fn accept(descriptors: Vec<OwnedFd>) -> Result<Self, String>;
}

/// A single file of any kind.
impl Luggage for File {
    fn lend(&self) -> Vec<BorrowedFd<'_>> {
        vec![self.as_fd()]
    }

    fn accept(descriptors: Vec<OwnedFd>) -> Result<Self, String> {
        let [descriptor] = <[OwnedFd; 1]>::try_from(descriptors)
            .map_err(|all| format!("{} descriptors in place of one", all.len()))?;
        Ok(descriptor.into())
    }
}

/// Hardware that a process uses while it is the owner.
///
/// All methods run on the thread that ticks and answers clients. None of them may block: that would
/// delay both. [`smol::Async`](https://docs.rs/smol) and [`Port::until`] wait without blocking.
#[allow(async_fn_in_trait, reason = "there is one thread, so the futures need not be Send")]
pub trait Device: Sized + 'static {
    /// The state and its texts. Its `DESCRIPTORS` name the [`Luggage`](Self::Luggage).
    type Service: Service;

    /// The descriptors that travel.
    type Luggage: Luggage;

    /// What each descriptor must be, in the order of the names in [`Service::DESCRIPTORS`]. By
    /// default none is checked.
    ///
    /// A descriptor of another kind is not used, wherever it comes from: [`acquire`](Self::acquire)
    /// has failed then, and a descriptor of another process is closed before
    /// [`accept`](Luggage::accept) is called.
    const KINDS: &'static [Kind] = &[];

    /// Opens the device. Called only while no other process of the service has it.
    ///
    /// # Errors
    ///
    /// Returns why it cannot be opened now, for example because its node does not exist yet. The
    /// next attempt follows after a pause of 100 ms, which doubles up to 3.2 s.
    async fn acquire(need: Need, port: &Port<Self::Service>) -> io::Result<Self::Luggage>;

    /// Begins to use the device, with the state at `now`.
    fn thaw(luggage: Self::Luggage, state: &Self::Service, now: Monotonic) -> Self;

    /// Uses the device until it fails: a loop, which `?` leaves.
    ///
    /// The future is dropped at an `.await` when the process hands over or ends, and may be called
    /// again on the same device. Data that must survive that belongs into `self` or the state.
    ///
    /// # Errors
    ///
    /// Returns why the device cannot be used any more. It is opened again then.
    async fn run(&mut self, port: &Port<Self::Service>) -> io::Result<Infallible>;

    /// Stops using the device.
    fn freeze(self) -> Self::Luggage;

    /// Keeps a device alive that is not used, because it is being handed over; returns when to do
    /// so again. By default it does nothing.
    fn keep_alive(luggage: &Self::Luggage, now: Monotonic) -> Option<Monotonic> {
        let _ = (luggage, now);
        None
    }

    /// Closes the device at an orderly end without a successor, as its driver requires. By default
    /// its descriptors are closed.
    fn release(luggage: Self::Luggage) {
        drop(luggage);
    }
}

/// Runs the whole program of a service with a device, as [`early_service::main`](fn@crate::main)
/// does for a service without one.
#[must_use]
pub fn main<D: Device>() -> ExitCode {
    const {
        assert!(
            !<D::Service as Service>::DESCRIPTORS.is_empty(),
            "a service with a device names its descriptors in DESCRIPTORS"
        );
        let mut names = 1;
        let mut rest = <D::Service as Service>::DESCRIPTORS.as_bytes();
        while let [byte, after @ ..] = rest {
            names += (*byte == b',') as usize;
            rest = after;
        }
        assert!(
            D::KINDS.is_empty() || D::KINDS.len() == names,
            "KINDS has another length than DESCRIPTORS"
        );
    }
    startup::run_program::<D::Service>(Some(|parts| Box::pin(Actor::<D>::new(parts).run())))
}

/// Makes the future of the actor.
pub(crate) type Start<S> = fn(Parts<S>) -> Pin<Box<dyn Future<Output = ()>>>;
