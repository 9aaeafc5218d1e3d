// SPDX-License-Identifier: Apache-2.0
//! Manual: `conf/early-service.8` describes what the program does.
//!
//! The tests need `groff` (package groff-base), as `man` does.

use std::process::{Command, Stdio};

use crate::stage::{Remains, record, start, state_file};
use testkit::client::nc;
use testkit::daemon::{Daemon, STILL, program};
use testkit::scratch::Scratch;

const MANUAL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/conf/early-service.8");
const CHANGELOG: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/CHANGELOG.md");
const README: &str = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/README.md"));
const PROTOCOL: &str =
    include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/client-protocol.md"));

/// The page as groff renders it; a warning is a failure.
#[track_caller]
fn groff(options: &[&str]) -> String {
    let mut groff = Command::new("groff");
    groff.args(["-ww", "-man"]).args(options).arg(MANUAL).stdin(Stdio::null());
    let output = groff.output().expect("groff runs (this test needs the package groff-base)");
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && complaint.is_empty(), "{complaint}");
    String::from_utf8(output.stdout).expect("text")
}

/// The lines of a section, as plain text in which a paragraph is one line.
#[track_caller]
fn section(name: &str) -> Vec<String> {
    let page = groff(&["-Tascii", "-P-cbou", "-rLL=2000n", "-rHY=0"]);
    let lines = page.lines().skip_while(|line| *line != name).skip(1);
    let lines = lines.take_while(|line| line.is_empty() || line.starts_with(' '));
    let lines: Vec<_> = lines.map(str::to_owned).collect();
    assert!(!lines.is_empty(), "no section {name}");
    lines
}

/// The tags of a section, each with its text: a tag is followed by a line that is indented further.
#[track_caller]
fn tagged(name: &str) -> Vec<(String, String)> {
    let depth = |line: &String| line.len() - line.trim_start().len();
    let lines = section(name);
    let pairs = lines.windows(2).filter(|pair| !pair[1].is_empty() && depth(&pair[1]) > 7);
    pairs
        .filter(|pair| depth(&pair[0]) == 7)
        .map(|pair| (pair[0].trim().to_owned(), pair[1].trim().to_owned()))
        .collect()
}

/// The options of `--help`, each with its text.
fn help() -> Vec<(String, String)> {
    let output = program().arg("--help").output().expect("the program runs");
    let help = String::from_utf8(output.stdout).expect("text");
    for line in help.lines() {
        assert!(line.len() <= 80, "a terminal breaks {line:?}");
    }
    let (_, options) = help.split_once("\nOptions:\n").expect("options");
    let (options, _) = options.split_once("\n\n").expect("an end of them");
    let mut told: Vec<(String, String)> = Vec::new();
    for line in options.lines() {
        match told.last_mut() {
            Some((_, text)) if line.starts_with("       ") => {
                text.push(' ');
                text.push_str(line.trim());
            }
            _ => told.push((line.trim().to_owned(), String::new())),
        }
    }
    told
}

/// The value that follows `by default` in a text.
fn default_of(text: &str) -> Option<&str> {
    let (_, after) = text.split_once("by default ")?;
    // A sentence ends in a full stop before a space; a name may contain one.
    let end = after.find(";").or_else(|| after.find(". ")).unwrap_or(after.len());
    after.get(..end).map(|default| default.trim_end_matches('.'))
}

#[test]
fn the_page_renders_without_a_warning_on_every_kind_of_terminal() {
    for device in ["-Tutf8", "-Tascii", "-Tlatin1"] {
        assert!(groff(&[device]).lines().count() > 100, "{device}");
    }
}

#[test]
fn help_and_manual_agree_on_options_arguments_and_defaults() {
    let (help, manual) = (help(), tagged("OPTIONS"));
    let names = |options: &[(String, String)]| -> Vec<_> {
        options.iter().map(|(option, _)| option.clone()).collect()
    };
    assert_eq!(names(&help), names(&manual));
    assert!(help.len() >= 9, "{help:?}");
    for ((option, in_help), (_, in_manual)) in help.iter().zip(&manual) {
        assert_eq!(default_of(in_help), default_of(in_manual), "{option}");
    }
}

#[test]
fn the_period_is_by_default_what_the_help_says() {
    let help = help();
    let (_, text) = help.iter().find(|(option, _)| option.contains("--timer")).expect("an option");
    let default: u64 = default_of(text).and_then(|ms| ms.parse().ok()).expect("a number");
    let scratch = Scratch::new();
    let daemon = start(&scratch, "sock", &[]);
    daemon.wait_for("=> serving");
    let period = record(&state_file(&scratch)).snapshot.period;
    assert_eq!(period.as_nanos(), default * 1_000_000);
}

/// The first column of a table in `docs/client-protocol.md`.
#[track_caller]
fn first_column(heading: &str) -> Vec<&'static str> {
    let (_, table) = PROTOCOL.split_once(heading).expect("a table with this heading");
    let rows = table.lines().skip(2).take_while(|line| line.starts_with('|'));
    rows.map(|row| row.split('`').nth(1).expect("a code span")).collect()
}

#[test]
fn every_command_is_documented_and_understood() {
    let manual: Vec<_> = tagged("COMMANDS").into_iter().map(|(command, _)| command).collect();
    let on_page = first_column("| line | reply | allowed for |").into_iter();
    let mut on_page: Vec<_> = on_page.map(|line| line.trim_end_matches(" …")).collect();
    let mut in_manual: Vec<_> = manual.iter().map(String::as_str).collect();
    on_page.sort_unstable();
    in_manual.sort_unstable();
    assert_eq!(in_manual, on_page);

    let scratch = Scratch::new();
    for command in &manual {
        let _remains = Remains::of(&scratch);
        let daemon = Daemon::serve(scratch.join("sock"), &STILL);
        let input = format!("nonsense\n{}\n", command.replace(" N", " 7"));
        let replies = nc(&daemon.socket, input);
        assert_eq!(replies.matches("Invalid command").count(), 1, "{command}: {replies}");
        // The manual contains every name in the reply to an invalid line.
        let complaint = replies.lines().next().expect("a reply");
        let (_, expected) = complaint.split_once("; expected ").expect("what was expected");
        for name in expected.replace(" or ", ", ").split(", ") {
            assert!(in_manual.contains(&name), "{name} is not in the manual");
        }
    }
}

#[test]
fn every_key_of_the_status_line_is_documented_in_order() {
    let manual: Vec<_> = tagged("STATUS LINE").into_iter().map(|(key, _)| key).collect();
    let scratch = Scratch::new();
    let daemon = Daemon::serve(scratch.join("sock"), &STILL);
    let line = nc(&daemon.socket, "status\n");
    let key = |pair: &str| pair.split_once('=').expect("a pair").0.to_owned();
    let keys: Vec<_> = line.trim_end().split(' ').map(key).collect();
    assert_eq!(manual, keys);
    assert_eq!(first_column("| key | meaning |"), keys, "docs/client-protocol.md");
}

/// `scripts/promised-compiler` tests `CARGO_PKG_RUST_VERSION` with the compiler.
#[test]
fn the_promised_compiler_is_the_same_wherever_it_is_named() {
    let spec = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/early-service.spec"));
    let contributing = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/CONTRIBUTING.md"));
    let promised = env!("CARGO_PKG_RUST_VERSION");
    for tool in ["cargo", "rust"] {
        let required: Vec<_> = spec
            .lines()
            .filter_map(|line| line.strip_prefix("BuildRequires:")?.trim().strip_prefix(tool))
            .filter_map(|version| version.strip_prefix(" >= "))
            .collect();
        assert_eq!(required, [promised], "{tool} in the spec file");
    }
    assert!(README.contains(&format!("Rust {promised} or later")), "README.md");
    assert!(contributing.contains(&format!("Rust {promised} or later")), "CONTRIBUTING.md");
}

#[test]
fn the_page_and_the_changelog_are_of_this_release() {
    let page = std::fs::read_to_string(MANUAL).expect("our own");
    let changelog = std::fs::read_to_string(CHANGELOG).expect("our own");
    let version = env!("CARGO_PKG_VERSION");
    let mut headings = changelog.lines().filter(|line| line.starts_with("## ["));
    let heading = headings.find(|line| *line != "## [Unreleased]").expect("a release");
    assert!(heading.starts_with(&format!("## [{version}] - ")), "{heading}");
    assert!(
        page.contains(&format!("\"early\\-service {version}\"")),
        "the page is of another version"
    );
}
