// SPDX-License-Identifier: Apache-2.0
//! Guest: the Debians, from a bare tree by mmdebstrap to a disk that boots, with our package
//! installed by dpkg, or by rpm, and three initrds built by the guest's own dracut.

#[allow(dead_code, reason = "compiled on its own for the guests; here it is only checked")]
mod probe;

use crate::cache::{self, Inputs, SOURCE};
use crate::older::Older;
use crate::package;
use crate::tools::output;
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
    /// The newest Debian, which moves: systemd 262, dracut-ng 112, kernel 7.2 when it was added.
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

/// Which initrd a boot starts from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Initrd {
    /// What the package's installation made dracut build.
    Usual,
    /// The same without our module.
    Without,
    /// No journald and no shell, in the manner of the automotive images.
    Lean,
}

/// What all guests are made with.
pub(crate) struct Parts {
    package: PathBuf,
    format: Format,
    /// What the package was made of.
    contents: Inputs,
    probe: PathBuf,
    older: Older,
}

/// What installs our package.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    /// The guest's own dpkg.
    Deb,
    /// The host's rpm, as builders of images do it: the guest then needs none.
    Rpm,
}

impl Parts {
    pub(crate) fn build(format: Format) -> Result<Self, String> {
        let (package, contents) = match format {
            Format::Deb => package::build()?,
            Format::Rpm => package::build_rpm()?,
        };
        Ok(Self { package, format, contents, probe: probe()?, older: Older::build()? })
    }
}

/// A guest that is ready to boot: what QEMU loads, read only. Boots write to copies.
#[derive(Clone)]
pub(crate) struct Image {
    pub(crate) guest: Guest,
    /// What is installed.
    pub(crate) package: PathBuf,
    /// What a plan may put in the place of the package's.
    pub(crate) older: Older,
    directory: PathBuf,
}

const PACKAGES: &str =
    "dbus,dracut,linux-image-cloud-amd64,netcat-openbsd,passwd,systemd,systemd-sysv,udev";
/// Documentation and translations: a third of the tree, and nobody reads them here.
const LEFT_OUT: [&str; 3] = ["/usr/share/man/*", "/usr/share/locale/*", "/usr/share/doc/*"];
/// Room for the journal and for what the scenarios write.
const DISK: &str = "640M";

impl Image {
    /// Builds the guest, or takes it from the cache.
    pub(crate) fn build(guest: Guest, parts: &Parts) -> Result<Self, String> {
        let Parts { package, format, contents, probe, older } = parts;
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
                // Its database knows nothing of what dpkg has installed.
                Format::Rpm => rpm(&tree, &["--nodeps", "--install"], Some(package))?,
            }
            chroot(&tree, &["/boot-test/initrds.sh"])?;
            disk_of(&tree, &to.join("disk"))
        })?;
        Ok(Self { guest, package: package.clone(), older: older.clone(), directory })
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

    /// The same guest with Debian's SELinux policy, in which every file has the policy's label.
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

    /// How many bytes our module adds to an initrd that gzip compresses; the guest's own is not
    /// compressed, to boot sooner.
    pub(crate) fn added_to_initrd(&self) -> Result<usize, String> {
        let (with, without) = (self.initrd(Initrd::Usual), self.initrd(Initrd::Without));
        Ok(compressed(&with)?.saturating_sub(compressed(&without)?))
    }

    /// How many of them the program is.
    pub(crate) fn program_in_initrd(&self) -> Result<usize, String> {
        compressed(&self.tree().join("usr/bin/early-service"))
    }

    pub(crate) fn disk(&self) -> PathBuf {
        self.directory.join("disk")
    }

    /// The tree that the disk was made from, for what can be asked without a boot.
    pub(crate) fn tree(&self) -> PathBuf {
        self.directory.join("tree")
    }
}

/// The bytes of a file as gzip writes it.
fn compressed(file: &Path) -> Result<usize, String> {
    const SIZE: &str = r#"gzip --stdout "$1" | wc --bytes"#;
    let bytes = output("gzip", Command::new("sh").args(["-euc", SIZE, "sh"]).arg(file))?;
    bytes.trim().parse().map_err(|error| format!("wc said {bytes:?}: {error}"))
}

/// A file system of a tree: owners, modes and attributes included.
fn disk_of(tree: &Path, disk: &Path) -> Result<(), String> {
    let mut make = Command::new("mke2fs");
    make.args(["-q", "-t", "ext4", "-d"]).arg(tree).arg(disk).arg(DISK);
    output("mke2fs", &mut make).map(drop)
}

/// Whether the policy has a domain for the root stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PolicyModule {
    None,
    /// That of `conf/selinux`.
    Ours,
}

/// Gives a tree the policy of another one, and every file in it its label.
///
/// By the programs of that other one, so that the host needs none. The policy is built anew,
/// without what it would deny and not tell (`-D`); files are labelled whatever the host's own
/// mounts can (`-m`).
const LABEL: &str = r#"
    cp "$1/boot-test/user.cil" "$2/"
    chroot "$2" semodule -n -i /user.cil
    chroot "$2" semodule -DBn
    cp -a "$2/etc/selinux" "$1/etc/"
    mount --bind "$1" "$2/mnt"
    mount --bind /proc "$2/proc"
    exec chroot "$2" /usr/sbin/setfiles -F -m -r /mnt \
        /etc/selinux/default/contexts/files/file_contexts /mnt"#;

/// Compiles our module as its file says, and adds it to a tree's policy.
const COMPILE: &str = r#"
    checkmodule -M -m -o "$2/early_service.mod" "$1/early_service.te" > /dev/null
    semodule_package -o "$2/early_service.pp" -m "$2/early_service.mod" -f "$1/early_service.fc"
    cp "$3/boot-test/client.cil" "$2/"
    exec chroot "$2" semodule -n -i /early_service.pp -i /client.cil"#;

/// A Debian with the policy, for what its package has made when it was installed.
fn policy(guest: Guest) -> Result<PathBuf, String> {
    const PACKAGE: &str = "selinux-policy-default";
    let inputs = Inputs::new().with(PACKAGE.as_bytes());
    let name = format!("{}-policy.tar", guest.suite());
    cache::entry(&name, &inputs, |to| bare(guest, PACKAGE, to))
}

/// A bare Debian as a tar archive, the same for every version of ours.
fn base(guest: Guest) -> Result<PathBuf, String> {
    let inputs = LEFT_OUT
        .iter()
        .fold(Inputs::new().with(PACKAGES.as_bytes()), |inputs, path| inputs.with(path.as_bytes()));
    cache::entry(&format!("{}-base.tar", guest.suite()), &inputs, |to| bare(guest, PACKAGES, to))
}

/// A Debian with these packages and what cannot be without, from the suite's own mirror unless
/// `DEBIAN_MIRROR` names another.
fn bare(guest: Guest, packages: &str, to: &Path) -> Result<(), String> {
    let mut strap = Command::new("mmdebstrap");
    strap.args(["--quiet", "--variant=minbase", "--format=tar"]);
    strap.arg(format!("--include={packages}"));
    strap.arg("--aptopt=Acquire::Languages \"none\"");
    strap.arg("--dpkgopt=force-unsafe-io");
    if guest == Guest::Sid {
        // A mirror that lags is good enough; the signature is still checked.
        strap.arg("--aptopt=Acquire::Check-Valid-Until \"false\"");
    }
    strap.args(LEFT_OUT.map(|path| format!("--dpkgopt=path-exclude={path}")));
    strap.arg(guest.suite()).arg(to).args(std::env::var_os("DEBIAN_MIRROR"));
    output(&format!("mmdebstrap of {guest}"), &mut strap).map(drop)
}

/// The clients that live inside the guests, linked statically: any initrd can run them.
fn probe() -> Result<PathBuf, String> {
    let source = Path::new(SOURCE).join("tests/boot/guest/probe.rs");
    cache::entry("probe", &Inputs::new().with_path(&source)?, |to| {
        let mut rustc = Command::new("rustc");
        rustc.args(["--edition=2024", "-O", "-Cpanic=abort", "-Cstrip=symbols"]);
        rustc.arg("-Ctarget-feature=+crt-static").arg("-o").arg(to).arg(&source);
        output("rustc", &mut rustc).map(drop)
    })
}

/// Runs a program inside a tree, with the kernel's file systems there for as long as it runs.
pub(crate) fn chroot(tree: &Path, program: &[&str]) -> Result<String, String> {
    let mut command = with_kernel_in(tree);
    command.arg("chroot").arg(tree).args(program);
    output(&format!("{} in {}", program.join(" "), tree.display()), &mut command)
}

/// Has the host's rpm change a tree; scriptlets run inside.
pub(crate) fn rpm(tree: &Path, orders: &[&str], package: Option<&Path>) -> Result<(), String> {
    let mut command = with_kernel_in(tree);
    command.arg("rpm").arg("--root").arg(tree).args(orders).args(package);
    output(&format!("rpm {} in {}", orders.join(" "), tree.display()), &mut command).map(drop)
}

/// What runs its arguments with the kernel's file systems in a tree.
fn with_kernel_in(tree: &Path) -> Command {
    const MOUNT: &str = r#"
        for each in dev proc sys; do mount --rbind "/$each" "$1/$each"; done
        shift; exec "$@""#;
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private", "sh", "-euc", MOUNT, "sh"]);
    command.arg(tree).env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
    command
}

/// Copies a file or the contents of a directory, links and modes included.
pub(crate) fn copy(from: &Path, to: &Path) -> Result<(), String> {
    let mut copy = Command::new("cp");
    copy.args(["-a", "--sparse=always", "--reflink=auto"]).arg(from).arg(to);
    output("cp", &mut copy).map(drop)
}
