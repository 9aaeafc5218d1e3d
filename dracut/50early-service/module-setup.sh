#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Brings the first stage into the initrd: the program, its two units, and the account that owns the
# public socket. Never brings a shell, a journal or a systemd of its own choosing.

# Only where the administrator has enabled the root stage: without it nobody would take over.
# shellcheck disable=SC2154 # dracut sets the variables in lower case.
check() {
    require_binaries early-service || return 1
    $SYSTEMCTL -q --root "${dracutsysrootdir:-/}" is-enabled early-service.service 2> /dev/null \
        || return 1
    return 0
}

# What it needs is a systemd as PID 1 of the initrd, whichever module brings that one. Naming
# dracut's own would force it into images that bring theirs, such as systemd-initrd-automotive.
depends() {
    return 0
}

# shellcheck disable=SC2154 # dracut sets the variables in lower case.
install() {
    local unit

    inst_multiple early-service \
        "$systemdsystemunitdir"/early-service-initrd.service \
        "$systemdsystemunitdir"/early-service.socket

    # What is true in the initrd alone.
    inst_simple "$moddir"/initrd-socket.conf \
        "$systemdsystemunitdir"/early-service.socket.d/50-initrd.conf
    inst_simple "$moddir"/initrd-service.conf \
        "$systemdsystemunitdir"/early-service-initrd.service.d/50-initrd.conf

    # What `systemctl edit` has changed for the first stage holds in the initrd too.
    for unit in early-service-initrd.service early-service.socket; do
        inst_multiple -o "$systemdsystemconfdir/$unit.d/*.conf"
    done

    copy_account /etc/passwd
    copy_account /etc/group

    # By hand, for systemctl would ask for initrd.target, which a later module may bring.
    inst_dir "$systemdsystemunitdir"/initrd.target.wants
    ln_r "$systemdsystemunitdir"/early-service-initrd.service \
        "$systemdsystemunitdir"/initrd.target.wants/early-service-initrd.service
}

# Copied, not created by sysusers: that would number it anew, and the root stage could not open
# what the first stage owns.
copy_account() {
    local database=$1

    inst_dir /etc
    grep -q '^early-service:' "$initdir$database" 2> /dev/null && return 0
    grep '^early-service:' "$dracutsysrootdir$database" >> "$initdir$database"
}
