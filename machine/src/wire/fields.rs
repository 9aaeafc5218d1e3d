// SPDX-License-Identifier: Apache-2.0
//! Fields: `key=value` pairs in a line of text, separated by single spaces.
//!
//! The state file and the messages of the handoff consist of fields, so that a person can read them
//! and a newer release can add keys. The key itself decides what a release does that does not know
//! it:
//!
//! - A key that begins with `!` must be understood: the line or the record is refused, and the
//!   error names the key. This release knows no such key.
//! - Any other key is ignored and not kept: what this release writes then lacks it.
//!
//! So a newer release reads a missing key as a default, and uses a `!` only if an older release
//! would do harm without the key. Release 0.1.0 ignores every unknown key.

use core::fmt;

/// The fields of one line.
#[derive(Clone, Copy, Debug)]
pub struct Fields<'a>(&'a [u8]);

/// The key of a required field that is missing or malformed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MissingField(pub &'static str);

impl fmt::Display for MissingField {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "no valid {}", self.0)
    }
}

/// A key that this release must understand and does not know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnknownKey(Word);

impl UnknownKey {
    /// The key, which begins with `!`.
    #[must_use]
    pub fn new(key: &[u8]) -> Self {
        Self(Word::cut(key))
    }
}

impl fmt::Display for UnknownKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the unknown key '{}'", self.0)
    }
}

/// The beginning of a word, filled up with zeros, for an error that outlives the line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Word([u8; Self::LENGTH]);

impl Word {
    const LENGTH: usize = 32;

    pub(crate) fn cut(word: &[u8]) -> Self {
        let mut bytes = [0; Self::LENGTH];
        bytes.iter_mut().zip(word).for_each(|(place, byte)| *place = *byte);
        Self(bytes)
    }
}

impl fmt::Display for Word {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let end = self.0.iter().position(|byte| *byte == 0).unwrap_or(self.0.len());
        self.0.get(..end).unwrap_or_default().escape_ascii().fmt(f)
    }
}

impl<'a> Fields<'a> {
    /// The fields of a line. Words without `=` are ignored.
    #[must_use]
    pub const fn new(line: &'a [u8]) -> Self {
        Self(line)
    }

    /// The value of the first field with this key.
    #[must_use]
    pub fn get(self, key: &str) -> Option<&'a [u8]> {
        let value = |field: &'a [u8]| field.strip_prefix(key.as_bytes())?.strip_prefix(b"=");
        self.0.split(|byte| *byte == b' ').find_map(value)
    }

    /// The first key that must be understood. No function of this release reads such a key.
    pub(crate) fn unknown_key(self) -> Option<&'a [u8]> {
        let word = self.0.split(|byte| *byte == b' ').find(|word| word.starts_with(b"!"))?;
        word.split(|byte| *byte == b'=').next()
    }

    /// The number in the field with this key, 0 to 18446744073709551615.
    ///
    /// # Errors
    ///
    /// Returns the key if there is no such field or its value is not such a number.
    pub fn number(self, key: &'static str) -> Result<u64, MissingField> {
        self.get(key).and_then(number).ok_or(MissingField(key))
    }

    /// The number in the field with this key, at most `most`.
    ///
    /// # Errors
    ///
    /// Returns the key if there is no such field or its value is not such a number.
    pub fn number_up_to(self, key: &'static str, most: u64) -> Result<u64, MissingField> {
        let number = self.number(key)?;
        if number <= most { Ok(number) } else { Err(MissingField(key)) }
    }

    /// The flag in the field with this key: 1 is true, 0 is false.
    ///
    /// # Errors
    ///
    /// Returns the key if there is no such field or its value is neither 0 nor 1.
    pub fn flag(self, key: &'static str) -> Result<bool, MissingField> {
        match self.number(key)? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(MissingField(key)),
        }
    }

    /// As [`number`](Self::number), or `default` if there is no such field: for a field that is new
    /// in a release.
    ///
    /// # Errors
    ///
    /// Returns the key if the value is not such a number.
    pub fn number_or(self, key: &'static str, default: u64) -> Result<u64, MissingField> {
        if self.get(key).is_some() { self.number(key) } else { Ok(default) }
    }

    /// As [`flag`](Self::flag), or `default` if there is no such field.
    ///
    /// # Errors
    ///
    /// Returns the key if the value is neither 0 nor 1.
    pub fn flag_or(self, key: &'static str, default: bool) -> Result<bool, MissingField> {
        if self.get(key).is_some() { self.flag(key) } else { Ok(default) }
    }
}

/// Reads a `u64` from decimal digits: at least one, without sign or space.
#[must_use]
pub fn number(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0_u64, |number, digit| {
        let digit = digit.checked_sub(b'0').filter(|digit| *digit <= 9)?;
        number.checked_mul(10)?.checked_add(u64::from(digit))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_consists_of_digits_only() {
        for (text, value) in [
            ("0", Some(0)),
            ("007", Some(7)),
            ("18446744073709551615", Some(u64::MAX)),
            ("18446744073709551616", None),
            ("99999999999999999999999", None),
            ("", None),
            ("+1", None),
            ("-1", None),
            (" 1", None),
            ("1 ", None),
            ("0x1", None),
            ("1.5", None),
            ("١", None),
        ] {
            assert_eq!(number(text.as_bytes()), value, "{text:?}");
        }
    }

    #[test]
    fn a_key_with_an_exclamation_mark_is_found() {
        for (line, key) in [
            (&b"state 1 n=1 later=2"[..], None),
            (b"state 1 n=!m later!=2", None),
            (b"", None),
            (b"!", Some("!")),
            (b"n=1 !key= !other=1", Some("!key")),
            (b"n=1 !k\xff=a=b", Some("!k\\xff")),
            (b"!01234567890123456789012345678901=", Some("!0123456789012345678901234567890")),
        ] {
            let found = Fields::new(line).unknown_key().map(UnknownKey::new);
            let expected = key.map(|key| std::format!("the unknown key '{key}'"));
            assert_eq!(found.map(|key| std::format!("{key}")), expected);
        }
    }

    #[test]
    fn a_field_is_found_by_its_whole_key() {
        let fields = Fields::new(b"state 1 counter=137 lock=1 late=2 late=3 empty= counter2=9");
        for (key, value) in
            [("counter", Ok(137)), ("late", Ok(2)), ("count", Err(MissingField("count")))]
        {
            assert_eq!(fields.number(key), value, "{key}");
        }
        assert_eq!(fields.get("empty"), Some(&b""[..]));
        assert_eq!(fields.number("empty"), Err(MissingField("empty")));
        assert_eq!(
            (fields.flag("lock"), fields.flag("late")),
            (Ok(true), Err(MissingField("late")))
        );
    }
}
