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
    /// A byte for each signal that asks to stop.
    stop: UnixStream,
    /// In the initrd, a byte for each SIGTERM that is not obeyed, and for each SIGCONT.
    initrd: Option<(UnixStream, UnixStream)>,
}

enum Heard {
    Stop,
    Terminate,
    Continue,
}

impl Signals {
    /// Installs the handlers of `stage`; what they hear before the actor runs, it hears then.
    pub(crate) fn install(stage: Stage) -> io::Result<Self> {
        let was_asked = Arc::new(AtomicBool::new(false));
        let ends = |signal| {
            // In this order: the first signal only sets the flag that the second one finds.
            flag::register_conditional_shutdown(signal, STOPPED_AT_ONCE, Arc::clone(&was_asked))?;
            flag::register(signal, Arc::clone(&was_asked)).map(drop)
        };
        let (stop, stop_handler) = UnixStream::pair()?;
        let initrd = match stage {
            Stage::Initrd => Some((heard_in_socket(SIGTERM)?, heard_in_socket(SIGCONT)?)),
            Stage::Root => {
                // Heard before it is counted: the first one must not be lost in between.
                pipe::register(SIGTERM, stop_handler.try_clone()?)?;
                ends(SIGTERM)?;
                None
            }
        };
        pipe::register(SIGINT, stop_handler)?;
        ends(SIGINT)?;
        Ok(Self { stop, initrd })
    }

    /// Tells `supervisor` to stop, and `continued` of each SIGCONT.
    pub(crate) async fn run(self, supervisor: Sender<Event>, continued: Sender<()>) {
        if let Err(error) = self.report(&supervisor, &continued).await {
            log::error!("cannot hear signals any more: {error}");
        }
        // The lifecycle stops once, and a second signal does not come here.
        future::pending().await
    }

    async fn report(self, supervisor: &Sender<Event>, continued: &Sender<()>) -> io::Result<()> {
        let mut stop = Async::new(self.stop)?;
        let mut initrd = match self.initrd {
            Some((terminate, cont)) => Some((Async::new(terminate)?, Async::new(cont)?)),
            None => None,
        };
        loop {
            match next(&mut stop, &mut initrd).await? {
                Heard::Stop => {
                    post(supervisor, Event::StopRequested);
                    return Ok(());
                }
                Heard::Terminate => log::info!("Ignoring SIGTERM in the initrd stage"),
                // One that finds it told already adds nothing.
                Heard::Continue => _ = continued.try_send(()),
            }
        }
    }
}

/// A signal's far end, once the executor polls it.
type Ear = Async<UnixStream>;

async fn next(stop: &mut Ear, initrd: &mut Option<(Ear, Ear)>) -> io::Result<Heard> {
    let stop = heard(stop, Heard::Stop);
    match initrd {
        None => stop.await,
        Some((terminate, continued)) => {
            let terminate = heard(terminate, Heard::Terminate);
            let continued = heard(continued, Heard::Continue);
            future::or(stop, future::or(terminate, continued)).await
        }
    }
}

async fn heard(ear: &mut Ear, signal: Heard) -> io::Result<Heard> {
    ear.read_exact(&mut [0]).await.map(|()| signal)
}

/// A socket into which the handler of `signal` writes a byte.
fn heard_in_socket(signal: i32) -> io::Result<UnixStream> {
    let (ours, handler) = UnixStream::pair()?;
    pipe::register(signal, handler)?;
    Ok(ours)
}
