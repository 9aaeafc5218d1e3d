// SPDX-License-Identifier: Apache-2.0
//! Witnesses: legitimate clients that send requests all the time, and the replies to them.
//!
//! One keeps its connection, the other reconnects for each request. A witness that is closed
//! because there are more clients than slots reconnects at once and repeats its request, as the
//! server tells it to; the number of repetitions is bounded. A reply must arrive, with a number
//! that the clock implies at some moment between request and reply.

use std::fmt;
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use testkit::host::Over;
use testkit::{LIMIT, now};

/// Time between a reply and the next request.
///
/// Too short: the witnesses are the load. Too long: they miss short delays.
const PAUSE: Duration = Duration::from_millis(10);

/// A running witness.
pub(crate) struct Witness {
    over: Over,
    answers: Arc<AtomicUsize>,
    thread: JoinHandle<Testimony>,
}

/// One request and its reply.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Answer {
    pub(crate) asked: u64,
    pub(crate) answered: u64,
    pub(crate) next: u64,
}

/// The results of a witness.
#[derive(Debug, Default)]
pub(crate) struct Testimony {
    pub(crate) answers: Vec<Answer>,
    /// Requests without a reply, or with a wrong one.
    pub(crate) lost: Vec<String>,
    /// How often it had to reconnect.
    pub(crate) returns: u64,
}

impl Testimony {
    /// Number of requests.
    pub(crate) fn asked(&self) -> usize {
        self.answers.len() + self.lost.len()
    }
}

impl Witness {
    /// Starts a witness that keeps its connection.
    pub(crate) fn that_stays(socket: &Path) -> Self {
        Self::start(socket, true)
    }

    /// Starts a witness that reconnects for each request.
    pub(crate) fn that_comes_anew(socket: &Path) -> Self {
        Self::start(socket, false)
    }

    fn start(socket: &Path, stays: bool) -> Self {
        let (over, answers) = (Over::default(), Arc::<AtomicUsize>::default());
        let (socket, whether, count) = (socket.to_owned(), over.whether(), Arc::clone(&answers));
        let thread = thread::spawn(move || {
            let mut client = Client { socket, connection: None };
            let mut told = Testimony::default();
            while !whether.is_over() {
                let asked = now();
                let mut answer = client.ask();
                while let Err(Failed::WithoutAPlace) = answer {
                    client.connection = None;
                    told.returns += 1;
                    answer = client.ask();
                }
                match answer {
                    Ok(answer) => told.answers.push(Answer { asked, ..answer }),
                    Err(why) => {
                        client.connection = None;
                        told.lost.push(why.to_string());
                    }
                }
                if !stays {
                    client.connection = None;
                }
                count.store(told.answers.len(), Ordering::Relaxed);
                thread::sleep(PAUSE);
            }
            told
        });
        Self { over, answers, thread }
    }

    /// Number of replies so far.
    pub(crate) fn answers(&self) -> usize {
        self.answers.load(Ordering::Relaxed)
    }

    /// Ends it; returns its results.
    pub(crate) fn stop(self) -> Testimony {
        drop(self.over);
        self.thread.join().expect("a witness does not panic")
    }
}

struct Client {
    socket: PathBuf,
    connection: Option<BufReader<UnixStream>>,
}

/// Why a reply is missing.
enum Failed {
    /// The server had more clients than slots, and reported it.
    WithoutAPlace,
    Otherwise(String),
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::WithoutAPlace => f.write_str("closed for another client"),
            Self::Otherwise(why) => f.write_str(why),
        }
    }
}

impl Client {
    fn ask(&mut self) -> Result<Answer, Failed> {
        let asked = now();
        let failed = |what: &str, error| Failed::Otherwise(format!("{what}: {error}"));
        let connection = match &mut self.connection {
            Some(connection) => connection,
            none => {
                none.insert(connect(&self.socket).map_err(|error| failed("connecting", error))?)
            }
        };
        // If that fails, the lines received before show why.
        let sent = connection.get_mut().write_all(b"get_counter\n");
        let mut reply = String::new();
        connection.read_line(&mut reply).map_err(|error| failed("no reply", error))?;
        if reply.starts_with("Closing: more than ") {
            return Err(Failed::WithoutAPlace);
        }
        sent.map_err(|error| failed(&format!("cannot ask, told {reply:?}"), error))?;
        let next = reply.trim_end().parse();
        let next = next.map_err(|_| Failed::Otherwise(format!("told {reply:?}")))?;
        Ok(Answer { asked, answered: now(), next })
    }
}

fn connect(socket: &Path) -> io::Result<BufReader<UnixStream>> {
    let stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(LIMIT))?;
    Ok(BufReader::new(stream))
}
