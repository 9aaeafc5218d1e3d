// SPDX-License-Identifier: Apache-2.0
//! Options: what the command line says, checked.

use std::ffi::OsString;
use std::fmt;
use std::time::Duration;

use lexopt::{Arg, Parser, ValueExt};

/// The text of `--help`.
pub(crate) const HELP: &str = "\
Hands the count over again and again, with clients, kills and stops, and says what was lost.

Usage: cargo run --release --example soak -- [OPTION]...

Options:
      --minutes N  how long, such as 10 or 0.5 (10)
      --seed S     choose rounds, times and clients as the run with this seed did
  -h, --help       show this text
";

/// More is taken for a slip of the finger.
const YEAR: f64 = 366.0 * 24.0 * 60.0;

/// What to do.
#[derive(Debug)]
pub(crate) enum Command {
    Run(Options),
    Help,
}

#[derive(Debug)]
pub(crate) struct Options {
    pub(crate) duration: Duration,
    /// Absent: another one each time.
    pub(crate) seed: Option<u64>,
}

/// A command line that cannot be carried out.
#[derive(Debug)]
pub(crate) enum Error {
    Syntax(lexopt::Error),
    Minutes(OsString),
    Seed(OsString),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Syntax(error) => error.fmt(f),
            Self::Minutes(value) => write!(
                f,
                "invalid value '{}' for option '--minutes': expected more than 0 and at most a year",
                value.to_string_lossy()
            ),
            Self::Seed(value) => write!(
                f,
                "invalid value '{}' for option '--seed': expected 0 to {}",
                value.to_string_lossy(),
                u64::MAX
            ),
        }
    }
}

impl From<lexopt::Error> for Error {
    fn from(error: lexopt::Error) -> Self {
        Self::Syntax(error)
    }
}

/// Reads the command line.
pub(crate) fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Command, Error> {
    let mut options = Options { duration: Duration::from_secs(600), seed: None };
    let mut parser = Parser::from_args(arguments);
    while let Some(argument) = parser.next()? {
        match argument {
            Arg::Long("minutes") => {
                let value = parser.value()?;
                options.duration = minutes(&value).ok_or(Error::Minutes(value))?;
            }
            Arg::Long("seed") => {
                let value = parser.value()?;
                options.seed = Some(value.parse().map_err(|_| Error::Seed(value))?);
            }
            Arg::Short('h') | Arg::Long("help") => return Ok(Command::Help),
            other => return Err(other.unexpected().into()),
        }
    }
    Ok(Command::Run(options))
}

fn minutes(value: &OsString) -> Option<Duration> {
    let minutes = value.parse::<f64>().ok().filter(|minutes| *minutes <= YEAR)?;
    Duration::try_from_secs_f64(minutes * 60.0).ok().filter(|duration| !duration.is_zero())
}
