# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=sh disable=SC2034 # The scripts that read this use the names.
#
# The few words that a scenario's scripts are written in. What they say goes, key and line, to the
# second serial port, where the host reads it.

PUBLIC=/run/early-service/early-service.sock
FIRST=/run/early-service-initrd/early-service.sock
STATE=/run/early-service/state

say() {
    printf '%s\t%s\n' "$1" "$2" > /dev/ttyS1
}

# Says every line that comes in.
tell() {
    while IFS= read -r line || [ -n "$line" ]; do
        say "$1" "$line"
    done
}

# Types a line, or a part of one, into the nc that sits through the whole boot.
type_into_nc() {
    printf '%b' "$1" > /run/boot-nc/in
}

# Whether that nc has been answered so many lines.
nc_shows() {
    shown=0
    while IFS= read -r line; do shown=$((shown + 1)); done < /run/boot-nc/out
    [ "$shown" -ge "$1" ]
}

# Says under a key what each thread of a process may do, does, and could come to.
tell_rights() {
    for status in "/proc/$2/task"/*/status; do
        rights=
        while read -r field value; do
            case $field in Cap* | NoNewPrivs:) rights="$rights $field$value" ;; esac
        done < "$status"
        say "$1" "$rights"
    done
}

# What holds a process in: its user, its rights and filters, its network, and each mount that it
# sees, with what is mounted, where and how.
walls() {
    grep -E '^(Uid|Gid|Groups|Cap.*|NoNewPrivs|Seccomp.*):' "/proc/$1/status"
    readlink "/proc/$1/ns/net"
    cut -d ' ' -f 4-6 "/proc/$1/mountinfo"
}

# Sets the clock by so much, and says by how many seconds it was.
set_clock() {
    before=$(date +%s) && date -s "$1" > /dev/null
    say step "$(($(date +%s) - before))"
}

# Waits for a condition, never for a time; gives up loudly.
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

# Remembers the first stage across the switch of root, and says what memory it takes.
note_first() {
    first_pid > /run/boot-first
    while read -r field value _; do
        case $field in Rss: | Anonymous:) say "first-$field" "$value" ;; esac
    done < "/proc/$(first_pid)/smaps_rollup"
}

# Says what is left of it, and that it looked.
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

# Whether the process of a unit has come to wait for a predecessor.
is_adopting() {
    case $(systemctl show -P StatusText "$1") in
        adopting*) ;;
        *) return 1 ;;
    esac
}
