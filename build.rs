// SPDX-License-Identifier: Apache-2.0
//! Build script: leaves out of the release binary what it takes to unwind the stack.
//!
//! Nothing unwinds there: the release profile aborts on a panic.
//! What is lost is the backtrace of a panic; its message with file and line stays, and so does the
//! core dump.
//!
//! | left out | how | kB | kB, compressed |
//! | --- | --- | --- | --- |
//! | tables | discarded by the linker | 56 | 23 |
//! | printer of backtraces, with its reader of debug data | nobody calls it, see `main.rs` | 198 | 88 |
//! | libgcc_s, a library to load: 9 system calls | nobody needs it | another file | |
//!
//! Works with LLD and GNU ld (ld(1), "Implicit Linker Scripts"); GNU ld keeps loading libgcc_s.

use std::env;
use std::error::Error;
use std::fs;
use std::path::Path;

/// What `std` needs of an unwinder is the routine of `main.rs`, under all its names.
const SCRIPT: &str = "\
HIDDEN(_Unwind_GetDataRelBase = _Unwind_Backtrace);
HIDDEN(_Unwind_GetIPInfo = _Unwind_Backtrace);
HIDDEN(_Unwind_GetLanguageSpecificData = _Unwind_Backtrace);
HIDDEN(_Unwind_GetRegionStart = _Unwind_Backtrace);
HIDDEN(_Unwind_GetTextRelBase = _Unwind_Backtrace);
HIDDEN(_Unwind_Resume = _Unwind_Backtrace);
HIDDEN(_Unwind_SetGR = _Unwind_Backtrace);
HIDDEN(_Unwind_SetIP = _Unwind_Backtrace);
SECTIONS {
  /DISCARD/ : { *(.eh_frame) *(.eh_frame_hdr) *(.gcc_except_table .gcc_except_table.*) }
} INSERT AFTER .text;
";

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rustc-check-cfg=cfg(without_unwinding)");
    // A static C library brings the unwinder along, whoever calls it.
    let is_static = env::var("CARGO_CFG_TARGET_FEATURE")?.contains("crt-static");
    let is_gnu = env::var("CARGO_CFG_TARGET_ENV")? == "gnu";
    if env::var("PROFILE")? == "release" && is_gnu && !is_static {
        let script = Path::new(&env::var("OUT_DIR")?).join("without-unwinding.ld");
        fs::write(&script, SCRIPT)?;
        println!("cargo::rustc-cfg=without_unwinding");
        println!("cargo::rustc-link-arg-bins=-T{}", script.display());
    }
    Ok(())
}
