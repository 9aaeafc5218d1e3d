// SPDX-License-Identifier: Apache-2.0
//! Signals: the requests of systemd and of people to stop.
//!
//! SIGTERM and SIGINT end the process in order; a second one ends it at once, should the order take
//! too long for somebody.
//! In the initrd SIGTERM only shows in the log: PID 1 sends it to everything before it switches
//! root, and this process is there to survive that; and SIGCONT tells that the switch is about to
//! come, because PID 1 stops every process before it.
//!
//! Owns the sockets into which the handlers write a byte.
//! Never acts by itself, but for the second signal.
//! Ends with the process.

use std::io;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use async_channel::Sender;
use early_service_machine::lifecycle::Event;
use futures_lite::future;
use futures_lite::io::AsyncReadExt;
use signal_hook::consts::{SIGCONT, SIGINT, SIGTERM};
use signal_hook::{flag, low_level::pipe};
use smol::Async;

use crate::mailbox::post;
use crate::options::Stage;

/// The exit status after a second signal: the process did not end in order.
const STOPPED_AT_ONCE: i32 = 1;

/// The actor.
pub(crate) struct Signals {
    supervisor: Sender<Event>,
    /// Told of each SIGCONT; one that finds it told already adds nothing.
    continued: Sender<()>,
    /// A byte for each signal that asks to stop.
    stop: Async<UnixStream>,
    /// In the initrd, a byte for each SIGTERM that is not obeyed, and for each SIGCONT.
    initrd: Option<(Async<UnixStream>, Async<UnixStream>)>,
}

enum Heard {
    Stop,
    Terminate,
    Continue,
}

impl Signals {
    /// Installs the handlers of `stage`.
    pub(crate) fn install(
        stage: Stage,
        supervisor: Sender<Event>,
        continued: Sender<()>,
    ) -> io::Result<Self> {
        let was_asked = Arc::new(AtomicBool::new(false));
        let ends = |signal| {
            // In this order: the first signal only sets the flag that the second one finds.
            flag::register_conditional_shutdown(signal, STOPPED_AT_ONCE, Arc::clone(&was_asked))?;
            flag::register(signal, Arc::clone(&was_asked)).map(drop)
        };
        ends(SIGINT)?;
        let (stop, stop_handler) = UnixStream::pair()?;
        let initrd = match stage {
            Stage::Initrd => Some((heard_in_socket(SIGTERM)?, heard_in_socket(SIGCONT)?)),
            Stage::Root => {
                ends(SIGTERM)?;
                pipe::register(SIGTERM, stop_handler.try_clone()?)?;
                None
            }
        };
        pipe::register(SIGINT, stop_handler)?;
        Ok(Self { supervisor, continued, stop: Async::new(stop)?, initrd })
    }

    pub(crate) async fn run(mut self) {
        loop {
            match self.next_event().await {
                Ok(Heard::Stop) => {
                    // Once: the lifecycle stops once, and a second signal does not come here.
                    post(&self.supervisor, Event::StopRequested);
                    return future::pending().await;
                }
                Ok(Heard::Terminate) => log::info!("Ignoring SIGTERM in the initrd stage"),
                Ok(Heard::Continue) => {
                    let _ = self.continued.try_send(());
                }
                Err(error) => {
                    log::error!("cannot hear signals any more: {error}");
                    return future::pending().await;
                }
            }
        }
    }

    async fn next_event(&mut self) -> io::Result<Heard> {
        let stop = heard(&mut self.stop, Heard::Stop);
        match &mut self.initrd {
            None => stop.await,
            Some((terminate, continued)) => {
                let terminate = heard(terminate, Heard::Terminate);
                let continued = heard(continued, Heard::Continue);
                future::or(stop, future::or(terminate, continued)).await
            }
        }
    }
}

/// A socket into which the handler of `signal` writes a byte.
fn heard_in_socket(signal: i32) -> io::Result<Async<UnixStream>> {
    let (ours, handler) = UnixStream::pair()?;
    pipe::register(signal, handler)?;
    Async::new(ours)
}

async fn heard(socket: &mut Async<UnixStream>, signal: Heard) -> io::Result<Heard> {
    socket.read_exact(&mut [0]).await.map(|()| signal)
}
