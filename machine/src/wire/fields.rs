// SPDX-License-Identifier: Apache-2.0
//! Fields: `key=value` pairs in a line of text, separated by single spaces.
//!
//! The state file and the messages of the handoff are written this way, so that a person can read
//! them, and so that a newer release can add a key: unknown ones are ignored, and one that is
//! needed and missing is named.

use core::fmt;

/// A line of fields.
#[derive(Clone, Copy, Debug)]
pub struct Fields<'a>(&'a [u8]);

/// A field that is needed, and absent or not what it should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MissingField(pub &'static str);

impl fmt::Display for MissingField {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "no valid {}", self.0)
    }
}

impl<'a> Fields<'a> {
    /// The fields of a line; what has no `=` is no field.
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

    /// The number in the field with this key.
    ///
    /// # Errors
    ///
    /// Where there is no such field, or anything but decimal digits that fit in it.
    pub fn number(self, key: &'static str) -> Result<u64, MissingField> {
        self.get(key).and_then(number).ok_or(MissingField(key))
    }

    /// Whether the field with this key is 1 and not 0.
    ///
    /// # Errors
    ///
    /// Where there is no such field, or something else in it.
    pub fn flag(self, key: &'static str) -> Result<bool, MissingField> {
        match self.number(key)? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(MissingField(key)),
        }
    }
}

/// Decimal digits that fit a `u64`: no sign, no space, at least one.
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
    fn a_number_is_digits_that_fit_and_nothing_else() {
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
