// SPDX-License-Identifier: Apache-2.0
//! Replacement of the unwinder in a program that aborts on a panic.
//!
//! The standard library contains code that prints backtraces: 200 kB that are read from slow
//! storage before the first tick. Because [`_Unwind_Backtrace`] never returns here, the compiler
//! sees that no frame is ever printed, and omits that code. The other functions here are those to
//! which the standard library also refers, so that libgcc_s is not loaded.
//!
//! The panic's message with its file and line is printed as usual, and the tables that describe the
//! stack (`.eh_frame`) stay in the program, so that a core dump has a stack. Only
//! `RUST_BACKTRACE=1` has no effect: the process aborts where the backtrace would begin.
//!
//! All of this depends on `panic = "abort"`; the Cargo feature `backtrace` keeps the printing code.
//! A static C library brings its own unwinder, and so does musl.
#![cfg(all(
    panic = "abort",
    not(feature = "backtrace"),
    target_env = "gnu",
    not(target_feature = "crt-static"),
))]
#![allow(
    unsafe_code,
    reason = "a symbol's name is a promise that no library has another meaning for it"
)]

use std::arch::global_asm;
use std::ffi::{c_int, c_void};
use std::process::abort;

/// Defines functions of the unwinder that abort; hidden, so that no library calls them.
macro_rules! define {
    ($($name:ident($($parameter:ty),*) -> $result:ty;)*) => {
        $(
            #[unsafe(no_mangle)]
            extern "C" fn $name($(_: $parameter),*) -> $result {
                abort()
            }
            global_asm!(concat!(".hidden ", stringify!($name)));
        )*
    };
}

define! {
    _Unwind_Backtrace(*const c_void, *mut c_void) -> c_int;
    _Unwind_GetDataRelBase(*mut c_void) -> usize;
    _Unwind_GetIPInfo(*mut c_void, *mut c_int) -> usize;
    _Unwind_GetLanguageSpecificData(*mut c_void) -> *const c_void;
    _Unwind_GetRegionStart(*mut c_void) -> usize;
    _Unwind_GetTextRelBase(*mut c_void) -> usize;
    _Unwind_Resume(*mut c_void) -> !;
    _Unwind_SetGR(*mut c_void, c_int, usize) -> ();
    _Unwind_SetIP(*mut c_void, usize) -> ();
}
