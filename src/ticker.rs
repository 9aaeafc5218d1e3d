// SPDX-License-Identifier: Apache-2.0
//! Counter: owns the value and its rhythm.
//!
//! Ticks at absolute deadlines and logs each number; carries out what clients ask of it.
//! Whoever replaces the state replaces this actor.
//!
//! Owns the running [`machine::Counter`](early_service_machine::counter::Counter), the timer and,
//! while it ticks, the state file.
//! Never does other I/O than writing that, and never waits for anything but its timer and its
//! mailbox.
//! Ends with the process.
//!
//! **Invariant:** each change stands in the state file before it is logged or answered, so whoever
//! owns next goes on from what anybody has seen.
//!
//! **Invariant:** the ticks that are due come before any command, so a reply never lags behind the
//! clock, not even after the process was stopped for a while.

use std::fmt::Write as _;
use std::time::Duration;

use async_channel::{Receiver, Sender};
use early_service_machine::State;
use early_service_machine::counter::{Command, Counter as Running, Reply, Snapshot};
use early_service_machine::lifecycle::Event;
use early_service_machine::record::Unlogged;
use early_service_machine::schedule::{Monotonic, Period};
use futures_lite::future;
use smol::Timer;

use crate::mailbox::post;
use crate::session::Batch;
use crate::state_file::StateFile;
use crate::{clock, handoff, journal, server};

/// What others tell the counter.
pub(crate) enum Message {
    /// From the handoff: tick on from here.
    Load(Start, Option<StateFile>),
    /// From the server: carry out the commands of one read.
    CarryOut { slot: usize, batch: Box<Batch> },
    /// From the server, after the last batch: stop ticking, give the state and its file to the
    /// handoff, and tell the supervisor.
    Freeze,
    /// From the handoff: the predecessor died with its last ticks, up to this state, not known to be
    /// in the log.
    Unlogged(State, Unlogged),
    /// From the server, after the last batch: stop ticking for good, and confirm it.
    Leave,
}

/// Where the count begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Start {
    /// At a state without a rhythm: the first tick comes one period from now.
    Anew(State),
    /// Where a living owner stopped.
    After(Snapshot),
    /// Where an owner died, with its last ticks not known to be in the log.
    AfterDeath { snapshot: Snapshot, unlogged: Unlogged },
}

/// The most ticks that are caught up at once, before the log's writer is given a chance.
const PORTION: usize = 64;

/// How long the end of the process waits for the last ticks to be logged, so that the next owner
/// need not name them as missing, and how often it looks.
///
/// A journal that blocks must not hold up power-off.
const LAST_LINES: Duration = Duration::from_millis(250);
const LOOK_FOR_LINES: Duration = Duration::from_millis(1);

/// The actor.
pub(crate) struct Counter {
    mailbox: Receiver<Message>,
    server: Sender<server::Message>,
    handoff: Sender<handoff::Message>,
    supervisor: Sender<Event>,
    /// Closed when the actor has left.
    alive: Sender<()>,
    period: Period,
    timer: Timer,
    /// What the timer is set to, while the counter ticks.
    armed: Option<Monotonic>,
    running: Option<Running>,
    /// Where the state is kept, while it is ours.
    state_file: Option<StateFile>,
    /// What `set_counter` replaced since the last tick, to be logged with the next one.
    replaced: Option<u64>,
    /// How many ticks came since a command last changed the state; more than any where none has.
    since_change: u64,
}

enum Wake {
    Deadline,
    Message(Message),
}

impl Counter {
    pub(crate) fn new(
        mailbox: Receiver<Message>,
        server: Sender<server::Message>,
        handoff: Sender<handoff::Message>,
        supervisor: Sender<Event>,
        alive: Sender<()>,
        period: Period,
    ) -> Self {
        Self {
            mailbox,
            server,
            handoff,
            supervisor,
            alive,
            period,
            timer: Timer::never(),
            armed: None,
            running: None,
            state_file: None,
            replaced: None,
            since_change: u64::MAX,
        }
    }

    pub(crate) async fn run(mut self) {
        while let Some(wake) = self.next_event().await {
            let mut patience = journal::Patience::default();
            while self.tick(clock::now(), PORTION) == PORTION {
                patience.wait_for_room(PORTION).await;
            }
            if let Wake::Message(Message::Leave) = wake {
                return self.leave().await;
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
        self.catch_up(now);
        match wake {
            // The timer has fired and must be set again, even if it fired a moment early.
            Wake::Deadline => self.armed = None,
            Wake::Message(Message::Load(start, state_file)) => {
                self.state_file = state_file;
                self.load(start, now);
            }
            Wake::Message(Message::CarryOut { slot, mut batch }) => {
                self.carry_out(&mut batch);
                post(&self.server, server::Message::CarriedOut { slot, batch });
            }
            Wake::Message(Message::Freeze) => self.freeze(),
            Wake::Message(Message::Unlogged(state, count)) => say_unlogged(state, count),
            Wake::Message(Message::Leave) => self.running = None,
        }
        self.arm();
    }

    fn load(&mut self, start: Start, now: Monotonic) {
        let counter = match start {
            Start::Anew(state) => Running::starting(state, now, self.period),
            Start::After(snapshot) => Running::resuming(snapshot, now, self.period),
            Start::AfterDeath { snapshot, unlogged } => {
                let counter = Running::resuming(snapshot, now, self.period);
                self.say_recovered(&counter, unlogged, now);
                counter
            }
        };
        self.running = Some(counter);
        self.store(0);
        self.catch_up(now);
    }

    /// Says where the count goes on.
    fn say_recovered(&self, counter: &Running, unlogged: Unlogged, now: Monotonic) {
        let (next, due) = (counter.state().next, counter.due(now));
        let file = self.state_file.as_ref().map(|file| file.path().display().to_string());
        let file = file.as_deref().unwrap_or("the predecessor");
        log::info!("Recovering at {next} from {file}: {due} ticks are due since it was written");
        say_unlogged(counter.state(), unlogged);
    }

    /// Gives away all that is needed to tick.
    fn freeze(&mut self) {
        let Some(counter) = self.running.take() else {
            return;
        };
        if let Some(previous) = self.replaced.take() {
            log_set(counter.state().next, previous);
        }
        let (snapshot, state_file) = (counter.snapshot(), self.state_file.take());
        post(&self.handoff, handoff::Message::State(snapshot, state_file));
        post(&self.supervisor, Event::Frozen);
    }

    /// Ticks no more; the state is left in its file with what of it is in the log by now.
    async fn leave(mut self) {
        if self.state_file.is_some() {
            let start = clock::now();
            let waited = || Duration::from_nanos(clock::now().nanos_since(start));
            while journal::unlogged() > 0 && waited() < LAST_LINES {
                Timer::after(LOOK_FOR_LINES).await;
            }
            self.store(0);
        }
        drop(self.state_file);
        drop(self.alive);
    }

    /// Writes the state to its file, before `to_be_logged` ticks are.
    fn store(&mut self, to_be_logged: u64) {
        if let (Some(file), Some(counter)) = (&mut self.state_file, &self.running) {
            let ticks = journal::unlogged().saturating_add(to_be_logged);
            let unlogged = Unlogged { ticks, unbroken: ticks.min(self.since_change) };
            file.store(counter.snapshot(), unlogged);
        }
    }

    /// Sets the timer where the deadline is another one than before: setting it may wake a thread.
    fn arm(&mut self) {
        let deadline = self.running.as_ref().map(Running::deadline);
        if deadline != self.armed {
            self.armed = deadline;
            match deadline {
                Some(deadline) => self.timer.set_at(clock::instant(deadline)),
                None => self.timer.clear(),
            }
        }
    }

    /// Takes every tick that is due.
    fn catch_up(&mut self, now: Monotonic) {
        while self.tick(now, PORTION) == PORTION {}
    }

    /// Takes ticks that are due, `at_most` so many, and says how many.
    fn tick(&mut self, now: Monotonic, at_most: usize) -> usize {
        let Some(counter) = &mut self.running else {
            return 0;
        };
        // What is logged is what was counted and written before.
        let mut uncounted = *counter;
        let taken = std::iter::from_fn(|| counter.tick(now)).take(at_most).count();
        if taken == 0 {
            return 0;
        }
        let count = u64::try_from(taken).unwrap_or_default();
        self.since_change = self.since_change.saturating_add(count);
        self.store(count);
        for tick in std::iter::from_fn(|| uncounted.tick(now)).take(taken) {
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
        let Some(counter) = &mut self.running else {
            return;
        };
        let mut has_changed = false;
        for command in batch.take_commands() {
            let reply = counter.apply(command);
            if let (Command::Set(_), Reply::Previous(previous)) = (command, reply) {
                self.replaced.get_or_insert(previous);
                has_changed = true;
            }
            let written = writeln!(batch.replies, "{reply}");
            debug_assert!(written.is_ok(), "the session made sure of room");
        }
        if std::mem::take(&mut batch.status) {
            let written = writeln!(batch.replies, "{counter}");
            debug_assert!(written.is_ok(), "the session made sure of room");
        }
        if has_changed {
            self.since_change = 0;
            self.store(0);
        }
    }
}

/// Says which numbers before `state` may be missing from the log.
fn say_unlogged(state: State, Unlogged { ticks, unbroken }: Unlogged) {
    const WHY: &str = "may be missing from the log: queued in a process that died";
    let (first, last) = (state.next.wrapping_sub(unbroken), state.next.wrapping_sub(1));
    match ticks.saturating_sub(unbroken) {
        0 => {}
        before => log::warn!("The last {before} before the counter was set to {first} {WHY}"),
    }
    match unbroken {
        0 => {}
        1 => log::warn!("Number {last} {WHY}"),
        _ => log::warn!("Numbers {first} to {last} {WHY}"),
    }
}

/// Logged once for all that was set between two ticks: thousands a second can be.
fn log_set(number: u64, previous: u64) {
    log::info!(
        target: journal::CLIENT,
        "Setting the counter to {number}, previous value {previous}"
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A counter with the far ends of its mailboxes, and a clock that the test turns.
    struct Bench {
        counter: Counter,
        _mailbox: Sender<Message>,
        server: Receiver<server::Message>,
        handoff: Receiver<handoff::Message>,
        supervisor: Receiver<Event>,
        start: Monotonic,
    }

    impl Bench {
        fn new() -> Self {
            let (_mailbox, mailbox) = async_channel::bounded(1);
            let (to_server, server) = async_channel::bounded(4);
            let (to_handoff, handoff) = async_channel::bounded(4);
            let (to_supervisor, supervisor) = async_channel::bounded(4);
            let (alive, _) = async_channel::bounded(1);
            let period = Period::from_millis(100).expect("100 is not 0");
            let counter =
                Counter::new(mailbox, to_server, to_handoff, to_supervisor, alive, period);
            let start = clock::now();
            Self { counter, _mailbox, server, handoff, supervisor, start }
        }

        /// One that counts, and keeps its state in a file.
        fn with_file(test: &str) -> Self {
            let path = format!("early-service-{}-{test}.state", std::process::id());
            let path = std::env::temp_dir().join(path);
            let file = StateFile::open(&path).expect("a scratch file");
            std::fs::remove_file(path).expect("our own");
            let mut bench = Self::new();
            bench.tell(0, Message::Load(Start::Anew(State::default()), Some(file)));
            bench
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
        bench.tell(0, Message::Load(Start::Anew(State { next: 10 }), None));
        assert_eq!(bench.status_at(99), "counter=10 ticks_late=0\n");
        assert_eq!(bench.status_at(3050), "counter=40 ticks_late=29\n");
    }

    #[test]
    fn a_frozen_counter_does_not_tick_and_its_rhythm_goes_on_without_a_shift() {
        let mut bench = Bench::new();
        bench.tell(0, Message::Load(Start::Anew(State { next: 10 }), None));
        bench.tell(250, Message::Freeze);
        assert_eq!(bench.supervisor.try_recv(), Ok(Event::Frozen));
        assert!(!bench.counter.timer.will_fire());
        bench.counter.handle(Wake::Deadline, clock::now());
        let Ok(handoff::Message::State(snapshot, None)) = bench.handoff.try_recv() else {
            panic!("the state is with the handoff")
        };
        assert_eq!(snapshot.state, State { next: 12 });
        bench.tell(450, Message::Load(Start::After(snapshot), None));
        assert!(bench.counter.timer.will_fire());
        assert_eq!(bench.status_at(499), "counter=14 ticks_late=1\n");
        assert_eq!(bench.status_at(500), "counter=15 ticks_late=1\n");
    }

    /// What this thread allocates for so many of these.
    fn allocated(count: usize, mut once: impl FnMut()) -> u64 {
        allocation_counter::measure(|| (0..count).for_each(|_| once())).count_total
    }

    #[test]
    fn a_tick_allocates_what_its_timer_and_mailbox_do_and_nothing_else() {
        // The reactor's table of timers, which it looks after at times of its own.
        const GROWTH: u64 = 2;
        // The same waits without a counter.
        let (_sender, mailbox) = async_channel::bounded::<Message>(1);
        let mut timer = Timer::never();
        let mut deadline = clock::now().as_nanos();
        let mut bare = || {
            deadline += 100_000_000;
            timer.set_at(clock::instant(Monotonic::from_nanos(deadline)));
            let waits = future::or(async { _ = (&mut timer).await }, async {
                _ = mailbox.recv().await;
            });
            assert!(future::block_on(future::poll_once(waits)).is_none());
        };

        let mut bench = Bench::with_file("ticks");
        let mut ms = 0;
        let mut tick = || {
            ms += 100;
            let now = Monotonic::from_nanos(bench.start.as_nanos() + ms * 1_000_000);
            bench.counter.handle(Wake::Deadline, now);
            let waits = future::poll_once(bench.counter.next_event());
            assert!(future::block_on(waits).is_none());
        };
        // The first of each sets things up that stay.
        allocated(10, &mut bare);
        allocated(10, &mut tick);
        for count in [1, 100, 1000] {
            let (bare, ticks) = (allocated(count, &mut bare), allocated(count, &mut tick));
            assert!(ticks.abs_diff(bare) <= GROWTH, "{count} ticks: {ticks}, and {bare} without");
        }
    }

    #[test]
    fn commands_allocate_nothing() {
        let mut bench = Bench::with_file("commands");
        let mut spare = Some(Batch::new());
        let mut replies = 0;
        let mut ask = || {
            let mut batch = spare.take().expect("it came back");
            for command in [Command::Get, Command::Set(137), Command::Get] {
                assert!(batch.push(command));
            }
            bench.tell(50, Message::CarryOut { slot: 0, batch });
            let Ok(server::Message::CarriedOut { mut batch, .. }) = bench.server.try_recv() else {
                panic!("the batch did not come back")
            };
            let unsent = batch.replies.unsent().len();
            replies += unsent;
            batch.replies.sent(unsent);
            spare = Some(batch);
        };
        allocated(1, &mut ask);
        assert_eq!(allocated(1000, &mut ask), 0);
        assert!(replies > 20_000, "{replies} bytes of replies");
    }
}
