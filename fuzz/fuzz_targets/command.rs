// SPDX-License-Identifier: Apache-2.0
//! Command: any bytes, cut into any pieces.
//!
//! The first byte says how the rest is cut; the rest is what a client sends.
//! However it is cut, the lines are the same, each is answered within its bound and on one line,
//! and a command that is accepted can be written again.
//!
//! `cargo +nightly fuzz run command -- -dict=fuzz/command.dict`
#![no_main]

use early_service_machine::command::{Command, Frame, MAX_INVALID, MAX_LINE, frame};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Some((seed, sent)) = bytes.split_first() else { return };
    let lines = read(sent, core::iter::once(sent.len()));
    assert_eq!(lines, read(sent, core::iter::repeat(1)), "byte by byte");
    assert_eq!(lines, read(sent, pieces(*seed)), "in pieces");
    for line in lines.iter().flatten() {
        check(line);
    }
});

/// The lines of `sent`, read in pieces of these sizes; `None` stands for one that is too long.
fn read(sent: &[u8], mut sizes: impl Iterator<Item = usize>) -> Vec<Option<Vec<u8>>> {
    let (mut lines, mut kept, mut left) = (Vec::new(), Vec::new(), sent);
    loop {
        let size = sizes.next().unwrap_or(left.len()).clamp(1, left.len().max(1));
        let (piece, rest) = left.split_at(size.min(left.len()));
        let ended = piece.is_empty();
        kept.extend_from_slice(piece);
        left = rest;
        loop {
            match frame(&kept, ended) {
                Frame::Line(line, taken) => {
                    assert!(line.len() <= MAX_LINE && line.len() <= taken && taken > 0);
                    lines.push(Some(line.to_vec()));
                    kept.drain(..taken);
                }
                Frame::Partial if ended => {
                    assert!(kept.is_empty(), "the end of the input ends the last line");
                    return lines;
                }
                Frame::Partial => break,
                Frame::TooLong => {
                    lines.push(None);
                    return lines;
                }
            }
        }
        // What a session keeps fits its buffer.
        assert!(kept.len() <= MAX_LINE + 1, "{} bytes are kept of a line", kept.len());
    }
}

/// Sizes from 1 to 64, without end, as `seed` has them.
fn pieces(seed: u8) -> impl Iterator<Item = usize> {
    let mut state = u32::from(seed) + 1;
    core::iter::repeat_with(move || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 26) as usize + 1
    })
}

/// Holds one line against what its client is promised.
fn check(line: &[u8]) {
    match Command::parse(line) {
        Ok(command) => {
            let written = command.to_string();
            assert!(written.len() <= MAX_LINE, "{written}");
            assert_eq!(Command::parse(written.as_bytes()), Ok(command), "{written}");
        }
        Err(invalid) => {
            let reply = invalid.to_string();
            assert!(reply.starts_with("Invalid command: "), "{reply}");
            assert!(reply.len() <= MAX_INVALID, "{} bytes: {reply}", reply.len());
            assert!(reply.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic()), "{reply:?}");
        }
    }
}
