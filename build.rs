// SPDX-License-Identifier: Apache-2.0
//! Build script: leaves the tables for unwinding the stack out of the release binary.
//!
//! They are a tenth of it (56 of 605 kB, 23 of 301 kB compressed), and nothing unwinds: the release
//! profile aborts on a panic.
//! What is lost is the backtrace of a panic; its message with file and line stays.
//!
//! Works with GNU ld and LLD, which both understand `INSERT` (ld(1), "Implicit Linker Scripts").

use std::env;
use std::error::Error;
use std::fs;
use std::path::Path;

const SCRIPT: &str = "\
SECTIONS {
  /DISCARD/ : { *(.eh_frame) *(.eh_frame_hdr) *(.gcc_except_table .gcc_except_table.*) }
} INSERT AFTER .text;
";

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=build.rs");
    if env::var("PROFILE")? == "release" && env::var("CARGO_CFG_TARGET_ENV")? == "gnu" {
        let script = Path::new(&env::var("OUT_DIR")?).join("without-unwinding.ld");
        fs::write(&script, SCRIPT)?;
        println!("cargo::rustc-link-arg-bins=-T{}", script.display());
    }
    Ok(())
}
