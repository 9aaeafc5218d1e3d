// SPDX-License-Identifier: Apache-2.0
//! Fate: what a round brings to whom.

use std::fmt;
use std::ops::Range;
use std::time::Duration;

use testkit::random::Random;

/// What happens in a round.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Fate {
    HandedOver,
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
    pub(crate) const ALL: [Self; 11] = [
        Self::HandedOver,
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

    /// Any; the ordinary handoff three times as often as each of the others.
    pub(crate) fn choose(random: &mut Random) -> Self {
        let place = random.number(0..Self::ALL.len() as u64 + 2);
        let place = usize::try_from(place).expect("small").saturating_sub(2);
        Self::ALL[place]
    }

    /// Whether a process is killed, and with it the lines that it had not written yet and, where it
    /// was the owner, the connections.
    pub(crate) fn is_deadly(self) -> bool {
        match self {
            Self::PredecessorKilled
            | Self::PredecessorHung
            | Self::SuccessorKilled
            | Self::SuccessorHung
            | Self::OwnerKilled
            | Self::TwoSuccessorsOwnerKilled => true,
            Self::HandedOver
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

/// What a blow does to a process.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Blow {
    Kill,
    /// It goes on after so long.
    Stop(Duration),
    /// It is stopped and, after so long, killed, as by its watchdog.
    Hang(Duration),
}

/// Longer than the predecessor's offer lasts: it withdraws it meanwhile.
const LONG: Range<Duration> = Duration::from_millis(1100)..Duration::from_millis(1400);
const SHORT: Range<Duration> = Duration::from_millis(5)..Duration::from_millis(300);

/// How long a process stands still: long in one of five.
pub(crate) fn while_stopped(random: &mut Random) -> Duration {
    let range = if random.one_in(5) { LONG } else { SHORT };
    random.duration(range)
}

/// When a blow falls.
#[derive(Clone, Copy, Debug)]
pub(crate) enum When {
    /// Before there is a successor.
    BeforeStart,
    /// So long after the successor's start.
    Start(Duration),
    /// So long after the successor has begun to ask.
    Asking(Duration),
}

/// The time in which a successor starts, adopts and serves, and as long again: on an idle machine
/// and on a busy one.
const START: [u64; 2] = [30, 200];

/// The time that the exchange takes, and as long again; likewise.
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
