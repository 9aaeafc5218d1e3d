// SPDX-License-Identifier: Apache-2.0
//! Two machines against each other: every interleaving of one handoff, under a clock that we own.
//!
//! Two lifecycles, each with the counter that it would own, and between them a model of the
//! one-line exchange: the request, the answer, and who has closed its end.
//! Whatever could happen next in either process is a [`Step`]; the search takes each of them from
//! each world that can be reached, and looks at every world on the way.
//!
//! A lifecycle cannot be copied, so a world is made anew from the steps that lead to it.
//!
//! What the one-line exchange does *not* promise shows here as well: a state that was sent to a
//! successor which dies, or stops, before it has read it is lost.
//! And a successor that loses patience with a predecessor that still lives leaves two owners, of
//! which neither has been sent anything.

#![allow(
    clippy::arithmetic_side_effects,
    clippy::expect_used,
    reason = "a test fails by panicking"
)]

use std::collections::{BTreeSet, HashMap, VecDeque};

use early_service_machine::State;
use early_service_machine::counter::Counter;
use early_service_machine::lifecycle::{Booting, Effect, Event, Lifecycle, Phase};
use early_service_machine::schedule::{Monotonic, Period};

/// How often the clock goes on by one period: before, during and after the handoff.
///
/// One more makes the search several times as long, and finds nothing new.
const PERIODS: u64 = 3;

/// The period in milliseconds.
const PERIOD: u32 = 100;

/// One thing that may happen next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Step {
    /// The process begins.
    Start(Side),
    /// A supervisor takes its next event.
    Decide(Side),
    /// An actor carries out the next order.
    CarryOut(Side),
    /// A counter's timer fires.
    Wake(Side),
    /// The predecessor's server reads the request.
    ReadRequest,
    /// The successor reads the answer, or the end of the connection.
    ReadAnswer,
    /// The clock goes on by one period.
    Period,
    Fault(Fault),
}

/// What may go wrong; each at most once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Fault {
    /// The process is asked to stop.
    Stop(Side),
    /// The process dies.
    Death(Side),
    /// The successor waits no longer for an answer.
    Impatience,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Side {
    Predecessor,
    Successor,
}
use Side::{Predecessor, Successor};

const FAULTS: [Fault; 5] = [
    Fault::Stop(Predecessor),
    Fault::Stop(Successor),
    Fault::Death(Predecessor),
    Fault::Death(Successor),
    Fault::Impatience,
];

/// One process: its lifecycle, and what stands for its actors.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Process {
    lifecycle: Lifecycle,
    /// Reported, and not yet taken by the supervisor.
    events: VecDeque<Event>,
    /// Given, and not yet carried out.
    orders: VecDeque<Effect>,
    counter: Option<Counter>,
    frozen: bool,
    listening: bool,
    started: bool,
}

impl Process {
    fn new() -> Self {
        Self {
            lifecycle: Lifecycle::new(),
            events: VecDeque::new(),
            orders: VecDeque::new(),
            counter: None,
            frozen: false,
            listening: false,
            started: false,
        }
    }

    fn is_up(&self) -> bool {
        self.started && self.lifecycle.phase() != Phase::Ended
    }

    /// Whether its timer would fire, were a deadline to come.
    fn may_tick(&self) -> bool {
        self.is_up() && self.counter.is_some() && !self.frozen
    }

    /// Gone, in order or not: nothing of it is left.
    fn end(&mut self) {
        let lifecycle = Booting::new().end().into();
        *self = Self { lifecycle, started: true, ..Self::new() };
    }
}

/// The connection over which one line goes each way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct Wire {
    /// Sent by the successor, and not yet read.
    request: bool,
    /// Sent by the predecessor, and not yet read.
    answer: Option<State>,
    /// Open at the predecessor's end: the backlog counts.
    served: bool,
    /// Open at the successor's end.
    asked: bool,
}

/// Both processes, what is between them, and what has been seen of them.
#[derive(Debug, PartialEq, Eq, Hash)]
struct World {
    predecessor: Process,
    successor: Process,
    wire: Wire,
    periods: u64,
    /// Every number that was ticked, in order, by whomever.
    ticked: Vec<u64>,
    faults: BTreeSet<Fault>,
    state_was_sent: bool,
}

impl World {
    /// The world at the end of these steps.
    fn after(steps: &[Step]) -> Self {
        let mut world = Self {
            predecessor: Process::new(),
            successor: Process::new(),
            wire: Wire::default(),
            periods: 0,
            ticked: Vec::new(),
            faults: BTreeSet::new(),
            state_was_sent: false,
        };
        for step in steps {
            world.take(*step);
        }
        world
    }

    fn process(&mut self, side: Side) -> &mut Process {
        match side {
            Predecessor => &mut self.predecessor,
            Successor => &mut self.successor,
        }
    }

    fn now(&self) -> Monotonic {
        Monotonic::from_nanos(self.periods * u64::from(PERIOD) * 1_000_000)
    }

    fn happened(&self, fault: Fault) -> bool {
        self.faults.contains(&fault)
    }

    /// Everything that may happen next, without the faults.
    fn steps(&self) -> Vec<Step> {
        let mut steps = Vec::new();
        for (side, process) in [(Predecessor, &self.predecessor), (Successor, &self.successor)] {
            if !process.started {
                // A handoff needs somebody to ask; that nobody was ever there is another test.
                if side == Predecessor || self.predecessor.started {
                    steps.push(Step::Start(side));
                }
            } else if process.is_up() {
                steps.extend((!process.events.is_empty()).then_some(Step::Decide(side)));
                steps.extend((!process.orders.is_empty()).then_some(Step::CarryOut(side)));
                let due = |counter: &Counter| counter.deadline() <= self.now();
                let is_due = process.may_tick() && process.counter.as_ref().is_some_and(due);
                steps.extend(is_due.then_some(Step::Wake(side)));
            }
        }
        let Wire { request, answer, served, asked } = self.wire;
        let serves = self.predecessor.listening && !self.predecessor.frozen;
        steps.extend((request && served && serves).then_some(Step::ReadRequest));
        steps.extend((asked && (answer.is_some() || !served)).then_some(Step::ReadAnswer));
        steps.extend((self.periods < PERIODS).then_some(Step::Period));
        steps
    }

    /// The faults that are possible now, out of these.
    fn faults<'a>(&self, allowed: &'a [Fault]) -> impl Iterator<Item = Step> + use<'_, 'a> {
        let possible = move |fault: &&Fault| match **fault {
            Fault::Stop(Predecessor) | Fault::Death(Predecessor) => self.predecessor.is_up(),
            Fault::Stop(Successor) | Fault::Death(Successor) => self.successor.is_up(),
            Fault::Impatience => self.wire.asked && self.wire.answer.is_none(),
        };
        allowed
            .iter()
            .filter(|fault| !self.happened(**fault))
            .filter(possible)
            .map(|fault| Step::Fault(*fault))
    }

    fn take(&mut self, step: Step) {
        match step {
            Step::Start(side) => {
                let process = self.process(side);
                process.started = true;
                process.events.push_back(match side {
                    Predecessor => Event::StartedAlone,
                    Successor => Event::StartedAsSuccessor,
                });
            }
            Step::Decide(side) => self.decide(side),
            Step::CarryOut(side) => self.carry_out(side),
            Step::Wake(side) => self.tick(side),
            Step::ReadRequest => {
                self.wire.request = false;
                self.predecessor.events.push_back(Event::HandoffRequested);
            }
            Step::ReadAnswer => {
                let answer = self.wire.answer.map(Event::StateReceived);
                self.wire = Wire::default();
                self.successor.events.push_back(answer.unwrap_or(Event::PredecessorAbsent));
            }
            Step::Period => self.periods += 1,
            Step::Fault(fault) => {
                self.faults.insert(fault);
                match fault {
                    Fault::Stop(side) => self.process(side).events.push_back(Event::StopRequested),
                    Fault::Death(side) => self.end(side),
                    Fault::Impatience => {
                        self.wire.asked = false;
                        self.successor.events.push_back(Event::PredecessorAbsent);
                    }
                }
            }
        }
    }

    /// A supervisor takes one event and gives the orders that follow.
    fn decide(&mut self, side: Side) {
        let process = self.process(side);
        let Some(event) = process.events.pop_front() else { return };
        let lifecycle = std::mem::take(&mut process.lifecycle);
        let (next, effects) = lifecycle.step(event);
        process.lifecycle = next;
        for effect in effects {
            if effect == Effect::Leave {
                // The process ends with its supervisor: what others have not yet done is left.
                return self.end(side);
            }
            self.process(side).orders.push_back(effect);
        }
    }

    fn end(&mut self, side: Side) {
        self.process(side).end();
        match side {
            Predecessor => self.wire.served = false,
            Successor => self.wire.asked = false,
        }
    }

    /// The actors of `side` carry out its next order.
    fn carry_out(&mut self, side: Side) {
        let now = self.now();
        let Some(order) = self.process(side).orders.pop_front() else { return };
        match order {
            Effect::Ask if self.predecessor.is_up() => {
                self.wire = Wire { request: true, answer: None, served: true, asked: true };
            }
            Effect::Ask => self.successor.events.push_back(Event::PredecessorAbsent),
            Effect::Load(state) => {
                let period = Period::from_millis(PERIOD).expect("not zero");
                self.process(side).counter = Some(Counter::starting(state, now, period));
            }
            Effect::Listen => self.process(side).listening = true,
            Effect::Freeze => {
                self.tick(side);
                let process = self.process(side);
                process.frozen = true;
                let state = process.counter.as_ref().expect("loaded before frozen").state();
                process.events.push_back(Event::Frozen(state));
            }
            Effect::Thaw => {
                self.process(side).frozen = false;
                self.tick(side);
            }
            Effect::Send(state) if self.wire.asked => {
                self.wire.answer = Some(state);
                self.state_was_sent = true;
                self.predecessor.events.push_back(Event::StateSent);
            }
            Effect::Send(_) => {
                self.wire.served = false;
                self.predecessor.events.push_back(Event::SuccessorGone);
            }
            Effect::Leave => unreachable!("taken by the supervisor itself"),
        }
    }

    /// Takes every tick that is due on this side.
    fn tick(&mut self, side: Side) {
        let now = self.now();
        let process = self.process(side);
        let counter = process.counter.as_mut().expect("only a loaded counter ticks");
        let ticks: Vec<_> = std::iter::from_fn(|| counter.tick(now)).collect();
        self.ticked.extend(ticks.iter().map(|tick| tick.number));
    }

    /// What holds in every world, on the way as well as at the end.
    fn check(&self) {
        let both = self.predecessor.may_tick() && self.successor.may_tick();
        assert!(!(both && self.state_was_sent), "two owners after the state was sent");
        assert!(!both || self.happened(Fault::Impatience), "two owners, and nobody lost patience");

        let follow = self.ticked.iter().zip(0..).all(|(number, expected)| *number == expected);
        let state_came_along = self.state_was_sent && !self.happened(Fault::Impatience);
        if self.faults.is_empty() || state_came_along {
            assert!(follow, "a number twice, or left out");
        }
    }

    /// What holds where nothing more can happen.
    fn check_end(&self) {
        let phases = [self.predecessor.lifecycle.phase(), self.successor.lifecycle.phase()];
        for phase in phases {
            assert!(matches!(phase, Phase::Serving | Phase::Ended), "nobody stays {phase}");
        }
        let unharmed =
            |side| !self.happened(Fault::Stop(side)) && !self.happened(Fault::Death(side));
        if unharmed(Successor) {
            assert_eq!(phases[1], Phase::Serving, "a successor serves, come what may");
            assert!(self.successor.may_tick() && self.successor.listening, "serving means it");
        }
        if unharmed(Predecessor) {
            let left = phases[0] == Phase::Ended;
            assert_eq!(left, self.state_was_sent, "a predecessor leaves if it sent the state");
            assert!(left || self.predecessor.may_tick(), "serving on means it");
        }
        if self.faults.is_empty() {
            assert_eq!(phases, [Phase::Ended, Phase::Serving], "a handoff happens");
        }
    }
}

/// Every world that can be reached, with the number of ways that lead on from it to an end.
#[derive(Default)]
struct Search {
    ways: HashMap<World, u128>,
    steps: Vec<Step>,
    longest: usize,
}

impl Search {
    /// Looks at the world after `self.steps` and at all that can follow it.
    fn explore(&mut self, allowed: &[Fault]) -> u128 {
        let world = World::after(&self.steps);
        if let Some(ways) = self.ways.get(&world) {
            return *ways;
        }
        self.longest = self.longest.max(self.steps.len());
        world.check();
        let mut next = world.steps();
        let is_end = next.is_empty();
        if is_end {
            world.check_end();
        }
        next.extend(world.faults(allowed));
        let mut ways = u128::from(is_end);
        for step in next {
            self.steps.push(step);
            ways += self.explore(allowed);
            self.steps.pop();
        }
        self.ways.insert(world, ways);
        ways
    }
}

/// A failed check says which steps led to it.
impl Drop for Search {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("after {:#?}", self.steps);
        }
    }
}

fn search(name: &str, allowed: &[Fault]) -> Search {
    let mut search = Search::default();
    let ways = search.explore(allowed);
    let (worlds, longest) = (search.ways.len(), search.longest);
    println!("{name}: {worlds} worlds, {ways} interleavings of at most {longest} steps");
    search
}

#[test]
fn a_handoff_without_faults_ticks_every_number_once_in_every_interleaving() {
    let search = search("no faults", &[]);
    let ticks = |world: &World| world.ticked.len();
    assert!(search.ways.keys().any(|world| ticks(world) as u64 >= PERIODS), "ticks on both sides");
}

#[test]
fn whatever_goes_wrong_and_whenever_no_two_own_a_state_that_was_sent() {
    let search = search("stops, deaths and impatience", &FAULTS);
    for fault in FAULTS {
        assert!(
            search.ways.keys().any(|world| world.faults == BTreeSet::from([fault])),
            "{fault:?} never came"
        );
    }
}
