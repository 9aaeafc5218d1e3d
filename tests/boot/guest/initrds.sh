#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# Runs once in the guest's tree, by chroot, after the package's installation has made dracut build
# the usual initrd. Builds the other two, each for its own rows.
set -eu

kernel=$(ls /lib/modules)
cp "/boot/initrd.img-$kernel" /boot/usual.img
dracut --quiet --force --omit early-service /boot/without.img "$kernel"
dracut --quiet --force --conf /dev/null --confdir /boot-test/lean.conf.d /boot/lean.img "$kernel"
cp "/boot/vmlinuz-$kernel" /boot/kernel
