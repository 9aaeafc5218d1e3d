// SPDX-License-Identifier: Apache-2.0
//! Fixed-size buffer: bytes are appended at the end and consumed from the front.
//!
//! Never allocates. Consumed bytes can be taken back until the space is reused.

use std::fmt;

pub(crate) struct FixedBuf<const N: usize> {
    bytes: [u8; N],
    start: usize,
    end: usize,
}

impl<const N: usize> FixedBuf<N> {
    pub(crate) const fn new() -> Self {
        Self { bytes: [0; N], start: 0, end: 0 }
    }

    /// The bytes that are not consumed.
    pub(crate) fn pending(&self) -> &[u8] {
        self.bytes.get(self.start..self.end).unwrap_or_default()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// How many bytes can be appended after the pending ones.
    pub(crate) fn room(&self) -> usize {
        N - self.end
    }

    /// Moves the pending bytes to the front, and returns all free bytes. Call [`fill`](Self::fill)
    /// after writing to them.
    pub(crate) fn spare(&mut self) -> &mut [u8] {
        self.bytes.copy_within(self.start..self.end, 0);
        (self.start, self.end) = (0, self.end - self.start);
        self.bytes.get_mut(self.end..).unwrap_or_default()
    }

    /// Appends `count` bytes that were written to [`spare`](Self::spare).
    pub(crate) fn fill(&mut self, count: usize) {
        self.end = N.min(self.end + count);
    }

    /// Consumes at most `count` bytes, and returns them.
    pub(crate) fn take(&mut self, count: usize) -> &[u8] {
        let from = self.start;
        self.start = self.end.min(from + count);
        self.bytes.get(from..self.start).unwrap_or_default()
    }

    /// The position of the first pending byte.
    pub(crate) fn position(&self) -> usize {
        self.start
    }

    /// Makes all bytes from an earlier position on pending again.
    pub(crate) fn rewind(&mut self, position: usize) {
        self.start = position;
    }

    pub(crate) fn clear(&mut self) {
        (self.start, self.end) = (0, 0);
    }

    /// Replaces the content; false if `bytes` do not fit.
    pub(crate) fn replace(&mut self, bytes: &[u8]) -> bool {
        let Some(room) = self.bytes.get_mut(..bytes.len()) else {
            return false;
        };
        room.copy_from_slice(bytes);
        (self.start, self.end) = (0, bytes.len());
        true
    }
}

/// Appends text; an error if it does not fit.
impl<const N: usize> fmt::Write for FixedBuf<N> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let end = self.end + text.len();
        self.bytes.get_mut(self.end..end).ok_or(fmt::Error)?.copy_from_slice(text.as_bytes());
        self.end = end;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fmt::Write;

    #[test]
    fn bytes_come_out_in_order_and_can_be_taken_back() {
        let mut buffer = FixedBuf::<8>::new();
        buffer.write_str("abcdef").expect("room");
        assert_eq!(buffer.take(2), b"ab");
        assert_eq!((buffer.pending(), buffer.room()), (&b"cdef"[..], 2));
        buffer.rewind(1);
        assert_eq!(buffer.pending(), b"bcdef");
        buffer.spare()[..2].copy_from_slice(b"gh");
        buffer.fill(2);
        assert_eq!((buffer.pending(), buffer.position()), (&b"bcdefgh"[..], 0));
        assert_eq!(buffer.take(100), b"bcdefgh");
        assert!(buffer.is_empty());
    }

    #[test]
    fn text_that_does_not_fit_leaves_no_part() {
        let mut buffer = FixedBuf::<4>::new();
        buffer.write_str("abc").expect("room");
        assert!(buffer.write_str("de").is_err() && !buffer.replace(b"abcde"));
        assert_eq!(buffer.pending(), b"abc");
        assert!(buffer.replace(b"wxyz"));
        assert_eq!(buffer.pending(), b"wxyz");
    }
}
