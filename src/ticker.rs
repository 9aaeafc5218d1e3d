// SPDX-License-Identifier: Apache-2.0
//! Ticker: the actor that owns the state and its timeline.
//!
//! Responsible for ticking at absolute deadlines, logging each tick, and executing the commands of
//! clients.
//!
//! Owns the [`Ticking`] state, the timer and, while it ticks, the state file. Never knows what the
//! state is: its [`Service`] has the texts. Its only I/O is to write the file. Waits only for its
//! timer, its mailbox and, for a moment, the log's writer. Ends with the process.
//!
//! **Invariant:** each change is in the state file before it is logged or answered, so the next
//! owner continues from everything that a client or a reader of the log has seen.
//!
//! **Invariant:** due ticks precede any command, so a reply is never behind the clock, not even
//! after the process was stopped for a while.
//!
//! **Invariant:** one turn takes about [`TURN`](catch_up::TURN) at most, however many ticks are
//! due, and every other actor has a turn before the next one. Meanwhile commands are returned to
//! the server and wait there; `status` is answered and reports how many ticks are due.
//!
//! Longer than 350 lines, because the order of counting, storing and logging is one subject. Other
//! parts are in `catch_up`, `lines` and `unlogged`.

mod catch_up;
mod lines;
mod unlogged;

use std::fmt::Write as _;
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use async_channel::{Receiver, Sender, TryRecvError};
use early_service_machine::lifecycle;
use early_service_machine::lifecycle::takeover::{Received, Start};
use early_service_machine::record::Unlogged;
use early_service_machine::schedule::{Monotonic, Period};
use early_service_machine::state::Text;
use early_service_machine::timeline::Ticking;
use futures_lite::{Stream as _, future};
use smol::Timer;

use crate::handoff::bundle::Bundle;
use crate::handoff::state_file::StateFile;
use crate::journal::message_id::Id;
use crate::journal::{LOG, RoomWait};
use crate::messages::{OfDevice, Question, ToHandoff, ToServer, ToTicker, post};
use crate::platform::clock;
use crate::server::batch::Batch;
use crate::service::Service;
use crate::status::Persistence;
use crate::ticker::catch_up::{ONE_BY_ONE, PORTION, PROGRESS, REST};
pub(crate) use crate::ticker::lines::say_unlogged;
use crate::ticker::lines::{log_change, log_range, log_tick};
use crate::ticker::unlogged::UnloggedTicks;

/// How long the end of the process waits until the last ticks are logged, so that the next owner
/// need not name them as missing. Longer: a journal that blocks delays the power-off.
pub(crate) const LAST_LINES: Duration = Duration::from_millis(250);

/// The interval at which that wait checks the log.
const CHECK_LINES: Duration = Duration::from_millis(1);

pub(crate) struct Ticker<S: Service> {
    mailbox: Receiver<ToTicker<S>>,
    server: Sender<ToServer<S>>,
    handoff: Sender<ToHandoff<S>>,
    questions: OfDevice<S, Questions<S>>,
    supervisor: Sender<lifecycle::Event>,
    /// Closed when the actor has left.
    done_guard: Sender<()>,
    period: Period,
    timer: Timer,
    /// The deadline to which the timer is set.
    armed: Option<Monotonic>,
    /// The state and its timeline, while this process owns them and they are not frozen.
    ticking: Option<Ticking<S>>,
    /// The file that stores the state, during the same time.
    state_file: Option<StateFile>,
    /// The state before the commands since the last tick; the next tick logs the change.
    before_change: Option<S>,
    unlogged: UnloggedTicks<S>,
    /// Whether more ticks are due than one turn takes.
    is_behind: bool,
    /// Whether commands were returned to the server, which waits for `CaughtUp`.
    has_returned_commands: bool,
    /// The sockets of the server, once a freeze was ordered.
    freezing: Option<Bundle<S>>,
    /// Whether the freeze must wait until no tick is due.
    catch_up_first: bool,
    room_wait: RoomWait,
}

enum Event<S: Service> {
    Deadline,
    Message(ToTicker<S>),
    Asked,
}

/// The questions of the device.
struct Questions<S: Service> {
    mailbox: Pin<Box<Receiver<Question<S>>>>,
    /// The one that waits until no tick is due.
    next: Option<Question<S>>,
}

impl<S: Service> Ticker<S> {
    pub(crate) fn new(
        mailbox: Receiver<ToTicker<S>>,
        server: Sender<ToServer<S>>,
        handoff: Sender<ToHandoff<S>>,
        questions: Option<Receiver<Question<S>>>,
        supervisor: Sender<lifecycle::Event>,
        done_guard: Sender<()>,
        period: Period,
    ) -> Self {
        Self {
            mailbox,
            server,
            handoff,
            questions: OfDevice::new(
                questions.map(|mailbox| Questions { mailbox: Box::pin(mailbox), next: None }),
            ),
            supervisor,
            done_guard,
            period,
            timer: Timer::never(),
            armed: None,
            ticking: None,
            state_file: None,
            before_change: None,
            unlogged: UnloggedTicks::new(),
            is_behind: false,
            has_returned_commands: false,
            freezing: None,
            catch_up_first: false,
            room_wait: RoomWait::default(),
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

    /// Waits for the next event; `None` once all senders are gone. A deadline precedes a message.
    /// While ticks are overdue, one event follows each [`REST`]: a message if there is one,
    /// otherwise a deadline. Both take the next ticks.
    async fn next_event(&mut self) -> Option<Event<S>> {
        if self.is_behind {
            if self.unlogged.range.is_none() {
                self.room_wait.wait(&LOG, PORTION).await;
            }
            Timer::after(REST).await;
            return match self.mailbox.try_recv() {
                Ok(message) => Some(Event::Message(message)),
                Err(TryRecvError::Empty) => Some(Event::Deadline),
                Err(TryRecvError::Closed) => None,
            };
        }
        self.room_wait = RoomWait::default();
        let deadline = async {
            (&mut self.timer).await;
            Some(Event::Deadline)
        };
        let message = async { self.mailbox.recv().await.ok().map(Event::Message) };
        // Not an async block, which would keep its states in a service without a device.
        let asked = future::poll_fn(|context| {
            let questions = self.questions.get_mut().filter(|_| self.ticking.is_some());
            let Some(Questions { mailbox, next }) = questions else { return Poll::Pending };
            match mailbox.as_mut().poll_next(context) {
                Poll::Ready(Some(question)) => *next = Some(question),
                Poll::Ready(None) | Poll::Pending => return Poll::Pending,
            }
            Poll::Ready(Some(Event::Asked))
        });
        future::or(deadline, future::or(message, asked)).await
    }

    /// Takes the ticks that are due at `now`, and then handles `event`.
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
                    self.has_returned_commands = true;
                } else {
                    self.execute(&mut batch, now);
                }
                post(&self.server, ToServer::BatchDone { slot, batch });
            }
            Event::Message(ToTicker::Freeze(bundle)) => self.freezing = Some(bundle),
            Event::Message(ToTicker::CatchUpFirst) => self.catch_up_first = true,
            Event::Message(ToTicker::Unlogged(state, unlogged)) => {
                say_unlogged(state, unlogged);
                self.unlogged.inherited_are_named();
                self.make_file_private();
            }
            Event::Message(ToTicker::Logged) => {
                self.unlogged.inherited_are_logged();
                self.make_file_private();
            }
            Event::Message(ToTicker::Leave) => {
                self.log_range();
                self.answer_device();
            }
            Event::Asked => {}
        }
        // The device's last commands belong into the state that the next owner receives.
        if !self.is_behind || self.freezing.is_some() {
            self.answer_device();
        }
        if !(self.is_behind && self.catch_up_first) {
            if let Some(bundle) = self.freezing.take() {
                self.freeze(bundle);
            }
        }
        if self.has_returned_commands && !self.is_behind {
            self.has_returned_commands = false;
            post(&self.server, ToServer::CaughtUp);
        }
        // While ticks are overdue, the next turn needs no timer.
        if !self.is_behind {
            self.arm();
        }
    }

    fn load(&mut self, start: Start<S>, now: Monotonic) {
        match start {
            Start::Anew(_) => self.unlogged.inherited_are_logged(),
            Start::After { snapshot, unlogged } | Start::AfterDeath { snapshot, unlogged } => {
                let is_named = matches!(start, Start::AfterDeath { .. });
                self.unlogged.inherit(unlogged, is_named);
                let (before, period) = (snapshot.period, self.period);
                if before != period {
                    log::info!("Changing the period from {before} to {period}");
                }
            }
        }
        let ticking = match start {
            Start::Anew(state) => Ticking::starting(state, now, self.period),
            Start::After { snapshot, .. } => Ticking::resuming(snapshot, now, self.period),
            Start::AfterDeath { snapshot, unlogged } => {
                let ticking = Ticking::resuming(snapshot, now, self.period);
                self.say_recovered(&ticking, unlogged, now);
                ticking
            }
        };
        self.ticking = Some(ticking);
        self.store(0);
        self.catch_up(now);
    }

    /// Replaces a state file that the predecessor also had open, after the predecessor has left.
    fn make_file_private(&mut self) {
        if let Some(Err(error)) = self.state_file.as_mut().map(StateFile::make_private) {
            log::warn!("{error}: other users may have it open until the next start");
        }
        // Another process that had it open may have written to it.
        self.store(0);
    }

    /// Logs the state from which this process continues.
    fn say_recovered(&self, ticking: &Ticking<S>, unlogged: Unlogged, now: Monotonic) {
        let (state, due) = (ticking.state(), ticking.due(now));
        let file = self.state_file.as_ref().map(|file| file.path().display().to_string());
        let file = file.as_deref().unwrap_or("the predecessor");
        let text = Text(state);
        log::info!(
            MESSAGE_ID = Id::Recovered;
            "Recovering at {text} from {file}: {due} ticks are due since it was written"
        );
        say_unlogged(state, unlogged);
    }

    /// Gives the state and its file to the handoff actor, together with the sockets in `bundle`.
    fn freeze(&mut self, mut bundle: Bundle<S>) {
        self.catch_up_first = false;
        self.log_range();
        let Some(ticking) = self.ticking.take() else {
            return post(&self.handoff, ToHandoff::Frozen(bundle));
        };
        // The next owner takes the ticks that are still due, and the server sends its commands
        // again.
        (self.is_behind, self.has_returned_commands) = (false, false);
        self.log_change(ticking.state());
        bundle.state = Some(Received::Snapshot(ticking.snapshot()));
        bundle.file = self.state_file.take();
        post(&self.handoff, ToHandoff::Frozen(bundle));
        post(&self.supervisor, lifecycle::Local::Frozen.into());
    }

    /// Stops ticking, and stores which of the last ticks may be missing from the log.
    async fn leave(mut self) {
        if self.state_file.is_some() {
            let start = clock::now();
            while LOG.unlogged() > 0 && clock::since(start) < LAST_LINES {
                Timer::after(CHECK_LINES).await;
            }
            self.store(0);
        }
        drop(self.state_file);
        drop(self.done_guard);
    }

    /// Writes the state to its file; the last `to_be_logged` ticks have no log line yet.
    fn store(&mut self, to_be_logged: u64) {
        if let (Some(file), Some(ticking)) = (&mut self.state_file, &self.ticking) {
            let queued = LOG.unlogged().saturating_add(to_be_logged);
            file.store(ticking.snapshot(), self.unlogged.for_file(queued));
        }
    }

    /// Sets the timer if the deadline has changed, because setting it may wake a thread.
    fn arm(&mut self) {
        let deadline = self.ticking.as_ref().map(Ticking::deadline);
        if deadline != self.armed {
            self.armed = deadline;
            match deadline {
                Some(deadline) => self.timer.set_at(clock::instant(deadline)),
                None => self.timer.clear(),
            }
        }
    }

    /// Takes due ticks, at most as many as one turn has time for.
    fn catch_up(&mut self, now: Monotonic) {
        match self.due(now) {
            0 => {}
            many if many > ONE_BY_ONE || self.unlogged.range.is_some() => self.skip(now),
            _ => self.tick(now),
        }
        self.is_behind = self.due(now) > 0;
        let is_long = |since| clock::between(since, now) > PROGRESS;
        if !self.is_behind || self.unlogged.range.as_ref().is_some_and(|range| is_long(range.since))
        {
            self.log_range();
        }
    }

    fn due(&self, now: Monotonic) -> u64 {
        match &self.ticking {
            Some(ticking) if ticking.deadline() <= now => ticking.due(now),
            _ => 0,
        }
    }

    /// Takes due ticks that share a line.
    fn skip(&mut self, now: Monotonic) {
        let Some(ticking) = &mut self.ticking else {
            return;
        };
        let state = ticking.state();
        let Some((taken, last)) = catch_up::skip(ticking, now) else {
            return;
        };
        self.log_change(state);
        self.unlogged.count_range(taken, last, now);
        self.store(0);
    }

    /// Takes and logs due ticks, at most [`PORTION`].
    fn tick(&mut self, now: Monotonic) {
        let Some(ticking) = &mut self.ticking else {
            return;
        };
        // The ticks are counted and stored before they are logged.
        let mut unlogged = *ticking;
        let taken = std::iter::from_fn(|| ticking.tick(now)).take(PORTION).count();
        let count = u64::try_from(taken).unwrap_or_default();
        self.unlogged.count(count);
        self.store(count);
        for tick in std::iter::from_fn(|| unlogged.tick(now)).take(taken) {
            self.log_change(tick.state);
            log_tick(tick, now);
        }
    }

    /// Logs what commands have changed since the last tick; `state` is the result.
    fn log_change(&mut self, state: S) {
        if let Some(before) = self.before_change.take() {
            log_change(state, before);
        }
    }

    /// Logs the line of all ticks that share one.
    fn log_range(&mut self) {
        if let (Some(range), Some(ticking)) = (self.unlogged.range.take(), &self.ticking) {
            log_range(ticking.state(), range.count, range.last);
        }
    }

    /// Executes all commands of the device, and answers them.
    fn answer_device(&mut self) {
        while let (Some(ticking), Some(questions)) = (&mut self.ticking, self.questions.get_mut()) {
            let next = questions.next.take().or_else(|| questions.mailbox.try_recv().ok());
            let Some(Question { command, answer }) = next else { break };
            let applied = command.map(|command| apply(ticking, &mut self.before_change, command));
            let content = (ticking.state(), applied.map(|(reply, _)| reply));
            if applied.is_some_and(|(_, has_changed)| has_changed) {
                self.store_change();
            }
            // Fails if the device's future was dropped.
            let _ = answer.try_send(content);
        }
    }

    /// Executes the commands of `batch`, and writes their replies into it.
    fn execute(&mut self, batch: &mut Batch<S>, now: Monotonic) {
        let Some(ticking) = &mut self.ticking else {
            return;
        };
        let mut has_changed = false;
        for command in batch.take_commands() {
            let (reply, changes) = apply(ticking, &mut self.before_change, command);
            has_changed |= changes;
            let length = batch.replies.pending().len();
            let written = writeln!(batch.replies, "{reply}");
            debug_assert!(written.is_ok(), "the session keeps room for every reply");
            debug_assert!(
                batch.replies.pending().len() - length <= S::MAX_REPLY + 1,
                "a reply of the state is longer than MAX_REPLY: {reply}"
            );
        }
        if std::mem::take(&mut batch.status) {
            let (kept, due) = (Persistence::of(self.state_file.as_ref()), ticking.due(now));
            let written = writeln!(batch.replies, "{kept} ticks_due={due} {ticking}");
            debug_assert!(written.is_ok(), "the session keeps room for every reply");
        }
        if has_changed {
            self.store_change();
        }
    }

    /// Writes the state to its file after commands have changed it.
    fn store_change(&mut self) {
        self.unlogged.since_change = 0;
        self.store(0);
    }
}

/// Executes a command, and keeps the state before the first change since the last tick; returns the
/// reply, and whether the command may have changed the state.
fn apply<S: Service>(
    ticking: &mut Ticking<S>,
    before_change: &mut Option<S>,
    command: S::Command,
) -> (S::Reply, bool) {
    let changes = S::is_change(&command);
    if changes {
        before_change.get_or_insert(ticking.state());
    }
    (ticking.apply(command), changes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::messages;
    use early_service_machine::Counter;
    use early_service_machine::bounds::RECORD_SIZE;
    use early_service_machine::counter::Command;
    use early_service_machine::state::State;
    use early_service_machine::wire::fields::{Fields, MissingField};
    use std::fmt::{self, Formatter};

    /// A number that each tick increments and only a device sets; one tick at a time.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
    struct Driven(u64);

    impl State for Driven {
        type Command = u64;
        type Reply = u64;
        const MAX_REPLY: usize = 3;
        fn read(fields: Fields<'_>) -> Result<Self, MissingField> {
            fields.number("n").map(Self)
        }
        fn write_fields(&self, f: &mut Formatter<'_>) -> fmt::Result {
            write!(f, "n={}", self.0)
        }
        fn apply(&mut self, added: u64) -> u64 {
            self.0 += added;
            self.0
        }
        fn tick(&mut self) {
            self.0 += 1;
        }
    }

    impl Service for Driven {
        const ABOUT: &'static str = "Has a device.";
        const DESCRIPTORS: &'static str = "device";
    }

    /// A ticker with the other ends of its mailboxes, and a clock that the test sets.
    struct Bench<S: Service> {
        ticker: Ticker<S>,
        _mailbox: Sender<ToTicker<S>>,
        server: Receiver<ToServer<S>>,
        handoff: Receiver<ToHandoff<S>>,
        supervisor: Receiver<lifecycle::Event>,
        questions: Sender<Question<S>>,
        start: Monotonic,
    }

    impl<S: Service> Bench<S> {
        fn new() -> Self {
            let (to_ask, questions) = messages::questions();
            let (_mailbox, mailbox) = async_channel::bounded(1);
            let (to_server, server) = async_channel::bounded(4);
            let (to_handoff, handoff) = async_channel::bounded(4);
            let (to_supervisor, supervisor) = async_channel::bounded(4);
            let (done_guard, _) = async_channel::bounded(1);
            let period = Period::from_millis(100).expect("100 is not 0");
            let ticker = Ticker::new(
                mailbox,
                to_server,
                to_handoff,
                Some(questions),
                to_supervisor,
                done_guard,
                period,
            );
            let start = clock::now();
            Self { ticker, _mailbox, server, handoff, supervisor, questions: to_ask, start }
        }

        /// A ticker that counts, and stores its state in a file.
        fn with_file(test: &str) -> Self {
            let path = format!("early-service-{}-{test}.state", std::process::id());
            let path = std::env::temp_dir().join(path);
            let file = StateFile::open(&path, RECORD_SIZE, None).expect("a scratch file");
            std::fs::remove_file(path).expect("the scratch file");
            let mut bench = Self::new();
            bench.tell(0, ToTicker::Load(Start::Anew(S::default()), Some(file)));
            bench
        }

        fn tell(&mut self, ms: u64, message: ToTicker<S>) {
            let now = Monotonic::from_nanos(self.start.as_nanos() + ms * 1_000_000);
            self.ticker.handle(Event::Message(message), now);
        }

        fn status_at(&mut self, ms: u64) -> String {
            let mut batch = Batch::new();
            batch.status = true;
            self.tell(ms, ToTicker::CarryOut { slot: 7, batch });
            match self.server.try_recv() {
                Ok(ToServer::BatchDone { slot: 7, batch }) => {
                    String::from_utf8_lossy(batch.replies.pending()).into_owned()
                }
                _ => panic!("the batch did not come back"),
            }
        }
    }

    #[test]
    fn due_ticks_come_before_the_command() {
        let mut bench = Bench::<Counter>::new();
        bench.tell(0, ToTicker::Load(Start::Anew(Counter { next: 10 }), None));
        assert_eq!(bench.status_at(99), "state_file=none ticks_due=0 counter=10 ticks_late=0\n");
        assert_eq!(bench.status_at(3050), "state_file=none ticks_due=0 counter=40 ticks_late=29\n");
    }

    #[test]
    fn a_frozen_counter_does_not_tick_and_keeps_its_schedule() {
        let mut bench = Bench::<Counter>::new();
        bench.tell(0, ToTicker::Load(Start::Anew(Counter { next: 10 }), None));
        bench.tell(250, ToTicker::Freeze(Bundle::default()));
        assert_eq!(bench.supervisor.try_recv(), Ok(lifecycle::Local::Frozen.into()));
        assert!(!bench.ticker.timer.will_fire());
        bench.ticker.handle(Event::Deadline, clock::now());
        let Ok(ToHandoff::Frozen(bundle)) = bench.handoff.try_recv() else {
            panic!("the state is with the handoff")
        };
        let snapshot = bundle.snapshot().expect("a state with its deadline");
        assert_eq!(snapshot.state, Counter { next: 12 });
        bench.tell(
            450,
            ToTicker::Load(Start::After { snapshot, unlogged: Unlogged::default() }, None),
        );
        assert!(bench.ticker.timer.will_fire());
        assert_eq!(bench.status_at(499), "state_file=none ticks_due=0 counter=14 ticks_late=1\n");
        assert_eq!(bench.status_at(500), "state_file=none ticks_due=0 counter=15 ticks_late=1\n");
    }

    #[cfg(debug_assertions)]
    #[test]
    #[should_panic = "a reply of the state is longer than MAX_REPLY: 1000"]
    fn a_debug_build_stops_at_a_reply_that_is_too_long() {
        let mut bench = Bench::new();
        bench.tell(0, ToTicker::Load(Start::Anew(Driven(0)), None));
        for command in [999, 1] {
            let mut batch = Batch::new();
            assert!(batch.push(command));
            bench.tell(0, ToTicker::CarryOut { slot: 7, batch });
        }
    }

    /// A ticker with more overdue ticks than a turn takes, and the commands 10^9 and 2 * 10^9 of a
    /// device whose future was dropped while it waited for the answers.
    fn overdue() -> Bench<Driven> {
        let mut bench = Bench::new();
        bench.tell(0, ToTicker::Load(Start::Anew(Driven(0)), None));
        for command in [1_000_000_000, 2_000_000_000] {
            let (answer, _) = async_channel::bounded(1);
            let asked = bench.questions.try_send(Question { command: Some(command), answer });
            assert!(asked.is_ok(), "there is room for every question");
            let question = bench.ticker.next_event();
            if let Some(event @ Event::Asked) =
                future::block_on(future::poll_once(question)).flatten()
            {
                bench.ticker.handle(event, bench.start.after_nanos(1_000_000_000_000_000));
            }
        }
        assert!(bench.ticker.is_behind, "the ticks are not overdue");
        let state = bench.ticker.ticking.as_ref().expect("a state").state();
        assert!(state.0 < 1_000_000_000, "a command came before the ticks that are due");
        bench
    }

    #[test]
    fn commands_of_a_device_wait_for_overdue_ticks_and_are_not_lost() {
        let mut bench = overdue();
        let late = bench.start.after_nanos(1_000_000_000_000_000);
        while bench.ticker.is_behind {
            bench.ticker.handle(Event::Deadline, late);
        }
        let state = bench.ticker.ticking.as_ref().expect("a state").state();
        assert_eq!(state, Driven(3_010_000_000));
    }

    #[test]
    fn the_next_owner_receives_the_commands_that_wait_for_overdue_ticks() {
        let mut bench = overdue();
        bench.tell(1_000_000_000, ToTicker::Freeze(Bundle::default()));
        let Ok(ToHandoff::Frozen(bundle)) = bench.handoff.try_recv() else {
            panic!("the state is with the handoff")
        };
        let snapshot = bundle.snapshot().expect("a state with its deadline");
        let late = bench.start.after_nanos(1_000_000_000_000_000);
        let due = Ticking::resuming(snapshot, late, bench.ticker.period).due(late);
        assert_eq!(snapshot.state.0 + due, 3_010_000_000);
    }

    #[test]
    fn the_last_state_has_the_commands_that_wait_for_overdue_ticks() {
        let mut bench = overdue();
        bench.tell(1_000_000_000, ToTicker::Leave);
        let state = bench.ticker.ticking.as_ref().expect("a state").state();
        assert!(state.0 > 3_000_000_000, "{state:?}");
    }

    /// The number of allocations of this thread for `count` calls of `once`.
    fn allocated(count: usize, mut once: impl FnMut()) -> u64 {
        allocation_counter::measure(|| (0..count).for_each(|_| once())).count_total
    }

    #[test]
    fn a_tick_allocates_only_for_its_timer_and_mailbox() {
        // The reactor's table of timers grows at its own times.
        const GROWTH: u64 = 2;
        // Waits in the same way without a ticker.
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

        let mut bench = Bench::<Counter>::with_file("ticks");
        let mut ms = 0;
        let mut tick = || {
            ms += 100;
            let now = Monotonic::from_nanos(bench.start.as_nanos() + ms * 1_000_000);
            bench.ticker.handle(Event::Deadline, now);
            let waits = future::poll_once(bench.ticker.next_event());
            assert!(future::block_on(waits).is_none());
        };
        // The first calls allocate memory that is kept.
        allocated(10, &mut bare);
        allocated(10, &mut tick);
        for count in [1, 100, 1000] {
            let (bare, ticks) = (allocated(count, &mut bare), allocated(count, &mut tick));
            assert!(ticks.abs_diff(bare) <= GROWTH, "{count} ticks: {ticks}, and {bare} without");
        }
    }

    #[test]
    fn commands_allocate_nothing() {
        let mut bench = Bench::<Counter>::with_file("commands");
        let mut spare = Some(Batch::new());
        let mut replies = 0;
        let mut ask = || {
            let mut batch = spare.take().expect("the batch is back");
            for command in [Command::Get, Command::Set(137), Command::Get] {
                assert!(batch.push(command));
            }
            bench.tell(50, ToTicker::CarryOut { slot: 0, batch });
            let Ok(ToServer::BatchDone { mut batch, .. }) = bench.server.try_recv() else {
                panic!("the batch did not come back")
            };
            let unsent = batch.replies.pending().len();
            replies += unsent;
            batch.replies.clear();
            spare = Some(batch);
        };
        allocated(1, &mut ask);
        assert_eq!(allocated(1000, &mut ask), 0);
        assert!(replies > 20_000, "{replies} bytes of replies");
    }
}
