// SPDX-License-Identifier: Apache-2.0
//! Sabotage: daemons and units with one fault each, and the row that must not miss it.
//!
//! A suite that holds says little unless it is known to break. Each fault is a change of one place
//! in a copy of the sources, which is built and booted instead of the package's. The change must
//! find its place exactly once: a fault that is no longer put in would prove nothing.
//!
//! One guest is enough for most: the rows are the same for all.

use crate::cache::{self, SOURCE};
use crate::guest::{Format, Guest, Image};
use crate::package;
use crate::plan::{self, Plan, Swap, Verdict};
use crate::rows::{c_program, confinement, first_stage, ordinary, surroundings};
use crate::tools::{self, output};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// One fault, or several that only show together.
struct Sabotage {
    name: &'static str,
    changes: &'static [Change],
    /// What is booted.
    plan: &'static Plan,
    breaks: &'static [Break],
}

/// A row that must break, and how the claim begins that must break it; another one would break it for
/// another reason.
struct Break {
    row: &'static str,
    claim: &'static str,
}

/// Text in a file of the repository, and what stands there instead.
struct Change {
    file: &'static str,
    from: &'static str,
    to: &'static str,
}

const SABOTAGES: &[Sabotage] = &[
    Sabotage {
        name: "tick-skipped",
        changes: &[Change {
            file: "machine/src/counter.rs",
            from: "self.next = self.next.wrapping_add(1);",
            to: "self.next = self.next.wrapping_add(if self.next == 20 { 2 } else { 1 });",
        }],
        plan: &ORDINARY,
        breaks: &[Break { row: ordinary::NUMBERS, claim: "every number once and in order" }],
    },
    Sabotage {
        // The root stage logs once more what the first stage has logged last.
        name: "number-doubled",
        changes: &[Change {
            file: "machine/src/counter.rs",
            from: r#"Ok(Self { next: fields.number("counter")? })"#,
            to: r#"Ok(Self { next: fields.number("counter")?.saturating_sub(1) })"#,
        }],
        plan: &ORDINARY,
        breaks: &[Break { row: ordinary::NUMBERS, claim: "every number once and in order" }],
    },
    Sabotage {
        // The count goes on, but the successor's first tick comes a period after it has adopted.
        name: "rhythm-begun-anew",
        changes: &[Change {
            file: "src/ticker.rs",
            from: "Start::After { snapshot, .. } => Ticking::resuming(snapshot, now, self.period),",
            to: "Start::After { snapshot, .. } => Ticking::starting(snapshot.state, now, self.period),",
        }],
        plan: &ORDINARY,
        breaks: &[Break {
            row: ordinary::NUMBERS,
            claim: "each number is due a period after the one before",
        }],
    },
    Sabotage {
        name: "clients-dropped",
        changes: &[Change {
            file: "src/server/sockets.rs",
            from: "self.sessions.extend(predecessors.sessions);",
            to: "drop(predecessors.sessions);",
        }],
        plan: &ORDINARY,
        breaks: &[Break { row: ordinary::CLIENTS, claim: "one connection lasts" }],
    },
    Sabotage {
        name: "half-a-line-dropped",
        changes: &[Change {
            file: "src/server/session.rs",
            from: "let fits = session.input.replace(unread)",
            to: "let _ = unread;
                 let fits = session.input.replace(&[])",
        }],
        plan: &ORDINARY,
        breaks: &[Break {
            row: ordinary::NC,
            claim: "half a line is kept, and its other half awaited",
        }],
    },
    Sabotage {
        // What is in the file is older than what was logged.
        name: "written-too-late",
        changes: &[Change {
            file: "src/ticker.rs",
            from: "self.store(count);",
            to: "if uncounted.deadline().as_nanos() / 100_000_000 % 10 == 0 { self.store(count) }",
        }],
        plan: &first_stage::KILLED,
        breaks: &[Break { row: first_stage::RECOVERS, claim: "no number twice" }],
    },
    Sabotage {
        name: "exit-1-after-the-handoff",
        changes: &[
            Change {
                file: "src/startup.rs",
                from: "let mut journal = Journal::install(options.stage);",
                to: "let fails = options.stage == Stage::Initrd;
                     let mut journal = Journal::install(options.stage);",
            },
            Change {
                file: "src/startup.rs",
                from: "            }
            ExitCode::SUCCESS",
                to: "            }
            if fails { ExitCode::FAILURE } else { ExitCode::SUCCESS }",
            },
        ],
        plan: &ORDINARY,
        breaks: &[Break {
            row: ordinary::ENDS_WELL,
            claim: "the first stage ends once, with success",
        }],
    },
    // The daemon ignores SIGTERM in this stage, so a unit without `@` alone kills nothing: what
    // breaks is the row that looks for the signal.
    Sabotage {
        name: "unit-without-at",
        changes: &[WITHOUT_AT],
        plan: &ORDINARY,
        breaks: &[Break { row: ordinary::SPARED, claim: ordinary::NO_SIGTERM }],
    },
    // Without either belt the first stage is gone before the switch of root; the count goes on from
    // the state file, but nobody hands over.
    Sabotage {
        name: "neither-belt",
        changes: &[
            WITHOUT_AT,
            Change {
                file: "src/platform/signals.rs",
                from: "let heard = HANDLED.map(|signal| signal as i32);",
                to: "let heard = [Signal::SIGINT as i32];",
            },
        ],
        plan: &ORDINARY,
        breaks: &[Break { row: ordinary::ENDS_WELL, claim: "the first stage hands over once" }],
    },
    // Each wall of the root stage has a row that sees whether it stands.
    Sabotage {
        name: "root-unit-without-walls",
        changes: &[
            without(ROOT_UNIT, "\nRestrictAddressFamilies=AF_UNIX"),
            without(ROOT_UNIT, "\nProtectSystem=strict"),
            without(ROOT_UNIT, "\nInaccessiblePaths=-/dev/shm -/dev/mqueue -/sys/fs/cgroup"),
            without(ROOT_UNIT, "\nCapabilityBoundingSet="),
        ],
        plan: &confinement::CONFINED,
        breaks: &[
            Break { row: confinement::SOCKETS, claim: confinement::NO_NETWORK },
            Break { row: confinement::FILES, claim: confinement::READ_ONLY },
            Break { row: confinement::FILES, claim: confinement::ONE_DIRECTORY },
            Break { row: confinement::RIGHTS, claim: confinement::NO_CAPABILITY },
        ],
    },
    Sabotage {
        name: "first-unit-without-walls",
        changes: &[
            without(FIRST_UNIT, "\nCapabilityBoundingSet=CAP_SYS_CHROOT CAP_SYS_PTRACE"),
            without(FIRST_UNIT, "\nNoNewPrivileges=yes"),
        ],
        plan: &first_stage::STOPPED,
        breaks: &[
            Break { row: first_stage::FEW_RIGHTS, claim: first_stage::ONE_THREAD },
            Break { row: first_stage::FEW_RIGHTS, claim: first_stage::BOUNDED },
            Break { row: first_stage::FEW_RIGHTS, claim: first_stage::NO_NEW },
        ],
    },
    Sabotage {
        name: "capabilities-kept",
        changes: &[Change {
            file: "src/platform/switch_root.rs",
            from: "sets.permitted -= not_needed;",
            to: "",
        }],
        plan: &first_stage::STOPPED,
        breaks: &[Break { row: first_stage::NO_RIGHTS, claim: first_stage::NO_THREAD }],
    },
    Sabotage {
        // Their unit names no successor: who gets the socket is who may adopt.
        name: "owner-of-the-socket-refused",
        changes: &[Change {
            file: "machine/src/trust.rs",
            from: "(named == Some(peer) || owner == Some(peer))",
            to: "(named == Some(peer) || owner == Some(ROOT) && owner == Some(peer))",
        }],
        // Their unit stops it by a signal that it ignores: power-off would wait for it.
        plan: &Plan {
            in_root: "
                wait_until root_serves && sleep 2
                systemctl kill --signal=KILL early-service-initrd.service",
            ..c_program::ONE_SOCKET
        },
        breaks: &[Break { row: c_program::GOES_ON, claim: c_program::HANDS_OVER }],
    },
    Sabotage {
        name: "by-the-wall-clock",
        changes: &[Change {
            file: "src/platform/clock.rs",
            from: "clock_gettime(ClockId::Monotonic)",
            to: "clock_gettime(ClockId::Realtime)",
        }],
        // Forward it would catch up a day's ticks, which takes too long.
        plan: &Plan {
            in_initrd: "set_clock '-1 day'; sleep 0.7; set_clock '+1 day'; sleep 0.7",
            in_root: Plan::ORDINARY.in_root,
            ..surroundings::CLOCK_SET
        },
        breaks: &[Break { row: surroundings::ANY_TIME, claim: "no tick more than" }],
    },
    Sabotage {
        name: "drops-untold",
        changes: &[Change {
            file: "src/journal/mod.rs",
            from: "let missing = dropped - self.reported;",
            to: "let missing = (dropped - self.reported) / 2;",
        }],
        plan: &surroundings::FLOODED,
        breaks: &[Break { row: surroundings::DROPS_TOLD, claim: surroundings::ALL_TOLD }],
    },
];

/// What shows only where the kernel moves the first stage along.
const ON_NEWEST: &[Sabotage] = &[Sabotage {
    // As it was when only PID 1's root was compared, and with ours.
    name: "moved-along-unnoticed",
    changes: &[Change {
        file: "src/platform/switch_root.rs",
        from: "if is_same(&ours, &self.ours) {",
        to: "if is_same(&ours, &self.ours) || self.init.is_some() {",
    }],
    plan: &ORDINARY,
    breaks: &[Break { row: ordinary::SPARED, claim: ordinary::COMES_THROUGH }],
}];

/// Each with the guest that it is booted on.
fn all() -> impl Iterator<Item = (&'static Sabotage, Guest)> {
    let on = |guest| move |sabotage| (sabotage, guest);
    SABOTAGES.iter().map(on(Guest::Bookworm)).chain(ON_NEWEST.iter().map(on(Guest::Sid)))
}

const ORDINARY: Plan = ordinary::ORDINARY;

const FIRST_UNIT: &str = "conf/early-service-initrd.service";
const ROOT_UNIT: &str = "conf/early-service.service";

/// A unit without one of its lines.
const fn without(file: &'static str, line: &'static str) -> Change {
    Change { file, from: line, to: "" }
}

const WITHOUT_AT: Change = Change {
    file: FIRST_UNIT,
    from: "ExecStart=@/usr/bin/early-service @early-service-initrd ",
    to: "ExecStart=/usr/bin/early-service ",
};

/// Boots every sabotage; says of which ones the row that must break did not.
pub(crate) fn survivors() -> Vec<String> {
    tools::require_all();
    let meant: Vec<_> = all().filter(|(sabotage, _)| crate::is_meant(sabotage.name)).collect();
    let left_out = all().count() - meant.len();
    let mut guests: Vec<_> = meant.iter().map(|(_, guest)| *guest).collect();
    guests.dedup();
    let prepared: Result<Vec<_>, String> =
        meant.into_iter().map(|(each, guest)| Ok((each, guest, each.swaps()?))).collect();
    let prepared = prepared.unwrap_or_else(|error| panic!("{error}"));
    let images = plan::images(&guests, Format::Deb).unwrap_or_else(|error| panic!("{error}"));
    let judged = plan::two_at_a_time(prepared, |(sabotage, guest, swaps)| {
        let image = images.iter().find(|image| image.guest == guest);
        let verdicts = sabotage.boot(image.expect("one of each guest"), &swaps);
        let (name, took) = (sabotage.name, verdicts[0].took.as_secs());
        let mut report = format!("sabotage {name}, {took} s, breaks\n");
        for verdict in verdicts.iter().filter(|verdict| !verdict.broken.is_empty()) {
            report += &format!("    {}: {}\n", verdict.row, verdict.broken.join("; "));
        }
        eprint!("{report}");
        sabotage.judge(&verdicts)
    });
    let survived = judged.into_iter().filter_map(Result::err);
    survived.chain((left_out > 0).then(|| format!("{left_out} were left out"))).collect()
}

impl Sabotage {
    fn boot(&self, image: &Image, swaps: &[Swap]) -> Vec<Verdict> {
        plan::boot(&Plan { name: self.name, ..*self.plan }, image, swaps)
    }

    fn judge(&self, verdicts: &[Verdict]) -> Result<(), String> {
        for Break { row, claim } in self.breaks {
            let name = self.name;
            let verdict = verdicts
                .iter()
                .find(|verdict| verdict.row == *row)
                .ok_or_else(|| format!("{name}: there is no row {row:?}"))?;
            if !verdict.broken.iter().any(|broken| broken.starts_with(claim)) {
                let broken = verdict.broken.join("; ");
                return Err(format!(
                    "{name}: {row:?} did not break by {claim:?}, but by: [{broken}]"
                ));
            }
        }
        Ok(())
    }

    /// What the changed files come to in the guest: the daemon if sources are among them, and units.
    fn swaps(&self) -> Result<Vec<Swap>, String> {
        let tree = self.source_tree()?;
        for change in self.changes {
            let path = tree.join(change.file);
            fs::write(&path, change.apply(&tree)?)
                .map_err(|error| format!("cannot write {}: {error}", path.display()))?;
        }
        let is_changed =
            |prefix: &str| self.changes.iter().any(|change| change.file.starts_with(prefix));
        let mut swaps = Vec::new();
        for (file, path) in UNITS {
            if is_changed(file) {
                swaps.push((path, read(&tree.join(file))?));
            }
        }
        if is_changed("src/") || is_changed("machine/") {
            swaps.push((DAEMON, build(&tree)?));
        }
        Ok(swaps)
    }

    /// A copy of what the daemon is built from, and of its units.
    fn source_tree(&self) -> Result<PathBuf, String> {
        let tree = directory().join(self.name);
        cache::remove(&tree)?;
        fs::create_dir_all(&tree)
            .map_err(|error| format!("cannot make {}: {error}", tree.display()))?;
        // Not with the times of the originals: cargo must not take an older build for this one.
        let mut copy = Command::new("cp");
        copy.current_dir(SOURCE).arg("-r").args([
            "Cargo.toml",
            "Cargo.lock",
            "benches",
            "build.rs",
            "conf",
            "src",
            "machine",
            "tests",
        ]);
        output("cp", copy.arg(&tree))?;
        Ok(tree)
    }
}

const DAEMON: &str = "/usr/bin/early-service";
const UNITS: [(&str, &str); 2] = [
    (FIRST_UNIT, "/usr/lib/systemd/system/early-service-initrd.service"),
    (ROOT_UNIT, "/usr/lib/systemd/system/early-service.service"),
];

impl Change {
    /// The file of this tree, changed.
    fn apply(&self, tree: &Path) -> Result<String, String> {
        let path = tree.join(self.file);
        let text = fs::read_to_string(&path)
            .map_err(|error| format!("cannot read {}: {error}", path.display()))?;
        match text.matches(self.from).count() {
            1 => Ok(text.replace(self.from, self.to)),
            count => Err(format!("{} has {:?} {count} times, not once", self.file, self.from)),
        }
    }
}

/// All into one target directory, so that what the daemon stands on is built once.
fn build(tree: &Path) -> Result<Vec<u8>, String> {
    let target = cache::directory().join("quick-target");
    read(&package::release_binary(tree, &target, &package::QUICK)?)
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    fs::read(path).map_err(|error| format!("cannot read {}: {error}", path.display()))
}

fn directory() -> PathBuf {
    cache::directory().join("sabotage")
}

/// Needs no boot, so that whoever changes the sources hears of it at once.
#[test]
fn every_change_finds_its_place() {
    for (Sabotage { name, changes, .. }, _) in all() {
        for change in *changes {
            if let Err(error) = change.apply(Path::new(SOURCE)) {
                panic!("{name}: {error}");
            }
        }
    }
}
