// SPDX-License-Identifier: Apache-2.0
//! Example of a service on a bus: answers CAN frames from the initrd to power-off.
//!
//! Each request, a data frame with ID 0x123, gets one answer: ID 0x124 with the same data. The
//! socket travels, and with it the requests that nobody has read yet. So no request is lost in a
//! handoff, or while PID 1 keeps the socket and restarts the service. `$CAN_INTERFACE` names the
//! interface, by default `can0`; it must be up.

use std::convert::Infallible;
use std::fmt::{self, Formatter};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use can_socket::{CanFilter, CanFrame, CanSocket, StandardId, standard_id};
use early_service::device::{Device, Kind, Monotonic, Need, Port};
use early_service::{Fields, MissingField, Service, State};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::sockopt::set_socket_send_buffer_size;
use smol::Async;

const REQUEST: StandardId = standard_id!(0x123);
const ANSWER: StandardId = standard_id!(0x124);

/// How many frames were answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Frames(u64);

impl State for Frames {
    /// How many answers were sent: a command of the responder, and of no client.
    type Command = u64;
    type Reply = u64;
    const NAME: &'static str = "early-can";
    fn read(fields: Fields<'_>) -> Result<Self, MissingField> {
        fields.number("frames").map(Self)
    }
    fn write_fields(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "frames={}", self.0)
    }
    fn apply(&mut self, sent: u64) -> u64 {
        self.0 = self.0.saturating_add(sent);
        self.0
    }
}

impl Service for Frames {
    const ABOUT: &'static str = "Answers CAN frames from the initrd to power-off.";
    const DESCRIPTORS: &'static str = "can";
}

/// The bound socket.
struct Responder(CanSocket);

impl Device for Responder {
    type Service = Frames;
    type Luggage = File;
    /// `AF_CAN` and `SOCK_RAW`.
    const KINDS: &'static [Kind] = &[Kind::Socket(29, 3)];

    async fn acquire(_: Need, port: &Port<Frames>) -> io::Result<File> {
        let socket = CanSocket::bind(port.setting("CAN_INTERFACE", "can0")?)?;
        socket.set_filters(&[CanFilter::new_standard(REQUEST).match_exact_id()])?;
        // The minimum. It has room for fewer frames than the queue of an interface, so that
        // `writable` waits; otherwise `send` would fail when that queue is full.
        set_socket_send_buffer_size(&socket, 0)?;
        Ok(OwnedFd::from(socket).into())
    }

    fn thaw(socket: File, _: &Frames, _: Monotonic) -> Self {
        Self(OwnedFd::from(socket).into())
    }

    /// Answers requests until the socket fails.
    ///
    /// Reading takes a request out of the queue, so no successor can answer it again. Between
    /// reading and answering there is no `.await`: a handoff cannot come between, only a kill, which
    /// loses this one request. The count follows, because [`Port::apply`] is an `.await`.
    async fn run(&mut self, port: &Port<Frames>) -> io::Result<Infallible> {
        let socket = Async::new(self.0.as_fd())?;
        loop {
            // Most often there is room, and waiting for it would take two turns of the reactor.
            if poll(&mut [PollFd::new(&self.0, PollFlags::OUT)], Some(&Timespec::default()))? == 0 {
                socket.writable().await?;
            }
            let request = socket.read_with(|_| self.0.recv()).await?;
            // The filter has not seen what arrived before it was set.
            let Some(data) = request.data().filter(|_| request.id() == REQUEST) else { continue };
            self.0.send(&CanFrame::new(ANSWER, data))?;
            port.apply(1).await;
        }
    }

    fn freeze(self) -> File {
        OwnedFd::from(self.0).into()
    }
}

early_service::main!(Frames, with: Responder);
