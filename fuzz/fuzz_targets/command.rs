// SPDX-License-Identifier: Apache-2.0
//! Commands of a client: any bytes, split into any pieces.
//!
//! The first byte selects how the rest is split; the rest is what a client sends. The replies do
//! not depend on the split, each is one line within its bound, and the text form of an accepted
//! command is the same command.
//!
//! `cargo +nightly fuzz run -s none command -- -dict=fuzz/command.dict`
#![no_main]

use early_service_machine::Counter;
use early_service_machine::bounds::{MAX_COMMAND_LINE, MAX_INVALID_REPLY};
use early_service_machine::schedule::{Monotonic, Period};
use early_service_machine::timeline::Ticking;
use early_service_machine::wire::command::{Command, TOO_LONG, split_line};
use early_service_machine::wire::framing::Framed;
use early_service_machine::wire::request::Request;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Some((seed, sent)) = bytes.split_first() else { return };
    let replies = serve(sent, core::iter::once(sent.len()));
    assert_eq!(replies, serve(sent, core::iter::repeat(1)), "byte by byte");
    assert_eq!(replies, serve(sent, pieces(*seed)), "in pieces");
});

/// The replies to `sent`, read in pieces of these sizes.
fn serve(sent: &[u8], mut sizes: impl Iterator<Item = usize>) -> Vec<String> {
    let (mut replies, mut kept, mut left) = (Vec::new(), Vec::new(), sent);
    let period = Period::from_millis(100).expect("not zero");
    let mut counter = Ticking::starting(Counter::default(), Monotonic::default(), period);
    loop {
        let size = sizes.next().unwrap_or(left.len()).clamp(1, left.len().max(1));
        let (piece, rest) = left.split_at(size.min(left.len()));
        let ended = piece.is_empty();
        kept.extend_from_slice(piece);
        left = rest;
        loop {
            match split_line(&kept, ended) {
                Framed::Line(line, taken) => {
                    assert!(line.len() <= MAX_COMMAND_LINE && line.len() <= taken && taken > 0);
                    replies.push(reply(line, &mut counter));
                    kept.drain(..taken);
                }
                Framed::Partial if ended => {
                    assert!(kept.is_empty(), "the end of the input ends the last line");
                    return replies;
                }
                Framed::Partial => break,
                Framed::TooLong => {
                    replies.push(TOO_LONG.to_owned());
                    return replies;
                }
            }
        }
        // An incomplete line fits the buffer of a session.
        assert!(kept.len() <= MAX_COMMAND_LINE + 1, "{} bytes are kept of a line", kept.len());
    }
}

/// An endless sequence of sizes from 1 to 64 that depends on `seed`.
fn pieces(seed: u8) -> impl Iterator<Item = usize> {
    let mut state = u32::from(seed) + 1;
    core::iter::repeat_with(move || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 26) as usize + 1
    })
}

/// The reply to one line, after checking it against the promises to its client.
fn reply(line: &[u8], counter: &mut Ticking<Counter>) -> String {
    let reply = match Command::<Counter>::parse(line) {
        Ok(command) => {
            let written = command.to_string();
            assert!(written.len() <= MAX_COMMAND_LINE, "{written}");
            assert_eq!(Command::<Counter>::parse(written.as_bytes()), Ok(command), "{written}");
            match command {
                // A newer successor may send fields that this release does not know.
                Command::HandOver(Request::Handoff { .. }) => return written,
                Command::HandOver(_) | Command::Status | Command::Reload => {
                    assert_eq!(written.as_bytes(), line);
                    written
                }
                Command::State(command) => {
                    assert_eq!(written, without_zeros(line));
                    counter.apply(command).to_string()
                }
            }
        }
        Err(invalid) => {
            let reply = invalid.to_string();
            assert!(reply.starts_with("Invalid command: "), "{reply}");
            assert!(reply.len() <= MAX_INVALID_REPLY, "{} bytes: {reply}", reply.len());
            reply
        }
    };
    assert!(reply.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic()), "{reply:?}");
    reply
}

/// The line without leading zeros in its number.
fn without_zeros(line: &[u8]) -> String {
    let text = String::from_utf8_lossy(line);
    match text.rsplit_once(' ') {
        None => text.into_owned(),
        Some((command, digits)) => match digits.trim_start_matches('0') {
            "" if !digits.is_empty() => format!("{command} 0"),
            number => format!("{command} {number}"),
        },
    }
}
