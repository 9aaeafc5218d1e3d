// SPDX-License-Identifier: Apache-2.0
//! The program `early-service`: counts from the initrd on, and hands the count to the root filesystem.

use std::process::ExitCode;

use early_service::machine::Counter;

fn main() -> ExitCode {
    early_service::main::<Counter>()
}

/// In the place of the unwinder's routine, for a release binary that has no unwinder (see `build.rs`).
///
/// The compiler then sees that no frame of a backtrace is ever printed, and leaves out the printer:
/// a third of the binary.
/// Where `RUST_BACKTRACE` asks for one, this is called after the panic's message is written.
#[cfg(without_unwinding)]
#[allow(
    unsafe_code,
    reason = "a symbol's name is a promise that no library has another meaning for it"
)]
#[unsafe(no_mangle)]
extern "C" fn _Unwind_Backtrace() -> ! {
    std::process::abort()
}
