// SPDX-License-Identifier: Apache-2.0
//! Chain: processes that succeed each other on one public socket and one state file.
//!
//! The soak replaces systemd: it holds the public socket, passes it to each process, and restarts a
//! killed process. A round begins and ends with one process, the owner. Each round is judged
//! separately, from the counter at the end of the last round. A broken promise is therefore known
//! at once, and with its round.

use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use early_service_trial::victim::Victim;

use crate::fate::{Blow, Fate, When, while_stopped};
use crate::process::{Figures, Process};
use crate::report::Broken;
use crate::sleepers::Sleepers;
use testkit::client::Client;
use testkit::judge::{Evidence, Loss, judge};
use testkit::line::Line;
use testkit::load::{COUNTER, Load, Said, Told, ten};
use testkit::random::Random;
use testkit::record::{Record, Rhythm};
use testkit::scratch::Scratch;
use testkit::until;

/// Short enough that some client always waits for a reply. Long enough that the processes find a
/// processor.
const PAUSE: Duration = Duration::from_millis(12);

/// Maximum time before the round's fate, in milliseconds: the second one in one of twenty rounds.
const TURN: [u64; 2] = [60, 2000];

/// Maximum delay before a restart, in milliseconds.
const RESTART: u64 = 200;

/// Interval of the search for a successor's request: an exchange takes less than a millisecond.
const LOOK: Duration = Duration::from_micros(50);

/// Time limit of that search. After it, the fault is injected anyway.
const LOOK_FOR: Duration = Duration::from_secs(1);

/// Time in which the owner closes the connections of clients that have left.
const CLOSED_WITHIN: Duration = Duration::from_secs(5);

/// Processes that may be alive, to be killed if the soak ends early.
pub(crate) type Living = Arc<Mutex<Vec<Victim>>>;

/// The outcome of a round.
pub(crate) struct Outcome {
    pub(crate) loss: Loss,
    pub(crate) commands: usize,
    pub(crate) answers: usize,
    pub(crate) sets: usize,
    pub(crate) connected: usize,
    /// Number of processes that were started, and number that ended cleanly.
    pub(crate) started: usize,
    pub(crate) ended: usize,
    /// The owner's use of resources after the round, without connections of clients.
    pub(crate) figures: Figures,
    /// The first process's use of resources, before its first client.
    pub(crate) at_first: Figures,
    /// Whether connections were permitted to end.
    pub(crate) may_end: bool,
    pub(crate) owner: u32,
}

/// The processes and their surroundings.
pub(crate) struct Chain {
    program: PathBuf,
    scratch: Scratch,
    public: UnixListener,
    random: Random,
    /// The next number that a client sets, in ranges.
    ranges: Arc<AtomicU64>,
    sleepers: Sleepers,
    /// Number of processes started.
    started: usize,
    living: Living,
    rhythm: Rhythm,
    /// The counter at the end of the last round.
    last: Record,
    /// The first process's use of resources, before its first client.
    at_first: Figures,
    owner: Process,
}

/// A round under way.
struct Round<'a> {
    chain: &'a mut Chain,
    /// Separate, so that what happens in this round does not change the next one.
    random: Random,
    /// Ended processes that have owned the counter, or may have. The chain has the last owner.
    past: Vec<Process>,
    may_end: bool,
    /// The first broken promise.
    broken: Option<Broken>,
}

impl Chain {
    /// Waits until the first process serves; it has received no request yet.
    pub(crate) fn start(program: PathBuf, seed: u64, living: &Living) -> Self {
        let (scratch, mut random) = (scratch(), Random::new(seed));
        let public = UnixListener::bind(scratch.join("public")).expect("a socket");
        let mut owner = Process::start(&program, &scratch, &public, None, 0);
        living.lock().expect("no panic").push(owner.victim.clone());
        until("the first process serves", || owner.serves());
        let rhythm = Record::read(&scratch.join("state"), COUNTER.key).rhythm();
        Self {
            program,
            sleepers: Sleepers::new(&scratch.join("public"), random.draw()),
            scratch,
            public,
            random,
            ranges: Arc::new(AtomicU64::new(1)),
            started: 1,
            living: Arc::clone(living),
            rhythm,
            last: rhythm.first(),
            at_first: owner.figures(),
            owner,
        }
    }

    /// The directory of the sockets, the state file and the logs.
    pub(crate) fn directory(&self) -> PathBuf {
        self.scratch.join("")
    }

    /// Plays one round with active clients, and judges it.
    pub(crate) fn round(&mut self, fate: Fate) -> Result<Outcome, Vec<Broken>> {
        let started = self.started;
        let (seed, random) = (self.random.draw(), Random::new(self.random.draw()));
        let public = self.scratch.join("public");
        let load = Load::start(&public, &ten(PAUSE), Some(&self.ranges), seed, &COUNTER);
        self.sleepers.begin();
        load.wait_for_answers(1);
        let (past, may_end) = (Vec::new(), fate.is_deadly());
        let mut round = Round { chain: self, random, past, may_end, broken: None };
        round.play(fate);
        let Round { mut past, may_end, broken, .. } = round;
        load.wait_for_answers(2);
        let mut told = self.sleepers.end();
        told.take(load.stop());
        let (first, last) = (self.last, self.settle());
        let lines = self.lines(&mut past, last);
        let owners = past.iter().chain([&self.owner]).map(Process::pid).collect();
        let counts = counts(&told);
        let (rhythm, may_lose_lines) = (self.rhythm, fate.is_deadly());
        let may_drop_lines = true;
        let evidence = Evidence {
            rhythm,
            first,
            told,
            lines,
            owners,
            last,
            may_end,
            may_lose_lines,
            may_drop_lines,
        };
        let judged = judge(&evidence).map_err(|wrong| wrong.into_iter().map(Broken::from));
        let mut wrong: Vec<_> = broken.into_iter().collect();
        let loss = match judged {
            Ok(loss) => loss,
            Err(others) => {
                wrong.extend(others);
                Loss::default()
            }
        };
        if !wrong.is_empty() {
            return Err(wrong);
        }
        self.last = last;
        let ended = past.iter().filter(|process| !process.is_killed).count();
        past.into_iter().for_each(Process::forget);
        self.living.lock().expect("no panic").retain(|victim| !victim.has_ended());
        let (commands, sets) = counts;
        Ok(Outcome {
            loss,
            commands,
            answers: evidence.told.answers.len(),
            sets,
            connected: evidence.told.connected,
            started: self.started - started,
            ended,
            figures: self.figures(),
            at_first: self.at_first,
            may_end,
            owner: self.owner.pid(),
        })
    }

    /// Ends the last process.
    pub(crate) fn end(mut self) -> Result<(), Broken> {
        self.owner.victim.end();
        self.owner.end().map_err(Broken::Ending)
    }

    /// Keeps the logs of the last round.
    pub(crate) fn keep_logs(self) {
        let Self { scratch, owner, .. } = self;
        drop(owner);
        std::mem::forget(scratch);
    }

    /// Waits for a tick that the owner has written to the state file and to the log.
    fn settle(&mut self) -> Record {
        let state = self.scratch.join("state");
        let before = Record::read(&state, COUNTER.key);
        let mut last = before;
        // Any tick, because the line of a certain one may be dropped.
        until("a tick and its line", || {
            last = Record::read(&state, COUNTER.key);
            last.deadline > before.deadline && self.owner.has_logged(last.counter - 1)
        });
        last
    }

    /// All processes' lines up to this record, in the order of their times.
    fn lines(&mut self, past: &mut [Process], last: Record) -> Vec<Line> {
        let mut lines: Vec<_> = past.iter_mut().flat_map(Process::last_lines).collect();
        lines.extend(self.owner.lines_to(last.counter - 1));
        // A stable sort keeps the lines of one process in order.
        lines.sort_by_key(|line| line.time);
        lines
    }

    /// The owner's use of resources, after it has closed the connections of the round's clients.
    fn figures(&self) -> Figures {
        let clients = self.sleepers.connections();
        let mut figures = self.owner.figures();
        let begun = Instant::now();
        while figures.descriptors > clients + self.at_first.descriptors
            && begun.elapsed() < CLOSED_WITHIN
        {
            thread::sleep(Duration::from_millis(2));
            figures = self.owner.figures();
        }
        figures.descriptors = figures.descriptors.saturating_sub(clients);
        figures
    }

    fn start_process(&mut self, predecessor: Option<&Path>) -> Process {
        let Self { program, scratch, public, .. } = self;
        let process = Process::start(program, scratch, public, predecessor, self.started);
        self.add(process)
    }

    /// The process that the owner has started, to replace it.
    fn reloaded(&mut self, pid: u32) -> Process {
        let process = self.owner.reloaded(pid);
        self.add(process)
    }

    fn add(&mut self, process: Process) -> Process {
        self.living.lock().expect("no panic").push(process.victim.clone());
        self.started += 1;
        process
    }
}

/// In memory, like `/run`, because a busy disk would delay ticks and logs.
pub(crate) fn scratch() -> Scratch {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() { Scratch::within(memory) } else { Scratch::new() }
}

/// Number of commands, and number of acknowledged ones that set the counter.
fn counts(told: &Told) -> (usize, usize) {
    let is_set = |said: Said| matches!(said, Said::Replaced { .. });
    let sets = told.answers.iter().filter(|answer| is_set(answer.said)).count();
    (told.answers.len() + told.unanswered.len(), sets)
}

impl Round<'_> {
    fn play(&mut self, fate: Fate) {
        let turn = TURN[usize::from(self.random.one_in(20))];
        self.pause(turn);
        let random = &mut self.random;
        let (still, when) = (while_stopped(random), When::choose(random));
        match fate {
            Fate::HandedOver => self.hand_over(),
            Fate::Reloaded => self.reload(),
            Fate::PredecessorKilled => self.hit_predecessor(Blow::Kill, when),
            Fate::PredecessorStopped => self.hit_predecessor(Blow::Stop(still), when),
            Fate::PredecessorHung => self.hit_predecessor(Blow::Hang(still), when),
            Fate::SuccessorKilled => self.hit_successor(Blow::Kill, when),
            Fate::SuccessorStopped => self.hit_successor(Blow::Stop(still), when),
            Fate::SuccessorHung => self.hit_successor(Blow::Hang(still), when),
            Fate::OwnerKilled => {
                self.chain.owner.kill();
                self.restart();
            }
            Fate::TwoSuccessors => self.two_successors(false),
            Fate::TwoSuccessorsOwnerKilled => self.two_successors(true),
            Fate::StoppedAndStarted => {
                self.may_end = true;
                self.chain.owner.victim.end();
                self.restart();
            }
        }
    }

    /// Waits for a random time of at most `at_most` milliseconds.
    fn pause(&mut self, at_most: u64) {
        let pause = self.random.duration(Duration::ZERO..Duration::from_millis(at_most));
        thread::sleep(pause);
    }

    fn start_successor(&mut self) -> Process {
        let private = self.chain.owner.private.clone();
        self.chain.start_process(Some(&private))
    }

    fn hand_over(&mut self) {
        let next = self.start_successor();
        self.succeed(next);
    }

    /// Has the owner start its successor itself.
    fn reload(&mut self) {
        let answer = Client::connect(self.chain.scratch.join("public")).ask("reload");
        let pid = answer.strip_prefix("reloaded: process ").and_then(|rest| rest.split_once(' '));
        let pid = pid.and_then(|(pid, _)| pid.parse().ok());
        let next = self.chain.reloaded(pid.unwrap_or_else(|| panic!("{answer}")));
        self.succeed(next);
    }

    /// Waits until `next` serves and the owner has ended.
    fn succeed(&mut self, mut next: Process) {
        let owner = &self.chain.owner;
        until("the successor serves and the predecessor has ended", || {
            assert!(!next.victim.has_ended(), "the successor has ended: {:?}", next.read());
            next.serves() && owner.victim.has_ended()
        });
        let last = std::mem::replace(&mut self.chain.owner, next);
        self.retire(last);
    }

    /// Waits for the end of a process that no longer owns the counter.
    fn retire(&mut self, mut process: Process) {
        if let Err(what) = process.end() {
            self.broken = Some(Broken::Ending(what));
        }
        self.past.push(process);
    }

    /// Starts a process after the owner's end, with or without the owner's path.
    fn restart(&mut self) {
        self.chain.owner.victim.wait_for_end();
        self.pause(RESTART);
        let private = self.chain.owner.private.clone();
        let stale = self.random.one_in(2).then_some(&*private);
        let next = self.chain.start_process(stale);
        self.succeed(next);
    }

    fn hit_predecessor(&mut self, blow: Blow, when: When) {
        let owner = &mut self.chain.owner;
        if matches!(when, When::BeforeStart) {
            match blow {
                Blow::Kill => owner.kill(),
                Blow::Stop(_) | Blow::Hang(_) => owner.victim.stop(),
            }
        }
        let mut next = self.start_successor();
        await_moment(&mut next, when);
        strike(&mut self.chain.owner, blow);
        self.succeed(next);
    }

    fn hit_successor(&mut self, blow: Blow, when: When) {
        let mut next = self.start_successor();
        await_moment(&mut next, when);
        strike(&mut next, blow);
        if !next.is_killed {
            return self.succeed(next);
        }
        self.pause(30);
        let another = self.start_successor();
        self.succeed(another);
        // After the predecessor, because this process answered later, if at all.
        self.retire(next);
    }

    fn two_successors(&mut self, owner_is_killed: bool) {
        let (mut one, mut other) = (self.start_successor(), self.start_successor());
        let owner = &self.chain.owner;
        until("one of two successors serves and the predecessor has ended", || {
            owner.victim.has_ended() && (one.serves() || other.serves())
        });
        self.pause(60);
        // The second one may have adopted from the first; `one` is the first.
        let is_second = match (one.victim.has_ended(), other.victim.has_ended()) {
            (false, true) => true,
            (true, _) => false,
            (false, false) => match (one.served_at(), other.served_at()) {
                (Some(one), Some(other)) => other < one,
                (one, _) => one.is_none(),
            },
        };
        if is_second {
            std::mem::swap(&mut one, &mut other);
        }
        let predecessor = std::mem::replace(&mut self.chain.owner, one);
        self.retire(predecessor);
        if self.chain.owner.victim.has_ended() || other.serves() {
            self.succeed(other);
            if owner_is_killed {
                self.chain.owner.kill();
                self.restart();
            }
            return;
        }
        if owner_is_killed {
            self.chain.owner.kill();
            return self.succeed(other);
        }
        other.victim.end();
        other.victim.wait_for_end();
        // All its lines are there now, and may show that it adopted at the last moment.
        if other.served_at() > self.chain.owner.served_at() {
            self.may_end = true;
            let first = std::mem::replace(&mut self.chain.owner, other);
            self.retire(first);
            self.restart();
        } else {
            self.retire(other);
        }
    }
}

/// Waits for the time of a fault.
fn await_moment(successor: &mut Process, when: When) {
    match when {
        When::BeforeStart => {}
        When::Start(delay) => thread::sleep(delay),
        When::Asking(delay) => {
            let begun = Instant::now();
            while !successor.says("Reading starting position") && begun.elapsed() < LOOK_FOR {
                thread::sleep(LOOK);
            }
            thread::sleep(delay);
        }
    }
}

fn strike(process: &mut Process, blow: Blow) {
    match blow {
        Blow::Kill => process.kill(),
        Blow::Stop(duration) => {
            process.victim.stop();
            thread::sleep(duration);
            process.victim.resume();
        }
        Blow::Hang(duration) => {
            process.victim.stop();
            thread::sleep(duration);
            process.kill();
        }
    }
}
