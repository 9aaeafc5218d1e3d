// SPDX-License-Identifier: Apache-2.0
//! Load: clients that send the next command as soon as they have a reply.
//!
//! One thread serves all clients, with plain reads and writes on blocking sockets, and epoll(7) if
//! there are several. Each client keeps a number of commands in flight, and sends the next ones
//! when half of them are answered. With one in flight, that is one command at a time.

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

/// Maximum number of commands in flight for one client.
pub(crate) const MOST: usize = 1024;

/// The end of a measurement.
#[derive(Clone, Copy)]
pub(crate) enum Until {
    /// After this time, but not before the first write is answered.
    Over(Duration),
    /// After this many commands of each client.
    Answered(usize),
}

/// The results.
pub(crate) struct Answered {
    pub(crate) commands: usize,
    pub(crate) elapsed: Duration,
    /// From each write to its last reply, in order of length.
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

/// Connected clients.
pub(crate) struct Clients(Vec<Client>);

struct Client {
    stream: UnixStream,
    /// Unanswered writes, the oldest first: number of commands, and time.
    writes: VecDeque<(usize, Instant)>,
    in_flight: usize,
    /// Number of commands that it may still send.
    left: usize,
}

impl Clients {
    /// Connects `count` clients; each of them receives a reply.
    pub(crate) fn connect(process: &Process, count: usize) -> Self {
        let mut clients = Self(Vec::new());
        clients.join(process, count);
        clients
    }

    /// Connects clients until there are `count`.
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

    /// Sends commands with all clients.
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
            // Waits for the commands that are still in flight, without counting them.
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
    /// Sends commands until the end or the last one; returns the number of replies.
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

    /// Reads what has arrived; returns the number of replies.
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

/// The same with many clients, in the order of their replies.
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
