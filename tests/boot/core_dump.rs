// SPDX-License-Identifier: Apache-2.0
//! Core dump of the packaged program, read with the packaged debug information.

use crate::MACHINES;
use crate::package;
use crate::tools::{output, require};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;
use std::sync::PoisonError;
use testkit::scratch::Scratch;

#[test]
#[ignore = "builds the package: a minute"]
fn a_core_dump_has_a_stack_with_function_names() {
    // One test at a time builds the package.
    let _alone = MACHINES.lock().unwrap_or_else(PoisonError::into_inner);
    require(&["cargo-deb", "dpkg-deb", "gdb", "objcopy", "readelf"]);
    let (package, _) = package::build().expect("the package");
    let scratch = Scratch::new();
    let root = scratch.join("root");
    for package in [package.with_extension("ddeb"), package] {
        let mut extract = Command::new("dpkg-deb");
        output("dpkg-deb", extract.arg("--extract").arg(package).arg(&root)).expect("files");
    }
    let (program, core) = (root.join("usr/bin/early-service"), scratch.join("core"));
    let sections =
        output("readelf", Command::new("readelf").args(["-SW"]).arg(&program)).expect("sections");
    assert!(!sections.contains(".symtab"), "the packaged program is stripped");
    dump(&program, &scratch.join("socket"), &core);

    let debug = format!("set debug-file-directory {}", root.join("usr/lib/debug").display());
    let mut gdb = gdb();
    gdb.args(["-ex", &debug, "-ex"]).arg(format!("file {}", program.display()));
    gdb.arg("-ex").arg(format!("core-file {}", core.display()));
    let stacks = output("gdb", gdb.args(["-ex", "thread apply all backtrace"])).expect("stacks");

    let (others, main) = stacks.split_once("\nThread 1 ").expect(&stacks);
    assert!(main.contains(" in ") && !main.contains("??"), "each frame has a name: {main}");
    for ours in ["early_service::supervisor", "at src/startup.rs", "main () at src/"] {
        assert!(main.contains(ours), "{ours} is on the stack of the main thread: {main}");
    }
    assert!(others.contains("early_service::journal"), "and on the log's thread: {others}");
    // The C library's debug information is not installed.
    let unknown = others.lines().find(|line| line.contains("??") && !line.contains("libc.so"));
    assert_eq!(unknown, None, "each frame of the program has a name: {others}");
}

/// Writes the core dump of a running daemon.
fn dump(program: &Path, socket: &Path, core: &Path) {
    let mut start = Command::new(program);
    start.arg("--server-socket-path").arg(socket).stderr(std::process::Stdio::null());
    let mut process = start.spawn().expect("a process");
    testkit::until("the program serves", || UnixStream::connect(socket).is_ok());
    // The machine decides where a dump by SIGABRT is stored (core(5)), so gdb writes the file.
    let mut dump = gdb();
    dump.args(["-p", &process.id().to_string(), "-ex"]);
    let dumped = output("gdb", dump.arg(format!("generate-core-file {}", core.display())));
    process.kill().expect("our own process");
    process.wait().expect("our own process");
    dumped.expect("a core dump");
}

fn gdb() -> Command {
    let mut gdb = Command::new("gdb");
    // Uses neither the user's configuration nor the network.
    gdb.args(["-q", "-nx", "-batch"]).env_remove("DEBUGINFOD_URLS");
    gdb
}
