// SPDX-License-Identifier: Apache-2.0
//! Claims: what a row asserts about a boot.
//!
//! A claim that does not hold ends nothing: the row goes on, so that one boot tells all that is
//! wrong with it.

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

    /// What did not hold; a row that has claimed nothing has proved nothing.
    pub(crate) fn broken(self) -> Vec<String> {
        if self.held == 0 && self.broken.is_empty() {
            return vec!["the row claims nothing".to_owned()];
        }
        self.broken
    }
}
