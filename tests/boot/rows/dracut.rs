// SPDX-License-Identifier: Apache-2.0
//! The dracut module, in the tree of a guest: which files of the root filesystem it installs in an
//! initrd.

use crate::cache;
use crate::claims::Claims;
use crate::guest::Image;
use crate::plan::TreeRow;
use crate::rows::package::{copy_of, run_in};
use std::collections::BTreeMap;

pub(super) const ROWS: &[TreeRow] = &[
    TreeRow {
        name: "dracut: gets what systemctl cat shows on the root filesystem",
        holds: as_shown,
    },
    TreeRow { name: "dracut: a first stage that is masked or disabled stays out", holds: left_out },
    TreeRow { name: "dracut: takes the account from wherever it is, or fails", holds: account },
    TreeRow { name: "dracut: another root's account is never the builder's", holds: other_root },
    TreeRow { name: "dracut: no program or no systemd: an initrd without it", holds: without },
];

/// Builds an image; prints its status, its files and their contents, each line with a key.
const IMAGE: &str = r#"#!/bin/bash
kernel=$(ls /lib/modules)
image() {
    local key=$1; shift
    rm -rf /image /image.img
    said=$(dracut --quiet --force "$@" /image.img "$kernel" 2>&1)
    printf '%s status\t%s\n' "$key" "$?"
    printf '%s says\t%s\n' "$key" "$(tr '\n' ' ' <<< "$said")"
    [ -e /image.img ] || return 0
    mkdir /image && (cd /image && cpio --quiet -idm < /image.img)
    (cd /image && find . -path '*early-service*' ! -name '*tmpfiles*' ! -type d -printf "$key file\t%P\n")
}
has() { [ -e "/image/$2" ] && printf '%s has\t%s\n' "$1" "$2"; }
accounts() { sed "s/^/$1 $2\t/" "/image/etc/$2"; }
"#;

/// The lines of a script.
struct Said(BTreeMap<String, Vec<String>>);

impl Said {
    fn by(image: &Image, purpose: &str, script: &str) -> Result<Self, String> {
        let tree = copy_of(image, purpose)?;
        let output = run_in(&tree, &format!("{IMAGE}{script}\nexit 0\n"))?;
        cache::remove(&tree)?;
        let mut said: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for (key, line) in output.lines().filter_map(|line| line.split_once('\t')) {
            said.entry(key.to_owned()).or_default().push(line.to_owned());
        }
        Ok(Self(said))
    }

    fn lines(&self, key: &str) -> &[String] {
        self.0.get(key).map_or(&[], Vec::as_slice)
    }

    fn has(&self, key: &str, line: &str) -> bool {
        self.lines(key).iter().any(|each| each == line)
    }

    fn claim(&self, key: &str, line: &str, claims: &mut Claims) {
        claims.that(&format!("{key}: {line}"), self.has(key, line), self.lines(key).join(", "));
    }

    /// Claims that there is an image, and that it contains nothing of ours.
    fn claim_left_out(&self, case: &str, claims: &mut Claims) {
        self.claim(&format!("{case} status"), "0", claims);
        let files = self.lines(&format!("{case} file"));
        claims.that(&format!("{case}: nothing of it"), files.is_empty(), files.join(", "));
    }
}

fn as_shown(image: &Image, claims: &mut Claims) -> Result<(), String> {
    const SCRIPT: &str = r#"
exec 2> /dev/null
unit=early-service-initrd.service
useradd --system clients && groupadd --system spare
for file in default/early default/early.key early.conf machine; do echo A=b > /etc/$file; done
printf '#!/bin/sh\n' > /usr/local/bin/before && chmod 755 /usr/local/bin/before
put() { mkdir -p "${1%/*}" && printf "$2" > "$1"; }
put /etc/systemd/system/service.d/type.conf '[Service]\nEnvironment=TYPE=1\n'
put /etc/systemd/system/early-.service.d/prefix.conf '[Service]\nEnvironment=PREFIX=1\n'
put /usr/lib/systemd/system/$unit.d/lib.conf '[Service]\nEnvironmentFile=-/etc/default/early*\n'
put /run/systemd/system/$unit.d/run.conf '[Service]\nSupplementaryGroups=spare\n'
put /etc/systemd/system.control/$unit.d/control.conf '[Service]\nCPUWeight=200\n'
put /etc/systemd/system/$unit.d/named.conf \
    '[Unit]\nConditionPathExists=/etc/machine\n[Service]\nExecStartPre=-+/usr/local/bin/before \\\n  --config=/etc/early.conf /var/lib/dpkg/status\n'
put /usr/local/lib/systemd/system/early-service.socket.d/local.conf '[Socket]\nSocketGroup=clients\n'
put /etc/systemd/system/$unit.d/50-initrd.conf '[Service]\nEnvironment=OWN=1\n'
# The same name: the more important place counts, and a link to /dev/null is no drop-in.
put /usr/lib/systemd/system/$unit.d/twice.conf '[Service]\nEnvironment=TWICE=lib\n'
put /run/systemd/system/$unit.d/twice.conf '[Service]\nEnvironment=TWICE=run\n'
put /usr/lib/systemd/system/$unit.d/masked.conf '[Service]\nEnvironment=MASKED=1\n'
ln -s /dev/null /etc/systemd/system/$unit.d/masked.conf
sed 's/^Nice=-20/Nice=-7/' /usr/lib/systemd/system/$unit > /etc/systemd/system/$unit
image edited
for file in etc/default/early etc/default/early.key etc/early.conf usr/local/bin/before etc/machine \
    var/lib/dpkg/status; do has edited $file; done
accounts edited group
# As the initrd's systemd reads them, in the order of their names.
find /image -path "*/$unit.d/*" -printf '%f %p\n' | sort | while read -r _ file; do
    grep -h '^Environment=' "$file"; done | sed 's/^/edited reads\t/'
grep -rhc '^Restart=on-failure' /image/usr/lib/systemd/system/$unit.d/50-initrd.conf | sed 's/^/edited restarts\t/'
readlink -f /image/usr/lib/systemd/system/initrd.target.wants/$unit | sed 's/^/edited starts\t/'
grep '^Nice=' "$(readlink -f /image/usr/lib/systemd/system/initrd.target.wants/$unit)" | sed 's/^/edited unit\t/'
find /image -path '*/service.d/*' -o -path '*/early-.service.d/*' | sed 's/^/edited foreign\t/'
"#;
    let said = Said::by(image, "as-shown", SCRIPT)?;
    said.claim("edited status", "0", claims);
    for file in ["etc/default/early", "etc/default/early.key", "etc/early.conf"] {
        said.claim("edited has", file, claims);
    }
    said.claim("edited has", "usr/local/bin/before", claims);
    for file in ["etc/machine", "var/lib/dpkg/status"] {
        let there = said.has("edited has", file);
        claims.that("what no program is given stays out", !there, file);
    }
    let groups = said.lines("edited group").join(" ");
    for group in ["spare:", "clients:", "early-service:"] {
        claims.that("the groups that drop-ins name", groups.contains(group), &groups);
    }
    let reads: Vec<_> = said.lines("edited reads").iter().map(String::as_str).collect();
    let expected =
        ["OWN=1", "PREFIX=1", "TWICE=run", "TYPE=1"].map(|each| format!("Environment={each}"));
    claims.that("each drop-in counts once, in its order", reads == expected, reads.join(", "));
    said.claim("edited restarts", "1", claims);
    said.claim("edited unit", "Nice=-7", claims);
    said.claim("edited starts", "/image/etc/systemd/system/early-service-initrd.service", claims);
    let foreign = said.lines("edited foreign");
    claims.that("no other unit is changed", foreign.is_empty(), foreign.join(", "));
    Ok(())
}

fn left_out(image: &Image, claims: &mut Claims) -> Result<(), String> {
    const SCRIPT: &str = r#"
exec 2> /dev/null
systemctl -q disable early-service-initrd.service; image disabled
systemctl -q enable early-service-initrd.service
systemctl -q mask early-service-initrd.service; image masked
systemctl -q unmask early-service-initrd.service
systemctl -q mask early-service.service; image successor-masked
systemctl -q unmask early-service.service
systemctl -q mask early-service.socket; image socket-masked
"#;
    let said = Said::by(image, "left-out", SCRIPT)?;
    for case in ["disabled", "masked", "successor-masked"] {
        said.claim_left_out(case, claims);
    }
    said.claim("socket-masked file", "usr/bin/early-service", claims);
    let socket = said.lines("socket-masked file").iter().find(|file| file.contains(".socket"));
    claims.that("a masked socket alone stays out", socket.is_none(), format!("{socket:?}"));
    Ok(())
}

fn account(image: &Image, claims: &mut Claims) -> Result<(), String> {
    const SCRIPT: &str = r#"
exec 2> /dev/null
take() { grep "^early-service:" "/etc/$1" > "/usr/lib/$1"; sed -i '/^early-service:/d' "/etc/$1"; }
numbers() { cut -d : -f 3 "/usr/lib/passwd"; }
take passwd; take group
printf 'root passwd\t%s\n' "$(cat /usr/lib/passwd)"; printf 'root group\t%s\n' "$(cat /usr/lib/group)"
image altfiles; accounts altfiles passwd; accounts altfiles group
rm /usr/lib/passwd /usr/lib/group; mkdir -p /usr/lib/userdb
echo '{ "userName": "early-service", "uid": 4242, "gid" : 4243 }' > /usr/lib/userdb/early-service.user
image no-group
echo '{"groupName":"early-service","gid":4243}' > /usr/lib/userdb/early-service.group
image userdb; accounts userdb passwd; accounts userdb group
rm -r /usr/lib/userdb; image nowhere
# What only a name service knows is asked for by getent.
getent=$(command -v getent)
printf '#!/bin/sh\ncase "$*" in "passwd early-service") echo early-service:x:777:778::/:/bin/false ;; "group early-service") echo early-service:x:778: ;; *) exec %s.real "$@" ;; esac\n' "$getent" > /getent
mv "$getent" "$getent.real"; mv /getent "$getent"; chmod 755 "$getent"
image service; accounts service passwd; accounts service group
"#;
    let said = Said::by(image, "account", SCRIPT)?;
    for (case, passwd, group) in [
        ("altfiles", &*said.lines("root passwd").concat(), &*said.lines("root group").concat()),
        ("userdb", "early-service:x:4242:4243::/:/usr/sbin/nologin", "early-service:x:4243:"),
        ("service", "early-service:x:777:778::/:/bin/false", "early-service:x:778:"),
    ] {
        said.claim(&format!("{case} status"), "0", claims);
        said.claim(&format!("{case} passwd"), passwd, claims);
        said.claim(&format!("{case} group"), group, claims);
    }
    for case in ["no-group", "nowhere"] {
        let failed = !said.has(&format!("{case} status"), "0");
        claims.that(&format!("{case}: no image is made"), failed, "dracut succeeds");
        let says = said.lines(&format!("{case} says")).join(" ");
        let named = says.contains("entry of early-service on the root");
        claims.that(&format!("{case}: dracut says why"), named, says);
    }
    Ok(())
}

/// With `--sysroot`. Uses only the module's functions, because dracut would need a whole system.
fn other_root(image: &Image, claims: &mut Claims) -> Result<(), String> {
    const SCRIPT: &str = r#"
exec 2> /dev/null
. /usr/lib/dracut/modules.d/50early-service/module-setup.sh
dracutsysrootdir=/other
mkdir -p /other/etc /other/usr/lib/userdb
account passwd early-service || printf 'none status\t%s\n' "$?"
echo '{"uid":52,"gid":53}' > /other/usr/lib/userdb/early-service.user
printf 'userdb passwd\t%s\n' "$(account passwd early-service)"
echo early-service:x:62:63::/:/bin/sh > /other/etc/passwd
printf 'file passwd\t%s\n' "$(account passwd early-service)"
"#;
    let said = Said::by(image, "other-root", SCRIPT)?;
    let none = said.lines("none status");
    claims.that("the builder's own does not count", none.len() == 1, none.join(", "));
    said.claim("userdb passwd", "early-service:x:52:53::/:/usr/sbin/nologin", claims);
    said.claim("file passwd", "early-service:x:62:63::/:/bin/sh", claims);
    Ok(())
}

fn without(image: &Image, claims: &mut Claims) -> Result<(), String> {
    // A module with the name of kdump's.
    const SCRIPT: &str = r#"
exec 2> /dev/null
mkdir /no-conf /usr/lib/dracut/modules.d/99kdumpbase
printf '#!/bin/bash\ncheck() { return 255; }\n' > /usr/lib/dracut/modules.d/99kdumpbase/module-setup.sh
chmod 755 /usr/lib/dracut/modules.d/99kdumpbase/module-setup.sh
other="--conf /dev/null --confdir /no-conf --no-hostonly --no-compress"
image listed $other --modules "base kernel-modules rootfs-block"
image omitted $other --omit "$(cd /usr/lib/dracut/modules.d && ls -d [0-9]*systemd* | sed 's/^[0-9]*//' | tr '\n' ' ')"
image kdump --add kdumpbase
image usual
mv /usr/bin/early-service /usr/bin/elsewhere; image missing
"#;
    let said = Said::by(image, "without", SCRIPT)?;
    for case in ["listed", "omitted", "kdump", "missing"] {
        said.claim_left_out(case, claims);
    }
    said.claim("usual file", "usr/bin/early-service", claims);
    Ok(())
}
