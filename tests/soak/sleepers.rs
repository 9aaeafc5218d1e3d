// SPDX-License-Identifier: Apache-2.0
//! Sleepers: clients that keep their connections from round to round, and are mostly silent.
//!
//! Their connections pass from process to process, often many times, with nothing pending, with
//! half a line, with an unread reply, or with more replies than the kernel queues.

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use testkit::load::{Answer, COUNTER, Command, Told};
use testkit::random::Random;
use testkit::{LIMIT, now};

/// Number of clients with each habit.
const EACH: usize = 4;

/// Maximum number of silent rounds.
const SILENT: u64 = 20;

/// The command of most clients.
const LINE: &[u8] = b"get_counter\n";

/// Number of commands whose replies do not fit into a connection, at some 100 bytes each.
const MANY: u64 = 3000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Habit {
    Idle,
    /// Sends the first bytes of a line, and the others much later.
    HalfLine,
    /// Sends a command when a round begins, and reads the reply when it is over.
    Unread,
    /// Likewise, [`MANY`] times in one write. The server must keep most of the replies.
    Glut,
}

struct Sleeper {
    habit: Habit,
    stream: Option<UnixStream>,
    /// Number of bytes of the line that were sent.
    cut: usize,
    /// The commands without a reply, and their times.
    asked: Vec<Command>,
    sent: u64,
    /// Number of rounds until it wakes.
    rounds: u64,
}

/// All clients.
pub(crate) struct Sleepers {
    socket: PathBuf,
    random: Random,
    all: Vec<Sleeper>,
    told: Told,
}

impl Sleepers {
    pub(crate) fn new(socket: &Path, seed: u64) -> Self {
        let mut habits = [Habit::Idle, Habit::HalfLine, Habit::Unread].repeat(EACH);
        habits.push(Habit::Glut);
        let all = habits.into_iter().map(Sleeper::new);
        let (socket, random) = (socket.to_owned(), Random::new(seed));
        Self { socket, random, all: all.collect(), told: Told::default() }
    }

    /// Begins a round: reconnects closed clients, and sends the early commands.
    pub(crate) fn begin(&mut self) {
        let Self { socket, random, all, told } = self;
        for sleeper in all {
            if sleeper.stream.is_none() {
                sleeper.connect(socket, random, told);
            }
            match sleeper.habit {
                Habit::Idle | Habit::HalfLine => {}
                Habit::Unread => sleeper.ask(LINE, vec![Command::Get], told),
                Habit::Glut => {
                    let many: Vec<_> = (0..MANY).map(|_| Command::Echo(random.draw())).collect();
                    let lines: String = many.iter().map(|command| command.line(&COUNTER)).collect();
                    sleeper.ask(lines.as_bytes(), many, told);
                }
            }
        }
    }

    /// Ends a round: clients that wake send commands, and all report what they received.
    pub(crate) fn end(&mut self) -> Told {
        let Self { random, all, told, .. } = self;
        for sleeper in all {
            sleeper.rounds = sleeper.rounds.saturating_sub(1);
            if matches!(sleeper.habit, Habit::Unread | Habit::Glut) {
                sleeper.hear(told);
            } else if sleeper.rounds == 0 {
                sleeper.ask(&LINE[sleeper.cut..], vec![Command::Get], told);
                sleeper.hear(told);
                sleeper.fall_asleep(random, told);
            }
            // A reply may be older than the end of the connection.
            sleeper.look(told);
        }
        std::mem::take(told)
    }

    /// Number of connections.
    pub(crate) fn connections(&self) -> u64 {
        self.all.iter().filter(|sleeper| sleeper.stream.is_some()).count() as u64
    }
}

impl Sleeper {
    fn new(habit: Habit) -> Self {
        Self { habit, stream: None, cut: 0, asked: Vec::new(), sent: 0, rounds: 0 }
    }

    fn connect(&mut self, socket: &Path, random: &mut Random, told: &mut Told) {
        let Ok(stream) = UnixStream::connect(socket) else {
            told.refused += 1;
            return;
        };
        told.connected += 1;
        stream.set_read_timeout(Some(LIMIT)).expect("not zero");
        self.stream = Some(stream);
        self.fall_asleep(random, told);
    }

    /// Is silent for some rounds, possibly after the first bytes of a line.
    fn fall_asleep(&mut self, random: &mut Random, told: &mut Told) {
        self.rounds = random.number(1..SILENT);
        self.cut = 0;
        if self.habit == Habit::HalfLine {
            let cut = usize::try_from(random.number(1..LINE.len() as u64)).expect("small");
            self.send(&LINE[..cut], told);
            self.cut = cut;
        }
    }

    /// Sends the last bytes of these commands.
    fn ask(&mut self, bytes: &[u8], commands: Vec<Command>, told: &mut Told) {
        (self.sent, self.asked) = (now(), commands);
        self.send(bytes, told);
    }

    fn send(&mut self, bytes: &[u8], told: &mut Told) {
        if self.stream.as_mut().is_some_and(|stream| stream.write_all(bytes).is_err()) {
            self.ended(told);
        }
    }

    /// Reads the replies.
    fn hear(&mut self, told: &mut Told) {
        let asked = std::mem::take(&mut self.asked);
        let Some(stream) = &self.stream else { return };
        let mut replies = BufReader::new(stream);
        for (number, command) in asked.iter().enumerate() {
            let mut reply = String::new();
            match replies.read_line(&mut reply) {
                Ok(_) if reply.ends_with('\n') => {}
                Err(error) if error.kind() != ErrorKind::ConnectionReset => {
                    return told.wrong.push(format!("no reply to {command:?}: {error}"));
                }
                Ok(_) | Err(_) => {
                    let unanswered = asked[number..].iter().map(|command| (self.sent, *command));
                    told.unanswered.extend(unanswered);
                    return self.ended(told);
                }
            }
            let reply = reply.trim_end();
            let Some(said) = command.understand(reply, &COUNTER) else {
                return told.wrong.push(format!("{command:?} is answered with {reply:?}"));
            };
            told.answers.push(Answer { sent: self.sent, received: now(), said });
        }
        if !replies.buffer().is_empty() {
            told.wrong.push("a reply too many".to_owned());
        }
    }

    /// Reports a byte that no command requested, or the end of the connection.
    fn look(&mut self, told: &mut Told) {
        let Some(mut stream) = self.stream.as_ref() else { return };
        stream.set_nonblocking(true).expect("a socket");
        let read = stream.read(&mut [0]);
        stream.set_nonblocking(false).expect("a socket");
        match read {
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Ok(1) => told.wrong.push("a silent client got a byte".to_owned()),
            Ok(_) | Err(_) => self.ended(told),
        }
    }

    fn ended(&mut self, told: &mut Told) {
        told.ended += 1;
        self.stream = None;
    }
}
