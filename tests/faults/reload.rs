// SPDX-License-Identifier: Apache-2.0
//! Reload: kills or stops either process at each arrow, when the owner starts its successor itself.
//!
//! The owner starts `detour`, an example of testkit, which puts the proxy between both and becomes
//! the program. The test replaces systemd: if no process is left, it starts one.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use crate::arrows::KINDS;
use crate::crowd::{all_of, assert_sound, each, show};
use crate::service::COUNTER;
use crate::trial::{Arm, Blow, Fault, Outcome, PAUSE, PERIOD, Plan, Side, When, is_serving, tell};
use crate::{number_from, seed};
use early_service_trial::proxy::{Arrow, Moment, Proxy};
use early_service_trial::victim::Victim;
use testkit::daemon::Daemon;
use testkit::judge::{Evidence, judge};
use testkit::load::{Load, Told, ten};
use testkit::random::Random;
use testkit::record::{Record, Rhythm};
use testkit::scratch::Scratch;
use testkit::{LIMIT, build, orphan, starting, until};

/// Tries for each arrow, side and fault, half of them before the arrow; `FAULTS_TRIES_RELOAD` in the
/// environment sets another number.
const TRIES: u64 = 2;

/// Time in which the receiver of an arrow sends the next one.
const REACTION: Duration = Duration::from_micros(1000);

/// Longer than a successor may own the state without serving.
const LONGER: Duration = Duration::from_millis(2300);

/// The plans whose process is stopped for so long, after the commit was sent.
const LONG_STOPS: [(Arrow, Moment, Side); 4] = [
    (Arrow::Commit, Moment::Before, Side::Successor),
    (Arrow::Commit, Moment::After, Side::Predecessor),
    (Arrow::Done, Moment::Before, Side::Predecessor),
    (Arrow::Done, Moment::After, Side::Successor),
];

/// What the client reads whose reload was successful, and if it was not.
const RELOADED: &str = "reloaded: process ";
const NOT_RELOADED: &str = "not reloaded: ";

/// Why a reload fails while the process of the last one has not yet ended.
const BUSY: &str = "not reloaded: another process is adopting the state";

#[test]
fn a_fault_at_any_arrow_of_a_reload_breaks_no_promise() {
    orphan::adopt_all();
    let seed = seed();
    let mut random = Random::new(seed);
    let (mut plans, mut names) = (Vec::new(), Vec::new());
    let mut add = |arrow, moment, side: Side, fault: Fault, random: &mut Random| {
        let delay = match moment {
            Moment::After if fault != Fault::Stop(LONGER) => {
                random.duration(Duration::ZERO..REACTION)
            }
            Moment::Before | Moment::After => Duration::ZERO,
        };
        let when = When::Arrow(arrow, moment, delay);
        let (sets, seed) = (random.one_in(2), random.draw());
        plans.push(Plan { side, fault, when, sets, seed, service: &COUNTER });
        let longer = if fault == Fault::Stop(LONGER) { ", long" } else { "" };
        names.push(format!("{arrow:12}  {side:11}  {:13}", format!("{fault}{longer}")));
    };
    for arrow in Arrow::ALL {
        for (side, fault) in KINDS {
            for number in 0..number_from("FAULTS_TRIES_RELOAD", TRIES) {
                let moment = if number % 2 == 0 { Moment::Before } else { Moment::After };
                let fault = fault(&mut random);
                add(arrow, moment, side, fault, &mut random);
            }
        }
    }
    for (arrow, moment, side) in LONG_STOPS {
        add(arrow, moment, side, Fault::Stop(LONGER), &mut random);
    }
    let results = all_of(&plans, make);
    show(&format!("at each arrow of a reload (FAULTS_SEED={seed})"), &names, &results);
    assert_sound(&plans, &results);
}

/// Makes one try.
fn make(plan: &Plan) -> Result<Outcome, Vec<String>> {
    let mut stage = Stage::new(plan);
    let load = stage.clients();
    load.wait_for_answers(1);
    let client = stage.ask();
    let successor = stage.wait_for_child(1);
    if plan.side == Side::Successor {
        stage.arm.aim(&successor);
    }
    let fell = stage.blow.wait_for_its_end();
    let answer = line(client);
    stage.settle(&answer, successor);
    load.wait_for_answers(2);
    let evidence = stage.end(load.stop(), &answer);
    let is_late = evidence.lines.iter().any(|line| is_serving(&line.message) && line.time < fell);
    let judged = judge(&evidence).inspect_err(|_| tell(plan, &evidence.lines));
    judged.map(|loss| Outcome { loss, is_late }).map_err(|wrong| each(&wrong))
}

/// The processes and their surroundings.
struct Stage<'a> {
    plan: &'a Plan,
    random: Random,
    scratch: Scratch,
    public: UnixListener,
    proxy: Proxy,
    arm: Arm,
    blow: Blow,
    /// The processes that the test has started: the predecessor, and one after both had died.
    started: Vec<Daemon>,
    predecessor: Victim,
    /// The owners, in order, and the successors that did not become one.
    owners: Vec<Victim>,
    rhythm: Rhythm,
}

impl<'a> Stage<'a> {
    /// Waits until the predecessor serves.
    fn new(plan: &'a Plan) -> Self {
        let scratch = Scratch::new();
        let public = UnixListener::bind(scratch.join("public")).expect("a socket");
        let (arm, blow) = Arm::new(plan);
        let proxy = Proxy::within_reloads(scratch.join("proxy"), arm.onlooker(plan.when));
        let daemon = start(&scratch, &public);
        daemon.wait_for(&format!("Listening on UNIX socket {}", scratch.join("own").display()));
        let predecessor = Victim::new(daemon.pid());
        if plan.side == Side::Predecessor {
            arm.aim(&predecessor);
        }
        let rhythm = Record::read(&scratch.join("state"), COUNTER.words.key).rhythm();
        let (started, owners) = (vec![daemon], vec![predecessor.clone()]);
        let random = Random::new(plan.seed);
        Self {
            plan,
            random,
            scratch,
            public,
            proxy,
            arm,
            blow,
            started,
            predecessor,
            owners,
            rhythm,
        }
    }

    fn clients(&mut self) -> Load {
        let ranges = self.plan.sets.then(|| Arc::new(AtomicU64::new(1)));
        let (seed, public) = (self.random.draw(), self.scratch.join("public"));
        Load::start(&public, &ten(PAUSE), ranges.as_ref(), seed, COUNTER.words)
    }

    /// Asks for a reload.
    fn ask(&self) -> UnixStream {
        let mut client = UnixStream::connect(self.scratch.join("public")).expect("a server");
        client.set_read_timeout(Some(LIMIT)).expect("not zero");
        client.write_all(b"reload\n").expect("a server");
        client
    }

    /// Waits until the predecessor has started this many successors; returns the last.
    fn wait_for_child(&mut self, count: usize) -> Victim {
        until("a successor", || self.proxy.successors().len() >= count);
        let child = self.proxy.successors()[count - 1].clone();
        self.owners.push(child.clone());
        child
    }

    /// Whether this arrow of the first reload was sent.
    fn sent(&self, arrow: Arrow) -> bool {
        self.proxy.sent().contains(&(0, arrow))
    }

    /// Waits until one process is left, which a client's `answer` must match. If it is the
    /// predecessor, its next reload succeeds.
    fn settle(&mut self, answer: &str, successor: Victim) {
        let Self { plan, predecessor, .. } = &*self;
        let was_killed = plan.fault.is_deadly().then_some(plan.side);
        let (left, expected) = match was_killed {
            Some(Side::Predecessor) if self.sent(Arrow::End) => (Some(&successor), RELOADED),
            Some(Side::Predecessor) => (None, ""),
            Some(Side::Successor) if self.sent(Arrow::Done) => (None, answer),
            Some(Side::Successor) => (Some(predecessor), NOT_RELOADED),
            None if answer.starts_with(RELOADED) => (Some(&successor), RELOADED),
            None => (Some(predecessor), NOT_RELOADED),
        };
        let is_expected = answer.starts_with(expected) && answer.is_empty() == expected.is_empty();
        assert!(is_expected, "{plan:?}: {answer:?}, not {expected:?}: {:#?}", self.log());
        let left = left.map(Victim::pid);
        for victim in &self.owners {
            assert!(
                left == Some(victim.pid()) || ends(victim),
                "{plan:?}: process {} has not ended: {:#?}",
                victim.pid(),
                self.log()
            );
        }
        match left {
            None => {
                self.started.push(start(&self.scratch, &self.public));
                let owner = Victim::new(self.started[1].pid());
                self.owners.push(owner);
            }
            Some(left) if left == self.predecessor.pid() => self.reload_again(),
            Some(_) => {}
        }
    }

    fn reload_again(&mut self) {
        let mut answer = String::new();
        until("the killed process is waited for", || {
            answer = line(self.ask());
            answer != BUSY
        });
        assert!(answer.starts_with(RELOADED), "{:?}: {answer:?}: {:#?}", self.plan, self.log());
        let _ = self.wait_for_child(2);
        assert!(ends(&self.predecessor), "{:#?}", self.log());
    }

    fn log(&self) -> Vec<String> {
        self.started.iter().flat_map(Daemon::messages).collect()
    }

    /// Ends the last owner and collects the evidence.
    fn end(mut self, told: Told, answer: &str) -> Evidence {
        let last = self.owners.last().expect("one").clone();
        let is_deadly = self.plan.fault.is_deadly();
        last.end();
        assert!(ends(&last), "{:?}: process {}: {:#?}", self.plan, last.pid(), self.log());
        let mut lines = Vec::new();
        let mut is_child = true;
        for (place, daemon) in self.started.iter_mut().enumerate() {
            let (status, _) = daemon.ended();
            let may_fail = is_deadly && self.plan.side == Side::Predecessor && place == 0;
            assert!(status.success() || may_fail, "{status}: {:#?}", daemon.messages());
            lines.extend(daemon.whole_log());
            is_child &= daemon.pid() != last.pid();
        }
        if is_child {
            orphan::succeeds(last.pid()).unwrap_or_else(|why| panic!("{why}: {lines:#?}"));
        }
        assert!(!self.scratch.join("own").exists(), "{:?}: its socket is left", self.plan);
        lines.sort_by_key(|line| line.time);
        let may_end = is_deadly
            && match self.plan.side {
                Side::Predecessor => !self.sent(Arrow::End),
                Side::Successor => self.sent(Arrow::Done),
            };
        Evidence {
            rhythm: self.rhythm,
            first: self.rhythm.first(),
            told,
            lines,
            owners: self.owners.iter().map(Victim::pid).collect(),
            last: Record::read(&self.scratch.join("state"), COUNTER.words.key),
            may_end,
            may_lose_lines: is_deadly || answer.contains("did not serve"),
            may_drop_lines: false,
        }
    }
}

impl Drop for Stage<'_> {
    fn drop(&mut self) {
        // A test that fails leaves successors, which are not its children.
        self.owners.iter().for_each(Victim::kill_at_once);
    }
}

fn start(scratch: &Scratch, public: &UnixListener) -> Daemon {
    static DETOUR: OnceLock<PathBuf> = OnceLock::new();
    let detour = || build::example_of("testkit", "detour").unwrap_or_else(|why| panic!("{why}"));
    let mut command = starting::with(DETOUR.get_or_init(detour), public);
    command.env("DETOUR_PROGRAM", (COUNTER.program)()).env("DETOUR", scratch.join("proxy"));
    command.arg("--server-socket-path").arg(scratch.join("own"));
    command.arg("--state-file").arg(scratch.join("state")).args(["--timer-delay-ms", PERIOD]);
    Daemon::spawn(&mut command)
}

/// The line that a client reads; empty if its connection ends.
fn line(client: UnixStream) -> String {
    let mut line = String::new();
    match BufReader::new(client).read_line(&mut line) {
        Ok(_) => line.trim_end().to_owned(),
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => String::new(),
        Err(error) => panic!("neither an answer nor an end: {error}"),
    }
}

/// Waits for the end of a process; false if it does not end.
fn ends(victim: &Victim) -> bool {
    std::panic::catch_unwind(|| victim.wait_for_end()).is_ok()
}
