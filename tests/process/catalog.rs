// SPDX-License-Identifier: Apache-2.0
//! Catalog: what `journalctl --catalog` says of the lines that a boot makes.
//!
//! They need `journalctl` (package systemd).

use std::collections::BTreeMap;
use std::fs;
use std::process::Command;

use rustix::process::Signal;

use crate::client::nc;
use crate::daemon::STILL;
use crate::journald::{Entry, Journald};
use crate::scratch::Scratch;

const CATALOG: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/conf/early-service.catalog");

/// What journalctl makes of the catalog in a root directory of its own.
#[track_caller]
fn journalctl(root: &str, argument: &str) -> String {
    let output = Command::new("journalctl").args([argument, "--no-pager", "--root", root]).output();
    let output = output.expect("journalctl runs (this test needs the package systemd)");
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && complaint.is_empty(), "{argument}: {complaint}");
    String::from_utf8(output.stdout).expect("text")
}

/// The subject of each id, by journalctl.
#[track_caller]
fn subjects(scratch: &Scratch) -> BTreeMap<String, String> {
    let source = scratch.join("root/usr/lib/systemd/catalog");
    fs::create_dir_all(&source).expect("a directory");
    fs::create_dir_all(scratch.join("root/var/lib/systemd/catalog")).expect("a directory");
    fs::copy(CATALOG, source.join("early-service.catalog")).expect("our own file");
    let root = scratch.join("root");
    let root = root.to_str().expect("text");
    journalctl(root, "--update-catalog");
    let list = journalctl(root, "--list-catalog");
    let pair = |line: &str| {
        let (id, subject) = line.split_once(" early-service: ").expect("an id and a subject");
        (id.to_owned(), subject.to_owned())
    };
    list.lines().map(pair).collect()
}

#[test]
fn the_catalog_compiles_and_journalctl_knows_every_entry_of_it() {
    let scratch = Scratch::new();
    let subjects = subjects(&scratch);
    let source = fs::read_to_string(CATALOG).expect("our own file");
    let ids: Vec<_> = source.lines().filter_map(|line| line.strip_prefix("-- ")).collect();
    assert_eq!(subjects.len(), ids.len());
    for id in ids {
        assert!(!subjects[id].is_empty(), "{id} has no subject");
    }
    // The first line of a text is all that follows the empty one.
    let dump = journalctl(scratch.join("root").to_str().expect("text"), "--dump-catalog");
    assert_eq!(dump.matches("Documentation: man:early-service(8)\n\n").count(), subjects.len());
}

#[test]
fn the_lines_of_a_handoff_and_of_a_death_are_explained() {
    let scratch = Scratch::new();
    let subjects = subjects(&scratch);
    let mut journald = Journald::new(&scratch);
    // Read as they come: a journal that is not read loses the lines of whoever ends.
    let read = |journald: &mut Journald, lines: &[(&str, &str)]| {
        for (message, subject) in lines {
            let is_it = |entry: &&Entry| entry["MESSAGE"].contains(message);
            let entry = journald.read_until(message, |all| all.iter().find(is_it).cloned());
            let id = entry.get("MESSAGE_ID").unwrap_or_else(|| panic!("{entry:?} has no id"));
            assert_eq!(subjects.get(id).map(String::as_str), Some(*subject), "{message}");
        }
    };
    let file = scratch.join("state");
    let state = ["--state-file", file.to_str().expect("text")];
    let options = [&STILL[..], &state, &["--survive-systemd-kill-signal"]].concat();
    let first = journald.start(scratch.join("first"), &options);
    read(&mut journald, &[("booting => serving", "Early service is serving")]);
    let options = [&STILL[..], &state, &["-c", first.socket.to_str().expect("text")]].concat();
    let mut second = journald.start(scratch.join("second"), &options);
    let handoff = [
        ("booting => adopting", "Early service requests the state from its predecessor"),
        ("Handing over to process", "An authorized successor requested the state"),
        ("serving => draining", "Early service is handing over its state"),
        ("Adopting 0 and", "Early service adopted the state of its predecessor"),
        ("draining => ended", "Early service is exiting"),
        ("has adopted the state", "The successor has adopted the state"),
    ];
    read(&mut journald, &handoff);
    nc(&second.socket, "set_counter 7\n");
    second.signal(Signal::KILL);
    second.ended();
    let third = journald.start(scratch.join("third"), &[&STILL[..], &state].concat());
    let going_on = ("Recovering at 7", "Early service continues from the state file");
    read(&mut journald, &[going_on]);
    third.signal(Signal::TERM);
    read(&mut journald, &[("serving => ended", "Early service is exiting")]);
}
