// SPDX-License-Identifier: Apache-2.0
//! Process: a running program and its use of resources, from `/proc`.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, ExitStatus};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::programs::Start;
use testkit::LIMIT;

/// The process; killed if the bench ends first.
pub(crate) struct Process {
    child: Child,
    pub(crate) socket: PathBuf,
}

/// Memory in kB (proc_pid_smaps(5)).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Memory {
    /// All pages, shared or not.
    pub(crate) resident: f64,
    /// Private pages without a file that were written to.
    pub(crate) private: f64,
    /// Pages that other processes have mapped too.
    pub(crate) shared: f64,
}

impl Process {
    pub(crate) fn start(start: Start) -> Self {
        Self::start_timed(start).0
    }

    /// Starts the program; returns the time from before the fork to the first reply.
    ///
    /// Connects without a pause, because a pause would be measured too.
    pub(crate) fn start_timed(Start { mut command, socket }: Start) -> (Self, Duration) {
        let start = Instant::now();
        let mut process = Self { child: command.spawn().expect("the program starts"), socket };
        let mut client = loop {
            match UnixStream::connect(&process.socket) {
                Ok(client) => break client,
                Err(_) => thread::yield_now(),
            }
            if start.elapsed() > LIMIT {
                let status = process.child.try_wait();
                panic!("no process listens on {}: {status:?}", process.socket.display());
            }
        };
        client.write_all(b"get_counter\n").expect("a server");
        let mut reply = [0; 64];
        let count = client.read(&mut reply).expect("a server");
        let taken = start.elapsed();
        assert!(reply[..count].ends_with(b"\n"), "a whole reply");
        (process, taken)
    }

    pub(crate) fn connect(&self) -> UnixStream {
        let client = UnixStream::connect(&self.socket).expect("a server");
        client.set_read_timeout(Some(LIMIT)).expect("not zero");
        client
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("our own child").is_none()
    }

    /// Ends it as PID 1 does.
    pub(crate) fn interrupt(mut self) -> ExitStatus {
        let pid = i32::try_from(self.pid()).ok().and_then(Pid::from_raw).expect("a process id");
        kill_process(pid, Signal::INT).expect("the process is there");
        self.child.wait().expect("our own child")
    }

    pub(crate) fn memory(&self) -> Memory {
        let text = fs::read_to_string(format!("/proc/{}/smaps_rollup", self.pid()));
        let text = text.expect("a process of our own");
        let field = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name));
            let number = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse().ok());
            number.unwrap_or_else(|| panic!("no {name} in {text}"))
        };
        let shared = field("Shared_Clean:") + field("Shared_Dirty:");
        Memory { resident: field("Rss:"), private: field("Anonymous:"), shared }
    }

    pub(crate) fn threads(&self) -> f64 {
        self.tasks().len() as f64
    }

    /// Number of context switches of all threads, voluntary or not.
    pub(crate) fn switches(&self) -> u64 {
        let of_task = |task: PathBuf| {
            let status = fs::read_to_string(task.join("status")).expect("a thread");
            let lines = status.lines().filter(|line| line.contains("ctxt_switches:"));
            lines.filter_map(|line| line.rsplit('\t').next()?.parse::<u64>().ok()).sum::<u64>()
        };
        self.tasks().into_iter().map(of_task).sum()
    }

    /// Processor time of all threads.
    pub(crate) fn processor_time(&self) -> Duration {
        let of_task = |task: PathBuf| {
            let text =
                fs::read_to_string(task.join("schedstat")).expect("a kernel with schedstats");
            let nanoseconds = text.split(' ').next().and_then(|number| number.parse().ok());
            nanoseconds.map(Duration::from_nanos).expect("a number")
        };
        self.tasks().into_iter().map(of_task).sum()
    }

    fn tasks(&self) -> Vec<PathBuf> {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.pid())).expect("a process");
        tasks.map(|task| task.expect("a thread").path()).collect()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
