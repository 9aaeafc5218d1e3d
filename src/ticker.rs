// SPDX-License-Identifier: Apache-2.0
//! Ticker: owns the state and its rhythm.
//!
//! Ticks at absolute deadlines and logs each tick; carries out what clients ask of the state.
//!
//! Owns the [`Ticking`] state, the timer and, while it ticks, the state file.
//! Never knows what the state is: what is said of it are the words of its [`Service`].
//! Never does other I/O than writing that, and never waits for anything but its timer, its mailbox
//! and, for a moment, the log's writer.
//! Ends with the process.
//!
//! **Invariant:** each change stands in the state file before it is logged or answered, so whoever
//! owns next goes on from what anybody has seen.
//!
//! **Invariant:** the ticks that are due come before any command, so a reply never lags behind the
//! clock, not even after the process was stopped for a while.
//!
//! **Invariant:** one turn takes about [`TURN`] at most, however many ticks are due; between two
//! turns every other actor has one.
//! Commands that come meanwhile go back to the server and wait there; `status` is answered, and says
//! how many ticks are due.

use std::fmt::Write as _;
use std::time::Duration;

use async_channel::{Receiver, Sender, TryRecvError};
use early_service_machine::lifecycle;
use early_service_machine::record::Unlogged;
use early_service_machine::schedule::{Monotonic, Period};
use early_service_machine::timeline::{Snapshot, Tick, Ticking};
use futures_lite::future;
use log::{Level, LevelFilter, Record};
use smol::Timer;

use crate::handoff::state_file::StateFile;
use crate::journal::message_id::Id;
use crate::journal::{self, LOG};
use crate::messages::{ToHandoff, ToServer, ToTicker, post};
use crate::platform::clock;
use crate::server::session::Batch;
use crate::service::{Service, TickFields, written};
use crate::status::Persistence;

/// Where the state begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Start<S> {
    /// At a state without a rhythm: the first tick comes one period from now.
    Anew(S),
    /// Where a living owner stopped, which may still have to log its last ticks.
    After { snapshot: Snapshot<S>, unlogged: Unlogged },
    /// Where an owner died, with its last ticks not known to be in the log.
    AfterDeath { snapshot: Snapshot<S>, unlogged: Unlogged },
}

/// The most ticks that are caught up at once, before the log's writer is given a chance.
const PORTION: usize = 64;

/// The most missed ticks that are logged one by one, eight times what the log's queue holds: the
/// writer has [`RoomWait`](journal::RoomWait) to write most of them out meanwhile.
///
/// More, and one line names the first and the last of them; with fewer, a process that was stopped
/// for some seconds at a short period would leave no line of each.
const ONE_BY_ONE: u64 = 2048;

/// How long one turn of catching up takes at the most, but for its last step, which takes about as
/// long again.
///
/// Longer, and the other actors wait that long; shorter, and more of the time goes into writing the
/// state file after each turn.
const TURN: Duration = Duration::from_millis(5);

/// How long the ticker rests between two turns of catching up.
///
/// Not only for the next task: the supervisor is polled when none is ready, or after 200 turns of them,
/// which would be a second.
const REST: Duration = Duration::from_micros(100);

/// How long a state whose ticks take their time may be caught up before the log says how far it is.
const PROGRESS: Duration = Duration::from_secs(5);

/// How long the end of the process waits for the last ticks to be logged, so that the next owner
/// need not name them as missing, and how often it looks.
///
/// A journal that blocks must not hold up power-off.
pub(crate) const LAST_LINES: Duration = Duration::from_millis(250);
const LOOK_FOR_LINES: Duration = Duration::from_millis(1);

/// The actor.
pub(crate) struct Ticker<S: Service> {
    mailbox: Receiver<ToTicker<S>>,
    server: Sender<ToServer<S>>,
    handoff: Sender<ToHandoff<S>>,
    supervisor: Sender<lifecycle::Event>,
    /// Closed when the actor has left.
    alive: Sender<()>,
    period: Period,
    timer: Timer,
    /// What the timer is set to, while the state ticks.
    armed: Option<Monotonic>,
    running: Option<Ticking<S>>,
    /// Where the state is kept, while it is ours.
    state_file: Option<StateFile>,
    /// What commands replaced since the last tick, to be logged with the next one.
    replaced: Option<S>,
    /// How many ticks came since a command last changed the state; more than any where none has.
    since_change: u64,
    /// The ticks before ours that are not known to be in the log.
    inherited: Option<Inherited>,
    /// More ticks are due than one turn took.
    is_behind: bool,
    /// The server was given back commands since, and waits for the word.
    has_given_back: bool,
    /// To be frozen, and whether only once no tick is due.
    is_freezing: bool,
    catch_up_first: bool,
    /// The ticks that were caught up and not logged one by one.
    unlogged: Option<Range<S>>,
    room_wait: journal::RoomWait,
}

/// The last ticks of the owner before, until its log or ours is known to name them.
///
/// They stand in the state file as well: if this process dies, the next owner names them.
struct Inherited {
    unlogged: Unlogged,
    /// How many ticks came since.
    since: u64,
    /// How many had come when the log was told of them.
    named: Option<u64>,
}

/// Ticks that one line of the log stands for.
struct Range<S> {
    count: u64,
    last: Tick<S>,
    /// When the first of them was made up for.
    since: Monotonic,
}

enum Event<S: Service> {
    Deadline,
    Message(ToTicker<S>),
}

impl Inherited {
    /// Whether a line about them is in the log, `unlogged` of our own ticks being on their way: it
    /// stands before the first tick that came after it.
    fn is_named(&self, unlogged: u64) -> bool {
        self.named.is_some_and(|named| self.since.saturating_sub(named) > unlogged)
    }

    /// These and all of our own, `since_change` of which no command broke.
    fn with_ours(&self, since_change: u64) -> Unlogged {
        let Self { unlogged: Unlogged { ticks, unbroken }, since, .. } = self;
        let (ticks, unbroken) = (ticks.saturating_add(*since), unbroken.saturating_add(*since));
        Unlogged { ticks, unbroken: unbroken.min(since_change) }
    }
}

impl<S: Service> Ticker<S> {
    pub(crate) fn new(
        mailbox: Receiver<ToTicker<S>>,
        server: Sender<ToServer<S>>,
        handoff: Sender<ToHandoff<S>>,
        supervisor: Sender<lifecycle::Event>,
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
            inherited: None,
            is_behind: false,
            has_given_back: false,
            is_freezing: false,
            catch_up_first: false,
            unlogged: None,
            room_wait: journal::RoomWait::default(),
        }
    }

    pub(crate) async fn run(mut self) {
        while let Some(event) = self.next_event().await {
            let is_end = matches!(event, Event::Message(ToTicker::Leave));
            self.handle(event, clock::now());
            if is_end {
                return self.leave().await;
            }
        }
    }

    /// Waits for the next deadline or message, or for the next turn of catching up; `None` once nobody
    /// can send any more.
    async fn next_event(&mut self) -> Option<Event<S>> {
        if self.is_behind {
            if self.unlogged.is_none() {
                self.room_wait.wait(&LOG, PORTION).await;
            }
            Timer::after(REST).await;
            return match self.mailbox.try_recv() {
                Ok(message) => Some(Event::Message(message)),
                Err(TryRecvError::Empty) => Some(Event::Deadline),
                Err(TryRecvError::Closed) => None,
            };
        }
        self.room_wait = journal::RoomWait::default();
        let deadline = async {
            (&mut self.timer).await;
            Some(Event::Deadline)
        };
        let message = async { self.mailbox.recv().await.ok().map(Event::Message) };
        future::or(deadline, message).await
    }

    fn handle(&mut self, event: Event<S>, now: Monotonic) {
        self.catch_up(now);
        match event {
            // The timer has fired and must be set again, even if it fired a moment early.
            Event::Deadline => self.armed = None,
            Event::Message(ToTicker::Load(start, state_file)) => {
                self.state_file = state_file;
                self.load(start, now);
            }
            Event::Message(ToTicker::CarryOut { slot, mut batch }) => {
                if self.is_behind && !batch.status {
                    self.has_given_back = true;
                } else {
                    self.carry_out(&mut batch, now);
                }
                post(&self.server, ToServer::BatchDone { slot, batch });
            }
            Event::Message(ToTicker::Freeze) => self.is_freezing = true,
            Event::Message(ToTicker::CatchUpFirst) => self.catch_up_first = true,
            Event::Message(ToTicker::Unlogged(state, count)) => {
                say_unlogged(state, count);
                if let Some(inherited) = &mut self.inherited {
                    inherited.named = Some(inherited.since);
                }
                self.make_file_private();
            }
            Event::Message(ToTicker::Logged) => {
                self.inherited = None;
                self.make_file_private();
            }
            Event::Message(ToTicker::Leave) => self.log_range(),
        }
        if self.is_freezing && !(self.is_behind && self.catch_up_first) {
            self.freeze();
        }
        if self.has_given_back && !self.is_behind {
            self.has_given_back = false;
            post(&self.server, ToServer::CaughtUp);
        }
        // A turn that follows at once needs no timer.
        if !self.is_behind {
            self.arm();
        }
    }

    fn load(&mut self, start: Start<S>, now: Monotonic) {
        self.inherited = None;
        if let Start::After { snapshot, unlogged } | Start::AfterDeath { snapshot, unlogged } =
            start
        {
            let is_named = matches!(start, Start::AfterDeath { .. });
            if unlogged.ticks > 0 {
                let named = is_named.then_some(0);
                self.inherited = Some(Inherited { unlogged, since: 0, named });
            }
            let (before, period) = (snapshot.period, self.period);
            if before != period {
                log::info!("Changing the period from {before} to {period}");
            }
        }
        let running = match start {
            Start::Anew(state) => Ticking::starting(state, now, self.period),
            Start::After { snapshot, .. } => Ticking::resuming(snapshot, now, self.period),
            Start::AfterDeath { snapshot, unlogged } => {
                let running = Ticking::resuming(snapshot, now, self.period);
                self.say_recovered(&running, unlogged, now);
                running
            }
        };
        self.running = Some(running);
        self.store(0);
        self.catch_up(now);
    }

    /// Replaces a file that others have open, now that no predecessor has it any more.
    fn make_file_private(&mut self) {
        if let Some(Err(error)) = self.state_file.as_mut().map(StateFile::make_private) {
            log::warn!("{error}: others may have it open until the next start");
        }
        // Whoever had the old one open may have written to it.
        self.store(0);
    }

    /// Says where the state goes on.
    fn say_recovered(&self, running: &Ticking<S>, unlogged: Unlogged, now: Monotonic) {
        let (state, due) = (running.state(), running.due(now));
        let file = self.state_file.as_ref().map(|file| file.path().display().to_string());
        let file = file.as_deref().unwrap_or("the predecessor");
        log::info!(
            MESSAGE_ID = Id::Recovered;
            "Recovering at {state} from {file}: {due} ticks are due since it was written"
        );
        say_unlogged(state, unlogged);
    }

    /// Gives away all that is needed to tick.
    fn freeze(&mut self) {
        (self.is_freezing, self.catch_up_first) = (false, false);
        self.log_range();
        let Some(running) = self.running.take() else {
            return;
        };
        // What is still due is the next owner's; the server asks again by itself.
        (self.is_behind, self.has_given_back) = (false, false);
        if let Some(previous) = self.replaced.take() {
            log_change(running.state(), previous);
        }
        let (snapshot, state_file) = (running.snapshot(), self.state_file.take());
        post(&self.handoff, ToHandoff::State(snapshot, state_file));
        post(&self.supervisor, lifecycle::Event::Frozen);
    }

    /// Ticks no more; the state is left in its file with what of it is in the log by now.
    async fn leave(mut self) {
        if self.state_file.is_some() {
            let start = clock::now();
            while LOG.unlogged() > 0 && clock::since(start) < LAST_LINES {
                Timer::after(LOOK_FOR_LINES).await;
            }
            self.store(0);
        }
        drop(self.state_file);
        drop(self.alive);
    }

    /// Writes the state to its file, before `to_be_logged` ticks are.
    fn store(&mut self, to_be_logged: u64) {
        if let (Some(file), Some(running)) = (&mut self.state_file, &self.running) {
            let caught_up = self.unlogged.as_ref().map_or(0, |range| range.count);
            let to_be_logged = to_be_logged.saturating_add(caught_up);
            let ticks = LOG.unlogged().saturating_add(to_be_logged);
            let mut unlogged = Unlogged { ticks, unbroken: ticks.min(self.since_change) };
            if let Some(inherited) = &self.inherited {
                if inherited.is_named(ticks) {
                    self.inherited = None;
                } else {
                    unlogged = inherited.with_ours(self.since_change);
                }
            }
            file.store(running.snapshot(), unlogged);
        }
    }

    /// Sets the timer where the deadline is another one than before: setting it may wake a thread.
    fn arm(&mut self) {
        let deadline = self.running.as_ref().map(Ticking::deadline);
        if deadline != self.armed {
            self.armed = deadline;
            match deadline {
                Some(deadline) => self.timer.set_at(clock::instant(deadline)),
                None => self.timer.clear(),
            }
        }
    }

    /// Takes the ticks that are due, as many as one turn has time for.
    fn catch_up(&mut self, now: Monotonic) {
        let due = |ticker: &Self| match &ticker.running {
            Some(running) if running.deadline() <= now => running.due(now),
            _ => 0,
        };
        match due(self) {
            0 => {}
            many if many > ONE_BY_ONE || self.unlogged.is_some() => self.skip(now),
            _ => _ = self.tick(now, PORTION),
        }
        self.is_behind = due(self) > 0;
        let is_long = |range: &Range<S>| clock::between(range.since, now) > PROGRESS;
        if !self.is_behind || self.unlogged.as_ref().is_some_and(is_long) {
            self.log_range();
        }
    }

    /// Takes ticks that are due without a line for each: at once where the state can, or as many as
    /// one turn has time for.
    fn skip(&mut self, now: Monotonic) {
        let Some(running) = &mut self.running else {
            return;
        };
        if let Some(previous) = self.replaced.take() {
            log_change(running.state(), previous);
        }
        let begin = clock::now();
        // Twice as many in each step, so that a step takes about as long as all before it.
        let (mut taken, mut step) = (0_u64, 1_u64);
        while clock::since(begin) < TURN {
            // Not the last one, whose own fields the line has.
            let skipped = running.skip(now, step.min(running.due(now).saturating_sub(1)));
            if skipped == 0 {
                break;
            }
            taken = taken.saturating_add(skipped);
            step = step.saturating_mul(2);
        }
        let Some(last) = running.tick(now) else {
            return;
        };
        taken = taken.saturating_add(1);
        self.count(taken);
        let before = self.unlogged.take();
        let since = before.as_ref().map_or(now, |range| range.since);
        let count = before.map_or(0, |range| range.count).saturating_add(taken);
        self.unlogged = Some(Range { count, last, since });
        self.store(0);
    }

    /// Counts ticks that were taken.
    fn count(&mut self, ticks: u64) {
        self.since_change = self.since_change.saturating_add(ticks);
        if let Some(inherited) = &mut self.inherited {
            inherited.since = inherited.since.saturating_add(ticks);
        }
    }

    /// Logs one line for all the ticks that were caught up without one.
    fn log_range(&mut self) {
        if let (Some(range), Some(running)) = (self.unlogged.take(), &self.running) {
            log_range(running.state(), range.count, range.last);
        }
    }

    /// Takes ticks that are due, `at_most` so many, and says how many.
    fn tick(&mut self, now: Monotonic, at_most: usize) -> usize {
        let Some(running) = &mut self.running else {
            return 0;
        };
        // What is logged is what was counted and written before.
        let mut uncounted = *running;
        let taken = std::iter::from_fn(|| running.tick(now)).take(at_most).count();
        if taken == 0 {
            return 0;
        }
        let count = u64::try_from(taken).unwrap_or_default();
        self.count(count);
        self.store(count);
        for tick in std::iter::from_fn(|| uncounted.tick(now)).take(taken) {
            if let Some(previous) = self.replaced.take() {
                log_change(tick.state, previous);
            }
            log_tick(tick, now);
        }
        taken
    }

    fn carry_out(&mut self, batch: &mut Batch<S>, now: Monotonic) {
        let Some(running) = &mut self.running else {
            return;
        };
        let mut has_changed = false;
        for command in batch.take_commands() {
            if S::is_change(&command) {
                self.replaced.get_or_insert(running.state());
                has_changed = true;
            }
            let reply = running.apply(command);
            let written = writeln!(batch.replies, "{reply}");
            debug_assert!(written.is_ok(), "the session made sure of room");
        }
        if std::mem::take(&mut batch.status) {
            let (kept, due) = (Persistence::of(self.state_file.as_ref()), running.due(now));
            let written = writeln!(batch.replies, "{kept} ticks_due={due} {running}");
            debug_assert!(written.is_ok(), "the session made sure of room");
        }
        if has_changed {
            self.since_change = 0;
            self.store(0);
        }
    }
}

/// Says which ticks before `state` may be missing from the log.
pub(crate) fn say_unlogged<S: Service>(state: S, Unlogged { ticks, unbroken }: Unlogged) {
    const WHY: &str = "may be missing from the log: queued in a process that died";
    match ticks.saturating_sub(unbroken) {
        0 => {}
        before => {
            let them = written(|f| state.write_last_before_change(before, unbroken, f));
            log::warn!(MESSAGE_ID = Id::LinesMissing; "{them} {WHY}");
        }
    }
    if unbroken > 0 {
        let them = written(|f| state.write_last(unbroken, f));
        log::warn!(MESSAGE_ID = Id::LinesMissing; "{them} {WHY}");
    }
}

fn log_tick<S: Service>(Tick { state, deadline }: Tick<S>, now: Monotonic) {
    if log::max_level() < LevelFilter::Info {
        return;
    }
    let (deadline_ns, actual_ns) = (deadline.as_nanos(), now.as_nanos());
    let fields = TickFields { state, deadline_ns, actual_ns, ticks: None };
    log::logger().log(
        &Record::builder()
            .level(Level::Info)
            .target(journal::TICK)
            .args(format_args!("{}", written(|f| state.write_tick(f))))
            .key_values(&fields)
            .build(),
    );
}

/// Logs one line for the last `count` ticks, which led to `state`; its fields are those of the `last`.
pub(crate) fn log_range<S: Service>(state: S, count: u64, last: Tick<S>) {
    if log::max_level() < LevelFilter::Info {
        return;
    }
    let (deadline_ns, actual_ns) = (last.deadline.as_nanos(), clock::now().as_nanos());
    let fields = TickFields { state: last.state, deadline_ns, actual_ns, ticks: Some(count) };
    let them = written(|f| state.write_last(count, f));
    LOG.count_ticks(count.saturating_sub(1));
    log::logger().log(
        &Record::builder()
            .level(Level::Info)
            .target(journal::TICK)
            .args(format_args!("{them}: {count} missed ticks in one line"))
            .key_values(&fields)
            .build(),
    );
}

/// Logged once for all that was changed between two ticks: thousands a second can be.
fn log_change<S: Service>(state: S, previous: S) {
    log::info!(target: journal::CLIENT, "{}", written(|f| state.write_change(&previous, f)));
}

#[cfg(test)]
mod tests {
    use super::*;
    use early_service_machine::Counter;
    use early_service_machine::counter::Command;

    /// A ticker with the far ends of its mailboxes, and a clock that the test turns.
    struct Bench {
        ticker: Ticker<Counter>,
        _mailbox: Sender<ToTicker<Counter>>,
        server: Receiver<ToServer<Counter>>,
        handoff: Receiver<ToHandoff<Counter>>,
        supervisor: Receiver<lifecycle::Event>,
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
            let ticker = Ticker::new(mailbox, to_server, to_handoff, to_supervisor, alive, period);
            let start = clock::now();
            Self { ticker, _mailbox, server, handoff, supervisor, start }
        }

        /// One that counts, and keeps its state in a file.
        fn with_file(test: &str) -> Self {
            let path = format!("early-service-{}-{test}.state", std::process::id());
            let path = std::env::temp_dir().join(path);
            let file = StateFile::open(&path, None).expect("a scratch file");
            std::fs::remove_file(path).expect("our own");
            let mut bench = Self::new();
            bench.tell(0, ToTicker::Load(Start::Anew(Counter::default()), Some(file)));
            bench
        }

        fn tell(&mut self, ms: u64, message: ToTicker<Counter>) {
            let now = Monotonic::from_nanos(self.start.as_nanos() + ms * 1_000_000);
            self.ticker.handle(Event::Message(message), now);
        }

        fn status_at(&mut self, ms: u64) -> String {
            let mut batch = Batch::new();
            batch.status = true;
            self.tell(ms, ToTicker::CarryOut { slot: 7, batch });
            match self.server.try_recv() {
                Ok(ToServer::BatchDone { slot: 7, batch }) => {
                    String::from_utf8_lossy(batch.replies.unsent()).into_owned()
                }
                _ => panic!("the batch did not come back"),
            }
        }
    }

    #[test]
    fn ticks_that_are_due_come_before_the_command() {
        let mut bench = Bench::new();
        bench.tell(0, ToTicker::Load(Start::Anew(Counter { next: 10 }), None));
        assert_eq!(bench.status_at(99), "state_file=none ticks_due=0 counter=10 ticks_late=0\n");
        assert_eq!(bench.status_at(3050), "state_file=none ticks_due=0 counter=40 ticks_late=29\n");
    }

    #[test]
    fn a_frozen_counter_does_not_tick_and_its_rhythm_goes_on_without_a_shift() {
        let mut bench = Bench::new();
        bench.tell(0, ToTicker::Load(Start::Anew(Counter { next: 10 }), None));
        bench.tell(250, ToTicker::Freeze);
        assert_eq!(bench.supervisor.try_recv(), Ok(lifecycle::Event::Frozen));
        assert!(!bench.ticker.timer.will_fire());
        bench.ticker.handle(Event::Deadline, clock::now());
        let Ok(ToHandoff::State(snapshot, None)) = bench.handoff.try_recv() else {
            panic!("the state is with the handoff")
        };
        assert_eq!(snapshot.state, Counter { next: 12 });
        bench.tell(
            450,
            ToTicker::Load(Start::After { snapshot, unlogged: Unlogged::default() }, None),
        );
        assert!(bench.ticker.timer.will_fire());
        assert_eq!(bench.status_at(499), "state_file=none ticks_due=0 counter=14 ticks_late=1\n");
        assert_eq!(bench.status_at(500), "state_file=none ticks_due=0 counter=15 ticks_late=1\n");
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
        let (_sender, mailbox) = async_channel::bounded::<ToTicker<Counter>>(1);
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
            bench.ticker.handle(Event::Deadline, now);
            let waits = future::poll_once(bench.ticker.next_event());
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
            bench.tell(50, ToTicker::CarryOut { slot: 0, batch });
            let Ok(ToServer::BatchDone { mut batch, .. }) = bench.server.try_recv() else {
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
