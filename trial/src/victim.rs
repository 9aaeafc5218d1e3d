// SPDX-License-Identifier: Apache-2.0
//! Victim: a process to kill or stop at any time, and the blow that hits it at a step of a handoff.
//!
//! Held by a pidfd, because the PID of an ended process may be reused.

use std::fs;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::process::{LIMIT, until};
use crate::proxy::{Arrow, Moment, Onlooker};

/// The process; clones are the same process.
#[derive(Clone)]
pub struct Victim {
    process: Arc<OwnedFd>,
    pid: u32,
}

impl Victim {
    /// Takes a child that nobody has waited for yet.
    pub fn new(pid: u32) -> Self {
        let raw = i32::try_from(pid).ok().and_then(Pid::from_raw).expect("a process id");
        let process = pidfd_open(raw, PidfdFlags::empty()).expect("a child not waited for");
        Self { process: Arc::new(process), pid }
    }

    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Kills it without waiting.
    pub fn kill_at_once(&self) {
        self.signal(Signal::KILL);
    }

    /// Kills it, and waits until its descriptors are closed.
    pub fn kill(&self) {
        self.kill_at_once();
        self.wait_for_end();
    }

    /// Stops it, and waits until it has stopped or ended.
    pub fn stop(&self) {
        self.signal(Signal::STOP);
        let is_stopped = || self.has_ended() || self.state() == Some('T');
        until("the process has not stopped", is_stopped).unwrap_or_else(|why| panic!("{why}"));
    }

    pub fn resume(&self) {
        self.signal(Signal::CONT);
    }

    /// Terminates it, as systemd does.
    pub fn end(&self) {
        self.signal(Signal::TERM);
    }

    /// Waits for the end without polling.
    pub fn wait_for_end(&self) {
        let mut process = [PollFd::new(&*self.process, PollFlags::IN)];
        let limit = Timespec::try_from(LIMIT).expect("some seconds");
        let ended = poll(&mut process, Some(&limit));
        assert_eq!(ended, Ok(1), "process {} has not ended", self.pid);
    }

    pub fn has_ended(&self) -> bool {
        let mut process = [PollFd::new(&*self.process, PollFlags::IN)];
        poll(&mut process, Some(&Timespec::default())).is_ok_and(|ended| ended > 0)
    }

    fn signal(&self, signal: Signal) {
        match pidfd_send_signal(&*self.process, signal) {
            Ok(()) | Err(Errno::SRCH) => {}
            Err(error) => panic!("cannot signal process {}: {error}", self.pid),
        }
    }

    /// The state as in proc(5); absent once the end was waited for.
    fn state(&self) -> Option<char> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid)).ok()?;
        stat.rsplit_once(") ")?.1.chars().next()
    }
}

/// A fault that one process of a handoff suffers at one step.
pub struct Blow {
    at: (Arrow, Moment),
    /// How long the process is stopped; `None` kills it.
    stop: Option<Duration>,
    victim: OnceLock<Victim>,
    has_struck: AtomicBool,
}

impl Blow {
    pub fn new(at: (Arrow, Moment), stop: Option<Duration>) -> Arc<Self> {
        Arc::new(Self { at, stop, victim: OnceLock::new(), has_struck: AtomicBool::new(false) })
    }

    /// Names the process, once; a step waits for that.
    pub fn aim(&self, victim: Victim) {
        assert!(self.victim.set(victim).is_ok(), "one victim a blow");
    }

    pub fn has_struck(&self) -> bool {
        self.has_struck.load(Ordering::Relaxed)
    }

    /// The onlooker that strikes, once.
    pub fn onlooker(self: &Arc<Self>) -> Onlooker {
        let blow = Arc::clone(self);
        Box::new(move |arrow, moment| {
            if (arrow, moment) == blow.at && !blow.has_struck() {
                blow.strike();
            }
        })
    }

    fn strike(&self) {
        let aimed = until("the process has not been started", || self.victim.get().is_some());
        let Some(victim) = self.victim.get().filter(|_| aimed.is_ok()).cloned() else { return };
        self.has_struck.store(true, Ordering::Relaxed);
        let Some(duration) = self.stop else { return victim.kill() };
        victim.stop();
        thread::spawn(move || {
            thread::sleep(duration);
            victim.resume();
        });
    }
}
