// SPDX-License-Identifier: Apache-2.0
//! Scene: one daemon, and everything that observes it from outside during the abuse.
//!
//! At the end of any abuse, these claims must hold: ticks are on time and complete, both witnesses
//! got every reply correctly and in time, memory and log are bounded. Delays exclude the time for
//! which the machine let the daemon wait for a processor.

use std::time::Duration;

use rustix::process::{Pid, Resource, Rlimit, prlimit};

use crate::claims::Claims;
use crate::log::{self, Log};
use crate::metronome::{Metronome, Waits};
use crate::vitals::Vitals;
use crate::witness::{Answer, Testimony, Witness};
use testkit::client::status;
use testkit::daemon::Daemon;
use testkit::journald::{Entry, Journald};
use testkit::scratch::Scratch;
use testkit::{now, until};

/// The daemon's default period, in nanoseconds.
const PERIOD: u64 = 100_000_000;

/// How often a thread must be woken for a tick (the reactor's and the daemon's), and for a reply
/// (the witness and these two for the request, the witness for the reply, and one in reserve).
const WAKES_FOR_A_TICK: u32 = 2;
const WAKES_FOR_A_REPLY: u32 = 5;

/// The bounds that a row may change.
#[derive(Clone, Copy)]
pub(crate) struct Bounds {
    /// Delay of a tick, in addition to the machine's delay of a sleeper.
    pub(crate) tick: Duration,
    /// Time for a reply to a connected client, and to one that connects; in addition to the same.
    pub(crate) reply: Duration,
    pub(crate) reply_anew: Duration,
    /// How often a client may have to reconnect because others had its slot.
    pub(crate) returns: u64,
    /// The process's own memory, in kB.
    pub(crate) memory: u64,
    /// Lines that the abuse may add to the log.
    pub(crate) lines: u64,
}

/// One period for everything, memory for a thousand clients, no evicted client, and no line.
pub(crate) const BOUNDS: Bounds = Bounds {
    tick: Duration::from_nanos(PERIOD),
    reply: Duration::from_nanos(PERIOD),
    reply_anew: Duration::from_nanos(PERIOD),
    returns: 0,
    memory: 8 * 1024,
    lines: 0,
};

/// How to start the daemon.
#[derive(Clone, Copy)]
pub(crate) struct Setup<'a> {
    /// The command that starts it.
    pub(crate) before: &'a [&'a str],
    pub(crate) options: &'a [&'a str],
    /// In nanoseconds, as set by the options.
    pub(crate) period: u64,
    /// Whether a client sets the counter, so that the clock does not imply it.
    pub(crate) is_set: bool,
}

/// A daemon with its defaults.
pub(crate) const SETUP: Setup<'static> =
    Setup { before: &[], options: &[], period: PERIOD, is_set: false };

/// The daemon and its observers.
pub(crate) struct Scene {
    pub(crate) daemon: Daemon,
    pub(crate) log: Log,
    pub(crate) vitals: Vitals,
    /// Kept for as long as the daemon.
    _scratch: Scratch,
    period: u64,
    is_set: bool,
    metronome: Metronome,
    stays: Witness,
    comes_anew: Witness,
}

/// The observations.
pub(crate) struct Seen {
    pub(crate) entries: Vec<Entry>,
    period: u64,
    is_set: bool,
    stays: Testimony,
    comes_anew: Testimony,
    /// The machine's delay of a sleeper, and the daemon's waiting times.
    late: Duration,
    waits: Waits,
    memory: u64,
}

impl Scene {
    /// Starts the daemon, and the witnesses once it serves.
    pub(crate) fn open(setup: Setup<'_>) -> Self {
        let scratch = Scratch::new();
        let journald = Journald::new(&scratch);
        let daemon = journald.start_by(setup.before, scratch.join("sock"), setup.options);
        Self::around(scratch, journald, daemon, setup)
    }

    /// Observes this daemon.
    pub(crate) fn around(
        scratch: Scratch,
        journald: Journald,
        daemon: Daemon,
        Setup { period, is_set, .. }: Setup<'_>,
    ) -> Self {
        let log = Log::read(journald);
        let stays = Witness::that_stays(&daemon.socket);
        let comes_anew = Witness::that_comes_anew(&daemon.socket);
        let vitals = Vitals::watch(daemon.pid());
        let metronome = Metronome::start(daemon.pid());
        let scene = Self {
            daemon,
            log,
            vitals,
            _scratch: scratch,
            period,
            is_set,
            metronome,
            stays,
            comes_anew,
        };
        scene.wait_for_witnesses(5);
        scene
    }

    /// Waits until both witnesses have had `count` more replies.
    #[track_caller]
    pub(crate) fn wait_for_witnesses(&self, count: usize) {
        let [stays, comes_anew] = [self.stays.answers(), self.comes_anew.answers()];
        wait_for_replies(|| self.stays.answers(), stays + count);
        wait_for_replies(|| self.comes_anew.answers(), comes_anew + count);
    }

    /// Waits until the witness that keeps its connection has had `count` more replies.
    #[track_caller]
    pub(crate) fn wait_for_the_one_that_stays(&self, count: usize) {
        let before = self.stays.answers();
        wait_for_replies(|| self.stays.answers(), before + count);
    }

    /// Limits the daemon's descriptors from now on.
    pub(crate) fn limit_descriptors(&self, current: u64) {
        let pid = i32::try_from(self.daemon.pid()).ok().and_then(Pid::from_raw);
        let limit = Rlimit { current: Some(current), maximum: Some(4096) };
        prlimit(pid, Resource::Nofile, limit).expect("our own child");
    }

    /// Observes this daemon from now on; returns its predecessor.
    pub(crate) fn replace_daemon(&mut self, mut daemon: Daemon) -> Daemon {
        daemon.socket.clone_from(&self.daemon.socket);
        self.vitals = Vitals::watch(daemon.pid());
        self.metronome.goes_on_with(daemon.pid());
        std::mem::replace(&mut self.daemon, daemon)
    }

    /// Number of clients, as the daemon reports it.
    pub(crate) fn clients(&self) -> u64 {
        status(&self.daemon.socket, "clients").parse().expect("a number")
    }

    /// Time that the machine may have added to a reply so far.
    pub(crate) fn slack(&self) -> Duration {
        WAKES_FOR_A_REPLY * self.metronome.latest()
    }

    /// Ends the scene; returns the observations, and the log to the last tick.
    pub(crate) fn close(self) -> Seen {
        self.wait_for_witnesses(20);
        let (stays, comes_anew) = (self.stays.stop(), self.comes_anew.stop());
        let (late, waits) = (self.metronome.latest(), self.metronome.waits());
        let memory = self.vitals.memory();
        let entries = self.log.end_at(now());
        let Self { period, is_set, .. } = self;
        Seen { entries, period, is_set, stays, comes_anew, late, waits, memory }
    }

    /// Ends the scene, and claims everything that holds for any abuse.
    pub(crate) fn claim(self, claims: &mut Claims, bounds: Bounds) -> Seen {
        let seen = self.close();
        seen.claim(claims, bounds);
        seen
    }
}

/// Waits until a witness has had so many replies. On a busy machine this may take long, as long as
/// one more reply always arrives in time.
#[track_caller]
fn wait_for_replies(replies: impl Fn() -> usize, count: usize) {
    let mut seen = replies();
    while seen < count {
        let before = seen;
        until("a reply to the witness", || {
            seen = replies();
            seen > before
        });
    }
}

impl Seen {
    fn claim(&self, claims: &mut Claims, bounds: Bounds) {
        self.claim_ticks(claims, bounds);
        self.claim_all_but_ticks(claims, bounds);
    }

    fn claim_ticks(&self, claims: &mut Claims, bounds: Bounds) {
        let mut ticks = log::ticks(&self.entries);
        ticks.sort_by_key(|tick| tick.deadline);
        let (Some(first), Some(last)) = (ticks.first(), ticks.last()) else {
            return claims.at_least("ticks in the log", 0, 1, "");
        };
        // By deadlines, because a client may have set the counter.
        let period = self.period;
        let missing: Vec<_> = (first.deadline..=last.deadline)
            .step_by(usize::try_from(period).expect("small"))
            .filter(|due| ticks.binary_search_by_key(due, |tick| tick.deadline).is_err())
            .map(|due| format!("due at {due}"))
            .collect();
        claims.none_lost("every tick in the log", &missing, ticks.len() + missing.len());
        let late = ticks.iter().map(|tick| self.waits.own(tick.deadline, tick.actual)).max();
        let late = late.unwrap_or_default();
        claims.within(
            "a tick after its deadline",
            late,
            bounds.tick + WAKES_FOR_A_TICK * self.late,
        );
    }

    /// Claims all but ticks, if the log does not contain every tick.
    pub(crate) fn claim_all_but_ticks(&self, claims: &mut Claims, bounds: Bounds) {
        let (ticks, period) = (log::ticks(&self.entries), self.period);
        let first = ticks.first().expect("ticks in the log");
        let origin = first.deadline.wrapping_sub(first.number.wrapping_mul(period));
        let witnesses = [
            ("a client that stays", &self.stays, bounds.reply),
            ("a client that comes anew", &self.comes_anew, bounds.reply_anew),
        ];
        for (who, told, bound) in witnesses {
            let mut lost = told.lost.clone();
            if !self.is_set {
                let wrong = told.answers.iter().filter(|answer| !is_right(answer, origin, period));
                lost.extend(wrong.map(|answer| format!("wrong: {answer:?}")));
            }
            claims.none_lost(&format!("{who} is answered"), &lost, told.asked());
            let bound = bound + WAKES_FOR_A_REPLY * self.late;
            let slowest =
                told.answers.iter().map(|answer| self.waits.own(answer.asked, answer.answered));
            claims.within(&format!("{who} waits"), slowest.max().unwrap_or_default(), bound);
        }
        let returns = self.stays.returns + self.comes_anew.returns;
        claims.at_most("a client has to come again", returns, bounds.returns, "");
        claims.at_most("memory", self.memory, bounds.memory, "kB");

        // Lines before the first tick, and the report of a handoff, are not due to the abuse.
        let lines = log::lines(&self.entries);
        let own = |line: &&&str| line.contains("=> ") || line.starts_with("Listening on");
        let abused = lines.len() - lines.iter().filter(own).count();
        claims.at_most("lines in the log", abused as u64, bounds.lines, "");
    }
}

/// Whether the reply is a number that the clock implied between request and reply.
fn is_right(answer: &Answer, origin: u64, period: u64) -> bool {
    let implied = |time: u64| match time.checked_sub(origin) {
        Some(since) => since / period + 1,
        None => 0,
    };
    (implied(answer.asked)..=implied(answer.answered)).contains(&answer.next)
}
