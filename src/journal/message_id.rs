// SPDX-License-Identifier: Apache-2.0
//! Message ids of the log lines that `journalctl --catalog` explains.
//!
//! A line carries its id as `MESSAGE_ID=`, and `conf/early-service.catalog` explains under that id
//! the cause, and what to do (<https://systemd.io/CATALOG>).
//!
//! An id that was released never changes its meaning; a new meaning gets a new id (`systemd-id128
//! new`).

use early_service_machine::lifecycle::Phase;
use log::kv::{ToValue, Value};

/// The field that carries an id.
pub(crate) const MESSAGE_ID: &str = "MESSAGE_ID";

/// Makes the enum, its list and its texts from one list.
macro_rules! ids {
    ($($(#[$meaning:meta])* $name:ident = $text:literal,)+) => {
        /// The meaning of a line.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(crate) enum Id { $($(#[$meaning])* $name,)+ }

        impl Id {
            /// Every id.
            pub(crate) const ALL: &[Self] = &[$(Self::$name,)+];

            /// The id in the journal: 128 random bits.
            pub(crate) const fn text(self) -> &'static str {
                match self { $(Self::$name => $text,)+ }
            }
        }
    };
}

ids! {
    /// This process requests the state from a predecessor, or waits for one.
    Adopting = "f69d6eec96f24bad835843a181d1d41a",
    /// This process owns the state and serves clients.
    Serving = "a669d6d4d888461e881a6d3cef70b50b",
    /// This process hands over the state, and clients wait.
    Draining = "d49c1e377b28424eb7769ede4cc67c4e",
    /// This process owns nothing any more, and ends.
    Ended = "90d545b944424dbb8ced60b60a9c872d",
    /// An authorized successor requested the state.
    HandingOver = "c22e71841a464f8fad24aacdf517cae8",
    /// The successor serves clients.
    HandedOver = "99a0a659bd0b4d3d965d1f9296829d1c",
    /// The successor died, gave up or took too long.
    NotAdopted = "06ce89f767bf43fd99e28c3b5cda50a7",
    /// A request for the state was refused.
    Refused = "f074ed41e5ef49f9973b8b5c4f01a734",
    /// The successor owns the state and does not report that it serves.
    SuccessorSilent = "a2961e3425da4c9fa3ee9dafefd8f9fc",
    /// The state came from a predecessor.
    Adopted = "b044639e97ed4bdd8f31f86bf9d2beb3",
    /// A predecessor exists and does not answer.
    PredecessorSilent = "ecf52291bab44221ba036e56f384fc32",
    /// The predecessor runs and does not hand over, or sends data that is not valid.
    PredecessorRefuses = "cecde4516b194a318f5a037e39fac067",
    /// No predecessor was found, although one was expected.
    PredecessorAbsent = "c6947f350dea4dd8b94da9ba5097a3b7",
    /// The previous owner died or stopped, and its state was found.
    Recovered = "355f9c9f6b9d42588fa6c8a08e577d7e",
    /// The previous owner died before it had written all its lines.
    LinesMissing = "dac2a02c5efe449f8fa0073f44673ef4",
    /// This process had no room for some lines.
    LinesDropped = "169c28e122ba4bebae1a2e528b2fa8b9",
    /// The state file cannot be opened, locked or written.
    StateFileUnusable = "42681eceeb804ae1ae342ee7dcba8c58",
    /// The state file does not contain a state of this boot.
    StateIgnored = "bab45b97859e4a30ab9e5be7207bee69",
    /// Another process owns the state.
    LockHeld = "940f9e044bea446a875e95bc7e2d116a",
    /// Clients could not find a socket by its name.
    SocketNameGone = "668db45be45549f2a64a9229c8e84f61",
    /// The device of the service failed, or cannot be opened.
    DeviceFails = "5031a0f1db524478baa405946214afc6",
    /// This process survived the switch of root.
    RootFollowed = "6d52eee35c634ca09b25d405641cfbc0",
}

impl Id {
    /// The id with this text.
    pub(crate) fn find(text: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|id| id.text() == text)
    }

    /// The id of the line that reports the beginning of `phase`; a process begins in Booting.
    pub(crate) const fn of(phase: Phase) -> Option<Self> {
        match phase {
            Phase::Booting => None,
            Phase::Adopting => Some(Self::Adopting),
            Phase::Serving => Some(Self::Serving),
            Phase::Draining => Some(Self::Draining),
            Phase::Ended => Some(Self::Ended),
        }
    }
}

/// For lines like `log::warn!(MESSAGE_ID = Id::LockHeld; "…")`.
impl ToValue for Id {
    fn to_value(&self) -> Value<'_> {
        Value::from(self.text())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    const CATALOG: &str =
        include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/conf/early-service.catalog"));

    #[test]
    fn each_id_has_one_entry_in_the_catalog() {
        let entries: Vec<_> = CATALOG.lines().filter_map(|line| line.strip_prefix("-- ")).collect();
        let in_catalog: BTreeSet<_> = entries.iter().copied().collect();
        let in_code: BTreeSet<_> = Id::ALL.iter().map(|id| id.text()).collect();
        assert_eq!(in_catalog, in_code);
        assert_eq!(entries.len(), Id::ALL.len(), "no entry is there twice");
        for id in Id::ALL {
            let is_hex = |digit: u8| digit.is_ascii_digit() || (b'a'..=b'f').contains(&digit);
            assert!(id.text().len() == 32 && id.text().bytes().all(is_hex), "{id:?}");
            assert_eq!(Id::find(id.text()), Some(*id));
        }
        assert_eq!(Id::find(""), None);
    }
}
