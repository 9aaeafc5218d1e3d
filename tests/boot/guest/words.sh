# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=sh disable=SC2034 # The scripts that read this use the names.
#
# Functions for the scripts of the scenarios. Their output is sent as key and line to the second
# serial port, where the host reads it.

PUBLIC=/run/early-service/early-service.sock
FIRST=/run/early-service-initrd/early-service.sock
STATE=/run/early-service/state

say() {
    printf '%s\t%s\n' "$1" "$2" > /dev/ttyS1
}

# Sends every line of its input.
tell() {
    while IFS= read -r line || [ -n "$line" ]; do
        say "$1" "$line"
    done
}

# Types a line, or a part of one, into the nc that runs throughout the boot.
type_into_nc() {
    printf '%b' "$1" > /run/boot-nc/in
}

# Whether that nc has received this many lines.
nc_shows() {
    shown=0
    while IFS= read -r line; do shown=$((shown + 1)); done < /run/boot-nc/out
    [ "$shown" -ge "$1" ]
}

# Sends the capabilities of each thread of a process with a key.
tell_rights() {
    for status in "/proc/$2/task"/*/status; do
        rights=
        while read -r field value; do
            case $field in Cap* | NoNewPrivs:) rights="$rights $field$value" ;; esac
        done < "$status"
        say "$1" "$rights"
    done
}

# The confinement of a process: its user, capabilities and filters, its network, and its mounts.
walls() {
    grep -E '^(Uid|Gid|Groups|Cap.*|NoNewPrivs|Seccomp.*):' "/proc/$1/status"
    readlink "/proc/$1/ns/net"
    cut -d ' ' -f 4-6 "/proc/$1/mountinfo"
}

# Sets the clock, and sends the difference in seconds.
set_clock() {
    before=$(date +%s) && date -s "$1" > /dev/null
    say step "$(($(date +%s) - before))"
}

# Waits for a condition, never for a time; reports if it gives up.
wait_until() {
    attempts=0
    until "$@"; do
        attempts=$((attempts + 1))
        if [ "$attempts" -gt 300 ]; then
            say gave-up "$*"
            return 1
        fi
        sleep 0.2
    done
}

root_serves() {
    systemctl -q is-active early-service.service
}

first_is_gone() {
    ! systemctl -q is-active early-service-initrd.service
}

first_pid() {
    systemctl show -P MainPID early-service-initrd.service
}

# Remembers the first stage across the switch of root, and sends its use of memory.
note_first() {
    first_pid > /run/boot-first
    while read -r field value _; do
        case $field in Rss: | Anonymous:) say "first-$field" "$value" ;; esac
    done < "/proc/$(first_pid)/smaps_rollup"
}

# Sends each place that was searched for remains of the first stage, and each remain found.
tell_left_of_first() {
    unit=early-service-initrd
    for left in "/proc/$(cat /run/boot-first)" "/run/$unit" \
        "/sys/fs/cgroup/system.slice/$unit.service"; do
        say first-looked-for "$left"
        [ ! -e "$left" ] || say first-left "$left"
    done
}

root_pid() {
    systemctl show -P MainPID early-service.service
}

# Whether the process of a unit waits for a predecessor.
is_adopting() {
    case $(systemctl show -P StatusText "$1") in
        adopting*) ;;
        *) return 1 ;;
    esac
}
