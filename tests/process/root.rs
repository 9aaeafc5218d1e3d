// SPDX-License-Identifier: Apache-2.0
//! Root: the first stage across a switch of root, by either way that a kernel has.
//!
//! A PID 1 of a namespace of its own stands for systemd. Up to Linux 6 systemd moves the mounts and
//! changes its own root directory; from 7.0 on pivot_root(2) succeeds in an initramfs and moves every
//! process along. Both calls exist on every kernel, so both ways are tried on whichever runs here.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::process::{Signal, geteuid};

use crate::daemon::{Daemon, binary};
use crate::manager::Manager;
use crate::scratch::Scratch;
use crate::until;

const FOLLOWED: &str = "Followed PID 1 to the root filesystem";

/// PID 1's script: an initrd with everything of the host in it, another file system on `/sysroot`,
/// and the first stage; then the steps of one test, each when its file is there.
///
/// It gives up after the test has ended, because its pipe is closed then.
const INIT: &str = r#"
    scratch=$1; steps=$2; shift 2
    make_root() {
        mount -t tmpfs "$1" "$1"
        for each in /*; do
            [ -d "$each" ] && [ ! -L "$each" ] || { cp -a "$each" "$1/" && continue; }
            case $each in "$1" | /sysroot | /old) continue ;; esac
            mkdir "$1$each" && mount --rbind "$each" "$1$each"
        done
        mkdir -p "$1/sysroot" "$1/old" "$1/etc-of-it"
    }
    mark() { cp -a /etc "$1/"; umount -R ...; }
"#;
