// SPDX-License-Identifier: Apache-2.0
//! Load: active clients, and the replies to each.
//!
//! Each client is a thread that sends commands, reads the replies and notes both times, until told
//! to stop. Some keep one connection, some reconnect each time. Some send one command, some a
//! batch, in one write or in two that cut a line.
//!
//! A client that sets the number begins a new [`RANGE`]. No number can therefore occur twice, and
//! each number identifies its `set_counter`.

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

/// The size of a range: more numbers than any test needs.
pub const RANGE: u64 = 1_000_000_000;

/// The words of a service for the number that it counts.
#[derive(Debug)]
pub struct Words {
    /// The command that reads the number.
    pub get: &'static str,
    /// The command that sets the number, before its argument.
    pub set: &'static str,
    /// The reply to that command, before the previous number.
    pub previous: &'static str,
    /// The key in the status line and in the state file.
    pub key: &'static str,
}

pub static COUNTER: Words =
    Words { get: "get_counter", set: "set_counter", previous: "previous value ", key: "counter" };

/// A command of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    Get,
    /// Sets the first number of a range.
    Set(u64),
    Status,
    /// An invalid line that is unique: the error message repeats it.
    Echo(u64),
}

/// The content of a reply.
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

    /// Parses the reply; `None` if it belongs to another command.
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

/// The results of a client.
#[derive(Debug, Default)]
pub struct Told {
    pub answers: Vec<Answer>,
    /// Commands on connections that ended before the reply, and their times.
    pub unanswered: Vec<(u64, Command)>,
    /// Number of connections.
    pub connected: usize,
    /// Number of connections that the server ended.
    pub ended: usize,
    /// Number of failed connections.
    pub refused: usize,
    /// Errors: a wrong reply, an additional one, or a missing one.
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

/// The repeated commands of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asks {
    Get,
    Set,
    Status,
    /// All kinds of commands, pipelined.
    Batch,
    /// Like `Batch`, without setting the counter.
    Many,
}

/// How a client behaves.
#[derive(Clone, Copy, Debug)]
pub struct Habit {
    pub asks: Asks,
    /// Whether it keeps its connection; otherwise it reconnects each time.
    pub stays: bool,
    /// Maximum time between a reply and the next request.
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

/// Active clients.
pub struct Load {
    is_over: Arc<AtomicBool>,
    clients: Vec<(Arc<AtomicU64>, JoinHandle<Told>)>,
}

impl Load {
    /// Starts clients with these habits at `socket`.
    ///
    /// With `ranges`, some of them set the counter, first to the next of these. Without, they only
    /// read it.
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

    /// Waits until every client has received `times` more replies.
    pub fn wait_for_answers(&self, times: u64) {
        let rounds = || self.clients.iter().map(|(rounds, _)| rounds.load(Ordering::Relaxed));
        let before: Vec<_> = rounds().collect();
        until("answers to every client", || {
            rounds().zip(&before).all(|(now, before)| now >= before + times)
        });
    }

    /// Ends the load; returns what all clients received.
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
    /// Number of replies.
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

    /// Sends one request or one batch, and reads the replies.
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

    /// Writes in one piece or in two; false if the connection has ended.
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

    /// Ends the client's output; the server then closes without another reply.
    fn finish(&mut self, mut connection: BufReader<UnixStream>) {
        let _ = connection.get_mut().shutdown(Shutdown::Write);
        let mut rest = String::new();
        match connection.read_to_string(&mut rest) {
            Ok(0) => {}
            Ok(_) => self.told.wrong.push(format!("{rest:?}, which no command requested")),
            Err(error) if error.kind() == ErrorKind::ConnectionReset => self.told.ended += 1,
            Err(error) => self.told.wrong.push(format!("the connection is not closed: {error}")),
        }
    }
}
