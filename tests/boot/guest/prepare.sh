#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# Runs once in the guest's tree, by chroot: turns a bare Debian into the guest. The package is then
# installed as a user would install it, and initrds.sh runs. All files for this are in /boot-test.
set -eu
cd /boot-test

cp guest.conf /etc/dracut.conf.d/
cp -r 50systemd-initrd-lean /usr/lib/dracut/modules.d/
cp ./*.service ./*.socket /etc/systemd/system/
systemctl -q enable boot-test.service
echo guest > /etc/hostname
# A writable file system, and a journal that survives power-off.
echo '/dev/vda / ext4 rw 0 0' > /etc/fstab
mkdir -p /var/log/journal
printf '[Journal]\nRateLimitIntervalSec=0\n' > /etc/systemd/journald.conf
# An installed system has a machine ID. Its initrd does not know this one, and makes up another.
systemd-machine-id-setup
# The stranger of some rows.
useradd --no-create-home stranger
# Two programs that give privileges to any user: one by its set-user-ID bit, one by all
# capabilities, in the form that setcap(8) would write.
cp /bin/cat setuid-cat
chmod 4755 setuid-cat
cp /bin/cat capable-cat
perl -e 'my ($path, $name, $all) = ("capable-cat", "security.capability",
    pack("L5", 0x02000001, 0xffffffff, 0, 0x1ff, 0));
    syscall(188, $path, $name, $all, length $all, 0) == 0 or die "cannot set $name: $!"'

# These units take seconds of emulated time and do not matter to the tests.
for unit in apt-daily-upgrade.timer apt-daily.timer dev-hugepages.mount dev-mqueue.mount \
    dpkg-db-backup.timer dracut-shutdown.service e2scrub_all.timer e2scrub_reap.service \
    fstrim.timer getty.target ldconfig.service modprobe@.service \
    proc-sys-fs-binfmt_misc.automount sys-fs-fuse-connections.mount sys-kernel-config.mount \
    sys-kernel-debug.mount sys-kernel-tracing.mount systemd-logind.service \
    systemd-modules-load.service systemd-random-seed.service systemd-sysusers.service \
    systemd-tmpfiles-clean.timer systemd-tmpfiles-setup-dev-early.service \
    systemd-tmpfiles-setup-dev.service systemd-udev-load-credentials.service \
    systemd-udev-trigger.service systemd-udevd-control.socket systemd-udevd-kernel.socket \
    systemd-udevd-varlink.socket systemd-udevd.service systemd-update-utmp.service \
    systemd-user-sessions.service; do
    ln -sf /dev/null "/etc/systemd/system/$unit"
done
