// SPDX-License-Identifier: Apache-2.0
//! Catalog: the explanations that `journalctl --catalog` adds to the log lines of a boot.
//!
//! The tests need `journalctl` (package systemd).

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::process::Command;

use rustix::process::Signal;

use testkit::client::nc;
use testkit::daemon::STILL;
use testkit::journald::{Entry, Journald};
use testkit::scratch::Scratch;

const CATALOG: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/conf/early-service.catalog");
const TROUBLESHOOTING: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/troubleshooting.md");

/// The output of journalctl with the catalog in `root`.
#[track_caller]
fn journalctl(root: &str, argument: &str) -> String {
    let output = Command::new("journalctl").args([argument, "--no-pager", "--root", root]).output();
    let output = output.expect("journalctl runs (this test needs the package systemd)");
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && complaint.is_empty(), "{argument}: {complaint}");
    String::from_utf8(output.stdout).expect("text")
}

/// One entry of the catalog.
struct Explanation {
    id: String,
    subject: String,
    text: String,
}

/// The entries of the catalog, in order.
fn explanations() -> Vec<Explanation> {
    let source = fs::read_to_string(CATALOG).expect("our own file");
    let entry = |entry: &str| {
        let (head, text) = entry.split_once("\n\n").expect("a header and a text");
        let (id, _) = head.split_once('\n').expect("an id");
        let (_, subject) = head.split_once("\nSubject: ").expect("a subject");
        let subject = subject.lines().next().expect("a line");
        Explanation { id: id.to_owned(), subject: subject.to_owned(), text: text.trim().to_owned() }
    };
    source.split("\n-- ").skip(1).map(entry).collect()
}

impl Explanation {
    /// The section of docs/troubleshooting.md: generated, except for the symptom.
    fn section(&self, symptom: &str) -> String {
        let text = self.text.replace("@_PID@", "PID").replace(" (stage: @STAGE@)", "");
        let quote: Vec<_> =
            text.lines().map(|line| format!("> {line}").trim().to_owned()).collect();
        let Self { id, subject, .. } = self;
        format!("### {subject}\n\n`MESSAGE_ID={id}`\n\n{symptom}\n\n{}\n", quote.join("\n"))
    }
}

/// The subject of each message ID, as journalctl lists them.
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
    // Only the lines after an empty line are the text.
    let dump = journalctl(scratch.join("root").to_str().expect("text"), "--dump-catalog");
    assert_eq!(dump.matches("Documentation: man:early-service(8)\n\n").count(), subjects.len());
}

/// `UPDATE_DOCS=1` rewrites the sections from the catalog and keeps the symptoms.
#[test]
fn troubleshooting_explains_each_message_as_the_catalog_does() {
    let page = fs::read_to_string(TROUBLESHOOTING).expect("our own file");
    let mut parts = page.split("\n### ");
    let intro = parts.next().expect("an introduction");
    // The text between the ID and the quotation.
    let symptom = |part: &str| -> Option<(String, String)> {
        let (_, rest) = part.split_once("`MESSAGE_ID=")?;
        let (id, rest) = rest.split_once("`\n\n")?;
        let (symptom, _) = rest.split_once("\n\n> ")?;
        Some((id.to_owned(), symptom.to_owned()))
    };
    let symptoms: BTreeMap<_, _> =
        parts.map(|part| symptom(part).unwrap_or_else(|| panic!("no section: {part}"))).collect();
    let sections: String = explanations()
        .iter()
        .map(|entry| {
            let symptom = symptoms.get(&entry.id).map_or("TODO: the symptom.", String::as_str);
            format!("\n{}", entry.section(symptom))
        })
        .collect();
    let expected = format!("{intro}{sections}");
    if env::var_os("UPDATE_DOCS").is_some() {
        fs::write(TROUBLESHOOTING, &expected).expect("our own file");
    } else {
        assert!(
            page == expected,
            "docs/troubleshooting.md differs from the catalog; UPDATE_DOCS=1 rewrites it:\n{expected}"
        );
    }
    assert!(!expected.contains("TODO"), "describe the symptom of each new message");
    // Every link of the table of symptoms leads to a section.
    for link in intro.split("](#").skip(1) {
        let (anchor, _) = link.split_once(')').expect("the end of a link");
        let is_there =
            |entry: &Explanation| entry.subject.to_lowercase().replace(' ', "-") == anchor;
        assert!(explanations().iter().any(is_there), "no section #{anchor}");
    }
}

#[test]
fn the_lines_of_a_handoff_and_of_a_death_are_explained() {
    let scratch = Scratch::new();
    let subjects = subjects(&scratch);
    let mut journald = Journald::new(&scratch);
    // Read at once, because an unread journal loses the lines of a process that ends.
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
