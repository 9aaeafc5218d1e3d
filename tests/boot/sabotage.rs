// SPDX-License-Identifier: Apache-2.0
//! Sabotage: daemons and units with one fault each, and the row that must notice it.
//!
//! Each fault is a patch of `tests/patches`. It is applied to a copy of the sources, which is built
//! and booted instead of the package.
//!
//! Most faults need one guest: all guests have the same rows.

use crate::cache;
use crate::guest::{Format, Guest, Image};
use crate::package;
use crate::plan::{self, Plan, Swap, Verdict};
use crate::rows::{c_program, confinement, first_stage, ordinary, surroundings};
use crate::tools;
use std::fs;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use testkit::patches::{self, Tree};

/// One fault, or several that only have an effect together.
struct Sabotage {
    /// The name of the patch is `boot-NAME`.
    name: &'static str,
    /// The plan that is booted.
    plan: &'static Plan,
    breaks: &'static [Break],
}

/// A row that must break, and the beginning of the claim that must break it; another claim would
/// break for another reason.
struct Break {
    row: &'static str,
    claim: &'static str,
}

const SABOTAGES: &[Sabotage] = &[
    Sabotage {
        name: "tick-skipped",
        plan: &ORDINARY,
        breaks: &[Break { row: ordinary::NUMBERS, claim: "every number once and in order" }],
    },
    Sabotage {
        // The root stage repeats the first stage's last line.
        name: "number-doubled",
        plan: &ORDINARY,
        breaks: &[Break { row: ordinary::NUMBERS, claim: "every number once and in order" }],
    },
    Sabotage {
        // The count continues, but the successor's first tick is a period after the adoption.
        name: "rhythm-begun-anew",
        plan: &ORDINARY,
        breaks: &[Break {
            row: ordinary::NUMBERS,
            claim: "each number is due a period after the one before",
        }],
    },
    Sabotage {
        name: "clients-dropped",
        plan: &ORDINARY,
        breaks: &[Break { row: ordinary::CLIENTS, claim: "one connection lasts" }],
    },
    Sabotage {
        name: "half-a-line-dropped",
        plan: &ORDINARY,
        breaks: &[Break {
            row: ordinary::NC,
            claim: "half a line is kept, and its other half awaited",
        }],
    },
    Sabotage {
        // The file is older than the log.
        name: "written-too-late",
        plan: &first_stage::KILLED,
        breaks: &[Break { row: first_stage::RECOVERS, claim: "no number twice" }],
    },
    Sabotage {
        name: "exit-1-after-the-handoff",
        plan: &ORDINARY,
        breaks: &[Break {
            row: ordinary::ENDS_WELL,
            claim: "the first stage ends once, with success",
        }],
    },
    // The daemon ignores SIGTERM in this stage, so a unit without `@` alone kills nothing. The row
    // that looks for the signal breaks.
    Sabotage {
        name: "unit-without-at",
        plan: &ORDINARY,
        breaks: &[Break { row: ordinary::SPARED, claim: ordinary::NO_SIGTERM }],
    },
    // Without both protections, the first stage ends before the switch of root. The count continues
    // from the state file, but there is no handoff.
    Sabotage {
        name: "neither-belt",
        plan: &ORDINARY,
        breaks: &[Break { row: ordinary::ENDS_WELL, claim: "the first stage hands over once" }],
    },
    // Each wall of the root stage has a row that tests it.
    Sabotage {
        name: "root-unit-without-walls",
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
        plan: &first_stage::STOPPED,
        breaks: &[
            Break { row: first_stage::FEW_RIGHTS, claim: first_stage::ONE_THREAD },
            Break { row: first_stage::FEW_RIGHTS, claim: first_stage::BOUNDED },
            Break { row: first_stage::FEW_RIGHTS, claim: first_stage::NO_NEW },
        ],
    },
    Sabotage {
        name: "capabilities-kept",
        plan: &first_stage::STOPPED,
        breaks: &[Break { row: first_stage::NO_RIGHTS, claim: first_stage::NO_THREAD }],
    },
    Sabotage {
        // The C programs' unit names no successor: the owner of the socket may adopt.
        name: "owner-of-the-socket-refused",
        // The C programs' unit stops it by a signal that it ignores, so power-off would wait for
        // it.
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
        // A step forward would make it catch up a day's ticks, which takes too long.
        plan: &Plan {
            in_initrd: "set_clock '-1 day'; sleep 0.7; set_clock '+1 day'; sleep 0.7",
            in_root: Plan::ORDINARY.in_root,
            ..surroundings::CLOCK_SET
        },
        breaks: &[Break { row: surroundings::ANY_TIME, claim: "no tick more than" }],
    },
    Sabotage {
        name: "drops-untold",
        plan: &surroundings::FLOODED,
        breaks: &[Break { row: surroundings::DROPS_TOLD, claim: surroundings::ALL_TOLD }],
    },
];

/// A fault that has an effect only if the kernel moves the first stage to the new root.
const ON_NEWEST: &[Sabotage] = &[Sabotage {
    // As in the version that compared only PID 1's root with its own.
    name: "moved-along-unnoticed",
    plan: &ORDINARY,
    breaks: &[Break { row: ordinary::SPARED, claim: ordinary::COMES_THROUGH }],
}];

/// All sabotages, each with its guest.
fn all() -> impl Iterator<Item = (&'static Sabotage, Guest)> {
    let on = |guest| move |sabotage| (sabotage, guest);
    SABOTAGES.iter().map(on(Guest::Bookworm)).chain(ON_NEWEST.iter().map(on(Guest::Sid)))
}

const ORDINARY: Plan = ordinary::ORDINARY;

const FIRST_UNIT: &str = "conf/early-service-initrd.service";
const ROOT_UNIT: &str = "conf/early-service.service";

/// Boots every sabotage; returns those that did not break their row.
pub(crate) fn survivors() -> Vec<String> {
    tools::require_all();
    let meant: Vec<_> = all().filter(|(sabotage, _)| crate::is_meant(sabotage.name)).collect();
    let left_out = all().count() - meant.len();
    let mut guests: Vec<_> = meant.iter().map(|(_, guest)| *guest).collect();
    guests.dedup();
    let images = plan::images(&guests, Format::Deb).unwrap_or_else(|error| panic!("{error}"));
    let judged = plan::side_by_side(meant, |(sabotage, guest)| {
        // Builds while other guests boot; cargo builds one after another.
        let swaps = sabotage.swaps().map_err(|error| format!("{}: {error}", sabotage.name))?;
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

    fn patch(&self) -> String {
        format!("boot-{}", self.name)
    }

    /// The guest's files that the fault changes: the daemon, units, or both.
    fn swaps(&self) -> Result<Vec<Swap>, String> {
        static TREE: Mutex<Option<Tree>> = Mutex::new(None);
        // One tree for all, so that cargo compiles only what the patch changes.
        let mut shared = TREE.lock().unwrap_or_else(PoisonError::into_inner);
        let tree = match shared.take() {
            Some(tree) => tree,
            None => {
                let root = cache::directory().join("sabotage");
                cache::remove(&root)?;
                Tree::copy_to(root)?
            }
        };
        tree.plant(&self.patch())?;
        let swaps = self.changed(tree.root())?;
        tree.remove(&self.patch())?;
        *shared = Some(tree);
        Ok(swaps)
    }

    fn changed(&self, tree: &Path) -> Result<Vec<Swap>, String> {
        let changed = patches::files(&self.patch())?;
        let is_changed = |prefix: &str| changed.iter().any(|file| file.starts_with(prefix));
        let mut swaps = Vec::new();
        for (file, path) in UNITS {
            if is_changed(file) {
                swaps.push((path, read(&tree.join(file))?));
            }
        }
        if is_changed("src/") || is_changed("machine/") {
            swaps.push((DAEMON, build(tree)?));
        }
        Ok(swaps)
    }
}

const DAEMON: &str = "/usr/bin/early-service";
const UNITS: [(&str, &str); 2] = [
    (FIRST_UNIT, "/usr/lib/systemd/system/early-service-initrd.service"),
    (ROOT_UNIT, "/usr/lib/systemd/system/early-service.service"),
];

/// Builds in one target directory, so that dependencies are compiled once.
fn build(tree: &Path) -> Result<Vec<u8>, String> {
    let target = cache::directory().join("quick-target");
    let profile = [&package::QUICK[..], &[("CARGO_INCREMENTAL", "1")]].concat();
    read(&package::release_binary(tree, &target, &profile)?)
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    fs::read(path).map_err(|error| format!("cannot read {}: {error}", path.display()))
}

#[test]
fn every_patch_of_the_boots_is_planted() {
    let mut planted: Vec<_> = all().map(|(sabotage, _)| sabotage.patch()).collect();
    planted.sort();
    assert_eq!(planted, patches::of_ring("boot-"));
}
