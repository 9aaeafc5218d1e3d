// SPDX-License-Identifier: Apache-2.0
//! Example of a service with hardware: feeds a watchdog from the initrd to power-off.
//!
//! The machine is reset if nobody writes to the watchdog within its timeout. So it must be open and
//! fed at every moment: through the handoff, while a process is restarted, and until power-off. The
//! owner feeds it, and counts. `$WATCHDOG` names the device, by default `/dev/watchdog`.

use std::convert::Infallible;
use std::fmt::{self, Formatter};
use std::fs::{File, OpenOptions};
use std::io::{self, Write};

use early_service::device::{Device, Monotonic, Need, Port};
use early_service::{Fields, MissingField, Service, State};

/// The time between two pings, in nanoseconds: a third of a timeout of 1.5 s.
const INTERVAL: u64 = 500_000_000;

/// How many pings the watchdog has received.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Pings(u64);

impl State for Pings {
    /// How many pings were sent: a command of the feeder, and of no client.
    type Command = u64;
    type Reply = u64;
    const NAME: &'static str = "early-watchdog";
    fn read(fields: Fields<'_>) -> Result<Self, MissingField> {
        fields.number("pings").map(Self)
    }
    fn write_fields(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "pings={}", self.0)
    }
    fn apply(&mut self, sent: u64) -> u64 {
        self.0 = self.0.saturating_add(sent);
        self.0
    }
}

impl Service for Pings {
    const ABOUT: &'static str = "Feeds a watchdog from the initrd to power-off.";
    const DESCRIPTORS: &'static str = "watchdog";
}

/// The open watchdog.
struct Feeder(File);

impl Device for Feeder {
    type Service = Pings;
    type Luggage = File;

    async fn acquire(_: Need, port: &Port<Pings>) -> io::Result<File> {
        OpenOptions::new().write(true).open(port.setting("WATCHDOG", "/dev/watchdog")?)
    }

    fn thaw(watchdog: File, _: &Pings, _: Monotonic) -> Self {
        Self(watchdog)
    }

    async fn run(&mut self, port: &Port<Pings>) -> io::Result<Infallible> {
        loop {
            self.0.write_all(b"p")?;
            let next = port.now().after_nanos(INTERVAL);
            port.apply(1).await;
            port.until(next).await;
        }
    }

    fn freeze(self) -> File {
        self.0
    }

    fn keep_alive(mut watchdog: &File, now: Monotonic) -> Option<Monotonic> {
        let _ = watchdog.write_all(b"p");
        Some(now.after_nanos(INTERVAL))
    }

    /// The magic close: without this byte, the machine would be reset after the end.
    fn release(mut watchdog: File) {
        let _ = watchdog.write_all(b"V");
    }
}

early_service::main!(Pings, with: Feeder);

#[cfg(test)]
mod tests {
    use super::*;
    use early_service::trial;
    use testkit::pipe::Pipe;
    use testkit::scratch::Scratch;

    #[test]
    fn the_state_keeps_its_promises() {
        trial::state(&[Pings(u64::MAX)], &[]).unwrap_or_else(|wrong| panic!("{wrong}"));
    }

    #[test]
    fn it_is_fed_in_time_and_released_once_whoever_dies() {
        let scratch = Scratch::new();
        let mut hardware = Pipe::new(&scratch);
        trial::set("WATCHDOG", &hardware.path);
        let courses = trial::every_fault::<Feeder>().unwrap_or_else(|wrong| panic!("{wrong}"));
        for (fault, calls) in &courses {
            // A ping is applied right after it was sent; the others are sent by `keep_alive`.
            let pings = calls.iter().filter(|call| matches!(call.method, "apply" | "keep_alive"));
            let pings: Vec<_> = pings.map(|call| call.at).collect();
            let longest = pings.windows(2).map(|two| two[1].nanos_since(two[0])).max();
            assert!(longest <= Some(2 * INTERVAL), "{fault:?}: {calls:?}");
            let last = calls.last().expect("calls");
            assert_eq!(last.method, "release", "{fault:?}");
        }
        hardware.look();
        assert!(hardware.is_closed);
        let released = hardware.bytes.iter().filter(|byte| **byte == b'V').count();
        assert_eq!(released, courses.len(), "once a course, at its end");
    }
}
