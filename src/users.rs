// SPDX-License-Identifier: Apache-2.0
//! Users: from a name to its number.
//!
//! Read from `/etc/passwd` itself: the account of a system service stands there (sysusers.d(5)), an
//! initrd has nothing else, and asking the name service switch would load libraries into a process
//! that outlives the filesystem that they came from.

use std::fs;

use rustix::process::Uid;

/// The number of `user`, who is given by name or by number.
pub(crate) fn number(user: &str) -> Option<Uid> {
    let by_name = || number_in(&fs::read_to_string("/etc/passwd").ok()?, user);
    user.parse().ok().or_else(by_name).map(Uid::from_raw)
}

/// Looks `name` up in a text of the form of passwd(5): `name:password:number:…`.
fn number_in(passwd: &str, name: &str) -> Option<u32> {
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let number = (fields.next()? == name).then(|| fields.nth(1))?;
        number?.parse().ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_is_found_by_the_whole_name_only() {
        let passwd = "root:x:0:0:root:/root:/bin/sh\nearly:x:998:\nearly-service:x:997:997::/:\n";
        for (name, number) in
            [("early-service", Some(997)), ("early", Some(998)), ("ear", None), ("", None)]
        {
            assert_eq!(number_in(passwd, name), number, "{name:?}");
        }
    }

    #[test]
    fn a_broken_line_names_nobody() {
        for passwd in ["early-service", "early-service:x", "early-service:x:many:1", ":::"] {
            assert_eq!(number_in(passwd, "early-service"), None, "{passwd:?}");
        }
    }

    #[test]
    fn a_number_stands_for_itself() {
        assert_eq!(number("4242"), Some(Uid::from_raw(4242)));
    }
}
