// SPDX-License-Identifier: Apache-2.0
//! The device of the service, open from the initrd to power-off.
//!
//! It is written to in a fixed interval, as a watchdog requires. Replace what [`Open::run`] does.

use std::convert::Infallible;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};

use early_service::device::{Device, Monotonic, Need, Port};

use crate::Count;

/// The time between two writes, in nanoseconds.
const INTERVAL: u64 = 500_000_000;

/// The open device.
pub(crate) struct Open(File);

impl Device for Open {
    type Service = Count;
    type Luggage = File;

    async fn acquire(_: Need, port: &Port<Count>) -> io::Result<File> {
        // The test sets the variable.
        OpenOptions::new().write(true).open(port.setting("@UPPER@_DEVICE", "@DEVICE@")?)
    }

    fn thaw(device: File, _: &Count, _: Monotonic) -> Self {
        Self(device)
    }

    async fn run(&mut self, port: &Port<Count>) -> io::Result<Infallible> {
        loop {
            self.0.write_all(b"p")?;
            port.until(port.now().after_nanos(INTERVAL)).await;
        }
    }

    fn freeze(self) -> File {
        self.0
    }

    /// Called instead of `run` while the process hands over.
    fn keep_alive(mut device: &File, now: Monotonic) -> Option<Monotonic> {
        let _ = device.write_all(b"p");
        Some(now.after_nanos(INTERVAL))
    }

    /// The last byte before an orderly end. It disarms a watchdog.
    fn release(mut device: File) {
        let _ = device.write_all(b"V");
    }
}
