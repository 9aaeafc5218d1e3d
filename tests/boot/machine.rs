// SPDX-License-Identifier: Apache-2.0
//! Machine: one boot in QEMU, from the first instruction to power-off.
//!
//! Two serial ports: the console, and the lines of the scenario's scripts and clients. The journal
//! is read from the disk afterwards, so nothing is fetched while the guest runs.

use crate::cache;
use crate::clock::Clock;
use crate::guest::{Image, Initrd, copy};
use crate::journal::{self, Record};
use crate::tools::output;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// One ID for both stages, so that one journal contains both; the README explains when it would
/// not.
const MACHINE_ID: &str = "5ca1ab1e5ca1ab1e5ca1ab1e5ca1ab1e";

/// Mitigations and the self-tests of the kernel's ciphers take much emulated time and change
/// nothing that is tested.
const CMDLINE: &str = "root=/dev/vda rw console=ttyS0 quiet panic=-1 systemd.show_status=0 \
     mitigations=off cryptomgr.notests";

/// Limit of a guest's own time. The script on the root filesystem is killed after 90 s, so no boot
/// needs half of this.
const GUEST_TIME: Duration = Duration::from_secs(300);

/// Maximum host time in which the guest's clock does not advance. At a load of seven per core, a
/// guest's second takes a minute.
const STALLED: Duration = Duration::from_secs(600);

/// The differences between boots.
pub(crate) struct Setting {
    /// The name of the directory that a failed boot leaves.
    pub(crate) name: String,
    pub(crate) initrd: Initrd,
    /// Appended to the kernel's command line.
    pub(crate) cmdline: String,
    pub(crate) shared_machine_id: bool,
    /// Replaces the guest's kernel.
    pub(crate) kernel: Option<PathBuf>,
    /// Whether the machine has a watchdog that resets it.
    pub(crate) watchdog: bool,
    /// Files added to the initrd: path and contents.
    pub(crate) over_initrd: Vec<(String, Vec<u8>)>,
    /// Files written to a copy of the disk: path and contents.
    pub(crate) over_disk: Vec<(String, Vec<u8>)>,
    /// Files removed from that copy.
    pub(crate) off_disk: Vec<String>,
}

/// The results of a boot.
pub(crate) struct Boot {
    /// Whether the guest ended by itself, by power-off or reset.
    pub(crate) powered_off: bool,
    /// Whether it was reset, as by its watchdog.
    pub(crate) was_reset: bool,
    pub(crate) took: Duration,
    /// In the order of the kernel's clock.
    pub(crate) journal: Vec<Record>,
    /// The lines of scripts and clients: key and line.
    pub(crate) said: Vec<(String, String)>,
    pub(crate) console: String,
    /// The directory of all results.
    pub(crate) directory: PathBuf,
}

impl Boot {
    /// The lines with one key, in order.
    pub(crate) fn lines<'a>(&'a self, key: &'a str) -> impl Iterator<Item = &'a str> {
        self.said.iter().filter(move |(k, _)| k == key).map(|(_, line)| line.as_str())
    }
}

/// Boots an image with a setting, and waits for power-off.
pub(crate) fn boot(image: &Image, setting: &Setting) -> Result<Boot, String> {
    let directory = cache::directory().join("runs").join(&setting.name);
    cache::remove(&directory)?;
    fs::create_dir_all(&directory)
        .map_err(|error| format!("cannot make {}: {error}", directory.display()))?;
    let disk = directory.join("disk");
    copy(&image.disk(), &disk)?;
    change_disk(&disk, setting, &directory)?;
    let initrd = directory.join("initrd");
    lay_over(&image.initrd(setting.initrd), &initrd, setting, &directory)?;

    let (console, said) = (directory.join("console"), directory.join("said"));
    let started = Instant::now();
    let mut qemu = Qemu::start(image, setting, &initrd, &disk, [&console, &said])?;
    let powered_off = qemu.wait()?;
    let took = started.elapsed();
    let was_reset = qemu.end();

    let boot = Boot {
        powered_off,
        was_reset,
        took,
        journal: journal::read_disk(&disk, MACHINE_ID, &directory)?,
        said: said_lines(&said),
        console: String::from_utf8_lossy(&fs::read(&console).unwrap_or_default()).into_owned(),
        directory,
    };
    cache::remove(&disk)?;
    cache::remove(&initrd)?;
    Ok(boot)
}

/// A running QEMU, killed when dropped.
struct Qemu {
    process: Child,
    clock: Option<Clock>,
}

impl Qemu {
    fn start(
        image: &Image,
        setting: &Setting,
        initrd: &Path,
        disk: &Path,
        serial: [&Path; 2],
    ) -> Result<Self, String> {
        let mut qemu = Command::new("qemu-system-x86_64");
        qemu.args(["-accel", "tcg", "-smp", "1", "-m", "512", "-nodefaults", "-no-reboot"]);
        // QEMU 7.2 sometimes computes the zero flag of cmpxchg16b wrongly, and kernel 6.12 then
        // crashes.
        qemu.args(["-display", "none", "-cpu", "qemu64,-cx16"]);
        // The guest's clock counts its instructions, two nanoseconds each. Load on the host makes a
        // boot longer, but makes a tick late only if the guest is idle at that time.
        qemu.args(["-icount", "shift=1", "-rtc", "clock=vm", "-qmp", "stdio"]);
        for port in serial {
            qemu.arg("-serial").arg(format!("file:{}", port.display()));
        }
        // The disk is a copy, which need not survive a crash of the host.
        let drive = format!("file={},format=raw,if=virtio,cache=unsafe", disk.display());
        qemu.arg("-drive").arg(drive);
        let kernel = setting.kernel.clone().unwrap_or_else(|| image.kernel());
        qemu.arg("-kernel").arg(kernel).arg("-initrd").arg(initrd);
        if setting.watchdog {
            qemu.args(["-device", "i6300esb", "-action", "watchdog=reset"]);
        }
        let mut cmdline = format!("{CMDLINE} {}", setting.cmdline);
        if setting.shared_machine_id {
            cmdline += &format!(" systemd.machine_id={MACHINE_ID}");
        }
        qemu.arg("-append").arg(cmdline);
        let process = qemu.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let mut process = process.map_err(|error| format!("cannot start QEMU: {error}"))?;
        let pipes = process.stdin.take().zip(process.stdout.take());
        let (commands, replies) = pipes.expect("both are pipes");
        Ok(Self { process, clock: Some(Clock::of(commands, replies)) })
    }

    /// Whether the guest has powered off within its limit.
    fn wait(&mut self) -> Result<bool, String> {
        loop {
            let ended = self.process.try_wait();
            match ended.map_err(|error| format!("cannot wait for QEMU: {error}"))? {
                Some(status) if status.success() => return Ok(true),
                Some(status) => return Err(format!("QEMU ended with {status}")),
                None => sleep(Duration::from_millis(50)),
            }
            let reading = self.clock.as_ref().expect("it is taken at the end").read();
            if reading.guest > GUEST_TIME || reading.advanced.elapsed() > STALLED {
                return Ok(false);
            }
        }
    }
}

impl Qemu {
    /// Ends the machine; returns whether it was reset.
    fn end(mut self) -> bool {
        self.kill();
        self.clock.take().is_some_and(Clock::was_reset)
    }

    fn kill(&mut self) {
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

impl Drop for Qemu {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Changes a disk while it is not mounted.
fn change_disk(disk: &Path, setting: &Setting, scratch: &Path) -> Result<(), String> {
    let mut orders = String::new();
    for path in &setting.off_disk {
        orders += &format!("rm {path}\n");
    }
    for (number, (path, contents)) in setting.over_disk.iter().enumerate() {
        let local = scratch.join(format!("file-{number}"));
        write(&local, contents)?;
        // debugfs does not fail if a directory exists already or a file does not exist.
        for (end, _) in path.match_indices('/').skip(1) {
            orders += &format!("mkdir {}\n", &path[..end]);
        }
        orders += &format!("rm {path}\nwrite {} {path}\n", local.display());
        orders += &format!("set_inode_field {path} mode 0100{:o}\n", mode(contents));
    }
    let list = scratch.join("disk-orders");
    write(&list, orders.as_bytes())?;
    output("debugfs", Command::new("debugfs").arg("-w").arg("-f").arg(list).arg(disk)).map(drop)
}

/// The kernel unpacks one archive after another, so a later file replaces an earlier one.
fn lay_over(from: &Path, to: &Path, setting: &Setting, scratch: &Path) -> Result<(), String> {
    let tree = scratch.join("over-initrd");
    for (path, contents) in &setting.over_initrd {
        let file = tree.join(path.trim_start_matches('/'));
        fs::create_dir_all(file.parent().expect("a path in the initrd is absolute"))
            .map_err(|error| format!("cannot make {}: {error}", tree.display()))?;
        write(&file, contents)?;
        fs::set_permissions(&file, fs::Permissions::from_mode(mode(contents)))
            .map_err(|error| format!("cannot change {}: {error}", file.display()))?;
    }
    fs::create_dir_all(&tree).map_err(|error| format!("cannot make the overlay: {error}"))?;
    const PACK: &str = r#"
        cd "$1" && find . -mindepth 1 | cpio --quiet -o -H newc > "$3.over"
        cat "$2" "$3.over" > "$3" && rm -r "$3.over" "$1""#;
    let mut pack = Command::new("sh");
    pack.args(["-euc", PACK, "sh"]).arg(&tree).arg(from).arg(to);
    output("cpio", &mut pack).map(drop)
}

/// Programs and scripts are executable; systemd warns of an executable unit file.
fn mode(contents: &[u8]) -> u32 {
    if contents.starts_with(b"#!") || contents.starts_with(b"\x7fELF") { 0o755 } else { 0o644 }
}

fn write(path: &Path, contents: &[u8]) -> Result<(), String> {
    fs::write(path, contents).map_err(|error| format!("cannot write {}: {error}", path.display()))
}

fn said_lines(path: &Path) -> Vec<(String, String)> {
    let text = String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).replace('\r', "");
    text.lines()
        .filter_map(|line| line.split_once('\t'))
        .map(|(key, line)| (key.to_owned(), line.to_owned()))
        .collect()
}
