// SPDX-License-Identifier: Apache-2.0
//! Queue of log records, from any number of threads to the one thread that writes them.
//!
//! A ring of slots of 128 bytes; a record takes one slot, or several consecutive ones. A thread
//! that logs reserves all slots of its record in one step, fills them, and then publishes the
//! record, so the records of several threads never mix.
//!
//! Never blocks: a thread that is descheduled while it fills its slots delays the writer, but no
//! other thread that logs. Never allocates: the ring is static, and a slot uses memory only once it
//! has held a record.
//!
//! **Invariant:** a record is queued completely, or not at all.

use std::sync::atomic::{AtomicU64, Ordering};

/// The words of one slot. The first word is the position of the last record that was published
/// there; it never contains text.
const WORDS: usize = 16;

/// The words that describe a record; the upper 16 bits of the first one are the length of its text.
pub(crate) type Header = [u64; 3];

/// The words of text in the first slot of a record, after its header, and in each later slot.
const FIRST: usize = WORDS - 4;
const NEXT: usize = WORDS - 1;

const LENGTH_SHIFT: u32 = 48;

/// Set in `reserved` when no more records are accepted.
const CLOSED: u64 = 1;

pub(crate) struct Queue<const SLOTS: usize> {
    /// Twice the number of slots that were reserved since the start, plus [`CLOSED`].
    reserved: AtomicU64,
    /// The number of slots that the writer has freed.
    taken: AtomicU64,
    slots: [[AtomicU64; WORDS]; SLOTS],
}

/// The outcome of [`Queue::take`].
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Taken {
    /// A record, with the length of its text.
    Record(Header, usize),
    /// No record yet.
    Nothing,
    /// The queue is closed and empty.
    Closed,
}

impl<const SLOTS: usize> Queue<SLOTS> {
    pub(crate) const fn new() -> Self {
        Self {
            reserved: AtomicU64::new(0),
            taken: AtomicU64::new(0),
            slots: [const { [const { AtomicU64::new(0) }; WORDS] }; SLOTS],
        }
    }

    pub(crate) fn len(&self) -> usize {
        let reserved = self.reserved.load(Ordering::Relaxed) / 2;
        // The two are not read in one step, so `taken` may be larger.
        let used = reserved.saturating_sub(self.taken.load(Ordering::Relaxed));
        usize::try_from(used).unwrap_or(usize::MAX)
    }

    /// Queues a record; returns false if it does not fit into the first `room` slots or the queue
    /// is closed.
    pub(crate) fn push(&self, header: Header, text: &[u8], room: usize) -> bool {
        let Some(start) = self.reserve(slots(text.len()), room.min(SLOTS)) else {
            return false;
        };
        let [first, second, third] = header;
        let length = u64::try_from(text.len()).unwrap_or_default() << LENGTH_SHIFT;
        for (at, word) in [first | length, second, third].into_iter().enumerate() {
            self.word(start, 1 + at).store(word, Ordering::Relaxed);
        }
        for (at, chunk) in text.chunks(8).enumerate() {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.text(start, at).store(u64::from_ne_bytes(word), Ordering::Relaxed);
        }
        // Positions only grow, so this value was never here before.
        self.word(start, 0).store(start + 1, Ordering::Release);
        true
    }

    /// Reserves `slots`; returns the position of the first one.
    fn reserve(&self, slots: usize, room: usize) -> Option<u64> {
        let (slots, room) = (u64::try_from(slots).ok()?, u64::try_from(room).ok()?);
        let mut reserved = self.reserved.load(Ordering::Relaxed);
        loop {
            let start = reserved / 2;
            // Acquire: the writer has read the slots that it freed.
            let used = start.saturating_sub(self.taken.load(Ordering::Acquire));
            if reserved & CLOSED != 0 || used + slots > room {
                return None;
            }
            match self.reserved.compare_exchange_weak(
                reserved,
                reserved + 2 * slots,
                Ordering::Relaxed,
                Ordering::Relaxed,
            ) {
                Ok(_) => return Some(start),
                Err(other) => reserved = other,
            }
        }
    }

    /// Takes the oldest record and writes its text to the beginning of `text`. Only one thread may
    /// call this.
    pub(crate) fn take(&self, text: &mut [u8]) -> Taken {
        let start = self.taken.load(Ordering::Relaxed);
        if self.word(start, 0).load(Ordering::Acquire) != start + 1 {
            // A record that is reserved will be published.
            let is_over = self.reserved.load(Ordering::Relaxed) == 2 * start + CLOSED;
            return if is_over { Taken::Closed } else { Taken::Nothing };
        }
        let [first, second, third] =
            [1, 2, 3].map(|at| self.word(start, at).load(Ordering::Relaxed));
        let length = usize::try_from(first >> LENGTH_SHIFT).unwrap_or_default();
        let length = length.min(text.len());
        for (at, chunk) in text[..length].chunks_mut(8).enumerate() {
            let word = self.text(start, at).load(Ordering::Relaxed).to_ne_bytes();
            chunk.copy_from_slice(&word[..chunk.len()]);
        }
        let next = u64::try_from(slots(length)).unwrap_or_default();
        self.taken.store(start + next, Ordering::Release);
        Taken::Record([first & !(u64::MAX << LENGTH_SHIFT), second, third], length)
    }

    /// Accepts no more records; those in the queue can still be taken.
    pub(crate) fn close(&self) {
        self.reserved.fetch_or(CLOSED, Ordering::Relaxed);
    }

    /// A word of the slot at `position`.
    fn word(&self, position: u64, word: usize) -> &AtomicU64 {
        let slot = position % u64::try_from(SLOTS).unwrap_or(1);
        &self.slots[usize::try_from(slot).unwrap_or_default()][word]
    }

    /// The word `at` of the text of the record at `start`.
    fn text(&self, start: u64, at: usize) -> &AtomicU64 {
        match at.checked_sub(FIRST) {
            None => self.word(start, WORDS - FIRST + at),
            Some(at) => {
                let slot = u64::try_from(1 + at / NEXT).unwrap_or_default();
                self.word(start + slot, WORDS - NEXT + at % NEXT)
            }
        }
    }
}

/// The number of slots for a record whose text has `length` bytes.
pub(crate) const fn slots(length: usize) -> usize {
    1 + length.div_ceil(8).saturating_sub(FIRST).div_ceil(NEXT)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicBool;
    use std::thread;

    fn take<const SLOTS: usize>(queue: &Queue<SLOTS>) -> Option<(Header, Vec<u8>)> {
        let mut text = [0; 512];
        match queue.take(&mut text) {
            Taken::Record(header, length) => Some((header, text[..length].to_vec())),
            Taken::Nothing | Taken::Closed => None,
        }
    }

    #[test]
    fn a_record_of_any_length_is_unchanged() {
        let queue = Queue::<4>::new();
        for length in (0..=456).chain((0..=456).rev()) {
            let text: Vec<u8> =
                (0..length).map(|at| u8::try_from(at % 251).expect("small")).collect();
            let number = u64::try_from(length).expect("small");
            let header = [number, u64::MAX, !number];
            assert!(queue.push(header, &text, 4), "{length}");
            assert_eq!(queue.len(), slots(length), "{length}");
            assert_eq!(take(&queue), Some((header, text)), "{length}");
        }
        assert_eq!((slots(96), slots(97), slots(216), slots(217)), (1, 2, 2, 3));
    }

    #[test]
    fn a_record_that_does_not_fit_leaves_no_part() {
        let queue = Queue::<4>::new();
        assert!(queue.push([0; 3], &[1; 97], 3) && !queue.push([0; 3], &[1; 97], 3));
        assert!(queue.push([0; 3], &[1; 97], 4) && !queue.push([0; 3], &[], 400));
        assert_eq!(queue.len(), 4);
        assert!(take(&queue).is_some() && queue.push([0; 3], &[], 4));
    }

    #[test]
    fn a_closed_queue_gives_its_records_and_takes_no_more() {
        let queue = Queue::<4>::new();
        let mut text = [0; 8];
        assert_eq!(queue.take(&mut text), Taken::Nothing);
        assert!(queue.push([7; 3], b"x", 4));
        queue.close();
        assert!(!queue.push([8; 3], b"y", 4));
        assert_eq!(queue.take(&mut text), Taken::Record([7; 3], 1));
        assert_eq!(queue.take(&mut text), Taken::Closed);
    }

    #[test]
    fn records_of_several_threads_stay_whole_and_in_order() {
        // Fewer under an interpreter.
        const RECORDS: u64 = if cfg!(miri) { 30 } else { 20_000 };
        const THREADS: u64 = 4;
        // Records of one and of several slots; most lengths are no multiple of a word.
        const LENGTHS: [usize; 6] = [240, 5, 97, 0, 217, 96];
        static QUEUE: Queue<16> = Queue::new();
        let is_over = AtomicBool::new(false);
        let text = |thread: u64, number: u64| {
            let length = LENGTHS[usize::try_from(number).expect("small") % LENGTHS.len()];
            vec![u8::try_from((thread * 61 + number) % 256).expect("a byte"); length]
        };
        let (queued, taken) = thread::scope(|scope| {
            let log = |thread| {
                let queue =
                    |number| QUEUE.push([thread, number, !number], &text(thread, number), 16);
                (0..RECORDS).filter(|number| queue(*number)).count()
            };
            let threads: Vec<_> =
                (0..THREADS).map(|thread| scope.spawn(move || log(thread))).collect();
            let writer = scope.spawn(|| {
                let mut last = [None; THREADS as usize];
                let mut count = 0;
                loop {
                    let was_over = is_over.load(Ordering::Acquire);
                    match take(&QUEUE) {
                        Some(([thread, number, inverse], found)) => {
                            assert_eq!(inverse, !number, "torn");
                            assert_eq!(found, text(thread, number), "torn");
                            let last = &mut last[usize::try_from(thread).expect("small")];
                            assert!(*last < Some(number), "out of order");
                            *last = Some(number);
                            count += 1;
                        }
                        None if was_over => return count,
                        None => thread::yield_now(),
                    }
                }
            });
            let queued: usize =
                threads.into_iter().map(|thread| thread.join().expect("no panic")).sum();
            is_over.store(true, Ordering::Release);
            (queued, writer.join().expect("whole records"))
        });
        assert_eq!(queued, taken);
        assert!(queued > 0, "the queue was full all the time");
    }
}
