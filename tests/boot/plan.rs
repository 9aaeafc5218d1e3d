// SPDX-License-Identifier: Apache-2.0
//! Plan: the differences of one boot, and the rows that it proves.
//!
//! Each guest has its plans. They are booted a few at a time, and every row of every plan gives a
//! verdict. A boot that does not reach power-off breaks all of its rows.
//!
//! A boot may replace files of the package. [`crate::sabotage`] uses this to prove that rows can
//! break.

use crate::claims::Claims;
use crate::example::Example;
use crate::generated::Builder;
use crate::guest::{Format, Guest, Image, Initrd, Parts, PolicyModule};
use crate::machine::{self, Boot, Setting};
use crate::older;
use crate::rows::Table;
use crate::tools;
use std::collections::VecDeque;
use std::fmt::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// One boot.
#[derive(Clone, Copy)]
pub(crate) struct Plan {
    pub(crate) name: &'static str,
    pub(crate) initrd: Initrd,
    /// Units of `tests/boot/guest` that run from the initrd to power-off.
    pub(crate) clients: &'static [&'static str],
    /// Script in the initrd, before the switch of root.
    pub(crate) in_initrd: &'static str,
    /// Script on the root filesystem; power-off follows.
    pub(crate) in_root: &'static str,
    /// Files on the root filesystem: path and contents.
    pub(crate) over_disk: &'static [(&'static str, &'static str)],
    /// Files removed from the root filesystem.
    pub(crate) off_disk: &'static [&'static str],
    /// Files in the initrd.
    pub(crate) over_initrd: &'static [(&'static str, &'static str)],
    /// The stage that runs an older build instead of the package's.
    pub(crate) older: Option<older::Stage>,
    /// The kernel's parameters for its security modules.
    pub(crate) security: &'static str,
    pub(crate) cmdline: &'static str,
    /// Whether both stages have one machine ID, and therefore one persistent journal.
    pub(crate) shared_machine_id: bool,
    /// The example that is the service, on a machine with its hardware.
    pub(crate) example: Option<Example>,
    /// Whether a generated service is installed, and owns the watchdog of the machine; with the
    /// program that builds the initrd.
    pub(crate) generated: Option<Builder>,
    /// Takes much longer than the others, and is therefore booted first.
    pub(crate) is_long: bool,
    pub(crate) rows: &'static [Row],
}

/// A row of the table.
#[derive(Clone, Copy)]
pub(crate) struct Row {
    pub(crate) name: &'static str,
    pub(crate) holds: fn(&Boot, &mut Claims),
}

/// A row that needs no boot, but only a guest's tree and initrds.
#[derive(Clone, Copy)]
pub(crate) struct TreeRow {
    pub(crate) name: &'static str,
    pub(crate) holds: fn(&Image, &mut Claims) -> Result<(), String>,
}

/// A row that compares both packages, in trees that are otherwise the same: the Debian package's
/// tree first.
#[derive(Clone, Copy)]
pub(crate) struct PairRow {
    pub(crate) name: &'static str,
    pub(crate) holds: fn([&Image; 2], &mut Claims) -> Result<(), String>,
}

/// A file that replaces the package's, in the initrd and on the disk: path and contents.
pub(crate) type Swap = (&'static str, Vec<u8>);

impl Plan {
    /// A plan without differences.
    pub(crate) const ORDINARY: Self = Self {
        name: "ordinary",
        initrd: Initrd::Usual,
        clients: &[],
        in_initrd: "",
        in_root: "wait_until root_serves && wait_until first_is_gone && sleep 2",
        over_disk: &[],
        off_disk: &[],
        over_initrd: &[],
        older: None,
        // Security modules cost emulated time and do not matter to most rows.
        security: "audit=0 apparmor=0",
        cmdline: "",
        shared_machine_id: true,
        example: None,
        generated: None,
        is_long: false,
        rows: &[],
    };

    /// The setting for one guest.
    fn setting(&self, image: &Image, swaps: &[Swap]) -> Result<Setting, String> {
        let owned = |files: &[(&str, &str)]| -> Vec<(String, Vec<u8>)> {
            files.iter().map(|(path, text)| ((*path).to_owned(), text.as_bytes().into())).collect()
        };
        let mut setting = Setting {
            name: format!("{}-{:?}", self.name.replace(' ', "-"), image.guest),
            initrd: self.initrd,
            cmdline: format!("{} {}", self.security, self.cmdline),
            shared_machine_id: self.shared_machine_id,
            kernel: None,
            watchdog: self.generated.is_some() || self.example == Some(Example::Watchdog),
            over_initrd: owned(self.over_initrd),
            over_disk: owned(self.over_disk),
            off_disk: self.off_disk.iter().map(|&path| path.to_owned()).collect(),
        };
        match self.older {
            Some(stage @ older::Stage::Initrd) => {
                setting.over_initrd.extend(image.older.files(stage))
            }
            Some(stage @ older::Stage::Root) => setting.over_disk.extend(image.older.files(stage)),
            None => {}
        }
        if let Some(example) = self.example {
            example.add_to(&mut setting, image)?;
        }
        let script = |text: &str| [b"# scenario\n", text.as_bytes(), b"\n"].concat();
        setting.over_disk.push(("/boot-test/in-root.sh".to_owned(), script(self.in_root)));
        let mut wanted = Vec::new();
        let mut add = |path: &str, contents| setting.over_initrd.push((path.to_owned(), contents));
        add("/boot-test/words.sh", from_guest("words.sh"));
        if !self.in_initrd.is_empty() {
            let unit = "boot-test-initrd.service";
            add(&format!("/etc/systemd/system/{unit}"), from_guest(unit));
            add("/boot-test/in-initrd.sh", script(self.in_initrd));
            wanted.push(unit.to_owned());
        }
        for (path, contents) in swaps {
            setting.over_initrd.push(((*path).to_owned(), contents.clone()));
            setting.over_disk.push(((*path).to_owned(), contents.clone()));
        }
        if !self.clients.is_empty() {
            let probe = tools::read(&image.tree().join("usr/bin/boot-probe"));
            setting.over_initrd.push(("/usr/bin/boot-probe".to_owned(), probe));
        }
        for client in self.clients {
            for unit in [format!("{client}.service"), format!("{client}.socket")] {
                if in_guest(&unit).exists() {
                    let path = format!("/etc/systemd/system/{unit}");
                    setting.over_initrd.push((path, from_guest(&unit)));
                }
            }
            wanted.push(format!("{client}.service"));
        }
        // With a file, because rd.systemd.wants= needs a generator that the lean initrd does not
        // have.
        let wants = format!("[Unit]\nWants={}\n", wanted.join(" "));
        let path = "/etc/systemd/system/initrd.target.d/boot-test.conf".to_owned();
        setting.over_initrd.push((path, wants.into_bytes()));
        Ok(setting)
    }
}

/// The path of a file in `tests/boot/guest`.
fn in_guest(name: &str) -> PathBuf {
    Path::new(crate::cache::SOURCE).join("tests/boot/guest").join(name)
}

fn from_guest(name: &str) -> Vec<u8> {
    tools::read(&in_guest(name))
}

/// The verdict of one row on one guest.
#[derive(Clone)]
pub(crate) struct Verdict {
    pub(crate) row: &'static str,
    pub(crate) guest: Guest,
    pub(crate) broken: Vec<String>,
    pub(crate) took: Duration,
}

/// The task of a worker: a boot with all its rows, or a row without a boot.
#[derive(Clone, Copy)]
enum Job<'a> {
    Boot(&'a Plan),
    Tree(&'a TreeRow),
}

/// Tries every plan and every tree row of every guest, a few at a time.
pub(crate) fn run_all(tables: &[Table]) -> Vec<Verdict> {
    tools::require_all();
    let guests: Vec<_> = tables.iter().map(|table| table.guest).collect();
    let images = build(&guests, Format::Deb).unwrap_or_else(|error| panic!("{error}"));
    let mut jobs: Vec<_> = tables
        .iter()
        .zip(&images)
        .flat_map(|(Table { guest, plans, tree_rows }, image)| {
            let jobs = plans.iter().map(Job::Boot).chain(tree_rows.iter().map(Job::Tree));
            jobs.map(move |job| (job, *guest, image))
        })
        .collect();
    // The longest first, so that all cores are busy until the end.
    jobs.sort_by_key(|(job, ..)| std::cmp::Reverse(job.length()));
    let verdicts = side_by_side(jobs, |(job, guest, image)| {
        let of_job = match (job, image) {
            (Job::Boot(plan), Ok(image)) => boot(plan, image, &[]),
            (Job::Tree(row), Ok(image)) => vec![try_tree(row, image)],
            (job, Err(error)) => job.without_guest(guest, error),
        };
        eprint!("{}", table(&of_job));
        of_job
    });
    let mut verdicts = verdicts.concat();
    verdicts.sort_by_key(|verdict| (verdict.row, verdict.guest));
    verdicts
}

impl Job<'_> {
    fn length(&self) -> u8 {
        match self {
            Self::Tree(_) => 0,
            Self::Boot(plan) => 1 + u8::from(plan.is_long),
        }
    }

    /// A guest that cannot be built breaks only its own rows.
    fn without_guest(&self, guest: Guest, error: &str) -> Vec<Verdict> {
        let rows: Vec<_> = match self {
            Self::Boot(plan) => plan.rows.iter().map(|row| row.name).collect(),
            Self::Tree(row) => vec![row.name],
        };
        let verdict = |row| {
            let broken = vec![format!("{guest} can be built: {error}")];
            Verdict { row, guest, broken, took: Duration::ZERO }
        };
        rows.into_iter().map(verdict).collect()
    }
}

/// More than the cores, because a guest is idle for a third of its time.
const WORKERS: usize = 3;

/// Runs a few jobs at a time; returns the results in the order in which they end.
pub(crate) fn side_by_side<J: Send, T: Send>(
    jobs: impl IntoIterator<Item = J>,
    work: impl Fn(J) -> T + Sync,
) -> Vec<T> {
    let jobs: Mutex<VecDeque<_>> = Mutex::new(jobs.into_iter().collect());
    let done = Mutex::new(Vec::new());
    let next = || jobs.lock().expect("no worker panics").pop_front();
    std::thread::scope(|scope| {
        for _ in 0..WORKERS {
            scope.spawn(|| {
                while let Some(job) = next() {
                    let result = work(job);
                    done.lock().expect("no worker panics").push(result);
                }
            });
        }
    });
    done.into_inner().expect("no worker panics")
}

/// Builds these guests at the same time.
pub(crate) fn images(guests: &[Guest], format: Format) -> Result<Vec<Image>, String> {
    build(guests, format)?.into_iter().collect()
}

/// The same, with a result for each guest.
fn build(guests: &[Guest], format: Format) -> Result<Vec<Result<Image, String>>, String> {
    let parts = &Parts::build(format)?;
    Ok(std::thread::scope(|scope| {
        let build = |&guest| scope.spawn(move || Image::build(guest, parts));
        let builds: Vec<_> = guests.iter().map(build).collect();
        builds.into_iter().map(|build| build.join().expect("a build does not panic")).collect()
    }))
}

/// Boots a plan on one guest and tries all of its rows.
pub(crate) fn boot(plan: &Plan, image: &Image, swaps: &[Swap]) -> Vec<Verdict> {
    let booted =
        plan.generated.map_or_else(|| Ok(image.clone()), |builder| image.with_generated(builder));
    let boot = booted.and_then(|image| machine::boot(&image, &plan.setting(&image, swaps)?));
    let verdict = |row: &Row| {
        let mut claims = Claims::default();
        let took = match &boot {
            Ok(boot) => {
                claims.that(
                    "the guest powers off",
                    boot.powered_off,
                    format!(
                        "still running; last on the console: {}; all of it in {}",
                        boot.console.trim_end().lines().next_back().unwrap_or("nothing"),
                        boot.directory.display()
                    ),
                );
                for line in boot.lines("gave-up") {
                    claims.that("no script gives up", false, line);
                }
                // A row that panics breaks; the other rows are still tried.
                let tried = catch_unwind(AssertUnwindSafe(|| (row.holds)(boot, &mut claims)));
                if tried.is_err() {
                    claims.that("the row comes to its end", false, "it panicked");
                }
                boot.took
            }
            Err(error) => {
                claims.that("the guest boots", false, error);
                Duration::ZERO
            }
        };
        Verdict { row: row.name, guest: image.guest, broken: claims.broken(), took }
    };
    plan.rows.iter().map(verdict).collect()
}

/// Boots one plan on one guest, for callers that use the boot itself.
pub(crate) fn boot_one(plan: &Plan, guest: Guest) -> Result<(Image, Boot), String> {
    tools::require_all();
    let image = images(&[guest], Format::Deb)?.remove(0);
    let boot = machine::boot(&image, &plan.setting(&image, &[])?)?;
    Ok((image, boot))
}

/// Tries plans on a guest with SELinux labels. The denials depend on its policy; another release
/// would have another list.
pub(crate) fn run_labelled(plans: &[(PolicyModule, Plan)], guest: Guest) -> Vec<Verdict> {
    tools::require_all();
    let image = images(&[guest], Format::Deb).unwrap_or_else(|error| panic!("{error}")).remove(0);
    let jobs = plans.iter().map(|(module, plan)| {
        let labelled = image.labelled(*module);
        (plan, labelled.unwrap_or_else(|error| panic!("{error}")))
    });
    side_by_side(jobs, |(plan, image)| boot(plan, &image, &[])).concat()
}

/// Compares the RPM with the Debian package on one guest, and boots the system with the RPM.
pub(crate) fn run_rpm(boots: &Plan, rows: &[PairRow], guest: Guest) -> Vec<Verdict> {
    tools::require_all();
    let image =
        |format| images(&[guest], format).unwrap_or_else(|error| panic!("{error}")).remove(0);
    let (deb, rpm) = (image(Format::Deb), image(Format::Rpm));
    let jobs = [None].into_iter().chain(rows.iter().map(Some));
    let verdicts = side_by_side(jobs, |job| match job {
        None => boot(boots, &rpm, &[]),
        Some(row) => vec![try_row(row.name, guest, |claims| (row.holds)([&deb, &rpm], claims))],
    });
    verdicts.concat()
}

fn try_tree(row: &TreeRow, image: &Image) -> Verdict {
    try_row(row.name, image.guest, |claims| (row.holds)(image, claims))
}

fn try_row(
    row: &'static str,
    guest: Guest,
    holds: impl FnOnce(&mut Claims) -> Result<(), String>,
) -> Verdict {
    let started = Instant::now();
    let mut claims = Claims::default();
    if let Err(error) = holds(&mut claims) {
        claims.that("the tools of the guest work", false, error);
    }
    Verdict { row, guest, broken: claims.broken(), took: started.elapsed() }
}

/// The verdicts as a table for people.
pub(crate) fn table(verdicts: &[Verdict]) -> String {
    let width = verdicts.iter().map(|verdict| verdict.row.len()).max().unwrap_or_default();
    let mut table = String::new();
    for Verdict { row, guest, broken, took } in verdicts {
        let word = if broken.is_empty() { "holds" } else { "BROKEN" };
        writeln!(table, "{row:width$}  {guest}  {:>3} s  {word}", took.as_secs())
            .expect("a string takes all");
        for claim in broken {
            writeln!(table, "{:width$}    {claim}", "").expect("a string takes all");
        }
    }
    table
}
