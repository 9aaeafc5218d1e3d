// SPDX-License-Identifier: Apache-2.0
//! Encoding of one log record: in the queue, as a line of text, and as fields for journald.
//!
//! In the queue, a record is a fixed-size [`Header`] followed by its text: the message, then its
//! fields as `NAME=value`, each with a NUL at its end. Never allocates, except for the kernel log.
//! A text that is too long is cut and marked.

use std::fmt::{self, Write as _};
use std::io;
use std::num::NonZeroU64;
use std::process;
use std::thread;

use early_service_machine::lifecycle::Phase;
use early_service_machine::schedule::Monotonic;
use log::kv::{self, Key, Value, VisitSource};
use log::{Level, Record};

use crate::journal::message_id::{Id, MESSAGE_ID};
use crate::journal::queue::{self, Queue, Taken};
use crate::platform::clock;

/// The most bytes of a record's message and fields together. 96 bytes fit into one slot of the
/// queue; a tick of the counter takes 80 after a month. The longest line contains a socket path of
/// 107 bytes.
pub(super) const MAX_TEXT: usize = 240;

/// Ends a field in [`Text`]: no value contains it.
const FIELD_END: char = '\0';

/// One record, from the thread that logs to the writer thread.
pub(super) struct Entry {
    header: Header,
    text: Text,
}

/// Everything about a record except its text.
#[derive(Clone, Copy)]
struct Header {
    level: Level,
    phase: Phase,
    /// The id under which the catalog explains the record; as text it would take 44 bytes.
    id: Option<Id>,
    /// The length of the message, after which the fields follow.
    message: u16,
    /// The number of ticks that were logged up to this record, if it is a tick.
    tick: Option<NonZeroU64>,
    time: Monotonic,
}

impl Header {
    fn packed(self) -> queue::Header {
        let id = self.id.map_or(0, |id| id as u8 + 1);
        let [low, high] = self.message.to_le_bytes();
        let first = [self.level as u8, self.phase as u8, id, 0, low, high, 0, 0];
        let tick = self.tick.map_or(0, NonZeroU64::get);
        [u64::from_le_bytes(first), tick, self.time.as_nanos()]
    }

    fn unpacked([first, tick, time]: queue::Header) -> Self {
        let [level, phase, id, _, low, high, ..] = first.to_le_bytes();
        Self {
            level: Level::iter().find(|found| *found as u8 == level).unwrap_or(Level::Error),
            phase: Phase::ALL.get(usize::from(phase)).copied().unwrap_or(Phase::Booting),
            id: usize::from(id).checked_sub(1).and_then(|id| Id::ALL.get(id)).copied(),
            message: u16::from_le_bytes([low, high]),
            tick: NonZeroU64::new(tick),
            time: Monotonic::from_nanos(time),
        }
    }
}

impl Entry {
    /// Formats `record`, which is logged in `phase`; `tick` as in [`tick`](Self::tick).
    pub(super) fn new(record: &Record<'_>, phase: Phase, tick: Option<NonZeroU64>) -> Self {
        let mut text = Text::new();
        // Cannot fail, because a text that is too long is cut.
        let _ = write!(text, "{}", record.args());
        let message = u16::try_from(text.length).unwrap_or(u16::MAX);
        let mut fields = Fields { text: &mut text, id: None };
        let _ = record.key_values().visit(&mut fields);
        let id = fields.id;
        let header = Header { level: record.level(), phase, id, message, tick, time: clock::now() };
        Self { header, text }
    }

    /// Puts the record into the first `room` slots of the queue; returns whether it fits.
    pub(super) fn queue<const SLOTS: usize>(&self, records: &Queue<SLOTS>, room: usize) -> bool {
        records.push(self.header.packed(), &self.text.bytes[..self.text.length], room)
    }

    /// Waits for a record; `None` once the queue is closed and empty.
    pub(super) fn receive<const SLOTS: usize>(records: &Queue<SLOTS>) -> Option<Self> {
        let mut text = Text::new();
        loop {
            match records.take(&mut text.bytes) {
                Taken::Record(header, length) => {
                    text.length = length;
                    return Some(Self { header: Header::unpacked(header), text });
                }
                Taken::Closed => return None,
                // The thread that publishes a record unparks this one afterwards.
                Taken::Nothing => thread::park(),
            }
        }
    }

    /// The number of ticks that were logged up to this record, if it is a tick.
    pub(super) fn tick(&self) -> Option<NonZeroU64> {
        self.header.tick
    }

    pub(super) fn level(&self) -> Level {
        self.header.level
    }

    pub(super) fn message(&self) -> &str {
        self.text.get(0, self.header.message.into())
    }

    /// Writes one line for standard error: `[   12.345678] early-service[323]: Listening on …`.
    pub(super) fn write_line(&self, identifier: &str, out: &mut impl io::Write) -> io::Result<()> {
        let microseconds = self.header.time.as_nanos() / 1000;
        let (seconds, fraction) = (microseconds / 1_000_000, microseconds % 1_000_000);
        let severity = match self.level() {
            Level::Error => "error: ",
            Level::Warn => "warning: ",
            Level::Info | Level::Debug | Level::Trace => "",
        };
        let (pid, message) = (process::id(), self.message());
        writeln!(out, "[{seconds:5}.{fraction:06}] {identifier}[{pid}]: {severity}{message}")
    }

    /// One line for the kernel log: `<30>early-service-initrd[323]: booting => serving`. The number
    /// is the facility "daemon" and the severity, as in syslog(3); without a facility, the kernel
    /// would file the line as its own.
    pub(super) fn kernel_line(&self, identifier: &str) -> String {
        let priority = match self.level() {
            Level::Error => 3 << 3 | 3,
            Level::Warn => 3 << 3 | 4,
            Level::Info | Level::Debug | Level::Trace => 3 << 3 | 6,
        };
        format!("<{priority}>{identifier}[{}]: {}\n", process::id(), self.message())
    }
}

/// The record's fields, for the journal.
impl kv::Source for Entry {
    fn visit<'kvs>(&'kvs self, visitor: &mut dyn VisitSource<'kvs>) -> Result<(), kv::Error> {
        visitor.visit_pair(Key::from("PHASE"), Value::from(self.header.phase.name()))?;
        if let Some(id) = self.header.id {
            visitor.visit_pair(Key::from(MESSAGE_ID), Value::from(id.text()))?;
        }
        // The journal stores the time of sending, which may be seconds after the record was made.
        visitor.visit_pair(Key::from("LOGGED_NS"), Value::from(self.header.time.as_nanos()))?;
        let fields = self.text.get(self.header.message.into(), self.text.length);
        for field in fields.split_terminator(FIELD_END) {
            if let Some((name, value)) = field.split_once('=') {
                visitor.visit_pair(Key::from(name), Value::from(value))?;
            }
        }
        Ok(())
    }
}

/// A text of at most [`MAX_TEXT`] bytes: the rest is cut off, and the cut is marked.
struct Text {
    bytes: [u8; MAX_TEXT],
    length: usize,
    is_cut: bool,
}

impl Text {
    const CUT: &str = "...";

    const fn new() -> Self {
        Self { bytes: [0; MAX_TEXT], length: 0, is_cut: false }
    }

    fn get(&self, from: usize, to: usize) -> &str {
        let bytes = self.bytes.get(from..to);
        bytes.and_then(|bytes| std::str::from_utf8(bytes).ok()).unwrap_or_default()
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
        if self.is_cut {
            return Ok(());
        }
        // Keeps room for the mark, so that a cut text cannot be mistaken for a complete one.
        let room = MAX_TEXT.saturating_sub(self.length + Self::CUT.len());
        if text.len() <= room {
            self.push(text);
        } else {
            let end = (0..=room).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
            self.push(&text[..end]);
            self.push(Self::CUT);
            self.is_cut = true;
        }
        Ok(())
    }
}

/// Collects the fields of a record.
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
            Phase::Booting,
            None,
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
        assert_eq!(fields["LOGGED_NS"], entry.header.time.as_nanos().to_string());
        assert!(fields.contains_key("PHASE"));
    }

    #[test]
    fn the_longest_line_keeps_its_id_and_its_whole_message() {
        let message = "x".repeat(MAX_TEXT - Text::CUT.len());
        let entry = Entry::new(
            &Record::builder()
                .level(Level::Info)
                .args(format_args!("{message}"))
                .key_values(&[(MESSAGE_ID, Id::LockHeld)])
                .build(),
            Phase::Booting,
            None,
        );
        assert_eq!(entry.message(), message);
        assert_eq!(fields(&entry)[MESSAGE_ID], Id::LockHeld.text());
        let unexplained = self::entry("137", &[("COUNTER", 137)]);
        assert!(!fields(&unexplained).contains_key(MESSAGE_ID));
    }

    #[test]
    fn a_line_reads_like_the_kernel_log() {
        let mut entry = entry("137", &[("COUNTER", 137)]);
        entry.header.time = Monotonic::from_nanos(12_345_678_901);
        let mut line = Vec::new();
        entry.write_line("early-service", &mut line).expect("a vector takes all");
        let expected = format!("[   12.345678] early-service[{}]: 137\n", process::id());
        assert_eq!(String::from_utf8(line).expect("text"), expected);
    }

    #[test]
    fn a_kernel_log_line_names_facility_and_severity() {
        let line = entry("booting => serving", &[]).kernel_line("early-service-initrd");
        let expected = format!("<30>early-service-initrd[{}]: booting => serving\n", process::id());
        assert_eq!(line, expected);
    }

    #[test]
    fn a_long_text_is_cut_between_characters_and_marked() {
        for length in [MAX_TEXT - 4, MAX_TEXT - 3, MAX_TEXT - 2, MAX_TEXT, 1000] {
            let entry = entry(&"é".repeat(length), &[]);
            assert!(entry.message().len() <= MAX_TEXT, "{length}");
            assert!(entry.message().ends_with("é..."), "{length}: {:?}", entry.message());
        }
        let whole = "x".repeat(MAX_TEXT - Text::CUT.len());
        assert_eq!(entry(&whole, &[]).message(), whole);
    }

    #[test]
    fn an_entry_of_any_length_passes_the_queue_unchanged() {
        let records = Queue::<4>::new();
        for text in ["", "137", &"é".repeat(96)] {
            for id in [None, Some(Id::Adopting), Some(Id::RootFollowed)] {
                let mut sent = Entry::new(
                    &Record::builder()
                        .level(Level::Warn)
                        .args(format_args!("{text}"))
                        .key_values(&[("COUNTER", Some(u64::MAX)), ("NONE", None)].as_slice())
                        .build(),
                    Phase::Ended,
                    NonZeroU64::new(u64::MAX),
                );
                sent.header.id = id;
                assert!(sent.queue(&records, 4), "{text}");
                let received = Entry::receive(&records).expect("a record");
                assert_eq!((received.message(), fields(&received)), (text, fields(&sent)));
                assert_eq!(received.level(), Level::Warn);
                assert_eq!(received.tick(), sent.tick());
            }
        }
    }
}
