// SPDX-License-Identifier: Apache-2.0
//! Handoff: the time of an exchange, and the longest wait of a client during it.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::load::Clients;
use crate::process::Process;
use crate::programs::{Programs, Run};
use crate::sample::{Sample, Unit};
use crate::table::{Row, Table};
use testkit::line::Line;
use testkit::until;

const TRIES: usize = 9;

/// Time for which the client sends commands before and after.
const AROUND: Duration = Duration::from_millis(30);

pub(crate) fn rows(programs: &Programs, table: &mut Table) {
    for count in [0, 60, 500] {
        let tries: Vec<_> = (0..TRIES).map(|_| hand_over(programs, count)).collect();
        let sample =
            |figure: fn(&Handoff) -> f64| Sample::new(Unit::Seconds, tries.iter().map(figure));
        let with = format!("with {count} silent clients beside the one that asks");
        table.push(Row::new(format!("handoff, {with}"), sample(|handoff| handoff.time)));
        let hole = Row::new("longest pause in its replies", sample(|handoff| handoff.hole));
        table.push(hole.floor(Ok(sample(|handoff| handoff.before))));
    }
}

struct Handoff {
    /// From the predecessor's `serving => draining` to the successor's `=> serving`.
    time: f64,
    /// The longest time between two replies.
    hole: f64,
    /// The same without a handoff: the effect of the machine alone.
    before: f64,
}

fn hand_over(programs: &Programs, count: usize) -> Handoff {
    let run = Run::new();
    let mut predecessor = Process::start(programs.initrd(&run));
    let _silent = Clients::connect(&predecessor, count);
    let mut client = predecessor.connect();
    let before = longest_hole(&mut client, || thread::sleep(2 * AROUND));
    let mut successor = None;
    let hole = longest_hole(&mut client, || {
        thread::sleep(AROUND);
        successor = Some(Process::start(programs.root(&run, &[])));
        until("the end of the predecessor", || !predecessor.is_running());
        thread::sleep(AROUND);
    });
    let log = fs::read_to_string(run.join("log")).expect("our own file");
    let lines: Vec<_> = log.lines().map(Line::read).collect();
    let at = |identifier: &str, end: &str| {
        let is_it = |line: &&Line| line.identifier == identifier && line.message.ends_with(end);
        let line = lines.iter().find(is_it);
        line.unwrap_or_else(|| panic!("no {end:?} of {identifier} in {log}")).time
    };
    let start = at("early-service-initrd", "serving => draining");
    let time = Duration::from_nanos(at("early-service", "adopting => serving") - start);
    Handoff { time: time.as_secs_f64(), hole: hole.as_secs_f64(), before: before.as_secs_f64() }
}

/// Sends one command at a time during `work`; returns the longest time without a reply.
fn longest_hole(client: &mut UnixStream, work: impl FnOnce()) -> Duration {
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        let asking = scope.spawn(|| {
            let (mut last, mut longest) = (Instant::now(), Duration::ZERO);
            let mut reply = [0; 64];
            while !is_over.load(Ordering::Relaxed) {
                client.write_all(b"get_counter\n").expect("a server");
                let length = client.read(&mut reply).expect("a server");
                assert!(reply[..length].ends_with(b"\n"), "a whole reply");
                let now = Instant::now();
                longest = longest.max(now - last);
                last = now;
            }
            longest
        });
        work();
        is_over.store(true, Ordering::Relaxed);
        asking.join().expect("a client that was answered all the time")
    })
}
