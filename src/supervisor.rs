// SPDX-License-Identifier: Apache-2.0
//! Supervisor: the actor that runs the lifecycle.
//!
//! Responsible for turning the actors' reports into events, and the effects of a step into orders;
//! for readiness, watchdog and `systemctl status`; and for following PID 1 to its new root
//! directory. The signs of life for PID 1 come from the loop that all actors share, so they also
//! show that this loop runs.
//!
//! Owns the lifecycle. Never does the work of an actor, and never decides what the lifecycle
//! decides. Ends when the lifecycle orders to leave, and the process ends with it.

use std::rc::Rc;
use std::time::{Duration, Instant};

use async_channel::{Receiver, Sender};
use early_service_machine::lifecycle::{self, Effect, Lifecycle, Phase};
use futures_lite::future;
use smol::Timer;

use crate::journal::LOG;
use crate::journal::message_id::Id;
use crate::messages::{ToHandoff, ToServer, post};
use crate::platform::notify;
use crate::platform::switch_root::{Follower, SOON, Switch, is_temporary};
use crate::service::Service;
use crate::status::Status;

/// The interval at which the initrd stage looks for the new root after SIGCONT has announced it:
/// one tick, so that at most one tick's log line waits for the new root.
const ANNOUNCED_ROOT: Duration = Duration::from_millis(100);

/// The interval before that, for a switch of root that is not announced. Shorter: more looks, each
/// with two wake-ups and four system calls, while the boot is busiest.
const WATCH_ROOT: Duration = Duration::from_secs(1);

pub(crate) struct Supervisor<S: Service> {
    mailbox: Receiver<lifecycle::Event>,
    /// PID 1 has continued this process (SIGCONT), as it does around the switch of root.
    continued: Receiver<()>,
    server: Sender<ToServer<S>>,
    handoff: Sender<ToHandoff<S>>,
    /// The root directory to leave, until it has been left.
    old_root: Option<Follower>,
    /// Whether a failure to look at PID 1's root that may be temporary was logged.
    root_failure_logged: bool,
    /// The timer of the rounds. A round looks at PID 1's root, or gives a sign of life once looking
    /// is not possible.
    rounds: Timer,
    pending_notify: PendingNotify,
    /// Whether PID 1 was told that the unit is ready. The unit is ready once the device works.
    is_ready: bool,
    /// The number of clients and the reachability that PID 1 last received.
    reported: Option<(usize, bool)>,
    /// Closed when the actors that hold the lock have released it.
    done: Receiver<()>,
    status: Rc<Status>,
}

/// Notifications that PID 1 did not receive, because its queue was full; the next round repeats
/// them.
#[derive(Clone, Copy, Default)]
struct PendingNotify {
    phase: bool,
    watchdog: bool,
}

enum Event {
    Lifecycle(lifecycle::Event),
    Continued,
    Round,
}

impl<S: Service> Supervisor<S> {
    pub(crate) fn new(
        mailbox: Receiver<lifecycle::Event>,
        continued: Receiver<()>,
        server: Sender<ToServer<S>>,
        handoff: Sender<ToHandoff<S>>,
        old_root: Option<Follower>,
        done: Receiver<()>,
        status: Rc<Status>,
    ) -> Self {
        Self {
            mailbox,
            continued,
            server,
            handoff,
            old_root,
            root_failure_logged: false,
            rounds: Timer::never(),
            pending_notify: PendingNotify::default(),
            is_ready: false,
            reported: None,
            done,
            status,
        }
    }

    /// Leads the process from Booting to its end.
    pub(crate) async fn run(mut self, started: lifecycle::Local) {
        self.start_rounds();
        let mut lifecycle = Lifecycle::new();
        let mut next = Some(Event::Lifecycle(started.into()));
        while let Some(event) = next {
            if let Some(event) = self.handle(event, lifecycle.phase()) {
                match self.step(lifecycle, event).await {
                    Some(next) => lifecycle = next,
                    None => return,
                }
            }
            next = self.next_event().await;
        }
    }

    /// Waits for the next event; `None` once all senders are gone. A report of an actor precedes
    /// SIGCONT, and both precede a round.
    async fn next_event(&mut self) -> Option<Event> {
        let event = async { self.mailbox.recv().await.ok().map(Event::Lifecycle) };
        let continued = async { self.continued.recv().await.ok().map(|()| Event::Continued) };
        let round = async {
            match &self.old_root {
                Some(old_root) => old_root.wait(&mut self.rounds).await,
                None => _ = (&mut self.rounds).await,
            }
            Some(Event::Round)
        };
        future::or(event, future::or(continued, round)).await
    }

    /// Does the part of an event outside the lifecycle, and converts it to an event of the
    /// lifecycle.
    fn handle(&mut self, event: Event, phase: Phase) -> Option<lifecycle::Event> {
        let is_round = matches!(event, Event::Round);
        if let Event::Lifecycle(event) = event {
            return Some(event);
        }
        if self.status.device_changed.take() && phase == Phase::Serving {
            self.pending_notify.phase = true;
        }
        if is_round || self.pending_notify.phase {
            self.repeat_pending(phase);
        }
        if self.follow_root() {
            return Some(lifecycle::Local::RootSwitched.into());
        }
        if is_round && !self.can_look_at_root() {
            self.give_sign_of_life(phase);
        } else if !is_round && self.can_look_at_root() {
            self.rounds.set_interval_at(Instant::now() + SOON, ANNOUNCED_ROOT);
        }
        None
    }

    /// Executes one step of the lifecycle and gives its orders; `None` once the last is executed.
    async fn step(&mut self, lifecycle: Lifecycle, event: lifecycle::Event) -> Option<Lifecycle> {
        let from = lifecycle.phase();
        let (next, effects) = lifecycle.step(event);
        let to = next.phase();
        LOG.enter(to);
        if from != to {
            log::info!(MESSAGE_ID = Id::of(to); "{from} => {to}");
        }
        for &effect in effects {
            match effect {
                Effect::Freeze => post(&self.server, ToServer::Freeze),
                Effect::Leave => {
                    post(&self.server, ToServer::Leave);
                    post(&self.handoff, ToHandoff::Order(effect));
                }
                _ => post(&self.handoff, ToHandoff::Order(effect)),
            }
        }
        // The orders come first, because clients wait for them.
        future::yield_now().await;
        if from != to {
            self.report_phase(to);
        }
        if to == Phase::Ended {
            let _ = self.done.recv().await;
            return None;
        }
        Some(next)
    }

    fn report_phase(&mut self, phase: Phase) {
        if phase == Phase::Ended && self.status.is_replaced.get() {
            // The service does not end.
            return;
        }
        let is_ready = self.status.is_device_ready();
        let sentence = self.status.sentence(phase);
        self.pending_notify.phase = !notify::report_phase(phase, is_ready, &sentence);
        self.is_ready |= is_ready && phase == Phase::Serving;
        self.reported = None;
    }

    fn repeat_pending(&mut self, phase: Phase) {
        if self.pending_notify.phase {
            self.report_phase(phase);
        }
        if self.pending_notify.watchdog {
            self.pending_notify.watchdog = !notify::arm_watchdog();
        }
    }

    /// Gives PID 1 a sign of life; while serving, also the number of clients if it has changed.
    fn give_sign_of_life(&mut self, phase: Phase) {
        let clients = self.status.clients.get();
        let shown = Some((clients, self.status.is_unreachable.get()));
        match phase {
            Phase::Booting | Phase::Adopting => notify::extend_start(),
            // The unit's watchdog ends a process whose device does not do its work.
            Phase::Serving if self.status.is_unhealthy() => {}
            Phase::Serving if !self.is_ready => notify::extend_start(),
            Phase::Serving if self.reported != shown => {
                let sentence = self.status.sentence(phase);
                notify::feed_watchdog_with(format_args!("{sentence}; clients: {clients}"));
                self.reported = shown;
            }
            Phase::Serving | Phase::Draining | Phase::Ended => notify::feed_watchdog(),
        }
    }

    /// Begins the rounds of the start: looks at PID 1's root, or signs of life.
    fn start_rounds(&mut self) {
        if self.can_look_at_root() {
            self.rounds.set_interval(WATCH_ROOT);
        } else if self.old_root.is_some() {
            self.stop_looking_at_root();
        } else if let Some(interval) = notify::rounds() {
            self.rounds.set_interval(interval);
        }
    }

    /// Whether a round looks at PID 1's root.
    fn can_look_at_root(&self) -> bool {
        self.old_root.as_ref().is_some_and(Follower::can_look)
    }

    /// Handles what the last look at PID 1's root has found; returns whether this process is now in
    /// the root filesystem.
    fn follow_root(&mut self) -> bool {
        let Some(old_root) = &mut self.old_root else { return false };
        match old_root.found() {
            Ok(Switch::Awaited) => return false,
            Ok(Switch::ToInitrd) => {
                log::info!("Followed PID 1 to another initrd");
                return false;
            }
            Ok(Switch::ToRoot) => {}
            Err(error) if is_temporary(&error) => {
                if !std::mem::replace(&mut self.root_failure_logged, true) {
                    log::warn!("cannot look at PID 1's root, will try again: {error}");
                }
                return false;
            }
            Err(error) => {
                log::warn!("cannot look at PID 1's root, so cannot follow it there: {error}");
                self.stop_looking_at_root();
                return false;
            }
        }
        log::info!(MESSAGE_ID = Id::RootFollowed; "Followed PID 1 to the root filesystem");
        self.pending_notify.watchdog = !notify::arm_watchdog();
        self.rounds.set_interval(notify::survivor_rounds());
        self.old_root = None;
        true
    }

    /// From now on, rounds are signs of life. Each also checks whether the kernel has moved this
    /// process to another root.
    fn stop_looking_at_root(&mut self) {
        let interval = notify::rounds().unwrap_or(WATCH_ROOT);
        self.rounds.set_interval_at(Instant::now() + SOON, interval);
    }
}
