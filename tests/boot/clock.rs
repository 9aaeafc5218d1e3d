// SPDX-License-Identifier: Apache-2.0
//! Clock of a guest, read from outside while the guest runs.
//!
//! On a busy host a guest's second takes many seconds, so a boot is bounded by the guest's own
//! time. A thread asks QEMU for the guest's real-time clock over QMP; with `-rtc clock=vm` that
//! clock advances with the guest's instructions. Ends with QEMU.

use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Write};
use std::process::{ChildStdin, ChildStdout};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{JoinHandle, sleep, spawn};
use std::time::{Duration, Instant};

/// Shorter than the clock's unit, a second.
const INTERVAL: Duration = Duration::from_millis(500);
const DAY: u64 = 24 * 60 * 60;

/// The guest's time so far, and the host's time when it last advanced.
#[derive(Clone, Copy)]
pub(crate) struct Reading {
    pub(crate) guest: Duration,
    pub(crate) advanced: Instant,
}

pub(crate) struct Clock {
    reading: Arc<Mutex<Reading>>,
    watcher: JoinHandle<bool>,
}

impl Clock {
    /// Reads the clock of a QEMU whose standard input and output are its monitor (`-qmp stdio`).
    pub(crate) fn of(commands: ChildStdin, replies: ChildStdout) -> Self {
        let start = Reading { guest: Duration::ZERO, advanced: Instant::now() };
        let reading = Arc::new(Mutex::new(start));
        let shared = Arc::clone(&reading);
        let watcher = spawn(move || {
            let mut replies = Replies { lines: BufReader::new(replies), was_reset: false };
            watch(commands, &mut replies, &shared);
            // What QEMU wrote last.
            while replies.next().is_some() {}
            replies.was_reset
        });
        Self { reading, watcher }
    }

    /// Waits for the end of QEMU; returns whether the machine was reset.
    pub(crate) fn was_reset(self) -> bool {
        self.watcher.join().expect("the watcher does not panic")
    }

    pub(crate) fn read(&self) -> Reading {
        *self.reading.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What QEMU writes to its monitor: replies and events.
struct Replies {
    lines: BufReader<ChildStdout>,
    /// Whether the machine was reset.
    was_reset: bool,
}

impl Replies {
    /// The next line; `None` at the end.
    fn next(&mut self) -> Option<Value> {
        let mut line = String::new();
        if self.lines.read_line(&mut line).ok()? == 0 {
            return None;
        }
        let message: Value = serde_json::from_str(&line).ok()?;
        self.was_reset |=
            message["event"] == "SHUTDOWN" && message["data"]["reason"] == "guest-reset";
        Some(message)
    }
}

/// Returns once QEMU has closed either end.
fn watch(mut commands: ChildStdin, replies: &mut Replies, reading: &Mutex<Reading>) {
    let mut ask = |command: Value| -> Option<Value> {
        writeln!(commands, "{command}").ok()?;
        loop {
            // The greeting and events are not replies.
            let mut reply = replies.next()?;
            if reply.get("return").is_some() {
                return Some(reply["return"].take());
            }
            assert!(reply.get("error").is_none(), "QEMU does not tell the guest's time: {reply}");
        }
    };
    let get = json!({
        "execute": "qom-get",
        "arguments": { "path": "/machine", "property": "rtc-time" },
    });
    if ask(json!({ "execute": "qmp_capabilities" })).is_none() {
        return;
    }
    let mut first = None;
    while let Some(time) = ask(get.clone()) {
        let second = seconds(&time);
        // No boot takes a day.
        let first = *first.get_or_insert(second);
        let guest = Duration::from_secs((second + DAY - first) % DAY);
        let mut reading = reading.lock().unwrap_or_else(PoisonError::into_inner);
        if reading.guest != guest {
            *reading = Reading { guest, advanced: Instant::now() };
        }
        drop(reading);
        sleep(INTERVAL);
    }
}

/// The second of the day in a time from QEMU.
fn seconds(time: &Value) -> u64 {
    let field = |name: &str| time[name].as_u64().unwrap_or_default();
    (field("tm_hour") * 60 + field("tm_min")) * 60 + field("tm_sec")
}
