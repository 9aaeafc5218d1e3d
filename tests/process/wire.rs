// SPDX-License-Identifier: Apache-2.0
//! Wire: one side of the exchange, played by hand, line by line and descriptor by descriptor.

use std::collections::VecDeque;
use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};

use testkit::scratch::Scratch;
use testkit::{LIMIT, now, until};

/// A connection to the process under test.
pub(crate) struct Wire {
    pub(crate) stream: UnixStream,
    input: VecDeque<u8>,
    pub(crate) descriptors: VecDeque<OwnedFd>,
}

/// An offer of a predecessor.
pub(crate) struct Offer {
    /// The line that begins with `state 1`.
    pub(crate) state: String,
    pub(crate) listeners: Vec<OwnedFd>,
    pub(crate) clients: Vec<Client>,
    pub(crate) lock: Option<OwnedFd>,
}

/// One client of an offer.
pub(crate) struct Client {
    pub(crate) head: String,
    pub(crate) bytes: Vec<u8>,
    /// Kept open, as a successor would.
    pub(crate) socket: OwnedFd,
}

impl Wire {
    #[track_caller]
    pub(crate) fn new(stream: UnixStream) -> Self {
        stream.set_nonblocking(false).expect("a socket");
        stream.set_read_timeout(Some(LIMIT)).expect("not zero");
        Self { stream, input: VecDeque::new(), descriptors: VecDeque::new() }
    }

    /// Connects and sends `request`.
    #[track_caller]
    pub(crate) fn ask(path: &Path, request: &str) -> Self {
        let mut wire = Self::new(UnixStream::connect(path).expect("a server"));
        wire.say(request);
        wire
    }

    #[track_caller]
    pub(crate) fn say(&mut self, line: &str) {
        self.send(format!("{line}\n"), &[]);
    }

    /// Sends bytes and descriptors in one message.
    #[track_caller]
    pub(crate) fn send(&mut self, bytes: impl AsRef<[u8]>, descriptors: &[BorrowedFd<'_>]) {
        let bytes = bytes.as_ref();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(253))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !descriptors.is_empty() {
            assert!(control.push(SendAncillaryMessage::ScmRights(descriptors)), "room");
        }
        let sent = sendmsg(&self.stream, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL);
        assert_eq!(sent, Ok(bytes.len()), "a peer that reads");
    }

    /// Reads once; false at the end.
    #[track_caller]
    fn read(&mut self) -> bool {
        let mut bytes = [0; 16 * 1024];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(253))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut room = [IoSliceMut::new(&mut bytes)];
        let received = match recvmsg(&self.stream, &mut room, &mut control, RecvFlags::empty()) {
            Err(Errno::CONNRESET) => return false,
            received => received.expect("the peer says something"),
        };
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(descriptors) = message {
                self.descriptors.extend(descriptors);
            }
        }
        self.input.extend(&bytes[..received.bytes]);
        received.bytes > 0
    }

    /// The next line; empty at the end.
    #[track_caller]
    pub(crate) fn line(&mut self) -> String {
        loop {
            if let Some(end) = self.input.iter().position(|byte| *byte == b'\n') {
                let line = self.input.drain(..=end).collect();
                let line = String::from_utf8(line).expect("text");
                return line.trim_end().to_owned();
            }
            if !self.read() {
                assert_eq!(self.input, [0; 0], "a whole line before the end");
                return String::new();
            }
        }
    }

    /// The next `count` bytes.
    #[track_caller]
    pub(crate) fn bytes(&mut self, count: usize) -> Vec<u8> {
        while self.input.len() < count {
            assert!(self.read(), "{count} bytes before the end, not {:?}", self.input);
        }
        self.input.drain(..count).collect()
    }

    /// Waits for the end; nothing may arrive before it.
    #[track_caller]
    pub(crate) fn end(&mut self) {
        assert_eq!(self.line(), "", "the end of the connection");
    }

    /// Receives the whole offer of a predecessor.
    #[track_caller]
    pub(crate) fn offer(&mut self) -> Offer {
        let state = self.line();
        assert!(state.starts_with("state 1 counter="), "{state:?}");
        let listeners: usize = number(&state, "listeners");
        let listeners = self.descriptors.drain(..listeners).collect();
        let mut clients = Vec::new();
        let mut head = self.line();
        while head != "end" {
            assert!(head.starts_with("client "), "{head:?}");
            let bytes =
                self.bytes(number::<usize>(&head, "input") + number::<usize>(&head, "replies"));
            let socket = self.descriptors.pop_front().expect("a client's descriptor");
            clients.push(Client { head, bytes, socket });
            head = self.line();
        }
        assert_eq!(clients.len(), number::<usize>(&state, "clients"), "{state}");
        let lock = self.descriptors.pop_front();
        assert_eq!(usize::from(lock.is_some()), number::<usize>(&state, "lock"), "{state}");
        assert!(self.descriptors.is_empty(), "no descriptor that is not announced");
        Offer { state, listeners, clients, lock }
    }
}

/// The value of a `key=value` in a line.
#[track_caller]
pub(crate) fn number<T: std::str::FromStr>(line: &str, key: &str) -> T {
    let mut pairs = line.split(' ').filter_map(|pair| pair.split_once('='));
    let value = pairs.find(|(name, _)| *name == key).and_then(|(_, value)| value.parse().ok());
    value.unwrap_or_else(|| panic!("no number {key} in {line:?}"))
}

/// A predecessor that the test plays.
pub(crate) struct Predecessor {
    pub(crate) listener: UnixListener,
    pub(crate) path: PathBuf,
}

impl Predecessor {
    pub(crate) fn new(scratch: &Scratch) -> Self {
        Self::at(scratch.join("predecessor"))
    }

    pub(crate) fn at(path: PathBuf) -> Self {
        let listener = UnixListener::bind(&path).expect("a socket");
        listener.set_nonblocking(true).expect("a descriptor");
        Self { listener, path }
    }

    /// The next connection with a request, and the request. Others only test whether the path is
    /// served.
    #[track_caller]
    pub(crate) fn asked(&self) -> (Wire, String) {
        let mut asked = None;
        until("a successor that asks", || {
            let Ok((stream, _)) = self.listener.accept() else { return false };
            let mut wire = Wire::new(stream);
            let request = wire.line();
            asked = (!request.is_empty()).then_some((wire, request));
            asked.is_some()
        });
        asked.expect("waited for")
    }

    /// The next connection that requests `handoff 1`.
    #[track_caller]
    pub(crate) fn asked_for_the_exchange(&self) -> Wire {
        let (wire, request) = self.asked();
        assert!(request.starts_with("handoff 1"), "{request:?}");
        wire
    }
}

/// The line for a state that does not tick.
pub(crate) fn state(counter: u64, lock: bool, listeners: usize, clients: usize) -> String {
    const HOUR: u64 = 3_600_000_000_000;
    let (deadline, lock) = (now() + HOUR, u8::from(lock));
    format!(
        "state 1 counter={counter} deadline_ns={deadline} period_ns={HOUR} lock={lock} \
         listeners={listeners} clients={clients}"
    )
}

/// Borrows the descriptors to send.
pub(crate) fn borrowed<T: AsFd>(descriptors: &[T]) -> Vec<BorrowedFd<'_>> {
    descriptors.iter().map(AsFd::as_fd).collect()
}
