#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Installs the initrd stage: the program, its two units with the changes that the administrator has
# made on the root filesystem, and the accounts that these units name. Does not install a shell, a
# journal or systemd.
#
# dracut ignores the exit status of install(). If a required file is missing, this module exits and
# so ends the build.

# shellcheck disable=SC2154 # dracut sets the variables in lower case.
check() {
    # shellcheck source=dracut/50early-service/wanted.sh
    . "$moddir"/wanted.sh
    early_service_is_wanted
}

# The module requires systemd as PID 1 of the initrd, but does not name the dracut module `systemd`:
# that would add it to images in which another module, such as systemd-initrd-automotive, installs
# systemd.
depends() {
    return 0
}

install() {
    local restart

    # Not in check(), because the list of modules is not complete there.
    if ! starts_systemd; then
        dinfo "early-service: not included, because this image has no systemd as PID 1"
        return 0
    fi
    if dracut_module_included kdumpbase || dracut_module_included kdump; then
        dinfo "early-service: not included, because a kdump image does not start the root stage"
        return 0
    fi

    inst_multiple early-service
    inst_account passwd early-service
    inst_account group early-service

    # Each unit gets a drop-in with the settings that apply only in the initrd.
    if inst_unit early-service.socket; then
        inst_simple "$moddir"/initrd-socket.conf \
            "$systemdsystemunitdir"/early-service.socket.d/50-initrd.conf
    fi
    inst_unit early-service-initrd.service || return 0
    inst_simple "$moddir"/initrd-service.conf \
        "$systemdsystemunitdir"/early-service-initrd.service.d/50-initrd.conf
    # systemd reads this drop-in after the one above and before those of the administrator.
    restart=$systemdsystemunitdir/early-service-initrd.service.d/50-initrd.delay.conf
    if knows_restart_steps; then
        inst_simple "$moddir"/initrd-backoff.conf "$restart"
    fi
}

# Succeeds if PID 1 of the image is systemd. A module that installs systemd may run after this one,
# so modules are recognised by name. If the image contains the module `base` and not `systemd`, PID
# 1 is a script. If it contains neither, another module installs PID 1; this is taken to be systemd,
# because the image was configured to include early-service.
starts_systemd() {
    # shellcheck disable=SC2154
    [[ -e $initdir$systemdutildir/systemd ]] && return 0
    # shellcheck disable=SC2154
    [[ " $mods_to_load $modules_loaded " == *" systemd "* ]] && return 0
    [[ " $mods_to_load $modules_loaded " == *" systemd-initrd"* ]] && return 0
    ! dracut_module_included base
}

# Succeeds if the systemd of the image supports RestartSteps= (254 or newer). Searches for the name
# in the files of systemd, because a systemd for another architecture cannot be executed.
knows_restart_steps() {
    local root=${dracutsysrootdir-}

    grep -qs RestartMaxDelaySec "$root$systemdutildir"/systemd \
        "$root"/usr/lib*/systemd/libsystemd-core-*.so \
        "$root"/usr/lib*/*/systemd/libsystemd-core-*.so
}

# Installs a unit as `systemctl cat` shows it on the root filesystem: the unit file, its drop-ins,
# and the programs, files and accounts that these name. Returns 1 if the unit is masked.
inst_unit() {
    local unit=$1 root=${dracutsysrootdir-} directory file fragment='' to
    local -a directories=()
    local -A dropins=()
    # The unit search path (systemd.unit(5)), in order of priority. The directories of generators
    # are not included, because generators run at each boot.
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
        dfatal "early-service: cannot find the unit $unit on the root filesystem"
        exit 1
    fi
    # A symbolic link to /dev/null and an empty file both mask a unit.
    if [[ ! -s $root$fragment ]]; then
        dinfo "early-service: $unit is masked, not included"
        return 1
    fi
    to=$(place_in_initrd "$fragment")
    inst_copy "$fragment" "$to"
    inst_named "$fragment"

    # Not with systemctl, which requires initrd.target: a later module may install that.
    if [[ $unit == *.service ]]; then
        inst_dir "$systemdsystemunitdir"/initrd.target.wants
        ln_r "$to" "$systemdsystemunitdir"/initrd.target.wants/"$unit"
    fi

    # Of several drop-ins with the same name systemd uses the first. Drop-ins for the unit or for a
    # prefix of its name precede those for all units of its type.
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
            # This drop-in also applies to other units, which it must not change in the initrd.
            to=/etc/systemd/system/$unit.d/${file##*/}
        fi
        # A file with the name of the drop-in of this module is renamed, so that systemd reads both.
        [[ $to != */50-initrd.conf ]] || to=${to%.conf}.root.conf
        inst_copy "$file" "$to"
        inst_named "$file"
    done
    return 0
}

# Prints the path in the initrd of a unit or a drop-in of the root filesystem. The path is the same,
# except for files in /run, because PID 1 mounts an empty /run.
place_in_initrd() {
    case $1 in
        /run/systemd/transient/*) echo "/etc/systemd/system/${1#/run/systemd/transient/}" ;;
        /run/*) echo "/etc/${1#/run/}" ;;
        *) echo "$1" ;;
    esac
}

# Copies a file of the root filesystem to a path in the initrd. Follows symbolic links.
inst_copy() {
    inst_dir "${2%/*}"
    if ! cp -L "${dracutsysrootdir-}$1" "$initdir$2"; then
        dfatal "early-service: cannot copy $1 into the image"
        exit 1
    fi
    chmod 0644 "$initdir$2"
}

# Installs what a unit file names: programs and their configuration files, environment files,
# credentials and accounts.
inst_named() {
    local line key value word

    while read -r line || [[ $line ]]; do
        [[ $line == [A-Z]*=* ]] || continue
        key=${line%%=*}
        key=${key%"${key##*[![:space:]]}"}
        value=${line#*=}
        case $key in
            Exec*)
                # systemd and dracut search the same directories for a name without a path.
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

# Prints a word of a unit file without quotes and without the prefixes that systemd.service(5)
# allows before the path of a program.
bare_word() {
    local word=$1

    word=${word#"${word%%[!-@:+!|\"\']*}"}
    echo "${word%[\"\']}"
}

# Installs the files whose absolute paths occur in the value of a setting, except for files that are
# created while the system runs.
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
        # The value of EnvironmentFile= may be a pattern.
        while read -r path; do
            if [[ -f $path ]]; then
                found=yes
                inst_multiple "${path#"$root"}"
            fi
        done < <(compgen -G "$root$path" || echo "$root$path")
        if [[ -z $found && $key == Exec* && $word == "${words[0]}" && $word != -* ]]; then
            dwarn "early-service: cannot find the program of $key=$2"
        fi
    done
}

# Copies the line of an account into the initrd. sysusers cannot create the account there, because
# it might choose another number than on the root filesystem, and the root stage could then not open
# the files of the initrd stage.
inst_account() {
    local database=$1 name=$2 line file=$initdir/etc/$1

    # systemd does not look up root, and a number needs no line.
    case $name in
        '' | root | *[!A-Za-z0-9_.-]*) return 0 ;;
        *[!0-9]*) ;;
        *) return 0 ;;
    esac
    if ! line=$(account "$database" "$name"); then
        dfatal "early-service: cannot find the $database entry of $name on the root filesystem;" \
            "the initrd stage cannot start without this account, so no image is written"
        exit 1
    fi
    inst_dir /etc
    if [[ -e $file ]]; then
        # Another module may have written another number than that of the root filesystem.
        sed -i -e "/^$name:/d" "$file"
    fi
    printf '%s\n' "$line" >> "$file"
}

# Prints the passwd or group line of an account of the root filesystem: from a file, from the name
# service switch, or from a record of systemd-userdbd.
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
    # Use the name service switch of that root; this fails if its programs are for another
    # architecture.
    [[ $root ]] && chroot "$root" getent "$database" "$name" 2> /dev/null
}
