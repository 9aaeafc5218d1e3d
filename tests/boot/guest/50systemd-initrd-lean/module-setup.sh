#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# A test image like automotive ones: systemd and udev, without journald, a shell, or dracut's own
# modules for systemd. It must only reach the switch of root.

check() {
    # Only if it is named.
    return 255
}

depends() {
    return 0
}

# shellcheck disable=SC2154 # dracut sets the variables in lower case.
install() {
    inst_dir /sysroot
    inst_dir /etc
    inst_simple /etc/os-release /etc/initrd-release
    inst_simple /etc/nsswitch.conf

    inst_multiple systemctl udevadm kmod modprobe mount umount \
        "$systemdutildir"/systemd \
        "$systemdutildir"/systemd-shutdown \
        "$systemdutildir"/systemd-udevd \
        "$systemdutildir"/system-generators/systemd-fstab-generator
    # Additional programs of systemd 257, which starts everything through the first.
    inst_multiple -o "$systemdutildir"/systemd-executor "$systemdutildir"/systemd-sysroot-fstab-check
    # systemd also opens libkmod by name, when udev first requests a driver.
    inst_libdir_file "libkmod.so*"
    ln_r "$systemdutildir"/systemd /init
    ln_r "$systemdutildir"/systemd /sbin/init

    local unit
    for unit in \
        basic.target emergency.target final.target initrd-fs.target initrd-root-device.target \
        initrd-root-fs.target initrd-switch-root.target initrd-usr-fs.target initrd.target \
        local-fs-pre.target local-fs.target paths.target poweroff.target remote-fs.target \
        shutdown.target slices.target sockets.target swap.target sysinit.target timers.target \
        umount.target initrd-cleanup.service initrd-parse-etc.service \
        initrd-switch-root.service initrd-udevadm-cleanup-db.service systemd-poweroff.service \
        systemd-udev-trigger.service systemd-udevd.service systemd-udevd-control.socket \
        systemd-udevd-kernel.socket; do
        inst_simple "$systemdsystemunitdir/$unit"
    done
    ln_r "$systemdsystemunitdir"/initrd.target "$systemdsystemunitdir"/default.target
    $SYSTEMCTL -q --root "$initdir" add-wants sysinit.target \
        systemd-udevd.service systemd-udev-trigger.service
    $SYSTEMCTL -q --root "$initdir" add-wants sockets.target \
        systemd-udevd-control.socket systemd-udevd-kernel.socket

    inst_rules 50-udev-default.rules 80-drivers.rules 99-systemd.rules
}
