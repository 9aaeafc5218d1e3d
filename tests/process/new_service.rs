// SPDX-License-Identifier: Apache-2.0
//! New service: the crate that `examples/new-service` writes.
//!
//! It compiles, its own test passes, and nobody who sees its files, its program or its log finds the
//! name of this repository, except where the library is meant.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use early_service_machine::wire::service::DEFAULT;
use rustix::process::Signal;
use testkit::build;
use testkit::daemon::{Daemon, detach};
use testkit::scratch::Scratch;

use crate::stage::state_file;

/// The repository.
const LIBRARY: &str = env!("CARGO_MANIFEST_DIR");

/// The lines that mean the library, in every crate: file and line.
const MEANT: [(&str, &str); 5] = [
    ("Cargo.toml", r#"early-service = { path = "LIBRARY" }"#),
    ("Cargo.toml", r#"early-service-trial = { path = "LIBRARY/trial" }"#),
    (
        "README.md",
        "How it works, and how to write a state and a device: <https://docs.rs/early-service>",
    ),
    ("src/main.rs", "use early_service::{Fields, MissingField, Service, State, number};"),
    ("tests/handoff.rs", "use early_service_trial::{Words, faults};"),
];

/// The last one, in the unit test of the state.
const TEST: (&str, &str) = ("src/main.rs", "    use early_service::trial;");

/// Runs the generator.
fn generate(arguments: &[&str]) -> Output {
    let generator = build::example("new-service").unwrap_or_else(|error| panic!("{error}"));
    Command::new(generator).args(arguments).output().expect("the generator runs")
}

/// Writes a crate; returns its directory. It is always the same, so that cargo replaces what it has
/// built there before.
fn generated(name: &str, options: &[&str]) -> PathBuf {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let _ = fs::remove_dir_all(&directory);
    let to = ["--library", LIBRARY, "--directory", directory.to_str().expect("text")];
    let output = generate(&[&[name], &to[..], options].concat());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    directory
}

/// Runs the tests of a crate, with the crates that this test was built with; returns its program.
fn tested(directory: &Path, name: &str) -> PathBuf {
    fs::copy(Path::new(LIBRARY).join("Cargo.lock"), directory.join("Cargo.lock")).expect("a copy");
    let target = build::profile().expect("a target directory");
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(directory).args(["test", "--offline", "--quiet"]);
    if target.ends_with("release") {
        cargo.arg("--release");
    }
    cargo.env("CARGO_TARGET_DIR", target.parent().expect("the directory of all profiles"));
    let output = cargo.output().expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let printed = String::from_utf8_lossy(&output.stdout);
    assert_eq!(printed.matches("1 passed").count(), 2, "{printed}");
    target.join(name)
}

/// Every file below `directory`: its relative path and its text.
fn texts(directory: &Path) -> Vec<(String, String)> {
    let (mut texts, mut rest) = (Vec::new(), vec![directory.to_owned()]);
    while let Some(path) = rest.pop() {
        if path.is_dir() {
            let entries = fs::read_dir(&path).expect("a directory");
            rest.extend(entries.map(|entry| entry.expect("an entry").path()));
        } else {
            let name = path.strip_prefix(directory).expect("a path in it").to_str().expect("text");
            texts.push((name.to_owned(), fs::read_to_string(&path).expect("a text")));
        }
    }
    texts.sort();
    texts
}

/// Whether a text has the name of this repository in any of its forms.
fn has_our_name(text: &str) -> bool {
    text.to_lowercase().replace(['_', ' '], "-").replace('\\', "").contains(DEFAULT)
}

/// The lines of all files that have our name; no file name may have it.
fn lines_with_our_name(directory: &Path) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for (name, text) in texts(directory) {
        assert!(!has_our_name(&name), "{name}");
        assert!(!text.contains("\n\n\n") && text.ends_with('\n'), "{name} is cut badly");
        for line in text.lines() {
            let is_filled =
                line.split('@').skip(1).step_by(2).all(|word| {
                    word.is_empty() || !word.bytes().all(|byte| byte.is_ascii_uppercase())
                });
            assert!(is_filled, "{name} has a placeholder: {line}");
            if has_our_name(line) {
                found.push((name.clone(), line.replace(LIBRARY, "LIBRARY")));
            }
        }
    }
    found
}

/// The lines of [`MEANT`], and further ones, in order.
fn as_meant(further: &[(&str, &str)]) -> Vec<(String, String)> {
    let mut lines = [&MEANT, further].concat();
    lines.sort_by_key(|(file, _)| *file);
    lines.iter().map(|(file, line)| ((*file).to_owned(), (*line).to_owned())).collect()
}

#[test]
fn a_generated_crate_has_another_name_only_for_the_library() {
    let directory = generated("a-pulse", &[]);
    let main = ("src/main.rs", "early_service::main!(Count);");
    assert_eq!(lines_with_our_name(&directory), as_meant(&[main, TEST]));
    let spec = fs::read_to_string(directory.join("a-pulse.spec")).expect("a spec file");
    assert!(spec.contains("\nName:           a-pulse\nVersion:        0.1.0\n"), "{spec}");
    let read = |file: &str| fs::read_to_string(directory.join(file)).expect("a file");
    assert!(read("conf/a-pulse.dracut.conf").contains("if a_pulse_is_wanted; then"));
    assert!(read("conf/a-pulse-initrd.service").contains("Description=A pulse, initrd stage\n"));

    let program = tested(&directory, "a-pulse");
    let version = Command::new(&program).arg("--version").output().expect("the program runs");
    assert_eq!(version.stdout, b"a-pulse 0.1.0\n");
    let help = Command::new(&program).arg("--help").output().expect("the program runs");
    let help = String::from_utf8(help.stdout).expect("text");
    assert!(help.contains("See a-pulse(8)") && !has_our_name(&help), "{help}");
    assert_eq!(names_in(&program), Vec::<String>::new());
    let scratch = Scratch::new();
    for options in [&[][..], &["--survive-systemd-kill-signal"]] {
        for line in log_of(&scratch, &program, options) {
            assert!(!has_our_name(&line), "{line}");
        }
    }
}

/// The uses of our name in a program, except two that are part of the protocol: the format of a
/// record, and the service of a request without a name. The constants of a program follow each
/// other without a gap, so a use is recognized by what continues the name; the compiler also splits
/// `early-service-state 2`.
fn names_in(program: &Path) -> Vec<String> {
    let program = fs::read(program).expect("a program");
    let text: String = program.iter().map(|byte| char::from(*byte)).collect();
    // Debug information and the places of panics have paths.
    let text = text.replace(LIBRARY, "");
    let is_allowed =
        |rest: &str| rest.starts_with("-st") || !rest.starts_with(['-', '.', '/', '(', '@', '[']);
    let uses = text.split(DEFAULT).skip(1).filter(|rest| !is_allowed(rest));
    uses.map(|rest| rest.chars().take(40).collect()).collect()
}

/// What a process logs from its start to its end, with its identifier.
fn log_of(scratch: &Scratch, program: &Path, options: &[&str]) -> Vec<String> {
    let mut command = Command::new(program);
    detach(&mut command);
    command.arg("--state-file").arg(state_file(scratch)).args(options);
    command.env("RUNTIME_DIRECTORY", scratch.join(""));
    let mut daemon = Daemon::spawn(&mut command);
    daemon.wait_for("Listening on UNIX socket");
    daemon.wait_for("count=1");
    daemon.signal(Signal::INT);
    assert!(daemon.ended().0.success());
    let own = scratch.join("").to_str().expect("text").to_owned();
    let log = daemon.whole_log();
    let lines = log.iter().map(|line| format!("{}: {}", line.identifier, line.message));
    lines.map(|line| line.replace(&own, "")).collect()
}

#[test]
fn a_generated_device_has_its_drivers_and_is_kept_by_pid_1() {
    let drivers = ["--driver", "i6300esb", "--driver", "softdog"];
    let options = [&["--device", "/dev/watchdog"], &drivers[..]].concat();
    let directory = generated("a-feeder", &options);
    let further = [
        ("src/device.rs", "use early_service::device::{Device, Monotonic, Need, Port};"),
        ("src/main.rs", "early_service::main!(Count, with: device::Open);"),
        TEST,
    ];
    assert_eq!(lines_with_our_name(&directory), as_meant(&further));
    let rule = r#"ENV{DEVNAME}=="/dev/watchdog", OWNER="a-feeder", MODE="0600""#;
    let load = "ExecStartPre=-+/usr/sbin/modprobe --all --quiet i6300esb softdog";
    for (file, line) in [
        ("conf/a-feeder-initrd.service", load),
        ("conf/a-feeder-initrd.service", "FileDescriptorStoreMax=1"),
        ("conf/a-feeder.service", "Wants=modprobe@i6300esb.service modprobe@softdog.service"),
        ("conf/a-feeder.service", "After=modprobe@i6300esb.service modprobe@softdog.service"),
        ("conf/a-feeder.service", "FileDescriptorStoreMax=1"),
        ("conf/a-feeder.service", "PrivateDevices=no"),
        ("conf/a-feeder.service", "DeviceAllow=/dev/watchdog rw"),
        ("conf/a-feeder.rules", rule),
        ("dracut/50a-feeder/module-setup.sh", "    hostonly='' instmods i6300esb softdog"),
        ("initramfs-tools/hook", "manual_add_modules i6300esb softdog"),
        ("initramfs-tools/script", "modprobe -a -q i6300esb softdog"),
        ("a-feeder.spec", "%{_prefix}/lib/udev/rules.d/60-a-feeder.rules"),
    ] {
        let text = fs::read_to_string(directory.join(file)).expect("a file");
        assert!(text.lines().any(|each| each == line), "{file} has no line {line:?}: {text}");
    }
    let program = tested(&directory, "a-feeder");
    assert_eq!(names_in(&program), Vec::<String>::new());
}

#[test]
fn a_service_without_the_library_here_depends_on_its_release() {
    let scratch = Scratch::new();
    let directory = scratch.join("crate");
    let output = generate(&["pulse", "--directory", directory.to_str().expect("text")]);
    assert!(output.status.success());
    let manifest = fs::read_to_string(directory.join("Cargo.toml")).expect("a manifest");
    let release = format!("\nearly-service = \"{}\"\n", env!("CARGO_PKG_VERSION"));
    assert!(manifest.contains(&release), "{manifest}");
}

#[test]
fn an_rpm_without_a_commit_is_refused_before_it_is_built() {
    let scratch = Scratch::new();
    let directory = scratch.join("crate");
    assert!(
        generate(&["pulse", "--directory", directory.to_str().expect("text")]).status.success()
    );
    let git = Command::new("git").arg("init").arg("--quiet").arg(&directory).status();
    assert!(git.expect("git runs").success());
    let output = Command::new(directory.join("scripts/create-rpm.sh")).arg("pulse.spec").output();
    let output = output.expect("the script runs");
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(complaint.contains("does not have any commits"), "{complaint}");
    assert!(!output.status.success() && !directory.join("target").exists(), "{complaint}");
}

#[test]
fn a_word_that_fits_no_unit_is_refused_before_a_file_is_written() {
    let scratch = Scratch::new();
    let directory = scratch.join("crate");
    let to = ["--directory", directory.to_str().expect("text")];
    for (arguments, message) in [
        (&[][..], "Usage: "),
        (&["Pulse"], "invalid name 'Pulse'"),
        (&["-pulse"], "invalid option '-p'"),
        (&["1pulse"], "invalid name '1pulse'"),
        (&[""], "invalid name ''"),
        (&["a-name-of-thirty-two-characters-"], "invalid name"),
        (&["pulse-initrd"], "another service may have its files"),
        (&["early-service2"], "another service may have its files"),
        (&["pulse", "--device", "watchdog"], "invalid device 'watchdog'"),
        (&["pulse", "--device", "/dev/a b"], "invalid device '/dev/a b'"),
        (&["pulse", "--device", "/dev/a", "--device", "/dev/b"], "one --device only"),
        (&["pulse", "--driver", "soft dog"], "invalid driver 'soft dog'"),
        (&["pulse", "--driver="], "invalid driver ''"),
        (&["pulse", "--library", "/nowhere"], "cannot find /nowhere"),
    ] {
        let output = generate(&[arguments, &to].concat());
        let complaint = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && complaint.contains(message), "{complaint}");
        assert!(!directory.exists(), "{arguments:?}");
    }
    fs::create_dir(&directory).expect("a new directory");
    let output = generate(&[&["pulse"], &to[..]].concat());
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(complaint.contains("File exists"), "{complaint}");
}
