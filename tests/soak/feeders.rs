// SPDX-License-Identifier: Apache-2.0
//! Feeders: a second chain, of processes with a device, beside the chain of counters.
//!
//! The program is `examples/watchdog`, with a [`Pipe`] in the place of the hardware. Each successor
//! is in a new unit with its own store in PID 1; a killed owner is restarted in the same unit.
//! After each round the device must be in use. It may be opened again only if no process and no
//! store had it, and is released only at the end.

use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

use early_service_trial::victim::Victim;

use crate::chain::{Living, scratch};
use crate::fate::while_stopped;
use testkit::client::{Client, status, until_status};
use testkit::daemon::{Daemon, STILL, detach};
use testkit::manager::Manager;
use testkit::pipe::Pipe;
use testkit::random::Random;
use testkit::scratch::Scratch;
use testkit::{starting, until};

/// Maximum time before a round's event; longer than the time between two pings.
const TURN: Duration = Duration::from_millis(600);

/// Twice the time in which a successor starts and adopts.
const START: Duration = Duration::from_millis(40);

/// What all processes share.
struct Surroundings {
    program: PathBuf,
    scratch: Scratch,
    device: Pipe,
    living: Living,
}

/// The owner of the device, with what PID 1 keeps of its unit.
struct Unit {
    daemon: Daemon,
    victim: Victim,
    manager: Manager,
    /// The directory of its sockets.
    scratch: Scratch,
}

/// The chain.
pub(crate) struct Feeders {
    shared: Surroundings,
    random: Random,
    owner: Unit,
    handoffs: usize,
    /// How many of the handoffs had a stopped process.
    stops: usize,
    /// How many offers failed.
    failures: usize,
    kills: usize,
    /// How often no process and no store had the device.
    losses: usize,
    /// How often processes that have ended had opened it.
    opened: usize,
    /// The last count of pings that a client has seen.
    pings: u64,
    /// The number of descriptors of the first process.
    descriptors: usize,
}

impl Feeders {
    /// Waits until the first process uses the device.
    pub(crate) fn start(program: PathBuf, seed: u64, living: Living) -> Self {
        let scratch = scratch();
        let device = Pipe::new(&scratch);
        let shared = Surroundings { program, scratch, device, living };
        let mut feeders = Self {
            owner: Unit::start(&shared, None),
            shared,
            random: Random::new(seed),
            handoffs: 0,
            stops: 0,
            failures: 0,
            kills: 0,
            losses: 0,
            opened: 0,
            pings: 0,
            descriptors: usize::MAX,
        };
        feeders.judge();
        feeders.descriptors = feeders.owner.descriptors();
        feeders
    }

    /// Plays rounds, then ends the last process; returns a line about them.
    pub(crate) fn run(mut self, goes_on: impl Fn() -> bool) -> String {
        while goes_on() {
            thread::sleep(self.random.duration(Duration::ZERO..TURN));
            self.pings = self.owner.pings();
            match self.random.number(0..6) {
                0 => self.restart(true),
                1 => self.restart(false),
                2 => self.fail(),
                event => self.hand_over(event),
            }
            self.judge();
        }
        self.end()
    }

    /// Kills the owner and restarts it. PID 1's store returns the device, or has lost it.
    fn restart(&mut self, is_stored: bool) {
        self.kills += 1;
        self.owner.victim.kill();
        let mut stored = std::mem::take(&mut self.owner.manager.stored);
        if !is_stored {
            self.losses += 1;
            stored.clear();
            until_closed(&mut self.shared.device);
        }
        self.opened += openings(&self.owner.daemon, true);
        self.owner.restart(&self.shared, stored.pop());
    }

    /// Starts a successor, and stops the predecessor or the successor for a while, or neither.
    fn hand_over(&mut self, event: u64) {
        self.handoffs += 1;
        let next = Unit::start(&self.shared, Some(&self.owner.daemon.socket));
        let last = std::mem::replace(&mut self.owner, next);
        let stopped = [None, Some(&last.victim), Some(&self.owner.victim)];
        if let Some(victim) = stopped[usize::try_from(event).expect("small") - 3] {
            self.stops += 1;
            thread::sleep(self.random.duration(Duration::ZERO..START));
            victim.stop();
            thread::sleep(while_stopped(&mut self.random));
            victim.resume();
        }
        self.opened += last.end();
    }

    /// A successor dies that has received the device, before or after the commit.
    fn fail(&mut self) {
        self.failures += 1;
        let mut dying = Client::connect(&self.owner.daemon.socket);
        dying.send("handoff 1 service=early-watchdog accepts=watchdog listener=\n");
        while dying.line() != "end" {}
        if self.random.one_in(2) {
            dying.send("prepared\n");
            assert_eq!(dying.line(), "commit");
        }
    }

    /// Judges the owner after an event.
    fn judge(&mut self) {
        let Self { owner, shared: Surroundings { device, .. }, .. } = self;
        owner.daemon.wait_for("=> serving");
        let socket = &owner.daemon.socket;
        until("a device in use", || status(socket, "device") == "running");
        until("a copy in PID 1's store", || {
            owner.manager.read_waiting();
            !owner.manager.stored.is_empty()
        });
        let pings = owner.pings();
        assert!(pings >= self.pings, "{} pings became {pings}", self.pings);
        until_status(socket, "pings", |now| now > pings);
        let sent = device.look() as u64;
        assert!(sent > pings, "over {pings} pings were counted, and {sent} were sent");
        assert!(!device.is_closed, "the device in use is not the one of the chain");
        assert!(!device.bytes.contains(&b'V'), "the device was released");

        let allowed = 1 + self.losses;
        until("the opening is logged", || self.opened + openings(&owner.daemon, false) >= allowed);
        let opened = self.opened + openings(&owner.daemon, false);
        assert_eq!(opened, allowed, "opened too often");
        let most = self.descriptors;
        until("no more descriptors than the first process", || owner.descriptors() <= most);
    }

    /// Tells the last process to stop.
    fn end(self) -> String {
        let Self { owner, mut shared, handoffs, stops, failures, kills, losses, .. } = self;
        owner.victim.end();
        let opened = self.opened + owner.end();
        assert_eq!(opened, 1 + losses, "opened too often");
        until_closed(&mut shared.device);
        let (last, pings) = shared.device.bytes.split_last().expect("pings");
        assert!(*last == b'V' && !pings.contains(&b'V'), "it is not released once, at the end");
        format!(
            "a service with a device: {handoffs} handoffs ({stops} with a stop), \
             {failures} that failed, {kills} kills; {} pings, opened {opened} times (lost {losses} \
             times), released once, {} descriptors",
            pings.len(),
            self.descriptors,
        )
    }
}

impl Unit {
    fn start(shared: &Surroundings, predecessor: Option<&Path>) -> Self {
        let scratch = scratch();
        let manager = Manager::new(&scratch);
        let mut command = Command::new(&shared.program);
        detach(&mut command);
        if let Some(predecessor) = predecessor {
            command.arg("--client-socket-path").arg(predecessor);
        }
        let (daemon, victim) = spawn(command, shared, &scratch, &manager);
        Self { daemon, victim, manager, scratch }
    }

    fn restart(&mut self, shared: &Surroundings, stored: Option<OwnedFd>) {
        let mut command = Command::new(&shared.program);
        detach(&mut command);
        if let Some(stored) = stored {
            command = starting::with_descriptor(&shared.program, stored);
            command.env("LISTEN_FDNAMES", "watchdog");
        }
        (self.daemon, self.victim) = spawn(command, shared, &self.scratch, &self.manager);
    }

    fn pings(&self) -> u64 {
        status(&self.daemon.socket, "pings").parse().expect("a number")
    }

    /// The number of its descriptors with one client.
    fn descriptors(&self) -> usize {
        let mut client = Client::connect(&self.daemon.socket);
        until("no other client", || client.ask("status").contains(" clients=1 "));
        let all = fs::read_dir(format!("/proc/{}/fd", self.daemon.pid()));
        all.expect("a process").count()
    }

    /// Waits for the end; returns how often the process has opened the device.
    fn end(mut self) -> usize {
        assert!(self.daemon.ended().0.success(), "a process that nobody killed failed");
        self.manager.read_waiting();
        assert!(self.manager.stored.is_empty(), "PID 1's store still has the device");
        openings(&self.daemon, true)
    }
}

/// Starts a process, which lives no longer than the soak.
fn spawn(
    mut command: Command,
    shared: &Surroundings,
    scratch: &Scratch,
    manager: &Manager,
) -> (Daemon, Victim) {
    let socket = scratch.join("sock");
    command.arg("--server-socket-path").arg(&socket).args(STILL).process_group(0);
    command.arg("--state-file").arg(shared.scratch.join("state"));
    command.env("WATCHDOG", &shared.device.path).env("NOTIFY_SOCKET", &manager.path);
    let daemon = Daemon::spawn_at(&mut command, socket);
    let victim = Victim::new(daemon.pid());
    shared.living.lock().expect("no panic").push(victim.clone());
    (daemon, victim)
}

/// How often a process has opened the device; `has_ended` waits for the last line.
fn openings(daemon: &Daemon, has_ended: bool) -> usize {
    if has_ended {
        daemon.whole_log();
    }
    daemon.messages().iter().filter(|message| *message == "Opened the device").count()
}

/// A process that is about to be started may have a copy for a moment.
fn until_closed(device: &mut Pipe) {
    until("no process has the device", || {
        device.look();
        device.is_closed
    });
}
