// SPDX-License-Identifier: Apache-2.0
//! Load: clients at work, and what each of them was told.
//!
//! Each is a thread that asks, reads the replies and notes both times, until it is told to stop.
//! Some keep one connection, some connect anew each time; some send one command, some a batch, in
//! one write or in two that cut a line.
//!
//! A number that a client sets begins a [`RANGE`] of its own, never used before: so no number can
//! come twice by right, and a number tells which `set_counter` it goes back to.

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::random::Random;
use crate::{LIMIT, now, until};

/// The numbers that follow one that was set: more than any test lasts.
pub const RANGE: u64 = 1_000_000_000;

/// What a service calls the number that it counts.
#[derive(Debug)]
pub struct Words {
    /// What a client sends to read it.
    pub get: &'static str,
    /// What it sends, before another number, to set it.
    pub set: &'static str,
    /// What stands before the number that was replaced, in the answer to that.
    pub previous: &'static str,
    /// Its key in a status line and in the state file.
    pub key: &'static str,
}

pub static COUNTER: Words =
    Words { get: "get_counter", set: "set_counter", previous: "previous value ", key: "counter" };

/// What a client asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    Get,
    /// To the first number of a range.
    Set(u64),
    Status,
    /// An invalid line, which comes back with the complaint: no other reply has this number.
    Echo(u64),
}

/// What the reply says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Said {
    Next(u64),
    Replaced { previous: u64, by: u64 },
    Status { pid: u32, next: u64 },
    Echo,
}

impl Command {
    pub fn line(self, words: &Words) -> String {
        match self {
            Self::Get => format!("{}\n", words.get),
            Self::Set(to) => format!("{} {to}\n", words.set),
            Self::Status => "status\n".to_owned(),
            Self::Echo(number) => format!("echo-{number}\n"),
        }
    }

    /// Reads the reply; `None` where it is the reply to something else.
    pub fn understand(self, reply: &str, words: &Words) -> Option<Said> {
        match self {
            Self::Get => reply.parse().ok().map(Said::Next),
            Self::Set(by) => {
                let previous = reply.strip_prefix(words.previous)?.parse().ok()?;
                Some(Said::Replaced { previous, by })
            }
            Self::Status => {
                let value = |key: &str| {
                    let mut pairs = reply.split(' ').filter_map(|pair| pair.split_once('='));
                    pairs.find(|(name, _)| *name == key).map(|(_, value)| value)
                };
                let pid = value("pid")?.parse().ok()?;
                let next: u64 = value(words.key)?.parse().ok()?;
                // After a stop, a status line does not wait for the ticks that are due.
                let due: u64 = value("ticks_due")?.parse().ok()?;
                Some(Said::Status { pid, next: next + due })
            }
            Self::Echo(number) => {
                let complaint = format!("Invalid command: echo-{number};");
                reply.starts_with(&complaint).then_some(Said::Echo)
            }
        }
    }
}

/// A reply, with the time before its request was sent and the time after it was read.
#[derive(Clone, Copy, Debug)]
pub struct Answer {
    pub sent: u64,
    pub received: u64,
    pub said: Said,
}

/// What a client saw.
#[derive(Debug, Default)]
pub struct Told {
    pub answers: Vec<Answer>,
    /// What was sent, and when, on a connection that ended before the reply.
    pub unanswered: Vec<(u64, Command)>,
    /// Connections that were made.
    pub connected: usize,
    /// Connections that the server ended.
    pub ended: usize,
    /// Connections that were not made.
    pub refused: usize,
    /// What must not be: another reply than the one that is due, one too many, none.
    pub wrong: Vec<String>,
}

impl Told {
    pub fn take(&mut self, other: Self) {
        self.answers.extend(other.answers);
        self.unanswered.extend(other.unanswered);
        self.connected += other.connected;
        self.ended += other.ended;
        self.refused += other.refused;
        self.wrong.extend(other.wrong);
    }
}

/// What a client asks again and again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asks {
    Get,
    Set,
    Status,
    /// A mixture, pipelined.
    Batch,
    /// The same without setting the counter.
    Many,
}

/// How a client behaves.
#[derive(Clone, Copy, Debug)]
pub struct Habit {
    pub asks: Asks,
    /// It keeps its connection, else it connects anew each time.
    pub stays: bool,
    /// The longest time between a reply and the next request.
    pub pause: Duration,
}

/// The ten clients of a try.
pub fn ten(pause: Duration) -> Vec<Habit> {
    let kinds = [
        (Asks::Get, true),
        (Asks::Get, true),
        (Asks::Get, false),
        (Asks::Get, false),
        (Asks::Set, true),
        (Asks::Set, false),
        (Asks::Status, true),
        (Asks::Batch, true),
        (Asks::Batch, true),
        (Asks::Batch, false),
    ];
    kinds.into_iter().map(|(asks, stays)| Habit { asks, stays, pause }).collect()
}

/// Clients at work.
pub struct Load {
    is_over: Arc<AtomicBool>,
    clients: Vec<(Arc<AtomicU64>, JoinHandle<Told>)>,
}

impl Load {
    /// Lets clients of these habits work at `socket`.
    ///
    /// With `ranges`, the next of which is the first to be used, some of them set the counter;
    /// without, they only ask for it.
    pub fn start(
        socket: &Path,
        habits: &[Habit],
        ranges: Option<&Arc<AtomicU64>>,
        seed: u64,
        words: &'static Words,
    ) -> Self {
        let is_over = Arc::new(AtomicBool::new(false));
        let client = |(habit, seed): (&Habit, u64)| {
            let rounds = Arc::new(AtomicU64::new(0));
            let client = Client {
                socket: socket.to_owned(),
                habit: *habit,
                words,
                ranges: ranges.cloned(),
                random: Random::new(seed),
                connection: None,
                told: Told::default(),
                is_over: Arc::clone(&is_over),
                rounds: Arc::clone(&rounds),
            };
            (rounds, thread::spawn(move || client.run()))
        };
        let mut random = Random::new(seed);
        let clients = habits.iter().zip(std::iter::repeat_with(|| random.draw())).map(client);
        let clients = clients.collect();
        Self { is_over, clients }
    }

    /// Waits until every client was answered `times` times more.
    pub fn wait_for_answers(&self, times: u64) {
        let rounds = || self.clients.iter().map(|(rounds, _)| rounds.load(Ordering::Relaxed));
        let before: Vec<_> = rounds().collect();
        until("answers to every client", || {
            rounds().zip(&before).all(|(now, before)| now >= before + times)
        });
    }

    /// Ends it, and says what all were told.
    pub fn stop(mut self) -> Told {
        self.is_over.store(true, Ordering::Relaxed);
        let mut told = Told::default();
        for (_, client) in self.clients.drain(..) {
            told.take(client.join().expect("a client does not panic"));
        }
        told
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
    }
}

/// One client.
struct Client {
    socket: PathBuf,
    habit: Habit,
    words: &'static Words,
    ranges: Option<Arc<AtomicU64>>,
    random: Random,
    connection: Option<BufReader<UnixStream>>,
    told: Told,
    is_over: Arc<AtomicBool>,
    /// How often it was answered.
    rounds: Arc<AtomicU64>,
}

impl Client {
    fn run(mut self) -> Told {
        while !self.is_over.load(Ordering::Relaxed) && self.told.wrong.is_empty() {
            self.ask();
            if !self.habit.pause.is_zero() {
                thread::sleep(self.random.duration(Duration::ZERO..self.habit.pause));
            }
        }
        if let Some(connection) = self.connection.take() {
            self.finish(connection);
        }
        self.told
    }

    /// One request, or one batch of them, and the replies.
    fn ask(&mut self) {
        let Some(mut connection) = self.connection.take().or_else(|| self.connect()) else {
            return;
        };
        let commands = self.commands();
        let lines: String = commands.iter().map(|command| command.line(self.words)).collect();
        let sent = now();
        if !self.write(connection.get_mut(), lines.as_bytes()) {
            return self.ended(sent, &commands);
        }
        for (number, command) in commands.iter().enumerate() {
            let mut reply = String::new();
            match connection.read_line(&mut reply) {
                Ok(_) if reply.ends_with('\n') => {}
                Ok(_) => return self.ended(sent, &commands[number..]),
                Err(error) if error.kind() == ErrorKind::ConnectionReset => {
                    return self.ended(sent, &commands[number..]);
                }
                Err(error) => {
                    return self.told.wrong.push(format!("no reply to {command:?}: {error}"));
                }
            }
            let reply = reply.trim_end();
            let Some(said) = command.understand(reply, self.words) else {
                return self.told.wrong.push(format!("{command:?} is answered with {reply:?}"));
            };
            self.told.answers.push(Answer { sent, received: now(), said });
        }
        self.rounds.fetch_add(1, Ordering::Relaxed);
        if self.habit.stays {
            self.connection = Some(connection);
        } else if self.random.one_in(2) {
            self.finish(connection);
        }
    }

    fn connect(&mut self) -> Option<BufReader<UnixStream>> {
        let Ok(stream) = UnixStream::connect(&self.socket) else {
            self.told.refused += 1;
            return None;
        };
        self.told.connected += 1;
        stream.set_read_timeout(Some(LIMIT)).expect("not zero");
        Some(BufReader::new(stream))
    }

    fn commands(&mut self) -> Vec<Command> {
        match self.habit.asks {
            Asks::Get => vec![Command::Get],
            Asks::Set => vec![self.set()],
            Asks::Status => vec![Command::Status],
            Asks::Batch | Asks::Many => {
                (0..self.random.number(2..12)).map(|_| self.any()).collect()
            }
        }
    }

    fn set(&mut self) -> Command {
        match &self.ranges {
            Some(ranges) => Command::Set(ranges.fetch_add(1, Ordering::Relaxed) * RANGE),
            None => Command::Get,
        }
    }

    fn any(&mut self) -> Command {
        match self.random.number(0..6) {
            0 if self.habit.asks == Asks::Batch => self.set(),
            1 => Command::Status,
            2 | 3 => Command::Echo(self.random.draw()),
            _ => Command::Get,
        }
    }

    /// Writes in one piece, or in two; false when the connection has ended.
    fn write(&mut self, stream: &mut UnixStream, bytes: &[u8]) -> bool {
        if self.habit.pause.is_zero() || !self.random.one_in(4) {
            return stream.write_all(bytes).is_ok();
        }
        let cut = usize::try_from(self.random.number(1..bytes.len() as u64)).expect("small");
        let (first, second) = bytes.split_at(cut);
        let is_written = stream.write_all(first).is_ok();
        thread::sleep(self.random.duration(Duration::ZERO..self.habit.pause));
        is_written && stream.write_all(second).is_ok()
    }

    fn ended(&mut self, sent: u64, unanswered: &[Command]) {
        self.told.ended += 1;
        self.told.unanswered.extend(unanswered.iter().map(|command| (sent, *command)));
    }

    /// Says that it will ask no more; the server owes it nothing, and closes.
    fn finish(&mut self, mut connection: BufReader<UnixStream>) {
        let _ = connection.get_mut().shutdown(Shutdown::Write);
        let mut rest = String::new();
        match connection.read_to_string(&mut rest) {
            Ok(0) => {}
            Ok(_) => self.told.wrong.push(format!("{rest:?}, which nobody asked for")),
            Err(error) if error.kind() == ErrorKind::ConnectionReset => self.told.ended += 1,
            Err(error) => self.told.wrong.push(format!("the connection is not closed: {error}")),
        }
    }
}
