# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
#
# The condition under which an initrd contains the initrd stage. The dracut.conf.d snippet and
# check() must agree: if a snippet adds a module whose check() fails, dracut 059 exits with an error
# and writes no initrd.

# Succeeds if the program is installed and both stages are enabled. An initrd stage that the
# administrator has disabled or masked must not start, and without the root stage no process would
# take over from it.
early_service_is_wanted() {
    local unit

    [[ -x ${dracutsysrootdir-}/usr/bin/early-service ]] || return 1
    for unit in early-service.service early-service-initrd.service; do
        ${SYSTEMCTL:-systemctl} -q --root="${dracutsysrootdir:-/}" is-enabled "$unit" 2> /dev/null \
            || return 1
    done
}
