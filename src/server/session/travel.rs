// SPDX-License-Identifier: Apache-2.0
//! The parts of a session that travel to another process.

use std::os::unix::net::UnixStream;

use early_service_machine::wire::handoff::Client;
use rustix::net::sockopt::set_socket_send_buffer_size;
use smol::Async;

use crate::handoff::channel;
use crate::server::limits::MAX_DISCARD;
use crate::server::session::Session;
use crate::service::Service;

impl<S: Service> Session<S> {
    /// Continues a session of the predecessor; `None` if its bytes do not fit.
    pub(crate) fn adopt(
        stream: Async<UnixStream>,
        client: Client,
        unread: &[u8],
        unsent: &[u8],
    ) -> Option<Box<Self>> {
        let mut session = Self::new(stream);
        let fits = session.input.bytes.replace(unread)
            && session.batch.as_mut().is_some_and(|batch| batch.replies.replace(unsent));
        session.input.ended = client.ended;
        session.closing = client.closing;
        // Its line may be too long, and the client may still be writing it.
        session.discard = (client.closing && !client.ended).then_some(MAX_DISCARD);
        fits.then_some(session)
    }

    /// What a successor needs to continue this session: its description, the bytes that were not
    /// parsed, and the replies that were not sent. Only to be called while no batch is in flight.
    pub(crate) fn parts(&self) -> (Client, &[u8], &[u8]) {
        let unread = self.input.bytes.pending();
        let unsent = self.batch.as_ref().map_or(&[][..], |batch| batch.replies.pending());
        let client = Client {
            input: u64::try_from(unread.len()).unwrap_or_default(),
            replies: u64::try_from(unsent.len()).unwrap_or_default(),
            ended: self.input.ended,
            closing: self.closing,
        };
        (client, unread, unsent)
    }

    pub(crate) fn stream(&self) -> &Async<UnixStream> {
        &self.stream
    }

    /// The connection, when it is used to hand over the state. A client's buffer has no room for
    /// the state, and may be full of replies. If it cannot be enlarged, sending takes longer.
    pub(in crate::server) fn into_stream(self) -> Async<UnixStream> {
        let _ = set_socket_send_buffer_size(&self.stream, channel::BUFFER / 2);
        self.stream
    }
}
