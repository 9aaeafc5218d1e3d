// SPDX-License-Identifier: Apache-2.0
//! The maintainer scripts, according to Debian's policy (chapter 6), in a tree without a running
//! systemd: which units are enabled, what the initrd contains, and the state of the package in
//! dpkg.
//!
//! `updates.rs` boots a system to test what a running systemd does.

use crate::cache::{self, SOURCE};
use crate::claims::Claims;
use crate::guest::{Image, copy};
use crate::plan::TreeRow;
use crate::rows::package::{LINKS, copy_of, run_in};
use crate::tools::output;
use std::path::Path;
use std::process::Command;

pub(super) const ROWS: &[TreeRow] = &[
    TreeRow { name: "dpkg: removed and installed again, it is as it was", holds: again },
    TreeRow { name: "dpkg: a purge leaves nothing, whatever was masked", holds: purged },
    TreeRow { name: "dpkg: updates and downgrades keep the administrator's word", holds: updated },
    TreeRow { name: "dpkg: from 0.1.0, also after its removal", holds: from_release },
    TreeRow { name: "dpkg: a first installation heeds presets and masks", holds: first },
    TreeRow { name: "dpkg: interrupted or given up, it is put right", holds: interrupted },
];

/// A release that did not record which units it had enabled, for the rows that start from it.
const RELEASE: &str = "530d698";

/// Functions for the scripts. dracut is replaced, because a trigger runs it after each of dozens of
/// steps. Only that it runs, and its module's condition, matter here.
const WORDS: &str = r#"#!/bin/bash
exec 2>> /log
# An installation that nobody has touched.
dpkg --purge early-service >> /log
cat > /usr/bin/dracut << 'DRACUT'
#!/bin/bash
wanted=no
if [ -e /usr/lib/dracut/modules.d/50early-service/wanted.sh ]; then
    . /usr/lib/dracut/modules.d/50early-service/wanted.sh
    early_service_is_wanted && wanted=yes
fi
echo "$wanted" > /initrd
DRACUT
units="early-service.service early-service.socket early-service-initrd.service"
# Says what is enabled, whether the first stage is in the initrd, and dpkg's word.
say() {
    local enabled= unit
    for unit in $units; do enabled="$enabled $(systemctl is-enabled $unit 2> /dev/null)"; done
    printf '%s\t%s; %s; %s\n' "$1" "${enabled# }" "$(cat /initrd)" \
        "$(dpkg-query --show --showformat '${db:Status-Abbrev}' early-service 2> /dev/null)"
    rm -f /initrd
}
new=/boot-test/early-service.deb
# The same as another version, with scripts of its own if a function changes them.
version() {
    rm -rf /repack && dpkg-deb --raw-extract $new /repack
    sed -i "s/^Version: .*/Version: $1/" /repack/DEBIAN/control
    [ -z "$2" ] || "$2"
    dpkg-deb --build --root-owner-group /repack "/boot-test/$1.deb" >> /log
}
put() { dpkg --install --force-downgrade "$1" >> /log; printf '%s exit\t%s\n' "$2" "$?"; say "$2"; }
"#;

/// Enabled, in the initrd, and installed.
const WELL: &str = "enabled enabled enabled; yes; ii ";
/// Disabled by the administrator.
const DISABLED: &str = "disabled disabled disabled; no; ii ";

/// Runs a script and compares its lines, key by key, with the expected ones.
fn hold(
    image: &Image,
    purpose: &str,
    script: &str,
    expected: &[(&str, &str)],
    claims: &mut Claims,
) -> Result<(), String> {
    let tree = copy_of(image, purpose)?;
    add_release(&tree)?;
    let said = run_in(&tree, &format!("{WORDS}{script}\nexit 0\n"))?;
    let log = std::fs::read_to_string(tree.join("log")).unwrap_or_default();
    for (key, line) in expected {
        let found = said.lines().filter_map(|each| each.split_once('\t')).find(|(k, _)| k == key);
        let found = found.map(|(_, line)| line);
        let seen = format!("{found:?}; the log ends: {}", end_of(&log));
        claims.that(&format!("{key}: {line}"), found == Some(line), seen);
    }
    for failed in said.lines().filter(|line| line.contains(" exit\t") && !line.ends_with("\t0")) {
        let meant = failed.starts_with("fails");
        claims.that("no dpkg fails", meant, format!("{failed}; the log ends: {}", end_of(&log)));
    }
    cache::remove(&tree)
}

fn end_of(log: &str) -> String {
    let lines: Vec<_> = log.lines().collect();
    lines[lines.len().saturating_sub(6)..].join(" | ")
}

/// Adds the release's maintainer scripts to a tree.
fn add_release(tree: &Path) -> Result<(), String> {
    for script in ["postinst", "prerm", "postrm"] {
        let mut git = Command::new("git");
        git.args(["-c", "safe.directory=*", "-C", SOURCE, "show"]);
        let text = output("git show", git.arg(format!("{RELEASE}:scripts/debian/{script}")))?;
        let path = cache::directory().join("runs").join(format!("release-{script}"));
        let to = tree.join("boot-test").join(format!("release-{script}"));
        std::fs::write(&to, text)
            .map_err(|error| format!("cannot write {}: {error}", path.display()))?;
        output("chmod", Command::new("chmod").arg("755").arg(&to))?;
    }
    copy(&Path::new(SOURCE).join("LICENSE"), &tree.join("boot-test/"))
}

fn again(image: &Image, claims: &mut Claims) -> Result<(), String> {
    const SCRIPT: &str = r#"
put $new first
dpkg --remove early-service >> /log; say removed
put $new again
systemctl disable early-service-initrd.service
dpkg --remove early-service >> /log; rm -f /initrd
put $new part
systemctl disable early-service.service
dpkg --remove early-service >> /log; rm -f /initrd
put $new off
systemctl enable early-service.service
dpkg --remove early-service >> /log; dpkg --remove early-service >> /log; rm -f /initrd
put $new twice
"#;
    let expected = [
        ("first", WELL),
        ("removed", "not-found not-found not-found; no; rc "),
        ("again", WELL),
        ("part", "enabled enabled disabled; no; ii "),
        ("off", DISABLED),
        ("twice", WELL),
    ];
    // The output of is-enabled for a missing unit, before and after systemd 254.
    let script = SCRIPT
        .replace("say removed", "say removed | sed 's/\\t *;/\\tnot-found not-found not-found;/'");
    hold(image, "dpkg-again", &script, &expected, claims)
}

fn purged(image: &Image, claims: &mut Claims) -> Result<(), String> {
    const SCRIPT: &str = r#"
left() { find / -xdev -name '*early-service*' ! -path '/boot-test/*' ! -path '/repack*' | sed "s/^/left\t$1 /"; }
dpkg --install $new >> /log; dpkg --purge early-service >> /log; left purged
dpkg --install $new >> /log; dpkg --remove early-service >> /log; dpkg --purge early-service >> /log; left removed
for unit in $units; do
    dpkg --install $new >> /log
    systemctl mask $unit
    dpkg --remove early-service >> /log; printf 'removes exit\t%s\n' "$?"
    dpkg --purge early-service >> /log; printf 'purges exit\t%s\n' "$?"
    rm /etc/systemd/system/$unit
    left "masked $unit"
done
left_states=$(find /var/lib/systemd -name '*early*' | tr '\n' ' ')
printf 'states\t%s\n' "${left_states:-none}"
printf 'seen\t%s\n' "$(cat /initrd)"
"#;
    let script = format!("{SCRIPT}left all | grep -c . | sed 's/^/count\t/'");
    let expected = [("states", "none"), ("seen", "no"), ("count", "0")];
    hold(image, "dpkg-purged", &script, &expected, claims)
}

fn updated(image: &Image, claims: &mut Claims) -> Result<(), String> {
    const SCRIPT: &str = r#"
version 0.2.0; version 0.0.9
put $new first
put /boot-test/0.2.0.deb up
put $new down
systemctl disable early-service.service
put /boot-test/0.2.0.deb off
systemctl enable early-service.service
for unit in $units; do
    systemctl mask $unit; put /boot-test/0.2.0.deb "masked $unit"; systemctl unmask $unit
    put $new "unmasked $unit"
done
"#;
    let expected = [
        ("first", WELL),
        ("up", WELL),
        ("down", WELL),
        ("off", DISABLED),
        ("masked early-service.service", "masked enabled enabled; no; ii "),
        ("unmasked early-service.service", WELL),
        ("masked early-service.socket", "enabled masked enabled; yes; ii "),
        ("unmasked early-service.socket", WELL),
        ("masked early-service-initrd.service", "enabled enabled masked; no; ii "),
        ("unmasked early-service-initrd.service", WELL),
    ];
    hold(image, "dpkg-updated", SCRIPT, &expected, claims)
}

fn from_release(image: &Image, claims: &mut Claims) -> Result<(), String> {
    const SCRIPT: &str = r#"
released() {
    rm /repack/DEBIAN/preinst
    for script in postinst prerm postrm; do cp /boot-test/release-$script /repack/DEBIAN/$script; done
}
version 0.1.0~0 released; old=/boot-test/0.1.0~0.deb
put $old first
put $new up
put $old down
put $new up-again
systemctl disable early-service.service
put $old off-down
put $new off
dpkg --purge early-service >> /log; rm -f /initrd
put $old anew
systemctl disable early-service.service
put $new off-since-release
dpkg --purge early-service >> /log; rm -f /initrd
put $old anew-again
dpkg --remove early-service >> /log; rm -f /initrd
put $new after-removal
"#;
    let expected = [
        ("first", WELL),
        ("up", WELL),
        ("down", WELL),
        ("up-again", WELL),
        ("off", DISABLED),
        ("off-since-release", DISABLED),
        ("after-removal", WELL),
    ];
    hold(image, "dpkg-release", SCRIPT, &expected, claims)
}

fn first(image: &Image, claims: &mut Claims) -> Result<(), String> {
    const SCRIPT: &str = r#"
mkdir -p /etc/systemd/system-preset
echo 'disable *' > /etc/systemd/system-preset/00-none.preset
put $new preset
put $new preset-update
dpkg --purge early-service >> /log; rm -f /initrd /etc/systemd/system-preset/00-none.preset
for unit in $units; do
    systemctl mask $unit; put $new "masked $unit"; systemctl unmask $unit
    dpkg --purge early-service >> /log; rm -f /initrd
done
"#;
    let expected = [
        ("preset", DISABLED),
        ("preset-update", DISABLED),
        ("masked early-service.service", "masked enabled enabled; no; ii "),
        ("masked early-service.socket", "enabled masked enabled; yes; ii "),
        ("masked early-service-initrd.service", "enabled enabled masked; no; ii "),
    ];
    hold(image, "dpkg-first", SCRIPT, &expected, claims)
}

fn interrupted(image: &Image, claims: &mut Claims) -> Result<(), String> {
    const SCRIPT: &str = r#"
configure() { dpkg --configure --pending >> /log; printf '%s exit\t%s\n' "$1" "$?"; say "$1"; }
# The account cannot be made: the one thing that the package cannot do without.
broken() { chmod 755 /sysusers; mount --bind /sysusers "$(command -v systemd-sysusers)"; }
printf '#!/bin/sh\nexit 1\n' > /sysusers
broken; put $new fails-without-account; umount "$(command -v systemd-sysusers)"
configure configured
# In the middle of an update.
version 0.2.0
broken; put /boot-test/0.2.0.deb fails-update; umount "$(command -v systemd-sysusers)"
configure update-configured
# The unpacking is given up: dpkg calls the old postinst with abort-upgrade.
refuses() { printf '#!/bin/sh\nexit 1\n' > /repack/DEBIAN/preinst; chmod 755 /repack/DEBIAN/preinst; }
version 0.3.0 refuses
put /boot-test/0.3.0.deb fails-preinst
# So is a removal: abort-remove.
halts() { printf '#!/bin/sh\nexit 1\n' > /repack/DEBIAN/prerm; }
version 0.4.0 halts
put /boot-test/0.4.0.deb with-prerm
dpkg --remove early-service >> /log; printf 'fails-prerm exit\t%s\n' "$?"; say fails-prerm
# What dpkg calls them by, and what they do not know.
scripts=/var/lib/dpkg/info/early-service
put $new sane
for words in "abort-upgrade 0.2.0" "abort-remove" "abort-remove in-favour other 1" \
    "abort-deconfigure in-favour other 1 removing third 1" "triggered update-initramfs"; do
    DPKG_MAINTSCRIPT_PACKAGE=early-service DPKG_MAINTSCRIPT_NAME=postinst $scripts.postinst $words
    printf 'postinst %s exit\t%s\n' "$words" "$?"
done
for words in "upgrade 0.2.0" "failed-upgrade 0.1.0" "deconfigure in-favour other 1"; do
    DPKG_MAINTSCRIPT_PACKAGE=early-service DPKG_MAINTSCRIPT_NAME=prerm $scripts.prerm $words
    printf 'prerm %s exit\t%s\n' "$words" "$?"
done
for words in "upgrade 0.2.0" "failed-upgrade 0.1.0" "abort-install" "abort-upgrade 0.2.0" \
    "disappear other 1"; do
    DPKG_MAINTSCRIPT_PACKAGE=early-service DPKG_MAINTSCRIPT_NAME=postrm $scripts.postrm $words
    printf 'postrm %s exit\t%s\n' "$words" "$?"
done
put $new last
"#;
    let expected = [
        ("fails-without-account", "disabled disabled disabled; ; iF "),
        ("configured", WELL),
        ("update-configured", WELL),
        ("fails-preinst", "enabled enabled enabled; yes; ii "),
        ("fails-prerm", "enabled enabled enabled; yes; ri "),
        ("last", WELL),
    ];
    hold(image, "dpkg-interrupted", SCRIPT, &expected, claims)?;
    claims.that("there are links to enable it by", LINKS.len() == 3, "");
    Ok(())
}
