// SPDX-License-Identifier: Apache-2.0
//! Supervisor: the only one that knows both the lifecycle and the actors.
//!
//! Turns what the actors report into events, and the effects of a step into orders.
//! On its rounds it keeps the process in PID 1's root directory and feeds the watchdog, so that
//! both say something about the loop that all actors share.
//!
//! Owns the lifecycle.
//! Never does the work of an actor, and never decides what the lifecycle decides.
//! Ends when the lifecycle orders to leave; the process ends with it.

use std::rc::Rc;
use std::time::Duration;

use async_channel::{Receiver, Sender};
use early_service_machine::lifecycle::{self, Effect, Lifecycle, Phase};
use futures_lite::future;
use rustix::io::Errno;
use smol::Timer;

use crate::journal;
use crate::journal::message_id::Id;
use crate::messages::{ToHandoff, ToServer, post};
use crate::platform::notify;
use crate::platform::switch_root::{OldRoot, Switch, drop_capabilities};
use crate::server::limits::is_shortage;
use crate::service::Service;
use crate::status::Status;

/// How often a survivor looks for the new root once SIGCONT has announced it: a tick, so that no more
/// than one tick's log line waits for it.
const LOOK_FOR_ROOT: Duration = Duration::from_millis(100);

/// How often it looks before, for a switch that nobody announces; each look costs two event-ups and
/// four system calls, where the boot is busiest.
const WATCH_ROOT: Duration = Duration::from_secs(1);

/// The actor.
pub(crate) struct Supervisor<S: Service> {
    mailbox: Receiver<lifecycle::Event>,
    /// PID 1 stopped every process and lets them go on (SIGCONT), as it does around the switch.
    continued: Receiver<()>,
    server: Sender<ToServer<S>>,
    handoff: Sender<ToHandoff<S>>,
    /// The root to leave, until it has been left.
    old_root: Option<OldRoot>,
    rounds: Timer,
    /// What PID 1 still has to hear, because its queue was full.
    pending_notify: PendingNotify,
    /// Whether the last failure to read PID 1's root has been logged.
    root_check_failed: bool,
    /// Closed when the actors that hold the lock have let it go.
    done: Receiver<()>,
    status: Rc<Status>,
}

/// What is said once, and not by every sign of life.
#[derive(Clone, Copy, Default)]
pub(crate) struct PendingNotify {
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
        old_root: Option<OldRoot>,
        done: Receiver<()>,
        status: Rc<Status>,
    ) -> Self {
        Self {
            mailbox,
            continued,
            server,
            handoff,
            old_root,
            rounds: Timer::never(),
            pending_notify: PendingNotify::default(),
            root_check_failed: false,
            done,
            status,
        }
    }

    /// Leads the process from Booting to its end.
    pub(crate) async fn run(mut self, started: lifecycle::Event) {
        if self.looks_at_root() {
            self.rounds.set_interval(WATCH_ROOT);
        } else if self.old_root.is_some() {
            self.forgo_root();
        } else if let Some(interval) = notify::rounds() {
            self.rounds.set_interval(interval);
        }
        let mut lifecycle = Lifecycle::new();
        // What PID 1 knows of clients and sockets. A change waits for the next sign of life.
        let mut told = None;
        let mut next = Some(Event::Lifecycle(started));
        while let Some(event) = next {
            if matches!(event, Event::Round) && self.say_again(lifecycle.phase()) {
                told = None;
            }
            if !matches!(event, Event::Lifecycle(_)) && self.follow_root() {
                next = Some(Event::Lifecycle(lifecycle::Event::RootSwitched));
                continue;
            }
            match event {
                Event::Lifecycle(event) => match self.step(lifecycle, event).await {
                    Some(next) => {
                        lifecycle = next;
                        told = None;
                    }
                    None => return,
                },
                Event::Continued => {
                    if self.looks_at_root() {
                        self.rounds.set_interval(LOOK_FOR_ROOT);
                    }
                }
                Event::Round if self.looks_at_root() => {}
                Event::Round => match lifecycle.phase() {
                    Phase::Booting | Phase::Adopting => notify::extend_start(),
                    Phase::Serving if told != Some(self.shown()) => {
                        let shown @ (clients, _) = self.shown();
                        let sentence = self.status.sentence(Phase::Serving);
                        notify::feed_watchdog_with(format_args!("{sentence}; clients: {clients}"));
                        told = Some(shown);
                    }
                    Phase::Serving | Phase::Draining | Phase::Ended => notify::feed_watchdog(),
                },
            }
            next = self.next_event().await;
        }
    }

    /// Takes one event and gives the orders that follow; `None` when they are carried out to the last.
    async fn step(&mut self, lifecycle: Lifecycle, event: lifecycle::Event) -> Option<Lifecycle> {
        let from = lifecycle.phase();
        let (next, effects) = lifecycle.step(event);
        let to = next.phase();
        journal::LOG.enter(to);
        if from != to {
            log::info!(MESSAGE_ID = Id::of(to); "{from} => {to}");
        }
        for effect in effects {
            match effect {
                Effect::Freeze => post(&self.server, ToServer::Freeze),
                Effect::Leave => post(&self.server, ToServer::Leave),
                Effect::Lock
                | Effect::Ask
                | Effect::Prepare
                | Effect::Discard
                | Effect::Abort
                | Effect::Load
                | Effect::Done
                | Effect::Listen
                | Effect::Offer
                | Effect::Commit => {}
            }
            if effect != Effect::Freeze {
                post(&self.handoff, ToHandoff::Order(effect));
            }
        }
        // The orders first: clients wait for them, and nobody for PID 1's display.
        future::yield_now().await;
        if from != to {
            self.pending_notify.phase = !notify::report_phase(to, &self.status.sentence(to));
        }
        if to == Phase::Ended {
            // Nothing is ever sent; the channel closes once both actors have dropped their sender.
            let _ = self.done.recv().await;
            return None;
        }
        Some(next)
    }

    /// What `systemctl status` shows beside the phase: the number of clients, and whether they cannot
    /// find a listener by its name.
    fn shown(&self) -> (usize, bool) {
        (self.status.clients.get(), self.status.is_unreachable.get())
    }

    /// Says what PID 1 has not heard; whether there was anything.
    fn say_again(&mut self, phase: Phase) -> bool {
        let before = self.pending_notify;
        if before.phase {
            self.pending_notify.phase = !notify::report_phase(phase, &self.status.sentence(phase));
        }
        if before.watchdog {
            self.pending_notify.watchdog = !notify::arm_watchdog();
        }
        before.phase || before.watchdog
    }

    /// Waits for a message or the next round; `None` once nobody can send any more.
    async fn next_event(&mut self) -> Option<Event> {
        let event = async { self.mailbox.recv().await.ok().map(Event::Lifecycle) };
        let continued = async { self.continued.recv().await.ok().map(|()| Event::Continued) };
        let round = async {
            (&mut self.rounds).await;
            Some(Event::Round)
        };
        future::or(event, future::or(continued, round)).await
    }

    /// Whether rounds are for the switch of root, and not yet for PID 1.
    fn looks_at_root(&self) -> bool {
        self.old_root.as_ref().is_some_and(|root| !root.is_blind())
    }

    /// Enters PID 1's root, if it is another one now, and settles there; whether it did.
    fn follow_root(&mut self) -> bool {
        let Some(old_root) = &mut self.old_root else { return false };
        match old_root.follow() {
            Ok(Switch::Awaited) => return false,
            Ok(Switch::ToInitrd) => {
                log::info!("Followed PID 1 to another initrd");
                return false;
            }
            Ok(Switch::ToRoot) => {}
            Err(error) if Errno::from_io_error(&error).is_some_and(is_shortage) => {
                if !std::mem::replace(&mut self.root_check_failed, true) {
                    log::warn!("cannot look at PID 1's root, and looks again: {error}");
                }
                return false;
            }
            Err(error) => {
                log::warn!("cannot look at PID 1's root, so cannot follow it there: {error}");
                self.forgo_root();
                return false;
            }
        }
        log::info!(MESSAGE_ID = Id::RootFollowed; "Followed PID 1 to the root filesystem");
        self.pending_notify.watchdog = !notify::arm_watchdog();
        self.rounds.set_interval(notify::survivor_rounds());
        self.old_root = None;
        give_up_capabilities();
        true
    }

    /// Without a look at PID 1's root we can only be moved along to another one; the rounds are for
    /// PID 1 from now on, and tell that too.
    fn forgo_root(&mut self) {
        if let Some(root) = &mut self.old_root {
            root.give_up_looking();
        }
        self.rounds.set_interval(notify::rounds().unwrap_or(WATCH_ROOT));
        give_up_capabilities();
    }
}

fn give_up_capabilities() {
    if let Err(error) = drop_capabilities() {
        log::warn!("cannot give up capabilities: {error}");
    }
}
