// SPDX-License-Identifier: Apache-2.0
//! Commands of the `console` blocks.
//!
//! Each command is run here or by the CI, or is listed below with the reason why it cannot be.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use testkit::daemon::{Daemon, binary};
use testkit::scratch::Scratch;
use testkit::{build, until};

use crate::{ROOT, pages, read};

/// Files that run commands of the documentation instead of this test.
const CI: [&str; 2] = [".ci/run", "scripts/test"];

/// The beginnings of commands that this test runs unless they are listed below: in its own
/// directory, with a daemon on the public socket, and with its own `/run` and `/tmp`.
const RUN: &[&str] = &[
    "cargo tree",
    "cat /run/early-service/state",
    "cat /tmp/watchdog",
    "echo",
    "kill",
    "nc",
    "printf",
    "sleep",
    "target/release/early-service",
    "touch",
    "WATCHDOG=/tmp/watchdog target/debug/examples/watchdog",
];

/// The beginnings of commands that are run elsewhere in another form, and the place of that form.
const RUN_ELSEWHERE: &[(&str, &str, &str)] = &[
    ("SOAK_MINUTES=", "scripts/test", "--test soak -- "),
    ("cargo +nightly fuzz run", "scripts/test", "cargo +nightly fuzz run"),
    ("cargo deb", "tests/boot/package.rs", r#"["deb", "--no-build""#),
    ("cargo deny", "scripts/test", "check --allow license-exception-not-encountered bans licenses"),
    ("cargo doc --open", "scripts/test", "cargo doc --workspace"),
    ("cargo install --locked cargo-", "scripts/test", r#"cargo install --locked --quiet "$crate""#),
    (
        "cargo run --example new-service",
        "tests/process/new_service.rs",
        r#"example("new-service")"#,
    ),
    ("cargo test --test process", "scripts/test", "cargo test --workspace --locked"),
    ("cargo test --workspace --lib", "scripts/test", "cargo test --workspace --locked"),
    ("cargo test -p early-service-machine", "scripts/test", "cargo test --workspace --locked"),
    ("checkmodule", "tests/boot/guest.rs", "checkmodule -M -m -o"),
    ("rpmlint -r", "tests/boot/rows/rpm.rs", "Command::new(\"rpmlint\")"),
    ("scripts/boot", "scripts/test", "--test boot -- --ignored"),
    ("scripts/create-rpm.sh", "tests/boot/package.rs", "scripts/create-rpm.sh early-service.spec"),
    ("semodule", "tests/boot/guest.rs", "semodule_package -o"),
    ("systemd-sysusers", "scripts/debian/postinst", "systemd-sysusers early-service.conf"),
];

/// The beginnings of commands that neither this test nor the CI runs, and the reasons.
const NOT_RUN: &[(&str, &str)] = &[
    ("aib-dev build", "needs AutoSD's image builder"),
    ("apt install", "changes the system; the boot tests install the same package with dpkg"),
    ("cargo build", "cargo has built the programs that this test runs"),
    ("cargo check", "a step of the first patch, which is not in the tree"),
    ("cargo run -- ", "a step of the first patch"),
    ("cd ", "begins a block whose other commands are listed"),
    ("cp target/rpm", "part of the next command"),
    ("createrepo_c", "needs Fedora"),
    ("dnf ", "needs Fedora"),
    ("dracut", "changes the system; packages in the boot tests run it"),
    ("early-service --", "needs the installed package; the process tests start the same program"),
    ("echo \"add_counter", "a step of the first patch"),
    ("echo \"get_counter\" | nc -U", "needs the nc of nmap"),
    ("journalctl", "needs the journal of a boot; the boot tests read it"),
    ("ls -l /run", "needs a booted initrd"),
    ("lsinitrd", "needs an initrd and dracut; the boot tests list the files of theirs"),
    ("make DEFINES", "needs AutoSD's makefile"),
    ("mkdir repo", "part of the next command"),
    ("mkosi build", "needs mkosi and makes a whole image"),
    ("restorecon", "needs SELinux; the boot tests label the whole guest"),
    ("rustup", "changes the system"),
    ("scripts/figures", "takes an hour on a machine that has nothing else to do"),
    ("scripts/fuzz-", "takes longer than the CI may; each target has its minute there"),
    ("SYSTEMD_LOG_LEVEL=", "needs a booted initrd"),
    ("systemctl", "needs a booted system; the boot tests ask it"),
];

/// One command of the documentation, and the output that follows it there.
struct Shown {
    command: String,
    output: Vec<String>,
}

/// The commands of a page, in order.
fn commands(page: &str) -> Vec<Shown> {
    let mut shown: Vec<Shown> = Vec::new();
    for block in page.split("```console\n").skip(1) {
        let (block, _) = block.split_once("```").expect("an end of the block");
        let mut is_open = false;
        for line in block.lines().map(str::trim_start).filter(|line| !line.is_empty()) {
            let begins = ["$ ", "# "].iter().find_map(|prompt| line.strip_prefix(prompt));
            match (begins, shown.last_mut()) {
                (Some(command), _) => shown.push(Shown { command: command.into(), output: vec![] }),
                (None, Some(last)) if is_open => last.command += &format!("\n{line}"),
                (None, Some(last)) => last.output.push(line.to_owned()),
                (None, None) => panic!("output without a command: {line}"),
            }
            is_open = line.ends_with('\\');
        }
    }
    shown
}

/// Whether this test runs the command.
fn is_run(command: &str) -> bool {
    let is_listed = NOT_RUN.iter().any(|(beginning, _)| command.starts_with(beginning));
    !is_listed && RUN.iter().any(|beginning| command.starts_with(beginning))
}

#[test]
fn every_command_is_run_somewhere_or_has_a_reason() {
    let ci: String =
        CI.iter().filter(|file| Path::new(ROOT).join(file).exists()).map(read).collect();
    // Two spellings of one command: lines may be broken, and the CI adds `--locked`.
    let plain = |text: &str| {
        let words: Vec<_> = text.split_whitespace().filter(|word| *word != "\\").collect();
        words.join(" ").replace(" --locked", "")
    };
    let ci = plain(&ci);
    let is_in_ci = |command: &str| {
        // A single word may have another meaning there.
        let is_there = command.contains(' ') && ci.contains(&plain(command));
        is_there || CI.iter().any(|script| command.starts_with(script))
    };
    let elsewhere = RUN_ELSEWHERE.iter().map(|(command, ..)| *command);
    let listed: Vec<_> = elsewhere.chain(NOT_RUN.iter().map(|(command, _)| *command)).collect();
    let (mut unknown, mut used) = (Vec::new(), HashSet::new());
    for page in pages() {
        for Shown { command, .. } in commands(&read(&page)) {
            match listed.iter().find(|beginning| command.starts_with(**beginning)) {
                _ if is_run(&command) || is_in_ci(&command) => {}
                Some(beginning) => drop(used.insert(*beginning)),
                None => unknown.push(format!("{}: {command}", page.display())),
            }
        }
    }
    assert!(
        unknown.is_empty(),
        "run these commands in the CI, or give the reason in NOT_RUN: {unknown:#?}"
    );
    let stale: Vec<_> = listed.iter().filter(|name| !used.contains(*name)).collect();
    assert!(stale.is_empty(), "no page has these commands, or the CI runs them: {stale:?}");
    for (command, file, form) in RUN_ELSEWHERE {
        assert!(read(file).contains(form), "{file} does not run {command:?} as {form:?}");
    }
}

#[test]
fn the_commands_print_what_the_pages_show() {
    let mut ran = 0;
    for page in pages() {
        let shown = commands(&read(&page));
        let shown: Vec<_> = shown.iter().filter(|shown| is_run(&shown.command)).collect();
        if !shown.is_empty() {
            ran += shown.len();
            run(&page, &shown);
        }
    }
    assert!(ran > 0, "no page has a command");
}

/// What separates the output of one command from that of the next.
const NEXT: &str = "== next command\n";

/// Runs commands of one page in one shell, and compares what they print.
fn run(page: &Path, shown: &[&Shown]) {
    let scratch = Scratch::new();
    for directory in ["run/early-service", "tmp", "target/release", "target/debug/examples"] {
        fs::create_dir_all(scratch.join(directory)).expect("a new directory");
    }
    let link = |to: PathBuf, name: &str| {
        std::os::unix::fs::symlink(to, scratch.join(name)).expect("a new link");
    };
    link(binary().into(), "target/release/early-service");
    link(build::example("watchdog").expect("it compiles"), "target/debug/examples/watchdog");
    let public = scratch.join("run/early-service/early-service.sock");
    let state = scratch.join("run/early-service/state");
    let _daemon = Daemon::serve(&public, &["--state-file", state.to_str().expect("text")]);
    until("written", || fs::metadata(&state).is_ok_and(|file| file.len() > 0));

    // A reader waits a second until the program has started; the script waits for the socket.
    let mut script = String::from(
        "sleep() { until grep --quiet Listening tmp/*.log 2> /dev/null; do command sleep 0.05; done; }\n",
    );
    for Shown { command, .. } in shown {
        let command = command
            .replace(" /run/", " run/")
            .replace("=/tmp/", "=tmp/")
            .replace(" /tmp/", " tmp/");
        let cd = if command.starts_with("cargo ") { format!("cd {ROOT}; ") } else { String::new() };
        script += &match command.strip_suffix(" &") {
            Some(command) => format!("{command} &\necho -n '{NEXT}'\n"),
            None => format!("({cd}{command}) || exit; echo -n '{NEXT}'\n"),
        };
    }
    // `kill %1` must run in the shell itself.
    let script = script.replace("(kill %1)", "kill %1").replace("(sleep 1)", "sleep 1");
    let mut bash = Command::new("bash");
    bash.arg("-c").arg(&script).current_dir(scratch.join("")).env("CARGO_NET_OFFLINE", "true");
    let output = bash.output().expect("bash runs");
    let (printed, complaint) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{}: {script}\n{printed}\n{complaint}", page.display());
    for (Shown { command, output }, printed) in shown.iter().zip(printed.split(NEXT)) {
        let printed: Vec<_> = printed.lines().collect();
        let is_whole = output.is_empty() || output.len() == printed.len();
        assert!(is_whole, "{}: {command} prints {printed:#?}", page.display());
        for (at, line) in output.iter().enumerate() {
            let (start, is_cut) = line.split_once('…').map_or((&**line, false), |(s, _)| (s, true));
            let seen = printed.get(at).copied().unwrap_or_default();
            let seen = plain(seen);
            let is_as_shown =
                if is_cut { seen.starts_with(&plain(start)) } else { seen == plain(start) };
            assert!(is_as_shown, "{}: {command} prints {printed:#?}, not {line}", page.display());
        }
    }
}

/// A line in which each number, and each value that contains one, is `0`.
fn plain(line: &str) -> String {
    let word = |word: &str| match word.split_once('=') {
        Some((key, value)) if value.contains(|c: char| c.is_ascii_digit()) => format!("{key}=0"),
        _ => word.split(|c: char| c.is_ascii_digit()).filter(|part| !part.is_empty()).collect(),
    };
    line.split(' ').map(word).collect::<Vec<_>>().join(" ")
}
