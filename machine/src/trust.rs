// SPDX-License-Identifier: Apache-2.0
//! Trust: which users may receive the state, and whose state is adopted.
//!
//! Users are numbers as the kernel reports them for the other end of a connection (`SO_PEERCRED` in
//! unix(7)). In a user namespace it reports one number, the *overflow* user, for all users that the
//! namespace does not map (user_namespaces(7)). This number identifies nobody and is never trusted.
//!
//! Never looks a user up, and never reads `/proc`.

/// The default overflow user; `/proc/sys/kernel/overflowuid` contains the current one.
pub const OVERFLOW: u32 = 65534;

const ROOT: u32 = 0;

/// The users on which the decisions depend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trust {
    /// The user that this process runs as.
    pub ours: u32,
    /// The overflow user of this system.
    pub overflow: u32,
}

impl Trust {
    /// Whether `peer` may receive the state: it is root, the user of this process, the user that
    /// `--successor` names, or the owner of the socket file to which it connected.
    ///
    /// The units of the C program make the successor's user the owner of the socket. Only root can
    /// change an owner, so root vouches for it.
    #[must_use]
    pub fn may_receive(self, peer: u32, named: Option<u32>, owner: Option<u32>) -> bool {
        self.may_offer(peer)
            || (!self.is_nobody(peer) && (named == Some(peer) || owner == Some(peer)))
    }

    /// Whether the state of `peer` is adopted: `peer` is root or the user of this process.
    #[must_use]
    pub fn may_offer(self, peer: u32) -> bool {
        peer == ROOT || (peer == self.ours && !self.is_nobody(peer))
    }

    /// Whether a state file of `owner` is trusted: `owner` is root, the user of this process, or
    /// the user that `--successor` names.
    ///
    /// A process of the overflow user trusts its own file, because without a file there is no lock.
    #[must_use]
    pub fn may_own_the_file(self, owner: u32, named: Option<u32>) -> bool {
        owner == ROOT || owner == self.ours || (!self.is_nobody(owner) && named == Some(owner))
    }

    /// Whether `user` is the number for all users that the namespace does not map.
    #[must_use]
    pub fn is_nobody(self, user: u32) -> bool {
        user == self.overflow || user == OVERFLOW
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRUST: Trust = Trust { ours: 997, overflow: OVERFLOW };

    #[test]
    fn root_self_named_user_and_socket_owner_may_receive() {
        for (peer, named, owner, may) in [
            (0, None, None, true),
            (997, None, None, true),
            (998, None, None, false),
            (998, Some(998), None, true),
            (998, None, Some(998), true),
            (998, Some(999), Some(0), false),
        ] {
            assert_eq!(TRUST.may_receive(peer, named, owner), may, "{peer} {named:?} {owner:?}");
        }
    }

    #[test]
    fn the_overflow_user_is_never_trusted() {
        for overflow in [OVERFLOW, 4000] {
            let trust = Trust { ours: overflow, overflow };
            for user in [overflow, OVERFLOW] {
                assert!(!trust.may_receive(user, Some(user), Some(user)), "{user}");
                assert!(!trust.may_offer(user), "{user}");
                let other = Trust { ours: 997, overflow };
                assert!(!other.may_own_the_file(user, Some(user)), "{user}");
            }
            assert!(trust.may_receive(0, None, None) && trust.may_offer(0));
        }
    }

    #[test]
    fn only_root_and_the_same_user_may_offer() {
        for (peer, may) in [(0, true), (997, true), (998, false)] {
            assert_eq!(TRUST.may_offer(peer), may, "{peer}");
        }
    }

    #[test]
    fn a_file_of_another_user_is_not_trusted() {
        for (owner, named, may) in
            [(0, None, true), (997, None, true), (998, None, false), (998, Some(998), true)]
        {
            assert_eq!(TRUST.may_own_the_file(owner, named), may, "{owner} {named:?}");
        }
    }
}
