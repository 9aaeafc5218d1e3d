# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
#
# The one condition under which the first stage belongs into an initrd. The dracut.conf.d snippet and
# check() both ask here: dracut 059 ends with an error, and writes no initrd at all, if a module that
# a snippet adds is refused by its own check().

# Whether the program is installed and the administrator has enabled both stages: a first stage that
# is disabled or masked must not start, and without the root stage nobody would take over.
early_service_is_wanted() {
    local unit

    [[ -x ${dracutsysrootdir-}/usr/bin/early-service ]] || return 1
    for unit in early-service.service early-service-initrd.service; do
        ${SYSTEMCTL:-systemctl} -q --root="${dracutsysrootdir:-/}" is-enabled "$unit" 2> /dev/null \
            || return 1
    done
}
