// SPDX-License-Identifier: Apache-2.0
//! Twin: a service whose device is a pipe and a socket, and which hands over something else if the
//! test says so.
//!
//! `$LINE` is the path of the pipe, and `$HANDS_OVER` what is wrong with the descriptors. The owner
//! writes `u` to the pipe, and a process that is handing over writes `k`.

use std::convert::Infallible;
use std::env;
use std::fmt::{self, Formatter};
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::net::UdpSocket;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::thread;
use std::time::Duration;

use early_service::device::{Device, Kind, Luggage, Monotonic, Need, Port};
use early_service::{Fields, MissingField, Service, State};

/// The time between two bytes, in nanoseconds.
const INTERVAL: u64 = 100_000_000;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Nothing;

impl State for Nothing {
    type Command = u64;
    type Reply = u64;
    const NAME: &'static str = "twin";
    fn read(_: Fields<'_>) -> Result<Self, MissingField> {
        Ok(Self)
    }
    fn write_fields(&self, _: &mut Formatter<'_>) -> fmt::Result {
        Ok(())
    }
    fn apply(&mut self, _: u64) -> u64 {
        0
    }
}

impl Service for Nothing {
    const ABOUT: &'static str = "Has two descriptors.";
    const DESCRIPTORS: &'static str = "line,bus";
    const OFFER_TIMEOUT: Duration = Duration::from_millis(50);
}

struct Both {
    line: File,
    bus: OwnedFd,
    is_swapped: bool,
}

impl Luggage for Both {
    fn lend(&self) -> Vec<BorrowedFd<'_>> {
        let (line, bus) = (self.line.as_fd(), self.bus.as_fd());
        if self.is_swapped { vec![bus, line] } else { vec![line, bus] }
    }

    fn accept(descriptors: Vec<OwnedFd>) -> Result<Self, String> {
        let [line, bus] = <[OwnedFd; 2]>::try_from(descriptors).map_err(|_| "not two")?;
        Ok(Self { line: line.into(), bus, is_swapped: false })
    }
}

impl Device for Both {
    type Service = Nothing;
    type Luggage = Self;

    /// A pipe; `AF_UNIX` and `SOCK_DGRAM`.
    const KINDS: &'static [Kind] = &[Kind::Pipe, Kind::Socket(1, 2)];

    async fn acquire(_: Need, _: &Port<Nothing>) -> io::Result<Self> {
        // Ends with the process, as a thread of a driver's library may.
        thread::Builder::new().name("of-device".into()).spawn(thread::park)?;
        let line = OpenOptions::new().write(true).open(env::var_os("LINE").unwrap_or_default())?;
        Ok(Self { line, bus: UnixDatagram::unbound()?.into(), is_swapped: false })
    }

    fn thaw(both: Self, _: &Nothing, _: Monotonic) -> Self {
        both
    }

    async fn run(&mut self, port: &Port<Nothing>) -> io::Result<Infallible> {
        loop {
            self.line.write_all(b"u")?;
            port.until(port.now().after_nanos(INTERVAL)).await;
        }
    }

    fn freeze(mut self) -> Self {
        match env::var("HANDS_OVER").as_deref() {
            Ok("wrong order") => self.is_swapped = true,
            Ok("wrong domain") => {
                self.bus = UdpSocket::bind("127.0.0.1:0").expect("a socket").into();
            }
            Ok("wrong file") => {
                self.line = env::current_exe().and_then(File::open).expect("a file")
            }
            _ => {}
        }
        self
    }

    fn keep_alive(both: &Self, now: Monotonic) -> Option<Monotonic> {
        let _ = (&both.line).write_all(b"k");
        Some(now.after_nanos(INTERVAL))
    }
}

early_service::main!(Nothing, with: Both);
