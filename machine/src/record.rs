// SPDX-License-Identifier: Apache-2.0
//! Record of the state in the state file, for the next owner.
//!
//! One line of text with a fixed size, so that one small write replaces it and the file never
//! grows:
//!
//! ```text
//! early-service-state 1 boot=… sequence=12 unlogged=1 unbroken=1 realtime_ns=… …
//! ```
//!
//! `boot` is the kernel's id of the boot (`/proc/sys/kernel/random/boot_id` in random(4)). A record
//! of another boot is ignored, because its deadlines mean nothing in this one.
//!
//! `realtime_ns` is the time on the wall clock at which the record was written. Nothing depends on
//! it: the log line about a record of another boot shows it. A record of release 0.1.0 lacks it.
//!
//! A state that does not fit has another format, see [`slots`](crate::slots).
//!
//! Responsible for the format and its checks. Never reads or writes a file.
//!
//! **Invariant:** [`Record::decode`] accepts only complete output of [`Record::encode`] of this
//! boot with values that an owner can have had: a valid period, a deadline at most one period
//! ahead, and no more ticks than there were.

use core::fmt::{self, Write as _};

use crate::bounds::{BOOT_ID, Bounds, RECORD_SIZE};
use crate::realtime::Realtime;
use crate::schedule::{Monotonic, Period};
use crate::state::State;
use crate::timeline::{FieldError, Snapshot};
use crate::wire::fields::Fields;

/// The beginning of every record, with the version of the format.
pub(crate) const FORMAT_1: &str = "early-service-state 1 ";

/// Precedes the checksum of all bytes before it.
const CHECKSUM: &str = " crc=";

/// The length of the checksum, with what precedes it.
pub(crate) const SEAL: usize = CHECKSUM.len() + 8;

/// The kernel's id of a boot: 36 hexadecimal digits and hyphens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BootId([u8; BOOT_ID]);

impl BootId {
    /// Reads the id without a newline; `None` if it has another form.
    #[must_use]
    pub fn parse(text: &[u8]) -> Option<Self> {
        let is_allowed = |byte: &u8| byte.is_ascii_hexdigit() || *byte == b'-';
        let id = text.try_into().ok()?;
        text.iter().all(is_allowed).then_some(Self(id))
    }
}

impl fmt::Display for BootId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.escape_ascii().fmt(f)
    }
}

/// The state at one instant, and the ticks before it that the log may lack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<S> {
    /// How many records were written before this one, in this boot.
    pub sequence: u64,
    /// The ticks that may be missing in the log.
    pub unlogged: Unlogged,
    /// When it was written; `None` if that is unknown.
    pub realtime: Option<Realtime>,
    /// The state and its deadline.
    pub snapshot: Snapshot<S>,
}

/// The last ticks before a snapshot that may be missing in the log.
///
/// The log names the missing numbers that can be derived from the state: those after the last
/// command that changed it, such as `set_counter`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Unlogged {
    /// The number of these ticks, at most one for each shortest period since the clock's zero.
    pub ticks: u64,
    /// How many of them followed the last command, at most `ticks`. Their numbers are known.
    pub unbroken: u64,
}

/// The reason why a file contains no state of this boot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DecodeError {
    /// It is empty or contains only zeros: nothing was written, or the record was removed.
    Empty,
    /// It is not a state file, or one of another format.
    Foreign,
    /// The record is cut off or damaged.
    Torn,
    /// The record is of another boot, and was written at this time if that is known.
    Stale(Option<Realtime>),
    /// A field is missing, unknown or invalid.
    Field(FieldError),
    /// The counts of unlogged ticks are impossibly high.
    Unlogged(Unlogged),
}

impl DecodeError {
    /// Whether the file contains an intact record of this boot that no owner of this release can
    /// have written.
    #[must_use]
    pub const fn is_impossible(self) -> bool {
        match self {
            Self::Field(_) | Self::Unlogged(_) => true,
            Self::Empty | Self::Foreign | Self::Torn | Self::Stale(_) => false,
        }
    }
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("it is empty"),
            Self::Foreign => f.write_str("it is not a state file of this program"),
            Self::Torn => f.write_str("its record is torn"),
            Self::Stale(written) => {
                f.write_str("it is of another boot")?;
                written.map_or(Ok(()), |at| write!(f, " (last written {at})"))?;
                f.write_str("; its state does not continue")
            }
            Self::Field(error @ FieldError::Service(_)) => error.fmt(f),
            Self::Field(error) => write!(f, "its record has {error}"),
            Self::Unlogged(Unlogged { ticks, unbroken }) => write!(
                f,
                "its record has unlogged={ticks} and unbroken={unbroken}, which are more ticks than \
                 there were"
            ),
        }
    }
}

impl<S: State> Record<S> {
    /// The bytes for the file.
    #[must_use]
    pub fn encode(&self, boot: &BootId) -> [u8; RECORD_SIZE] {
        let () = Bounds::<S>::HOLD;
        let mut text = Text::<RECORD_SIZE>::EMPTY;
        // Cannot fail, because a record that `IS_SMALL` has room.
        let _ = text.write_str(FORMAT_1);
        self.write_to(&mut text, boot);
        text.sealed()
    }

    /// Writes what follows the format.
    pub(crate) fn write_to<const N: usize>(&self, text: &mut Text<N>, boot: &BootId) {
        let Self { sequence, unlogged: Unlogged { ticks, unbroken }, realtime, snapshot } = self;
        let _ = write!(text, "boot={boot} sequence={sequence}");
        let _ = write!(text, " unlogged={ticks} unbroken={unbroken}");
        if let Some(realtime) = realtime {
            let _ = write!(text, " realtime_ns={}", realtime.as_nanos());
        }
        let _ = write!(text, " {snapshot}");
    }

    /// Reads the bytes of the file at `now`.
    ///
    /// # Errors
    ///
    /// Returns why the file contains no state of this boot.
    pub fn decode(bytes: &[u8], boot: &BootId, now: Monotonic) -> Result<Self, DecodeError> {
        if bytes.iter().all(|byte| *byte == 0) {
            return Err(DecodeError::Empty);
        }
        if !bytes.starts_with(FORMAT_1.as_bytes()) {
            return Err(DecodeError::Foreign);
        }
        Self::read(unsealed(bytes).ok_or(DecodeError::Torn)?, boot, now)
    }

    /// Reads the text of an intact record.
    pub(crate) fn read(text: &[u8], boot: &BootId, now: Monotonic) -> Result<Self, DecodeError> {
        let fields = Fields::new(text);
        // Informs only, so that an invalid one costs no state.
        let realtime = fields.number("realtime_ns").ok().map(Realtime::from_nanos);
        if fields.get("boot") != Some(&boot.0) {
            return Err(DecodeError::Stale(realtime));
        }
        let read = || {
            // First, because a newer release may lack another field for the sake of an unknown one.
            let snapshot = Snapshot::read(fields)?;
            Ok(Self {
                sequence: fields.number("sequence")?,
                unlogged: Unlogged {
                    ticks: fields.number("unlogged")?,
                    unbroken: fields.number("unbroken")?,
                },
                realtime,
                snapshot,
            })
        };
        let record = read().map_err(DecodeError::Field)?;
        record.snapshot.check(now).map_err(DecodeError::Field)?;
        record.unlogged.check(record.snapshot.deadline)?;
        Ok(record)
    }
}

impl Unlogged {
    /// Checks that there can have been so many ticks before `deadline`.
    const fn check(self, deadline: Monotonic) -> Result<(), DecodeError> {
        let Self { ticks, unbroken } = self;
        if unbroken > ticks || ticks > deadline.as_nanos() / Period::SHORTEST {
            return Err(DecodeError::Unlogged(self));
        }
        Ok(())
    }
}

/// The text before the checksum; `None` if [`Text::sealed`] would not write exactly these bytes.
fn unsealed(bytes: &[u8]) -> Option<&[u8]> {
    let text = bytes.get(..bytes.trim_ascii_end().len().checked_sub(SEAL)?)?;
    let mut again = Text::<RECORD_SIZE>::EMPTY;
    again.push(text)?;
    (again.sealed() == bytes).then_some(text)
}

/// The checksum of a text, with what precedes it.
pub(crate) fn checksum(text: &[u8]) -> Text<SEAL> {
    let mut seal = Text::EMPTY;
    let _ = write!(seal, "{CHECKSUM}{:08x}", crc32(text));
    seal
}

/// A text of at most `N` bytes.
pub(crate) struct Text<const N: usize> {
    bytes: [u8; N],
    length: usize,
}

impl<const N: usize> Text<N> {
    pub(crate) const EMPTY: Self = Self { bytes: [b' '; N], length: 0 };

    pub(crate) fn written(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or_default()
    }

    /// Appends `bytes`; `None` if they do not fit.
    fn push(&mut self, bytes: &[u8]) -> Option<()> {
        let end = self.length.checked_add(bytes.len())?;
        self.bytes.get_mut(self.length..end)?.copy_from_slice(bytes);
        self.length = end;
        Some(())
    }

    /// Replaces the bytes from `at` on.
    pub(crate) fn replace(&mut self, at: usize, bytes: &[u8]) {
        self.bytes.iter_mut().skip(at).zip(bytes).for_each(|(place, byte)| *place = *byte);
    }

    /// Appends the checksum.
    pub(crate) fn seal(&mut self) {
        let checksum = checksum(self.written());
        let _ = self.push(checksum.written());
    }

    /// The text with its checksum, padded with spaces, as one line.
    fn sealed(mut self) -> [u8; N] {
        self.seal();
        if let Some(last) = self.bytes.last_mut() {
            *last = b'\n';
        }
        self.bytes
    }
}

impl<const N: usize> fmt::Write for Text<N> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.push(text.as_bytes()).ok_or(fmt::Error)
    }
}

/// The CRC-32 of IEEE 802.3, by half bytes: six times as fast as by bits, with a table of 64 bytes
/// instead of 1024.
fn crc32(bytes: &[u8]) -> u32 {
    let with_half = |crc: u32| {
        let low = REMAINDERS.get((crc & 15) as usize).copied().unwrap_or_default();
        crc >> 4 ^ low
    };
    let with_byte = |crc: u32, byte: &u8| with_half(with_half(crc ^ u32::from(*byte)));
    !bytes.iter().fold(!0, with_byte)
}

/// The remainder of each half of a byte, for the reversed polynomial 0xedb88320.
#[rustfmt::skip]
const REMAINDERS: [u32; 16] = [
    0x0000_0000, 0x1db7_1064, 0x3b6e_20c8, 0x26d9_30ac,
    0x76dc_4190, 0x6b6b_51f4, 0x4db2_6158, 0x5005_713c,
    0xedb8_8320, 0xf00f_9344, 0xd6d6_a3e8, 0xcb61_b38c,
    0x9b64_c2b0, 0x86d3_d2d4, 0xa00a_e278, 0xbdbd_f21c,
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bounds::RECORD_OVERHEAD;
    use crate::counter::Counter;
    use std::string::{String, ToString};
    use std::vec::Vec;

    fn boot(digit: char) -> BootId {
        let id: String = "xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx".replace('x', &digit.to_string());
        BootId::parse(id.as_bytes()).expect("the kernel's form")
    }

    /// The time of decoding.
    const NOW: Monotonic = Monotonic::from_nanos(137_000_000);

    /// 2026-11-29T01:02:03Z.
    const WRITTEN: Realtime = Realtime::from_nanos(1_795_914_123_456_789_012);

    fn record(number: u64) -> Record<Counter> {
        let snapshot = Snapshot {
            state: Counter { next: number },
            deadline: NOW,
            period: Period::from_millis(100).expect("not zero"),
        };
        let unlogged = Unlogged { ticks: number.min(137), unbroken: number.min(137) };
        Record { sequence: number, unlogged, realtime: Some(WRITTEN), snapshot }
    }

    #[test]
    fn a_record_decodes_to_what_was_encoded() {
        for number in [0, 137, u64::MAX] {
            let bytes = record(number).encode(&boot('a'));
            assert_eq!(Record::<Counter>::decode(&bytes, &boot('a'), NOW), Ok(record(number)));
            assert!(bytes.ends_with(b" \n") && bytes.is_ascii());
        }
    }

    #[test]
    fn the_longest_record_has_the_length_of_its_bounds() {
        let snapshot = Snapshot {
            state: Counter { next: u64::MAX },
            deadline: Monotonic::from_nanos(u64::MAX),
            period: Period::from_nanos(Period::LONGEST).expect("within its bounds"),
        };
        let unlogged = Unlogged { ticks: u64::MAX, unbroken: u64::MAX };
        let realtime = Some(Realtime::from_nanos(u64::MAX));
        let bytes = Record { sequence: u64::MAX, unlogged, realtime, snapshot }.encode(&boot('a'));
        // The longest period has four digits fewer than the largest number.
        let longest = RECORD_OVERHEAD + Counter::MAX_FIELDS - 4;
        assert_eq!(bytes.trim_ascii_end().len() + 1, longest);
    }

    #[test]
    fn a_record_is_a_line_that_a_person_can_read() {
        let bytes = record(137).encode(&boot('a'));
        let text = String::from_utf8(bytes.to_vec()).expect("text");
        assert_eq!(
            text.trim_end(),
            "early-service-state 1 boot=aaaaaaaa-aaaa-aaaa-aaaa-aaaaaaaaaaaa sequence=137 \
             unlogged=137 unbroken=137 realtime_ns=1795914123456789012 counter=137 \
             deadline_ns=137000000 period_ns=100000000 crc=24ba76a8"
        );
    }

    #[test]
    fn a_file_without_a_state_of_this_boot_is_refused() {
        let good = record(137).encode(&boot('a'));
        for (case, bytes, why) in [
            ("nothing", Vec::new(), DecodeError::Empty),
            ("allocated", [0; RECORD_SIZE].to_vec(), DecodeError::Empty),
            ("text", b"hello".to_vec(), DecodeError::Foreign),
            (
                "another format",
                good.map(|byte| byte.wrapping_add(1)).to_vec(),
                DecodeError::Foreign,
            ),
            ("cut off", good[..RECORD_SIZE - 1].to_vec(), DecodeError::Torn),
            ("too long", [&good[..], b"\n"].concat(), DecodeError::Torn),
            (
                "another boot",
                record(137).encode(&boot('b')).to_vec(),
                DecodeError::Stale(Some(WRITTEN)),
            ),
        ] {
            assert_eq!(Record::<Counter>::decode(&bytes, &boot('a'), NOW), Err(why), "{case}");
        }
    }

    #[test]
    fn a_record_of_another_boot_says_when_it_was_written_if_it_knows() {
        for (realtime, why) in [
            (
                Some(WRITTEN),
                "it is of another boot (last written 2026-11-29T01:02:03Z); its state does not \
                 continue",
            ),
            (None, "it is of another boot; its state does not continue"),
        ] {
            let bytes = Record { realtime, ..record(137) }.encode(&boot('b'));
            let error = Record::<Counter>::decode(&bytes, &boot('a'), NOW).err();
            assert_eq!(error.map(|error| error.to_string()).as_deref(), Some(why));
        }
    }

    #[test]
    fn a_record_without_a_valid_time_is_used() {
        for (time, realtime) in [
            ("", None),
            ("realtime_ns=", None),
            ("realtime_ns=-1", None),
            ("realtime_ns=18446744073709551616", None),
            ("realtime_ns=0", Some(Realtime::from_nanos(0))),
        ] {
            let mut text = Text::<RECORD_SIZE>::EMPTY;
            let (begin, id) = ("sequence=137 unlogged=137 unbroken=137", boot('a'));
            let end = "counter=137 deadline_ns=137000000 period_ns=100000000";
            write!(text, "{FORMAT_1}boot={id} {begin} {time} {end}").expect("room");
            let decoded = Record::<Counter>::decode(&text.sealed(), &boot('a'), NOW);
            assert_eq!(decoded, Ok(Record { realtime, ..record(137) }), "{time}");
        }
    }

    #[test]
    fn an_impossible_record_is_refused_by_the_name_of_its_field() {
        let sealed = |fields: &str| {
            let mut text = Text::<RECORD_SIZE>::EMPTY;
            write!(text, "{FORMAT_1}boot={} {fields}", boot('a')).expect("room");
            text.sealed()
        };
        const VALID: &str = "counter=5 deadline_ns=1000000 period_ns=100000000";
        for (fields, why) in [
            (
                "sequence=1 unlogged=0 unbroken=0 counter=5 deadline_ns=1 \
                 period_ns=18446744073709551615",
                "a period_ns of 18446744073709551615",
            ),
            (
                "sequence=1 unlogged=0 unbroken=0 counter=5 deadline_ns=1 period_ns=1",
                "a period_ns of 1,",
            ),
            (
                "sequence=1 unlogged=0 unbroken=0 counter=5 deadline_ns=237000001 \
                 period_ns=100000000",
                "a deadline_ns 100000001 ns ahead",
            ),
            (
                "sequence=1 unlogged=0 unbroken=0 counter=5 deadline_ns=1",
                "its record has no valid period_ns",
            ),
            (
                &["sequence=1 unlogged=0 unbroken=0 service=door ", VALID].concat(),
                "its state is of service 'door', not 'early-service'",
            ),
            (&["sequence=1 unlogged=2 unbroken=0 ", VALID].concat(), "unlogged=2"),
            (&["sequence=1 unlogged=0 unbroken=1 ", VALID].concat(), "unbroken=1"),
            (
                &["sequence=1 unlogged=18446744073709551615 unbroken=0 ", VALID].concat(),
                "more ticks than there were",
            ),
            (&["sequence=18446744073709551615 unlogged=1 unbroken=1 ", VALID].concat(), ""),
        ] {
            let decoded = Record::<Counter>::decode(&sealed(fields), &boot('a'), NOW);
            let error = decoded.err().map(|error| error.to_string()).unwrap_or_default();
            assert!(error.contains(why) && error.is_empty() == why.is_empty(), "{fields}: {error}");
        }
    }

    #[test]
    fn every_damaged_byte_is_detected() {
        // A checksum that begins with zero: a parser of numbers might accept a plus sign there.
        let begins_with_zero =
            |bytes: &[u8; RECORD_SIZE]| bytes.windows(6).any(|window| window == b" crc=0");
        let files = (0..).map(|number| record(number).encode(&boot('a')));
        let good = files.into_iter().find(begins_with_zero).expect("one in sixteen does");
        for (at, flip) in (0..RECORD_SIZE).flat_map(|at| (1..=u8::MAX).map(move |flip| (at, flip)))
        {
            let mut bytes = good;
            *bytes.get_mut(at).expect("within the record") ^= flip;
            let decoded = Record::<Counter>::decode(&bytes, &boot('a'), NOW);
            assert!(decoded.is_err(), "{flip:#x} in byte {at}");
        }
    }

    #[test]
    fn a_boot_id_has_the_form_of_the_kernel() {
        for (text, good) in [
            ("0a1b2c3d-0000-4000-8000-0123456789ab", true),
            ("0a1b2c3d-0000-4000-8000-0123456789ab\n", false),
            ("0a1b2c3d-0000-4000-8000-0123456789 b", false),
            ("", false),
        ] {
            assert_eq!(BootId::parse(text.as_bytes()).is_some(), good, "{text:?}");
        }
    }
}
