#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Builds the binary RPM and the source RPM of a spec file of this repository in target/rpm:
#
#     scripts/create-rpm.sh early-service.spec
#
# The sources are the tracked files of the working tree, including uncommitted changes, and every
# crate in Cargo.lock. The script downloads the crates, so rpmbuild needs no network.
set -euo pipefail
cd "$(dirname "$0")/.."

spec=${1:?usage: scripts/create-rpm.sh early-service.spec}
# A command substitution in an argument would not stop the script if there is no commit.
date=$(git log -1 --format=%ct)
topdir=$PWD/target/rpm
# Remove older packages, so that a package repository made from this directory contains only new
# ones.
rm -rf "$topdir"
mkdir -p "$topdir"/{SOURCES,SPECS}

# Fedora, CentOS and RHEL have all macros, and an RPM database with the build requirements. Debian
# has neither.
macros=(--define "_topdir $topdir")
requirements=()
if [[ -z $(rpm --eval '%{?_unitdir}') ]]; then
    macros+=("--load=$PWD/scripts/debian-rpm.macros")
    requirements=(--nodeps)
fi
read -r name version < <(
    rpmspec "${macros[@]}" --query --srpm --queryformat '%{name} %{version}\n' "$spec"
)

# Makes a reproducible archive: the same files give the same bytes.
archive() {
    tar --create --gzip --sort=name --owner=0 --group=0 --numeric-owner --mode=go=rX,u+rw,a-s \
        --mtime="@$date" "$@"
}
git ls-files -z |
    archive --null --files-from=- --transform="flags=r;s,^,$name-$version/," \
        --file "$topdir/SOURCES/$name-$version.tar.gz"
cargo vendor --quiet --locked "$topdir/vendor" > /dev/null
archive --directory "$topdir" --file "$topdir/SOURCES/$name-$version-vendor.tar.gz" vendor
rm -r "$topdir/vendor"
cp "conf/$name.sysusers" "$topdir/SOURCES/"

rpmbuild -ba "${macros[@]}" "${requirements[@]}" "$spec"
find "$topdir"/*RPMS -name '*.rpm'
