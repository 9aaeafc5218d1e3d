#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Brings the first stage into the initrd: the program, its two units as the administrator has them on
# the root filesystem, and the accounts that they name. Never brings a shell, a journal or a systemd
# of its own choosing.
#
# dracut ignores the status of install(); what must not be missing from the image ends the build.

# shellcheck disable=SC2154 # dracut sets the variables in lower case.
check() {
    # shellcheck source=dracut/50early-service/wanted.sh
    . "$moddir"/wanted.sh
    early_service_is_wanted
}

# What it needs is a systemd as PID 1 of the initrd, whichever module brings that one. Naming
# dracut's own would force it into images that bring theirs, such as systemd-initrd-automotive.
depends() {
    return 0
}

install() {
    local restart

    # Decided here and not in check(): only now is the list of modules complete.
    if ! starts_systemd; then
        dinfo "early-service: left out, because this image has no systemd as PID 1"
        return 0
    fi
    if dracut_module_included kdumpbase || dracut_module_included kdump; then
        dinfo "early-service: left out, because a crash kernel's image never switches to the root stage"
        return 0
    fi

    inst_multiple early-service
    inst_account passwd early-service
    inst_account group early-service

    # With each unit what is true in the initrd alone.
    if inst_unit early-service.socket; then
        inst_simple "$moddir"/initrd-socket.conf \
            "$systemdsystemunitdir"/early-service.socket.d/50-initrd.conf
    fi
    inst_unit early-service-initrd.service || return 0
    inst_simple "$moddir"/initrd-service.conf \
        "$systemdsystemunitdir"/early-service-initrd.service.d/50-initrd.conf
    # Read after the one above, and before what the administrator says.
    restart=$systemdsystemunitdir/early-service-initrd.service.d/50-initrd.delay.conf
    if knows_restart_steps; then
        inst_simple "$moddir"/initrd-backoff.conf "$restart"
    fi
}

# Whether PID 1 of the image is a systemd. A module that brings its own may be installed after this
# one, so modules are recognised by name. The module `base` brings a script as PID 1 if the module
# `systemd` is missing; without either, some other module brings a PID 1, and this one was asked for.
starts_systemd() {
    # shellcheck disable=SC2154
    [[ -e $initdir$systemdutildir/systemd ]] && return 0
    # shellcheck disable=SC2154
    [[ " $mods_to_load $modules_loaded " == *" systemd "* ]] && return 0
    [[ " $mods_to_load $modules_loaded " == *" systemd-initrd"* ]] && return 0
    ! dracut_module_included base
}

# Whether the systemd of the image has RestartSteps= (254): the library that holds the names of all
# settings is asked, because a program of another architecture cannot be run.
knows_restart_steps() {
    local root=${dracutsysrootdir-}

    grep -qs RestartMaxDelaySec "$root$systemdutildir"/systemd \
        "$root"/usr/lib*/systemd/libsystemd-core-*.so \
        "$root"/usr/lib*/*/systemd/libsystemd-core-*.so
}

# Installs a unit as `systemctl cat` shows it on the root filesystem: the file that is in effect, its
# drop-ins, and the programs, files and accounts that these name. Returns 1 for a unit that is masked.
inst_unit() {
    local unit=$1 root=${dracutsysrootdir-} directory file fragment='' to
    local -a directories=()
    local -A dropins=()
    # Where systemd looks for units (systemd.unit(5)), the most important place first. What generators
    # write is left out: it is made anew at each boot.
    local -a unit_path=(
        /etc/systemd/system.control /run/systemd/system.control /run/systemd/transient
        /etc/systemd/system /etc/systemd/system.attached
        /run/systemd/system /run/systemd/system.attached
        /usr/local/lib/systemd/system /usr/lib/systemd/system /lib/systemd/system
    )

    for directory in "${unit_path[@]}"; do
        file=$directory/$unit
        if [[ -e $root$file || -L $root$file ]]; then
            fragment=$file
            break
        fi
    done
    if [[ -z $fragment ]]; then
        dfatal "early-service: there is no unit $unit"
        exit 1
    fi
    # A link to /dev/null and an empty file mask a unit.
    if [[ ! -s $root$fragment ]]; then
        dinfo "early-service: $unit is masked, and left out"
        return 1
    fi
    to=$(place_in_initrd "$fragment")
    inst_copy "$fragment" "$to"
    inst_named "$fragment"

    # By hand, for systemctl would ask for initrd.target, which a later module may bring.
    if [[ $unit == *.service ]]; then
        inst_dir "$systemdsystemunitdir"/initrd.target.wants
        ln_r "$to" "$systemdsystemunitdir"/initrd.target.wants/"$unit"
    fi

    # Of drop-ins with the same name the first one counts: those for the unit itself and for a prefix
    # of its name, then those for all units of its type.
    for directory in "${unit_path[@]}"; do
        directories+=("$directory/$unit.d")
        file=${unit%.*}
        while [[ $file == *-* ]]; do
            file=${file%-*}
            directories+=("$directory/$file-.${unit##*.}.d")
        done
    done
    for directory in "${unit_path[@]}"; do
        directories+=("$directory/${unit##*.}.d")
    done
    for directory in "${directories[@]}"; do
        for file in "$root$directory"/*.conf; do
            [[ -e $file || -L $file ]] || continue
            [[ ${dropins[${file##*/}]-} ]] || dropins[${file##*/}]=${file#"$root"}
        done
    done
    for file in "${dropins[@]}"; do
        [[ -s $root$file ]] || continue
        if [[ ${file%/*} == */"$unit.d" ]]; then
            to=$(place_in_initrd "$file")
        else
            # One for other units too must not change those of the initrd.
            to=/etc/systemd/system/$unit.d/${file##*/}
        fi
        # It would replace the one that this module brings, and is read right after it instead.
        [[ $to != */50-initrd.conf ]] || to=${to%.conf}.root.conf
        inst_copy "$file" "$to"
        inst_named "$file"
    done
    return 0
}

# Prints where a unit or a drop-in of the root filesystem lies in the initrd: where it lies there,
# unless that is /run, which PID 1 mounts anew.
place_in_initrd() {
    case $1 in
        /run/systemd/transient/*) echo "/etc/systemd/system/${1#/run/systemd/transient/}" ;;
        /run/*) echo "/etc/${1#/run/}" ;;
        *) echo "$1" ;;
    esac
}

# Copies a file of the root filesystem that may have another path in the initrd, or be a link.
inst_copy() {
    inst_dir "${2%/*}"
    if ! cp -L "${dracutsysrootdir-}$1" "$initdir$2"; then
        dfatal "early-service: cannot copy $1 into the image"
        exit 1
    fi
    chmod 0644 "$initdir$2"
}

# Installs what a unit file names: programs and their configuration, files of variables and
# credentials, and accounts.
inst_named() {
    local line key value word

    while read -r line || [[ $line ]]; do
        [[ $line == [A-Z]*=* ]] || continue
        key=${line%%=*}
        key=${key%"${key##*[![:space:]]}"}
        value=${line#*=}
        case $key in
            Exec*)
                # Not always a path: systemd looks for a bare name where dracut does.
                read -r word _ <<< "$value"
                word=$(bare_word "$word")
                [[ -z $word || $word == /* ]] || inst_multiple -o "$word"
                inst_files_of "$key" "$value"
                ;;
            Environment | EnvironmentFile | LoadCredential | LoadCredentialEncrypted)
                inst_files_of "$key" "$value"
                ;;
            User | SocketUser)
                inst_account passwd "${value//[[:space:]]/}"
                ;;
            Group | SocketGroup | SupplementaryGroups)
                for word in $value; do
                    inst_account group "$word"
                done
                ;;
        esac
    done < <(sed -e ':a' -e '/\\$/{N;s/\\\n/ /;ba' -e '}' "${dracutsysrootdir-}$1")
}

# Prints a word of a unit file without its quotes and without what systemd.service(5) allows before a
# program's path.
bare_word() {
    local word=$1

    word=${word#"${word%%[!-@:+!|\"\']*}"}
    echo "${word%[\"\']}"
}

# Installs the files whose absolute paths stand in the value of a setting. What the root filesystem
# writes while it runs is not of the initrd's.
inst_files_of() {
    local key=$1 word path root=${dracutsysrootdir-} found
    local -a words

    read -r -a words <<< "$2"
    for word in "${words[@]}"; do
        path=$(bare_word "$word")
        # --option=/path, NAME=/path, name:/path
        if [[ $path =~ ^[^/]*[=:](/.*)$ ]]; then
            path=${BASH_REMATCH[1]}
        fi
        [[ $path == /* ]] || continue
        case $path in
            /dev/* | /proc/* | /run/* | /sys/* | /tmp/* | /var/*) continue ;;
        esac
        found=''
        # A file of variables may be given by a pattern.
        while read -r path; do
            if [[ -f $path ]]; then
                found=yes
                inst_multiple "${path#"$root"}"
            fi
        done < <(compgen -G "$root$path" || echo "$root$path")
        if [[ -z $found && $key == Exec* && $word == "${words[0]}" && $word != -* ]]; then
            dwarn "early-service: $key=$2 names a program that is not there"
        fi
    done
}

# Installs the line of an account. It is not made by sysusers: that would number the account anew, and
# the root stage could not open what the first stage owns.
inst_account() {
    local database=$1 name=$2 line file=$initdir/etc/$1

    # systemd knows root and nobody by itself, and a number needs no line.
    case $name in
        '' | root | *[!A-Za-z0-9_.-]*) return 0 ;;
        *[!0-9]*) ;;
        *) return 0 ;;
    esac
    if ! line=$(account "$database" "$name"); then
        dfatal "early-service: no $name in the $database database of the root filesystem:" \
            "without its number the first stage could not start, so no image is made"
        exit 1
    fi
    inst_dir /etc
    if [[ -e $file ]]; then
        # Whatever another module has written: the numbers must be those of the root filesystem.
        sed -i -e "/^$name:/d" "$file"
    fi
    printf '%s\n' "$line" >> "$file"
}

# Prints the line of an account, of passwd or group, wherever the root filesystem has it: in a file,
# in what the name service switch adds to it, or in a record for systemd-userdbd.
account() {
    local database=$1 name=$2 root=${dracutsysrootdir%/} record file suffix line

    if [[ -z $root ]] && line=$(getent "$database" "$name" 2> /dev/null); then
        printf '%s\n' "$line"
        return 0
    fi
    for file in "$root"/etc/"$database" "$root"/usr/lib/"$database"; do
        grep -s -m 1 "^$name:" "$file" && return 0
    done
    [[ $database == passwd ]] && suffix=user || suffix=group
    for file in "$root"/{etc,run,run/host,usr/local/lib,usr/lib}/userdb/"$name.$suffix"; do
        [[ -r $file ]] || continue
        record=$(< "$file")
        [[ $record =~ \"gid\"[[:space:]]*:[[:space:]]*([0-9]+) ]] || continue
        line=${BASH_REMATCH[1]}:
        if [[ $database == passwd ]]; then
            [[ $record =~ \"uid\"[[:space:]]*:[[:space:]]*([0-9]+) ]] || continue
            line=${BASH_REMATCH[1]}:$line:/:/usr/sbin/nologin
        fi
        printf '%s\n' "$name:x:$line"
        return 0
    done
    # It has a name service switch of its own, whose programs may be of another architecture.
    [[ $root ]] && chroot "$root" getent "$database" "$name" 2> /dev/null
}
