// SPDX-License-Identifier: Apache-2.0
//! Bounds: how a service fails that exceeds its bounds or breaks its contract.
//!
//! The tests call the compiler as `cargo check` and `cargo build` do.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use testkit::build;
use testkit::daemon::detach;
use testkit::scratch::Scratch;

const DOOR: &str = include_str!("programs/door.rs");

/// Compiles the door after a replacement; `emit` says whether to write a program.
fn compile(scratch: &Scratch, (right, wrong): (&str, &str), emit: &str) -> Output {
    assert!(DOOR.contains(right), "{right:?} is in the program");
    let source = scratch.join("door.rs");
    fs::write(&source, DOOR.replace(right, wrong)).expect("a writable directory");
    let library = build::library().unwrap_or_else(|error| panic!("{error}"));
    let dependencies = library.with_file_name("deps");
    let mut rustc = Command::new(std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()));
    rustc.arg("--edition=2024").arg(format!("--emit={emit}"));
    rustc.arg("-L").arg(format!("dependency={}", dependencies.display()));
    rustc.arg("--extern").arg(format!("early_service={}", library.display()));
    rustc.arg("-o").arg(scratch.join("door")).arg(source);
    rustc.output().expect("a compiler")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn cargo_check_names_the_bound_that_a_service_exceeds() {
    let scratch = Scratch::new();
    let last = DOOR.lines().count();
    for (right, wrong, message) in [
        ("\"door\";\n    const HAND", "\"The door\";\n    const HAND", "NAME is not 1 to 32 of"),
        ("MAX_FIELDS: usize = 27", "MAX_FIELDS: usize = 4097", "its fields (MAX_FIELDS)"),
        ("MAX_REPLY: usize = 20", "MAX_REPLY: usize = 9999", "a reply (MAX_REPLY)"),
        ("Self::EXPECTED.len()", "1", "MAX_EXPECTED is less than"),
        (
            "WHAT: &'static str = \"door\"",
            "OFFER_TIMEOUT: std::time::Duration = \
          std::time::Duration::from_millis(1001)",
            "OFFER_TIMEOUT is not 1 ms to 1 s",
        ),
        ("VERSION: &'static str = \"1\"", "VERSION: &'static str = \"1 2\"", "VERSION has"),
    ] {
        let output = compile(&scratch, (right, wrong), "metadata");
        let errors = text(&output.stderr);
        assert!(!output.status.success(), "{wrong} is accepted");
        assert!(errors.contains(message), "{wrong}: {errors}");
        assert!(errors.contains(&format!("door.rs:{last}:1")), "{wrong}: {errors}");
    }
    let output = compile(&scratch, ("door", "door"), "metadata");
    assert!(output.status.success(), "{}", text(&output.stderr));
}

#[cfg(debug_assertions)]
#[test]
fn a_debug_build_says_at_its_start_how_its_state_lies() {
    let scratch = Scratch::new();
    for (right, wrong, message) in [
        ("\"opened={}\"", "\"opened={0} lock={0}\"", "writes the key 'lock', which is reserved"),
        ("MAX_FIELDS: usize = 27", "MAX_FIELDS: usize = 7", "writes 8 bytes, and MAX_FIELDS is 7"),
    ] {
        let output = compile(&scratch, (right, wrong), "link");
        assert!(output.status.success(), "{}", text(&output.stderr));
        let errors = text(&run(&scratch.join("door")).stderr);
        assert!(errors.contains(&format!("door: State::write_fields {message}")), "{errors}");
    }
    let output = compile(&scratch, ("door", "door"), "link");
    assert!(output.status.success(), "{}", text(&output.stderr));
    let output = run(&scratch.join("door"));
    assert_eq!((text(&output.stdout), text(&output.stderr)), ("door 1\n".into(), String::new()));
}

#[cfg(debug_assertions)]
/// Runs a program that does not serve.
fn run(program: &Path) -> Output {
    let mut command = Command::new(program);
    detach(&mut command);
    command.arg("--version").output().expect("the program runs")
}
