// SPDX-License-Identifier: Apache-2.0
//! Provenance: what a person asks of the process that owns the state: whose state it was, since when
//! it is ours, and who is connected.
//!
//! Read for the `status` line and for `systemctl status`; kept here because the actors that know it
//! are not those that tell it.
//! Never decides anything.

use std::fmt;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use early_service_machine::lifecycle::Phase;
use early_service_machine::schedule::Monotonic;

use crate::cli::Stage;
use crate::handoff::state_file::StateFile;

/// How the process came to own the state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Provenance {
    pub(crate) origin: Origin,
    /// The process that had it before, as far as the kernel vouches for it.
    pub(crate) predecessor: Option<i32>,
    pub(crate) since: Monotonic,
    /// Whether it outlives the process, in a state file.
    pub(crate) is_kept: bool,
}

/// Where the state comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// From nobody.
    New,
    /// From a predecessor that handed it over.
    Adopted,
    /// From an owner that died or stopped.
    Recovered,
}

/// Written once: a handoff that fails gives the state back to where it was.
static STANDING: OnceLock<Provenance> = OnceLock::new();

/// Connections open now; written by the server.
static CLIENTS: AtomicUsize = AtomicUsize::new(0);

/// Whether clients do not find a listener by its name; written by the server.
static UNREACHABLE: AtomicBool = AtomicBool::new(false);

/// The state is ours.
pub(crate) fn begin(provenance: Provenance) {
    // A process comes to own the state only once.
    let _ = STANDING.set(provenance);
}

/// `None` before the state is ours.
pub(crate) fn provenance() -> Option<&'static Provenance> {
    STANDING.get()
}

/// So many clients are connected.
pub(crate) fn count(clients: usize) {
    CLIENTS.store(clients, Ordering::Relaxed);
}

/// What a sign of life tells of clients and sockets: how many clients are connected, and whether a
/// listener is not found by its name.
pub(crate) fn shown() -> (usize, bool) {
    (CLIENTS.load(Ordering::Relaxed), UNREACHABLE.load(Ordering::Relaxed))
}

/// Records whether clients do not find a listener by its name.
pub(crate) fn set_unreachable(is_so: bool) {
    UNREACHABLE.store(is_so, Ordering::Relaxed);
}

/// A phase in a few words: `serving: adopted from process 114`.
pub(crate) fn sentence(phase: Phase) -> String {
    let what = match phase {
        Phase::Booting => "waiting for the lock",
        Phase::Adopting => "asking the predecessor for the state",
        Phase::Serving => match provenance() {
            Some(provenance) if UNREACHABLE.load(Ordering::Relaxed) => {
                return format!("{phase}: {provenance}; the name of a socket is gone");
            }
            Some(provenance) => return format!("{phase}: {provenance}"),
            None => "the state is about to be loaded",
        },
        Phase::Draining => "handing over to a successor",
        Phase::Ended => "writing out the log",
    };
    format!("{phase}: {what}")
}

impl fmt::Display for Provenance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.origin, self.predecessor) {
            (Origin::New, _) => f.write_str("started anew")?,
            (Origin::Adopted, Some(pid)) => write!(f, "adopted from process {pid}")?,
            (Origin::Adopted, None) => f.write_str("adopted from another process")?,
            (Origin::Recovered, Some(pid)) => write!(f, "went on from process {pid}, which died")?,
            (Origin::Recovered, None) => f.write_str("went on from the state file")?,
        }
        f.write_str(if self.is_kept { "" } else { ", without a state file" })
    }
}

impl Origin {
    /// As `status` shows it.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::New => "new",
            Self::Adopted => "adopted",
            Self::Recovered => "recovered",
        }
    }
}

/// The longest beginning of a status line, in bytes: [`StatusHeader`], a space and [`Persistence`].
pub(crate) const MAX_HEADER: usize = 256;

/// The beginning of a status line; what follows is the counter's to say.
pub(crate) struct StatusHeader {
    pub(crate) stage: Stage,
    pub(crate) phase: Phase,
    pub(crate) pid: u32,
    pub(crate) provenance: Option<&'static Provenance>,
    /// How long the state has been ours, in seconds.
    pub(crate) serving_s: u64,
    pub(crate) clients: usize,
    pub(crate) log_lines_dropped: u64,
}

impl fmt::Display for StatusHeader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { stage, phase, pid, provenance, serving_s, clients, log_lines_dropped } = self;
        let (stage, version) = (stage.name(), env!("CARGO_PKG_VERSION"));
        write!(f, "stage={stage} phase={phase} pid={pid} version={version} origin=")?;
        f.write_str(provenance.map_or("none", |provenance| provenance.origin.name()))?;
        match provenance.and_then(|provenance| provenance.predecessor) {
            Some(pid) => write!(f, " predecessor={pid}")?,
            None => f.write_str(" predecessor=none")?,
        }
        write!(f, " serving_s={serving_s} clients={clients} log_lines_dropped={log_lines_dropped}")
    }
}

/// Whether the state outlives the process, as it is now: `state_file=held`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Persistence {
    /// The lock is ours, and the last change stands in the file.
    Held,
    /// The lock is ours, and the last change could not be written.
    Failing,
    /// Without a file, the state ends with the process.
    None,
}

impl Persistence {
    pub(crate) fn of(file: Option<&StateFile>) -> Self {
        match file {
            Some(file) if file.is_failing() => Self::Failing,
            Some(_) => Self::Held,
            None => Self::None,
        }
    }
}

impl fmt::Display for Persistence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Held => "state_file=held",
            Self::Failing => "state_file=failing",
            Self::None => "state_file=none",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::limits;
    use std::fs::File;

    use early_service_machine::Counter;
    use early_service_machine::record::Unlogged;
    use early_service_machine::schedule::Period;
    use early_service_machine::timeline::Ticking;

    #[test]
    fn the_longest_head_is_within_its_bound() {
        static LONGEST: Provenance = Provenance {
            origin: Origin::Recovered,
            predecessor: Some(i32::MIN),
            since: Monotonic::from_nanos(0),
            is_kept: true,
        };
        let head = StatusHeader {
            stage: Stage::Initrd,
            phase: Phase::Adopting,
            pid: u32::MAX,
            provenance: Some(&LONGEST),
            serving_s: u64::MAX / 1_000_000_000,
            clients: limits::CLIENTS + limits::RESERVE,
            log_lines_dropped: u64::MAX,
        };
        let length = format!("{head} {}", Persistence::Failing).len();
        assert!(length <= MAX_HEADER, "{length} bytes");
    }

    #[test]
    fn a_file_that_cannot_be_written_any_more_is_failing() {
        let full = File::options().read(true).write(true).open("/dev/full").expect("a device");
        let mut file = StateFile::on(full.into());
        assert_eq!(Persistence::of(Some(&file)), Persistence::Held);
        let period = Period::from_millis(100).expect("100 is not 0");
        let counter = Ticking::starting(Counter::default(), Monotonic::from_nanos(0), period);
        file.store(counter.snapshot(), Unlogged::default());
        assert_eq!(Persistence::of(Some(&file)), Persistence::Failing);
        assert_eq!(Persistence::of(None), Persistence::None);
    }

    #[test]
    fn a_standing_reads_as_a_sentence() {
        let (new, adopted, recovered) = (Origin::New, Origin::Adopted, Origin::Recovered);
        for (origin, predecessor, is_kept, text) in [
            (new, None, true, "started anew"),
            (new, None, false, "started anew, without a state file"),
            (adopted, Some(114), true, "adopted from process 114"),
            (adopted, None, true, "adopted from another process"),
            (recovered, Some(114), true, "went on from process 114, which died"),
            (recovered, None, true, "went on from the state file"),
        ] {
            let since = Monotonic::from_nanos(0);
            let provenance = Provenance { origin, predecessor, since, is_kept };
            assert_eq!(provenance.to_string(), text);
        }
    }
}
