// SPDX-License-Identifier: Apache-2.0
//! Signals: the requests of systemd and of people to stop.
//!
//! SIGTERM and SIGINT end the process in order; a second one ends it at once, should the order take
//! too long for somebody.
//! In the initrd SIGTERM only shows in the log: PID 1 sends it to everything before it switches
//! root, and this process is there to survive that.
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
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::{flag, low_level::pipe};
use smol::Async;

use crate::mailbox::post;
use crate::options::Stage;

/// The exit status after a second signal: the process did not end in order.
const STOPPED_AT_ONCE: i32 = 1;

/// The actor.
pub(crate) struct Signals {
    supervisor: Sender<Event>,
    /// A byte for each signal that asks to stop.
    stop: Async<UnixStream>,
    /// A byte for each SIGTERM that is not obeyed; silent in the root stage.
    ignored: Async<UnixStream>,
    /// Kept, for without a far end `ignored` would end instead of being silent.
    _ignored_far_end: UnixStream,
}

enum Heard {
    Stop,
    Ignored,
}

impl Signals {
    /// Installs the handlers of `stage`.
    pub(crate) fn install(stage: Stage, supervisor: Sender<Event>) -> io::Result<Self> {
        let (stop, stop_handler) = UnixStream::pair()?;
        let (ignored, ignored_handler) = UnixStream::pair()?;
        let (stopping, ignoring): (&[i32], &[i32]) = match stage {
            Stage::Initrd => (&[SIGINT], &[SIGTERM]),
            Stage::Root => (&[SIGINT, SIGTERM], &[]),
        };
        let was_asked = Arc::new(AtomicBool::new(false));
        for signal in stopping {
            // In this order: the first signal only sets the flag that the second one finds.
            flag::register_conditional_shutdown(*signal, STOPPED_AT_ONCE, Arc::clone(&was_asked))?;
            flag::register(*signal, Arc::clone(&was_asked))?;
            pipe::register(*signal, stop_handler.try_clone()?)?;
        }
        for signal in ignoring {
            pipe::register(*signal, ignored_handler.try_clone()?)?;
        }
        Ok(Self {
            supervisor,
            stop: Async::new(stop)?,
            ignored: Async::new(ignored)?,
            _ignored_far_end: ignored_handler,
        })
    }

    pub(crate) async fn run(mut self) {
        loop {
            match self.next_event().await {
                Ok(Heard::Stop) => {
                    // Once: the lifecycle stops once, and a second signal does not come here.
                    return post(&self.supervisor, Event::StopRequested);
                }
                Ok(Heard::Ignored) => log::info!("Ignoring SIGTERM in the initrd stage"),
                Err(error) => return log::error!("cannot hear signals any more: {error}"),
            }
        }
    }

    async fn next_event(&mut self) -> io::Result<Heard> {
        let (mut stop_byte, mut ignored_byte) = ([0], [0]);
        let stop = self.stop.read_exact(&mut stop_byte);
        let ignored = self.ignored.read_exact(&mut ignored_byte);
        let stop = async { stop.await.map(|()| Heard::Stop) };
        let ignored = async { ignored.await.map(|()| Heard::Ignored) };
        future::or(stop, ignored).await
    }
}
