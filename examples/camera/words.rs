// SPDX-License-Identifier: Apache-2.0
//! Texts of the camera, for people and the journal.

use std::fmt::{Formatter, Result};

use early_service::Service;

use crate::state::Camera;

impl Service for Camera {
    const VERSION: &'static str = "7.1";
    const ABOUT: &'static str =
        "Counts frames from the initrd on, and hands the camera to the root filesystem.";
    const WHAT: &'static str = "camera";

    fn write_tick(&self, f: &mut Formatter<'_>) -> Result {
        write!(f, "Frame {}, {}", self.frame, self.gear)
    }

    /// Without the overlay, because a longer record would take two slots of the log's queue.
    fn fields(&self) -> impl IntoIterator<Item = (&'static str, u64)> {
        [("FRAME", self.frame)]
    }

    fn write_change(&self, previous: &Self, f: &mut Formatter<'_>) -> Result {
        let Self { frame, gear, overlay } = self;
        let previous = previous.frame;
        write!(f, "Continuing at frame {frame}, previous frame {previous}, in {gear} as {overlay}")
    }

    fn write_last(&self, ticks: u64, f: &mut Formatter<'_>) -> Result {
        let (first, last) = (self.frame.wrapping_sub(ticks), self.frame.wrapping_sub(1));
        match ticks {
            1 => write!(f, "Frame {last}"),
            _ => write!(f, "Frames {first} to {last}"),
        }
    }

    fn write_last_before_change(&self, ticks: u64, since: u64, f: &mut Formatter<'_>) -> Result {
        let first = self.frame.wrapping_sub(since);
        write!(f, "The last {ticks} before the camera continued at frame {first}")
    }
}
