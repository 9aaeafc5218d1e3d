// SPDX-License-Identifier: Apache-2.0
//! Guest: a Debian, from a bare tree by mmdebstrap to a bootable disk, with our package installed
//! by dpkg or rpm, and three initrds built by the guest's dracut.

#[allow(dead_code, reason = "compiled on its own for the guests; here it is only checked")]
mod probe;

use crate::cache::{self, Inputs, SOURCE};
use crate::generated::{self, Builder};
use crate::older::Older;
use crate::package;
use crate::tools::{output, read};
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A distribution that the suite boots.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Guest {
    /// Debian 12: systemd 252, dracut 059, kernel 6.1.
    Bookworm,
    /// Debian 13: systemd 257, dracut-ng 106, kernel 6.12.
    Trixie,
    /// The newest Debian, a moving target: systemd 262, dracut-ng 112, kernel 7.2 when it was
    /// added.
    Sid,
}

impl Guest {
    pub(crate) const ALL: [Self; 3] = [Self::Bookworm, Self::Trixie, Self::Sid];

    pub(crate) fn suite(self) -> &'static str {
        match self {
            Self::Bookworm => "bookworm",
            Self::Trixie => "trixie",
            Self::Sid => "sid",
        }
    }
}

impl fmt::Display for Guest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Bookworm => "Debian 12",
            Self::Trixie => "Debian 13",
            Self::Sid => "Debian sid",
        })
    }
}

/// The initrd of a boot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Initrd {
    /// Built when the package was installed.
    Usual,
    /// The same, without our module.
    Without,
    /// Without journald and shell, like automotive images.
    Lean,
}

/// The parts of all guests.
pub(crate) struct Parts {
    package: PathBuf,
    format: Format,
    /// The inputs of the package.
    contents: Inputs,
    probe: PathBuf,
    older: Older,
    examples: PathBuf,
}

/// The program that installs our package.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    /// The guest's own dpkg.
    Deb,
    /// The host's rpm, as in image builders; the guest needs none.
    Rpm,
}

impl Parts {
    pub(crate) fn build(format: Format) -> Result<Self, String> {
        let (package, contents) = match format {
            Format::Deb => package::build()?,
            Format::Rpm => package::build_rpm()?,
        };
        let examples = package::examples(&["watchdog", "can", "can_client"])?;
        let (probe, older) = (probe()?, Older::build()?);
        Ok(Self { package, format, contents, probe, older, examples })
    }
}

/// A bootable guest: the read-only files for QEMU. Boots write to copies.
#[derive(Clone)]
pub(crate) struct Image {
    pub(crate) guest: Guest,
    /// The installed package.
    pub(crate) package: PathBuf,
    /// The build that a plan may use instead of the package.
    pub(crate) older: Older,
    /// The directory of the programs of `examples`.
    examples: PathBuf,
    directory: PathBuf,
}

const PACKAGES: &str =
    "dbus,dracut,linux-image-cloud-amd64,netcat-openbsd,passwd,systemd,systemd-sysv,udev";
/// Documentation and translations: a third of the tree, and unused here.
const LEFT_OUT: [&str; 3] = ["/usr/share/man/*", "/usr/share/locale/*", "/usr/share/doc/*"];
/// Space for the journal and for files of the scenarios.
const DISK: &str = "640M";

impl Image {
    /// Builds the guest, or takes it from the cache.
    pub(crate) fn build(guest: Guest, parts: &Parts) -> Result<Self, String> {
        let Parts { package, format, contents, probe, older, examples } = parts;
        let base = base(guest)?;
        let additions = Path::new(SOURCE).join("tests/boot/guest");
        let inputs = contents
            .with(base.as_os_str().as_encoded_bytes())
            .with(DISK.as_bytes())
            .with_path(probe)?
            .with_path(&additions)?;
        let name = match format {
            Format::Deb => guest.suite().to_owned(),
            Format::Rpm => format!("{}-rpm", guest.suite()),
        };
        let directory = cache::entry(&name, &inputs, |to| {
            let tree = to.join("tree");
            fs::create_dir_all(tree.join("boot-test"))
                .map_err(|error| format!("cannot make {}: {error}", tree.display()))?;
            output("tar", Command::new("tar").arg("-C").arg(&tree).arg("-xf").arg(&base))?;
            copy(&additions.join("."), &tree.join("boot-test"))?;
            copy(probe, &tree.join("usr/bin/boot-probe"))?;
            chroot(&tree, &["/boot-test/prepare.sh"])?;
            match format {
                Format::Deb => {
                    copy(package, &tree.join("boot-test/early-service.deb"))?;
                    chroot(&tree, &["dpkg", "-i", "/boot-test/early-service.deb"])?;
                }
                // rpm's database does not contain the packages that dpkg has installed.
                Format::Rpm => drop(rpm(&tree, &["--nodeps", "--install"], Some(package))?),
            }
            chroot(&tree, &["/boot-test/initrds.sh"])?;
            disk_of(&tree, &to.join("disk"))
        })?;
        let (package, older, examples) = (package.clone(), older.clone(), examples.clone());
        Ok(Self { guest, package, older, examples, directory })
    }

    /// A program of `examples`.
    pub(crate) fn example(&self, name: &str) -> Vec<u8> {
        read(&self.examples.join(name))
    }

    /// A kernel module of the machine's watchdog.
    pub(crate) fn driver(&self, module: &str) -> Vec<u8> {
        let modules = self.tree().join("usr/lib/modules");
        let kernel = fs::read_dir(modules).ok().and_then(|mut kernels| kernels.next()?.ok());
        let kernel = kernel.expect("the guest has a kernel").path();
        read(&kernel.join("kernel/drivers/watchdog").join(module))
    }

    pub(crate) fn kernel(&self) -> PathBuf {
        self.directory.join("tree/boot/kernel")
    }

    pub(crate) fn initrd(&self, initrd: Initrd) -> PathBuf {
        let name = match initrd {
            Initrd::Usual => "usual.img",
            Initrd::Without => "without.img",
            Initrd::Lean => "lean.img",
        };
        self.directory.join("tree/boot").join(name)
    }

    /// The same guest with Debian's SELinux policy and labels on every file.
    pub(crate) fn labelled(&self, policy_module: PolicyModule) -> Result<Self, String> {
        let policy = policy(self.guest)?;
        let source = Path::new(SOURCE).join("conf/selinux");
        let inputs = Inputs::new()
            .with(LABEL.as_bytes())
            .with(policy.as_os_str().as_encoded_bytes())
            .with(self.directory.as_os_str().as_encoded_bytes());
        let (name, inputs) = match policy_module {
            PolicyModule::None => ("labelled", inputs),
            PolicyModule::Ours => ("confined", inputs.with(COMPILE.as_bytes()).with_path(&source)?),
        };
        let name = format!("{}-{name}", self.guest.suite());
        let directory = cache::entry(&name, &inputs, |to| {
            let (tree, scratch) = (to.join("tree"), to.join("policy"));
            fs::create_dir_all(&scratch)
                .map_err(|error| format!("cannot make {}: {error}", scratch.display()))?;
            copy(&self.tree(), &tree)?;
            output("tar", Command::new("tar").arg("-C").arg(&scratch).arg("-xf").arg(&policy))?;
            if policy_module == PolicyModule::Ours {
                let mut compile = Command::new("sh");
                compile.args(["-euc", COMPILE, "sh"]).arg(&source).arg(&scratch).arg(&tree);
                output("checkmodule", &mut compile)?;
            }
            let mut label = Command::new("unshare");
            label.args(["--mount", "--propagation", "private", "sh", "-euc", LABEL, "sh"]);
            output("setfiles", label.arg(&tree).arg(&scratch))?;
            cache::remove(&scratch)?;
            disk_of(&tree, &to.join("disk"))
        })?;
        Ok(Self { directory, ..self.clone() })
    }

    /// The same guest with the Debian package of a generated service.
    pub(crate) fn with_generated(&self, builder: Builder) -> Result<Self, String> {
        let package = generated::deb()?;
        let install = builder.install();
        let inputs = Inputs::new()
            .with(install.as_bytes())
            .with(self.directory.as_os_str().as_encoded_bytes())
            .with_path(&package)?;
        let name = format!("{}-pulse-{builder:?}", self.guest.suite());
        let directory = cache::entry(&name, &inputs, |to| {
            let tree = to.join("tree");
            fs::create_dir_all(to)
                .map_err(|error| format!("cannot make {}: {error}", to.display()))?;
            copy(&self.tree(), &tree)?;
            copy(&package, &tree.join("boot-test/pulse.deb"))?;
            chroot(&tree, &["sh", "-euc", install])?;
            disk_of(&tree, &to.join("disk"))
        })?;
        Ok(Self { directory, ..self.clone() })
    }

    /// Number of bytes that our module adds to an initrd compressed by gzip. The guest's own initrd
    /// is not compressed, to boot sooner.
    pub(crate) fn added_to_initrd(&self) -> Result<usize, String> {
        let (with, without) = (self.initrd(Initrd::Usual), self.initrd(Initrd::Without));
        Ok(compressed(&with)?.saturating_sub(compressed(&without)?))
    }

    /// Number of these bytes that belong to the program.
    pub(crate) fn program_in_initrd(&self) -> Result<usize, String> {
        compressed(&self.tree().join("usr/bin/early-service"))
    }

    pub(crate) fn disk(&self) -> PathBuf {
        self.directory.join("disk")
    }

    /// The tree from which the disk was made, for tests that need no boot.
    pub(crate) fn tree(&self) -> PathBuf {
        self.directory.join("tree")
    }
}

/// The file compressed by gzip.
fn compressed(file: &Path) -> Result<usize, String> {
    const SIZE: &str = r#"gzip --stdout "$1" | wc --bytes"#;
    let bytes = output("gzip", Command::new("sh").args(["-euc", SIZE, "sh"]).arg(file))?;
    bytes.trim().parse().map_err(|error| format!("wc said {bytes:?}: {error}"))
}

/// Makes a file system of a tree, with owners, modes and attributes.
fn disk_of(tree: &Path, disk: &Path) -> Result<(), String> {
    let mut make = Command::new("mke2fs");
    make.args(["-q", "-t", "ext4", "-d"]).arg(tree).arg(disk).arg(DISK);
    output("mke2fs", &mut make).map(drop)
}

/// The policy's domain for the root stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PolicyModule {
    None,
    /// The domain of `conf/selinux`.
    Ours,
}

/// Gives a tree the policy of another one, and labels all its files.
///
/// The other tree's programs do it, so that the host needs none. The policy is rebuilt without its
/// dontaudit rules (`-D`). Files are labelled whatever the host's mounts support (`-m`).
const LABEL: &str = r#"
    cp "$1/boot-test/user.cil" "$2/"
    chroot "$2" semodule -n -i /user.cil
    chroot "$2" semodule -DBn
    cp -a "$2/etc/selinux" "$1/etc/"
    mount --bind "$1" "$2/mnt"
    mount --bind /proc "$2/proc"
    exec chroot "$2" /usr/sbin/setfiles -F -m -r /mnt \
        /etc/selinux/default/contexts/files/file_contexts /mnt"#;

/// Compiles our module as its file describes, and adds it to a tree's policy.
const COMPILE: &str = r#"
    checkmodule -M -m -o "$2/early_service.mod" "$1/early_service.te" > /dev/null
    semodule_package -o "$2/early_service.pp" -m "$2/early_service.mod" -f "$1/early_service.fc"
    cp "$3/boot-test/client.cil" "$2/"
    exec chroot "$2" semodule -n -i /early_service.pp -i /client.cil"#;

/// A Debian with the policy, for the files that its package made when it was installed.
fn policy(guest: Guest) -> Result<PathBuf, String> {
    const PACKAGE: &str = "selinux-policy-default";
    let inputs = Inputs::new().with(PACKAGE.as_bytes());
    let name = format!("{}-policy.tar", guest.suite());
    cache::entry(&name, &inputs, |to| bare(guest, PACKAGE, to))
}

/// A bare Debian as a tar archive, the same for all our versions.
fn base(guest: Guest) -> Result<PathBuf, String> {
    let inputs = LEFT_OUT
        .iter()
        .fold(Inputs::new().with(PACKAGES.as_bytes()), |inputs, path| inputs.with(path.as_bytes()));
    cache::entry(&format!("{}-base.tar", guest.suite()), &inputs, |to| bare(guest, PACKAGES, to))
}

/// A Debian with these packages and the essential ones, from the suite's own mirror, or from
/// `DEBIAN_MIRROR`.
fn bare(guest: Guest, packages: &str, to: &Path) -> Result<(), String> {
    let mut strap = Command::new("mmdebstrap");
    strap.args(["--quiet", "--variant=minbase", "--format=tar"]);
    strap.arg(format!("--include={packages}"));
    strap.arg("--aptopt=Acquire::Languages \"none\"");
    strap.arg("--dpkgopt=force-unsafe-io");
    if guest == Guest::Sid {
        // A mirror may lag; the signature is still checked.
        strap.arg("--aptopt=Acquire::Check-Valid-Until \"false\"");
    }
    strap.args(LEFT_OUT.map(|path| format!("--dpkgopt=path-exclude={path}")));
    strap.arg(guest.suite()).arg(to).args(std::env::var_os("DEBIAN_MIRROR"));
    output(&format!("mmdebstrap of {guest}"), &mut strap).map(drop)
}

/// The clients inside the guests, linked statically, so that any initrd can run them.
fn probe() -> Result<PathBuf, String> {
    let source = Path::new(SOURCE).join("tests/boot/guest/probe.rs");
    cache::entry("probe", &Inputs::new().with_path(&source)?, |to| {
        let mut rustc = Command::new("rustc");
        rustc.args(["--edition=2024", "-O", "-Cpanic=abort", "-Cstrip=symbols"]);
        rustc.arg("-Ctarget-feature=+crt-static").arg("-o").arg(to).arg(&source);
        output("rustc", &mut rustc).map(drop)
    })
}

/// Runs a program inside a tree, with the kernel's file systems mounted meanwhile.
pub(crate) fn chroot(tree: &Path, program: &[&str]) -> Result<String, String> {
    let mut command = with_kernel_in(tree);
    command.arg("chroot").arg(tree).args(program);
    output(&format!("{} in {}", program.join(" "), tree.display()), &mut command)
}

/// Runs the host's rpm on a tree; scriptlets run inside.
pub(crate) fn rpm(tree: &Path, orders: &[&str], package: Option<&Path>) -> Result<String, String> {
    let mut command = with_kernel_in(tree);
    command.arg("rpm").arg("--root").arg(tree).args(orders).args(package);
    output(&format!("rpm {} in {}", orders.join(" "), tree.display()), &mut command)
}

/// A command that runs its arguments with the kernel's file systems in a tree.
fn with_kernel_in(tree: &Path) -> Command {
    const MOUNT: &str = r#"
        for each in dev proc sys; do mount --rbind "/$each" "$1/$each"; done
        shift; exec "$@""#;
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private", "sh", "-euc", MOUNT, "sh"]);
    command.arg(tree).env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
    command
}

/// Copies a file or the contents of a directory, with links and modes.
pub(crate) fn copy(from: &Path, to: &Path) -> Result<(), String> {
    let mut copy = Command::new("cp");
    copy.args(["-a", "--sparse=always", "--reflink=auto"]).arg(from).arg(to);
    output("cp", &mut copy).map(drop)
}
