// SPDX-License-Identifier: Apache-2.0
//! Journal: the entries of both stages, read from the disk of a guest that is off.

use crate::tools::output;
use serde_json::{Map, Value};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// One entry.
pub(crate) struct Record {
    fields: Map<String, Value>,
}

impl Record {
    /// A field's text. journalctl prints other fields as lists of bytes; we use none.
    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        self.fields.get(name)?.as_str()
    }

    pub(crate) fn number(&self, name: &str) -> Option<u64> {
        self.field(name)?.parse().ok()
    }

    pub(crate) fn message(&self) -> &str {
        self.field("MESSAGE").unwrap_or_default()
    }

    pub(crate) fn identifier(&self) -> &str {
        self.field("SYSLOG_IDENTIFIER").unwrap_or_default()
    }

    /// Whether any field contains `text`.
    pub(crate) fn mentions(&self, text: &str) -> bool {
        self.fields.values().any(|value| value.as_str().is_some_and(|value| value.contains(text)))
    }

    /// When it was written, by the guest's CLOCK_MONOTONIC; if unknown, when it was received.
    pub(crate) fn at(&self) -> Duration {
        let written = self.number("_SOURCE_MONOTONIC_TIMESTAMP");
        let received = self.number("__MONOTONIC_TIMESTAMP");
        Duration::from_micros(written.or(received).unwrap_or_default())
    }

    /// When the event happened: our entries contain it, for others see [`Self::at`].
    pub(crate) fn made(&self) -> Duration {
        let ours = self.number("ACTUAL_NS").or_else(|| self.number("LOGGED_NS"));
        ours.map_or_else(|| self.at(), Duration::from_nanos)
    }

    /// Whether systemd said this of `unit`.
    pub(crate) fn is_of_systemd(&self, unit: &str) -> bool {
        self.field("_PID") == Some("1") && self.field("UNIT") == Some(unit)
    }
}

/// Reads the journal of a disk that no guest uses.
pub(crate) fn read_disk(disk: &Path, id: &str, scratch: &Path) -> Result<Vec<Record>, String> {
    let dump = format!("rdump /var/log/journal {}", scratch.display());
    output("debugfs", Command::new("debugfs").args(["-R", &dump]).arg(disk))?;
    let files = scratch.join("journal").join(id);
    if !files.exists() {
        return Ok(Vec::new());
    }
    let mut journalctl = Command::new("journalctl");
    journalctl.args(["--merge", "--all", "--output=json", "--directory"]).arg(files);
    parse(&output("journalctl", &mut journalctl)?)
}

fn parse(lines: &str) -> Result<Vec<Record>, String> {
    lines
        .lines()
        .map(|line| {
            let fields = serde_json::from_str(line)
                .map_err(|error| format!("journalctl wrote no JSON: {error}: {line}"))?;
            Ok(Record { fields })
        })
        .collect()
}
