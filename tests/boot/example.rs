// SPDX-License-Identifier: Apache-2.0
//! Example: a program of `examples` in the place of the service, with its hardware.

use crate::cache::{self, Inputs};
use crate::guest::{Guest, Image};
use crate::machine::Setting;
use crate::tools::{self, output};
use std::fs;
use std::path::PathBuf;
use std::process::Command;

/// A program of `examples`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Example {
    Watchdog,
    Can,
}

impl Example {
    /// The modules of the bus, and those that the full kernel needs for the disk, in their order.
    const CAN_MODULES: [&str; 10] = [
        "crc16.ko.xz",
        "mbcache.ko.xz",
        "jbd2.ko.xz",
        "crc32c_generic.ko.xz",
        "ext4.ko.xz",
        "virtio_blk.ko.xz",
        "can.ko.xz",
        "can-raw.ko.xz",
        "can-dev.ko.xz",
        "vcan.ko.xz",
    ];

    /// Adds the program and the modules of its hardware to a boot.
    pub(crate) fn add_to(self, setting: &mut Setting, image: &Image) -> Result<(), String> {
        let mut add = |path: &str, contents| setting.over_initrd.push((path.to_owned(), contents));
        let name = match self {
            Self::Watchdog => {
                for module in ["watchdog.ko.xz", "i6300esb.ko.xz", "softdog.ko.xz"] {
                    add(&format!("/boot-test/{module}"), image.driver(module));
                }
                "watchdog"
            }
            Self::Can => {
                let full = full_kernel(image.guest, &Self::CAN_MODULES)?;
                for module in Self::CAN_MODULES {
                    add(&format!("/boot-test/{module}"), tools::read(&full.join(module)));
                }
                let insert = |module| format!("/usr/sbin/insmod /boot-test/{module}\n");
                let script = ["#!/bin/sh -e\n".to_owned()].into_iter();
                let script = script.chain(Self::CAN_MODULES.map(insert)).collect::<String>();
                add("/boot-test/modules.sh", script.into_bytes());
                add("/usr/bin/can_client", image.example("can_client"));
                setting.kernel = Some(full.join("kernel"));
                "can"
            }
        };
        let program = ("/usr/bin/early-service".to_owned(), image.example(name));
        setting.over_initrd.push(program.clone());
        setting.over_disk.push(program);
        Ok(())
    }
}

/// The suite's kernel for all hardware: `kernel`, and the modules with these names. The usual
/// kernel, for clouds, lacks the CAN bus.
fn full_kernel(guest: Guest, modules: &[&str]) -> Result<PathBuf, String> {
    const TAKE: &str = r#"
        mv "$1/tree/boot"/vmlinuz-* "$1/kernel"
        directory=$1; shift
        for module; do
            find "$directory/tree/usr/lib/modules" -name "$module" -exec mv {} "$directory" \;
        done
        rm -r "$directory/tree""#;
    let inputs = modules.iter().fold(Inputs::new(), |inputs, name| inputs.with(name.as_bytes()));
    cache::entry(&format!("{}-kernel", guest.suite()), &inputs, |to| {
        fs::create_dir(to).map_err(|error| format!("cannot make {}: {error}", to.display()))?;
        let mut strap = Command::new("mmdebstrap");
        strap.args(["--quiet", "--variant=extract", "--format=directory"]);
        strap.args(["--include=linux-image-amd64", "--aptopt=Acquire::Languages \"none\""]);
        strap.arg(guest.suite()).arg(to.join("tree"));
        output("mmdebstrap", strap.args(std::env::var_os("DEBIAN_MIRROR")))?;
        let mut take = Command::new("sh");
        output("sh", take.args(["-euc", TAKE, "sh"]).arg(to).args(modules)).map(drop)
    })
}
