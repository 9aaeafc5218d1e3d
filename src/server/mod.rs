// SPDX-License-Identifier: Apache-2.0
//! Server: accepts clients and carries lines between them and the ticker.
//!
//! Responsible for connections and their limits, for fairness between clients, and for stopping all
//! sessions before the sockets are handed over. Owns the listeners and every session while it
//! serves. Never knows what a command means: batches go to the ticker and return as text. Ends when
//! it is told to leave and every batch has returned.
//!
//! **Invariant:** at most [`IN_FLIGHT`] batches are in flight to the ticker; each returns.
//!
//! **Invariant:** while the gate is closed, nothing is accepted, read or written, because another
//! actor or process has the sockets.

mod accept;
pub(crate) mod batch;
mod eviction;
mod floods;
pub(crate) mod input;
pub(crate) mod limits;
pub(crate) mod listener;
pub(crate) mod session;
mod slots;
mod turn;

use std::future::pending;
use std::rc::Rc;
use std::time::Duration;

use async_channel::{Receiver, Sender};
use early_service_machine::schedule::Monotonic;
use futures_lite::future;
use smol::Timer;

use crate::cli::Stage;
use crate::handoff::bundle::Bundle;
use crate::journal::message_id::Id;
use crate::journal::rate_limit::RateLimit;
use crate::messages::{IN_FLIGHT, OfDevice, ToDevice, ToHandoff, ToServer, ToTicker, post};
use crate::platform::clock;
use crate::server::floods::Floods;
use crate::server::limits::CloseLog;
use crate::server::listener::keep::NameCheck;
use crate::server::listener::{Listener, next_connection};
use crate::server::session::Session;
use crate::server::slots::Slots;
use crate::service::Service;
use crate::status::Status;

/// How often the time limits of clients are checked, while there are clients. Shorter: wakes an
/// idle process more often. Longer: clients are closed later than their limit.
pub(crate) const SWEEP: Duration = Duration::from_secs(1);

/// How often the names of the listeners are checked. Shorter: wakes an idle process more often.
/// Longer: clients fail for longer after a name is gone.
const CHECK_NAMES: Duration = Duration::from_secs(2);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Gate {
    /// Another actor or process has the sockets.
    Closed,
    Open,
    /// To be closed when no batch is in flight.
    Freezing,
    /// To leave when no batch is in flight.
    Leaving,
}

pub(crate) struct Server<S: Service> {
    mailbox: Receiver<ToServer<S>>,
    ticker: Sender<ToTicker<S>>,
    handoff: Sender<ToHandoff<S>>,
    /// Stops before the ticker does.
    device: OfDevice<S, Sender<ToDevice<S>>>,
    stage: Stage,
    status: Rc<Status>,
    listeners: Vec<Listener>,
    gate: Gate,
    slots: Slots<S>,
    /// The number of slots, without the reserve.
    capacity: usize,
    /// How many batches are with the ticker.
    in_flight: usize,
    /// Whether the ticker carries out no commands until it has caught up.
    is_behind: bool,
    /// Whether a new client precedes a ready session at the next turn.
    accept_first: bool,
    /// The listener that is polled first for the next client.
    next_listener: usize,
    sweep: Timer,
    check_names: Timer,
    /// Set while accepting pauses.
    resume_accepting: Timer,
    close_log: CloseLog,
    floods: Floods,
    /// Limits the log lines about the listeners' names.
    names: RateLimit,
    /// Limits the log lines about clients that cannot be accepted.
    shortage: RateLimit,
}

enum Event<S: Service> {
    Message(ToServer<S>),
    /// A client connected to the listener of this number.
    Connection(usize),
    /// The session in this slot can continue.
    Ready(usize),
    Sweep,
    CheckNames,
    ResumeAccepting,
}

impl<S: Service> Server<S> {
    pub(crate) fn new(
        mailbox: Receiver<ToServer<S>>,
        ticker: Sender<ToTicker<S>>,
        handoff: Sender<ToHandoff<S>>,
        device: OfDevice<S, Sender<ToDevice<S>>>,
        stage: Stage,
        status: Rc<Status>,
    ) -> Self {
        Self {
            mailbox,
            ticker,
            handoff,
            device,
            stage,
            status,
            listeners: Vec::new(),
            gate: Gate::Closed,
            slots: Slots::new(),
            capacity: limits::clients(),
            in_flight: 0,
            is_behind: false,
            accept_first: false,
            next_listener: 0,
            sweep: Timer::never(),
            check_names: Timer::never(),
            resume_accepting: Timer::never(),
            close_log: CloseLog::default(),
            floods: Floods::default(),
            names: RateLimit::explained(Id::SocketNameGone),
            shortage: RateLimit::default(),
        }
    }

    pub(crate) async fn run(mut self) {
        while let Some(event) = self.next_event().await {
            self.handle(event, clock::now());
            if self.gate == Gate::Leaving && self.in_flight == 0 {
                // The ticker carries out no batch after this message.
                return match self.device.get() {
                    Some(device) => post(device, ToDevice::Leave),
                    None => post(&self.ticker, ToTicker::Leave),
                };
            }
            // A tick waits for at most one turn, however busy the clients are.
            future::yield_now().await;
        }
    }

    /// Waits for the next event; `None` when no actor can send any more.
    ///
    /// Priorities while the gate is open:
    ///
    /// 1. messages, so that a freeze and replies do not wait for clients,
    /// 2. timers,
    /// 3. new clients and ready sessions, which alternate, so that neither starves the other. Ready
    ///    sessions wait while [`IN_FLIGHT`] batches are with the ticker.
    ///
    /// While it is not open, only messages are received.
    async fn next_event(&mut self) -> Option<Event<S>> {
        let message = async { self.mailbox.recv().await.ok().map(Event::Message) };
        if self.gate != Gate::Open {
            return message.await;
        }
        let (is_pausing, is_full) =
            (self.resume_accepting.will_fire(), self.in_flight >= IN_FLIGHT);
        let connection = async {
            if is_pausing {
                pending::<()>().await;
            }
            let listener = next_connection(&self.listeners, self.next_listener).await;
            Some(Event::Connection(listener))
        };
        let ready = async {
            if is_full {
                pending::<()>().await;
            }
            self.slots.next_ready().await.map(Event::Ready)
        };
        let timers = async {
            let sweep = async {
                (&mut self.sweep).await;
                Some(Event::Sweep)
            };
            let resume_accepting = async {
                (&mut self.resume_accepting).await;
                Some(Event::ResumeAccepting)
            };
            let check_names = async {
                (&mut self.check_names).await;
                Some(Event::CheckNames)
            };
            future::or(sweep, future::or(check_names, resume_accepting)).await
        };
        let clients = async {
            if self.accept_first {
                future::or(connection, ready).await
            } else {
                future::or(ready, connection).await
            }
        };
        future::or(message, future::or(timers, clients)).await
    }

    fn handle(&mut self, event: Event<S>, now: Monotonic) {
        match event {
            Event::Message(ToServer::Listen(listeners, sessions)) => {
                self.open_gate(listeners, sessions);
            }
            Event::Message(ToServer::Freeze) => {
                self.gate = Gate::Freezing;
                self.freeze_when_quiet();
            }
            Event::Message(ToServer::PredecessorLeft) => {
                self.drain_inherited();
                self.keep_names(true);
            }
            Event::Message(ToServer::BatchDone { slot, batch }) => {
                self.in_flight -= 1;
                self.batch_done(slot, batch);
                self.freeze_when_quiet();
            }
            Event::Message(ToServer::CaughtUp) => {
                self.is_behind = false;
                self.slots.ticks_caught_up();
            }
            Event::Message(ToServer::Resume(session)) => {
                // If no client can be closed, it takes a slot that is otherwise never used.
                let _ = self.has_slot();
                let slot = self.place(session);
                self.advance(slot);
            }
            Event::Message(ToServer::Leave) => self.gate = Gate::Leaving,
            Event::Connection(listener) => {
                self.accept_first = false;
                self.next_listener = listener + 1;
                self.accept(listener);
            }
            Event::Ready(slot) => {
                self.accept_first = true;
                self.slots.begin_turn(slot);
                self.advance(slot);
            }
            Event::Sweep => self.close_expired(now),
            Event::CheckNames => self.keep_names(false),
            Event::ResumeAccepting => self.resume_accepting.clear(),
        }
    }

    /// Takes the listeners, and the sessions that were handed over.
    #[allow(clippy::vec_box, reason = "as in the bundle")]
    fn open_gate(&mut self, listeners: Vec<Listener>, sessions: Vec<Box<Session<S>>>) {
        self.gate = Gate::Open;
        self.is_behind = false;
        self.listeners = listeners;
        self.check_names.set_interval(CHECK_NAMES);
        self.listeners.iter_mut().for_each(Listener::settle);
        self.keep_names(false);
        for listener in &self.listeners {
            if !listener.is_inherited() && !listener.is_lost() {
                log::info!("Listening on UNIX socket {}", listener.path().display());
            }
        }
        for session in sessions {
            let slot = self.place(session);
            // The waker was not called for bytes that the client has sent or read meanwhile.
            if let Some(session) = self.slots.get_mut(slot) {
                session.wake();
            }
        }
    }

    /// Checks the name of every listener, and logs the results.
    fn keep_names(&mut self, is_alone: bool) {
        for listener in &mut self.listeners {
            match listener.keep_name(is_alone) {
                NameCheck::Valid | NameCheck::Lost(None) => {}
                NameCheck::Rebound => self.names.warn(format_args!(
                    "The name of the socket {} was gone: bound it again",
                    listener.path().display()
                )),
                NameCheck::Lost(Some(line)) => {
                    log::error!(MESSAGE_ID = Id::SocketNameGone; "{line}");
                }
            }
        }
        self.status.is_unreachable.set(self.listeners.iter().any(Listener::is_lost));
    }

    /// If the server is to freeze and no batch is in flight, gives all sockets to the ticker, which
    /// freezes with them.
    fn freeze_when_quiet(&mut self) {
        if self.gate != Gate::Freezing || self.in_flight > 0 {
            return;
        }
        self.gate = Gate::Closed;
        self.status.clients.set(0);
        self.sweep.clear();
        self.check_names.clear();
        self.resume_accepting.clear();
        let bundle = Bundle {
            listeners: std::mem::take(&mut self.listeners),
            sessions: self.slots.drain().collect(),
            ..Bundle::default()
        };
        match self.device.get() {
            Some(device) => post(device, ToDevice::Freeze(bundle)),
            None => post(&self.ticker, ToTicker::Freeze(bundle)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::handoff::request::HandoffRequest;
    use crate::server::batch::Batch;
    use crate::server::limits::IDLE_TIMEOUT;
    use early_service_machine::wire::legacy::Legacy;
    use early_service_machine::{Counter, counter};
    use std::fmt::Write as _;
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;
    use std::{env, process};

    /// A server that listens, with the far ends of its mailboxes.
    struct Bench {
        server: Server<Counter>,
        _mailbox: Sender<ToServer<Counter>>,
        ticker: Receiver<ToTicker<Counter>>,
        handoff: Receiver<ToHandoff<Counter>>,
    }

    impl Bench {
        fn new(test: &str) -> Self {
            let socket = format!("early-service-{}-{test}.sock", process::id());
            let listener = Listener::bind(&env::temp_dir().join(socket)).expect("a scratch socket");
            let (_mailbox, mailbox) = async_channel::bounded(1);
            let (to_ticker, ticker) = async_channel::bounded(IN_FLIGHT + 2);
            let (to_handoff, handoff) = async_channel::bounded(1);
            let mut server = Server::new(
                mailbox,
                to_ticker,
                to_handoff,
                OfDevice::new(None),
                Stage::Root,
                Rc::default(),
            );
            let listen = ToServer::Listen(vec![listener], Vec::new());
            server.handle(Event::Message(listen), clock::now());
            Self { server, _mailbox, ticker, handoff }
        }

        /// A client in the next free slot.
        fn client(&mut self) -> UnixStream {
            let (ours, client) = UnixStream::pair().expect("a socket pair");
            client.set_nonblocking(true).expect("a socket can be nonblocking");
            self.server.open(ours);
            client
        }

        fn send(&mut self, message: ToServer<Counter>) {
            self.server.handle(Event::Message(message), clock::now());
        }

        fn wake(&mut self, slot: usize) {
            self.server.handle(Event::Ready(slot), clock::now());
        }

        /// The batch that the ticker got, and its slot.
        fn batch(&mut self) -> (usize, Box<Batch<Counter>>) {
            match self.ticker.try_recv() {
                Ok(ToTicker::CarryOut { slot, batch }) => (slot, batch),
                _ => panic!("the ticker got no batch"),
            }
        }
    }

    fn read(client: &mut UnixStream) -> String {
        let mut reply = [0; 256];
        let count = client.read(&mut reply).unwrap_or(0);
        String::from_utf8_lossy(&reply[..count]).into_owned()
    }

    fn is_closed(client: &mut UnixStream) -> bool {
        matches!(client.read(&mut [0]), Ok(0))
    }

    #[test]
    fn freezing_waits_for_every_batch_then_nothing_moves() {
        let mut bench = Bench::new("freeze");
        let (mut one, mut other) = (bench.client(), bench.client());
        one.write_all(b"get_counter\n").expect("room");
        bench.wake(0);
        let (slot, mut batch) = bench.batch();
        assert_eq!(slot, 0);
        bench.send(ToServer::Freeze);
        assert!(bench.ticker.try_recv().is_err(), "a batch is still under way");

        assert_eq!(batch.take_commands().count(), 1);
        writeln!(batch.replies, "137").expect("room");
        bench.send(ToServer::BatchDone { slot, batch });
        let Ok(ToTicker::Freeze(bundle)) = bench.ticker.try_recv() else {
            panic!("the sockets go to the ticker")
        };
        other.write_all(b"get_counter\n").expect("room");
        bench.wake(1);
        assert!(bench.ticker.try_recv().is_err(), "nothing is read while frozen");
        assert_eq!(read(&mut one), "", "nothing is written while frozen");

        assert_eq!((bundle.listeners.len(), bundle.sessions.len()), (1, 2));
        bench.send(ToServer::Listen(bundle.listeners, bundle.sessions));
        while let Some(slot) = bench.server.slots.take_ready() {
            bench.wake(slot);
        }
        assert_eq!(read(&mut one), "137\n");
        assert_eq!(bench.batch().0, 1, "what came while frozen is read afterwards");
    }

    #[test]
    fn returned_commands_wait_until_the_ticker_has_caught_up() {
        let mut bench = Bench::new("behind");
        let (mut one, mut other, mut third) = (bench.client(), bench.client(), bench.client());
        one.write_all(b"nonsense\nget_counter\nset_counter 5\nget_cou").expect("room");
        bench.wake(0);
        let (slot, batch) = bench.batch();
        bench.send(ToServer::BatchDone { slot, batch });
        assert!(read(&mut one).starts_with("Invalid command: nonsense;"));
        other.write_all(b"nonsense\nget_counter\n").expect("room");
        bench.wake(1);
        assert!(bench.ticker.try_recv().is_err(), "the ticker would send it back");
        assert!(read(&mut other).starts_with("Invalid command: nonsense;"));
        third.write_all(b"status\n").expect("room");
        bench.wake(2);
        let (slot, mut batch) = bench.batch();
        assert!(batch.status, "this one is answered at once");
        batch.status = false;
        bench.send(ToServer::BatchDone { slot, batch });
        while bench.server.slots.take_ready().is_some() {}

        bench.send(ToServer::CaughtUp);
        assert_eq!(
            [bench.server.slots.take_ready(), bench.server.slots.take_ready()],
            [Some(0), Some(1)]
        );
        bench.wake(0);
        let (slot, batch) = bench.batch();
        bench.send(ToServer::BatchDone { slot, batch });
        // After a freeze they travel as if they had never been read.
        bench.send(ToServer::Freeze);
        let Ok(ToTicker::Freeze(bundle)) = bench.ticker.try_recv() else {
            panic!("the sockets go to the ticker")
        };
        let unread = bundle.sessions.iter().map(|session| session.parts().1.to_vec());
        let unread: Vec<_> = unread.map(|bytes| String::from_utf8(bytes).expect("text")).collect();
        assert_eq!(unread, ["get_counter\nset_counter 5\nget_cou", "get_counter\n", ""]);
        bench.send(ToServer::Listen(bundle.listeners, bundle.sessions));
        while bench.server.slots.take_ready().is_some() {}
        bench.wake(0);
        let commands: Vec<_> = bench.batch().1.take_commands().collect();
        let (get, set) = (counter::Command::Get, counter::Command::Set(5));
        assert_eq!(commands, [get, set]);
    }

    #[test]
    fn leaving_answers_commands_in_flight_and_reads_no_more() {
        let mut bench = Bench::new("leave");
        let (mut one, mut other) = (bench.client(), bench.client());
        one.write_all(b"get_counter\n").expect("room");
        bench.wake(0);
        let (slot, mut batch) = bench.batch();
        bench.send(ToServer::Leave);
        other.write_all(b"get_counter\n").expect("room");
        bench.wake(1);
        assert!(bench.ticker.try_recv().is_err(), "nothing more is read");
        assert_eq!(batch.take_commands().count(), 1);
        writeln!(batch.replies, "137").expect("room");
        bench.send(ToServer::BatchDone { slot, batch });
        assert_eq!(read(&mut one), "137\n");
        assert_eq!((bench.server.gate, bench.server.in_flight), (Gate::Leaving, 0));
    }

    #[test]
    fn a_busy_client_lets_others_go_first() {
        let mut bench = Bench::new("turns");
        let mut busy = bench.client();
        busy.write_all(b"get_counter\n").expect("room");
        bench.wake(0);
        let (slot, mut batch) = bench.batch();
        assert_eq!(batch.take_commands().count(), 1);
        writeln!(batch.replies, "137").expect("room");
        busy.write_all(b"get_counter\n").expect("room");
        bench.send(ToServer::BatchDone { slot, batch });
        assert!(bench.ticker.try_recv().is_err(), "its next command waits for its turn");
        assert_eq!(read(&mut busy), "137\n", "its answer does not");
        let ready = future::block_on(bench.server.slots.next_ready());
        assert_eq!(ready, Some(0), "and it gets one");
        bench.wake(0);
        assert_eq!(bench.batch().0, 0);
    }

    #[test]
    fn one_client_too_many_closes_the_longest_idle_one() {
        let mut bench = Bench::new("idle");
        let (mut first, mut second) = (bench.client(), bench.client());
        for (slot, client) in [(1, &mut second), (0, &mut first)] {
            client.write_all(b"nonsense\n").expect("room");
            bench.wake(slot);
            assert!(read(client).starts_with("Invalid command"));
        }
        assert!(bench.server.close_longest_idle());
        assert!(read(&mut second).starts_with("Closing: more than "), "it was silent longer");
        assert!(is_closed(&mut second));
        assert!(!is_closed(&mut first));
    }

    #[test]
    fn a_new_client_has_time_for_its_first_line() {
        let mut bench = Bench::new("new");
        let mut client = bench.client();
        assert!(!bench.server.close_longest_idle());
        client.write_all(b"half a line").expect("room");
        bench.wake(0);
        assert!(!bench.server.close_longest_idle(), "it is still at its first");
        client.write_all(b"\n").expect("room");
        bench.wake(0);
        assert!(bench.server.close_longest_idle());
        assert!(read(&mut client).starts_with("Invalid command: half a line;"));
        assert!(is_closed(&mut client));
    }

    #[test]
    fn an_idle_client_is_closed_after_its_limit() {
        let mut bench = Bench::new("silence");
        let mut client = bench.client();
        let opened = clock::now().as_nanos();
        let after = |limit: Duration| Monotonic::from_nanos(opened + limit.as_nanos() as u64);
        bench.server.handle(Event::Sweep, after(IDLE_TIMEOUT - SWEEP));
        assert!(!is_closed(&mut client));
        bench.server.handle(Event::Sweep, after(IDLE_TIMEOUT + SWEEP));
        assert_eq!(read(&mut client), "Closing: no command for 3600 s\n");
        assert!(is_closed(&mut client));
        assert!(!bench.server.sweep.will_fire(), "nobody is left to look for");
    }

    #[test]
    fn a_request_for_the_state_takes_its_connection_along() {
        let mut bench = Bench::new("asker");
        let mut client = bench.client();
        client.write_all(b"get_counter_and_terminate\n").expect("room");
        bench.wake(0);
        assert_eq!(bench.server.slots.len(), 0);
        let asked = bench.handoff.try_recv();
        assert!(matches!(
            asked,
            Ok(ToHandoff::Requested(_, HandoffRequest::Legacy(Legacy::Value), _))
        ));
        assert!(!is_closed(&mut client), "the connection is kept by the message");
        drop(asked);
        assert!(is_closed(&mut client));
    }

    #[test]
    fn the_ticker_completes_the_status_line_of_the_server() {
        let mut bench = Bench::new("status");
        let mut client = bench.client();
        client.write_all(b"status\n").expect("room");
        bench.wake(0);
        let (_, batch) = bench.batch();
        let line = String::from_utf8_lossy(batch.replies.pending()).into_owned();
        assert!(line.starts_with("stage=root phase="), "{line}");
        assert!(line.contains(&format!(" pid={} version=", process::id())), "{line}");
        assert!(line.contains(" clients=1 log_lines_dropped="), "{line}");
        assert!(line.ends_with(' ') && batch.status, "{line}");
    }

    /// The allocations of this thread for `count` calls of `once`, and those of them that stay.
    fn allocated(count: usize, mut once: impl FnMut()) -> (u64, i64) {
        let all = allocation_counter::measure(|| (0..count).for_each(|_| once()));
        (all.count_total, all.count_current)
    }

    #[test]
    fn commands_allocate_nothing() {
        let mut bench = Bench::new("allocations");
        let mut client = bench.client();
        let mut replies = [0; 8192];
        for (line, at_once) in [
            ("get_counter\n", 1),
            ("set_counter 18446744073709551615\n", 1),
            ("status\n", 1),
            ("nonsense\n", 1),
            ("get_counter\n", 64),
            ("nonsense\n", 20),
        ] {
            let lines = line.repeat(at_once);
            let mut ask = || {
                client.write_all(lines.as_bytes()).expect("room");
                let mut answered = 0;
                while answered < at_once {
                    bench.wake(0);
                    if let Ok(ToTicker::CarryOut { slot, mut batch }) = bench.ticker.try_recv() {
                        for _ in batch.take_commands() {
                            writeln!(batch.replies, "{}", u64::MAX).expect("room");
                        }
                        if std::mem::take(&mut batch.status) {
                            writeln!(batch.replies, "counter={}", u64::MAX).expect("room");
                        }
                        bench.send(ToServer::BatchDone { slot, batch });
                    }
                    let count = client.read(&mut replies).unwrap_or(0);
                    answered += replies[..count].iter().filter(|byte| **byte == b'\n').count();
                    // Its waker may have queued it meanwhile.
                    while bench.server.slots.take_ready().is_some() {}
                }
            };
            allocated(10, &mut ask);
            assert_eq!(allocated(1000, &mut ask), (0, 0), "{at_once} times {line:?}");
        }
    }

    #[test]
    fn a_turn_allocates_only_what_its_mailboxes_do() {
        let (_sender, mailbox) = async_channel::bounded::<()>(1);
        let mut bare = || {
            let one = async { _ = mailbox.recv().await };
            let other = async { _ = mailbox.recv().await };
            assert!(future::block_on(future::poll_once(future::or(one, other))).is_none());
        };
        let mut bench = Bench::new("turn");
        let mut turn = || {
            assert!(future::block_on(future::poll_once(bench.server.next_event())).is_none());
        };
        allocated(10, &mut bare);
        allocated(10, &mut turn);
        for count in [1, 100, 1000] {
            assert_eq!(allocated(count, &mut turn), allocated(count, &mut bare), "{count} turns");
        }
    }

    #[test]
    fn a_closed_client_leaves_nothing_allocated() {
        // The reactor's table of sockets may double, because other tests fill it too.
        const GROWTH: u64 = 8;
        let mut bench = Bench::new("gone");
        let mut visit = || {
            let client = bench.client();
            drop(client);
            while bench.server.slots.len() > 0 {
                bench.wake(0);
            }
            while bench.server.slots.take_ready().is_some() {}
        };
        allocated(10, &mut visit);
        for count in [100, 1000] {
            let (total, kept) = allocated(usize::try_from(count).expect("small"), &mut visit);
            // The session, its batch, and what async-io keeps of its socket.
            assert!((3 * count..3 * count + GROWTH).contains(&total), "{count}: {total}");
            assert!(kept.unsigned_abs() < GROWTH, "{count}: {kept} are kept");
        }
    }
}
