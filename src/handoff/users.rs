// SPDX-License-Identifier: Apache-2.0
//! Users: the number that belongs to a name.
//!
//! Reads the files that can contain the account of a system service: `/etc/passwd` (passwd(5)),
//! `/usr/lib/passwd` of an image (nss-altfiles), and user records (nss-systemd(8)).
//!
//! Never uses the name service switch: it would load libraries from the initrd into a process that
//! outlives the initrd.

use std::fs;

use early_service_machine::trust::OVERFLOW;
use rustix::process::Uid;

const PASSWD: [&str; 2] = ["/etc/passwd", "/usr/lib/passwd"];

const USERDB: [&str; 5] =
    ["/etc/userdb", "/run/userdb", "/run/host/userdb", "/usr/local/lib/userdb", "/usr/lib/userdb"];

/// A user, given by name or by number.
#[derive(Clone, Debug)]
pub(crate) struct User {
    given: String,
    /// The number when the process started.
    at_start: Option<Uid>,
}

impl User {
    /// Looks the user up. Logs a warning if there is no such user, or if it can never be trusted.
    pub(crate) fn find(given: String) -> Self {
        let at_start = number(&given);
        match at_start.map(Uid::as_raw) {
            None => log::warn!(
                "There is no user {given:?}, whom --successor names: looking again at each request"
            ),
            Some(OVERFLOW) => log::warn!(
                "User {OVERFLOW}, whom --successor names, may not have the state: in a user \
                 namespace the number stands for everybody"
            ),
            Some(_) => {}
        }
        Self { given, at_start }
    }

    /// The current number, because the root filesystem may have other users than the initrd. If it
    /// cannot be found, the number when the process started: no file can be read during the switch
    /// of root, and the root filesystem may have the user only in a name service.
    pub(crate) fn number(&self) -> Option<Uid> {
        number(&self.given).or(self.at_start)
    }
}

/// The number of `user`, which is a name or a number.
fn number(user: &str) -> Option<Uid> {
    // `parse` would accept a sign.
    let by_number = || user.bytes().all(|byte| byte.is_ascii_digit()).then(|| user.parse().ok())?;
    let in_passwd = || {
        // The full names may have any encoding.
        let mut files = PASSWD.iter().filter_map(|path| fs::read(path).ok());
        files.find_map(|text| number_in(&String::from_utf8_lossy(&text), user))
    };
    let in_userdb = || {
        let is_a_file_name = !user.is_empty() && !user.contains('/');
        let mut directories = USERDB.iter().filter(|_| is_a_file_name);
        directories.find_map(|directory| {
            number_of(&fs::read_to_string(format!("{directory}/{user}.user")).ok()?)
        })
    };
    let number = by_number().or_else(in_passwd).or_else(in_userdb)?;
    // System calls use this number for "no user".
    (number != u32::MAX).then(|| Uid::from_raw(number))
}

/// Finds `name` in a text in the format of passwd(5): `name:password:number:…`.
fn number_in(passwd: &str, name: &str) -> Option<u32> {
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let number = (fields.next()? == name).then(|| fields.nth(1))?;
        number?.parse().ok()
    })
}

/// The value of `"uid"` in a JSON user record.
fn number_of(record: &str) -> Option<u32> {
    let (_, rest) = record.split_once("\"uid\"")?;
    let value = rest.trim_start().strip_prefix(':')?.trim_start();
    let end = value.find(|c: char| !c.is_ascii_digit()).unwrap_or(value.len());
    value[..end].parse().ok()
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
    fn a_user_record_has_its_number_in_whatever_spacing() {
        for (record, number) in [
            (r#"{"userName":"early-service","uid":997,"gid":996}"#, Some(997)),
            ("{\n\t\"uid\" : 997\n}", Some(997)),
            (r#"{"gid":996}"#, None),
            (r#"{"uid":"997"}"#, None),
            (r#"{"uid":-1}"#, None),
            (r#"{"uid":99999999999}"#, None),
            (r#"{"uid""#, None),
        ] {
            assert_eq!(number_of(record), number, "{record:?}");
        }
    }

    #[test]
    fn a_number_stands_for_itself_unless_it_stands_for_nobody() {
        assert_eq!(number("4242"), Some(Uid::from_raw(4242)));
        assert_eq!(number("4294967295"), None);
        assert_eq!(number("../../etc/userdb/x"), None);
    }

    #[test]
    fn a_user_that_cannot_be_found_any_more_keeps_the_number_of_the_start() {
        let gone = User { given: "nobody-of-this-name".into(), at_start: Some(Uid::from_raw(997)) };
        assert_eq!(gone.number(), Some(Uid::from_raw(997)));
        let never = User { at_start: None, ..gone };
        assert_eq!(never.number(), None);
    }
}
