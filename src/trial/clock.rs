// SPDX-License-Identifier: Apache-2.0
//! Clock of a trial, which stands still until the trial sets it.

use std::cell::Cell;
use std::future::poll_fn;
use std::task::Poll;

use early_service_machine::schedule::Monotonic;

/// The time, and the earliest deadline that a device waits for since it was last asked.
#[derive(Default)]
pub(crate) struct Clock {
    now: Cell<Monotonic>,
    next: Cell<Option<Monotonic>>,
}

impl Clock {
    pub(crate) fn now(&self) -> Monotonic {
        self.now.get()
    }

    pub(super) fn set(&self, now: Monotonic) {
        self.now.set(now);
    }

    /// Takes the earliest deadline of the futures that were polled since the last call.
    pub(super) fn take_next(&self) -> Option<Monotonic> {
        self.next.take()
    }

    /// Waits until `deadline`. The trial polls again after it has set the clock.
    pub(crate) async fn until(&self, deadline: Monotonic) {
        poll_fn(|_| {
            if self.now.get() >= deadline {
                return Poll::Ready(());
            }
            self.next.set(Some(self.next.get().map_or(deadline, |next| next.min(deadline))));
            Poll::Pending
        })
        .await;
    }
}
