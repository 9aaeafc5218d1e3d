// SPDX-License-Identifier: Apache-2.0
//! Session: one client's connection, its half-read line and its unsent replies.
//!
//! Owns the connection and two buffers of fixed size.
//! Never has more than one batch of commands under way and never reads while replies are unsent, so
//! a client that does not read stops itself and nobody else.
//! Ends when the client is done, breaks a rule, or stops taking its replies.
//!
//! **Invariant:** commands are carried out, and replies sent, in the order in which they were
//! written.

use std::fmt::{self, Write as _};
use std::io;
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::task::{Context, Poll, Waker};
use std::thread;

use early_service_machine::bounds::{MAX_COMMAND_LINE, MAX_INVALID_REPLY, STATUS_OVERHEAD};
use early_service_machine::schedule::Monotonic;
use early_service_machine::wire::command::{self, Command, Framed};
use early_service_machine::wire::handoff::Client;
use rustix::io::Errno;
use rustix::net::sockopt::{set_socket_send_buffer_size, socket_peercred};
use rustix::net::{RecvFlags, recv};
use smol::Async;

use crate::handoff::channel;
use crate::handoff::request::HandoffRequest;
use crate::platform::clock;
use crate::platform::socket;
use crate::server::limits::{MAX_DISCARD, SEND_BUFFER};
use crate::service::Service;
use crate::status;

/// The most commands that travel in one message.
///
/// With fewer, a client that pipelines pays more messages; more makes every session larger, and one
/// client's turn longer.
pub(crate) const BATCH: usize = 64;

/// How long the next line of a client that came, asked or was answered is looked for before it is
/// waited for, in nanoseconds.
///
/// To be woken takes two switches of threads, which is most of what a command costs; a client that asks
/// again at once is twice as fast without.
/// Longer, and each client that asks once costs the processor that much more.
const BUSY_POLL: u64 = 50_000;

/// The bytes read at once: what [`BATCH`] of the shortest commands take, and some.
///
/// Larger than the longest line, so that a part of a line always leaves room to read on.
pub(crate) const INPUT: usize = 1024;
const _: () = assert!(INPUT > MAX_COMMAND_LINE + 2, "a partial line leaves room to read on");

/// The bytes of replies that wait to be sent: a full batch of those of the counter.
///
/// Of a state with longer replies, a batch has fewer commands.
pub(crate) const REPLIES: usize = BATCH * 36;

/// Room for any line that is no reply of the state: for an invalid line, or for a status line, which
/// the ticker completes.
const fn own_reply<S: Service>() -> usize {
    let status = status::MAX_HEADER + 1 + S::MAX_FIELDS + STATUS_OVERHEAD;
    1 + if status > MAX_INVALID_REPLY { status } else { MAX_INVALID_REPLY }
}

/// Commands on their way to the ticker, and its replies on their way back.
///
/// The box goes to and fro, so that a command costs no allocation.
pub(crate) struct Batch<S: Service> {
    commands: [S::Command; BATCH],
    count: usize,
    /// After the commands, the ticker completes the status line that the replies end with.
    pub(crate) status: bool,
    pub(crate) replies: Replies,
}

impl<S: Service> Batch<S> {
    pub(crate) fn new() -> Box<Self> {
        const {
            assert!(
                REPLIES > S::MAX_REPLY && REPLIES > own_reply::<S>(),
                "the state is too large: a reply (MAX_REPLY) or a status line with its fields \
                 (MAX_FIELDS) does not fit a session's buffer"
            );
        }
        Box::new(Self {
            commands: [S::Command::default(); BATCH],
            count: 0,
            status: false,
            replies: Replies { bytes: [0; REPLIES], start: 0, end: 0 },
        })
    }

    /// Takes the commands out, to be carried out.
    pub(crate) fn take_commands(&mut self) -> impl Iterator<Item = S::Command> + use<S> {
        self.commands.into_iter().take(std::mem::take(&mut self.count))
    }

    /// Adds a command; false when there is no room for it, or for its reply.
    pub(crate) fn push(&mut self, command: S::Command) -> bool {
        let needed = (self.count + 1) * (S::MAX_REPLY + 1);
        match self.commands.get_mut(self.count) {
            Some(free) if self.replies.room() >= needed => {
                *free = command;
                self.count += 1;
                true
            }
            _ => false,
        }
    }
}

/// Replies not yet sent.
pub(crate) struct Replies {
    bytes: [u8; REPLIES],
    start: usize,
    end: usize,
}

impl Replies {
    pub(crate) fn unsent(&self) -> &[u8] {
        self.bytes.get(self.start..self.end).unwrap_or_default()
    }

    /// Makes `unsent` what is to be sent; false where it does not fit.
    fn replace(&mut self, unsent: &[u8]) -> bool {
        let Some(room) = self.bytes.get_mut(..unsent.len()) else {
            return false;
        };
        room.copy_from_slice(unsent);
        (self.start, self.end) = (0, unsent.len());
        true
    }

    fn room(&self) -> usize {
        REPLIES - self.end
    }

    pub(crate) fn sent(&mut self, count: usize) {
        self.start += count;
        if self.start >= self.end {
            (self.start, self.end) = (0, 0);
        }
    }
}

impl fmt::Write for Replies {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let end = self.end + text.len();
        self.bytes.get_mut(self.end..end).ok_or(fmt::Error)?.copy_from_slice(text.as_bytes());
        self.end = end;
        Ok(())
    }
}

/// Bytes read and not yet understood.
struct Input {
    bytes: [u8; INPUT],
    start: usize,
    end: usize,
    /// Where the first command of the batch begins, while it is with the ticker.
    first_command: usize,
    /// The client will send no more.
    ended: bool,
}

impl Input {
    fn unread(&self) -> &[u8] {
        self.bytes.get(self.start..self.end).unwrap_or_default()
    }

    /// Makes `unread` what is to be understood; false where it does not fit.
    fn replace(&mut self, unread: &[u8]) -> bool {
        let Some(room) = self.bytes.get_mut(..unread.len()) else {
            return false;
        };
        room.copy_from_slice(unread);
        (self.start, self.end) = (0, unread.len());
        true
    }

    fn room(&mut self) -> &mut [u8] {
        self.bytes.copy_within(self.start..self.end, 0);
        (self.start, self.end) = (0, self.end - self.start);
        self.bytes.get_mut(self.end..).unwrap_or_default()
    }
}

/// What a session wants next.
pub(crate) enum Next<S: Service> {
    /// Nothing until its waker is called.
    Wait,
    /// This batch carried out.
    CarryOut(Box<Batch<S>>),
    /// The server's half of a status line written, then the batch carried out.
    Status(Box<Batch<S>>),
    /// The state handed over to this client.
    HandOver(HandoffRequest),
    /// To be closed.
    Close,
}

/// One client.
pub(crate) struct Session<S: Service> {
    stream: Async<UnixStream>,
    input: Input,
    /// Absent while it is with the ticker.
    batch: Option<Box<Batch<S>>>,
    /// When the client last ended a line or took a reply.
    active: Monotonic,
    /// It has ended a line here.
    has_spoken: bool,
    /// To be closed as soon as the replies are sent.
    closing: bool,
    /// A line was too long: so many bytes more are read, and thrown away, before it is closed.
    overrun: Option<usize>,
    /// The user of the client, once somebody asked.
    user: Option<Option<u32>>,
    /// One of more clients than there are places for, and not yet known to be a client.
    pub(crate) is_beyond: bool,
    waker: Waker,
}

impl<S: Service> Session<S> {
    /// A session that calls nobody until it is settled in its place.
    pub(crate) fn new(stream: Async<UnixStream>) -> Box<Self> {
        let waker = Waker::noop().clone();
        let input = Input { bytes: [0; INPUT], start: 0, end: 0, first_command: 0, ended: false };
        let batch = Some(Batch::new());
        Box::new(Self {
            stream,
            input,
            batch,
            active: clock::now(),
            has_spoken: false,
            closing: false,
            overrun: None,
            user: None,
            is_beyond: false,
            waker,
        })
    }

    /// Goes on with a client of the predecessor, where its half-read line and its unsent replies
    /// fit; `None` where they do not.
    pub(crate) fn adopt(
        stream: Async<UnixStream>,
        client: Client,
        unread: &[u8],
        unsent: &[u8],
    ) -> Option<Box<Self>> {
        let mut session = Self::new(stream);
        let fits = session.input.replace(unread)
            && session.batch.as_mut().is_some_and(|batch| batch.replies.replace(unsent));
        session.input.ended = client.ended;
        session.closing = client.closing;
        // It may be one whose line is too long, and who still writes.
        session.overrun = (client.closing && !client.ended).then_some(MAX_DISCARD);
        fits.then_some(session)
    }

    /// What a successor needs to go on with this client: the head of its message, the bytes read
    /// and not understood, and the replies not sent.
    ///
    /// Only while nothing of it is under way.
    pub(crate) fn parts(&self) -> (Client, &[u8], &[u8]) {
        let unread = self.input.unread();
        let unsent = self.batch.as_ref().map_or(&[][..], |batch| batch.replies.unsent());
        let client = Client {
            input: u64::try_from(unread.len()).unwrap_or_default(),
            replies: u64::try_from(unsent.len()).unwrap_or_default(),
            ended: self.input.ended,
            closing: self.closing,
        };
        (client, unread, unsent)
    }

    /// Takes a place in the server: from now on, this waker is called.
    ///
    /// Limits the kernel's memory for its replies each time: the option belongs to the socket, and a
    /// successor that gave the client back may have changed it.
    pub(crate) fn settle(&mut self, waker: Waker) {
        // The kernel doubles it. Where it fails, a client that does not read costs more.
        let _ = set_socket_send_buffer_size(&self.stream, SEND_BUFFER / 2);
        self.waker = waker;
    }

    /// Ends the connection, even where another process still holds a copy of it: a predecessor does
    /// until it has left.
    pub(crate) fn shut_down(&self) {
        // It fails only where the client has gone already.
        let _ = self.stream.get_ref().shutdown(Shutdown::Both);
    }

    /// Has the session advanced soon, whatever its connection does.
    pub(crate) fn wake(&self) {
        self.waker.wake_by_ref();
    }

    /// The same as soon as there is something to do for it: mostly, when the client sends something.
    ///
    /// Less prompt than a turn to look for it, but where many wait for theirs, that would be in vain.
    pub(crate) fn wake_for_more(&self) {
        let has_more = self.has_unsent() || self.closing || self.input.ended;
        if has_more || !self.input.unread().is_empty() {
            self.wake();
        } else {
            self.wake_when_readable();
        }
    }

    /// Whether its batch is with the ticker.
    pub(crate) fn is_in_flight(&self) -> bool {
        self.batch.is_none()
    }

    /// When the client last ended a line or took a reply.
    pub(crate) fn active(&self) -> Monotonic {
        self.active
    }

    /// Whether it has replies to take.
    pub(crate) fn has_unsent(&self) -> bool {
        self.batch.as_ref().is_some_and(|batch| !batch.replies.unsent().is_empty())
    }

    /// Whether it has ended a line here.
    pub(crate) fn has_spoken(&self) -> bool {
        self.has_spoken
    }

    /// The user of the process that connected; `None` if the kernel does not tell.
    ///
    /// Not asked for before there is no place left, as every call costs.
    pub(crate) fn user(&mut self) -> Option<u32> {
        let ask = || socket_peercred(&self.stream).ok().map(|peer| peer.uid.as_raw());
        *self.user.get_or_insert_with(ask)
    }

    /// Whether it is to be closed for the length of a line.
    pub(crate) fn has_overrun(&self) -> bool {
        self.overrun.is_some()
    }

    /// Tells the client something that it did not ask for, if that can follow what it was sent.
    pub(crate) fn tell(&self, line: fmt::Arguments<'_>) {
        if !self.has_unsent() {
            // Whoever does not take it does not want to know.
            let _ = socket::send(&self.stream, format!("{line}\n").as_bytes());
        }
    }

    /// The batch is back from the ticker; whether its commands were carried out.
    ///
    /// Those that were not are as if they had never been read.
    pub(crate) fn answered(&mut self, mut batch: Box<Batch<S>>) -> bool {
        let is_carried_out = batch.count == 0;
        if !is_carried_out {
            batch.count = 0;
            self.input.start = self.input.first_command;
        }
        self.batch = Some(batch);
        is_carried_out
    }

    /// Sends of its replies what goes without waiting.
    pub(crate) fn send_answers(&mut self) {
        if let Some(mut batch) = self.batch.take() {
            _ = self.send(&mut batch.replies);
            self.batch = Some(batch);
        }
    }

    /// Gives up the connection, to whoever hands over on it, and with more than a client needs.
    pub(crate) fn into_stream(self) -> Async<UnixStream> {
        // It fails as rarely as it did when the buffer was made small.
        let _ = set_socket_send_buffer_size(&self.stream, channel::BUFFER / 2);
        self.stream
    }

    /// Sends, understands and reads as much as goes without waiting, with one read at the most.
    pub(crate) fn advance(&mut self) -> Next<S> {
        let Some(mut batch) = self.batch.take() else {
            return Next::Wait;
        };
        let mut has_read = false;
        loop {
            match self.send(&mut batch.replies) {
                Poll::Pending => break self.keep(batch, Next::Wait),
                Poll::Ready(false) => break Next::Close,
                Poll::Ready(true) if self.closing => {
                    let next = self.discard();
                    break self.keep(batch, next);
                }
                Poll::Ready(true) => {}
            }
            let unread = self.input.unread().len();
            let understood = understand(&mut self.input, &mut batch);
            if self.input.unread().len() < unread {
                self.has_spoken = true;
                self.active = clock::now();
            }
            match understood {
                Parsed::CarryOut => break Next::CarryOut(batch),
                Parsed::Status => break Next::Status(batch),
                Parsed::HandOver(asked) => break self.keep(batch, Next::HandOver(asked)),
                Parsed::SendFirst => continue,
                Parsed::Finished => {
                    self.closing = true;
                    continue;
                }
                Parsed::TooLong => {
                    self.closing = true;
                    self.overrun = Some(MAX_DISCARD);
                    continue;
                }
                Parsed::Nothing => {}
            }
            if has_read {
                // The others first.
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

    /// Sends all replies; false when the client is gone.
    fn send(&mut self, replies: &mut Replies) -> Poll<bool> {
        let mut context = Context::from_waker(&self.waker);
        while !replies.unsent().is_empty() {
            match socket::send(&self.stream, replies.unsent()) {
                Ok(count) if count > 0 => {
                    replies.sent(count);
                    self.active = clock::now();
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    // Ready where there was room meanwhile, which is to be tried at once.
                    if self.stream.poll_writable(&mut context).is_pending() {
                        return Poll::Pending;
                    }
                }
                Ok(_) | Err(_) => return Poll::Ready(false),
            }
        }
        Poll::Ready(true)
    }

    /// Reads once; false when the connection is broken.
    ///
    /// By MSG_DONTWAIT, as everything on a connection: O_NONBLOCK belongs to all who hold it, and a
    /// successor that was offered the client may have cleared it before it gave up.
    fn read(&mut self) -> Poll<bool> {
        let room = self.input.room();
        match recv(&self.stream, room, RecvFlags::DONTWAIT) {
            Ok((_, 0)) => {
                self.input.ended = true;
                Poll::Ready(true)
            }
            Ok((_, count)) => {
                self.input.end += count;
                Poll::Ready(true)
            }
            Err(Errno::WOULDBLOCK | Errno::INTR) => {
                self.wait_for_more();
                Poll::Pending
            }
            Err(_) => Poll::Ready(false),
        }
    }

    /// Has the session advanced when there may be more to read: soon, where that is likely.
    fn wait_for_more(&self) {
        if clock::now().nanos_since(self.active) < BUSY_POLL {
            // Where there is one processor, the client has it now.
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
}

impl<S: Service> Session<S> {
    /// Reads and throws away what follows a line that is too long, once, and then closes.
    ///
    /// A connection that is closed with something unread is reset, and `nc`, which is still writing,
    /// would not show why.
    fn discard(&mut self) -> Next<S> {
        let Some(left) = self.overrun else {
            return Next::Close;
        };
        if left == MAX_DISCARD {
            // Whoever reads to the end sees it now; it fails only where the client has gone.
            let _ = self.stream.get_ref().shutdown(Shutdown::Write);
        }
        (self.input.start, self.input.end) = (0, 0);
        match self.read() {
            Poll::Pending => Next::Wait,
            Poll::Ready(true) if !self.input.ended && self.input.end < left => {
                self.overrun = Some(left - self.input.end);
                self.wake();
                Next::Wait
            }
            Poll::Ready(_) => Next::Close,
        }
    }
}

impl<S: Service> AsFd for Session<S> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

/// What the bytes read so far come to.
enum Parsed {
    /// Commands of the state, in the batch.
    CarryOut,
    /// `status`, with all before it answered.
    Status,
    /// The request to hand over, with all before it answered.
    HandOver(HandoffRequest),
    /// Replies of the server's own, or no room for another: they are to be sent first.
    SendFirst,
    /// The client has sent all: what is in the batch is the last it is told.
    Finished,
    /// The same, for it sends a line that is too long.
    TooLong,
    /// No whole line.
    Nothing,
}

/// Takes lines off the input until the batch is full, or one must wait for what came before it.
fn understand<S: Service>(input: &mut Input, batch: &mut Batch<S>) -> Parsed {
    loop {
        let (line, taken) = match command::split_line(input.unread(), input.ended) {
            Framed::Line(line, taken) => (line, taken),
            Framed::Partial if batch.count > 0 => return Parsed::CarryOut,
            Framed::Partial if !batch.replies.unsent().is_empty() => return Parsed::SendFirst,
            Framed::Partial if input.ended => return Parsed::Finished,
            Framed::Partial => return Parsed::Nothing,
            Framed::TooLong if batch.count > 0 => return Parsed::CarryOut,
            Framed::TooLong if batch.replies.room() < own_reply::<S>() => {
                return Parsed::SendFirst;
            }
            Framed::TooLong => {
                write_line(&mut batch.replies, command::TOO_LONG);
                return Parsed::TooLong;
            }
        };
        match Command::<S>::parse(line) {
            Ok(Command::State(command)) => {
                if !batch.push(command) {
                    // Full of commands, or of replies of our own.
                    return if batch.count > 0 { Parsed::CarryOut } else { Parsed::SendFirst };
                }
                if batch.count == 1 {
                    input.first_command = input.start;
                }
            }
            _ if batch.count > 0 => return Parsed::CarryOut,
            _ if batch.replies.room() < own_reply::<S>() => return Parsed::SendFirst,
            Err(invalid) => write_line(&mut batch.replies, invalid),
            Ok(Command::Status) => {
                input.start += taken;
                return Parsed::Status;
            }
            Ok(Command::HandOver(_)) if !batch.replies.unsent().is_empty() => {
                return Parsed::SendFirst;
            }
            Ok(Command::HandOver(request)) => {
                let asked = request.into();
                input.start += taken;
                return Parsed::HandOver(asked);
            }
        }
        input.start += taken;
    }
}

fn write_line(replies: &mut Replies, line: impl fmt::Display) {
    let written = writeln!(replies, "{line}");
    debug_assert!(written.is_ok(), "room was made sure of");
}

#[cfg(test)]
mod tests {
    use super::*;
    use early_service_machine::{Counter, State, counter};
    use std::io::{Read, Write};
    use std::net::Shutdown;

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
    fn the_commands_of_one_read_travel_in_one_batch_and_in_order() {
        let (mut session, mut client) = connected();
        client.write_all(b"get_counter\nset_counter 5\nget_counter\nget_cou").expect("room");
        let (batch, _) = commands(session.advance());
        let get = counter::Command::Get;
        assert_eq!(batch, [get, counter::Command::Set(5), get]);
        assert!(session.is_in_flight());
    }

    #[test]
    fn a_line_of_the_servers_own_waits_for_the_replies_before_it() {
        let (mut session, mut client) = connected();
        client.write_all(b"get_counter\nnonsense\nget_counter\n").expect("room");
        let (_, mut batch) = commands(session.advance());
        write_line(&mut batch.replies, "137");
        session.answered(batch);
        let (batch, mut box_of_it) = commands(session.advance());
        assert_eq!(batch, [counter::Command::Get]);
        write_line(&mut box_of_it.replies, "138");
        session.answered(box_of_it);
        assert!(matches!(session.advance(), Next::Wait));
        let replies = read_available(&mut client);
        let lines: Vec<_> = replies.lines().map(|line| line.split(';').next()).collect();
        assert_eq!(lines, [Some("137"), Some("Invalid command: nonsense"), Some("138")]);
    }

    #[test]
    fn more_commands_than_a_batch_holds_follow_in_the_next() {
        let (mut session, mut client) = connected();
        client.write_all("get_counter\n".repeat(BATCH + 3).as_bytes()).expect("room");
        let (first, batch) = commands(session.advance());
        session.answered(batch);
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
        // Bounded by what the two socket buffers hold, which is far less.
        for _ in 0..100_000 {
            taken += client.write(&garbage).unwrap_or(0);
            assert!(matches!(session.advance(), Next::Wait));
            if session.has_unsent() {
                break;
            }
        }
        assert!(session.has_unsent(), "{taken} bytes were taken without a stop");
        let unread = session.input.unread().len();
        assert!(matches!(session.advance(), Next::Wait));
        assert_eq!(session.input.unread().len(), unread);
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
    fn the_end_of_input_ends_the_last_line_and_then_the_session() {
        let (mut session, mut client) = connected();
        client.write_all(b"get_counter").expect("room");
        client.shutdown(Shutdown::Write).expect("a socket can be half closed");
        while let Next::Wait = session.advance() {
            assert!(!session.is_in_flight());
        }
        assert!(session.is_in_flight(), "the last line was carried out");
        session.answered(Batch::new());
        assert!(matches!(session.advance(), Next::Close));
    }

    #[test]
    fn a_client_goes_on_in_another_session_where_it_was() {
        let (mut first, mut client) = connected();
        client.write_all(b"get_counter\nset_coun").expect("room");
        let (_, mut batch) = commands(first.advance());
        write_line(&mut batch.replies, "137");
        first.answered(batch);
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
    fn a_client_of_another_release_that_does_not_fit_is_refused() {
        let head = Client { input: 0, replies: 0, ended: false, closing: false };
        for (unread, unsent) in [(INPUT + 1, 0), (0, REPLIES + 1)] {
            let (session, _client) = connected();
            let (unread, unsent) = (vec![b'x'; unread], vec![b'x'; unsent]);
            assert!(Session::<Counter>::adopt(session.stream, head, &unread, &unsent).is_none());
        }
    }

    #[test]
    fn handing_over_waits_until_all_before_it_is_answered_and_sent() {
        let (mut session, mut client) = connected();
        let lines = format!("nonsense\nget_counter\n{}\n", Counter::HAND_OVER);
        client.write_all(lines.as_bytes()).expect("room");
        let (batch, mut box_of_it) = commands(session.advance());
        assert_eq!(batch, [counter::Command::Get]);
        write_line(&mut box_of_it.replies, "137");
        session.answered(box_of_it);
        assert!(matches!(
            session.advance(),
            Next::HandOver(HandoffRequest::Legacy(
                early_service_machine::wire::legacy::Legacy::Value
            ))
        ));
        assert!(read_available(&mut client).ends_with("\n137\n"));
    }
}
