// SPDX-License-Identifier: Apache-2.0
//! Service: the differences between the programs that pass the same tests.
//!
//! All programs count something. Their lines are translated to the counter's, and judged by the
//! same rules.

use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::OnceLock;

use testkit::build;
use testkit::daemon;
use testkit::load::{self, Words};

/// One program.
#[derive(Debug)]
pub(crate) struct Service {
    pub(crate) program: fn() -> OsString,
    /// The commands and replies of its clients.
    pub(crate) words: &'static Words,
    /// Translates a log line to the counter's words; `None` if they are the same.
    translate: fn(&str) -> Option<String>,
}

impl Service {
    /// A log line in the counter's words.
    pub(crate) fn in_words_of_the_counter(&self, message: String) -> String {
        (self.translate)(&message).unwrap_or(message)
    }
}

pub(crate) static COUNTER: Service =
    Service { program: daemon::binary, words: &load::COUNTER, translate: |_| None };

/// The meter of testkit.
pub(crate) static METER: Service = Service {
    program: || {
        static BUILT: OnceLock<PathBuf> = OnceLock::new();
        let build = || build::example_of("testkit", "meter");
        BUILT.get_or_init(|| build().unwrap_or_else(|error| panic!("{error}"))).into()
    },
    words: &Words {
        get: "get_reading",
        set: "set_reading",
        previous: "previous reading ",
        key: "reading",
    },
    translate: |message| {
        if let Some(rest) = message.strip_prefix("Continuing at reading ") {
            let (reading, rest) = rest.split_once(", previous ")?;
            let (previous, _) = rest.split_once(", in ")?;
            return Some(format!("Setting the counter to {reading}, previous value {previous}"));
        }
        if let Some(rest) = message.strip_prefix("Reading ") {
            return rest.strip_suffix(", bar").map(str::to_owned);
        }
        let lost = message.strip_prefix("warning: ")?;
        Some(if let Some(readings) = lost.strip_prefix("Reading") {
            format!("warning: Number{readings}")
        } else {
            message.replace(
                " before the meter continued at reading ",
                " before the counter was set to ",
            )
        })
    },
};

/// The example of this name; builds it if necessary.
pub(crate) fn example(name: &str) -> PathBuf {
    build::example(name).unwrap_or_else(|error| panic!("{error}"))
}
