// SPDX-License-Identifier: Apache-2.0
//! Session: the connection of one client, its partial line and its unsent replies.
//!
//! Owns the connection and two buffers of fixed size. Closed when the client is done, breaks a rule
//! or does not read its replies.
//!
//! **Invariant:** commands are carried out, and replies sent, in the order in which the client
//! wrote the lines.
//!
//! **Invariant:** at most one batch is in flight, and nothing is read while replies are unsent. A
//! client that does not read therefore stops only itself.

mod travel;

use std::io;
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::task::{Context, Poll, Waker};
use std::thread;
use std::time::Duration;

use early_service_machine::schedule::Monotonic;
use rustix::io::Errno;
use rustix::net::sockopt::{set_socket_send_buffer_size, socket_peercred};
use rustix::net::{RecvFlags, recv};
use smol::Async;

use crate::handoff::request::HandoffRequest;
use crate::platform::clock;
use crate::platform::socket;
use crate::server::batch::Batch;
use crate::server::input::{Input, Parsed};
use crate::server::limits::{MAX_DISCARD, SEND_BUFFER};
use crate::service::Service;

/// How long to busy-poll a recently active client for its next command before waiting for
/// readiness.
///
/// Waiting for readiness takes two switches of threads, which is most of the cost of a command.
/// Longer: each client that sends a single command takes more of the processor. Shorter: a client
/// that sends its next command at once is served at half the speed.
const BUSY_POLL: Duration = Duration::from_micros(50);

/// The next step of a session.
pub(super) enum Next<S: Service> {
    /// Wait until the waker is called.
    Wait,
    /// Have the ticker carry out the commands.
    CarryOut(Box<Batch<S>>),
    /// Add the server's half of a status line, then have the ticker complete the batch.
    Status(Box<Batch<S>>),
    /// Hand over the state to this client.
    HandOver(HandoffRequest),
    /// Hand over to the program on disk; this client waits for the result.
    Reload,
    /// Close the session.
    Close,
}

/// One client.
pub(crate) struct Session<S: Service> {
    stream: Async<UnixStream>,
    input: Input,
    /// Absent while it is in flight.
    batch: Option<Box<Batch<S>>>,
    /// When the client last completed a line or took a reply.
    last_active: Monotonic,
    /// Whether the client has completed a line in this process.
    has_sent_line: bool,
    /// Whether to close the connection as soon as the replies are sent.
    closing: bool,
    /// After a line that is too long: how many bytes to discard before the connection is closed.
    discard: Option<usize>,
    /// The user of the client, once it was looked up.
    user: Option<Option<u32>>,
    /// Whether it occupies the reserve, until its first command.
    pub(super) is_in_reserve: bool,
    waker: Waker,
}

impl<S: Service> Session<S> {
    /// A session without a waker.
    pub(crate) fn new(stream: Async<UnixStream>) -> Box<Self> {
        Box::new(Self {
            stream,
            input: Input::new(),
            batch: Some(Batch::new()),
            last_active: clock::now(),
            has_sent_line: false,
            closing: false,
            discard: None,
            user: None,
            is_in_reserve: false,
            waker: Waker::noop().clone(),
        })
    }

    /// Sets the waker, when the session gets a slot. Also limits the kernel's memory for replies,
    /// because the limit is a property of the socket, and a successor that did not adopt the
    /// session may have changed it.
    pub(super) fn attach(&mut self, waker: Waker) {
        // The kernel doubles the value. If this fails, a client that does not read can occupy
        // more kernel memory.
        let _ = set_socket_send_buffer_size(&self.stream, SEND_BUFFER / 2);
        self.waker = waker;
    }

    /// Ends the connection, even if a predecessor that has not left yet holds a copy of it.
    pub(super) fn shut_down(&self) {
        // Fails if the client has closed it already.
        let _ = self.stream.get_ref().shutdown(Shutdown::Both);
    }

    /// Puts the session behind the other ready ones.
    pub(super) fn wake(&self) {
        self.waker.wake_by_ref();
    }

    /// Puts the session behind the other ready ones as soon as it has something to do. Slower than
    /// polling the socket, but cheaper while other sessions are ready.
    pub(super) fn wake_when_ready(&self) {
        let has_more = self.has_unsent() || self.closing || self.input.ended;
        if has_more || !self.input.bytes.is_empty() {
            self.wake();
        } else {
            self.wake_when_readable();
        }
    }

    pub(super) fn is_in_flight(&self) -> bool {
        self.batch.is_none()
    }

    pub(super) fn last_active(&self) -> Monotonic {
        self.last_active
    }

    pub(super) fn has_unsent(&self) -> bool {
        self.batch.as_ref().is_some_and(|batch| !batch.replies.is_empty())
    }

    pub(super) fn has_sent_line(&self) -> bool {
        self.has_sent_line
    }

    /// The user of the process that connected; `None` if the kernel does not report it. Looked up
    /// only when no slot is left, because each call costs.
    pub(super) fn user(&mut self) -> Option<u32> {
        let look_up = || socket_peercred(&self.stream).ok().map(|peer| peer.uid.as_raw());
        *self.user.get_or_insert_with(look_up)
    }

    /// Whether the session is closing because a line exceeded `MAX_COMMAND_LINE`.
    pub(super) fn has_overrun(&self) -> bool {
        self.discard.is_some()
    }

    /// Sends a line that is not a reply, unless replies are unsent: the client then does not read.
    pub(super) fn send_line(&self, line: &str) {
        if !self.has_unsent() {
            // If this fails, the client is gone or does not read.
            let _ = socket::send(&self.stream, format!("{line}\n").as_bytes());
        }
    }

    /// Sets the reply to a command that no batch carries out; replaces an earlier one that was not
    /// sent. To be called while no batch is in flight.
    pub(crate) fn answer(&mut self, line: &str) {
        if let Some(batch) = &mut self.batch {
            batch.replies.clear();
            batch.push_line(line);
        }
    }

    /// Takes the batch back from the ticker; returns whether its commands were carried out.
    /// Commands that were not carried out count as unread again.
    pub(super) fn batch_done(&mut self, mut batch: Box<Batch<S>>) -> bool {
        let is_carried_out = batch.is_empty();
        if !is_carried_out {
            _ = batch.take_commands();
            self.input.take_back_commands();
        }
        self.batch = Some(batch);
        is_carried_out
    }

    /// Sends as many replies as the kernel takes at once.
    pub(crate) fn send_replies(&mut self) {
        if let Some(mut batch) = self.batch.take() {
            _ = self.send(&mut batch);
            self.batch = Some(batch);
        }
    }

    /// Sends, parses and reads as much as is possible without waiting, with at most one read.
    pub(super) fn advance(&mut self) -> Next<S> {
        let Some(mut batch) = self.batch.take() else {
            return Next::Wait;
        };
        let mut has_read = false;
        loop {
            match self.send(&mut batch) {
                Poll::Pending => break self.keep(batch, Next::Wait),
                Poll::Ready(false) => break Next::Close,
                Poll::Ready(true) if self.closing => {
                    let next = self.discard();
                    break self.keep(batch, next);
                }
                Poll::Ready(true) => {}
            }
            let unread = self.input.bytes.pending().len();
            let parsed = self.input.parse(&mut batch);
            if self.input.bytes.pending().len() < unread {
                self.has_sent_line = true;
                self.last_active = clock::now();
            }
            match parsed {
                Parsed::CarryOut => break Next::CarryOut(batch),
                Parsed::Status => break Next::Status(batch),
                Parsed::HandOver(request) => break self.keep(batch, Next::HandOver(request)),
                Parsed::Reload => break self.keep(batch, Next::Reload),
                Parsed::SendFirst => continue,
                Parsed::Finished => {
                    self.closing = true;
                    continue;
                }
                Parsed::TooLong => {
                    self.closing = true;
                    self.discard = Some(MAX_DISCARD);
                    continue;
                }
                Parsed::Nothing => {}
            }
            if has_read {
                // Behind the other ready sessions.
                self.wake();
                break self.keep(batch, Next::Wait);
            }
            match self.read() {
                Poll::Pending => break self.keep(batch, Next::Wait),
                Poll::Ready(false) => break Next::Close,
                Poll::Ready(true) => has_read = true,
            }
        }
    }

    fn keep(&mut self, batch: Box<Batch<S>>, next: Next<S>) -> Next<S> {
        self.batch = Some(batch);
        next
    }

    /// Sends all replies; false if the connection is broken.
    fn send(&mut self, batch: &mut Batch<S>) -> Poll<bool> {
        let replies = &mut batch.replies;
        while !replies.is_empty() {
            match socket::send(&self.stream, replies.pending()) {
                Ok(count) if count > 0 => {
                    replies.take(count);
                    self.last_active = clock::now();
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    let mut context = Context::from_waker(&self.waker);
                    // If there is room by now, tries again at once.
                    if self.stream.poll_writable(&mut context).is_pending() {
                        return Poll::Pending;
                    }
                }
                Ok(_) | Err(_) => return Poll::Ready(false),
            }
        }
        replies.clear();
        Poll::Ready(true)
    }

    /// Reads once; false if the connection is broken. Uses MSG_DONTWAIT, because O_NONBLOCK is a
    /// property of the socket, and a successor that was offered the session may have cleared it.
    fn read(&mut self) -> Poll<bool> {
        match recv(&self.stream, self.input.bytes.spare(), RecvFlags::DONTWAIT) {
            Ok((_, 0)) => {
                self.input.ended = true;
                Poll::Ready(true)
            }
            Ok((_, count)) => {
                self.input.bytes.fill(count);
                Poll::Ready(true)
            }
            Err(Errno::WOULDBLOCK | Errno::INTR) => {
                self.wait_for_more();
                Poll::Pending
            }
            Err(_) => Poll::Ready(false),
        }
    }

    /// Waits for more to read; busy-polls if the client was active just now.
    fn wait_for_more(&self) {
        if clock::since(self.last_active) < BUSY_POLL {
            // On a machine with one processor, the client runs now.
            thread::yield_now();
            self.wake();
        } else {
            self.wake_when_readable();
        }
    }

    fn wake_when_readable(&self) {
        let mut context = Context::from_waker(&self.waker);
        if self.stream.poll_readable(&mut context).is_ready() {
            self.wake();
        }
    }

    /// After a line that is too long, reads and discards once; then closes. The kernel resets a
    /// connection that is closed with unread bytes. A client that is still writing, such as `nc`,
    /// would then not print the last line.
    fn discard(&mut self) -> Next<S> {
        let Some(left) = self.discard else {
            return Next::Close;
        };
        if left == MAX_DISCARD {
            // A client that reads to the end now receives the end. Fails if the client is gone.
            let _ = self.stream.get_ref().shutdown(Shutdown::Write);
        }
        self.input.bytes.clear();
        match self.read() {
            Poll::Pending => Next::Wait,
            Poll::Ready(true) => {
                let count = self.input.bytes.pending().len();
                if self.input.ended || count >= left {
                    return Next::Close;
                }
                self.discard = Some(left - count);
                self.wake();
                Next::Wait
            }
            Poll::Ready(false) => Next::Close,
        }
    }
}

impl<S: Service> AsFd for Session<S> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::handoff::channel;
    use crate::server::batch::{BATCH, REPLIES};
    use crate::server::input::INPUT;
    use early_service_machine::wire::command;
    use early_service_machine::wire::handoff::Client;
    use early_service_machine::wire::legacy::Legacy;
    use early_service_machine::{Counter, State, counter};
    use std::fmt::Write as _;
    use std::io::{Read, Write};

    /// A session and the client's end of its connection.
    fn connected() -> (Box<Session<Counter>>, UnixStream) {
        let (ours, client) = UnixStream::pair().expect("a socket pair");
        let stream = Async::new(ours).expect("a socket can be polled");
        (Session::new(stream), client)
    }

    fn commands(next: Next<Counter>) -> (Vec<counter::Command>, Box<Batch<Counter>>) {
        match next {
            Next::CarryOut(mut batch) => (batch.take_commands().collect(), batch),
            _ => panic!("no batch"),
        }
    }

    fn read_available(client: &mut UnixStream) -> String {
        let mut replies = vec![0; 1 << 20];
        client.set_nonblocking(true).expect("a socket can be nonblocking");
        let count = client.read(&mut replies).unwrap_or(0);
        String::from_utf8_lossy(&replies[..count]).into_owned()
    }

    #[test]
    fn one_read_makes_one_batch_in_order() {
        let (mut session, mut client) = connected();
        client.write_all(b"get_counter\nset_counter 5\nget_counter\nget_cou").expect("room");
        let (batch, _) = commands(session.advance());
        let get = counter::Command::Get;
        assert_eq!(batch, [get, counter::Command::Set(5), get]);
        assert!(session.is_in_flight());
    }

    #[test]
    fn a_line_of_the_server_waits_for_earlier_replies() {
        let (mut session, mut client) = connected();
        client.write_all(b"get_counter\nnonsense\nget_counter\n").expect("room");
        let (_, mut batch) = commands(session.advance());
        batch.push_line("137");
        session.batch_done(batch);
        let (batch, mut box_of_it) = commands(session.advance());
        assert_eq!(batch, [counter::Command::Get]);
        box_of_it.push_line("138");
        session.batch_done(box_of_it);
        assert!(matches!(session.advance(), Next::Wait));
        let replies = read_available(&mut client);
        let lines: Vec<_> = replies.lines().map(|line| line.split(';').next()).collect();
        assert_eq!(lines, [Some("137"), Some("Invalid command: nonsense"), Some("138")]);
    }

    #[test]
    fn excess_commands_follow_in_the_next_batch() {
        let (mut session, mut client) = connected();
        client.write_all("get_counter\n".repeat(BATCH + 3).as_bytes()).expect("room");
        let (first, batch) = commands(session.advance());
        session.batch_done(batch);
        let (second, _) = commands(session.advance());
        assert_eq!((first.len(), second.len()), (BATCH, 3));
    }

    #[test]
    fn a_full_batch_has_room_for_the_longest_replies() {
        let (mut session, mut client) = connected();
        client.write_all("set_counter 1\n".repeat(BATCH).as_bytes()).expect("room");
        let (taken, mut batch) = commands(session.advance());
        for _ in taken {
            writeln!(batch.replies, "{}", counter::Reply::Previous(u64::MAX)).expect("room");
        }
    }

    #[test]
    fn a_client_that_does_not_read_is_not_read_from() {
        let (mut session, mut client) = connected();
        client.set_nonblocking(true).expect("a socket can be nonblocking");
        let garbage = b"nonsense\n".repeat(100);
        let mut taken = 0;
        // The two socket buffers hold far less.
        for _ in 0..100_000 {
            taken += client.write(&garbage).unwrap_or(0);
            assert!(matches!(session.advance(), Next::Wait));
            if session.has_unsent() {
                break;
            }
        }
        assert!(session.has_unsent(), "{taken} bytes were taken without a stop");
        let unread = session.input.bytes.pending().len();
        assert!(matches!(session.advance(), Next::Wait));
        assert_eq!(session.input.bytes.pending().len(), unread);
    }

    #[test]
    fn an_endless_line_is_answered_and_ends_the_session() {
        let (mut session, mut client) = connected();
        client.set_nonblocking(true).expect("a socket can be nonblocking");
        let mut taken = 0;
        let closes = (0..).find(|_| {
            taken += client.write(&[b'x'; 4096]).unwrap_or(0);
            matches!(session.advance(), Next::Close)
        });
        assert!(closes.is_some_and(|reads| reads <= MAX_DISCARD), "{closes:?}");
        assert!(taken > MAX_DISCARD, "what it was still writing was taken: {taken}");
        drop(session);
        assert_eq!(read_available(&mut client), format!("{}\n", command::TOO_LONG));
    }

    #[test]
    fn a_line_too_long_ends_the_session_with_its_input() {
        let (mut session, mut client) = connected();
        client.write_all(&[b'x'; 200]).expect("room");
        while let Next::Wait = session.advance() {
            client.shutdown(Shutdown::Write).expect("a socket can be half closed");
        }
        assert_eq!(read_available(&mut client), format!("{}\n", command::TOO_LONG));
    }

    #[test]
    fn the_end_of_input_ends_the_last_line_then_the_session() {
        let (mut session, mut client) = connected();
        client.write_all(b"get_counter").expect("room");
        client.shutdown(Shutdown::Write).expect("a socket can be half closed");
        while let Next::Wait = session.advance() {
            assert!(!session.is_in_flight());
        }
        assert!(session.is_in_flight(), "the last line was carried out");
        session.batch_done(Batch::new());
        assert!(matches!(session.advance(), Next::Close));
    }

    #[test]
    fn an_adopted_session_continues_where_it_was() {
        let (mut first, mut client) = connected();
        client.write_all(b"get_counter\nset_coun").expect("room");
        let (_, mut batch) = commands(first.advance());
        batch.push_line("137");
        first.batch_done(batch);
        let (head, unread, unsent) = first.parts();
        assert_eq!((unread, unsent), (&b"set_coun"[..], &b"137\n"[..]));
        assert_eq!((head.input, head.replies, head.ended, head.closing), (8, 4, false, false));

        let copy = first.stream.get_ref().try_clone().expect("a descriptor");
        let stream = Async::new(copy).expect("a socket can be polled");
        let mut second = Session::adopt(stream, head, unread, unsent).expect("it fits");
        drop(first);
        assert!(matches!(second.advance(), Next::Wait));
        assert_eq!(read_available(&mut client), "137\n");
        client.set_nonblocking(false).expect("a socket");
        client.write_all(b"ter 5\n").expect("room");
        assert_eq!(commands(second.advance()).0, [counter::Command::Set(5)]);
    }

    #[test]
    fn a_session_that_does_not_fit_is_not_adopted() {
        let head = Client { input: 0, replies: 0, ended: false, closing: false };
        for (unread, unsent) in [(INPUT + 1, 0), (0, REPLIES + 1)] {
            let (session, _client) = connected();
            let (unread, unsent) = (vec![b'x'; unread], vec![b'x'; unsent]);
            assert!(Session::<Counter>::adopt(session.stream, head, &unread, &unsent).is_none());
        }
    }

    #[test]
    fn handing_over_waits_until_earlier_replies_are_sent() {
        let (mut session, mut client) = connected();
        let lines = format!("nonsense\nget_counter\n{}\n", Counter::HAND_OVER);
        client.write_all(lines.as_bytes()).expect("room");
        let (batch, mut box_of_it) = commands(session.advance());
        assert_eq!(batch, [counter::Command::Get]);
        box_of_it.push_line("137");
        session.batch_done(box_of_it);
        assert!(matches!(session.advance(), Next::HandOver(HandoffRequest::Legacy(Legacy::Value))));
        assert!(read_available(&mut client).ends_with("\n137\n"));
    }

    #[test]
    fn a_refusal_reaches_a_client_that_reads_nothing() {
        let (mut session, mut client) = connected();
        session.attach(Waker::noop().clone());
        while socket::send(&session.stream, &[b'x'; 512]).is_ok() {}
        channel::refuse(&session.into_stream(), "busy");
        assert!(read_available(&mut client).ends_with("xbusy\n"));
    }
}
