// SPDX-License-Identifier: Apache-2.0
//! Bundle: everything that a handoff transfers.
//!
//! A freeze produces a bundle, the wire carries it, and the new owner consumes it. On the wire its
//! [`Manifest`] lists the contents, and its [`Part`]s follow one by one; the receiver checks each
//! descriptor when it accepts it.
//!
//! A named descriptor needs no change here: `Service::DESCRIPTORS` contains the name, so the
//! successor's request does too. Another kind of content needs a field, a part and a function that
//! accepts it.
//!
//! Owns the sockets, the state file and its lock: dropping a bundle closes all of them. Never reads
//! from or writes to any of them.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use early_service_machine::lifecycle::takeover::Received;
use early_service_machine::timeline::Snapshot;
use early_service_machine::wire::handoff::{Client, Message};
use early_service_machine::wire::manifest::{MAX_DESCRIPTORS, Manifest, Name};
use early_service_machine::wire::request::Accepts;
use smol::Async;

use crate::handoff::exchange::Place;
use crate::handoff::state_file::StateFile;
use crate::platform::socket::check_stream;
use crate::server::batch::REPLIES;
use crate::server::input::INPUT;
use crate::server::limits;
use crate::server::listener::Listener;
use crate::server::session::Session;
use crate::service::Service;

/// No client is added to a message that has this many bytes. Together with one more client and a
/// quarter of the socket's buffer, that is less than half of the buffer (see
/// [`Peer::send`](crate::handoff::channel::Peer::send)).
const FULL_MESSAGE: usize = 16 * 1024;

/// Everything that an owner owns.
pub(crate) struct Bundle<S: Service> {
    /// The state; `None` until it is frozen or received.
    pub(crate) state: Option<Received<S>>,
    /// The state file, whose descriptor holds the lock.
    pub(crate) file: Option<StateFile>,
    pub(crate) listeners: Vec<Listener>,
    /// How many of the listeners, the first ones, a successor gets with their files.
    pub(crate) owned: usize,
    #[allow(clippy::vec_box, reason = "they move on into slots, a kilobyte each without the box")]
    pub(crate) sessions: Vec<Box<Session<S>>>,
    /// At most [`MAX_NAMED`](early_service_machine::bounds::MAX_NAMED).
    pub(crate) named: Vec<Named>,
    /// Why a descriptor of the device is missing.
    pub(crate) incomplete: Option<io::Error>,
}

/// A descriptor with a name.
pub(crate) struct Named {
    pub(crate) name: String,
    pub(crate) descriptor: OwnedFd,
}

impl<S: Service> Default for Bundle<S> {
    fn default() -> Self {
        let (listeners, sessions, named) = (Vec::new(), Vec::new(), Vec::new());
        Self { state: None, file: None, listeners, owned: 0, sessions, named, incomplete: None }
    }
}

impl<S: Service> Bundle<S> {
    /// The state with its deadline; `None` until it is frozen.
    pub(crate) fn snapshot(&self) -> Option<Snapshot<S>> {
        match self.state {
            Some(Received::Snapshot(snapshot)) => Some(snapshot),
            Some(Received::Value(_)) | None => None,
        }
    }

    /// The description of this bundle for a successor that accepts these names.
    pub(crate) fn manifest(&self, accepts: Accepts<'_>) -> Option<Manifest<S>> {
        let named = self.named.iter().filter(|named| accepts.has(&named.name)).count();
        Some(Manifest {
            snapshot: self.snapshot()?,
            lock: self.file.is_some(),
            listeners: number(self.listeners.len()),
            owned: number(self.owned),
            clients: number(self.sessions.len()),
            named: number(named),
        })
    }

    /// Adds the sockets and descriptors of a predecessor. Its named descriptors replace our own.
    ///
    /// Keeps our listener if systemd passed the same one to both processes. Drops a fallback
    /// listener that was bound in case the predecessor did not hand one over. Serves any other
    /// listener until the predecessor has left, because clients may wait in its backlog.
    pub(crate) fn join(&mut self, received: Self) {
        for listener in received.listeners {
            if listener.is_inherited() {
                if !self.listeners.iter().any(|ours| ours.is_same_as(&listener)) {
                    self.listeners.push(listener);
                }
            } else {
                self.listeners.retain(|ours| ours.path() != listener.path());
                self.listeners.push(listener);
            }
        }
        self.sessions.extend(received.sessions);
        let is_received = |ours: &Named| received.named.iter().any(|named| named.name == ours.name);
        self.named.retain(|ours| !is_received(ours));
        self.named.extend(received.named);
    }

    /// Accepts a listener, which comes with its file if `is_owned`. `connection` is the connection
    /// to the predecessor.
    pub(crate) fn accept_listener(
        &mut self,
        socket: Option<OwnedFd>,
        place: Place<'_>,
        is_owned: bool,
        connection: &Async<UnixStream>,
    ) -> Result<(), String> {
        let socket = socket.ok_or("a listener is missing")?;
        let listener = match place {
            Place::All => Listener::reloaded(socket, is_owned),
            Place::At(path) => Listener::handed_over(socket, Some(path), connection),
            Place::Own => Listener::handed_over(socket, None, connection),
        };
        self.listeners.push(listener.map_err(|error| error.to_string())?);
        Ok(())
    }

    /// Accepts a client, with its unanswered input and unsent replies.
    pub(crate) fn accept_client(
        &mut self,
        socket: Option<OwnedFd>,
        client: Client,
        unread: &[u8],
        unsent: &[u8],
    ) -> Result<(), String> {
        let socket = socket.ok_or("the descriptor of a client is missing")?;
        match check_stream(&socket) {
            Ok(false) => {}
            Ok(true) => return Err("cannot serve a client: it listens".to_owned()),
            Err(why) => return Err(format!("cannot serve a client: {why}")),
        }
        let stream = Async::new(UnixStream::from(socket))
            .map_err(|error| format!("cannot serve a client: {error}"))?;
        let session = Session::adopt(stream, client, unread, unsent);
        self.sessions.push(session.ok_or("a client does not fit")?);
        Ok(())
    }

    /// Accepts a descriptor whose name the request had in `accepts`.
    pub(crate) fn accept_named(
        &mut self,
        accepts: Accepts<'_>,
        name: &str,
        descriptor: Option<OwnedFd>,
    ) -> Result<(), String> {
        if !accepts.has(name) {
            return Err(format!("the descriptor '{name}' was not asked for"));
        }
        let descriptor = descriptor.ok_or_else(|| format!("the descriptor '{name}' is missing"))?;
        if self.named.iter().any(|named| named.name == name) {
            return Err(format!("the descriptor '{name}' came twice"));
        }
        self.named.push(Named { name: name.to_owned(), descriptor });
        Ok(())
    }

    pub(crate) fn has_clients(&self, manifest: &Manifest<S>) -> bool {
        number(self.sessions.len()) == manifest.clients
    }

    /// Checks that there is room for everything that the manifest announces.
    pub(crate) fn check_room(manifest: &Manifest<S>) -> Result<(), String> {
        let (clients, most) = (manifest.clients, limits::clients() + limits::RESERVE);
        if usize::try_from(clients).map_or(true, |clients| clients > most) {
            return Err(format!("it has {clients} clients, and we serve {most}"));
        }
        Ok(())
    }

    /// Checks that everything that the manifest announces has arrived.
    pub(crate) fn check_whole(&self, manifest: &Manifest<S>) -> Result<(), String> {
        let (clients, named) = (number(self.sessions.len()), number(self.named.len()));
        if !self.has_clients(manifest) {
            return Err(format!("{clients} of {} clients came", manifest.clients));
        }
        if named != manifest.named {
            return Err(format!("{named} of {} named descriptors came", manifest.named));
        }
        Ok(())
    }
}

/// The lengths of a client's input and replies, if they fit a session.
pub(crate) fn client_lengths(client: Client) -> Result<(usize, usize), String> {
    let lengths = usize::try_from(client.input).ok().zip(usize::try_from(client.replies).ok());
    lengths.filter(|(input, replies)| *input <= INPUT && *replies <= REPLIES).ok_or_else(|| {
        let Client { input, replies, .. } = client;
        format!("a client with {input} bytes of input and {replies} of replies does not fit")
    })
}

/// The content of one message; a bundle is sent in the order of these variants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// The manifest, with the listeners.
    Manifest,
    /// The clients of this half-open range of numbers.
    Clients(usize, usize),
    /// The named descriptor of this number.
    Named(usize),
    /// The end, with the lock.
    End,
}

impl Part {
    /// The descriptors beside the message.
    pub(crate) fn lend<S: Service>(self, bundle: &Bundle<S>) -> Vec<BorrowedFd<'_>> {
        match self {
            Self::Manifest => bundle.listeners.iter().map(AsFd::as_fd).collect(),
            Self::Clients(from, to) => clients(bundle, from, to).iter().map(AsFd::as_fd).collect(),
            Self::Named(at) => {
                bundle.named.get(at).map(|named| named.descriptor.as_fd()).into_iter().collect()
            }
            Self::End => bundle.file.as_ref().map(AsFd::as_fd).into_iter().collect(),
        }
    }

    pub(crate) fn write<S: Service>(
        self,
        bundle: &Bundle<S>,
        accepts: Accepts<'_>,
        message: &mut Vec<u8>,
    ) {
        let mut push = |line: Message<'_, S>| push_line(message, &line);
        match self {
            Self::Manifest => {
                if let Some(manifest) = bundle.manifest(accepts) {
                    push(Message::State(manifest));
                }
            }
            Self::Clients(from, to) => {
                for session in clients(bundle, from, to) {
                    let (client, unread, unsent) = session.parts();
                    push_line(message, &Message::<S>::Client(client));
                    message.extend_from_slice(unread);
                    message.extend_from_slice(unsent);
                }
            }
            Self::Named(at) => {
                let named = bundle.named.get(at);
                if let Some(name) = named.and_then(|named| Name::parse(named.name.as_bytes())) {
                    push(Message::Named(name));
                }
            }
            Self::End => push(Message::End),
        }
    }

    pub(crate) fn next<S: Service>(self, bundle: &Bundle<S>, accepts: Accepts<'_>) -> Option<Self> {
        let named_from = match self {
            Self::Manifest => {
                return Some(
                    next_clients(bundle, 0).unwrap_or_else(|| next_named(bundle, 0, accepts)),
                );
            }
            Self::Clients(_, to) => {
                return Some(
                    next_clients(bundle, to).unwrap_or_else(|| next_named(bundle, 0, accepts)),
                );
            }
            Self::Named(at) => at + 1,
            Self::End => return None,
        };
        Some(next_named(bundle, named_from, accepts))
    }
}

/// As many clients as fit one message.
fn next_clients<S: Service>(bundle: &Bundle<S>, from: usize) -> Option<Part> {
    let mut length = 0;
    let fitting = clients(bundle, from, from + MAX_DESCRIPTORS).iter().take_while(|session| {
        let fits = length < FULL_MESSAGE;
        let (_, unread, unsent) = session.parts();
        length += unread.len() + unsent.len();
        fits
    });
    let to = from + fitting.count();
    (to > from).then_some(Part::Clients(from, to))
}

/// The next descriptor with a name that the successor accepts, or the end.
fn next_named<S: Service>(bundle: &Bundle<S>, from: usize, accepts: Accepts<'_>) -> Part {
    let mut named = bundle.named.iter().enumerate().skip(from);
    named.find(|(_, named)| accepts.has(&named.name)).map_or(Part::End, |(at, _)| Part::Named(at))
}

fn clients<S: Service>(bundle: &Bundle<S>, from: usize, to: usize) -> &[Box<Session<S>>] {
    let sessions = &bundle.sessions;
    sessions.get(from..to.min(sessions.len())).unwrap_or_default()
}

fn push_line<S: Service>(message: &mut Vec<u8>, line: &Message<'_, S>) {
    message.extend_from_slice(format!("{line}\n").as_bytes());
}

fn number(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use early_service_machine::Counter;
    use early_service_machine::schedule::{Monotonic, Period};
    use std::iter;

    fn descriptor() -> OwnedFd {
        UnixStream::pair().expect("a socket pair").0.into()
    }

    /// A frozen bundle with two clients and these named descriptors.
    fn bundle(names: &[&str]) -> Bundle<Counter> {
        let period = Period::from_millis(100).expect("not zero");
        let deadline = Monotonic::from_nanos(5);
        let snapshot = Snapshot { state: Counter { next: 137 }, deadline, period };
        let session = || {
            let (ours, _) = UnixStream::pair().expect("a socket pair");
            Session::new(Async::new(ours).expect("a socket can be polled"))
        };
        let sessions = [session(), session()];
        let named =
            names.iter().map(|name| Named { name: (*name).to_owned(), descriptor: descriptor() });
        Bundle {
            state: Some(Received::Snapshot(snapshot)),
            sessions: sessions.into(),
            named: named.collect(),
            ..Bundle::default()
        }
    }

    /// Everything that is sent of the bundle: the lines, and the descriptors beside them.
    fn sent(bundle: &Bundle<Counter>, accepts: Accepts<'_>) -> (Vec<String>, Vec<usize>) {
        let parts = iter::successors(Some(Part::Manifest), |part| part.next(bundle, accepts));
        let write = |part: Part| {
            let mut message = Vec::new();
            part.write(bundle, accepts, &mut message);
            (String::from_utf8(message).expect("text"), part.lend(bundle).len())
        };
        parts.map(write).unzip()
    }

    #[test]
    fn only_accepted_descriptors_travel() {
        let bundle = bundle(&["watchdog", "can0", "can1"]);
        let client = "client input=0 replies=0 ended=0 closing=0\n";
        for (accepts, named, lines, descriptors) in [
            ("", "", &[][..], &[0, 2, 0][..]),
            ("can1,watchdog", " named=2", &["named watchdog\n", "named can1\n"], &[0, 2, 1, 1, 0]),
        ] {
            let state = "state 1 counter=137 deadline_ns=5 period_ns=100000000";
            let manifest = format!("{state} lock=0 listeners=0 clients=2{named}\n");
            let clients = [client, client].concat();
            let lines = lines.iter().map(ToString::to_string);
            let expected = [manifest, clients].into_iter().chain(lines).chain(["end\n".to_owned()]);
            let found = sent(&bundle, Accepts(accepts));
            assert_eq!(found, (expected.collect(), descriptors.to_vec()), "{accepts:?}");
        }
    }

    #[test]
    fn a_named_descriptor_comes_once_and_only_if_asked_for() {
        let mut bundle = bundle(&[]);
        let mut accept =
            |name, descriptor| bundle.accept_named(Accepts("can0,can1"), name, descriptor);
        assert_eq!(accept("can0", Some(descriptor())), Ok(()));
        for (name, descriptor, why) in [
            ("can0", Some(descriptor()), "the descriptor 'can0' came twice"),
            ("can1", None, "the descriptor 'can1' is missing"),
            ("can", Some(descriptor()), "the descriptor 'can' was not asked for"),
        ] {
            assert_eq!(accept(name, descriptor), Err(why.to_owned()));
        }
        let manifest = |named| {
            let manifest = bundle.manifest(Accepts("can0")).expect("a frozen state");
            bundle.check_whole(&Manifest { named, ..manifest })
        };
        assert_eq!(manifest(1), Ok(()));
        assert_eq!(manifest(2), Err("1 of 2 named descriptors came".to_owned()));
    }
}
