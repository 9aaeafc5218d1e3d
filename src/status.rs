// SPDX-License-Identifier: Apache-2.0
//! Status of the process, for the `status` command and for `systemctl status`.
//!
//! Responsible for the texts about the owner of the state: where the state came from, since when
//! this process has owned it, and how many clients are connected.
//!
//! [`Status`] is shared, because the actors that know its parts are not those that report it. Never
//! decides anything. Lives as long as the actors.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::io;

use early_service_machine::device::{self, Need};
use early_service_machine::lifecycle::Phase;
use early_service_machine::lifecycle::takeover::Origin;
use early_service_machine::schedule::Monotonic;

use crate::cli::Stage;
use crate::handoff::state_file::StateFile;

/// The facts about the process that the actors share on their one thread.
#[derive(Debug, Default)]
pub(crate) struct Status {
    /// How the process came to own the state; set once, by the handoff actor.
    pub(crate) provenance: Cell<Option<Provenance>>,
    /// The number of open connections; set by the server.
    pub(crate) clients: Cell<usize>,
    /// Whether clients cannot find a listener by its name; set by the server.
    pub(crate) is_unreachable: Cell<bool>,
    /// The device of the service, if it has one; set by the device actor.
    pub(crate) device: Cell<Option<device::Device>>,
    /// Why the device cannot be opened, or the error that it reports; empty while it works.
    device_error: RefCell<String>,
    /// Whether the device is open and reports an error.
    is_unhealthy: Cell<bool>,
    /// Whether a successor in the same unit owns the state; set by the handoff actor.
    pub(crate) is_replaced: Cell<bool>,
    /// Whether one of these has changed since the last report to PID 1.
    pub(crate) device_changed: Cell<bool>,
}

/// How the process came to own the state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Provenance {
    pub(crate) origin: Origin,
    /// The process that owned the state before, if the kernel has confirmed its process id.
    pub(crate) predecessor: Option<i32>,
    pub(crate) since: Monotonic,
    /// Whether a state file keeps the state when the process ends.
    pub(crate) is_kept: bool,
}

impl Status {
    /// A phase in a few words, and the error of the device: `serving: adopted from process 114`.
    pub(crate) fn sentence(&self, phase: Phase) -> String {
        let sentence = self.phase_sentence(phase);
        match &*self.device_error.borrow() {
            error if error.is_empty() => sentence,
            error => format!("{sentence}; device: {error}"),
        }
    }

    fn phase_sentence(&self, phase: Phase) -> String {
        let what = match phase {
            Phase::Booting => "waiting for the lock",
            Phase::Adopting => "asking the predecessor for the state",
            Phase::Serving => match self.provenance.get() {
                Some(provenance) if self.is_unreachable.get() => {
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

    /// Sets the error with which the device failed or cannot be opened; returns whether the error
    /// has changed.
    pub(crate) fn device_failed(&self, error: &io::Error) -> bool {
        let error = error.to_string();
        self.is_unhealthy.set(false);
        self.device_changed.set(true);
        self.device_error.replace(error.clone()) != error
    }

    /// Sets the result that the device reports.
    pub(crate) fn set_health(&self, health: Result<(), &str>) {
        self.is_unhealthy.set(health.is_err());
        self.device_changed.set(true);
        self.device_error.replace(health.err().unwrap_or_default().to_owned());
    }

    /// Whether the device reports that it does not do its work.
    pub(crate) fn is_unhealthy(&self) -> bool {
        self.is_unhealthy.get()
    }

    /// Whether the service has no device, or a device that works.
    pub(crate) fn is_device_ready(&self) -> bool {
        match self.device.get() {
            None => true,
            Some(device) => device == device::Device::Running && !self.is_unhealthy(),
        }
    }

    /// The value of `device=`; none if the service has no device.
    pub(crate) fn device_name(&self) -> Option<&'static str> {
        Some(match self.device.get()? {
            device::Device::Running if self.is_unhealthy() => "failing",
            device::Device::Running => "running",
            device::Device::Opening(Need::Failed(_)) => "failing",
            device::Device::Opening(_) => "opening",
            _ => "waiting",
        })
    }
}

impl fmt::Display for Provenance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.origin, self.predecessor) {
            (Origin::New, _) => f.write_str("started anew")?,
            (Origin::Adopted, Some(pid)) => write!(f, "adopted from process {pid}")?,
            (Origin::Adopted, None) => f.write_str("adopted from another process")?,
            (Origin::Recovered, Some(pid)) => {
                write!(f, "recovered from process {pid}, which died")?
            }
            (Origin::Recovered, None) => f.write_str("recovered from the state file")?,
        }
        f.write_str(if self.is_kept { "" } else { ", without a state file" })
    }
}

/// The value of `origin=`.
const fn name(origin: Origin) -> &'static str {
    match origin {
        Origin::New => "new",
        Origin::Adopted => "adopted",
        Origin::Recovered => "recovered",
    }
}

/// The maximum length of [`Service::VERSION`](crate::Service::VERSION), in bytes.
pub(crate) const MAX_VERSION: usize = 32;

/// The maximum length of a status line before the fields of the state, in bytes: [`StatusHeader`],
/// a space and [`Persistence`].
pub(crate) const MAX_HEADER: usize = 256;

/// The beginning of a status line; the ticker adds the fields that it knows.
pub(crate) struct StatusHeader {
    pub(crate) stage: Stage,
    pub(crate) phase: Phase,
    pub(crate) version: &'static str,
    pub(crate) pid: u32,
    pub(crate) provenance: Option<Provenance>,
    /// How long this process has owned the state, in seconds.
    pub(crate) serving_s: u64,
    pub(crate) clients: usize,
    pub(crate) log_lines_dropped: u64,
    /// The activity of the device, if there is one.
    pub(crate) device: Option<&'static str>,
}

impl fmt::Display for StatusHeader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { phase, version, pid, provenance, serving_s, clients, log_lines_dropped, .. } =
            self;
        let stage = self.stage.name();
        write!(f, "stage={stage} phase={phase} pid={pid} version={version} origin=")?;
        f.write_str(provenance.map_or("none", |provenance| name(provenance.origin)))?;
        match provenance.and_then(|provenance| provenance.predecessor) {
            Some(pid) => write!(f, " predecessor={pid}")?,
            None => f.write_str(" predecessor=none")?,
        }
        write!(
            f,
            " serving_s={serving_s} clients={clients} log_lines_dropped={log_lines_dropped}"
        )?;
        self.device.map_or(Ok(()), |device| write!(f, " device={device}"))
    }
}

/// Whether the state would survive the process now: `state_file=held`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Persistence {
    /// This process holds the lock, and the last change is in the file.
    Held,
    /// This process holds the lock, and the last change could not be written.
    Failing,
    /// There is no file, so the state ends with the process.
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
    use early_service_machine::contract::RESERVED;
    use early_service_machine::record::Unlogged;
    use early_service_machine::schedule::Period;
    use early_service_machine::timeline::Ticking;

    #[test]
    fn the_longest_header_is_within_its_bound() {
        let provenance = Provenance {
            origin: Origin::Recovered,
            predecessor: Some(i32::MIN),
            since: Monotonic::from_nanos(0),
            is_kept: true,
        };
        let header = StatusHeader {
            stage: Stage::Initrd,
            phase: Phase::Adopting,
            version: "x".repeat(MAX_VERSION).leak(),
            pid: u32::MAX,
            provenance: Some(provenance),
            serving_s: u64::MAX / 1_000_000_000,
            clients: limits::CLIENTS + limits::RESERVE,
            log_lines_dropped: u64::MAX,
            device: Some("running"),
        };
        let length = format!("{header} {}", Persistence::Failing).len();
        assert!(length <= MAX_HEADER, "{length} bytes");
        let line = format!("{header} {} ticks_due=0 ticks_late=0", Persistence::None);
        for (key, _) in line.split(' ').filter_map(|field| field.split_once('=')) {
            assert!(RESERVED.contains(&key), "{key} can be a key of a state");
        }
    }

    #[test]
    fn a_file_that_cannot_be_written_is_failing() {
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
    fn the_provenance_reads_as_a_sentence() {
        let (new, adopted, recovered) = (Origin::New, Origin::Adopted, Origin::Recovered);
        for (origin, predecessor, is_kept, text) in [
            (new, None, true, "started anew"),
            (new, None, false, "started anew, without a state file"),
            (adopted, Some(114), true, "adopted from process 114"),
            (adopted, None, true, "adopted from another process"),
            (recovered, Some(114), true, "recovered from process 114, which died"),
            (recovered, None, true, "recovered from the state file"),
        ] {
            let since = Monotonic::from_nanos(0);
            let provenance = Provenance { origin, predecessor, since, is_kept };
            assert_eq!(provenance.to_string(), text);
        }
    }
}
