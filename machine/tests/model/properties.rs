// SPDX-License-Identifier: Apache-2.0
//! Properties: what is true in every world that can be reached.

use early_service_machine::device::Device;

use crate::world::{Daemon, EVERYBODY, Process, Session, Stage, Who, World, Wrong};

/// A condition on a world of a daemon.
pub(crate) type Condition = fn(&Daemon, &World) -> bool;

/// The conditions that are true in every world.
pub(crate) const ALWAYS: [(&str, Condition); 16] = [
    ("at most one process may tick or answer", one_owner),
    ("a process that may tick or answer holds the lock", owner_holds_lock),
    ("no tick comes twice", |_, world| {
        !matches!(world.wrong, Some(Wrong::TickedTwice | Wrong::LoggedTwice))
    }),
    ("no tick is missing", |_, world| {
        !matches!(world.wrong, Some(Wrong::TickMissing | Wrong::StartedAnew))
    }),
    ("a line is missing only if a process died", no_line_missing),
    ("a command that was answered is in the state", answered_is_kept),
    ("a command is executed once", executed_once),
    ("a command that was read is answered", read_is_answered),
    ("a client is disconnected only if its owner failed", |_, world| {
        world.wrong != Some(Wrong::ClientDropped)
    }),
    ("at most one process uses the device", |_, world| users(world).count() <= 1),
    ("only the owner uses or opens the device", owner_has_device),
    ("no process opens the device while another one has it", opens_alone),
    ("a predecessor keeps its copy of the device until it leaves", |_, world| {
        world.processes.iter().all(|process| !process.lent || process.luggage)
    }),
    ("the device is closed only after a failure", |_, world| {
        world.wrong != Some(Wrong::DeviceClosed)
    }),
    ("PID 1's store has copies of a device in use", |daemon, world| {
        let uses = |who: &Who| world.process(*who).device == Device::Running;
        EVERYBODY.iter().filter(|who| uses(who)).all(|who| world.stored[daemon.bounds.unit(*who)])
    }),
    ("a released device is not used", |_, world| world.wrong != Some(Wrong::UsedAfterRelease)),
];

/// The processes that may tick or answer.
fn owners(world: &World) -> impl Iterator<Item = &Process> {
    world.processes.iter().filter(|process| process.may_tick() || process.may_answer())
}

fn one_owner(_: &Daemon, world: &World) -> bool {
    owners(world).count() <= 1
}

fn owner_holds_lock(daemon: &Daemon, world: &World) -> bool {
    !daemon.bounds.lockable || owners(world).all(Process::holds_lock)
}

fn no_line_missing(daemon: &Daemon, world: &World) -> bool {
    let queued = world.processes.iter().fold(0, |lines, process| lines | process.queued);
    let ticked = (1 << world.ticked) - 1;
    !daemon.bounds.journal || ticked & !(world.logged | world.lost | queued) == 0
}

fn answered_is_kept(daemon: &Daemon, world: &World) -> bool {
    let kept = |set: u8| set >= world.client.answered;
    let in_file = world.file.is_none_or(|record| kept(record.set));
    let in_memory = owners(world).filter_map(|owner| owner.counter).all(|record| kept(record.set));
    let somewhere = !daemon.bounds.lockable || world.file.is_some() || kept(0);
    in_file && in_memory && somewhere
}

fn executed_once(daemon: &Daemon, world: &World) -> bool {
    world.file.is_none_or(|record| record.set <= daemon.bounds.requests)
}

/// Every request is in one place: neither lost in a session without an owner nor in two sessions.
fn read_is_answered(daemon: &Daemon, world: &World) -> bool {
    let client = world.client;
    let of_all = |process: &Process| {
        process.session.is_none_or(|session| {
            client.unread + session.input + session.replies + client.answered
                == daemon.bounds.requests
        })
    };
    client.stage != Stage::Accepted || owners(world).all(of_all)
}

/// The processes that use the device.
fn users(world: &World) -> impl Iterator<Item = &Process> {
    world.processes.iter().filter(|process| process.device == Device::Running)
}

fn owner_has_device(_: &Daemon, world: &World) -> bool {
    let is_owners = |process: &&Process| {
        matches!(process.device, Device::Running | Device::Opening(_) | Device::Postponed(_))
    };
    world.processes.iter().filter(is_owners).all(Process::may_tick)
}

/// A process that has the device uses it, keeps it for a successor, or can continue with it. Copies
/// that were declared void do not count: their process closes them as soon as it runs.
fn opens_alone(_: &Daemon, world: &World) -> bool {
    let opens = |process: &Process| matches!(process.device, Device::Opening(_));
    !world.processes.iter().any(opens) || !world.processes.iter().any(Process::uses_or_keeps_device)
}

/// Whether nothing remains to be done: one owner has answered everything and uses the device, or no
/// process exists.
pub(crate) fn is_settled(daemon: &Daemon, world: &World) -> bool {
    let nobody = world.processes.iter().all(|process| !process.is_up());
    let client = world.client;
    let has_all = |process: &Process| process.session == Some(Session::IDLE);
    let answered = match client.stage {
        Stage::Backlog => client.unread == 0,
        Stage::Accepted => client.unread == 0 && owners(world).all(has_all),
        Stage::Ended => true,
    };
    let one = owners(world).count() == 1
        && owners(world).all(|owner| owner.may_tick() && owner.may_answer());
    let in_use = !daemon.bounds.device || users(world).count() == 1;
    nobody || (one && answered && in_use)
}
