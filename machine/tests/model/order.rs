// SPDX-License-Identifier: Apache-2.0
//! Orders and facts: the effects and events of the lifecycle, as a world contains them.

use std::fmt;
use std::num::NonZeroU8;

use early_service_machine::lifecycle::{Effect, Event};

use crate::list::List;

/// An atomic order to an actor: a process can die before or after it, but not during it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Order {
    Lock,
    Ask,
    ReportPrepared,
    Discard,
    Abort,
    Load,
    ReportServing,
    Listen,
    Freeze,
    /// The state and the clients, without the last message.
    Offer,
    Commit,
    /// Releases the lock; nothing runs any more.
    Leave,
    /// The second half of [`Effect::Offer`]: the last message, with the lock.
    End,
    /// The second half of [`Effect::Leave`]: the kernel closes everything else.
    Exit,
    /// Read the file, and tick later. Only broken machines give this order and the following ones.
    Peek,
    /// Tick from the state that was read before.
    Run,
    /// Stop the server, but not the counter.
    FreezeClients,
    /// Continue from the state in memory.
    Resume,
    /// Close the connection to the other process without a message.
    CloseSilently,
    /// Release the lock.
    Unlock,
    /// Wait for the lock.
    Take,
}

impl From<Effect> for Order {
    fn from(effect: Effect) -> Self {
        match effect {
            Effect::Lock => Self::Lock,
            Effect::Ask => Self::Ask,
            Effect::ReportPrepared => Self::ReportPrepared,
            Effect::Discard => Self::Discard,
            Effect::Abort => Self::Abort,
            Effect::Load => Self::Load,
            Effect::ReportServing => Self::ReportServing,
            Effect::Listen => Self::Listen,
            Effect::Freeze => Self::Freeze,
            Effect::Offer => Self::Offer,
            Effect::Commit => Self::Commit,
            Effect::Leave => Self::Leave,
        }
    }
}

/// An event as its position in [`Event::ALL`], so that worlds can be ordered.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Fact(NonZeroU8);

impl From<Event> for Fact {
    fn from(event: Event) -> Self {
        let place = Event::ALL.iter().position(|each| *each == event);
        let number = place.and_then(|place| NonZeroU8::new(place as u8 + 1));
        Self(number.expect("every event is in ALL"))
    }
}

impl Fact {
    pub(crate) fn place(self) -> usize {
        usize::from(self.0.get()) - 1
    }

    pub(crate) fn event(self) -> Event {
        Event::ALL[self.place()]
    }
}

impl fmt::Debug for Fact {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.event().fmt(f)
    }
}

/// The orders of one step: at most three, and the second half of one.
pub(crate) type Orders = List<Order, 4>;
