// SPDX-License-Identifier: Apache-2.0
//! Processes in one directory, without root: each of them takes over the count.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::thread::sleep;
use std::time::Duration;

/// A process that does not tick; killed when it is dropped.
struct Process {
    child: Child,
    socket: PathBuf,
}

impl Process {
    fn start(directory: &Path, name: &str, predecessor: Option<&Self>) -> Self {
        let socket = directory.join(name);
        let mut command = Command::new(env!("CARGO_BIN_EXE_@NAME@"));
        command.env_clear();
        command.args(["--timer-delay-ms", "3600000"]);
        command.arg("--server-socket-path").arg(&socket);
        command.arg("--state-file").arg(directory.join("state"));
        if let Some(predecessor) = predecessor {
            let socket = &predecessor.socket;
            command.arg("--client-socket-path").arg(socket);
        }
        let child = command.spawn().expect("the program starts");
        Self { child, socket }
    }

    /// The reply to one command, once the process listens.
    fn ask(&self, command: &str) -> String {
        let mut stream = self.connect();
        writeln!(stream, "{command}").expect("it reads");
        let mut reply = String::new();
        let mut stream = BufReader::new(stream);
        stream.read_line(&mut reply).expect("it answers");
        reply.trim_end().to_owned()
    }

    /// Waits at most ten seconds.
    fn connect(&self) -> UnixStream {
        for _ in 0..1000 {
            if let Ok(stream) = UnixStream::connect(&self.socket) {
                return stream;
            }
            sleep(Duration::from_millis(10));
        }
        panic!("{} has no server", self.socket.display());
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn the_count_outlives_a_handoff_and_a_crash() {
    let name = format!("@NAME@-{}", std::process::id());
    let directory = std::env::temp_dir().join(name);
    fs::create_dir(&directory).expect("a new directory");
    let mut first = Process::start(&directory, "first", None);
    assert_eq!(first.ask("5"), "5");
    let second = Process::start(&directory, "second", Some(&first));
    assert_eq!(second.ask("1"), "6");
    let status = first.child.wait().expect("a child of this test");
    assert!(status.success());
    drop(second);
    let third = Process::start(&directory, "third", None);
    assert_eq!(third.ask("1"), "7");
    drop(third);
    fs::remove_dir_all(&directory).expect("the same directory");
}
