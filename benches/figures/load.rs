// SPDX-License-Identifier: Apache-2.0
//! Load: clients that ask as fast as they are answered.
//!
//! One thread for all of them: plain reads and writes on blocking sockets, epoll(7) where there is
//! more than one.
//! Each keeps so many commands in flight, and writes the next ones when half of them are answered;
//! with one in flight, that is one command at a time.

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::time::Timespec;

use crate::process::Process;
use testkit::LIMIT;

const COMMAND: &[u8] = b"get_counter\n";

/// The most commands in flight for one client.
pub(crate) const MOST: usize = 1024;

/// When it is enough.
#[derive(Clone, Copy)]
pub(crate) enum Until {
    /// Over this time, and until a first write is answered.
    Over(Duration),
    /// So many commands of each client.
    Answered(usize),
}

/// What came of it.
pub(crate) struct Answered {
    pub(crate) commands: usize,
    pub(crate) elapsed: Duration,
    /// From a write to the last reply to it, in order of length.
    latencies: Vec<Duration>,
}

impl Answered {
    pub(crate) fn per_second(&self) -> f64 {
        self.commands as f64 / self.elapsed.as_secs_f64()
    }

    /// The time in which this part of the writes was answered.
    pub(crate) fn latency(&self, part: f64) -> f64 {
        let last = self.latencies.len() - 1;
        self.latencies[(part * last as f64).round() as usize].as_secs_f64()
    }
}

/// Clients that are connected.
pub(crate) struct Clients(Vec<Client>);

struct Client {
    stream: UnixStream,
    /// Written and not answered, the longest ago first: how many, and when.
    writes: VecDeque<(usize, Instant)>,
    in_flight: usize,
    /// How many more it may write.
    left: usize,
}

impl Clients {
    /// Connects so many, each of them answered once.
    pub(crate) fn connect(process: &Process, count: usize) -> Self {
        let mut clients = Self(Vec::new());
        clients.join(process, count);
        clients
    }

    /// Connects until there are so many.
    pub(crate) fn join(&mut self, process: &Process, count: usize) {
        while self.0.len() < count {
            let (stream, writes) = (process.connect(), VecDeque::new());
            let mut client = Client { stream, writes, in_flight: 0, left: 1 };
            client.write(1);
            while client.in_flight > 0 {
                client.read(&mut Vec::new());
            }
            self.0.push(client);
        }
    }

    /// Asks with all of them.
    pub(crate) fn ask(&mut self, in_flight: usize, until: Until) -> Answered {
        let start = Instant::now();
        let (end, each) = match until {
            Until::Over(time) => (start + time, usize::MAX),
            Until::Answered(each) => (start + LIMIT, each),
        };
        let mut latencies = Vec::new();
        for client in &mut self.0 {
            client.left = each;
            client.write(in_flight);
        }
        let commands = match &mut self.0[..] {
            [client] => client.ask(in_flight, end, &mut latencies),
            clients => ask_in_turn(clients, in_flight, end, &mut latencies),
        };
        let elapsed = start.elapsed();
        let mut others = 0;
        for client in &mut self.0 {
            // What is still in flight is waited for, and not counted.
            while client.in_flight > 0 {
                others += client.read(&mut Vec::new());
            }
            client.left = 0;
        }
        if let Until::Answered(each) = until {
            assert_eq!(commands + others, each * self.0.len(), "answered in {LIMIT:?}");
        }
        latencies.sort_unstable();
        Answered { commands, elapsed, latencies }
    }
}

impl Client {
    /// Asks until the end, or until it has no more to ask; says how many were answered.
    fn ask(&mut self, in_flight: usize, end: Instant, latencies: &mut Vec<Duration>) -> usize {
        let mut answered = 0;
        while self.in_flight > 0 && (Instant::now() < end || latencies.is_empty()) {
            answered += self.read(latencies);
            self.refill(in_flight);
        }
        answered
    }

    fn refill(&mut self, in_flight: usize) {
        if self.in_flight <= in_flight / 2 {
            self.write(in_flight - self.in_flight);
        }
    }

    fn write(&mut self, count: usize) {
        let count = count.min(self.left);
        if count > 0 {
            self.writes.push_back((count, Instant::now()));
            if count == 1 {
                self.stream.write_all(COMMAND).expect("a server");
            } else {
                self.stream.write_all(&COMMAND.repeat(count)).expect("a server");
            }
            self.in_flight += count;
            self.left -= count;
        }
    }

    /// Reads what there is, and says how many replies it was.
    fn read(&mut self, latencies: &mut Vec<Duration>) -> usize {
        let mut replies = [0; 32 * 1024];
        let length = self.stream.read(&mut replies).expect("a server");
        assert!(length > 0, "the server closes a connection");
        let count = replies[..length].iter().filter(|byte| **byte == b'\n').count();
        self.in_flight -= count;
        let mut left = count;
        while let Some((waiting, written)) = self.writes.front_mut().filter(|_| left > 0) {
            let answered = left.min(*waiting);
            (*waiting, left) = (*waiting - answered, left - answered);
            if *waiting == 0 {
                latencies.push(written.elapsed());
                self.writes.pop_front();
            }
        }
        count
    }
}

/// The same with many, whoever is answered first.
fn ask_in_turn(
    clients: &mut [Client],
    in_flight: usize,
    end: Instant,
    latencies: &mut Vec<Duration>,
) -> usize {
    let epoll = epoll::create(CreateFlags::CLOEXEC).expect("a descriptor");
    for (number, client) in clients.iter().enumerate() {
        let number = EventData::new_u64(number as u64);
        epoll::add(&epoll, &client.stream, number, EventFlags::IN).expect("a place for it");
    }
    let mut events = Vec::with_capacity(clients.len());
    let (mut answered, mut asking) = (0, clients.len());
    let limit = Timespec { tv_sec: LIMIT.as_secs() as i64, tv_nsec: 0 };
    while asking > 0 && (Instant::now() < end || latencies.is_empty()) {
        events.clear();
        let count = epoll::wait(&epoll, spare_capacity(&mut events), Some(&limit));
        assert_ne!(count, Ok(0), "answered within {LIMIT:?}");
        for event in &events {
            let client = &mut clients[event.data.u64() as usize];
            answered += client.read(latencies);
            client.refill(in_flight);
            asking -= usize::from(client.in_flight == 0);
        }
    }
    answered
}
