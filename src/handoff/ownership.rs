// SPDX-License-Identifier: Apache-2.0
//! Ownership: becoming the owner, offering the state, and withdrawing an offer.
//!
//! [`Handoff::load`] makes this process the owner, with the state that [`takeover`] chooses.
//! [`Handoff::offer`] sends everything to a successor, and [`Handoff::commit`] gives up ownership.
//! If the successor dies after that, [`Handoff::load`] takes everything back.
//!
//! The lifecycle calls each at the right time: `load` only with the lock, `commit` only after the
//! successor has everything. Never decides anything itself.

use early_service_machine::lifecycle::Successor;
use early_service_machine::lifecycle::takeover::{self, Origin, Start, Takeover};
use early_service_machine::record::Record;

use crate::handoff::Handoff;
use crate::handoff::channel::Peer;
use crate::handoff::leaving::Leaving;
use crate::handoff::receive::Adoption;
use crate::handoff::send::Offering;
use crate::handoff::state_file::StateFile;
use crate::journal::message_id::Id;
use crate::messages::{ToDevice, ToTicker, post};
use crate::platform::clock;
use crate::platform::notify;
use crate::service::Service;
use crate::status::Provenance;

impl<S: Service> Handoff<S> {
    /// Becomes the owner, and gives the ticker its state. Returns false if the file cannot be read
    /// now.
    pub(super) fn load(&mut self) -> bool {
        let is_taken_back = self.offering.is_some();
        let read = self.file().map(|file| {
            if is_taken_back {
                file.take_back()?;
            }
            file.load()
        });
        let recorded = match read.transpose() {
            // If the lock was received, this is the first read of the file.
            Ok(Some(Err(ignored)))
                if (is_taken_back || !self.locking.is_ours()) && ignored.is_impossible() =>
            {
                let path = self.file().map(|file| file.path().display().to_string());
                let path = path.unwrap_or_default();
                log::warn!(MESSAGE_ID = Id::StateIgnored; "Ignoring {path}: {ignored}");
                None
            }
            Ok(recorded) => recorded.and_then(Result::ok),
            Err(error) => {
                self.locking.say_again(&error);
                return false;
            }
        };
        let Takeover { start, origin } = match self.offering.take() {
            Some(offering) => {
                self.status.is_replaced.set(false);
                self.reload_failed(offering.cause());
                Takeover { start: self.take_back(&offering, recorded), origin: Origin::Recovered }
            }
            None => self.take_over(recorded),
        };
        let named = std::mem::take(&mut self.bundle.named);
        self.bundle.state = None;
        post(&self.ticker, ToTicker::Load(start, self.bundle.file.take()));
        self.tell_device(ToDevice::Owned {
            origin,
            predecessor_leaves: self.leaving.is_some(),
            state: start.state(),
            named,
        });
        true
    }

    /// The file that contains the state: locked by this process, or received from the predecessor.
    fn file(&mut self) -> Option<&mut StateFile> {
        if self.offering.is_some() {
            return self.bundle.file.as_mut();
        }
        let lent = self.adoption.as_mut().and_then(Adoption::file);
        lent.or(self.locking.file.as_mut())
    }

    /// Takes back an offer that a successor did not adopt, also after the commit. `recorded` is a
    /// record, and `true` if another process wrote it after this process last did.
    fn take_back(&self, offering: &Offering, recorded: Option<(Record<S>, bool)>) -> Start<S> {
        let (pid, cause) = (offering.pid(), offering.cause());
        log::warn!(
            MESSAGE_ID = Id::NotAdopted;
            "Process {pid} did not adopt the state: {cause}; serving on"
        );
        let written = recorded.filter(|(_, is_newer)| *is_newer).map(|(record, _)| record);
        match self.bundle.snapshot() {
            Some(frozen) => takeover::take_back(written, frozen),
            None => takeover::take_over(written, None, false).start,
        }
    }

    /// Becomes the owner for the first time, with the predecessor's state or the file's.
    fn take_over(&mut self, recorded: Option<(Record<S>, bool)>) -> Takeover<S> {
        let adoption = self.adoption.take();
        let is_committed = adoption.as_ref().is_some_and(Adoption::is_committed);
        let (mut received, peer) = adoption.map(Adoption::finish).unwrap_or_default();
        self.bundle.file = received.file.take().or(self.locking.file.take());
        let state = received.state.take();
        self.bundle.join(received);
        let recorded = recorded.map(|(record, _)| record);
        let takeover = takeover::take_over(recorded, state, is_committed);
        // A process that sent no state may not have been the owner.
        let predecessor = peer.as_ref().filter(|_| state.is_some()).and_then(Peer::pid);
        if let Start::After { snapshot, unlogged } = takeover.start {
            // Stores it before the predecessor leaves, which may have had no file.
            if let Some(file) = &mut self.bundle.file {
                file.store(snapshot, unlogged);
            }
            self.leaving = peer.map(|peer| Leaving::new(peer, snapshot.state, unlogged));
        }
        if self.leaving.is_none() {
            notify::speak();
        }
        let (since, is_kept) = (clock::now(), self.bundle.file.is_some());
        let origin = takeover.origin;
        self.status.provenance.set(Some(Provenance { origin, predecessor, since, is_kept }));
        takeover
    }

    /// Sends everything to the successor; this process remains the owner.
    pub(super) fn offer(&mut self) {
        let Some(offering) = self.offering.as_mut().filter(|_| self.bundle.state.is_some()) else {
            return self.report(Successor::Gone);
        };
        if let Some(error) = self.bundle.incomplete.take() {
            offering.failed(&error);
            offering.abort::<S>();
            return self.report(Successor::Gone);
        }
        if !offering.is_legacy() {
            offering.offer(&self.bundle);
            return self.tell_device(ToDevice::Offered);
        }
        log::info!("Returning {} to client and terminating the process", S::WHAT);
        let event = match offering.answer(&self.bundle) {
            Ok(()) => {
                // A legacy successor does not use the state file. Clears it, because the next start
                // would otherwise report a crash.
                if let Some(file) = &self.bundle.file {
                    file.withdraw();
                }
                Successor::TookLegacyState
            }
            Err(error) => {
                offering.failed(&error);
                Successor::Gone
            }
        };
        self.report(event);
    }

    /// Gives up ownership. Keeps everything in case the successor dies.
    pub(super) fn commit(&mut self) {
        if let Some(offering) = &mut self.offering {
            offering.commit::<S>();
        }
        if let Some(reload) = &mut self.reload {
            reload.committed();
        }
        self.status.is_replaced.set(self.reload.is_some());
        self.tell_device(ToDevice::Committed);
    }
}
