// SPDX-License-Identifier: Apache-2.0
//! Claims: what a row asserts about a boot.
//!
//! A broken claim does not end its row, so one boot reports everything that is wrong.

use std::fmt::Display;

/// The claims of one row so far.
#[derive(Default)]
pub(crate) struct Claims {
    held: usize,
    broken: Vec<String>,
}

impl Claims {
    /// States `claim`; `seen` is printed if it does not hold.
    pub(crate) fn that(&mut self, claim: &str, holds: bool, seen: impl Display) {
        if holds {
            self.held += 1;
        } else {
            self.broken.push(format!("{claim}: {seen}"));
        }
    }

    /// The broken claims; a row without claims proves nothing.
    pub(crate) fn broken(self) -> Vec<String> {
        if self.held == 0 && self.broken.is_empty() {
            return vec!["the row claims nothing".to_owned()];
        }
        self.broken
    }
}
