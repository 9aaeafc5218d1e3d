// SPDX-License-Identifier: Apache-2.0
//! Slots: the state file of a state that does not fit a record of [`RECORD_SIZE`].
//!
//! A longer write can be split between two pages, and a process that is killed in between leaves
//! the record torn. So there are two slots, of [`SLOT`] bytes each, and the owner writes them in
//! turn: the slot that it does not write has the record before.
//!
//! ```text
//! early-service-state 2 size=1234 boot=… sequence=12 … crc=…
//! ```
//!
//! `size` is the length of the record with its newline; what follows it in the slot is ignored. All
//! else is as in [`record`](crate::record). Every state is read from both forms, because an older or
//! newer release may have written the file for a state of another size.
//!
//! **Invariant:** the slot of the newest record is not the next one that is written.

use core::fmt::Write as _;

use crate::bounds::{MAX_STATE, RECORD_OVERHEAD, RECORD_SIZE};
use crate::record::{BootId, DecodeError, FORMAT_1, Record, SEAL, Text, checksum};
use crate::schedule::Monotonic;
use crate::state::State;
use crate::wire::fields::number;
use crate::wire::service::ServiceField;

/// The length of a slot.
pub const SLOT: usize = MAX_STATE + 512;

/// The length of a file with two slots.
pub const SLOTS: usize = 2 * SLOT;

/// The beginning of a record in a slot; the four digits of its size follow.
const FORMAT_2: &str = "early-service-state 2 size=";

const DIGITS: usize = 4;

/// A record for one of the slots.
pub struct Slot {
    text: Text<SLOT>,
    second: bool,
}

impl Slot {
    /// What to write.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        self.text.written()
    }

    /// Where to write it in the file.
    #[must_use]
    pub const fn offset(&self) -> usize {
        if self.second { SLOT } else { 0 }
    }
}

impl<S: State> Record<S> {
    /// Whether the longest record has room in [`RECORD_SIZE`], so that [`encode`](Self::encode)
    /// writes it.
    pub const IS_SMALL: bool = {
        let fields = S::MAX_FIELDS.saturating_add(ServiceField(S::NAME).length());
        fields <= RECORD_SIZE - RECORD_OVERHEAD
    };

    /// The length of the file.
    pub const FILE_SIZE: usize = if Self::IS_SMALL { RECORD_SIZE } else { SLOTS };

    /// The record for the slot that its sequence number selects.
    #[must_use]
    pub fn encode_slot(&self, boot: &BootId) -> Slot {
        let mut text = Text::<SLOT>::EMPTY;
        // Cannot fail, because a slot has room for the longest record.
        let _ = write!(text, "{FORMAT_2}0000 ");
        self.write_to(&mut text, boot);
        let (mut size, end) = (Text::<DIGITS>::EMPTY, SEAL.saturating_add(1));
        let _ = write!(size, "{:04}", text.written().len().saturating_add(end));
        text.replace(FORMAT_2.len(), size.written());
        text.seal();
        let _ = text.write_str("\n");
        Slot { text, second: self.sequence % 2 == 1 }
    }

    /// Reads a file that is longer than [`RECORD_SIZE`]; also returns whether the newest record is
    /// in the second slot.
    ///
    /// # Errors
    ///
    /// Returns why the file contains no state of this boot.
    pub fn newest(file: &[u8], boot: &BootId, now: Monotonic) -> Result<(Self, bool), DecodeError> {
        let (first, second) = file.split_at_checked(SLOT).unwrap_or((file, &[]));
        let first = match first.get(..RECORD_SIZE) {
            Some(small) if small.starts_with(FORMAT_1.as_bytes()) => Self::decode(small, boot, now),
            _ => Self::decode_slot(first, boot, now),
        };
        match (first, Self::decode_slot(second, boot, now)) {
            (Ok(first), Ok(second)) if second.sequence > first.sequence => Ok((second, true)),
            (Ok(first), _) => Ok((first, false)),
            (Err(_), Ok(second)) => Ok((second, true)),
            (Err(DecodeError::Stale(first)), Err(DecodeError::Stale(second))) => {
                Err(DecodeError::Stale(first.max(second)))
            }
            (Err(first), Err(second)) => {
                let says_more = second.is_impossible() || first == DecodeError::Empty;
                Err(if says_more { second } else { first })
            }
        }
    }

    fn decode_slot(slot: &[u8], boot: &BootId, now: Monotonic) -> Result<Self, DecodeError> {
        if slot.iter().all(|byte| *byte == 0) {
            return Err(DecodeError::Empty);
        }
        let rest = slot.strip_prefix(FORMAT_2.as_bytes()).ok_or(DecodeError::Foreign)?;
        let whole = || {
            let size = usize::try_from(number(rest.get(..DIGITS)?)?).ok()?;
            let line = slot.get(..size)?.strip_suffix(b"\n")?;
            let (text, seal) = line.split_at_checked(line.len().checked_sub(SEAL)?)?;
            (checksum(text).written() == seal).then_some(text)
        };
        Self::read(whole().ok_or(DecodeError::Torn)?, boot, now)
    }

    /// The sequence number of the record after this one, which does not overwrite it.
    #[must_use]
    pub const fn next_sequence(&self, is_second: bool) -> u64 {
        let next = self.sequence.saturating_add(1);
        let is_same_slot = (next % 2 == 1) == is_second;
        if Self::IS_SMALL || !is_same_slot { next } else { next.saturating_add(1) }
    }
}

#[cfg(test)]
#[allow(clippy::indexing_slicing, reason = "a test fails by panicking")]
mod tests {
    use super::*;
    use crate::bounds::MAX_HANDOFF_LINE;
    use crate::contract;
    use crate::counter::{self, Counter};
    use crate::realtime::Realtime;
    use crate::record::Unlogged;
    use crate::schedule::Period;
    use crate::timeline::Snapshot;
    use crate::wire::fields::{Fields, MissingField};
    use crate::wire::manifest::Manifest;
    use core::fmt::{self, Display};
    use std::string::ToString;
    use std::vec::Vec;

    /// As many letters as one state can have.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
    struct Letters<const N: usize>([u8; N]);

    impl<const N: usize> Default for Letters<N> {
        fn default() -> Self {
            Self([b'a'; N])
        }
    }

    impl<const N: usize> State for Letters<N> {
        type Command = counter::Command;
        type Reply = counter::Reply;

        const NAME: &'static str = "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx";
        const EXPECTED: &'static str = Counter::EXPECTED;
        const MAX_FIELDS: usize = N + 2;
        const MAX_REPLY: usize = Counter::MAX_REPLY;

        fn read(fields: Fields<'_>) -> Result<Self, MissingField> {
            let text = fields.get("t").and_then(|text| text.try_into().ok());
            text.map(Self).ok_or(MissingField("t"))
        }
        fn write_fields(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "t={self}")
        }
        fn command(line: &[u8]) -> Result<Self::Command, &'static str> {
            Counter::command(line)
        }
        fn apply(&mut self, command: Self::Command) -> Self::Reply {
            Counter::default().apply(command)
        }
        fn tick(&mut self) {}
    }

    impl<const N: usize> Display for Letters<N> {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(core::str::from_utf8(&self.0).unwrap_or_default())
        }
    }

    type Large = Letters<{ MAX_STATE - 2 }>;
    type Small = Letters<200>;

    const NOW: Monotonic = Monotonic::from_nanos(u64::MAX);

    fn boot() -> BootId {
        BootId::parse(&[b'a'; 36]).expect("the kernel's form")
    }

    /// The record of this number; the state is all of one letter.
    fn record<const N: usize>(sequence: u64) -> Record<Letters<N>> {
        let letter = char::from_digit(u32::try_from(sequence % 26).expect("a letter") + 10, 36);
        let letter = u8::try_from(letter.expect("a letter")).expect("ASCII");
        let period = Period::from_nanos(Period::LONGEST).expect("within its bounds");
        let snapshot = Snapshot { state: Letters([letter; N]), deadline: NOW, period };
        let realtime = Some(Realtime::from_nanos(u64::MAX - 9 + sequence.min(9)));
        Record { sequence, unlogged: Unlogged::default(), realtime, snapshot }
    }

    /// Writes a record as its owner does.
    fn write<const N: usize>(file: &mut Vec<u8>, record: &Record<Letters<N>>) {
        let small = Record::<Letters<N>>::IS_SMALL.then(|| record.encode(&boot()));
        let slot = record.encode_slot(&boot());
        let (bytes, at) = match &small {
            Some(small) => (&small[..], 0),
            None => (slot.bytes(), slot.offset()),
        };
        file.resize(file.len().max(at + bytes.len()), 0);
        file[at..at + bytes.len()].copy_from_slice(bytes);
    }

    fn newest<const N: usize>(file: &[u8]) -> Result<(u64, bool), DecodeError> {
        let newest = Record::<Letters<N>>::newest(file, &boot(), NOW);
        newest.map(|(found, is_second)| {
            assert_eq!(found, record(found.sequence));
            (found.sequence, is_second)
        })
    }

    #[test]
    fn the_largest_state_fits_a_slot_and_a_line_and_says_its_size() {
        const {
            assert!(!Record::<Large>::IS_SMALL && Record::<Small>::IS_SMALL);
            assert!(Record::<Counter>::IS_SMALL);
        }
        let record = record::<{ MAX_STATE - 2 }>(u64::MAX);
        assert_eq!(contract::check(&record.snapshot.state), Ok(()));
        let slot = record.encode_slot(&boot());
        let text = core::str::from_utf8(slot.bytes()).expect("text");
        let size = text.len();
        assert!(text.starts_with(&std::format!("early-service-state 2 size={size} boot=aaa")));
        assert!(text.ends_with("\n") && size <= SLOT && size > MAX_STATE, "{size}");
        let (snapshot, most) = (record.snapshot, u64::MAX);
        let line = Manifest {
            snapshot,
            lock: true,
            listeners: most,
            owned: most,
            clients: most,
            named: 16,
        };
        assert!(line.to_string().len() <= MAX_HANDOFF_LINE);
    }

    #[test]
    fn a_torn_slot_leaves_the_record_before() {
        let (mut file, mut before) = (Vec::new(), None);
        for sequence in 0..4 {
            let written = record::<{ MAX_STATE - 2 }>(sequence);
            let old = file.clone();
            write(&mut file, &written);
            // However much of the write has reached the file when the process is killed.
            let offset = written.encode_slot(&boot()).offset();
            for length in (0..written.encode_slot(&boot()).bytes().len()).step_by(7) {
                let mut torn = old.clone();
                let end = offset + length;
                torn.resize(torn.len().max(end), 0);
                torn[offset..end].copy_from_slice(&file[offset..end]);
                let found = newest::<{ MAX_STATE - 2 }>(&torn);
                match before {
                    Some(before) => assert_eq!(found, Ok(before), "{length} bytes"),
                    None => assert!(found.is_err(), "{length} bytes"),
                }
            }
            before = Some((sequence, sequence % 2 == 1));
            assert_eq!(newest::<{ MAX_STATE - 2 }>(&file), before.ok_or(DecodeError::Torn));
        }
    }

    #[test]
    fn a_state_that_has_grown_or_shrunk_is_read_from_the_newest_record() {
        let mut file = Vec::new();
        let mut sequence = 12;
        // A release whose state has 200 letters, then one whose state needs slots, and so on.
        for round in 0..4 {
            write(&mut file, &record::<200>(sequence));
            file.resize(SLOTS, 0);
            assert_eq!(newest::<200>(&file), Ok((sequence, false)), "round {round}");
            sequence = Record::<Large>::next_sequence(&record(sequence), false);
            write(&mut file, &record::<{ MAX_STATE - 2 }>(sequence));
            assert_eq!(sequence % 2, 1, "the small record is not overwritten first");
            assert_eq!(newest::<{ MAX_STATE - 2 }>(&file), Ok((sequence, true)), "round {round}");
            sequence = Record::<Small>::next_sequence(&record(sequence), true);
        }
    }

    #[test]
    fn the_next_record_does_not_overwrite_the_newest() {
        for (sequence, is_second, next) in
            [(4, false, 5), (5, true, 6), (5, false, 7), (4, true, 6)]
        {
            let large = record::<{ MAX_STATE - 2 }>(sequence);
            assert_eq!(large.next_sequence(is_second), next, "{sequence}");
            assert_eq!(record::<200>(sequence).next_sequence(is_second), sequence + 1);
        }
    }

    #[test]
    fn a_file_of_slots_without_a_state_says_why() {
        let good = record::<{ MAX_STATE - 2 }>(1);
        let other = BootId::parse(&[b'b'; 36]).expect("the kernel's form");
        let with = |mut file: Vec<u8>, record: &Record<Large>| {
            let slot = record.encode_slot(&other);
            file[slot.offset()..][..slot.bytes().len()].copy_from_slice(slot.bytes());
            file
        };
        let stale = with([0; SLOTS].to_vec(), &good);
        let both = with(stale.clone(), &record(0));
        let later = with(stale.clone(), &record(2));
        let at = |sequence| DecodeError::Stale(record::<0>(sequence).realtime);
        let mut torn = stale.clone();
        torn[SLOT + 100] ^= 1;
        let mut oversized = [0; SLOTS].to_vec();
        oversized[..31].copy_from_slice(b"early-service-state 2 size=9999");
        for (case, file, why) in [
            ("zeros", [0; SLOTS].to_vec(), DecodeError::Empty),
            ("text", [b'x'; SLOTS].to_vec(), DecodeError::Foreign),
            ("another boot", stale, at(1)),
            ("another boot, in both slots", both, at(1)),
            ("another boot, the later one first", later, at(2)),
            ("a damaged byte", torn, DecodeError::Torn),
            ("a size beyond the slot", oversized, DecodeError::Torn),
        ] {
            let found = Record::<Large>::newest(&file, &boot(), NOW).err();
            assert_eq!(found, Some(why), "{case}");
        }
    }
}
