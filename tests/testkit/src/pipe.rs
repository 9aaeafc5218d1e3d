// SPDX-License-Identifier: Apache-2.0
//! Pipe: stands in the place of the hardware of `examples/watchdog`.
//!
//! Each ping is a byte, and the end of the file means that no process has the device open.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::PathBuf;

use rustix::fs::{CWD, FileType, Mode, OFlags, mknodat, open};

use crate::scratch::Scratch;
use crate::until;

/// The reading end.
pub struct Pipe {
    pub path: PathBuf,
    file: File,
    /// Every byte so far.
    pub bytes: Vec<u8>,
    /// Whether no process had it open when it was read last.
    pub is_closed: bool,
}

impl Pipe {
    pub fn new(scratch: &Scratch) -> Self {
        let path = scratch.join("watchdog");
        mknodat(CWD, &path, FileType::Fifo, Mode::RWXU, 0).expect("a pipe");
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = open(&path, flags, Mode::empty()).expect("a pipe").into();
        Self { path, file, bytes: Vec::new(), is_closed: true }
    }

    /// Reads what was written; returns how many pings there were so far.
    pub fn look(&mut self) -> usize {
        loop {
            let mut bytes = [0; 256];
            match self.file.read(&mut bytes) {
                Ok(0) => self.is_closed = true,
                Ok(count) => {
                    self.bytes.extend_from_slice(&bytes[..count]);
                    continue;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.is_closed = false,
                Err(error) => panic!("cannot read the pipe: {error}"),
            }
            return self.bytes.len();
        }
    }

    /// Waits for this many more pings; the device stays open from the first ping on.
    #[track_caller]
    pub fn wait_for(&mut self, pings: usize) {
        let before = self.look();
        until("pings", || {
            let now = self.look();
            assert!(!self.is_closed || now == 0, "the device was closed");
            now >= before + pings
        });
    }
}
