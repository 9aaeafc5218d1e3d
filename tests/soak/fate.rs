// SPDX-License-Identifier: Apache-2.0
//! Fate: the faults of a round, and the processes that they hit.

use std::fmt;
use std::ops::Range;
use std::time::Duration;

use testkit::random::Random;

/// The event of a round.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Fate {
    HandedOver,
    Reloaded,
    PredecessorKilled,
    PredecessorStopped,
    PredecessorHung,
    SuccessorKilled,
    SuccessorStopped,
    SuccessorHung,
    OwnerKilled,
    TwoSuccessors,
    TwoSuccessorsOwnerKilled,
    StoppedAndStarted,
}

impl Fate {
    pub(crate) const ALL: [Self; 12] = [
        Self::HandedOver,
        Self::Reloaded,
        Self::PredecessorKilled,
        Self::PredecessorStopped,
        Self::PredecessorHung,
        Self::SuccessorKilled,
        Self::SuccessorStopped,
        Self::SuccessorHung,
        Self::OwnerKilled,
        Self::TwoSuccessors,
        Self::TwoSuccessorsOwnerKilled,
        Self::StoppedAndStarted,
    ];

    /// Chooses one at random; the ordinary handoff and the reload are three times as likely as each
    /// other.
    pub(crate) fn choose(random: &mut Random) -> Self {
        let place = random.number(0..Self::ALL.len() as u64 + 4);
        let place = usize::try_from(place).expect("small");
        Self::ALL[if place < 6 { place / 3 } else { place - 4 }]
    }

    /// Whether a process is killed. Its unwritten lines are then lost, and also its connections if
    /// it was the owner.
    pub(crate) fn is_deadly(self) -> bool {
        match self {
            Self::PredecessorKilled
            | Self::PredecessorHung
            | Self::SuccessorKilled
            | Self::SuccessorHung
            | Self::OwnerKilled
            | Self::TwoSuccessorsOwnerKilled => true,
            Self::HandedOver
            | Self::Reloaded
            | Self::PredecessorStopped
            | Self::SuccessorStopped
            | Self::TwoSuccessors
            | Self::StoppedAndStarted => false,
        }
    }
}

impl fmt::Display for Fate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::HandedOver => "ordinary handoff",
            Self::Reloaded => "reloaded by itself",
            Self::PredecessorKilled => "predecessor killed",
            Self::PredecessorStopped => "predecessor stopped for a while",
            Self::PredecessorHung => "predecessor hung, then killed",
            Self::SuccessorKilled => "successor killed",
            Self::SuccessorStopped => "successor stopped for a while",
            Self::SuccessorHung => "successor hung, then killed",
            Self::OwnerKilled => "owner killed, started from its file",
            Self::TwoSuccessors => "two successors, one sent away",
            Self::TwoSuccessorsOwnerKilled => "two successors, the owner killed",
            Self::StoppedAndStarted => "clean stop and start",
        })
    }
}

/// The effect of a fault on a process.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Blow {
    Kill,
    /// Stops the process for this time.
    Stop(Duration),
    /// Stops the process and kills it after this time, as its watchdog does.
    Hang(Duration),
}

/// Longer than the time limit of an offer, so the predecessor withdraws it meanwhile.
const LONG: Range<Duration> = Duration::from_millis(1100)..Duration::from_millis(1400);
const SHORT: Range<Duration> = Duration::from_millis(5)..Duration::from_millis(300);

/// How long a process is stopped: long in one of five cases.
pub(crate) fn while_stopped(random: &mut Random) -> Duration {
    let range = if random.one_in(5) { LONG } else { SHORT };
    random.duration(range)
}

/// The time of a fault.
#[derive(Clone, Copy, Debug)]
pub(crate) enum When {
    /// Before there is a successor.
    BeforeStart,
    /// This time after the successor's start.
    Start(Duration),
    /// This time after the successor's request.
    Asking(Duration),
}

/// Twice the time in which a successor starts, adopts and serves, on an idle and on a busy machine.
const START: [u64; 2] = [30, 200];

/// Twice the time of an exchange, on an idle and on a busy machine.
const EXCHANGE: [u64; 2] = [3, 30];

impl When {
    pub(crate) fn choose(random: &mut Random) -> Self {
        let limit = usize::from(random.one_in(2));
        let mut within = |limits: [u64; 2]| {
            random.duration(Duration::ZERO..Duration::from_millis(limits[limit]))
        };
        let (start, asking) = (within(START), within(EXCHANGE));
        match random.number(0..10) {
            0 => Self::BeforeStart,
            1..4 => Self::Start(start),
            _ => Self::Asking(asking),
        }
    }
}
