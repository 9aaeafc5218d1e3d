// SPDX-License-Identifier: Apache-2.0
//! Relay: many handoffs in a row under load, each process the successor of the one before.
//!
//! `cargo test --release --test faults -- --ignored --nocapture` measures the release build: a
//! thousand handoffs, and the duration of one with up to a thousand idle clients.
//!
//! All processes log to one file, with one write for each line. The test reads it at the end.

use std::fs::{self, File, OpenOptions};
use std::io::{BufRead as _, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::thread;
use std::time::Duration;

use early_service_trial::victim::Victim;
use rustix::process::{Resource, getrlimit, setrlimit};

use crate::{number_from, seed};
use testkit::daemon::{Line, started_with};
use testkit::judge::{Evidence, judge};
use testkit::load::{Asks, COUNTER, Habit, Load, Told};
use testkit::record::{Record, Rhythm};
use testkit::scratch::Scratch;
use testkit::{LIMIT, now, orphan};

/// How long a process owns the counter: two ticks, so that each process has some.
pub(crate) const TURN: Duration = Duration::from_millis(20);

/// In milliseconds.
const PERIOD: &str = "10";

/// Maximum time between a reply and the next request of a client. With it, two replies (to any
/// clients) are some tens of microseconds apart.
const PAUSE: Duration = Duration::from_micros(400);

/// Processes that pass on one public socket.
pub(crate) struct Relay {
    pub(crate) scratch: Scratch,
    public: UnixListener,
    log: File,
    pids: Vec<u32>,
    pub(crate) owner: Runner,
}

/// One process; killed if the test ends first.
pub(crate) struct Runner {
    pub(crate) victim: Victim,
    private: PathBuf,
}

impl Drop for Runner {
    fn drop(&mut self) {
        self.victim.kill_at_once();
    }
}

impl Runner {
    #[allow(clippy::zombie_processes, reason = "`assert_success` waits, for orphans also")]
    fn start(
        scratch: &Scratch,
        public: &UnixListener,
        log: &File,
        predecessor: Option<&Self>,
        number: usize,
    ) -> Self {
        let private = scratch.join(format!("{number}"));
        let mut command = started_with(public);
        command.arg("--server-socket-path").arg(&private);
        command.arg("--state-file").arg(scratch.join("state")).args(["--timer-delay-ms", PERIOD]);
        if let Some(predecessor) = predecessor {
            command.arg("--client-socket-path").arg(&predecessor.private);
        }
        command.stderr(Stdio::from(log.try_clone().expect("a descriptor")));
        let child = command.spawn().expect("the program starts");
        Self { victim: Victim::new(child.id()), private }
    }

    #[track_caller]
    fn assert_success(self) {
        orphan::succeeds(self.victim.pid()).unwrap_or_else(|why| panic!("{why}"));
    }
}

impl Relay {
    pub(crate) fn start() -> Self {
        let scratch = Scratch::new();
        let public = UnixListener::bind(scratch.join("public")).expect("a socket");
        let log = OpenOptions::new().create_new(true).append(true).open(scratch.join("log"));
        let log = log.expect("a new file");
        let owner = Runner::start(&scratch, &public, &log, None, 0);
        assert!(is_answered(&mut connect(&scratch)), "it serves");
        Self { scratch, public, log, pids: vec![owner.victim.pid()], owner }
    }

    /// Hands over to a new process, and waits until the old one has ended.
    fn hand_over(&mut self) {
        let number = self.pids.len();
        let Self { scratch, public, log, owner, .. } = self;
        let next = Runner::start(scratch, public, log, Some(owner), number);
        self.succeed(next);
    }

    /// Has the owner reload, and waits until it has ended. Its successor keeps its socket.
    pub(crate) fn reload(&mut self) {
        let mut client = connect(&self.scratch);
        client.write_all(b"reload\n").expect("a server");
        let mut answer = String::new();
        BufReader::new(client).read_line(&mut answer).expect("an answer");
        let pid = answer.strip_prefix("reloaded: process ").and_then(|rest| rest.split_once(' '));
        let pid = pid.and_then(|(pid, _)| pid.parse().ok());
        let pid = pid.unwrap_or_else(|| panic!("the answer to a reload is {answer:?}"));
        let private = self.owner.private.clone();
        self.succeed(Runner { victim: Victim::new(pid), private });
    }

    fn succeed(&mut self, next: Runner) {
        self.pids.push(next.victim.pid());
        let last = std::mem::replace(&mut self.owner, next);
        last.victim.wait_for_end();
        last.assert_success();
    }

    /// Stops the owner and starts another one, as `systemctl restart` does if the socket has its
    /// own unit. Returns the times of the stop and of the first reply.
    pub(crate) fn restart(&mut self) -> (u64, u64) {
        let (stopped, number) = (now(), self.pids.len());
        self.owner.victim.end();
        self.owner.victim.wait_for_end();
        let next = Runner::start(&self.scratch, &self.public, &self.log, None, number);
        self.succeed(next);
        assert!(is_answered(&mut connect(&self.scratch)), "it serves again");
        (stopped, now())
    }

    pub(crate) fn rhythm(&self) -> Rhythm {
        Record::read(&self.scratch.join("state"), COUNTER.key).rhythm()
    }

    /// Ends the last process; returns the evidence. `may_end`: connections may have ended.
    pub(crate) fn end(self, rhythm: Rhythm, told: Told, may_end: bool) -> Evidence {
        self.owner.victim.end();
        self.owner.assert_success();
        let log = fs::read_to_string(self.scratch.join("log")).expect("text");
        let mut lines: Vec<_> = log.lines().map(Line::read).collect();
        // A stable sort keeps the lines of one process in order.
        lines.sort_by_key(|line| line.time);
        let last = Record::read(&self.scratch.join("state"), COUNTER.key);
        let owners = self.pids;
        let (may_lose_lines, may_drop_lines) = (false, false);
        let first = rhythm.first();
        Evidence {
            rhythm,
            first,
            told,
            lines,
            owners,
            last,
            may_end,
            may_lose_lines,
            may_drop_lines,
        }
    }
}

pub(crate) fn connect(scratch: &Scratch) -> UnixStream {
    let client = UnixStream::connect(scratch.join("public")).expect("nobody is refused");
    client.set_read_timeout(Some(LIMIT)).expect("not zero");
    client
}

/// Sends a request; returns whether a reply arrives.
pub(crate) fn is_answered(client: &mut UnixStream) -> bool {
    let mut reply = [0; 32];
    client.write_all(b"get_counter\n").is_ok() && client.read(&mut reply).is_ok_and(|n| n > 0)
}

/// The time from each request until the successor serves, from the lines of both.
pub(crate) fn exchanges(lines: &[Line]) -> Vec<(u64, u64)> {
    let times = |text: &'static str| {
        lines.iter().filter(move |line| line.message.contains(text)).map(|line| line.time)
    };
    times("Handing over to process").zip(times("adopting => serving")).collect()
}

/// The longest time without a reply to any client, around each of these times.
pub(crate) fn holes(told: &Told, during: &[(u64, u64)]) -> Vec<u64> {
    let mut replies: Vec<_> = told.answers.iter().map(|answer| answer.received).collect();
    replies.sort_unstable();
    let hole = |(start, end): &(u64, u64)| {
        // From the last reply before the exchange to the first one after it.
        let first = replies.partition_point(|time| time < start).saturating_sub(1);
        let last = replies.partition_point(|time| time <= end).min(replies.len() - 1);
        let gaps = replies[first..=last].windows(2).map(|pair| pair[1] - pair[0]);
        gaps.max().unwrap_or_default()
    };
    during.iter().map(hole).collect()
}

/// The longest wait of any client for a reply, around each of these times.
fn waits(told: &Told, during: &[(u64, u64)]) -> Vec<u64> {
    let mut answers: Vec<_> =
        told.answers.iter().map(|answer| (answer.received, answer.sent)).collect();
    answers.sort_unstable();
    let wait = |(start, end): &(u64, u64)| {
        let first = answers.partition_point(|(received, _)| received < start);
        // A request before the end has its reply within a second.
        let asked = answers[first..].iter().take_while(|(received, _)| *received < end + SECOND);
        let asked = asked.filter(|(_, sent)| sent <= end);
        asked.map(|(received, sent)| received - sent).max().unwrap_or_default()
    };
    during.iter().map(wait).collect()
}

const SECOND: u64 = 1_000_000_000;

/// `median 0.41 ms, longest 2.03 ms`.
pub(crate) fn summary(mut times: Vec<u64>) -> String {
    times.sort_unstable();
    let ms = |time: Option<&u64>| time.map_or(0.0, |time| *time as f64 / 1e6);
    let (median, longest) = (ms(times.get(times.len() / 2)), ms(times.last()));
    let most = ms(times.get(times.len() * 99 / 100));
    format!("median {median:.2} ms, 99 % within {most:.2} ms, longest {longest:.2} ms")
}

/// Ten clients, one of which only sets the counter, because each new number makes another range to
/// judge.
pub(crate) fn clients() -> Vec<Habit> {
    let habit = |asks, stays| Habit { asks, stays, pause: PAUSE };
    let mut clients = vec![habit(Asks::Get, true); 5];
    clients.extend([habit(Asks::Get, false), habit(Asks::Get, false)]);
    clients.extend([habit(Asks::Status, true), habit(Asks::Many, true)]);
    clients.push(Habit { asks: Asks::Set, stays: true, pause: Duration::from_millis(30) });
    clients
}

/// Makes `count` handoffs under load; shows figures with `--nocapture`.
#[allow(clippy::print_stdout, reason = "the figures are for people to read")]
fn run(handoffs: u64) {
    let mut relay = Relay::start();
    let rhythm = relay.rhythm();
    let ranges = Arc::new(AtomicU64::new(1));
    let load =
        Load::start(&relay.scratch.join("public"), &clients(), Some(&ranges), seed(), &COUNTER);
    load.wait_for_answers(1);
    let started = now();
    for _ in 0..handoffs {
        thread::sleep(TURN);
        relay.hand_over();
    }
    let lasted = now() - started;
    load.wait_for_answers(1);
    let evidence = relay.end(rhythm, load.stop(), false);
    let told = &evidence.told;

    let judged = judge(&evidence);
    let during = exchanges(&evidence.lines);
    // As long, but half a turn later: the machine's effect on replies without a handoff.
    let half = TURN.as_nanos() as u64 / 2;
    let between: Vec<_> = during.iter().map(|(start, end)| (start + half, end + half)).collect();
    let (refused, wrong, missing) = (told.refused, told.wrong.len(), told.unanswered.len());
    println!(
        "{} handoffs in {:.1} s, {} replies: {refused} refused, {wrong} wrong, {missing} missing, \
         {} connections ended",
        during.len(),
        lasted as f64 / 1e9,
        told.answers.len(),
        told.ended,
    );
    match &judged {
        Ok(loss) => println!(
            "{} ticks, {} missing from the log, none twice; the rhythm has not shifted",
            loss.ticks, loss.lines
        ),
        Err(wrong) => println!("{} things are wrong", wrong.len()),
    }
    let length = during.iter().map(|(start, end)| end - start).collect();
    println!("a handoff:                      {}", summary(length));
    println!("longest hole in replies at one: {}", summary(holes(told, &during)));
    println!("the same between handoffs:      {}", summary(holes(told, &between)));
    println!("longest wait of one client:     {}", summary(waits(told, &during)));
    println!("the same between handoffs:      {}", summary(waits(told, &between)));
    assert_eq!(during.len() as u64, handoffs);
    if let Err(wrong) = judged {
        panic!("{} things are wrong: {:#?}", wrong.len(), &wrong[..wrong.len().min(10)]);
    }
}

#[test]
fn many_handoffs_in_a_row_lose_nothing() {
    run(number_from("FAULTS_HANDOFFS", 100));
}

#[test]
#[ignore = "a measurement, of the release build: it takes a minute and the machine for itself"]
fn a_thousand_handoffs_in_a_row_lose_nothing() {
    run(number_from("FAULTS_HANDOFFS", 1000));
}

#[test]
#[ignore = "a measurement, of the release build: it takes the machine for itself"]
#[allow(clippy::print_stdout, reason = "the figures are for people to read")]
fn idle_clients_are_handed_over_and_cost_little() {
    const HANDOFFS: usize = 50;
    // A thousand clients need as many descriptors, in the test and in the processes.
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit).expect("up to the maximum");
    for idle in [0, 60, 500, 1000] {
        let mut relay = Relay::start();
        let rhythm = relay.rhythm();
        let mut clients: Vec<_> = (0..idle).map(|_| connect(&relay.scratch)).collect();
        assert!(clients.iter_mut().all(is_answered));
        for _ in 0..HANDOFFS {
            thread::sleep(TURN);
            relay.hand_over();
        }
        let answered: usize =
            clients.iter_mut().map(|client| usize::from(is_answered(client))).sum();
        let evidence = relay.end(rhythm, Told::default(), false);
        let during = exchanges(&evidence.lines);
        let length = during.iter().map(|(start, end)| end - start).collect();
        println!("a handoff with {idle:4} idle clients: {}", summary(length));
        assert_eq!(during.len(), HANDOFFS);
        judge(&evidence).unwrap_or_else(|wrong| panic!("{wrong:#?}"));
        assert_eq!(answered, idle, "connections that outlived {HANDOFFS} handoffs");
    }
}
