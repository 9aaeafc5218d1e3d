// SPDX-License-Identifier: Apache-2.0
//! Mutants: builds with one limit removed, and the row that must fail for them.
//!
//! A row that holds proves little unless it can fail. Each patch `abuse-…` of `tests/patches`
//! removes one limit in a copy of the sources.

use std::env;
use std::fmt::Write as _;
use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Instant;

use testkit::patches::{self, Tree};

/// A removed limit.
struct Mutant {
    patch: &'static str,
    /// Beginning of the name of the row that must fail.
    row: &'static str,
    /// Beginning of the claim that must fail; another claim would fail for another reason.
    claim: &'static str,
}

/// How often a row may hold before its mutant has survived. On a busy machine, the abusers may not
/// reach the daemon.
const TRIES: usize = 3;

const MUTANTS: &[Mutant] = &[
    Mutant { patch: "abuse-client-limit", row: "burst of blocking connects", claim: "memory" },
    Mutant {
        patch: "abuse-accepts-per-turn",
        row: "burst of blocking connects",
        claim: "a client that stays",
    },
    Mutant {
        patch: "abuse-backlog",
        row: "clients that begin late",
        claim: "every one of them is answered",
    },
    Mutant {
        patch: "abuse-first-line-none",
        row: "clients that begin late",
        claim: "every one of them is answered",
    },
    Mutant {
        patch: "abuse-first-line-long",
        row: "clients that say nothing",
        claim: "a client that comes anew waits",
    },
    Mutant {
        patch: "abuse-flood-share",
        row: "a silent flood of another user",
        claim: "a client that comes anew waits",
    },
    Mutant {
        patch: "abuse-send-buffer",
        row: "replies never read",
        claim: "replies in the kernel for one of them",
    },
    Mutant {
        patch: "abuse-write-timeout",
        row: "replies never read",
        claim: "still waiting: all are closed",
    },
    Mutant {
        patch: "abuse-active-per-byte",
        row: "a byte a second",
        claim: "a client that has asked keeps its place",
    },
    Mutant {
        patch: "abuse-line-length",
        row: "endless lines",
        claim: "130 bytes are answered and closed",
    },
    Mutant { patch: "abuse-line-discard", row: "endless lines", claim: "bytes taken of one line" },
    Mutant {
        patch: "abuse-reads-per-turn",
        row: "far ahead of its replies",
        claim: "a client behind it has its turn before its end",
    },
    Mutant {
        patch: "abuse-descriptors-of-clients",
        row: "descriptors uninvited",
        claim: "descriptors open in the daemon",
    },
    Mutant {
        patch: "abuse-descriptors-of-successors",
        row: "descriptors uninvited",
        claim: "descriptors of a successor that are open",
    },
    Mutant {
        patch: "abuse-end-of-input",
        row: "half-closed connections",
        claim: "one that sends no more is answered to its end",
    },
    Mutant {
        patch: "abuse-descriptor-limit",
        row: "limit of 32 descriptors",
        claim: "a client that comes when all is full is answered",
    },
    Mutant {
        patch: "abuse-accept-pause-descriptors",
        row: "EMFILE",
        claim: "processor in the shortage",
    },
    Mutant { patch: "abuse-evict-for-descriptors", row: "EMFILE", claim: "nobody had to go" },
    Mutant {
        patch: "abuse-accept-pause-memory",
        row: "ENFILE and ENOMEM",
        claim: "20 failures last",
    },
    Mutant {
        patch: "abuse-state-file-room",
        row: "full /run",
        claim: "the number it goes on with",
    },
    Mutant {
        patch: "abuse-log-queue",
        row: "journald stopped",
        claim: "lines dropped and counted",
    },
    Mutant {
        patch: "abuse-log-waits",
        row: "journald stopped",
        claim: "still waiting: 10000 ticks",
    },
    Mutant {
        patch: "abuse-log-queue-clients",
        row: "lines of clients, journald stopped",
        claim: "every tick in the log",
    },
    Mutant {
        patch: "abuse-descriptors-in-flight",
        row: "ETOOMANYREFS in a handoff",
        claim: "a tick after its deadline",
    },
];

/// For each removed limit, its row must fail. The crate's other test shows that all rows hold for
/// the unchanged program.
#[test]
#[ignore = "takes minutes: builds the program again for each limit"]
fn every_limit_taken_out_breaks_its_row() {
    let _alone = crate::alone();
    let workshop = Workshop::new().unwrap_or_else(|error| panic!("{error}"));
    let chosen = env::var("ABUSE_ROWS").unwrap_or_default();

    let mut table = format!("{:34} {:36} {:>7}  broken\n", "patch", "row", "took");
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
        let Mutant { patch, row, .. } = mutant;
        let took = start.elapsed().as_secs_f64();
        let _ = writeln!(table, "{patch:34} {row:36} {took:5.1} s  {mark}{broken}");
        if let Err(why) = verdict {
            survived.push(format!("{patch} ({}): {why}", patches::fault(patch)));
        }
    }
    // Not with `println!`, because the test runner captures it.
    let _ = writeln!(io::stdout(), "\n{table}");
    assert!(survived.is_empty(), "{survived:#?}");
}

#[test]
fn every_patch_of_abuse_is_planted_against_a_row() {
    let mut planted: Vec<_> = MUTANTS.iter().map(|mutant| mutant.patch).collect();
    planted.sort();
    assert_eq!(planted, patches::of_ring("abuse-"));
    for Mutant { patch, row, .. } in MUTANTS {
        assert!(crate::ROWS.iter().any(|known| known.name.starts_with(row)), "{patch}: {row:?}");
    }
}

/// A copy of the sources and its build directory.
struct Workshop {
    tree: Tree,
    target: PathBuf,
}

impl Workshop {
    fn new() -> Result<Self, String> {
        let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("abuse");
        let sources = directory.join("sources");
        // Libraries that were already built stay.
        let _ = fs::remove_dir_all(&sources);
        Ok(Self { tree: Tree::copy_to(sources)?, target: directory.join("target") })
    }

    /// Builds the current sources; returns the compiler's errors if that fails.
    fn build(&self) -> Result<PathBuf, String> {
        let mut cargo = Command::new(env!("CARGO"));
        cargo.args(["build", "--locked", "--offline", "--bin", "early-service"]);
        cargo.current_dir(self.tree.root()).env("CARGO_TARGET_DIR", &self.target);
        let output = cargo.output().expect("cargo runs");
        let complaint = || String::from_utf8_lossy(&output.stderr).into_owned();
        output
            .status
            .success()
            .then(|| self.target.join("debug/early-service"))
            .ok_or_else(complaint)
    }

    /// The broken claim that the mutant must break, or why the mutant survives.
    fn judge(&self, mutant: &Mutant) -> Result<String, String> {
        self.tree.plant(mutant.patch)?;
        let built = self.build();
        let output = built.as_ref().map(|program| row(program, mutant.row));
        self.tree.remove(mutant.patch)?;
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

/// Runs the rows that begin with `begins` against this program, in another process.
fn row(program: &Path, begins: &str) -> Output {
    let ourselves = env::current_exe().expect("a program");
    let mut command = Command::new(ourselves);
    command.args(["--exact", "legitimate_clients_are_served_whatever_others_do", "--nocapture"]);
    command.env("EARLY_SERVICE_PROGRAM", program).env("ABUSE_ROWS", begins);
    command.output().expect("ourselves")
}
