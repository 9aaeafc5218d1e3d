// SPDX-License-Identifier: Apache-2.0
//! Proxy: sits between successor and predecessor; can stop the exchange at any [`Arrow`].
//!
//! The successor connects to the proxy's path, the proxy to the predecessor's. In a reload, the
//! successor sends its connection to the predecessor first. Lines, bytes of clients and descriptors
//! pass in both directions, complete and in order. At each arrow it calls an onlooker, before and
//! after the delivery; nothing else is delivered meanwhile.
//!
//! Owns the undelivered data, and a thread.
//! Never keeps a copy of a descriptor that it has delivered: a copy would keep the lock.
//! Ends when it is dropped.

use std::fmt;
use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::net::Shutdown;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::net::sockopt::socket_peercred;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};

use crate::victim::Victim;

/// One step of the exchange, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Arrow {
    /// `handoff 1`, from the successor.
    Handoff,
    /// `state …`, the first line of the predecessor's answer.
    State,
    /// The clients and `end`, with the last descriptors.
    End,
    /// `prepared`, from the successor.
    Prepared,
    /// `commit`, from the predecessor.
    Commit,
    /// `done`, from the successor.
    Done,
}

impl Arrow {
    pub const ALL: [Self; 6] =
        [Self::Handoff, Self::State, Self::End, Self::Prepared, Self::Commit, Self::Done];

    /// The arrow that a line represents, if any.
    fn of(line: &[u8]) -> Option<Self> {
        match line.split(|byte| *byte == b' ').next()? {
            b"handoff" => Some(Self::Handoff),
            b"state" => Some(Self::State),
            b"end" => Some(Self::End),
            b"prepared" => Some(Self::Prepared),
            b"commit" => Some(Self::Commit),
            b"done" => Some(Self::Done),
            _ => None,
        }
    }
}

impl fmt::Display for Arrow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Handoff => "handoff",
            Self::State => "state",
            Self::End => "clients, end",
            Self::Prepared => "prepared",
            Self::Commit => "commit",
            Self::Done => "done",
        })
    }
}

/// When the onlooker is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// The proxy has received the arrow and not yet delivered it.
    Before,
    /// The arrow is in the receiver's socket.
    After,
}

impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Before => "before",
            Self::After => "after",
        })
    }
}

/// Called for each arrow, in the proxy's thread.
pub type Onlooker = Box<dyn FnMut(Arrow, Moment) + Send>;

/// An arrow, and the number of the connection on which it was sent.
pub type Sent = (usize, Arrow);

pub struct Proxy {
    path: PathBuf,
    sent: Arc<Mutex<Vec<Sent>>>,
    successors: Arc<Mutex<Vec<Victim>>>,
    /// Its other end tells the thread to end.
    quit: Option<UnixStream>,
    thread: Option<JoinHandle<()>>,
}

impl Proxy {
    /// Listens on `path` for successors of the predecessor at `predecessor`.
    pub fn between(path: PathBuf, predecessor: &Path, onlooker: Onlooker) -> Self {
        Self::start(path, Some(predecessor.to_owned()), onlooker)
    }

    /// Listens on `path` for successors that send their connection to the predecessor.
    pub fn within_reloads(path: PathBuf, onlooker: Onlooker) -> Self {
        Self::start(path, None, onlooker)
    }

    fn start(path: PathBuf, predecessor: Option<PathBuf>, onlooker: Onlooker) -> Self {
        let listener = UnixListener::bind(&path).expect("a path of our own");
        let (quit, told) = UnixStream::pair().expect("a socket pair");
        let (sent, successors) = (Arc::default(), Arc::default());
        let middle = Middle {
            told,
            listener: Some(listener),
            predecessor,
            links: Vec::new(),
            connections: 0,
            onlooker,
            sent: Arc::clone(&sent),
            successors: Arc::clone(&successors),
        };
        let thread = thread::spawn(move || middle.run());
        Self { path, sent, successors, quit: Some(quit), thread: Some(thread) }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The successors of reloads so far.
    pub fn successors(&self) -> Vec<Victim> {
        self.successors.lock().expect("no panic").clone()
    }

    /// The arrows sent so far.
    pub fn sent(&self) -> Vec<Sent> {
        self.sent.lock().expect("no panic").clone()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        drop(self.quit.take());
        let ended = self.thread.take().map(JoinHandle::join);
        if !thread::panicking() {
            assert!(matches!(ended, Some(Ok(()))), "the proxy has failed");
        }
    }
}

/// The state of the thread.
struct Middle {
    told: UnixStream,
    /// Absent once the predecessor has ended: new connections are refused, as by the predecessor.
    listener: Option<UnixListener>,
    /// `None`: each successor sends its connection to the predecessor.
    predecessor: Option<PathBuf>,
    links: Vec<Link>,
    connections: usize,
    onlooker: Onlooker,
    sent: Arc<Mutex<Vec<Sent>>>,
    successors: Arc<Mutex<Vec<Victim>>>,
}

/// A successor's connection, and the proxy's connection to the predecessor for it.
struct Link {
    number: usize,
    /// The successor's and the predecessor's end, in the order of [`SIDES`].
    ends: [UnixStream; 2],
    /// The undelivered data of each end.
    flows: [Flow; 2],
}

/// Indices of the two ends of a [`Link`].
const SIDES: [usize; 2] = [0, 1];

impl Middle {
    fn run(mut self) {
        loop {
            let ready = self.wait();
            // In reverse, because the removal of a link changes only the numbers after it.
            for (number, side) in ready.iter().rev().filter_map(|source| match source {
                Source::Link(number, side) => Some((*number, *side)),
                Source::Told | Source::Listener => None,
            }) {
                if self.links.get(number).is_some() && !self.pump(number, side) {
                    self.links.remove(number);
                }
            }
            if ready.contains(&Source::Told) {
                return;
            }
            if ready.contains(&Source::Listener) {
                self.accept();
            }
        }
    }

    /// Waits until a source is readable; returns all of them.
    fn wait(&self) -> Vec<Source> {
        let mut sources = vec![(Source::Told, self.told.as_fd())];
        sources.extend(self.listener.iter().map(|socket| (Source::Listener, socket.as_fd())));
        for (number, link) in self.links.iter().enumerate() {
            sources.extend(SIDES.map(|side| (Source::Link(number, side), link.ends[side].as_fd())));
        }
        let mut polled: Vec<_> =
            sources.iter().map(|(_, fd)| PollFd::from_borrowed_fd(*fd, PollFlags::IN)).collect();
        while poll(&mut polled, None) == Err(Errno::INTR) {}
        let ready = sources.iter().zip(&polled).filter(|(_, fd)| !fd.revents().is_empty());
        ready.map(|((source, _), _)| *source).collect()
    }

    fn accept(&mut self) {
        let Some((successor, _)) = self.listener.as_ref().and_then(|socket| socket.accept().ok())
        else {
            return;
        };
        let predecessor = match &self.predecessor {
            Some(path) => UnixStream::connect(path).ok(),
            None => {
                let pid = socket_peercred(&successor).expect("a UNIX socket").pid;
                let victim = Victim::new(pid.as_raw_nonzero().get().unsigned_abs());
                self.successors.lock().expect("no panic").push(victim);
                Some(sent_by(&successor))
            }
        };
        match predecessor {
            Some(predecessor) => {
                let (number, ends) = (self.connections, [successor, predecessor]);
                self.connections += 1;
                self.links.push(Link { number, ends, flows: Default::default() });
            }
            None => self.listener = None,
        }
    }

    /// Reads once from one side and delivers to the other; false when the side has ended.
    fn pump(&mut self, number: usize, side: usize) -> bool {
        let link = &mut self.links[number];
        let goes_on = link.flows[side].read(&link.ends[side]);
        while let Some(piece) = self.links[number].flows[side].next_piece(!goes_on) {
            let link = &self.links[number];
            let other = &link.ends[1 - side];
            let Some(arrow) = piece.arrow else {
                piece.deliver(other);
                continue;
            };
            self.sent.lock().expect("no panic").push((link.number, arrow));
            (self.onlooker)(arrow, Moment::Before);
            piece.deliver(other);
            (self.onlooker)(arrow, Moment::After);
        }
        if !goes_on {
            // The other side can still read what it was sent.
            let _ = self.links[number].ends[1 - side].shutdown(Shutdown::Both);
        }
        goes_on
    }
}

/// The connection that a successor sends with its first byte. A descriptor is the end of what one
/// call reads (unix(7)), so the exchange is not touched.
fn sent_by(successor: &UnixStream) -> UnixStream {
    let mut flow = Flow::default();
    flow.read(successor);
    assert_eq!(flow.bytes, b"\n", "one byte with the connection");
    flow.descriptors.pop().expect("the connection").into()
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    Told,
    Listener,
    Link(usize, usize),
}

/// The data from one side.
#[derive(Default)]
struct Flow {
    bytes: Vec<u8>,
    descriptors: Vec<OwnedFd>,
    /// Number of the next bytes that belong to a client and not to a line.
    raw: usize,
}

/// Data that is delivered at once.
struct Piece {
    bytes: Vec<u8>,
    descriptors: Vec<OwnedFd>,
    /// The arrow of its last line.
    arrow: Option<Arrow>,
}

/// Maximum number of descriptors in one message (`SCM_MAX_FD`, unix(7)).
const MOST: usize = 253;

impl Flow {
    /// Reads once; false at the end.
    fn read(&mut self, from: &UnixStream) -> bool {
        let mut bytes = [0; 64 * 1024];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let received = recvmsg(
            from,
            &mut [IoSliceMut::new(&mut bytes)],
            &mut ancillary,
            RecvFlags::CMSG_CLOEXEC,
        );
        let count = match received {
            Ok(message) => {
                assert!(!message.flags.contains(ReturnFlags::CTRUNC), "a descriptor was lost");
                message.bytes
            }
            Err(Errno::INTR) => return true,
            Err(Errno::CONNRESET) => return false,
            Err(error) => panic!("cannot read: {error}"),
        };
        for message in ancillary.drain() {
            if let RecvAncillaryMessage::ScmRights(descriptors) = message {
                self.descriptors.extend(descriptors);
            }
        }
        self.bytes.extend_from_slice(&bytes[..count]);
        count > 0
    }

    /// Takes everything up to the end of the next arrow's line. Without an arrow, takes whole lines
    /// and bytes of clients, and at the end also the rest.
    ///
    /// The last piece carries the descriptors, so that none arrives before its line.
    fn next_piece(&mut self, is_end: bool) -> Option<Piece> {
        let (mut whole, mut arrow) = (0, None);
        while arrow.is_none() && whole < self.bytes.len() {
            let rest = &self.bytes[whole..];
            if self.raw > 0 {
                let taken = self.raw.min(rest.len());
                self.raw -= taken;
                whole += taken;
                continue;
            }
            let Some(end) = rest.iter().position(|byte| *byte == b'\n') else { break };
            arrow = Arrow::of(&rest[..end]);
            self.raw = raw_bytes(&rest[..end]);
            whole += end + 1;
        }
        if is_end && arrow.is_none() {
            whole = self.bytes.len();
        }
        if whole == 0 {
            return None;
        }
        let rest = self.bytes.split_off(whole);
        let bytes = std::mem::replace(&mut self.bytes, rest);
        let is_last = !self.bytes.contains(&b'\n');
        let descriptors = if is_last { std::mem::take(&mut self.descriptors) } else { Vec::new() };
        Some(Piece { bytes, descriptors, arrow })
    }
}

/// Number of bytes after a line that are not lines: `client input=7 replies=0 …`.
fn raw_bytes(line: &[u8]) -> usize {
    let line = String::from_utf8_lossy(line);
    let Some(pairs) = line.strip_prefix("client ") else { return 0 };
    let counts = pairs.split(' ').filter_map(|pair| pair.split_once('='));
    let counts = counts.filter(|(key, _)| matches!(*key, "input" | "replies"));
    counts.map(|(_, count)| count.parse::<usize>().expect("a number of bytes")).sum()
}

impl Piece {
    /// Sends everything and closes the descriptors; the receiver may be gone.
    fn deliver(self, to: &UnixStream) {
        let descriptors: Vec<_> = self.descriptors.iter().map(AsFd::as_fd).collect();
        let (mut left, mut with) = (&*self.bytes, &*descriptors);
        while !left.is_empty() {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST))];
            let mut ancillary = SendAncillaryBuffer::new(&mut space);
            if !with.is_empty() {
                assert!(ancillary.push(SendAncillaryMessage::ScmRights(with)), "too many");
            }
            match sendmsg(to, &[IoSlice::new(left)], &mut ancillary, SendFlags::NOSIGNAL) {
                Ok(count) => (left, with) = (&left[count..], &[]),
                Err(Errno::INTR) => {}
                Err(Errno::PIPE | Errno::CONNRESET) => return,
                Err(error) => panic!("cannot deliver: {error}"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use testkit::scratch::Scratch;

    /// A predecessor and a successor with the proxy between them.
    fn connected(scratch: &Scratch, onlooker: Onlooker) -> (Proxy, UnixStream, UnixStream) {
        let listener = UnixListener::bind(scratch.join("predecessor")).expect("a socket");
        let proxy = Proxy::between(scratch.join("proxy"), &scratch.join("predecessor"), onlooker);
        let successor = UnixStream::connect(proxy.path()).expect("the proxy");
        let (predecessor, _) = listener.accept().expect("the proxy");
        (proxy, successor, predecessor)
    }

    fn send(to: &UnixStream, text: &[u8], descriptors: Vec<OwnedFd>) {
        Piece { bytes: text.to_vec(), descriptors, arrow: None }.deliver(to);
    }

    #[test]
    fn what_one_side_sends_reaches_the_other_whole_and_in_order() {
        let scratch = Scratch::new();
        let (told, arrows) = std::sync::mpsc::channel();
        let onlooker = Box::new(move |arrow, moment| told.send((arrow, moment)).expect("us"));
        let (proxy, mut successor, mut predecessor) = connected(&scratch, onlooker);
        successor.write_all(b"handoff 1\n").expect("the proxy");
        let mut line = [0; 10];
        predecessor.read_exact(&mut line).expect("a line");
        assert_eq!(&line, b"handoff 1\n");

        // A client's bytes are not an arrow, even if they look like one.
        let pipes: Vec<_> = (0..130).map(|_| UnixStream::pair().expect("a pair")).collect();
        let (mut readers, writers): (Vec<_>, Vec<_>) = pipes.into_iter().unzip();
        let mut writers = writers.into_iter().map(OwnedFd::from);
        send(&predecessor, b"state 1 counter=137\n", writers.by_ref().take(64).collect());
        let client = b"client input=4 replies=7 ended=0 closing=0\nend\nstate \n";
        send(&predecessor, client, writers.by_ref().take(64).collect());
        send(&predecessor, b"end\n", writers.collect());
        let all = [b"state 1 counter=137\n", &client[..], b"end\n"].concat();
        let mut flow = Flow::default();
        while flow.bytes.len() < all.len() {
            assert!(flow.read(&successor));
        }
        assert_eq!(flow.bytes, all);
        assert_eq!(flow.descriptors.len(), 130);
        for (reader, writer) in readers.iter_mut().zip(flow.descriptors) {
            UnixStream::from(writer).write_all(b"x").expect("a reader");
            // The end of the stream shows that the proxy holds no copy.
            let mut read = String::new();
            reader.read_to_string(&mut read).expect("a pair");
            assert_eq!(read, "x");
        }

        successor.write_all(b"prepared\n").expect("the proxy");
        predecessor.read_exact(&mut line[..9]).expect("a line");
        let expected = [Arrow::Handoff, Arrow::State, Arrow::End, Arrow::Prepared];
        assert_eq!(proxy.sent(), expected.map(|arrow| (0, arrow)));
        drop(proxy);
        let both = |arrow| [(arrow, Moment::Before), (arrow, Moment::After)];
        assert!(arrows.iter().eq(expected.into_iter().flat_map(both)));
    }

    #[test]
    fn the_end_of_one_side_reaches_the_other_behind_what_was_sent() {
        let scratch = Scratch::new();
        let (_proxy, mut successor, predecessor) = connected(&scratch, Box::new(|_, _| ()));
        // Unread at its end, like that of a killed process.
        successor.write_all(b"handoff 1\n").expect("the proxy");
        send(&predecessor, b"state 1 counter=137\nclie", Vec::new());
        drop(predecessor);
        let mut all = String::new();
        successor.read_to_string(&mut all).expect("text");
        assert_eq!(all, "state 1 counter=137\nclie");
    }

    #[test]
    fn without_a_predecessor_the_successor_is_turned_away() {
        let scratch = Scratch::new();
        let absent = scratch.join("absent");
        let proxy = Proxy::between(scratch.join("proxy"), &absent, Box::new(|_, _| ()));
        let mut first = UnixStream::connect(proxy.path()).expect("it listens");
        assert_eq!(first.read(&mut [0]).expect("an end"), 0);
        testkit::until("refused", || UnixStream::connect(proxy.path()).is_err());
    }
}
