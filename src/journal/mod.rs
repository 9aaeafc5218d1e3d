// SPDX-License-Identifier: Apache-2.0
//! Journal: takes log records from the loop and has them written by a thread of its own.
//!
//! Both places where a record can go block: journald's socket when journald is away, which it is
//! for seconds around the switch of root, and standard error when nobody reads it.
//! A tick or a reply must wait for neither, so [`Logger`] only puts a record into a bounded queue
//! ([`queue`]), and one thread with a small stack takes them out again and writes.
//!
//! Owns the queue and the thread.
//! Never blocks a thread that logs, and allocates nothing for a record: its text lies in the queue.
//! Ends when the queue is closed and written out, or at [`FLUSH_LIMIT`].
//!
//! Around the switch of root the journal cannot be named for a moment (see [`root`](crate::platform::switch_root)):
//! the writer then keeps the record in its hand and tries again.
//! Where an initrd has no journal, ticks are not recorded and all other lines go to the kernel log,
//! until there is a journal.
//! Whoever started the process decides whether the log goes to the journal, see [`Destination`].
//!
//! **Invariant:** a record is written, or counted as dropped, but for ticks where there is only the
//! kernel log; the count is reported as soon as there is something to write to.

pub(crate) mod message_id;
pub(crate) mod queue;
pub(crate) mod rate_limit;

use std::fmt::{self, Write as _};
use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::num::NonZeroU64;
use std::os::fd::AsFd;
use std::process;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use early_service_machine::lifecycle::Phase;
use early_service_machine::schedule::Monotonic;
use log::kv::{self, Key, Value, VisitSource};
use log::{Level, LevelFilter, Log, Metadata, Record};
use rustix::fs::{FileType, fstat, major, minor};
use smol::Timer;
use systemd_journal_logger::{JournalLog, connected_to_journal};

use crate::cli::Stage;
use crate::journal::message_id::{Id, MESSAGE_ID};
use crate::journal::queue::{Queue, Taken};
use crate::platform::clock;
use crate::platform::switch_root::drop_capabilities;

/// How many places for records there are: 25 s of ticks at 100 ms, in 32 kB.
///
/// With fewer, a journald that is away for long costs lines; more is memory that is hardly used.
const QUEUE: usize = 256;

/// How many of them may be about what clients asked for: whatever they do, ticks find room.
const ASKED_FOR: usize = QUEUE / 2;

/// The bytes of one record: its message and its fields.
///
/// 96 fit into one place; a tick of the counter takes 80 after a month.
///
/// The longest line names a socket path of 107.
const TEXT: usize = 240;

/// The writer's stack: formatting and one system call.
const STACK: usize = 64 * 1024;

/// How long the end of the process waits for queued records.
///
/// A journal that blocks must not hold up power-off; systemd would wait for us.
const FLUSH_LIMIT: Duration = Duration::from_millis(500);

/// In how many steps it waits.
///
/// While the process is stopped (SIGSTOP) the clock goes on and the writer does not: one step is
/// over then, and the writer has the others.
const FLUSH_STEPS: u32 = 10;

/// How long the writer holds a record that cannot be written, and how often it tries.
///
/// The new root is entered within a tick of the switch, but a machine that is busy switching can
/// take seconds; longer than the queue lasts would be of no use.
const PATIENCE: Duration = Duration::from_secs(25);
const RETRY: Duration = Duration::from_millis(20);

/// The target of a tick's record: there are too many of them for the kernel log.
pub(crate) const TICK: &str = "tick";

/// The target of a record of what a client asked for.
pub(crate) const CLIENT: &str = "client";

/// Records that were not written: no room in the queue, or refused by the journal.
static DROPPED: AtomicU64 = AtomicU64::new(0);

/// How many ticks were logged, and how many had been when the last one was logged that was written.
static TICKS_LOGGED: AtomicU64 = AtomicU64::new(0);
static TICKS_WRITTEN: AtomicU64 = AtomicU64::new(0);

/// How many of the last ticks are not known to be written: queued, or dropped since.
pub(crate) fn unlogged() -> u64 {
    TICKS_LOGGED.load(Ordering::Relaxed).saturating_sub(TICKS_WRITTEN.load(Ordering::Relaxed))
}

/// Counts ticks that the next record of a tick stands for; the record itself counts as one.
pub(crate) fn count_ticks(ticks: u64) {
    TICKS_LOGGED.fetch_add(ticks, Ordering::Relaxed);
}

/// The phase that `PHASE=` names: set by the supervisor, read where a record is made.
static PHASE: AtomicU8 = AtomicU8::new(Phase::Booting as u8);

/// How many records were not written since the start.
pub(crate) fn dropped() -> u64 {
    DROPPED.load(Ordering::Relaxed)
}

/// From now on, records carry this phase.
pub(crate) fn enter(phase: Phase) {
    PHASE.store(phase as u8, Ordering::Relaxed);
}

/// The phase of the records made now.
pub(crate) fn phase() -> Phase {
    let phase = usize::from(PHASE.load(Ordering::Relaxed));
    Phase::ALL.get(phase).copied().unwrap_or(Phase::Booting)
}

/// How long one catching up may wait for the log's writer in all.
///
/// Longer, and clients wait for their replies meanwhile; shorter, and more lines are dropped.
const CATCH_UP: Duration = Duration::from_millis(100);

/// What is left of the time that a burst of records may wait for the writer.
pub(crate) struct Patience {
    left: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self { left: CATCH_UP }
    }
}

impl Patience {
    /// A writer that has done nothing for so long stands still, even on a busy machine.
    const STEP: Duration = Duration::from_millis(10);

    /// Waits until the queue has room for `records`, as long as the writer gets on.
    ///
    /// A writer that stands still is not waited for: then records are dropped.
    pub(crate) async fn wait_for_room(&mut self, records: usize) {
        let waiting = || RECORDS.len();
        while waiting() + records > QUEUE && !self.left.is_zero() {
            let before = waiting();
            Timer::after(Self::STEP).await;
            self.left = self.left.saturating_sub(Self::STEP);
            if waiting() >= before {
                return;
            }
        }
    }
}

/// The records that wait for the writer.
static RECORDS: Queue<QUEUE> = Queue::new();

/// The thread that writes, which parks while the queue is empty.
static WRITER: OnceLock<Thread> = OnceLock::new();

fn wake_writer() {
    if let Some(writer) = WRITER.get() {
        writer.unpark();
    }
}

/// The writer: to be started once the socket is bound, and flushed at the end.
pub(crate) struct Journal {
    stage: Stage,
    /// Set at the writer's end.
    ended: Option<Arc<AtomicBool>>,
}

impl Journal {
    /// Sends every record of this process into the queue.
    pub(crate) fn install(stage: Stage) -> Self {
        if log::set_logger(&Logger).is_ok() {
            log::set_max_level(LevelFilter::Info);
        }
        Self { stage, ended: None }
    }

    /// Starts the thread that writes.
    pub(crate) fn start(&mut self) -> io::Result<()> {
        let (stage, flushing) = (self.stage, thread::current());
        let ended = Arc::new(AtomicBool::new(false));
        let has_ended = Arc::clone(&ended);
        let thread = thread::Builder::new().name("journal".to_owned()).stack_size(STACK);
        let writer = thread.spawn(move || {
            if stage == Stage::Initrd {
                // It cannot fail for one who has them, and one who has none loses nothing.
                let _ = drop_capabilities();
            }
            Writer::open(stage).write_until_closed(&RECORDS);
            ended.store(true, Ordering::Release);
            flushing.unpark();
        })?;
        let _ = WRITER.set(writer.thread().clone());
        self.ended = Some(has_ended);
        Ok(())
    }

    /// Writes out what is queued, waiting for at most [`FLUSH_LIMIT`]; whether every tick is written.
    pub(crate) fn flush(mut self) -> bool {
        if self.ended.is_none() && self.start().is_err() {
            // There is no thread to be had, and the log is to say so.
            write_here(self.stage);
        }
        RECORDS.close();
        wake_writer();
        // Not by a timer of the reactor, which may be what the process could not start.
        if let Some(ended) = self.ended {
            for _ in 0..FLUSH_STEPS {
                if ended.load(Ordering::Acquire) {
                    break;
                }
                thread::park_timeout(FLUSH_LIMIT / FLUSH_STEPS);
            }
        }
        unlogged() == 0
    }
}

/// Writes out what is queued from this thread, where there is no thread for it: each record is tried
/// once, which may block.
pub(crate) fn write_here(stage: Stage) {
    RECORDS.close();
    Writer { patience: Duration::ZERO, ..Writer::open(stage) }.write_until_closed(&RECORDS);
}

/// Where the log goes, by the word of whoever started the process.
///
/// systemd says in `$JOURNAL_STREAM` (systemd.exec(5)) that it connected standard error to the
/// journal; a person in a terminal, `StandardError=append:` or `StandardError=null` do not.
enum Destination {
    Journal,
    StandardError,
    /// Where systemd finds no journal, it connects standard error to `/dev/null` and sets no
    /// `$JOURNAL_STREAM`.
    ///
    /// `StandardError=null` looks the same in an initrd that has no journal, and only there.
    NoJournal,
}

impl Destination {
    fn of(stage: Stage) -> Self {
        // `$SYSTEMD_EXEC_PID` names the process that systemd itself started.
        let by_systemd =
            || std::env::var("SYSTEMD_EXEC_PID").is_ok_and(|pid| pid == process::id().to_string());
        if connected_to_journal() {
            Self::Journal
        } else if stage == Stage::Initrd && by_systemd() && is_null(io::stderr()) {
            // Were there one, systemd would have connected us to it.
            open_journal(stage).map_or(Self::NoJournal, |_| Self::StandardError)
        } else {
            Self::StandardError
        }
    }
}

/// Whether writing to `file` is writing to `/dev/null` (null(4)).
fn is_null(file: impl AsFd) -> bool {
    fstat(file).is_ok_and(|status| {
        FileType::from_raw_mode(status.st_mode) == FileType::CharacterDevice
            && (major(status.st_rdev), minor(status.st_rdev)) == (1, 3)
    })
}

/// The front end of `log`: turns a record into an entry of the queue.
struct Logger;

impl Log for Logger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= Level::Info
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        if record.target() == TICK {
            count_ticks(1);
        }
        // A full queue is asked first: what will be dropped need not be formatted.
        let room = if record.target() == CLIENT { ASKED_FOR } else { QUEUE };
        if RECORDS.len() >= room || !Entry::new(record).queue(&RECORDS, room) {
            DROPPED.fetch_add(1, Ordering::Relaxed);
        }
        wake_writer();
    }

    fn flush(&self) {}
}

/// A record on its way to the writer.
struct Entry {
    head: Head,
    text: Text,
}

/// All of a record but its text.
#[derive(Clone, Copy)]
struct Head {
    severity: Severity,
    phase: Phase,
    /// What the catalog explains it by; not in the text, where it would take 44 bytes.
    id: Option<Id>,
    /// Where the message ends and the fields begin.
    message: u16,
    /// How many ticks were logged up to this one, where it is one.
    tick: Option<NonZeroU64>,
    time: Monotonic,
}

impl Head {
    fn packed(self) -> queue::Head {
        let id = self.id.map_or(0, |id| id as u8 + 1);
        let bytes = [self.severity.0, self.phase as u8, id, 0];
        let first = u64::from(u32::from_le_bytes(bytes)) | u64::from(self.message) << 32;
        [first, self.tick.map_or(0, NonZeroU64::get), self.time.as_nanos()]
    }

    fn unpacked([first, tick, time]: queue::Head) -> Self {
        let [severity, phase, id, _, low, high, ..] = first.to_le_bytes();
        Self {
            severity: Severity(severity),
            phase: Phase::ALL.get(usize::from(phase)).copied().unwrap_or(Phase::Booting),
            id: usize::from(id).checked_sub(1).and_then(|id| Id::ALL.get(id)).copied(),
            message: u16::from_le_bytes([low, high]),
            tick: NonZeroU64::new(tick),
            time: Monotonic::from_nanos(time),
        }
    }
}

/// A length within a text, which is far shorter than 64 kB.
fn short(length: usize) -> u16 {
    u16::try_from(length).unwrap_or(u16::MAX)
}

/// A record's level in one byte.
#[derive(Clone, Copy)]
struct Severity(u8);

impl From<Level> for Severity {
    fn from(level: Level) -> Self {
        Self(level as u8)
    }
}

impl Severity {
    fn level(self) -> Level {
        Level::iter().find(|level| *level as u8 == self.0).unwrap_or(Level::Error)
    }
}

impl Entry {
    fn new(record: &Record<'_>) -> Self {
        let mut text = Text::new();
        // Text takes what it can and never fails.
        let _ = write!(text, "{}", record.args());
        let message = text.length;
        let mut fields = Fields { text: &mut text, id: None };
        let _ = record.key_values().visit(&mut fields);
        let id = fields.id;
        let ticks = || NonZeroU64::new(TICKS_LOGGED.load(Ordering::Relaxed));
        let head = Head {
            severity: record.level().into(),
            phase: phase(),
            id,
            message: short(message),
            tick: if record.target() == TICK { ticks() } else { None },
            time: clock::now(),
        };
        Self { head, text }
    }

    /// Puts the record into the first `room` places of a queue; false where it does not fit.
    fn queue<const PLACES: usize>(&self, records: &Queue<PLACES>, room: usize) -> bool {
        records.push(self.head.packed(), self.text.written(), room)
    }

    /// Waits for a record; `None` once the queue is closed and empty.
    fn receive<const PLACES: usize>(records: &Queue<PLACES>) -> Option<Self> {
        let mut text = Text::new();
        loop {
            match records.take(&mut text.bytes) {
                Taken::Record(head, length) => {
                    text.length = length;
                    return Some(Self { head: Head::unpacked(head), text });
                }
                Taken::Closed => return None,
                // Whoever publishes a record unparks this thread afterwards.
                Taken::Nothing => thread::park(),
            }
        }
    }

    fn message(&self) -> &str {
        self.text.get(0, self.head.message.into())
    }

    /// Writes the record as one line: `[   12.345678] early-service[323]: Listening on …`.
    fn write_line(&self, identifier: &str, out: &mut impl io::Write) -> io::Result<()> {
        let microseconds = self.head.time.as_nanos() / 1000;
        let (seconds, fraction) = (microseconds / 1_000_000, microseconds % 1_000_000);
        let severity = match self.head.severity.level() {
            Level::Error => "error: ",
            Level::Warn => "warning: ",
            Level::Info | Level::Debug | Level::Trace => "",
        };
        let (pid, message) = (process::id(), self.message());
        writeln!(out, "[{seconds:5}.{fraction:06}] {identifier}[{pid}]: {severity}{message}")
    }
}

/// One line for the kernel log: `<30>early-service-initrd[323]: booting => serving`.
///
/// The number is the facility "daemon" with the severity, as in syslog(3); without a facility the
/// kernel would take the line for its own console's.
fn kernel_line(entry: &Entry, identifier: &str) -> String {
    let priority = match entry.head.severity.level() {
        Level::Error => 3 << 3 | 3,
        Level::Warn => 3 << 3 | 4,
        Level::Info | Level::Debug | Level::Trace => 3 << 3 | 6,
    };
    format!("<{priority}>{identifier}[{}]: {}\n", process::id(), entry.message())
}

/// The record's fields, for the journal.
impl kv::Source for Entry {
    fn visit<'kvs>(&'kvs self, visitor: &mut dyn VisitSource<'kvs>) -> Result<(), kv::Error> {
        visitor.visit_pair(Key::from("PHASE"), Value::from(self.head.phase.name()))?;
        if let Some(id) = self.head.id {
            visitor.visit_pair(Key::from(MESSAGE_ID), Value::from(id.text()))?;
        }
        // The journal notes when a record was sent, which may be seconds after it was made.
        visitor.visit_pair(Key::from("LOGGED_NS"), Value::from(self.head.time.as_nanos()))?;
        let fields = self.text.get(self.head.message.into(), self.text.length);
        for field in fields.split_terminator(FIELD_END) {
            if let Some((name, value)) = field.split_once('=') {
                visitor.visit_pair(Key::from(name), Value::from(value))?;
            }
        }
        Ok(())
    }
}

/// Ends a field in [`Text`]: no field of ours holds it.
const FIELD_END: char = '\0';

/// A text of bounded length: what does not fit is cut off and marked.
struct Text {
    bytes: [u8; TEXT],
    length: usize,
    cut: bool,
}

impl Text {
    const CUT: &str = "...";

    const fn new() -> Self {
        Self { bytes: [0; TEXT], length: 0, cut: false }
    }

    fn get(&self, from: usize, to: usize) -> &str {
        self.bytes
            .get(from..to)
            .and_then(|bytes| std::str::from_utf8(bytes).ok())
            .unwrap_or_default()
    }

    fn written(&self) -> &[u8] {
        &self.bytes[..self.length]
    }

    fn push(&mut self, text: &str) {
        let end = self.length + text.len();
        if let Some(room) = self.bytes.get_mut(self.length..end) {
            room.copy_from_slice(text.as_bytes());
            self.length = end;
        }
    }
}

impl fmt::Write for Text {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        // Room for the mark is always kept, so that a cut text is never mistaken for a whole one.
        let room = TEXT.saturating_sub(self.length + Self::CUT.len());
        if self.cut {
            return Ok(());
        }
        if text.len() <= room {
            self.push(text);
        } else {
            let end = (0..=room).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
            self.push(&text[..end]);
            self.push(Self::CUT);
            self.cut = true;
        }
        Ok(())
    }
}

/// Where the fields of a record go.
struct Fields<'a> {
    text: &'a mut Text,
    id: Option<Id>,
}

impl<'kvs> VisitSource<'kvs> for Fields<'_> {
    fn visit_pair(&mut self, key: Key<'kvs>, value: Value<'kvs>) -> Result<(), kv::Error> {
        if key.as_str() == MESSAGE_ID {
            self.id = value.to_borrowed_str().and_then(Id::find);
        } else {
            let _ = write!(self.text, "{key}={value}{FIELD_END}");
        }
        Ok(())
    }
}

/// Where records go.
enum Sink {
    Journal(JournalLog),
    /// `/dev/kmsg`, held open because it cannot be named after the switch of root.
    KernelLog(File),
    StandardError,
}

/// The thread that writes.
struct Writer {
    stage: Stage,
    sink: Sink,
    /// Since when nothing could be written, and for how long a record waits until it can be.
    failing: Option<Instant>,
    patience: Duration,
    /// How many drops the log tells of already.
    reported: u64,
}

impl Writer {
    /// Opened by the thread itself: connecting to the journal sends a datagram, which may block.
    fn open(stage: Stage) -> Self {
        let journal = || open_journal(stage).map(Sink::Journal);
        let kernel_log = || OpenOptions::new().write(true).open("/dev/kmsg").map(Sink::KernelLog);
        let sink = match Destination::of(stage) {
            Destination::Journal if stage == Stage::Initrd => journal().or_else(|_| kernel_log()),
            Destination::Journal => journal(),
            Destination::NoJournal => kernel_log(),
            Destination::StandardError => Ok(Sink::StandardError),
        };
        let sink = sink.unwrap_or(Sink::StandardError);
        Self { stage, sink, failing: None, patience: PATIENCE, reported: 0 }
    }

    /// Takes entries until the queue is closed and empty.
    fn write_until_closed<const PLACES: usize>(&mut self, records: &Queue<PLACES>) {
        while let Some(entry) = Entry::receive(records) {
            if !self.write_patiently(&entry) {
                DROPPED.fetch_add(1, Ordering::Relaxed);
                continue;
            }
            if let Some(tick) = entry.head.tick {
                TICKS_WRITTEN.store(tick.get(), Ordering::Relaxed);
            }
            if dropped() > self.reported {
                self.report_dropped();
            }
        }
    }

    /// Writes an entry, holding it while there is hope; false when it was not written.
    fn write_patiently(&mut self, entry: &Entry) -> bool {
        if matches!(self.sink, Sink::KernelLog(_)) {
            // Has a journal come up by now?
            if let Ok(journal) = open_journal(self.stage) {
                self.sink = Sink::Journal(journal);
            }
        }
        while self.write(entry).is_err() {
            if self.failing.get_or_insert_with(Instant::now).elapsed() >= self.patience {
                return false;
            }
            thread::sleep(RETRY);
        }
        self.failing = None;
        true
    }

    fn write(&self, entry: &Entry) -> io::Result<()> {
        match &self.sink {
            Sink::Journal(journal) => journal.journal_send(
                &Record::builder()
                    .level(entry.head.severity.level())
                    .target("early_service")
                    .args(format_args!("{}", entry.message()))
                    .key_values(entry)
                    .build(),
            ),
            Sink::KernelLog(_) if entry.head.tick.is_some() => Ok(()),
            Sink::KernelLog(kernel_log) => {
                let mut kernel_log = kernel_log;
                kernel_log.write_all(kernel_line(entry, self.stage.identifier()).as_bytes())
            }
            Sink::StandardError => {
                let mut line = [0; TEXT + 64];
                let mut room = &mut line[..];
                entry.write_line(self.stage.identifier(), &mut room)?;
                let left = room.len();
                io::stderr().write_all(&line[..line.len() - left])
            }
        }
    }

    /// Says in the log itself that lines are missing from it.
    fn report_dropped(&mut self) {
        let dropped = dropped();
        let missing = dropped - self.reported;
        let report = Entry::new(
            &Record::builder()
                .level(Level::Warn)
                .args(format_args!("{missing} log lines dropped: the log was not read fast enough"))
                .key_values(&[(MESSAGE_ID, Id::LinesDropped)])
                .build(),
        );
        if self.write(&report).is_ok() {
            self.reported = dropped;
        }
    }
}

/// Connects to the journal, which answers only where there is one.
fn open_journal(stage: Stage) -> io::Result<JournalLog> {
    let journal = JournalLog::empty()?.with_syslog_identifier(stage.identifier().to_owned());
    Ok(journal.add_extra_field("STAGE", stage.name()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn entry(message: &str, fields: &[(&str, u64)]) -> Entry {
        let fields: Vec<_> = fields.iter().map(|(key, value)| (*key, *value)).collect();
        let fields = fields.as_slice();
        Entry::new(
            &Record::builder()
                .level(Level::Info)
                .args(format_args!("{message}"))
                .key_values(&fields)
                .build(),
        )
    }

    struct Fields(BTreeMap<String, String>);

    impl<'kvs> VisitSource<'kvs> for Fields {
        fn visit_pair(&mut self, key: Key<'kvs>, value: Value<'kvs>) -> Result<(), kv::Error> {
            self.0.insert(key.to_string(), value.to_string());
            Ok(())
        }
    }

    fn fields(entry: &Entry) -> BTreeMap<String, String> {
        let mut fields = Fields(BTreeMap::new());
        kv::Source::visit(entry, &mut fields).expect("fields of an entry");
        fields.0
    }

    #[test]
    fn an_entry_keeps_message_and_fields_apart() {
        let entry = entry("137", &[("COUNTER", 137), ("DEADLINE_NS", 100_000_000)]);
        assert_eq!(entry.message(), "137");
        let fields = fields(&entry);
        assert_eq!(fields["COUNTER"], "137");
        assert_eq!(fields["DEADLINE_NS"], "100000000");
        assert_eq!(fields["LOGGED_NS"], entry.head.time.as_nanos().to_string());
        assert!(fields.contains_key("PHASE"));
    }

    #[test]
    fn the_longest_line_keeps_its_id_and_every_byte_of_its_message() {
        let message = "x".repeat(TEXT - Text::CUT.len());
        let entry = Entry::new(
            &Record::builder()
                .level(Level::Info)
                .args(format_args!("{message}"))
                .key_values(&[(MESSAGE_ID, Id::LockHeld)])
                .build(),
        );
        assert_eq!(entry.message(), message);
        assert_eq!(fields(&entry)[MESSAGE_ID], Id::LockHeld.text());
        let unexplained = self::entry("137", &[("COUNTER", 137)]);
        assert!(!fields(&unexplained).contains_key(MESSAGE_ID));
    }

    #[test]
    fn a_line_reads_like_the_kernel_log() {
        let mut entry = entry("137", &[("COUNTER", 137)]);
        entry.head.time = Monotonic::from_nanos(12_345_678_901);
        let mut line = Vec::new();
        entry.write_line("early-service", &mut line).expect("a vector takes all");
        let expected = format!("[   12.345678] early-service[{}]: 137\n", process::id());
        assert_eq!(String::from_utf8(line).expect("text"), expected);
    }

    #[test]
    fn a_line_for_the_kernel_log_names_facility_and_severity() {
        let line = kernel_line(&entry("booting => serving", &[]), "early-service-initrd");
        let expected = format!("<30>early-service-initrd[{}]: booting => serving\n", process::id());
        assert_eq!(line, expected);
    }

    #[test]
    fn a_text_too_long_is_cut_between_characters_and_marked() {
        for length in [TEXT - 4, TEXT - 3, TEXT - 2, TEXT, 1000] {
            let entry = entry(&"é".repeat(length), &[]);
            assert!(entry.message().len() <= TEXT, "{length}");
            assert!(entry.message().ends_with("é..."), "{length}: {:?}", entry.message());
        }
        let whole = "x".repeat(TEXT - Text::CUT.len());
        assert_eq!(entry(&whole, &[]).message(), whole);
    }

    #[test]
    fn an_entry_of_any_length_comes_out_of_the_queue_as_it_went_in() {
        let records = Queue::<4>::new();
        for text in ["", "137", &"é".repeat(96)] {
            for id in [None, Some(Id::Adopting), Some(Id::RootFollowed)] {
                let sent = Entry::new(
                    &Record::builder()
                        .level(Level::Warn)
                        .args(format_args!("{text}"))
                        .key_values(&[("COUNTER", Some(u64::MAX)), ("NONE", None)].as_slice())
                        .build(),
                );
                let mut sent = sent;
                (sent.head.id, sent.head.phase) = (id, Phase::Ended);
                sent.head.tick = NonZeroU64::new(u64::MAX);
                assert!(sent.queue(&records, 4), "{text}");
                let received = Entry::receive(&records).expect("a record");
                assert_eq!((received.message(), fields(&received)), (text, fields(&sent)));
                assert_eq!(received.head.severity.level(), Level::Warn);
                assert_eq!(received.head.tick, sent.head.tick);
            }
        }
    }

    #[test]
    fn a_record_allocates_nothing_on_its_way_to_the_writer() {
        // No other test logs.
        let log = |number: u64| {
            Logger.log(
                &Record::builder()
                    .level(Level::Info)
                    .target(TICK)
                    .args(format_args!("{number}"))
                    .key_values(&[("COUNTER", number), ("DEADLINE_NS", u64::MAX)].as_slice())
                    .build(),
            );
            let entry = Entry::receive(&RECORDS).expect("the record");
            let mut line = [0; TEXT + 64];
            entry.write_line("early-service-initrd", &mut &mut line[..]).expect("room");
            assert!(line.contains(&b']'));
        };
        log(0);
        let all = allocation_counter::measure(|| (0..1000).for_each(log));
        assert_eq!(all.count_total, 0);
    }
}
