// SPDX-License-Identifier: Apache-2.0
//! Bounds: the length of everything that is read or written, in bytes.
//!
//! **Invariant:** a program compiles only if its state fits a line, the record and a reply.

use crate::slots::SLOT;
use crate::state::State;
use crate::wire::service::ServiceField;

/// The longest decimal form of a `u64`.
const NUMBER: usize = "18446744073709551615".len();

/// The longest line of a client, without its end (`\n` or `\r\n`). A session buffers one such line.
///
/// The longest command contains the path of a socket: at most 107 bytes (`sun_path` in unix(7)).
pub const MAX_COMMAND_LINE: usize = 128;

/// The number of bytes of an invalid line that its reply repeats: enough to recognize the line.
pub(crate) const INVALID_SHOWN: usize = 32;

/// The longest reply to an invalid line. Each repeated byte may be escaped to four.
pub const MAX_INVALID_REPLY: usize = INVALID_SHOWN * 4 + 128;

/// The reply to an invalid line, without the commands that the state lists.
const INVALID_OVERHEAD: usize =
    "Invalid command: ...; expected , , reload or status".len() + INVALID_SHOWN * 4;

/// The state's part of a status line, without the fields of the state.
pub const STATUS_OVERHEAD: usize = " ticks_late=".len() + NUMBER;

/// The longest fields that a status line contains; those of a larger state are left out.
pub const MAX_STATUS_FIELDS: usize = 1024;

/// The longest line of a handoff that is read, without its end (`\n`): the manifest of the largest
/// state, because another release may have a larger state than this one.
pub const MAX_HANDOFF_LINE: usize = MAX_STATE + MAX_SHORT_LINE;

/// The longest line of a handoff besides such a manifest. Release 0.1.0 reads no longer one.
pub const MAX_SHORT_LINE: usize = 512;

/// The longest name of a service ([`State::NAME`]).
pub const MAX_SERVICE: usize = 32;

/// The longest fields of a state ([`State::MAX_FIELDS`]).
///
/// A state that fits [`RECORD_SIZE`] costs less: one write of half a kilobyte for each change.
pub const MAX_STATE: usize = 4096;

/// The most descriptors with a name in one bundle.
pub const MAX_NAMED: u64 = 16;

/// The longest time that a successor may take to receive an offer, in milliseconds. Too long:
/// clients wait longer if the successor hangs. Too short: a successor on a busy machine has to ask
/// again.
pub const MAX_OFFER_MS: u64 = 1000;

/// The longest name of a descriptor.
pub const MAX_NAME: usize = 64;

/// The size of the record in the state file, except for a state that needs
/// [`slots`](crate::slots): a power of two, so that no page boundary splits it.
pub const RECORD_SIZE: usize = 512;

/// The record, without the fields of the state.
pub(crate) const RECORD_OVERHEAD: usize = "early-service-state 1 boot= sequence= unlogged= \
     unbroken= realtime_ns=  deadline_ns= period_ns= crc=01234567\n"
    .len()
    + BOOT_ID
    + 6 * NUMBER;

/// The length of the kernel's id of a boot (`/proc/sys/kernel/random/boot_id` in random(4)).
pub(crate) const BOOT_ID: usize = 36;

// The manifest of the largest state fits a line, and its record a slot.
const _: () = {
    let manifest = "state 1  deadline_ns= period_ns= lock=1 listeners= clients= owned= named=16"
        .len()
        + 5 * NUMBER;
    let service = ServiceField("xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx").length();
    assert!(manifest + service <= MAX_SHORT_LINE);
    assert!(RECORD_OVERHEAD + " size=1234".len() + service <= SLOT - MAX_STATE);
};

/// The check of a state. Each function that writes one of its forms evaluates it.
pub(crate) struct Bounds<S>(core::marker::PhantomData<S>);

impl<S: State> Bounds<S> {
    pub(crate) const HOLD: () = check::<S>();
}

/// Fails to compile if the state does not keep to its bounds.
///
/// # Panics
///
/// At run time, if the state exceeds a bound.
#[track_caller]
pub const fn check<S: State>() {
    assert!(
        is_service(S::NAME.as_bytes()),
        "NAME is not 1 to 32 of the characters a-z, 0-9 and '-', the first one a letter"
    );
    assert!(
        S::MAX_FIELDS <= MAX_STATE,
        "the state is too large: its fields (MAX_FIELDS) are longer than 4096 bytes"
    );
    assert!(
        S::MAX_EXPECTED.saturating_add(S::HAND_OVER.len()) <= MAX_INVALID_REPLY - INVALID_OVERHEAD,
        "the commands of the state (MAX_EXPECTED, HAND_OVER) do not fit the reply to an invalid \
             line"
    );
    assert!(
        S::EXPECTED.len() <= S::MAX_EXPECTED,
        "MAX_EXPECTED is less than the length of EXPECTED"
    );
    assert!(S::HAND_OVER.len() <= MAX_COMMAND_LINE, "HAND_OVER is longer than a line of a client");
}

/// Whether `name` is valid for a service.
pub(crate) const fn is_service(name: &[u8]) -> bool {
    let (mut rest, begins_with_letter) = match name {
        [first, ..] => (name, first.is_ascii_lowercase()),
        [] => (name, false),
    };
    while let [byte, others @ ..] = rest {
        if !matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-') {
            return false;
        }
        rest = others;
    }
    begins_with_letter && name.len() <= MAX_SERVICE
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_of_a_service_is_short_plain_and_begins_with_a_letter() {
        let longest = [b'x'; MAX_SERVICE];
        for name in [&b"early-service"[..], b"d", b"can0-2", &longest] {
            assert!(is_service(name), "{}", name.escape_ascii());
        }
        let too_long = [b'x'; MAX_SERVICE + 1];
        for name in [&b""[..], b"0can", b"-x", b"Door", b"a b", b"a_b", b"a=b", b"\xff", &too_long]
        {
            assert!(!is_service(name), "{}", name.escape_ascii());
        }
    }
}
