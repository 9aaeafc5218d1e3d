// SPDX-License-Identifier: Apache-2.0
//! Forbidden transitions: programs that must not compile.
//!
//! Each file in `ui/` contains one forbidden transition and, in a comment that begins with `//~`,
//! the error that the compiler reports for this line. A file that fails for another reason, such as
//! a renamed type, is therefore detected. Only the beginning of the message is compared, because
//! the rest differs between compilers.

#![allow(clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const MARK: &str = "//~ ";

#[test]
fn forbidden_steps_do_not_compile() {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    let machine = Path::new(env!("CARGO_TARGET_TMPDIR")).join("libearly_service_machine.rmeta");
    let built = rustc(&package.join("src/lib.rs"), &machine, None);
    assert!(built.status.success(), "the crate itself: {}", errors_of(&built));

    let files = fs::read_dir(package.join("tests/ui")).expect("tests/ui");
    let mut files: Vec<PathBuf> = files.map(|file| file.expect("a file").path()).collect();
    files.sort();
    assert!(files.len() >= 19, "files are missing: {files:?}");
    for file in files {
        let source = fs::read_to_string(&file).expect("a readable file");
        let (line, message) = marked(&source).unwrap_or_else(|| panic!("no mark in {file:?}"));
        let output = rustc(&file, &machine.with_file_name("never.rmeta"), Some(&machine));
        let (stderr, name) = (errors_of(&output), file.display());
        let errors: Vec<_> = stderr.lines().filter(|line| line.contains(": error")).collect();
        let [error] = &*errors else { panic!("{name} has {} errors:\n{stderr}", errors.len()) };
        assert!(error.starts_with(&format!("{name}:{line}:")), "{error}");
        assert!(
            error.contains(message),
            "{name} must fail with\n{message}\nand fails with\n{error}"
        );
    }
}

/// The number of the line that must fail, counted from 1, and the beginning of its error.
fn marked(source: &str) -> Option<(usize, &str)> {
    source.lines().zip(1..).find_map(|(line, number)| Some((number, line.split_once(MARK)?.1)))
}

/// Checks one file as a library, with the crate `machine` if it is given.
fn rustc(source: &Path, checked: &Path, machine: Option<&Path>) -> Output {
    let mut rustc = Command::new(env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()));
    rustc.args(["--edition=2024", "--crate-type=lib", "--emit=metadata", "--error-format=short"]);
    rustc.arg("--cap-lints=allow").arg("-o").arg(checked).arg(source);
    if let Some(machine) = machine {
        rustc.arg(format!("--extern=early_service_machine={}", machine.display()));
    } else {
        rustc.arg("--crate-name=early_service_machine");
    }
    rustc.output().expect("a compiler to run")
}

fn errors_of(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}
