// SPDX-License-Identifier: Apache-2.0
//! The RPM, compared with the Debian package: the same files, and scriptlets with the same result.

use crate::cache::{self, SOURCE};
use crate::claims::Claims;
use crate::generated;
use crate::guest::{Image, Initrd, copy, rpm};
use crate::plan::{PairRow, Plan};
use crate::rows::ordinary;
use crate::rows::package::{LINKS, contents, copy_of, run_in};
use crate::tools::output;
use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

/// The ordinary boot, with all of its rows.
pub(crate) const BOOTED: Plan = Plan { name: "rpm", ..ordinary::ORDINARY };

pub(crate) const ROWS: &[PairRow] = &[
    PairRow { name: "rpm: the files of the Debian package, with their modes", holds: files },
    PairRow { name: "rpm: its installation leaves the same system", holds: same_system },
    PairRow { name: "rpm: the same files in the initrds", holds: same_initrds },
    PairRow { name: "rpm: an update keeps it disabled, removal takes all away", holds: removed },
    PairRow { name: "rpm: a masked unit keeps no other from its links", holds: masked },
    PairRow { name: "rpm: a generated one beside ours", holds: beside },
    PairRow { name: "rpm: rpmlint has nothing to say", holds: lint },
];

/// Where each package has its licences; the RPM also has links for its build IDs.
const LICENCES: [&str; 4] = [
    "deb -rw-r--r-- /usr/share/doc/early-service/copyright",
    "rpm -rw-r--r-- /usr/share/licenses/early-service/LICENSE",
    "rpm -rw-r--r-- /usr/share/licenses/early-service/LICENSE.dependencies",
    "rpm lrwxrwxrwx /usr/lib/.build-id",
];

fn files([deb, rpm]: [&Image; 2], claims: &mut Claims) -> Result<(), String> {
    let mut list = Command::new("dpkg-deb");
    let deb = listed(&output("dpkg-deb", list.arg("--contents").arg(&deb.package))?);
    let rpm = listed(&query(
        &rpm.package,
        "[%{FILEMODES:perms} %{FILEUSERNAME}/%{FILEGROUPNAME} %{FILENAMES}\n]",
    )?);
    claims.that("there are files", deb.len() > 8, deb.len());
    let only = |package: &'static str, a: &BTreeSet<String>, b: &BTreeSet<String>| -> Vec<String> {
        a.difference(b).map(|file| format!("{package} {file}")).collect()
    };
    let differ = [only("deb", &deb, &rpm), only("rpm", &rpm, &deb)].concat();
    claims.that("they differ in their licences alone", differ == LICENCES, differ.join(", "));
    Ok(())
}

/// A field of an RPM.
fn query(package: &Path, format: &str) -> Result<String, String> {
    let mut query = Command::new("rpm");
    output("rpm", query.args(["--query", "--queryformat", format, "--package"]).arg(package))
}

/// Mode and path of each file in a package's list, and its owner unless that is root.
fn listed(list: &str) -> BTreeSet<String> {
    let file = |line: &str| {
        let fields: Vec<_> = line.split_whitespace().collect();
        let (mode, owner) = (fields.first()?, fields.get(1)?);
        let path = fields.iter().find(|field| field.starts_with(['/', '.']))?;
        let path = path.trim_start_matches('.');
        // The name of the link is the build's own ID.
        let path = if path.starts_with("/usr/lib/.build-id") { "/usr/lib/.build-id" } else { path };
        let owner = if matches!(*owner, "0/0" | "root/root") { "" } else { owner };
        (!mode.starts_with('d')).then(|| format!("{mode} {path}{owner}"))
    };
    list.lines().filter_map(file).collect()
}

/// Files that are not compared: the package managers' own data, files that differ between
/// installations, files compared elsewhere, and files that dpkg omits in the guests.
const NO_MATTER: [&str; 11] = [
    "boot",
    "boot-test",
    "etc/machine-id",
    "root/.rpmdb",
    "usr/lib/.build-id",
    "usr/share/doc",
    "usr/share/licenses",
    "usr/share/man",
    "var/cache",
    "var/lib",
    "var/log",
];

fn same_system([deb, rpm]: [&Image; 2], claims: &mut Claims) -> Result<(), String> {
    let (deb, rpm) = (system(&deb.tree())?, system(&rpm.tree())?);
    claims.that("the trees have files", deb.len() > 5000, deb.len());
    let differ: Vec<_> = deb.symmetric_difference(&rpm).cloned().collect();
    claims.that("nothing differs", differ.is_empty(), differ.join(", "));
    Ok(())
}

/// Every file of a tree with its type, mode, owner and target, and the contents of configuration
/// files. The days in shadow(5) are left out: the trees may be built before and after midnight.
fn system(tree: &Path) -> Result<BTreeSet<String>, String> {
    const LIST: &str = r#"
        cd "$1"
        find . -xdev -mindepth 1 -printf '%P %M %U:%G %l\n'
        find etc usr/lib/dracut usr/lib/systemd usr/lib/sysusers.d -type f \
            ! -path 'etc/shadow*' -exec sha256sum {} + | sed 's/\([^ ]*\)  \(.*\)/\2 \1/'
        for file in etc/shadow*; do
            cut -d : -f 1,2,4- "$file" | sed "s|^|$file |"
        done"#;
    let matters = |line: &&str| {
        let is =
            |path: &&str| line.strip_prefix(*path).is_some_and(|rest| rest.starts_with([' ', '/']));
        !NO_MATTER.iter().any(is)
    };
    let mut list = Command::new("sh");
    let list = output("find", list.args(["-euc", LIST, "sh"]).arg(tree))?;
    Ok(list.lines().filter(matters).map(str::to_owned).collect())
}

fn same_initrds([deb, rpm]: [&Image; 2], claims: &mut Claims) -> Result<(), String> {
    for initrd in [Initrd::Usual, Initrd::Without, Initrd::Lean] {
        let files = |image: &Image| -> Result<BTreeSet<String>, String> {
            Ok(contents(&image.initrd(initrd))?.lines().map(str::to_owned).collect())
        };
        let (deb, rpm) = (files(deb)?, files(rpm)?);
        let differ: Vec<_> = deb.symmetric_difference(&rpm).cloned().collect();
        claims.that(
            &format!("the {initrd:?} initrd is the same"),
            differ.is_empty(),
            differ.join(", "),
        );
    }
    Ok(())
}

fn removed([_, image]: [&Image; 2], claims: &mut Claims) -> Result<(), String> {
    let tree = copy_of(image, "rpm-removed")?;
    run_in(&tree, "#!/bin/sh\nexec systemctl -q disable early-service.service\n")?;
    rpm(&tree, &["--nodeps", "--upgrade", "--force"], Some(&image.package))?;
    for link in LINKS {
        let there = tree.join(link).symlink_metadata().is_ok();
        claims.that("what was disabled stays so", !there, format!("{link} is there"));
    }
    run_in(&tree, "#!/bin/sh\nexec systemctl -q enable early-service.service\n")?;
    rpm(&tree, &["--erase", "early-service"], None)?;
    run_in(&tree, "#!/bin/sh\nexec cp /boot/initrd.img-* /boot/after\n")?;
    let contents = contents(&tree.join("boot/after"))?;
    let found = contents.lines().find(|line| line.contains("early-service"));
    claims.that("nothing of it in the initrd", found.is_none(), found.unwrap_or_default());
    claims.that("an initrd all the same", contents.contains("systemd/systemd"), "no systemd in it");
    let mut find = Command::new("find");
    find.arg(&tree).args(["-name", "*early-service*", "-not", "-path", "*/boot-test/*"]);
    let left = output("find", &mut find)?;
    claims.that("nothing of it in the tree", left.is_empty(), left.trim().replace('\n', ", "));
    cache::remove(&tree)
}

/// Removes, installs, updates and removes the package with each of its units masked.
fn masked([_, image]: [&Image; 2], claims: &mut Claims) -> Result<(), String> {
    let tree = copy_of(image, "rpm-masked")?;
    // The scriptlets would run dracut each time.
    run_in(&tree, "#!/bin/sh\nset -e\nprintf '#!/bin/sh\\n' > /usr/bin/dracut\n")?;
    let there = |link: &str| tree.join(link).symlink_metadata().is_ok();
    for masked in LINKS {
        let unit = masked.rsplit('/').next().unwrap_or_default();
        rpm(&tree, &["--erase", "early-service"], None)?;
        for link in LINKS {
            claims.that("removed, it leaves no link", !there(link), format!("{unit}: {link}"));
        }
        run_in(&tree, &format!("#!/bin/sh\nexec systemctl -q mask {unit}\n"))?;
        rpm(&tree, &["--nodeps", "--install"], Some(&image.package))?;
        for link in LINKS {
            // systemd 252 links a unit named by `Also=` of another one, masked or not.
            let holds = link == masked || there(link);
            claims.that("the others are enabled", holds, format!("{unit}: {link}"));
        }
        rpm(&tree, &["--nodeps", "--upgrade", "--force"], Some(&image.package))?;
        rpm(&tree, &["--erase", "early-service"], None)?;
        for link in LINKS {
            claims.that("masked, it leaves no link", !there(link), format!("{unit}: {link}"));
        }
        run_in(&tree, &format!("#!/bin/sh\nexec systemctl -q unmask {unit}\n"))?;
        rpm(&tree, &["--nodeps", "--install"], Some(&image.package))?;
        for link in LINKS {
            claims.that("installed again, all are", there(link), format!("{unit}: {link}"));
        }
    }
    cache::remove(&tree)
}

/// Installs the RPM of a generated service beside ours, and removes it.
fn beside([_, image]: [&Image; 2], claims: &mut Claims) -> Result<(), String> {
    let package = generated::rpm()?;
    let files = |package: &Path| -> Result<BTreeSet<String>, String> {
        let list = query(package, "[%{FILEMODES:perms} %{FILENAMES}\n]")?;
        let is_file = |line: &&str| !line.starts_with('d');
        Ok(list.lines().filter(is_file).map(str::to_owned).collect())
    };
    let (ours, others) = (files(&image.package)?, files(&package)?);
    claims.that("there are files", others.len() > 8, others.len());
    let both: Vec<_> = ours.intersection(&others).cloned().collect();
    claims.that("no file is in both packages", both.is_empty(), both.join(", "));

    let tree = copy_of(image, "rpm-beside")?;
    let links = LINKS.map(|link| link.replace("early-service", "pulse"));
    let enabled = || links.iter().filter(|link| tree.join(link).symlink_metadata().is_ok()).count();
    let install = || rpm(&tree, &["--nodeps", "--install"], Some(&package));
    let erase = || rpm(&tree, &["--erase", "pulse"], None);
    let in_initrd = |name: &str| -> Result<bool, String> {
        run_in(&tree, "#!/bin/sh\nexec cp /boot/initrd.img-* /boot/after\n")?;
        Ok(contents(&tree.join("boot/after"))?.lines().any(|line| line.contains(name)))
    };
    let before = system(&tree)?;
    // The scriptlets run dracut again below.
    const FORBID: &str = "#!/bin/sh -e
        mkdir -p /etc/systemd/system-preset
        echo 'disable pulse*' > /etc/systemd/system-preset/00-test.preset
        cp -a /usr/bin/dracut /boot-test/ && ln -sf /bin/true /usr/bin/dracut\n";
    const ALLOW: &str = "#!/bin/sh -e
        rm -r /etc/systemd/system-preset
        mv /boot-test/dracut /usr/bin/\n";
    run_in(&tree, FORBID)?;
    install()?;
    claims.that("no unit is enabled against a preset", enabled() == 0, enabled());
    erase()?;
    run_in(&tree, ALLOW)?;
    install()?;
    claims.that("its preset enables every unit", enabled() == links.len(), enabled());
    for name in ["usr/bin/early-service", "usr/bin/pulse"] {
        claims.that("the initrd has both services", in_initrd(name)?, name);
    }
    let verified = rpm(&tree, &["--verify", "--nodeps", "early-service", "pulse"], None);
    let is_whole = verified.as_deref() == Ok("");
    claims.that("rpm --verify has nothing to say of both", is_whole, format!("{verified:?}"));

    erase()?;
    // rpm removes no account.
    let is_account = |line: &&String| {
        ["passwd", "group", "shadow", "gshadow"]
            .iter()
            .any(|file| line.strip_prefix("etc/").is_some_and(|path| path.starts_with(file)))
    };
    let after = system(&tree)?;
    let differ: Vec<_> = before.symmetric_difference(&after).filter(|it| !is_account(it)).collect();
    claims.that("removed, it leaves the same system", differ.is_empty(), format!("{differ:?}"));
    claims.that("the initrd keeps our service", in_initrd("usr/bin/early-service")?, "not there");
    claims.that("the initrd has no other", !in_initrd("pulse")?, "still there");
    let verified = rpm(&tree, &["--verify", "--nodeps", "early-service"], None);
    let is_whole = verified.as_deref() == Ok("");
    claims.that("rpm --verify has nothing to say of ours", is_whole, format!("{verified:?}"));
    cache::remove(&tree)
}

fn lint([_, image]: [&Image; 2], claims: &mut Claims) -> Result<(), String> {
    let source = Path::new(SOURCE);
    let mut rpmlint = Command::new("rpmlint");
    rpmlint.arg("-r").arg(source.join("early-service.rpmlintrc"));
    // The file is named after the package.
    let name = query(&image.package, "%{NAME}-%{VERSION}-%{RELEASE}.%{ARCH}.rpm")?;
    let package = cache::directory().join("runs").join(name);
    copy(&image.package, &package)?;
    let said = output("rpmlint", rpmlint.arg(source.join("early-service.spec")).arg(&package))?;
    let verdict = said.lines().find(|line| line.contains("packages and")).unwrap_or_default();
    let clean = verdict.contains("1 packages and 1 specfiles checked; 0 errors, 0 warnings");
    claims.that("no error and no warning", clean, said.trim());
    cache::remove(&package)
}
