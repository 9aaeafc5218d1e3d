// SPDX-License-Identifier: Apache-2.0
//! Fields: `key=value` pairs in a line of text, separated by single spaces.
//!
//! The state file and the messages of the handoff consist of fields, so that a person can read them
//! and a newer release can add keys. Unknown keys are ignored; an error names the missing key.

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
