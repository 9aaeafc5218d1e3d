// SPDX-License-Identifier: Apache-2.0
//! Lifecycle: who owns the state, and when a process hands over, serves or leaves.
//!
//! The same program runs twice in one boot.
//! The *predecessor* hands over, the *successor* adopts; the *owner* is the one that may tick and
//! answer.
//! Each phase is a type of its own whose methods consume it and return only phases that may follow,
//! so that a forbidden step does not compile; [`Lifecycle`] only dispatches.
//! Events are facts in the past tense, effects are orders to the actors, carried out in their order.
//!
//! | from | event | effects | to |
//! | --- | --- | --- | --- |
//! | Booting | StartedAlone | Load, Listen | Serving |
//! | Booting | StartedAsSuccessor | Ask | Adopting |
//! | Booting | StopRequested | Leave | Ended |
//! | Adopting | StateReceived | Load, Listen | Serving |
//! | Adopting | PredecessorAbsent | Load, Listen | Serving |
//! | Adopting | PredecessorRefused | Ask | Adopting |
//! | Adopting | StopRequested | Leave | Ended |
//! | Serving | HandoffRequested | Freeze | Draining (freezing) |
//! | Serving | StopRequested | Leave | Ended |
//! | Draining (freezing) | Frozen | Send | Draining (offered) |
//! | Draining (freezing) | SuccessorGone | Thaw | Serving |
//! | Draining (freezing) | StopRequested | Leave | Ended |
//! | Draining (offered) | StateSent | Leave | Ended |
//! | Draining (offered) | SuccessorGone | Thaw | Serving |
//! | Draining (offered) | StopRequested | Leave | Ended |
//!
//! Every other event leaves the phase as it is and orders nothing: it is a fact that came too late
//! to matter, such as the end of a connection that was given up already.
//! A test walks every phase with every event and holds the outcome against this table.
//!
//! What the one-line exchange cannot promise: a state that was sent to a successor which dies or
//! stops before it has read it is lost, and a successor that gives up on a predecessor which only
//! stood still owns beside it.
//!
//! **Invariant:** a process may tick and answer in Serving only; it enters Serving only with the
//! order to load a state, or to thaw the one that it never gave away.

use core::fmt;

use crate::State;

/// A fact that the supervisor learnt from an actor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Event {
    /// The process is up, and no predecessor is configured.
    StartedAlone,
    /// The process is up, and a predecessor is configured.
    StartedAsSuccessor,
    /// The predecessor gave its state and terminates.
    StateReceived(State),
    /// Nobody answered where a predecessor was expected.
    PredecessorAbsent,
    /// The predecessor answered that it does not hand over, to us or now: it stays the owner.
    PredecessorRefused,
    /// A peer that may do so asked for the state.
    HandoffRequested,
    /// No actor ticks, reads, writes or accepts any more; this is the state they stopped with.
    Frozen(State),
    /// The state is on its way to the successor, and cannot be taken back.
    StateSent,
    /// The successor went away before the state was sent.
    SuccessorGone,
    /// A signal asked the process to stop.
    StopRequested,
}

/// An order to the actors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Effect {
    /// Ask the predecessor for its state.
    Ask,
    /// Tick on from this state.
    Load(State),
    /// Accept and answer clients.
    Listen,
    /// Stop ticking, reading, writing and accepting, and confirm it with the state.
    Freeze,
    /// Send the successor this state.
    Send(State),
    /// Tick, read, write and accept again, where it was left.
    Thaw,
    /// Close everything, write out the log, end the process with success.
    Leave,
}

/// The orders of one step, in the order in which they are carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Effects([Option<Effect>; 2]);

impl Effects {
    const NONE: Self = Self([None, None]);

    const fn one(effect: Effect) -> Self {
        Self([Some(effect), None])
    }

    const fn two(first: Effect, second: Effect) -> Self {
        Self([Some(first), Some(second)])
    }
}

impl IntoIterator for Effects {
    type Item = Effect;
    type IntoIter = core::iter::Flatten<core::array::IntoIter<Option<Effect>, 2>>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter().flatten()
    }
}

/// Starting: owns nothing yet.
#[derive(Debug, PartialEq, Eq, Hash)]
pub struct Booting(());

/// Waiting for a predecessor's state: owns nothing yet.
#[derive(Debug, PartialEq, Eq, Hash)]
pub struct Adopting(());

/// The owner: ticks and answers.
#[derive(Debug, PartialEq, Eq, Hash)]
pub struct Serving(());

/// Handing over: still the owner, but frozen.
#[derive(Debug, PartialEq, Eq, Hash)]
pub struct Draining(Drain);

/// How far a handoff has come on the predecessor's side.
#[derive(Debug, PartialEq, Eq, Hash)]
enum Drain {
    /// The actors have been told to stop.
    Freezing,
    /// The state has been offered to the successor.
    Offered,
}

/// The process has nothing left to do but exit.
#[derive(Debug, PartialEq, Eq, Hash)]
pub struct Ended(());

impl Booting {
    /// Where every process begins.
    #[must_use]
    pub const fn new() -> Self {
        Self(())
    }

    /// Becomes the owner: there is nobody to adopt from.
    #[must_use]
    pub fn serve(self) -> Serving {
        Serving(())
    }

    /// Turns to the predecessor.
    #[must_use]
    pub fn adopt(self) -> Adopting {
        Adopting(())
    }

    /// Gives up before it began.
    #[must_use]
    pub fn end(self) -> Ended {
        Ended(())
    }

    fn step(self, event: Event) -> (Lifecycle, Effects) {
        match event {
            Event::StartedAlone => serve_from(State::default(), self.serve()),
            Event::StartedAsSuccessor => (self.adopt().into(), Effects::one(Effect::Ask)),
            Event::StopRequested => leave(self.end()),
            Event::StateReceived(_)
            | Event::PredecessorAbsent
            | Event::PredecessorRefused
            | Event::HandoffRequested
            | Event::Frozen(_)
            | Event::StateSent
            | Event::SuccessorGone => (self.into(), Effects::NONE),
        }
    }
}

impl Default for Booting {
    fn default() -> Self {
        Self::new()
    }
}

impl Adopting {
    /// Becomes the owner, of the predecessor's state or, where there was none, of a new one.
    #[must_use]
    pub fn serve(self) -> Serving {
        Serving(())
    }

    /// Gives up; the predecessor stays the owner, unless its answer is under way already.
    #[must_use]
    pub fn end(self) -> Ended {
        Ended(())
    }

    fn step(self, event: Event) -> (Lifecycle, Effects) {
        match event {
            Event::StateReceived(state) => serve_from(state, self.serve()),
            Event::PredecessorAbsent => serve_from(State::default(), self.serve()),
            Event::PredecessorRefused => (self.into(), Effects::one(Effect::Ask)),
            Event::StopRequested => leave(self.end()),
            Event::StartedAlone
            | Event::StartedAsSuccessor
            | Event::HandoffRequested
            | Event::Frozen(_)
            | Event::StateSent
            | Event::SuccessorGone => (self.into(), Effects::NONE),
        }
    }
}

impl Serving {
    /// Begins to hand over.
    #[must_use]
    pub fn drain(self) -> Draining {
        Draining(Drain::Freezing)
    }

    /// Stops without a successor.
    #[must_use]
    pub fn end(self) -> Ended {
        Ended(())
    }

    fn step(self, event: Event) -> (Lifecycle, Effects) {
        match event {
            Event::HandoffRequested => (self.drain().into(), Effects::one(Effect::Freeze)),
            Event::StopRequested => leave(self.end()),
            Event::StartedAlone
            | Event::StartedAsSuccessor
            | Event::StateReceived(_)
            | Event::PredecessorAbsent
            | Event::PredecessorRefused
            | Event::Frozen(_)
            | Event::StateSent
            | Event::SuccessorGone => (self.into(), Effects::NONE),
        }
    }
}

impl Draining {
    /// Goes back to serving: the successor went away, and the state never left.
    #[must_use]
    pub fn serve(self) -> Serving {
        Serving(())
    }

    /// Leaves: the successor has the state, or the process was told to stop.
    #[must_use]
    pub fn end(self) -> Ended {
        Ended(())
    }

    fn step(self, event: Event) -> (Lifecycle, Effects) {
        match self.0 {
            Drain::Freezing => self.step_freezing(event),
            Drain::Offered => self.step_offered(event),
        }
    }

    fn step_freezing(self, event: Event) -> (Lifecycle, Effects) {
        match event {
            Event::Frozen(state) => {
                (Self(Drain::Offered).into(), Effects::one(Effect::Send(state)))
            }
            Event::SuccessorGone => (self.serve().into(), Effects::one(Effect::Thaw)),
            Event::StopRequested => leave(self.end()),
            Event::StartedAlone
            | Event::StartedAsSuccessor
            | Event::StateReceived(_)
            | Event::PredecessorAbsent
            | Event::PredecessorRefused
            | Event::HandoffRequested
            | Event::StateSent => (self.into(), Effects::NONE),
        }
    }

    fn step_offered(self, event: Event) -> (Lifecycle, Effects) {
        match event {
            Event::StateSent | Event::StopRequested => leave(self.end()),
            Event::SuccessorGone => (self.serve().into(), Effects::one(Effect::Thaw)),
            Event::StartedAlone
            | Event::StartedAsSuccessor
            | Event::StateReceived(_)
            | Event::PredecessorAbsent
            | Event::PredecessorRefused
            | Event::HandoffRequested
            | Event::Frozen(_) => (self.into(), Effects::NONE),
        }
    }
}

fn serve_from(state: State, serving: Serving) -> (Lifecycle, Effects) {
    (serving.into(), Effects::two(Effect::Load(state), Effect::Listen))
}

fn leave(ended: Ended) -> (Lifecycle, Effects) {
    (ended.into(), Effects::one(Effect::Leave))
}

/// A process in whichever phase it is.
#[derive(Debug, PartialEq, Eq, Hash)]
pub enum Lifecycle {
    /// See [`Booting`].
    Booting(Booting),
    /// See [`Adopting`].
    Adopting(Adopting),
    /// See [`Serving`].
    Serving(Serving),
    /// See [`Draining`].
    Draining(Draining),
    /// See [`Ended`].
    Ended(Ended),
}

impl Lifecycle {
    /// A process that begins.
    #[must_use]
    pub const fn new() -> Self {
        Self::Booting(Booting::new())
    }

    /// Takes one event: the phase that follows, and what is to be done now.
    #[must_use]
    pub fn step(self, event: Event) -> (Self, Effects) {
        match self {
            Self::Booting(phase) => phase.step(event),
            Self::Adopting(phase) => phase.step(event),
            Self::Serving(phase) => phase.step(event),
            Self::Draining(phase) => phase.step(event),
            Self::Ended(phase) => (phase.into(), Effects::NONE),
        }
    }

    /// The phase without what it holds, for people to read.
    #[must_use]
    pub const fn phase(&self) -> Phase {
        match self {
            Self::Booting(_) => Phase::Booting,
            Self::Adopting(_) => Phase::Adopting,
            Self::Serving(_) => Phase::Serving,
            Self::Draining(_) => Phase::Draining,
            Self::Ended(_) => Phase::Ended,
        }
    }
}

impl Default for Lifecycle {
    fn default() -> Self {
        Self::new()
    }
}

macro_rules! phase_into_lifecycle {
    ($($phase:ident)*) => {$(
        impl From<$phase> for Lifecycle {
            fn from(phase: $phase) -> Self {
                Self::$phase(phase)
            }
        }
    )*};
}
phase_into_lifecycle!(Booting Adopting Serving Draining Ended);

/// The name of a phase, as the log and `status` show it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Phase {
    /// Starting.
    Booting,
    /// Waiting for a predecessor's state.
    Adopting,
    /// Ticking and answering.
    Serving,
    /// Handing over.
    Draining,
    /// About to exit.
    Ended,
}

impl Phase {
    /// Every phase, in the order in which a process may pass through them.
    pub const ALL: [Self; 5] =
        [Self::Booting, Self::Adopting, Self::Serving, Self::Draining, Self::Ended];

    /// The name in lower case.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Booting => "booting",
            Self::Adopting => "adopting",
            Self::Serving => "serving",
            Self::Draining => "draining",
            Self::Ended => "ended",
        }
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;
    use std::format;
    use std::string::{String, ToString};
    use std::vec::Vec;

    const STATE: State = State { next: 137 };

    const EVENTS: [Event; 10] = [
        Event::StartedAlone,
        Event::StartedAsSuccessor,
        Event::StateReceived(STATE),
        Event::PredecessorAbsent,
        Event::PredecessorRefused,
        Event::HandoffRequested,
        Event::Frozen(STATE),
        Event::StateSent,
        Event::SuccessorGone,
        Event::StopRequested,
    ];

    fn every_phase() -> [Lifecycle; 6] {
        [
            Lifecycle::Booting(Booting(())),
            Lifecycle::Adopting(Adopting(())),
            Lifecycle::Serving(Serving(())),
            Lifecycle::Draining(Draining(Drain::Freezing)),
            Lifecycle::Draining(Draining(Drain::Offered)),
            Lifecycle::Ended(Ended(())),
        ]
    }

    /// `Draining(Draining(Freezing))` as the table writes it: `Draining (freezing)`.
    fn row_name(lifecycle: &Lifecycle) -> String {
        match lifecycle {
            Lifecycle::Draining(Draining(inner)) => {
                format!("Draining ({})", format!("{inner:?}").to_lowercase())
            }
            other => variant(other),
        }
    }

    /// The name of a variant without what it holds.
    fn variant(value: &impl fmt::Debug) -> String {
        let text = format!("{value:?}");
        text.split('(').next().unwrap_or_default().to_string()
    }

    /// The documented table: (from, event) to (effects, to).
    fn documented() -> BTreeMap<(String, String), (String, String)> {
        let rows =
            include_str!("lifecycle.rs").lines().filter_map(|line| line.strip_prefix("//! | "));
        rows.skip(2)
            .map(|row| {
                let cells: Vec<_> = row
                    .trim_end_matches('|')
                    .split('|')
                    .map(|cell| cell.trim().to_string())
                    .collect();
                let [from, event, effects, to] = cells.try_into().expect("four columns");
                ((from, event), (effects, to))
            })
            .collect()
    }

    #[test]
    fn every_phase_answers_every_event_as_the_documented_table_says() {
        let mut table = documented();
        assert_eq!(table.len(), 15, "the table was not read");
        for event in EVENTS {
            for phase in every_phase() {
                let from = row_name(&phase);
                let (to, effects) = phase.step(event);
                let effects: Vec<_> = effects.into_iter().map(|effect| variant(&effect)).collect();
                let outcome = (effects.join(", "), row_name(&to));
                let ignored = (String::new(), from.clone());
                let row = (from, variant(&event));
                let expected = table.remove(&row).unwrap_or(ignored);
                assert_eq!(outcome, expected, "{row:?}");
            }
        }
        assert!(table.is_empty(), "rows that no phase and event made: {table:?}");
    }

    #[test]
    fn the_state_that_came_in_is_the_one_that_is_loaded_and_sent() {
        let load = |phase: Lifecycle, event| phase.step(event).1.into_iter().next();
        let adopting = || Lifecycle::Adopting(Adopting(()));
        assert_eq!(load(adopting(), Event::StateReceived(STATE)), Some(Effect::Load(STATE)));
        assert_eq!(
            load(adopting(), Event::PredecessorAbsent),
            Some(Effect::Load(State::default()))
        );
        assert_eq!(
            load(Lifecycle::new(), Event::StartedAlone),
            Some(Effect::Load(State::default()))
        );
        let freezing = Lifecycle::Draining(Draining(Drain::Freezing));
        assert_eq!(load(freezing, Event::Frozen(STATE)), Some(Effect::Send(STATE)));
    }

    #[test]
    fn phases_have_the_names_of_the_protocol() {
        let names = Phase::ALL.map(Phase::name);
        assert_eq!(names, ["booting", "adopting", "serving", "draining", "ended"]);
        assert!(Phase::ALL.iter().enumerate().all(|(at, phase)| *phase as usize == at));
    }
}
