// SPDX-License-Identifier: Apache-2.0
//! Channel: the connection to the other process, which carries lines and descriptors.
//!
//! Receives descriptors in the order in which they were sent. A plain read would drop them, and one
//! read may return several messages (unix(7)), so every read here receives both bytes and
//! descriptors, and queues the descriptors. The text of the messages contains their number.
//!
//! Owns the connection, the bytes that were read and not yet parsed, and the queued descriptors.
//! Every `async` function may be dropped at any point without losing a byte. Dropping the channel
//! closes the descriptors that were not taken.

use std::collections::VecDeque;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use early_service_machine::wire::framing::{Framed, split_line};
use early_service_machine::wire::manifest::MAX_DESCRIPTORS;
use futures_lite::future;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::sockopt::socket_peercred;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use smol::{Async, Timer};

use crate::platform::socket;

/// The most descriptors that the kernel allows in one message (`SCM_MAX_FD`). The kernel drops
/// descriptors that do not fit the buffer, and a predecessor of another release may send more in
/// one message than this release does.
const SCM_MAX_FD: usize = 253;

/// The buffer for bytes that were not yet parsed: several of the largest clients, with their lines.
pub(crate) const INPUT: usize = 16 * 1024;

/// The send buffer of the connection that carries the state, in bytes: the kernel's default
/// (`net.core.wmem_default`). The connection of a client has less. Too small: messages do not fit
/// before the other side reads (see [`Peer::send`]).
pub(crate) const BUFFER: usize = 208 * 1024;

/// The pause after an error that may be temporary. Longer: the handoff takes longer. Shorter: a
/// shortage keeps the processor busy.
const TRY_AGAIN: Duration = Duration::from_millis(10);

/// How often the last line is tried. There is no later read that could send it.
const LAST_TRIES: usize = 3;

/// How many bytes of a line that is too long are logged: enough to recognize it.
const SHOWN: usize = 64;

/// The other process.
pub(crate) struct Peer {
    stream: Async<UnixStream>,
    input: Box<[u8; INPUT]>,
    start: usize,
    end: usize,
    /// Whether the other side has closed the connection.
    ended: bool,
    descriptors: VecDeque<OwnedFd>,
    /// Whether descriptors are closed as they arrive, because none is expected.
    takes_none: bool,
    /// Whether the kernel dropped descriptors that did not fit (MSG_CTRUNC in recvmsg(2)).
    has_lost_descriptors: bool,
    /// Lines that could not be sent yet: at most a few short ones.
    unsent: Vec<u8>,
}

/// A line, or the reason why there is none.
pub(crate) enum Line<'a> {
    Whole(&'a [u8]),
    /// Longer than any line of a handoff; contains its beginning.
    TooLong(&'a [u8]),
    /// The connection has ended, and everything was parsed.
    End,
}

impl Peer {
    pub(crate) fn new(stream: Async<UnixStream>) -> Self {
        Self {
            stream,
            input: Box::new([0; INPUT]),
            start: 0,
            end: 0,
            ended: false,
            descriptors: VecDeque::new(),
            takes_none: false,
            has_lost_descriptors: false,
            unsent: Vec::new(),
        }
    }

    /// A peer that has no reason to send descriptors: any that it sends are closed at once.
    pub(crate) fn without_descriptors(stream: Async<UnixStream>) -> Self {
        Self { takes_none: true, ..Self::new(stream) }
    }

    pub(crate) fn stream(&self) -> &Async<UnixStream> {
        &self.stream
    }

    /// The connection, when nothing was received that is not parsed.
    pub(crate) fn into_stream(self) -> Async<UnixStream> {
        self.stream
    }

    /// The process at the other end, or the one that called listen(2) for it (`SO_PEERCRED` in
    /// unix(7)).
    pub(crate) fn pid(&self) -> Option<i32> {
        socket_peercred(&self.stream).ok().map(|peer| peer.pid.as_raw_nonzero().get())
    }

    pub(crate) async fn line(&mut self) -> Line<'_> {
        let (from, to) = loop {
            match split_line(self.unread()) {
                Framed::Line(line, taken) => {
                    let (from, to) = (self.start, self.start + line.len());
                    self.start += taken;
                    break (from, to);
                }
                Framed::TooLong => {
                    let from = std::mem::replace(&mut self.start, self.end);
                    return Line::TooLong(self.input.get(from..from + SHOWN).unwrap_or_default());
                }
                Framed::Partial if self.ended => return Line::End,
                Framed::Partial => self.read().await,
            }
        };
        Line::Whole(self.input.get(from..to).unwrap_or_default())
    }

    /// Waits for `count` bytes. Returns `None` if the connection ends first or the buffer is
    /// smaller.
    pub(crate) async fn wait_for(&mut self, count: usize) -> Option<()> {
        while self.unread().len() < count {
            if self.ended || count > INPUT {
                return None;
            }
            self.read().await;
        }
        Some(())
    }

    /// Takes `count` bytes that have arrived.
    pub(crate) fn take(&mut self, count: usize) -> &[u8] {
        let from = self.start;
        self.start = self.end.min(from + count);
        self.input.get(from..self.start).unwrap_or_default()
    }

    /// Takes one byte that has arrived, if it is 0.
    pub(crate) fn take_nul(&mut self) -> bool {
        let is_nul = self.unread().first() == Some(&0);
        self.start += usize::from(is_nul);
        is_nul
    }

    fn unread(&self) -> &[u8] {
        self.input.get(self.start..self.end).unwrap_or_default()
    }

    /// Takes the next descriptor in the order of sending.
    pub(crate) fn descriptor(&mut self) -> Option<OwnedFd> {
        self.descriptors.pop_front()
    }

    pub(crate) fn has_lost_descriptors(&self) -> bool {
        self.has_lost_descriptors
    }

    /// Closes every descriptor that was not taken.
    pub(crate) fn discard_descriptors(&mut self) {
        self.descriptors.clear();
    }

    /// Reads once, and meanwhile sends lines that could not be sent before. Only an error that
    /// means the end of the connection is treated as the end. After any other error the peer may
    /// still run and be the owner.
    async fn read(&mut self) {
        self.input.copy_within(self.start..self.end, 0);
        (self.start, self.end) = (0, self.end - self.start);
        loop {
            // If this fails, the next read finds the end of the connection.
            let _ = self.send_on();
            let Self { stream, input, end, descriptors, has_lost_descriptors, unsent, .. } = self;
            let room = input.get_mut(*end..).unwrap_or_default();
            let read = stream
                .read_with(|stream| receive(stream, room, descriptors).map_err(io::Error::from));
            let send_again = async {
                if unsent.is_empty() {
                    future::pending::<()>().await;
                }
                Timer::after(TRY_AGAIN).await;
                None
            };
            match future::or(async { Some(read.await) }, send_again).await {
                None => {}
                Some(Ok((count, is_whole))) => {
                    *end += count;
                    *has_lost_descriptors |= !is_whole;
                    self.ended = count == 0;
                    break;
                }
                Some(Err(error)) if is_end(&error) => {
                    self.ended = true;
                    break;
                }
                Some(Err(_)) => _ = Timer::after(TRY_AGAIN).await,
            }
        }
        if self.takes_none {
            self.descriptors.clear();
        }
    }

    /// Whether the socket accepts a line at once.
    fn has_room(&self) -> bool {
        let mut socket = [PollFd::new(&self.stream, PollFlags::OUT)];
        poll(&mut socket, Some(&Timespec::default())) != Ok(0)
    }

    /// Sends a short line at once, or, if the kernel has no memory for it now, while the peer's
    /// next line is awaited.
    ///
    /// The buffer has room for it: at most a quarter of it and one message are in use (see
    /// [`Peer::send`]).
    ///
    /// # Errors
    ///
    /// If the connection has ended.
    pub(crate) fn say(&mut self, line: &str) -> io::Result<()> {
        self.unsent.extend_from_slice(line.as_bytes());
        self.unsent.push(b'\n');
        self.send_on()
    }

    /// Sends a short line at once or not at all, because no later read could send it.
    pub(crate) fn say_last(&self, line: &str) -> io::Result<()> {
        let line = format!("{line}\n");
        for _ in 0..LAST_TRIES {
            match send(&self.stream, line.as_bytes(), &[]) {
                Ok(sent) if sent == line.len() => return Ok(()),
                Ok(_) => break,
                Err(error) if is_end(&error) => return Err(error),
                Err(_) => {}
            }
        }
        Err(io::ErrorKind::WriteZero.into())
    }

    /// Sends as much as possible of the lines that could not be sent before.
    fn send_on(&mut self) -> io::Result<()> {
        while !self.unsent.is_empty() {
            match send(&self.stream, &self.unsent, &[]) {
                Ok(count) => _ = self.unsent.drain(..count),
                Err(error) if is_end(&error) => {
                    self.unsent.clear();
                    return Err(error);
                }
                Err(_) => break,
            }
        }
        Ok(())
    }

    /// Waits for room, and sends as much of `bytes` as fits, with all of `descriptors`.
    ///
    /// A UNIX socket is writable while at most a quarter of its buffer is in use (`unix_writable`
    /// in the kernel's net/unix/af_unix.c). Each message is smaller than another quarter. So even
    /// if the other side reads nothing, there is room for the line that withdraws an offer.
    pub(crate) async fn send(
        &self,
        bytes: &[u8],
        descriptors: &[BorrowedFd<'_>],
    ) -> io::Result<usize> {
        if !self.has_room() {
            self.stream.writable().await?;
        }
        send(&self.stream, bytes, descriptors)
    }
}

/// Whether this error means that the peer has closed the connection; ECONNRESET if it left bytes
/// unread.
fn is_end(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionReset, NotConnected};
    matches!(error.kind(), ConnectionReset | BrokenPipe | NotConnected)
}

/// Receives bytes and descriptors; also returns whether every descriptor was received.
fn receive(
    stream: impl AsFd,
    room: &mut [u8],
    descriptors: &mut VecDeque<OwnedFd>,
) -> rustix::io::Result<(usize, bool)> {
    // Credentials come first if PID 1 or the other side has set SO_PASSCRED (unix(7)).
    let mut space =
        [MaybeUninit::uninit(); rustix::cmsg_space!(ScmCredentials(1), ScmRights(SCM_MAX_FD))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
    let received = recvmsg(stream, &mut [IoSliceMut::new(room)], &mut control, flags)?;
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(received) = message {
            descriptors.extend(received);
        }
    }
    Ok((received.bytes, !received.flags.contains(ReturnFlags::CTRUNC)))
}

/// Sends bytes and descriptors without waiting.
pub(crate) fn send(
    stream: impl AsFd,
    bytes: &[u8],
    descriptors: &[BorrowedFd<'_>],
) -> io::Result<usize> {
    if descriptors.is_empty() {
        return socket::send(stream, bytes);
    }
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !control.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
    Ok(sendmsg(stream, &[IoSlice::new(bytes)], &mut control, flags)?)
}

/// Sends a last line to a peer that does not receive the state, and ends the connection. Shuts it
/// down, because a predecessor that has not left yet may hold a copy of the connection.
pub(crate) fn refuse(stream: &Async<UnixStream>, answer: &str) {
    // If the peer does not read it, the end of the connection also shows the refusal.
    let _ = send(stream, format!("{answer}\n").as_bytes(), &[]);
    let _ = stream.get_ref().shutdown(Shutdown::Both);
}
