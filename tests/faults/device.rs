// SPDX-License-Identifier: Apache-2.0
//! Faults at each arrow of the exchange, for a service with hardware.
//!
//! The device is opened once for each time that all its holders died: the log has a line for each
//! opening. Whatever happens, the last owner uses it, and releases it at its end.

use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use rustix::process::Signal;

use crate::crowd::all_of;
use crate::service::example;
use crate::trial::Side;
use early_service_trial::proxy::{Arrow, Moment, Proxy};
use early_service_trial::victim::{Blow, Victim};
use testkit::client::status;
use testkit::daemon::{Daemon, STILL, detach};
use testkit::pipe::Pipe;
use testkit::scratch::Scratch;
use testkit::until;

/// Within the time limit of an offer, and longer than it.
const STOPS: [Duration; 2] = [Duration::from_millis(100), Duration::from_millis(1200)];

/// One try: the process that is hit, when, and for how long it is stopped; `None` kills it.
#[derive(Clone, Copy, Debug)]
struct Plan {
    side: Side,
    arrow: Arrow,
    moment: Moment,
    stop: Option<Duration>,
}

impl Plan {
    /// How often the device may be opened. `is_alone`: the process that was hit had taken over, and
    /// its predecessor had left.
    fn openings(self, is_alone: bool) -> RangeInclusive<usize> {
        match (self.stop, self.side, (self.arrow, self.moment)) {
            (Some(_), ..) => 1..=1,
            (None, Side::Predecessor, (Arrow::Handoff, Moment::Before)) => 2..=2,
            // It may have sent all of the offer before it died.
            (None, Side::Predecessor, (Arrow::Handoff | Arrow::State, _))
            | (None, Side::Predecessor, (Arrow::End, Moment::Before)) => 1..=2,
            (None, Side::Predecessor, _) => 1..=1,
            (None, Side::Successor, _) => {
                let count = 1 + usize::from(is_alone);
                count..=count
            }
        }
    }
}

#[test]
fn a_device_is_opened_again_only_if_all_its_holders_died() {
    let mut plans = Vec::new();
    for side in [Side::Predecessor, Side::Successor] {
        for arrow in Arrow::ALL {
            for moment in [Moment::Before, Moment::After] {
                for stop in [None, Some(STOPS[0]), Some(STOPS[1])] {
                    plans.push(Plan { side, arrow, moment, stop });
                }
            }
        }
    }
    let made = all_of(&plans, |plan| {
        make(*plan);
        Ok(())
    });
    let failed = plans.iter().zip(made).filter_map(|(plan, made)| Some((plan, made.err()?)));
    let failed: Vec<_> = failed.collect();
    assert!(failed.is_empty(), "{failed:#?}");
}

fn make(plan: Plan) {
    let scratch = Scratch::new();
    let mut pipe = Pipe::new(&scratch);
    let mut predecessor = feeder(&scratch, &pipe, "predecessor", None);
    pipe.wait_for(1);
    let blow = Blow::new((plan.arrow, plan.moment), plan.stop);
    if plan.side == Side::Predecessor {
        blow.aim(Victim::new(predecessor.pid()));
    }
    let proxy = Proxy::between(scratch.join("proxy"), &predecessor.socket, blow.onlooker());
    let mut successors = vec![feeder(&scratch, &pipe, "successor", Some(proxy.path()))];
    if plan.side == Side::Successor {
        blow.aim(Victim::new(successors[0].pid()));
        if plan.stop.is_none() {
            until("the kill", || !successors[0].is_running());
            successors.push(feeder(&scratch, &pipe, "next", Some(&predecessor.socket)));
        }
    }
    until("one owner", || !predecessor.is_running());
    assert!(blow.has_struck(), "{plan:?}: the handoff has not reached the arrow");
    let last = successors.last().expect("one");
    last.wait_for("=> serving");
    until("a device in use", || status(&last.socket, "device") == "running");
    pipe.wait_for(2);

    let last = successors.last_mut().expect("one");
    last.signal(Signal::TERM);
    assert!(last.ended().0.success(), "{plan:?}");
    pipe.look();
    assert!(pipe.is_closed && pipe.bytes.ends_with(b"V"), "{plan:?}: it is not released");
    // The first successor comes through the proxy, which is a part of this process.
    let adopted = format!("Process {} has adopted the state", std::process::id());
    let is_alone = predecessor.messages().contains(&adopted);
    let logs = std::iter::once(&predecessor).chain(&successors).map(Daemon::messages);
    let openings = logs.flatten().filter(|line| line == "Opened the device").count();
    assert!(
        plan.openings(is_alone).contains(&openings),
        "{plan:?}: it was opened {openings} times"
    );
}

/// Starts the example. It serves a socket of this name, and adopts the state from `predecessor`.
fn feeder(scratch: &Scratch, pipe: &Pipe, name: &str, predecessor: Option<&Path>) -> Daemon {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    let mut command = Command::new(PROGRAM.get_or_init(|| example("watchdog")));
    detach(&mut command);
    let socket = scratch.join(name);
    command.arg("--server-socket-path").arg(&socket).args(STILL).env("WATCHDOG", &pipe.path);
    command.arg("--state-file").arg(scratch.join("state"));
    if let Some(predecessor) = predecessor {
        command.arg("--client-socket-path").arg(predecessor);
    }
    Daemon::spawn_at(&mut command, socket)
}
