// SPDX-License-Identifier: Apache-2.0
//! Trial: one handoff under load with one fault, and the evidence from it.
//!
//! The test replaces systemd: it holds the public socket, passes it to both processes, and restarts
//! a killed successor. Clients use the public socket throughout.

use std::fmt;
use std::os::unix::net::UnixListener;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread;
use std::time::Duration;

use rustix::process::Signal;

use crate::service::Service;
use early_service_trial::proxy::{Arrow, Moment, Onlooker, Proxy};
use early_service_trial::victim::Victim;
use testkit::daemon::{Daemon, Line};
use testkit::judge::{Evidence, Loss, Wrong, judge};
use testkit::load::{Load, Told, ten};
use testkit::random::Random;
use testkit::record::{Record, Rhythm};
use testkit::scratch::Scratch;
use testkit::starting;
use testkit::{LIMIT, now, until};

/// In milliseconds; short, so that a fault spans ticks and most exchanges contain one.
pub(crate) const PERIOD: &str = "10";

/// Short enough that some client always waits for a reply. Long enough that many simultaneous
/// trials leave the processor to the processes under test.
pub(crate) const PAUSE: Duration = Duration::from_millis(12);

/// The process that is hit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Predecessor,
    Successor,
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Predecessor => "predecessor",
            Self::Successor => "successor",
        })
    }
}

/// The fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    Kill,
    /// Stops the process for this time.
    Stop(Duration),
    /// Stops the process and kills it after this time, as its watchdog does.
    Hang(Duration),
}

impl Fault {
    /// Whether the process dies.
    pub(crate) fn is_deadly(self) -> bool {
        !matches!(self, Self::Stop(_))
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Kill => "killed",
            Self::Stop(_) => "stopped",
            Self::Hang(_) => "hung",
        })
    }
}

/// When to inject.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum When {
    /// This time after an arrow of the exchange, which passes through the proxy.
    Arrow(Arrow, Moment, Duration),
    /// This time after the first arrow.
    Exchange(Duration),
    /// This time after the successor's start, without a proxy; or before its start.
    Start(Duration),
    BeforeStart,
}

/// The plan of one try.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    pub(crate) side: Side,
    pub(crate) fault: Fault,
    pub(crate) when: When,
    /// Whether clients set the counter.
    pub(crate) sets: bool,
    pub(crate) seed: u64,
    pub(crate) service: &'static Service,
}

/// The result of a try.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Outcome {
    pub(crate) loss: Loss,
    /// Whether the successor already served at the time of the fault.
    pub(crate) is_late: bool,
}

/// Makes one try.
pub(crate) fn make(plan: &Plan) -> Result<Outcome, Vec<Wrong>> {
    let mut stage = Stage::new(plan);
    let load = stage.clients();
    load.wait_for_answers(1);
    let blow = stage.successor();
    let fell = blow.wait_for_its_end();
    let connection = stage.connection();
    stage.wait_for_the_last_owner();
    load.wait_for_answers(2);
    let evidence = stage.end(load.stop(), connection);
    let is_late = evidence.lines.iter().any(|line| is_serving(&line.message) && line.time < fell);
    let judged = judge(&evidence);
    judged.map(|loss| Outcome { loss, is_late }).inspect_err(|_| tell(plan, &evidence.lines))
}

/// Shows the log of a failed try.
#[allow(clippy::print_stderr, reason = "a test that fails shows what the daemons logged")]
pub(crate) fn tell(plan: &Plan, lines: &[Line]) {
    let lines = lines.iter().map(|line| {
        let (seconds, micros) = (line.time / 1_000_000_000, line.time / 1000 % 1_000_000);
        format!("[{seconds}.{micros:06}] {}[{}]: {}\n", line.identifier, line.pid, line.message)
    });
    eprintln!("{plan:?}\n{}", lines.collect::<String>());
}

/// A process and its log.
struct Actor {
    daemon: Daemon,
    victim: Victim,
}

/// Both processes and their surroundings.
struct Stage<'a> {
    plan: &'a Plan,
    random: Random,
    scratch: Scratch,
    public: UnixListener,
    predecessor: Actor,
    /// In the order of their starts.
    successors: Vec<Actor>,
    proxy: Option<Proxy>,
    rhythm: Rhythm,
}

impl<'a> Stage<'a> {
    /// Waits until the predecessor serves; it has received no request yet.
    fn new(plan: &'a Plan) -> Self {
        let scratch = Scratch::new();
        let public = UnixListener::bind(scratch.join("public")).expect("a socket");
        let private = scratch.join("predecessor");
        let mut command = starting::with((plan.service.program)(), &public);
        command.arg("--survive-systemd-kill-signal").arg("--server-socket-path").arg(&private);
        let predecessor = Actor::start(&mut command, &scratch);
        let served = format!("Listening on UNIX socket {}", private.display());
        predecessor.daemon.wait_for(&served);
        let rhythm = Record::read(&scratch.join("state"), plan.service.words.key).rhythm();
        let (successors, random) = (Vec::new(), Random::new(plan.seed));
        Self { plan, random, scratch, public, predecessor, successors, proxy: None, rhythm }
    }

    fn clients(&mut self) -> Load {
        let ranges = self.plan.sets.then(|| Arc::new(AtomicU64::new(1)));
        let seed = self.random.draw();
        let public = self.scratch.join("public");
        Load::start(&public, &ten(PAUSE), ranges.as_ref(), seed, self.plan.service.words)
    }

    /// Starts the first successor, and arranges for the fault at its time.
    fn successor(&mut self) -> Blow {
        let (arm, blow) = Arm::new(self.plan);
        if self.plan.side == Side::Predecessor {
            arm.aim(&self.predecessor.victim);
        }
        if let When::Arrow(..) | When::Exchange(_) = self.plan.when {
            let (path, private) = (self.scratch.join("proxy"), self.scratch.join("predecessor"));
            self.proxy = Some(Proxy::between(path, &private, arm.onlooker(self.plan.when)));
        }
        if self.plan.when == When::BeforeStart {
            arm.strike();
        }
        self.start_successor();
        if self.plan.side == Side::Successor {
            arm.aim(&self.successors[0].victim);
        }
        if let When::Start(delay) = self.plan.when {
            arm.strike_after(delay);
        }
        blow
    }

    fn start_successor(&mut self) {
        let private = self.scratch.join("predecessor");
        let path = self.proxy.as_ref().map_or(&*private, Proxy::path);
        let mut command = starting::with((self.plan.service.program)(), &self.public);
        command.arg("--client-socket-path").arg(path);
        self.successors.push(Actor::start(&mut command, &self.scratch));
    }

    /// The number of the exchange's connection, if it passes through a proxy.
    fn connection(&self) -> Option<usize> {
        self.proxy.as_ref().map(|proxy| proxy.sent().last().map_or(0, |(number, _)| *number))
    }

    /// Waits until the predecessor has ended and a successor serves; restarts a killed successor.
    fn wait_for_the_last_owner(&mut self) {
        if self.plan.side == Side::Successor && self.plan.fault.is_deadly() {
            thread::sleep(self.random.duration(Duration::ZERO..Duration::from_millis(30)));
            self.start_successor();
        }
        until("one owner", || {
            let newest = self.successors.last().expect("one");
            assert!(!newest.victim.has_ended(), "a successor has ended: {:?}", newest.lines());
            newest.serves() && self.predecessor.victim.has_ended()
        });
    }

    /// Ends the last owner and collects the evidence.
    fn end(mut self, told: Told, connection: Option<usize>) -> Evidence {
        let last = self.successors.last_mut().expect("one");
        last.daemon.signal(Signal::TERM);
        let (side, is_deadly) = (self.plan.side, self.plan.fault.is_deadly());
        let mut lines = Vec::new();
        let successors = self.successors.iter_mut().map(|actor| (actor, Side::Successor));
        let mut actors: Vec<_> =
            std::iter::once((&mut self.predecessor, Side::Predecessor)).chain(successors).collect();
        let owners = actors.iter().map(|(actor, _)| actor.victim.pid()).collect();
        for (place, (actor, role)) in actors.iter_mut().enumerate() {
            let (status, _) = actor.daemon.ended();
            let may_fail = is_deadly && *role == side && place <= 1;
            assert!(status.success() || may_fail, "{role}: {status}: {:?}", actor.lines());
            lines.extend(actor.daemon.whole_log().into_iter().map(|line| {
                let message = self.plan.service.in_words_of_the_counter(line.message);
                Line { message, ..line }
            }));
        }
        lines.sort_by_key(|line| line.time);
        let sent = |arrow| {
            let sent = self.proxy.as_ref().map(Proxy::sent).unwrap_or_default();
            sent.iter().any(|sent| *sent == (connection.unwrap_or_default(), arrow))
        };
        // A dead process takes along the connections that no other process has. Without a proxy,
        // nobody knows which.
        let may_end = is_deadly
            && match side {
                _ if self.proxy.is_none() => true,
                Side::Predecessor => !sent(Arrow::End),
                Side::Successor => sent(Arrow::Done),
            };
        Evidence {
            rhythm: self.rhythm,
            first: self.rhythm.first(),
            told,
            lines,
            owners,
            last: Record::read(&self.scratch.join("state"), self.plan.service.words.key),
            may_end,
            may_lose_lines: is_deadly,
            may_drop_lines: false,
        }
    }
}

impl Actor {
    fn start(command: &mut Command, scratch: &Scratch) -> Self {
        command.arg("--state-file").arg(scratch.join("state")).args(["--timer-delay-ms", PERIOD]);
        let daemon = Daemon::spawn(command);
        let victim = Victim::new(daemon.pid());
        Self { daemon, victim }
    }

    fn lines(&self) -> Vec<String> {
        self.daemon.messages()
    }

    fn serves(&self) -> bool {
        self.lines().iter().any(|line| is_serving(line))
    }
}

/// Whether a successor's log line reports that it serves.
pub(crate) fn is_serving(line: &str) -> bool {
    line == "adopting => serving"
}

/// Injects the fault, once.
#[derive(Clone)]
pub(crate) struct Arm(Arc<ArmParts>);

struct ArmParts {
    fault: Fault,
    victim: OnceLock<Victim>,
    struck: AtomicBool,
    over: Mutex<Option<Sender<u64>>>,
}

/// Receives the time of the fault.
pub(crate) struct Blow(Receiver<u64>);

impl Blow {
    /// Waits until the victim is dead or continues; returns the time of the fault.
    pub(crate) fn wait_for_its_end(&self) -> u64 {
        self.0.recv_timeout(LIMIT).expect("the occasion comes")
    }
}

impl Arm {
    pub(crate) fn new(plan: &Plan) -> (Self, Blow) {
        let (over, is_over) = mpsc::channel();
        let (victim, struck) = (OnceLock::new(), AtomicBool::new(false));
        let parts = ArmParts { fault: plan.fault, victim, struck, over: Mutex::new(Some(over)) };
        (Self(Arc::new(parts)), Blow(is_over))
    }

    pub(crate) fn aim(&self, victim: &Victim) {
        assert!(self.0.victim.set(victim.clone()).is_ok(), "one victim a try");
    }

    /// The onlooker that injects the fault at its time.
    pub(crate) fn onlooker(&self, when: When) -> Onlooker {
        let arm = self.clone();
        Box::new(move |arrow, moment| match when {
            When::Arrow(at, then, delay) if (at, then) == (arrow, moment) => {
                if !delay.is_zero() && !arm.0.struck.load(Ordering::Relaxed) {
                    thread::sleep(delay);
                }
                arm.strike();
            }
            When::Exchange(delay) => arm.strike_after(delay),
            When::Arrow(..) | When::Start(_) | When::BeforeStart => {}
        })
    }

    fn strike_after(&self, delay: Duration) {
        if self.0.struck.load(Ordering::Relaxed) {
            return;
        }
        let arm = self.clone();
        thread::spawn(move || {
            thread::sleep(delay);
            arm.strike();
        });
    }

    /// Injects the fault, unless that has happened.
    fn strike(&self) {
        if self.0.struck.swap(true, Ordering::Relaxed) {
            return;
        }
        until("a victim", || self.0.victim.get().is_some());
        let victim = self.0.victim.get().expect("just seen");
        let over = self.0.over.lock().expect("no panic").take().expect("it strikes once");
        let fell = now();
        let (duration, end): (_, fn(&Victim)) = match self.0.fault {
            Fault::Kill => {
                victim.kill();
                let _ = over.send(fell);
                return;
            }
            Fault::Stop(duration) => (duration, Victim::resume),
            Fault::Hang(duration) => (duration, Victim::kill),
        };
        victim.stop();
        let victim = victim.clone();
        thread::spawn(move || {
            thread::sleep(duration);
            end(&victim);
            let _ = over.send(fell);
        });
    }
}
