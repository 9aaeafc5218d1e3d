// SPDX-License-Identifier: Apache-2.0
//! Line: one log line, in its parts.

/// One line of standard error: `[   12.345678] early-service[323]: Listening on …`.
#[derive(Clone, Debug)]
pub struct Line {
    /// When it was logged, in nanoseconds of `CLOCK_MONOTONIC`.
    pub time: u64,
    pub identifier: String,
    pub pid: u32,
    pub message: String,
}

impl Line {
    pub fn read(line: &str) -> Self {
        Self::parse(line).unwrap_or_else(|| Self::foreign(line))
    }

    fn parse(line: &str) -> Option<Self> {
        let (time, rest) = line.strip_prefix('[')?.split_once("] ")?;
        let (seconds, microseconds) = time.trim_start().split_once('.')?;
        let microseconds = microseconds.parse::<u64>().ok()?;
        let (sender, message) = rest.split_once(": ")?;
        let (identifier, pid) = sender.strip_suffix(']')?.split_once('[')?;
        Some(Self {
            time: seconds.parse::<u64>().ok()? * 1_000_000_000 + microseconds * 1000,
            identifier: identifier.to_owned(),
            pid: pid.parse().ok()?,
            message: message.to_owned(),
        })
    }

    /// A line that is not a log line, such as an error of the command line.
    fn foreign(line: &str) -> Self {
        Self { time: 0, identifier: String::new(), pid: 0, message: line.to_owned() }
    }
}
