// SPDX-License-Identifier: Apache-2.0
//! Mutants: builds with one limit taken out, and the row that must not hold for them.
//!
//! A row that holds says little unless it is known to break.
//! Each limit is taken out by a change in a copy of the sources; what is changed must be there exactly
//! once, for a limit that is not taken out would prove nothing.

use std::env;
use std::fmt::Write as _;
use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Instant;

/// One limit, and how it is taken out.
struct Mutant {
    limit: &'static str,
    changes: &'static [Change],
    /// How the name of the row begins that must break.
    row: &'static str,
    /// How the claim begins that must break it; another one would break it for another reason.
    claim: &'static str,
}

/// Text in a file of the repository, and what stands there instead.
struct Change {
    file: &'static str,
    from: &'static str,
    to: &'static str,
}

/// How often a row may hold before its mutant has survived: on a busy machine those who abuse the daemon
/// may not get to it.
const TRIES: usize = 3;

const MUTANTS: &[Mutant] = &[
    Mutant {
        limit: "clients at once",
        changes: &[Change {
            file: "src/server/limits.rs",
            from: "pub(crate) const CLIENTS: usize = 1000;",
            to: "pub(crate) const CLIENTS: usize = 15_000;",
        }],
        row: "burst of blocking connects",
        claim: "memory",
    },
    Mutant {
        limit: "clients accepted in one turn",
        changes: &[Change {
            file: "src/server/mod.rs",
            from: "let most = if self.ready.is_empty() { ACCEPTS } else { 1 };",
            to: "let most = 100_000;",
        }],
        row: "burst of blocking connects",
        claim: "a client that stays",
    },
    Mutant {
        limit: "new clients wait in the backlog",
        changes: &[Change {
            file: "src/server/mod.rs",
            from: "                return self.pause_accepting(format_args!(
                    \"new clients wait: {clients} came in the last second\"
                ));",
            to: "                let _ = clients;
                drop(self.listeners.get(listener).map(Listener::accept));
                continue;",
        }],
        row: "clients that begin late",
        claim: "every one of them is answered",
    },
    Mutant {
        limit: "time for the first line",
        changes: &[Change {
            file: "src/server/limits.rs",
            from: "pub(crate) const FIRST_LINE: Duration = Duration::from_secs(1);",
            to: "pub(crate) const FIRST_LINE: Duration = Duration::ZERO;",
        }],
        row: "clients that begin late",
        claim: "every one of them is answered",
    },
    Mutant {
        limit: "time that a new client keeps others waiting",
        changes: &[Change {
            file: "src/server/limits.rs",
            from: "pub(crate) const FIRST_LINE: Duration = Duration::from_secs(1);",
            to: "pub(crate) const FIRST_LINE: Duration = Duration::from_secs(4);",
        }],
        row: "clients that say nothing",
        claim: "a client that comes anew waits",
    },
    Mutant {
        limit: "places of a user who floods",
        changes: &[Change {
            file: "src/server/limits.rs",
            from: "        let floods = |flood: &Flood| flood.gone > share && !flood.is_over(now);",
            to: "        let floods = |flood: &Flood| flood.gone > share + CLIENTS * 1_000_000;",
        }],
        row: "a silent flood of another user",
        claim: "a client that comes anew waits",
    },
    Mutant {
        limit: "replies in the kernel",
        changes: &[Change {
            file: "src/server/session.rs",
            from: "let _ = set_socket_send_buffer_size(&self.stream, SEND_BUFFER / 2);",
            to: "let _ = SEND_BUFFER;",
        }],
        row: "replies never read",
        claim: "replies in the kernel for one of them",
    },
    Mutant {
        limit: "time until replies are taken",
        changes: &[Change {
            file: "src/server/limits.rs",
            from: "pub(crate) const WRITE_TIMEOUT: Duration = Duration::from_secs(10);",
            to: "pub(crate) const WRITE_TIMEOUT: Duration = Duration::from_secs(3600);",
        }],
        row: "replies never read",
        claim: "still waiting: all are closed",
    },
    Mutant {
        limit: "idle until a whole line",
        changes: &[Change {
            file: "src/server/session.rs",
            from: "                self.input.end += count;
                Poll::Ready(true)",
            to: "                self.input.end += count;
                self.active = clock::now();
                Poll::Ready(true)",
        }],
        row: "a byte a second",
        claim: "a client that has asked keeps its place",
    },
    Mutant {
        limit: "length of a line",
        changes: &[Change {
            file: "machine/src/wire/command.rs",
            from: "pub const MAX_LINE: usize = 128;",
            to: "pub const MAX_LINE: usize = 1000;",
        }],
        row: "endless lines",
        claim: "130 bytes are answered and closed",
    },
    Mutant {
        limit: "what is read of a line that is too long",
        changes: &[Change {
            file: "src/server/session.rs",
            from: "self.overrun = Some(MAX_DISCARD);",
            to: "self.overrun = Some(MAX_DISCARD << 20);",
        }],
        row: "endless lines",
        claim: "bytes taken of one line",
    },
    Mutant {
        limit: "one read in a turn",
        changes: &[Change {
            file: "src/server/session.rs",
            from: "            if has_read {",
            to: "            if has_read && self.closing {",
        }],
        row: "binary garbage",
        claim: "a tick after its deadline",
    },
    Mutant {
        limit: "descriptors are not taken",
        changes: &[
            Change {
                file: "src/server/session.rs",
                from: "        match recv(&self.stream, room, RecvFlags::DONTWAIT) {",
                to: "        let mut taken = std::collections::VecDeque::new();
        let read = peer::receive(&self.stream, room, &mut taken);
        std::mem::forget(taken);
        match read.map(|(count, _)| ((), count)) {",
            },
            Change {
                file: "src/handoff/channel.rs",
                from: "fn receive(
    stream: impl AsFd,",
                to: "pub(crate) fn receive(
    stream: impl AsFd,",
            },
        ],
        row: "descriptors uninvited",
        claim: "descriptors open in the daemon",
    },
    Mutant {
        limit: "descriptors are not taken from a successor",
        changes: &[Change {
            file: "src/handoff/send.rs",
            from: "peer: Peer::without_descriptors(stream),",
            to: "peer: Peer::new(stream),",
        }],
        row: "descriptors uninvited",
        claim: "descriptors of a successor that are open",
    },
    Mutant {
        limit: "the end of input ends the session",
        changes: &[Change {
            file: "src/server/session.rs",
            from: "Framed::Partial if input.ended => return Parsed::Finished,",
            to: "Framed::Partial if input.ended => return Parsed::Nothing,",
        }],
        row: "half-closed connections",
        claim: "one that sends no more is answered to its end",
    },
    Mutant {
        limit: "places by the limit of descriptors",
        changes: &[Change {
            file: "src/server/limits.rs",
            from: "limit.saturating_sub(RESERVE + INTERNAL_FDS).clamp(1, CLIENTS)",
            to: "limit.max(CLIENTS)",
        }],
        row: "limit of 32 descriptors",
        claim: "a client that comes when all is full is answered",
    },
    Mutant {
        limit: "the pause without descriptors",
        changes: &[Change {
            file: "src/server/mod.rs",
            from: "const ACCEPT_PAUSE: Duration = Duration::from_millis(100);",
            to: "const ACCEPT_PAUSE: Duration = Duration::ZERO;",
        }],
        row: "EMFILE",
        claim: "processor in the shortage",
    },
    Mutant {
        limit: "nobody goes for a lack of descriptors",
        changes: &[Change {
            file: "src/server/mod.rs",
            from: "                Some(Err(error)) => {
                    if is_shut_down(&error) {",
            to: "                Some(Err(error)) => {
                    self.close_longest_idle();
                    if is_shut_down(&error) {",
        }],
        row: "EMFILE",
        claim: "nobody had to go",
    },
    Mutant {
        limit: "the pause without memory",
        changes: &[Change {
            file: "src/server/mod.rs",
            from: "const ACCEPT_PAUSE: Duration = Duration::from_millis(100);",
            to: "const ACCEPT_PAUSE: Duration = Duration::from_millis(5);",
        }],
        row: "ENFILE and ENOMEM",
        claim: "20 failures last",
    },
    Mutant {
        limit: "room for the state is made before",
        changes: &[Change {
            file: "src/handoff/state_file.rs",
            from: "unwrap_or_default() < length {",
            to: "unwrap_or_default() < length.min(0) {",
        }],
        row: "full /run",
        claim: "the number it goes on with",
    },
    Mutant {
        limit: "log records that wait",
        changes: &[Change {
            file: "src/journal/mod.rs",
            from: "const QUEUE: usize = 256;",
            to: "const QUEUE: usize = 65_536;",
        }],
        row: "journald stopped",
        claim: "lines dropped and counted",
    },
    Mutant {
        limit: "nobody waits for the log",
        changes: &[Change {
            file: "src/journal/mod.rs",
            from: "if RECORDS.len() >= room || !Entry::new(record).queue(&RECORDS, room) {",
            to: "while !Entry::new(record).queue(&RECORDS, room) { thread::yield_now(); } if false {",
        }],
        row: "journald stopped",
        claim: "still waiting: 10000 ticks",
    },
    Mutant {
        limit: "log records that clients cause",
        changes: &[Change {
            file: "src/journal/mod.rs",
            from: "const ASKED_FOR: usize = QUEUE / 2;",
            to: "const ASKED_FOR: usize = QUEUE;",
        }],
        row: "lines of clients, journald stopped",
        claim: "every tick in the log",
    },
    Mutant {
        limit: "time that descriptors may be stuck",
        changes: &[Change {
            file: "src/handoff/send.rs",
            from: "const STUCK: Duration = Duration::from_millis(50);",
            to: "const STUCK: Duration = Duration::from_secs(1);",
        }],
        row: "ETOOMANYREFS in a handoff",
        claim: "a tick after its deadline",
    },
];

/// The row that must hold for the program as it is, and for each limit taken out the row of it must
/// not.
#[test]
#[ignore = "takes minutes: builds the program again for each limit"]
fn every_limit_taken_out_breaks_its_row() {
    let _alone = crate::alone();
    let workshop = Workshop::new();
    let program = workshop.build().expect("it builds as it is");
    let chosen = env::var("ABUSE_ROWS").unwrap_or_default();
    let rows = row(&program, &chosen);
    let text = String::from_utf8_lossy(&rows.stdout);
    assert!(rows.status.success(), "the rows do not hold for the program as it is: {text}");

    let mut table = format!("{:46} {:36} {:>7}  broken\n", "limit taken out", "row", "took");
    let mut survived = Vec::new();
    for mutant in MUTANTS.iter().filter(|mutant| mutant.row.starts_with(&chosen)) {
        let start = Instant::now();
        let mut verdict = workshop.judge(mutant);
        for _ in 1..TRIES {
            if verdict.is_err() {
                verdict = workshop.judge(mutant);
            }
        }
        let (broken, mark) = match &verdict {
            Ok(broken) => (broken.as_str(), ""),
            Err(why) => (why.as_str(), "SURVIVED: "),
        };
        let Mutant { limit, row, .. } = mutant;
        let took = start.elapsed().as_secs_f64();
        let _ = writeln!(table, "{limit:46} {row:36} {took:5.1} s  {mark}{broken}");
        if let Err(why) = verdict {
            survived.push(format!("{limit}: {why}"));
        }
    }
    // Not by `println!`, which the test runner keeps to itself.
    let _ = writeln!(io::stdout(), "\n{table}");
    assert!(survived.is_empty(), "{survived:#?}");
}

/// Builds nothing, so that whoever changes the sources hears of it at once.
#[test]
fn every_change_finds_its_place() {
    for change in MUTANTS.iter().flat_map(|mutant| mutant.changes) {
        if let Err(why) = change.applied(&original("")) {
            panic!("{why}");
        }
    }
}

/// A copy of the sources, and where they are built.
struct Workshop {
    sources: PathBuf,
    target: PathBuf,
}

impl Workshop {
    fn new() -> Self {
        let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("abuse");
        let (sources, target) = (directory.join("sources"), directory.join("target"));
        // What was built of the libraries stays.
        let _ = fs::remove_dir_all(&sources);
        let workshop = Self { sources, target };
        for name in [
            "Cargo.toml",
            "Cargo.lock",
            "README.md",
            "benches",
            "build.rs",
            "src",
            "machine",
            "tests",
        ] {
            copy(&original(name), &workshop.sources.join(name));
        }
        workshop
    }

    /// Builds what stands there now; what is wrong with it where it does not build.
    fn build(&self) -> Result<PathBuf, String> {
        let mut cargo = Command::new(env!("CARGO"));
        cargo.args(["build", "--locked", "--offline", "--bin", "early-service"]);
        cargo.current_dir(&self.sources).env("CARGO_TARGET_DIR", &self.target);
        let output = cargo.output().expect("cargo runs");
        let complaint = || String::from_utf8_lossy(&output.stderr).into_owned();
        output
            .status
            .success()
            .then(|| self.target.join("debug/early-service"))
            .ok_or_else(complaint)
    }

    /// What of the mutant's row is broken as it must be; why it survives where nothing is.
    fn judge(&self, mutant: &Mutant) -> Result<String, String> {
        for change in mutant.changes {
            change.make(&self.sources)?;
        }
        let built = self.build();
        let output = built.as_ref().map(|program| row(program, mutant.row));
        for change in mutant.changes {
            copy(&original(change.file), &self.sources.join(change.file));
        }
        let output = output.map_err(|complaint| format!("it does not build: {complaint}"))?;
        let said = String::from_utf8_lossy(&output.stderr);
        let expected = format!("{}: {}", mutant.row, mutant.claim);
        let broken = said.lines().find_map(|line| line.split_once(&expected));
        match broken {
            Some((_, seen)) => Ok(format!("{}{}", mutant.claim, seen.trim_end_matches("\","))),
            None if output.status.success() => Err("the row holds".to_owned()),
            None => Err(format!("the row breaks for another reason: {said}")),
        }
    }
}

impl Change {
    fn make(&self, sources: &Path) -> Result<(), String> {
        let changed = self.applied(sources)?;
        fs::write(sources.join(self.file), changed).expect("room");
        Ok(())
    }

    /// The file with the change in it.
    fn applied(&self, sources: &Path) -> Result<String, String> {
        let Self { file, from, to } = self;
        let text = fs::read_to_string(sources.join(file)).expect("a source file");
        match text.matches(from).count() {
            1 => Ok(text.replace(from, to)),
            count => Err(format!("{from:?} is {count} times in {file}, and not once")),
        }
    }
}

/// Runs the rows that begin so against this program, in a process of its own.
fn row(program: &Path, begins: &str) -> Output {
    let ourselves = env::current_exe().expect("a program");
    let mut command = Command::new(ourselves);
    command.args(["--exact", "whoever_is_legitimate_is_served_whatever_others_do", "--nocapture"]);
    command.env("EARLY_SERVICE_PROGRAM", program).env("ABUSE_ROWS", begins);
    command.output().expect("ourselves")
}

fn original(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

/// Copies a file, or a directory with all that is in it.
fn copy(from: &Path, to: &Path) {
    if from.is_dir() {
        fs::create_dir_all(to).expect("room");
        for file in fs::read_dir(from).expect("a directory") {
            let name = file.expect("a file").file_name();
            copy(&from.join(&name), &to.join(&name));
        }
    } else {
        fs::create_dir_all(to.parent().expect("a directory")).expect("room");
        fs::copy(from, to).expect("room");
    }
}
