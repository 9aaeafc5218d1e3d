// SPDX-License-Identifier: Apache-2.0
//! Counter: owns the value and its rhythm.
//!
//! Ticks at absolute deadlines and logs each number; carries out what clients ask of it.
//! Whoever replaces the state replaces this actor.
//!
//! Owns the running [`machine::Counter`](early_service_machine::counter::Counter) and the timer.
//! Never does I/O and never waits for anything but its timer and its mailbox.
//! Ends with the process.
//!
//! **Invariant:** the ticks that are due come before any command, so a reply never lags behind the
//! clock, not even after the process was stopped for a while.

use std::fmt::Write as _;

use async_channel::{Receiver, Sender};
use early_service_machine::State;
use early_service_machine::counter::{Command, Counter as Running, Reply};
use early_service_machine::lifecycle::Event;
use early_service_machine::schedule::{Monotonic, Period};
use futures_lite::future;
use smol::Timer;

use crate::mailbox::post;
use crate::session::Batch;
use crate::{clock, journal, server};

/// What others tell the counter.
pub(crate) enum Message {
    /// From the supervisor: tick on from this state.
    Load(State),
    /// From the server: carry out the commands of one read.
    CarryOut { slot: usize, batch: Box<Batch> },
    /// From the server, after the last batch: stop ticking, and tell the supervisor the state.
    Freeze,
    /// From the server: tick again, and catch up.
    Thaw,
}

/// The most ticks that are caught up at once, before the log's writer is given a chance.
const PORTION: usize = 64;

/// The actor.
pub(crate) struct Counter {
    mailbox: Receiver<Message>,
    server: Sender<server::Message>,
    supervisor: Sender<Event>,
    period: Period,
    timer: Timer,
    /// What the timer is set to, while the counter ticks.
    armed: Option<Monotonic>,
    rhythm: Rhythm,
    /// What `set_counter` replaced since the last tick, to be logged with the next one.
    replaced: Option<u64>,
}

/// Whether there is something to count.
enum Rhythm {
    Silent,
    Ticking(Running),
    Frozen(Running),
}

enum Wake {
    Deadline,
    Message(Message),
}

impl Counter {
    pub(crate) fn new(
        mailbox: Receiver<Message>,
        server: Sender<server::Message>,
        supervisor: Sender<Event>,
        period: Period,
    ) -> Self {
        let (timer, armed) = (Timer::never(), None);
        let (rhythm, replaced) = (Rhythm::Silent, None);
        Self { mailbox, server, supervisor, period, timer, armed, rhythm, replaced }
    }

    pub(crate) async fn run(mut self) {
        while let Some(wake) = self.next_event().await {
            let mut patience = journal::Patience::default();
            while self.tick(clock::now(), PORTION) == PORTION {
                patience.wait_for_room(PORTION).await;
            }
            self.handle(wake, clock::now());
        }
    }

    /// Waits for the next deadline or message; `None` once nobody can send any more.
    async fn next_event(&mut self) -> Option<Wake> {
        let deadline = async {
            (&mut self.timer).await;
            Some(Wake::Deadline)
        };
        let message = async { self.mailbox.recv().await.ok().map(Wake::Message) };
        future::or(deadline, message).await
    }

    fn handle(&mut self, wake: Wake, now: Monotonic) {
        self.tick(now, usize::MAX);
        match wake {
            // The timer has fired and must be set again, even if it fired a moment early.
            Wake::Deadline => self.armed = None,
            Wake::Message(Message::Load(state)) => {
                self.rhythm = Rhythm::Ticking(Running::starting(state, now, self.period));
            }
            Wake::Message(Message::CarryOut { slot, mut batch }) => {
                self.carry_out(&mut batch);
                post(&self.server, server::Message::CarriedOut { slot, batch });
            }
            Wake::Message(Message::Freeze) => {
                if let Rhythm::Ticking(counter) | Rhythm::Frozen(counter) = self.rhythm {
                    self.rhythm = Rhythm::Frozen(counter);
                    if let Some(previous) = self.replaced.take() {
                        log_set(counter.state().next, previous);
                    }
                    post(&self.supervisor, Event::Frozen(counter.state()));
                }
            }
            Wake::Message(Message::Thaw) => {
                if let Rhythm::Frozen(counter) = self.rhythm {
                    self.rhythm = Rhythm::Ticking(counter);
                    self.tick(now, usize::MAX);
                }
            }
        }
        self.arm();
    }

    /// Sets the timer where the deadline is another one than before: setting it may wake a thread.
    fn arm(&mut self) {
        let deadline = match &self.rhythm {
            Rhythm::Ticking(counter) => Some(counter.deadline()),
            Rhythm::Silent | Rhythm::Frozen(_) => None,
        };
        if deadline != self.armed {
            self.armed = deadline;
            match deadline {
                Some(deadline) => self.timer.set_at(clock::instant(deadline)),
                None => self.timer.clear(),
            }
        }
    }

    /// Takes ticks that are due, `at_most` so many, and says how many.
    fn tick(&mut self, now: Monotonic, at_most: usize) -> usize {
        let Rhythm::Ticking(counter) = &mut self.rhythm else {
            return 0;
        };
        let mut taken = 0;
        while taken < at_most {
            let Some(tick) = counter.tick(now) else { break };
            taken += 1;
            if let Some(previous) = self.replaced.take() {
                log_set(tick.number, previous);
            }
            log::info!(
                target: journal::TICK,
                COUNTER = tick.number,
                DEADLINE_NS = tick.deadline.as_nanos(),
                ACTUAL_NS = now.as_nanos();
                "{}", tick.number
            );
        }
        taken
    }

    fn carry_out(&mut self, batch: &mut Batch) {
        let Rhythm::Ticking(counter) = &mut self.rhythm else {
            return;
        };
        for command in batch.take_commands() {
            let reply = counter.apply(command);
            if let (Command::Set(_), Reply::Previous(previous)) = (command, reply) {
                self.replaced.get_or_insert(previous);
            }
            let written = writeln!(batch.replies, "{reply}");
            debug_assert!(written.is_ok(), "the session made sure of room");
        }
        if std::mem::take(&mut batch.status) {
            let written = writeln!(batch.replies, "{counter}");
            debug_assert!(written.is_ok(), "the session made sure of room");
        }
    }
}

/// Logged once for all that was set between two ticks: thousands a second can be.
fn log_set(number: u64, previous: u64) {
    log::info!("Setting the counter to {number}, previous value {previous}");
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A counter with the far ends of its mailboxes, and a clock that the test turns.
    struct Bench {
        counter: Counter,
        server: Receiver<server::Message>,
        supervisor: Receiver<Event>,
        start: Monotonic,
    }

    impl Bench {
        fn new() -> Self {
            let (_, mailbox) = async_channel::bounded(1);
            let (to_server, server) = async_channel::bounded(4);
            let (to_supervisor, supervisor) = async_channel::bounded(4);
            let period = Period::from_millis(100).expect("100 is not 0");
            let counter = Counter::new(mailbox, to_server, to_supervisor, period);
            Self { counter, server, supervisor, start: clock::now() }
        }

        fn tell(&mut self, ms: u64, message: Message) {
            let now = Monotonic::from_nanos(self.start.as_nanos() + ms * 1_000_000);
            self.counter.handle(Wake::Message(message), now);
        }

        fn status_at(&mut self, ms: u64) -> String {
            let mut batch = Batch::new();
            batch.status = true;
            self.tell(ms, Message::CarryOut { slot: 7, batch });
            match self.server.try_recv() {
                Ok(server::Message::CarriedOut { slot: 7, batch }) => {
                    String::from_utf8_lossy(batch.replies.unsent()).into_owned()
                }
                _ => panic!("the batch did not come back"),
            }
        }
    }

    #[test]
    fn ticks_that_are_due_come_before_the_command() {
        let mut bench = Bench::new();
        bench.tell(0, Message::Load(State { next: 10 }));
        assert_eq!(bench.status_at(99), "counter=10 ticks_late=0\n");
        assert_eq!(bench.status_at(3050), "counter=40 ticks_late=29\n");
    }

    #[test]
    fn a_frozen_counter_does_not_tick_and_catches_up_when_it_thaws() {
        let mut bench = Bench::new();
        bench.tell(0, Message::Load(State { next: 10 }));
        bench.tell(250, Message::Freeze);
        assert_eq!(bench.supervisor.try_recv(), Ok(Event::Frozen(State { next: 12 })));
        assert!(!bench.counter.timer.will_fire());
        bench.counter.handle(Wake::Deadline, clock::now());
        bench.tell(450, Message::Thaw);
        assert!(bench.counter.timer.will_fire());
        assert_eq!(bench.status_at(450), "counter=14 ticks_late=2\n");
    }
}
