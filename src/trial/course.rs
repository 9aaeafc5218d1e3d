// SPDX-License-Identifier: Apache-2.0
//! Course of a trial: the actors of up to two processes, and what they would receive in a handoff.
//!
//! The course is in the place of ticker, server, handoff and clock. The order of their messages is
//! that of `handoff::ownership`.

use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Waker};

use async_channel::{Receiver, Sender};
use early_service_machine::device::Device as Phase;
use early_service_machine::lifecycle::{self, takeover::Origin};
use futures_lite::future;

use crate::device::Device;
use crate::device::actor::{Actor, Parts};
use crate::handoff::bundle::{Bundle, Named};
use crate::messages::{self, Question, ToDevice, ToTicker, post};
use crate::status::Status;
use crate::trial::clock::Clock;
use crate::trial::traced::{self, Trace, Traced};
use crate::trial::{Arrow, Call, Fault, Side};

/// How long an owner serves before and after a handoff, in nanoseconds.
const SERVING: u64 = 3_000_000_000;

/// How long each arrow takes, in nanoseconds: that of a successor that is stopped for a while.
const ARROW: u64 = 200_000_000;

/// A process, as far as its device knows it.
struct Process<D: Device> {
    side: Side,
    /// None when it has ended.
    actor: Option<Pin<Box<dyn Future<Output = ()>>>>,
    device: Sender<ToDevice<D::Service>>,
    ticker: Receiver<ToTicker<D::Service>>,
    questions: Receiver<Question<D::Service>>,
    status: Rc<Status>,
}

pub(super) struct Course<D: Device> {
    clock: Rc<Clock>,
    /// The state that every process loads, as from the state file.
    state: D::Service,
    processes: Vec<Process<D>>,
}

impl<D: Device> Course<D> {
    pub(super) fn make(fault: Fault) -> Result<Vec<Call>, String> {
        let clock = Rc::<Clock>::default();
        Trace::begin(Rc::clone(&clock));
        let mut course = Self { clock, state: D::Service::default(), processes: Vec::new() };
        course.handoff(fault);
        drop(course);
        Trace::end()
    }

    fn handoff(&mut self, fault: Fault) {
        self.start(Side::Predecessor, Vec::new());
        self.own(Side::Predecessor, Origin::New, false, Vec::new());
        self.serve(Side::Predecessor);
        if fault == Fault::Device {
            traced::with(|trace| trace.fails = true);
            self.serve(Side::Predecessor);
        }
        self.start(Side::Successor, Vec::new());
        // What is on its way to the successor, and what PID 1 stores for it.
        let (mut sent, mut stored) = (Vec::new(), Vec::new());
        for arrow in Arrow::ALL {
            match arrow {
                Arrow::Handoff => {
                    (sent, stored) = (self.freeze(), Vec::new());
                    if fault == Fault::Death(Side::Successor, Arrow::Done) {
                        stored = sent.iter().filter_map(copy).collect();
                    }
                }
                Arrow::State => self.tell(Side::Predecessor, ToDevice::Offered),
                Arrow::End | Arrow::Prepared => {}
                Arrow::Commit => {
                    self.tell(Side::Predecessor, ToDevice::Committed);
                    self.own(Side::Successor, Origin::Adopted, true, std::mem::take(&mut sent));
                }
                Arrow::Done => self.tell(Side::Predecessor, ToDevice::Leave),
            }
            self.pass(ARROW);
            if let Fault::Death(side, at) = fault {
                if at == arrow {
                    return self.die(side, at, sent, stored);
                }
            }
        }
        self.die(Side::Predecessor, Arrow::Done, sent, stored);
    }

    /// Ends a process without a warning; another one becomes or remains the owner, and stops.
    fn die(&mut self, side: Side, after: Arrow, mut sent: Vec<Named>, stored: Vec<Named>) {
        traced::with(|trace| trace.side = side);
        self.processes.retain(|process| process.side != side);
        if side == Side::Predecessor && after < Arrow::End || side == Side::Successor {
            sent.clear();
        }
        let owner = match (side, after) {
            (Side::Predecessor, Arrow::Commit | Arrow::Done) => {
                self.tell(Side::Successor, ToDevice::PredecessorLeft);
                Side::Successor
            }
            (Side::Predecessor, _) => {
                self.own(Side::Successor, Origin::Recovered, false, sent);
                Side::Successor
            }
            (_, Arrow::Done) => {
                self.start(Side::Restarted, stored);
                self.own(Side::Restarted, Origin::Recovered, false, sent);
                Side::Restarted
            }
            _ => {
                self.own(Side::Predecessor, Origin::Recovered, false, sent);
                Side::Predecessor
            }
        };
        self.serve(owner);
        self.tell(owner, ToDevice::Leave);
    }

    fn start(&mut self, side: Side, stored: Vec<Named>) {
        traced::with(|trace| trace.side = side);
        let (device, mailbox) = messages::to_device();
        let (to_ticker, ticker) = messages::to_ticker();
        let (to_questions, questions) = messages::questions();
        let status = Rc::<Status>::default();
        let actor = Actor::<Traced<D>>::new(Parts {
            mailbox,
            ticker: to_ticker,
            questions: to_questions,
            done_guard: messages::done().0,
            status: Rc::clone(&status),
            status_changed: messages::continued().0,
            stored,
            trial: Some(Rc::clone(&self.clock)),
        });
        let actor: Option<Pin<Box<dyn Future<Output = ()>>>> = Some(Box::pin(actor.run()));
        self.processes.push(Process { side, actor, device, ticker, questions, status });
    }

    fn process(&self, side: Side) -> &Process<D> {
        let process = self.processes.iter().find(|process| process.side == side);
        process.expect("it is told nothing before its start or after its end")
    }

    fn tell(&mut self, side: Side, message: ToDevice<D::Service>) {
        post(&self.process(side).device, message);
        self.pass(0);
    }

    fn own(&mut self, side: Side, origin: Origin, predecessor_leaves: bool, named: Vec<Named>) {
        let state = self.state;
        self.tell(side, ToDevice::Owned { origin, predecessor_leaves, state, named });
    }

    /// Has the predecessor freeze; returns the copies for the successor.
    fn freeze(&mut self) -> Vec<Named> {
        self.tell(Side::Predecessor, ToDevice::Freeze(Bundle::default()));
        match self.process(Side::Predecessor).ticker.try_recv() {
            Ok(ToTicker::Freeze(Bundle { incomplete: Some(error), .. })) => {
                traced::wrong("freeze", error);
                Vec::new()
            }
            Ok(ToTicker::Freeze(bundle)) => bundle.named,
            _ => Vec::new(),
        }
    }

    /// Lets the owner serve for a while.
    fn serve(&mut self, side: Side) {
        self.pass(SERVING);
        let status = &self.process(side).status;
        if status.device.get() != Some(Phase::Running) {
            let status = status.sentence(lifecycle::Phase::Serving);
            traced::with(|trace| trace.side = side);
            traced::wrong("run", format_args!("the device does not run ({status})"));
        }
    }

    /// Lets this time pass: sets the clock to each deadline in turn.
    fn pass(&mut self, nanoseconds: u64) {
        let end = self.clock.now().after_nanos(nanoseconds);
        loop {
            // Polls the reactor once, for a device that waits for its descriptors.
            smol::block_on(future::yield_now());
            self.clock.take_next();
            if self.poll() {
                continue;
            }
            match self.clock.take_next().filter(|next| *next <= end) {
                Some(next) => self.clock.set(next),
                None => return self.clock.set(end),
            }
        }
    }

    /// Polls each process; returns whether one was answered and can continue.
    fn poll(&mut self) -> bool {
        let mut is_answered = false;
        for process in &mut self.processes {
            traced::with(|trace| trace.side = process.side);
            let Some(actor) = &mut process.actor else { continue };
            if actor.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_ready() {
                process.actor = None;
            }
            while let Ok(Question { command, answer }) = process.questions.try_recv() {
                use early_service_machine::State as _;
                let reply = command.map(|command| {
                    traced::note("apply");
                    self.state.apply(command)
                });
                let _ = answer.try_send((self.state, reply));
                is_answered = true;
            }
        }
        is_answered
    }
}

/// A copy of a descriptor with its name.
fn copy(Named { name, descriptor }: &Named) -> Option<Named> {
    Some(Named { name: name.clone(), descriptor: descriptor.try_clone().ok()? })
}
