// SPDX-License-Identifier: Apache-2.0
//! Sleepers: clients that keep their connections from round to round, silent most of the time.
//!
//! They are what travels from one process to the next, often many times: an idle connection, half a
//! line, a reply that nobody has read yet.

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use crate::load::{Answer, Command, Said, Told};
use crate::random::Random;
use crate::{LIMIT, now};

/// Of each habit.
const EACH: usize = 4;

/// For how many rounds one is silent, at most.
const SILENT: u64 = 20;

/// What all of them ask.
const LINE: &[u8] = b"get_counter\n";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Habit {
    Idle,
    /// It has sent the first bytes of a line, and sends the others much later.
    HalfLine,
    /// It asks when a round begins, and reads the reply when it is over.
    Unread,
}

struct Sleeper {
    habit: Habit,
    stream: Option<UnixStream>,
    /// How many bytes of its line it has sent, and when the last.
    cut: usize,
    sent: u64,
    /// In how many rounds it wakes.
    rounds: u64,
}

/// All of them.
pub(crate) struct Sleepers {
    socket: PathBuf,
    random: Random,
    all: Vec<Sleeper>,
    told: Told,
}

impl Sleepers {
    pub(crate) fn new(socket: &Path, seed: u64) -> Self {
        let habits = [Habit::Idle, Habit::HalfLine, Habit::Unread].repeat(EACH).into_iter();
        let all = habits.map(|habit| Sleeper { habit, stream: None, cut: 0, sent: 0, rounds: 0 });
        let (socket, random) = (socket.to_owned(), Random::new(seed));
        Self { socket, random, all: all.collect(), told: Told::default() }
    }

    /// Begins a round: who lost its connection makes a new one, and who asks early asks.
    pub(crate) fn begin(&mut self) {
        let Self { socket, random, all, told } = self;
        for sleeper in all {
            if sleeper.stream.is_none() {
                sleeper.connect(socket, random, told);
            }
            if sleeper.habit == Habit::Unread {
                sleeper.send(LINE, told);
            }
        }
    }

    /// Ends a round: who is to wake asks, and all say what they saw.
    pub(crate) fn end(&mut self) -> Told {
        let Self { random, all, told, .. } = self;
        for sleeper in all {
            sleeper.rounds = sleeper.rounds.saturating_sub(1);
            if sleeper.habit == Habit::Unread {
                sleeper.hear(told);
                // The reply may be older than the end.
                sleeper.look(told);
            } else if sleeper.rounds == 0 {
                sleeper.send(&LINE[sleeper.cut..], told);
                sleeper.hear(told);
                sleeper.fall_asleep(random, told);
            } else {
                sleeper.look(told);
            }
        }
        std::mem::take(told)
    }

    /// How many connections there are.
    pub(crate) fn connections(&self) -> u64 {
        self.all.iter().filter(|sleeper| sleeper.stream.is_some()).count() as u64
    }
}

impl Sleeper {
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

    /// Is silent for some rounds, after the first bytes of a line where that is its habit.
    fn fall_asleep(&mut self, random: &mut Random, told: &mut Told) {
        self.rounds = random.number(1..SILENT);
        self.cut = 0;
        if self.habit == Habit::HalfLine {
            let cut = usize::try_from(random.number(1..LINE.len() as u64)).expect("small");
            self.send(&LINE[..cut], told);
            self.cut = cut;
        }
    }

    fn send(&mut self, bytes: &[u8], told: &mut Told) {
        self.sent = now();
        if self.stream.as_mut().is_some_and(|stream| stream.write_all(bytes).is_err()) {
            self.ended(told);
        }
    }

    /// Reads the reply.
    fn hear(&mut self, told: &mut Told) {
        let Some(mut stream) = self.stream.as_ref() else { return };
        let (mut reply, mut byte) = (Vec::new(), [0]);
        while reply.last() != Some(&b'\n') {
            match stream.read(&mut byte) {
                Ok(1) => reply.push(byte[0]),
                Ok(_) => return self.went_unanswered(told),
                Err(error) if error.kind() == ErrorKind::ConnectionReset => {
                    return self.went_unanswered(told);
                }
                Err(error) => {
                    let habit = self.habit;
                    return told.wrong.push(format!("no reply to a client ({habit:?}): {error}"));
                }
            }
        }
        let reply = String::from_utf8_lossy(&reply);
        match reply.trim_end().parse() {
            Ok(number) => told.answers.push(Answer {
                sent: self.sent,
                received: now(),
                said: Said::Next(number),
            }),
            Err(_) => told.wrong.push(format!("get_counter is answered with {reply:?}")),
        }
    }

    fn went_unanswered(&mut self, told: &mut Told) {
        told.unanswered.push((self.sent, Command::Get));
        self.ended(told);
    }

    /// Looks whether the connection is still there, and nothing on it.
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
