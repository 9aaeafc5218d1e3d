// SPDX-License-Identifier: Apache-2.0
//! Device: when a process may open, use and close the hardware of a service.
//!
//! A device travels as open descriptors, its *luggage*. Copies of them are sent to the successor
//! with the offer, and to PID 1's file descriptor store (`FDSTORE=1` in sd_notify(3)), which
//! returns them after a crash. Most drivers allow only one open file, so a process opens the device
//! only if no copy can exist.
//!
//! Responsible for the order of these steps in one process, after the orders of the lifecycle,
//! which decides about ownership. Never contains a descriptor.
//!
//! | from | event | effects | to |
//! | --- | --- | --- | --- |
//! | unowned | Received | | received |
//! | unowned | Owned, and the predecessor leaves | Unstore | postponed |
//! | unowned | Owned | Unstore, Open | opening |
//! | received | Discarded | Close, Unstore | unowned |
//! | received | Owned | Store, Thaw | running |
//! | postponed | PredecessorLeft | Open | opening |
//! | postponed, opening | Frozen | Close | unowned |
//! | opening | Opened | Store, Thaw | running |
//! | opening | Failed | Open | opening |
//! | running | Failed, and the predecessor leaves | Close, Unstore | postponed |
//! | running | Failed | Close, Unstore, Open | opening |
//! | running | Frozen | Freeze | frozen |
//! | frozen | Offered | | lent |
//! | frozen, lent, given | Owned: the offer failed | Thaw | running |
//! | lent | Committed | | given |
//! | running | Ended, and the predecessor has left | Freeze, Release, Unstore | closed |
//! | frozen | Ended, and the predecessor has left | Release, Unstore | closed |
//! | any | Ended, and a successor in the same unit owns it | Close | closed |
//! | any | Ended otherwise | Close, Unstore | closed |
//!
//! All other events are ignored. A frozen, lent or given device is not used, but its process keeps
//! it alive, for example by feeding a watchdog.
//!
//! **Invariant:** only an owner uses or opens the device.
//!
//! **Invariant:** a device is released, as by the magic close of a watchdog, only if no other
//! process can continue to use it.

use core::fmt;

use crate::lifecycle::takeover::Origin;

/// The device in one process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Device {
    /// Nothing, and the process is not the owner, or is frozen.
    #[default]
    Unowned,
    /// Copies from the predecessor or from PID 1's store; not to be used yet.
    Received,
    /// Nothing yet: the process opens it once the predecessor has left.
    Postponed(Need),
    /// Nothing yet: the process tries to open it.
    Opening(Need),
    /// The process uses it.
    Running,
    /// The process has stopped using it, to hand it over.
    Frozen,
    /// Copies are offered to the successor, which may already have them.
    Lent,
    /// The successor is the owner. Kept in case it dies.
    Given,
    /// Nothing any more: the process ends.
    Closed,
}

/// Why a device is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Need {
    /// No process has used it in this boot.
    Fresh,
    /// A process used it before, which died or could not hand it over.
    Recovered,
    /// It failed this many times in a row, at least once.
    Failed(u32),
}

/// What a descriptor is.
///
/// A service states what each of its descriptors must be. A process compares that with each
/// descriptor that it opens, or that another release or PID 1's store sends, so it never uses
/// another device by mistake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Not checked.
    Any,
    /// A character device; with this major and minor number, if they are stated.
    Character(Option<(u32, u32)>),
    /// A regular file, also one in memory.
    Regular,
    /// A pipe.
    Pipe,
    /// A socket of this domain and type, such as `AF_CAN` and `SOCK_RAW`.
    Socket(u32, u32),
    /// A directory, a block device, or a file that only a descriptor names, such as a timer.
    Other,
}

impl Kind {
    /// Whether a descriptor may be `found`.
    #[must_use]
    pub fn admits(self, found: Self) -> bool {
        match self {
            Self::Any => true,
            Self::Character(None) => matches!(found, Self::Character(_)),
            Self::Character(Some(_))
            | Self::Regular
            | Self::Pipe
            | Self::Socket(..)
            | Self::Other => self == found,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("any file"),
            Self::Character(None) => f.write_str("a character device"),
            Self::Character(Some((major, minor))) => {
                write!(f, "the character device {major}:{minor}")
            }
            Self::Regular => f.write_str("a regular file"),
            Self::Pipe => f.write_str("a pipe"),
            Self::Socket(domain, kind) => write!(f, "a socket of domain {domain} and type {kind}"),
            Self::Other => f.write_str("another kind of file"),
        }
    }
}

/// What happened to the device, or to its owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Event {
    /// The predecessor or PID 1's store sent copies, which were checked.
    Received,
    /// The received copies are void: the predecessor withdrew its offer, or another process owns
    /// the state to which the copies in PID 1's store belong.
    Discarded,
    /// The process became the owner, for the first time or again.
    Owned {
        /// The source of its state.
        origin: Origin,
        /// Whether the predecessor has committed and not left yet.
        predecessor_leaves: bool,
    },
    /// The predecessor has left.
    PredecessorLeft,
    /// The attempt to open it succeeded.
    Opened,
    /// The attempt to open it failed, or the open device did.
    Failed {
        /// Whether the predecessor has committed and not left yet.
        predecessor_leaves: bool,
    },
    /// The process stops ticking and answering, to hand over.
    Frozen,
    /// The state is about to be offered.
    Offered,
    /// The successor is about to become the owner.
    Committed,
    /// The process ends.
    Ended {
        /// Whether the predecessor has committed and not left yet.
        predecessor_leaves: bool,
        /// Whether the successor is in the same unit, so that PID 1's store is its own.
        is_replaced: bool,
    },
}

/// An order for the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Effect {
    /// Try to open it for the [`Need`]; after a pause if it has failed.
    Open,
    /// Use it from now on, with the state that was loaded.
    Thaw,
    /// Give PID 1's store copies.
    Store,
    /// Stop using it.
    Freeze,
    /// Close all descriptors of it, and stop any attempt to open it.
    Close,
    /// Remove the copies from PID 1's store.
    Unstore,
    /// Close the device as its driver requires at the end.
    Release,
}

impl Device {
    /// Takes one event; returns the effects in the order of their execution.
    #[must_use]
    pub const fn step(self, event: Event) -> (Self, &'static [Effect]) {
        use Effect::{Close, Freeze, Open, Release, Store, Thaw, Unstore};
        match (self, event) {
            (Self::Unowned | Self::Received, Event::Received) => (Self::Received, &[]),
            (Self::Received, Event::Discarded) => (Self::Unowned, &[Close, Unstore]),
            (Self::Unowned, Event::Owned { origin, predecessor_leaves }) => {
                let need = match origin {
                    Origin::New => Need::Fresh,
                    Origin::Adopted | Origin::Recovered => Need::Recovered,
                };
                if predecessor_leaves {
                    (Self::Postponed(need), &[Unstore])
                } else {
                    (Self::Opening(need), &[Unstore, Open])
                }
            }
            (Self::Received, Event::Owned { .. }) | (Self::Opening(_), Event::Opened) => {
                (Self::Running, &[Store, Thaw])
            }
            (Self::Frozen | Self::Lent | Self::Given, Event::Owned { .. }) => {
                (Self::Running, &[Thaw])
            }
            (Self::Postponed(need), Event::PredecessorLeft) => (Self::Opening(need), &[Open]),
            (Self::Opening(need), Event::Failed { .. }) => {
                (Self::Opening(need.after_failure()), &[Open])
            }
            (Self::Running, Event::Failed { predecessor_leaves: true }) => {
                (Self::Postponed(Need::Failed(1)), &[Close, Unstore])
            }
            (Self::Running, Event::Failed { predecessor_leaves: false }) => {
                (Self::Opening(Need::Failed(1)), &[Close, Unstore, Open])
            }
            (Self::Postponed(_) | Self::Opening(_), Event::Frozen) => (Self::Unowned, &[Close]),
            (Self::Running, Event::Frozen) => (Self::Frozen, &[Freeze]),
            (Self::Frozen, Event::Offered) => (Self::Lent, &[]),
            (Self::Lent, Event::Committed) => (Self::Given, &[]),
            (_, Event::Ended { is_replaced: true, .. }) => (Self::Closed, &[Close]),
            (Self::Running, Event::Ended { predecessor_leaves: false, .. }) => {
                (Self::Closed, &[Freeze, Release, Unstore])
            }
            (Self::Frozen, Event::Ended { predecessor_leaves: false, .. }) => {
                (Self::Closed, &[Release, Unstore])
            }
            (_, Event::Ended { .. }) => (Self::Closed, &[Close, Unstore]),
            (same, _) => (same, &[]),
        }
    }
}

impl Need {
    /// The need after another failure.
    const fn after_failure(self) -> Self {
        match self {
            Self::Fresh | Self::Recovered => Self::Failed(1),
            Self::Failed(times) => Self::Failed(times.saturating_add(1)),
        }
    }

    /// How long to wait before the attempt, in milliseconds.
    ///
    /// It doubles from 100 ms to 3.2 s. Too short: a device that is gone for long keeps the
    /// processor busy and fills the log. Too long: a device is used late after its return.
    #[must_use]
    pub const fn pause_ms(self) -> u64 {
        match self {
            Self::Fresh | Self::Recovered => 0,
            Self::Failed(times) => {
                let doubled = times.saturating_sub(1);
                100 << if doubled < 5 { doubled } else { 5 }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;

    use Effect::{Close, Freeze, Open, Release, Store, Thaw, Unstore};

    const HERE: [bool; 2] = [false, true];

    #[test]
    fn a_descriptor_is_admitted_only_if_it_is_what_the_service_states() {
        use Kind::{Any, Character, Other, Pipe, Regular, Socket};
        let (watchdog, tty) = (Character(Some((10, 130))), Character(Some((4, 64))));
        let (can, unix) = (Socket(29, 3), Socket(1, 3));
        let found = [watchdog, tty, Regular, Pipe, can, unix, Socket(29, 2), Other];
        for (stated, admitted) in [
            (Any, &found[..]),
            (Character(None), &[watchdog, tty]),
            (watchdog, &[watchdog]),
            (Regular, &[Regular]),
            (Pipe, &[Pipe]),
            (can, &[can]),
            (Other, &[Other]),
        ] {
            let admits = found.into_iter().filter(|found| stated.admits(*found));
            assert_eq!(admits.collect::<Vec<_>>(), admitted, "{stated}");
        }
    }

    fn events() -> Vec<Event> {
        let mut events = Vec::from([
            Event::Received,
            Event::Discarded,
            Event::PredecessorLeft,
            Event::Opened,
            Event::Frozen,
            Event::Offered,
            Event::Committed,
        ]);
        for predecessor_leaves in HERE {
            events.push(Event::Failed { predecessor_leaves });
            for is_replaced in HERE {
                events.push(Event::Ended { predecessor_leaves, is_replaced });
            }
            for origin in [Origin::New, Origin::Adopted, Origin::Recovered] {
                events.push(Event::Owned { origin, predecessor_leaves });
            }
        }
        events
    }

    /// Takes the events one after another; returns all effects.
    fn run(events: &[Event]) -> (Device, Vec<Effect>) {
        let mut all = Vec::new();
        let end = events.iter().fold(Device::Unowned, |device, event| {
            let (next, effects) = device.step(*event);
            all.extend_from_slice(effects);
            next
        });
        (end, all)
    }

    const ALONE: Event = Event::Owned { origin: Origin::New, predecessor_leaves: false };
    const COMMITTED: Event = Event::Owned { origin: Origin::Adopted, predecessor_leaves: true };
    const FAILED: Event = Event::Failed { predecessor_leaves: false };
    const ENDED: Event = Event::Ended { predecessor_leaves: false, is_replaced: false };
    const REPLACED: Event = Event::Ended { predecessor_leaves: false, is_replaced: true };

    #[test]
    fn a_device_is_opened_handed_over_and_taken_back_in_order() {
        let opened = [ALONE, Event::Opened];
        let lent = [&opened[..], &[Event::Frozen, Event::Offered]].concat();
        let given = [&lent[..], &[Event::Committed]].concat();
        let open = [Unstore, Open, Store, Thaw];
        for (events, effects, end) in [
            (opened.to_vec(), open.to_vec(), Device::Running),
            (lent.clone(), [&open[..], &[Freeze]].concat(), Device::Lent),
            (
                [&lent[..], &[ALONE]].concat(),
                [&open[..], &[Freeze, Thaw]].concat(),
                Device::Running,
            ),
            (
                [&given[..], &[ALONE]].concat(),
                [&open[..], &[Freeze, Thaw]].concat(),
                Device::Running,
            ),
            (
                [&given[..], &[ENDED]].concat(),
                [&open[..], &[Freeze, Close, Unstore]].concat(),
                Device::Closed,
            ),
            (
                [&given[..], &[REPLACED]].concat(),
                [&open[..], &[Freeze, Close]].concat(),
                Device::Closed,
            ),
            (
                [&opened[..], &[ENDED]].concat(),
                [&open[..], &[Freeze, Release, Unstore]].concat(),
                Device::Closed,
            ),
        ] {
            assert_eq!(run(&events), (end, effects), "{events:?}");
        }
    }

    #[test]
    fn a_successor_uses_what_it_received_or_waits_for_the_predecessor_to_leave() {
        let (received, left) = (Event::Received, Event::PredecessorLeft);
        let recovered = Device::Opening(Need::Recovered);
        for (events, effects, end) in [
            (&[received, COMMITTED][..], &[Store, Thaw][..], Device::Running),
            (&[received, Event::Discarded], &[Close, Unstore], Device::Unowned),
            (&[COMMITTED], &[Unstore], Device::Postponed(Need::Recovered)),
            (&[COMMITTED, left], &[Unstore, Open], recovered),
            (&[COMMITTED, Event::Frozen], &[Unstore, Close], Device::Unowned),
        ] {
            assert_eq!(run(events), (end, effects.to_vec()), "{events:?}");
        }
    }

    #[test]
    fn a_device_that_fails_is_opened_again_after_longer_and_longer_pauses() {
        let mut device = run(&[ALONE, Event::Opened, FAILED]).0;
        let mut pauses = Vec::new();
        for _ in 0..8 {
            pauses.extend(match device {
                Device::Opening(need) => Some(need.pause_ms()),
                _ => None,
            });
            device = device.step(FAILED).0;
        }
        assert_eq!(pauses, [100, 200, 400, 800, 1600, 3200, 3200, 3200]);
        assert_eq!(Need::Failed(u32::MAX).after_failure(), Need::Failed(u32::MAX));
    }

    #[test]
    fn whatever_happens_the_end_is_final_and_only_a_user_stores_or_releases() {
        let (mut open, mut seen) = (Vec::from([Device::Unowned]), Vec::new());
        while let Some(device) = open.pop() {
            if seen.contains(&device) {
                continue;
            }
            seen.push(device);
            for event in events() {
                let (next, effects) = device.step(event);
                let is_user = matches!(device, Device::Running | Device::Frozen);
                assert!(is_user || !effects.contains(&Release), "{device:?} {event:?}");
                assert_eq!(effects.contains(&Store), effects.starts_with(&[Store, Thaw]));
                assert!(device != Device::Closed || next == Device::Closed, "{event:?}");
                if !matches!(next, Device::Opening(Need::Failed(2..))) {
                    open.push(next);
                }
            }
        }
    }
}
