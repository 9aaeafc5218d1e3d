// SPDX-License-Identifier: Apache-2.0
//! The generated service in an initrd of initramfs-tools, which has no systemd: a script starts it.
//! On the root filesystem, udev applies the rule for its device.

use crate::claims::Claims;
use crate::generated::Builder;
use crate::machine::Boot;
use crate::plan::{Plan, Row};
use crate::rows::two_services::{numbers, status_has};
use crate::story;

pub(super) const PLANS: &[Plan] = &[Plan {
    name: "initramfs-tools",
    generated: Some(Builder::InitramfsTools),
    // These units are masked in the guest.
    off_disk: &[
        "/etc/systemd/system/modprobe@.service",
        "/etc/systemd/system/systemd-udev-trigger.service",
        "/etc/systemd/system/systemd-udevd-control.socket",
        "/etc/systemd/system/systemd-udevd-kernel.socket",
        "/etc/systemd/system/systemd-udevd.service",
    ],
    in_root: r#"
        ask() { echo status | nc -N -U /run/pulse/pulse.sock | tell "$1"; }
        tell_node() { stat -c '%U %a' /dev/watchdog | tell "$1"; }
        serves() { systemctl -q is-active pulse.service; }
        wait_until serves; sleep 2; ask adopted; tell_node "node at boot"
        # Then nobody has the device open: PID 1 keeps it only while the service is restarted.
        systemctl stop pulse.service; rmmod i6300esb
        ls /dev | grep watchdog | tell "left of the device"
        systemctl start pulse.service; ask opened; tell_node "new node""#,
    rows: &[
        Row { name: "initramfs-tools: its initrd stage hands over", holds: hands_over },
        Row { name: "initramfs-tools: the account may open the device", holds: opens },
    ],
    ..Plan::ORDINARY
}];

fn hands_over(boot: &Boot, claims: &mut Claims) {
    let says = |words: &str| story::of_stage(boot, "pulse-initrd", words).len() == 1;
    for words in ["Opened the device", "Followed PID 1 to the root filesystem", story::ADOPTED] {
        claims.that(&format!("the initrd stage logs '{words}' once"), says(words), "it does not");
    }
    let numbers = numbers(boot, "pulse");
    let processes: Vec<_> = numbers.chunk_by(|one, next| one.0 == next.0).collect();
    let lengths: Vec<_> = processes.iter().map(|chunk| chunk.len()).collect();
    let is_each = lengths.len() >= 2 && lengths.iter().take(2).all(|length| *length > 5);
    claims.that("both stages tick, one after the other", is_each, format!("{lengths:?}"));
    let adopted: Vec<_> = processes.iter().take(2).copied().flatten().collect();
    // A number before the first one of the journal is not in the kernel log.
    let odd = adopted.windows(2).find(|pair| pair[1].1 != pair[0].1 + 1);
    claims.that("no number is lost, and none comes twice", odd.is_none(), format!("{odd:?}"));
    let predecessor = format!("predecessor={}", numbers.first().map_or(0, |(pid, _)| *pid));
    let expected = ["stage=root", "origin=adopted", &predecessor, "device=running"];
    status_has(boot, "adopted", &expected, claims);
    claims.that("the machine is not reset", !boot.was_reset, "its watchdog fired");
    story::fails_never(boot, "pulse.service", claims);
}

fn opens(boot: &Boot, claims: &mut Claims) {
    for node in ["node at boot", "new node"] {
        let access: Vec<_> = boot.lines(node).collect();
        claims.that(&format!("{node}: of the account"), access == ["pulse 600"], access.join(", "));
    }
    let left: Vec<_> = boot.lines("left of the device").collect();
    claims.that("the device is gone meanwhile", left.is_empty(), left.join(", "));
    let opened = story::of_stage(boot, "pulse", "Opened the device");
    status_has(boot, "opened", &["stage=root", "origin=recovered", "device=running"], claims);
    claims.that("it is opened once", opened.len() == 1, opened.len());
}
