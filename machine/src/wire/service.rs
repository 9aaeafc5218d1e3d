// SPDX-License-Identifier: Apache-2.0
//! Service: the name of the service that a line or a record belongs to.
//!
//! The field `service=NAME` is left out for the name [`DEFAULT`], so that the counter writes the
//! same bytes as release 0.1.0, which does not know the field.

use core::fmt;

use crate::state::State;
use crate::wire::fields::{Fields, Word};

/// The service of lines and records without the field.
pub const DEFAULT: &str = "early-service";

/// The key of the field.
pub(crate) const KEY: &str = "service";

/// The field with a space before it; nothing for the name [`DEFAULT`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct ServiceField<'a>(pub(crate) &'a str);

impl ServiceField<'_> {
    /// The length of its text.
    pub(crate) const fn length(self) -> usize {
        if self.is_default() {
            return 0;
        }
        " =".len().saturating_add(KEY.len()).saturating_add(self.0.len())
    }

    /// The same as `==`, which is not const.
    const fn is_default(self) -> bool {
        let (mut name, mut default) = (self.0.as_bytes(), DEFAULT.as_bytes());
        while let ([first, others @ ..], [expected, rest @ ..]) = (name, default) {
            if *first != *expected {
                return false;
            }
            (name, default) = (others, rest);
        }
        name.is_empty() && default.is_empty()
    }
}

impl fmt::Display for ServiceField<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_default() { Ok(()) } else { write!(f, " {KEY}={}", self.0) }
    }
}

/// A state of another service than the one that is expected.
///
/// Its text form names both: `service 'door', not 'early-service'`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OtherService {
    theirs: Word,
    expected: &'static str,
}

impl OtherService {
    /// `None` if `theirs` is the name of the service `S`.
    #[must_use]
    pub fn find<S: State>(theirs: &[u8]) -> Option<Self> {
        let expected = S::NAME;
        (theirs != expected.as_bytes()).then(|| Self { theirs: Word::cut(theirs), expected })
    }

    /// `None` if the fields are a state of the service `S`.
    pub(crate) fn find_in<S: State>(fields: Fields<'_>) -> Option<Self> {
        let theirs = fields.get(KEY).unwrap_or(DEFAULT.as_bytes());
        Self::find::<S>(theirs)
    }
}

impl fmt::Display for OtherService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "service '{}', not '{}'", self.theirs, self.expected)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bounds::MAX_SERVICE;
    use crate::counter::Counter;
    use std::string::ToString;

    #[test]
    fn the_field_has_its_length_and_the_default_has_none() {
        for (name, field) in [
            ("early-service", ""),
            ("early-service2", " service=early-service2"),
            ("early", " service=early"),
            ("door", " service=door"),
        ] {
            assert_eq!(ServiceField(name).to_string(), field);
            assert_eq!(ServiceField(name).length(), field.len());
        }
    }

    #[test]
    fn only_another_name_is_another_service() {
        let long = [b'x'; MAX_SERVICE + 1];
        for (theirs, shown) in [
            (&b"early-service"[..], None),
            (b"early-services", Some("service 'early-services', not 'early-service'")),
            (b"", Some("service '', not 'early-service'")),
            (b"\xff\n", Some("service '\\xff\\n', not 'early-service'")),
            (&long, Some("service 'xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx', not 'early-service'")),
        ] {
            let found = OtherService::find::<Counter>(theirs).map(|other| other.to_string());
            assert_eq!(found.as_deref(), shown);
        }
    }
}
