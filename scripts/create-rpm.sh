#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Builds the RPM of a spec file of this repository, and the source RPM, under target/rpm:
#
#     scripts/create-rpm.sh early-service.spec
#
# The sources are the tracked files as they lie there, and every crate that Cargo.lock names; the
# crates are fetched here, and what rpmbuild then does needs no network.
set -euo pipefail
cd "$(dirname "$0")/.."

spec=${1:?usage: scripts/create-rpm.sh early-service.spec}
topdir=$PWD/target/rpm
# Older builds are in nobody's way, nor in the repository that is made of the directory.
rm -rf "$topdir"
mkdir -p "$topdir"/{SOURCES,SPECS}

# Fedora, CentOS and RHEL have every macro, and a database in which the build's requirements are.
macros=(--define "_topdir $topdir")
requirements=()
if [[ -z $(rpm --eval '%{?_unitdir}') ]]; then
    macros+=("--load=$PWD/scripts/debian-rpm.macros")
    requirements=(--nodeps)
fi
read -r name version < <(
    rpmspec "${macros[@]}" --query --srpm --queryformat '%{name} %{version}\n' "$spec"
)

# The same files make the same archive, byte for byte.
archive() {
    tar --create --gzip --sort=name --owner=0 --group=0 --numeric-owner --mode=go=rX,u+rw,a-s \
        --mtime="@$(git log -1 --format=%ct)" "$@"
}
git ls-files -z |
    archive --null --files-from=- --transform="s,^,$name-$version/," \
        --file "$topdir/SOURCES/$name-$version.tar.gz"
cargo vendor --quiet --locked "$topdir/vendor" > /dev/null
archive --directory "$topdir" --file "$topdir/SOURCES/$name-$version-vendor.tar.gz" vendor
rm -r "$topdir/vendor"
cp "conf/$name.sysusers" "$topdir/SOURCES/"

rpmbuild -ba "${macros[@]}" "${requirements[@]}" "$spec"
find "$topdir"/*RPMS -name '*.rpm'
