// SPDX-License-Identifier: Apache-2.0
//! Writer thread: takes records from the queue and writes them to one of three destinations.
//!
//! The process that starts this one chooses the destination, see [`Destination`]. In an initrd
//! without a journal, ticks are not written, and all other records are written to the kernel log
//! until there is a journal. Around the switch of root the journal cannot be reached for a moment
//! (see [`switch_root`](crate::platform::switch_root)); the writer then holds the record and tries
//! again.
//!
//! Owns the connection to the journal. Ends when the queue is closed and empty.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::fd::AsFd;
use std::process;
use std::thread;
use std::time::{Duration, Instant};

use early_service_machine::bounds::MAX_SERVICE;
use log::{Level, Record};
use rustix::fs::{FileType, fstat, major, minor};
use systemd_journal_logger::{JournalLog, connected_to_journal};

use crate::cli::Stage;
use crate::journal::message_id::{Id, MESSAGE_ID};
use crate::journal::record::{Entry, MAX_TEXT};
use crate::journal::shared::Log;

/// How long the writer holds a record that cannot be written. The new root is entered within a tick
/// of the switch, but a machine that is busy with the switch can take seconds. Longer: useless,
/// because the queue is full by then.
const RETRY_LIMIT: Duration = Duration::from_secs(25);

/// The time between two attempts to write a record.
const RETRY: Duration = Duration::from_millis(20);

/// The destination of the log, chosen by the process that started this one.
///
/// systemd sets `$JOURNAL_STREAM` (systemd.exec(5)) if it has connected standard error to the
/// journal. The variable is not set for `StandardError=append:`, for `StandardError=null`, or on a
/// terminal.
enum Destination {
    Journal,
    StandardError,
    /// systemd found no journal: it connected standard error to `/dev/null` and did not set
    /// `$JOURNAL_STREAM`. In an initrd without a journal, and only there, `StandardError=null`
    /// looks the same.
    NoJournal,
}

impl Destination {
    fn of(stage: Stage, identifier: &str) -> Self {
        // `$SYSTEMD_EXEC_PID` names the process that systemd itself has started.
        let by_systemd =
            || std::env::var("SYSTEMD_EXEC_PID").is_ok_and(|pid| pid == process::id().to_string());
        if connected_to_journal() {
            Self::Journal
        } else if stage == Stage::Initrd && by_systemd() && is_null(io::stderr()) {
            // If there were a journal, systemd would have connected standard error to it.
            open_journal(stage, identifier).map_or(Self::NoJournal, |_| Self::StandardError)
        } else {
            Self::StandardError
        }
    }
}

/// Whether `file` is `/dev/null` (null(4)).
fn is_null(file: impl AsFd) -> bool {
    fstat(file).is_ok_and(|status| {
        FileType::from_raw_mode(status.st_mode) == FileType::CharacterDevice
            && (major(status.st_rdev), minor(status.st_rdev)) == (1, 3)
    })
}

/// Room for the beginning of a line on standard error: time, identifier, process id and severity.
const HEADER: usize = 64 + MAX_SERVICE;

/// The open destination.
enum Sink {
    Journal(JournalLog),
    /// `/dev/kmsg`, held open because it has no name after the switch of root.
    KernelLog(File),
    StandardError,
}

/// The state of the writer thread.
pub(super) struct Writer {
    log: &'static Log,
    stage: Stage,
    /// The identifier of each line.
    identifier: String,
    /// The `TARGET=` of each line in the journal.
    target: String,
    sink: Sink,
    /// When writing began to fail, if the last attempt failed.
    failing_since: Option<Instant>,
    /// How long writing may fail until a record is dropped.
    retry_limit: Duration,
    /// The number of dropped records that was logged.
    reported: u64,
}

impl Writer {
    /// To be called by the thread itself, because connecting to the journal sends a datagram, which
    /// may block.
    pub(super) fn open(log: &'static Log, stage: Stage, service: &str) -> Self {
        let (identifier, target) = (stage.identifier(service), service.replace('-', "_"));
        let journal = || open_journal(stage, &identifier).map(Sink::Journal);
        let kernel_log = || OpenOptions::new().write(true).open("/dev/kmsg").map(Sink::KernelLog);
        let sink = match Destination::of(stage, &identifier) {
            Destination::Journal if stage == Stage::Initrd => journal().or_else(|_| kernel_log()),
            Destination::Journal => journal(),
            Destination::NoJournal => kernel_log(),
            Destination::StandardError => Ok(Sink::StandardError),
        };
        let sink = sink.unwrap_or(Sink::StandardError);
        let (failing_since, retry_limit, reported) = (None, RETRY_LIMIT, 0);
        Self { log, stage, identifier, target, sink, failing_since, retry_limit, reported }
    }

    /// Drops a record at the first failure.
    pub(super) fn without_retries(self) -> Self {
        Self { retry_limit: Duration::ZERO, ..self }
    }

    /// Writes records until the queue is closed and empty.
    pub(super) fn write_until_closed(mut self) {
        while let Some(entry) = Entry::receive(self.log.records) {
            if !self.write_with_retries(&entry) {
                self.log.count_dropped();
                continue;
            }
            self.log.set_written(&entry);
            if self.log.dropped() > self.reported {
                self.report_dropped();
            }
        }
    }

    /// Writes a record, or tries until [`RETRY_LIMIT`]; returns whether it is written.
    fn write_with_retries(&mut self, entry: &Entry) -> bool {
        if matches!(self.sink, Sink::KernelLog(_)) {
            // A journal may have started since.
            if let Ok(journal) = open_journal(self.stage, &self.identifier) {
                self.sink = Sink::Journal(journal);
            }
        }
        while self.write(entry).is_err() {
            if self.failing_since.get_or_insert_with(Instant::now).elapsed() >= self.retry_limit {
                return false;
            }
            thread::sleep(RETRY);
        }
        self.failing_since = None;
        true
    }

    fn write(&self, entry: &Entry) -> io::Result<()> {
        match &self.sink {
            Sink::Journal(journal) => journal.journal_send(
                &Record::builder()
                    .level(entry.level())
                    .target(&self.target)
                    .args(format_args!("{}", entry.message()))
                    .key_values(entry)
                    .build(),
            ),
            Sink::KernelLog(_) if entry.tick().is_some() => Ok(()),
            Sink::KernelLog(kernel_log) => {
                let mut kernel_log = kernel_log;
                kernel_log.write_all(entry.kernel_line(&self.identifier).as_bytes())
            }
            Sink::StandardError => {
                let mut line = [0; MAX_TEXT + HEADER];
                let mut room = &mut line[..];
                entry.write_line(&self.identifier, &mut room)?;
                let left = room.len();
                io::stderr().write_all(&line[..line.len() - left])
            }
        }
    }

    /// Logs how many lines are missing.
    fn report_dropped(&mut self) {
        let dropped = self.log.dropped();
        let missing = dropped - self.reported;
        let report = Entry::new(
            &Record::builder()
                .level(Level::Warn)
                .args(format_args!("{missing} log lines dropped: the log was not read fast enough"))
                .key_values(&[(MESSAGE_ID, Id::LinesDropped)])
                .build(),
            self.log.phase(),
            None,
        );
        if self.write(&report).is_ok() {
            self.reported = dropped;
        }
    }
}

/// Connects to the journal; fails if there is none.
fn open_journal(stage: Stage, identifier: &str) -> io::Result<JournalLog> {
    let journal = JournalLog::empty()?.with_syslog_identifier(identifier.to_owned());
    Ok(journal.add_extra_field("STAGE", stage.name()))
}
