// SPDX-License-Identifier: Apache-2.0
//! Signals: the actor that receives them, and the outcome of each.
//!
//! | signal | outcome |
//! | --- | --- |
//! | TERM, INT | an orderly end; another one changes nothing |
//! | TERM in the initrd | a log line: PID 1 sends it to every process before it switches root |
//! | CONT in the initrd | a look at PID 1's root: PID 1 stops every process before the switch |
//! | XCPU | an orderly end with status 1: the limit of processor time is reached |
//! | HUP, USR1, USR2 | a log line |
//! | QUIT, ABRT, ILL, TRAP, BUS, FPE, SEGV, SYS | the default: ends at once, with a core dump |
//! | KILL, STOP, TSTP, CONT, CHLD, URG, WINCH | the default |
//! | all others | ignored |
//!
//! `docs/operations.md` gives the reasons.
//!
//! Ignored signals are blocked in every thread, because a handler interrupts system calls, and a
//! sender that never stops would use up the processor. The inherited mask and dispositions have no
//! effect, except that a default outcome stays ignored if it was inherited as ignored.
//!
//! Owns the socket into which the handlers write. Never decides: the supervisor does. Ends with the
//! process.

use std::cell::Cell;
use std::io;
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::sync::Arc;

use async_channel::Sender;
use early_service_machine::lifecycle::Event;
use futures_lite::future;
use nix::sys::signal::{SigSet, Signal};
use signal_hook::consts::{SIGCONT, SIGHUP, SIGTERM, SIGUSR1, SIGUSR2, SIGXCPU};
use signal_hook::iterator::backend::SignalDelivery;
use signal_hook::iterator::exfiltrator::SignalOnly;
use smol::Async;

use crate::cli::Stage;
use crate::journal::rate_limit::RateLimit;
use crate::messages::post;

/// The signals with a handler in both stages.
const HANDLED: [Signal; 6] = {
    use Signal::*;
    [SIGTERM, SIGINT, SIGXCPU, SIGHUP, SIGUSR1, SIGUSR2]
};

/// The signals with their default outcome. Those that end the process indicate a fault of the
/// program, or request a core dump.
const DEFAULT: [Signal; 13] = {
    use Signal::*;
    [
        SIGQUIT, SIGABRT, SIGILL, SIGTRAP, SIGBUS, SIGFPE, SIGSEGV, SIGSYS, SIGTSTP, SIGCONT,
        SIGCHLD, SIGURG, SIGWINCH,
    ]
};

/// Blocks every signal except those with a default outcome, whatever mask was inherited. To be
/// called before there is a second thread, because threads inherit the mask. A request to stop
/// stays pending until the actor runs.
pub(crate) fn block() -> io::Result<()> {
    let mut blocked = SigSet::all();
    DEFAULT.into_iter().for_each(|signal| blocked.remove(signal));
    Ok(blocked.thread_set_mask()?)
}

pub(crate) struct Signals {
    delivery: SignalDelivery<Arc<UnixStream>, SignalOnly>,
    stage: Stage,
    /// Set when the limit of processor time is reached.
    is_out_of_time: Rc<Cell<bool>>,
    ignored: Ignored,
}

impl Signals {
    /// Installs the handlers of `stage`; signals that arrive before the actor runs are kept for it.
    pub(crate) fn install(stage: Stage, is_out_of_time: Rc<Cell<bool>>) -> io::Result<Self> {
        let (ours, handlers) = UnixStream::pair()?;
        let handled = HANDLED.map(|signal| signal as i32);
        let delivery = SignalDelivery::with_pipe(Arc::new(ours), handlers, SignalOnly, handled)?;
        if stage == Stage::Initrd {
            delivery.handle().add_signal(SIGCONT)?;
        }
        HANDLED.into_iter().collect::<SigSet>().thread_unblock()?;
        Ok(Self { delivery, stage, is_out_of_time, ignored: Ignored::default() })
    }

    /// Tells `supervisor` to stop, and reports each SIGCONT to `continued`.
    pub(crate) async fn run(mut self, supervisor: Sender<Event>, continued: Sender<()>) {
        match self.until_stopped(&continued).await {
            Ok(()) => post(&supervisor, Event::StopRequested),
            Err(error) => log::error!("cannot receive signals any more: {error}"),
        }
        // The lifecycle stops once, in less than a second, so a second signal changes nothing.
        future::pending().await
    }

    async fn until_stopped(&mut self, continued: &Sender<()>) -> io::Result<()> {
        let socket = Async::new(Arc::clone(self.delivery.get_read()))?;
        loop {
            // Each signal at most once, however often it arrived, so that a flood takes one turn at
            // a time.
            for signal in self.delivery.pending() {
                match signal {
                    // If the mailbox is full, a look at PID 1's root is due anyway.
                    SIGCONT => _ = continued.try_send(()),
                    SIGHUP => self
                        .ignored
                        .hup
                        .info(format_args!("Ignoring SIGHUP: there is nothing to reload")),
                    SIGUSR1 => self.ignored.usr1.info(format_args!("Ignoring SIGUSR1")),
                    SIGUSR2 => self.ignored.usr2.info(format_args!("Ignoring SIGUSR2")),
                    SIGTERM if self.stage == Stage::Initrd => {
                        self.ignored.term.info(format_args!("Ignoring SIGTERM in the initrd stage"))
                    }
                    SIGXCPU => {
                        self.is_out_of_time.set(true);
                        return Ok(());
                    }
                    _ => return Ok(()),
                }
            }
            socket.readable().await?;
        }
    }
}

/// The lines about ignored signals, limited because a sender can cause thousands a second.
#[derive(Default)]
struct Ignored {
    term: RateLimit,
    hup: RateLimit,
    usr1: RateLimit,
    usr2: RateLimit,
}
