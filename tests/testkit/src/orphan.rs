// SPDX-License-Identifier: Apache-2.0
//! Orphan: a process that a process under test has started, and has left behind.

use rustix::process::{Pid, WaitOptions, getpid, set_child_subreaper, waitpid};

/// Makes this process the parent of orphans, as PID 1 is, so that it learns how they end.
pub fn adopt_all() {
    set_child_subreaper(Some(getpid())).expect("Linux 3.4");
}

/// Waits for the end of a process that this process has started or adopted; fails if it did not
/// end with success.
pub fn succeeds(pid: u32) -> Result<(), String> {
    let raw = i32::try_from(pid).ok().and_then(Pid::from_raw);
    let status = waitpid(raw, WaitOptions::empty());
    match status.map(|ended| ended.and_then(|(_, status)| status.exit_status())) {
        Ok(Some(0)) => Ok(()),
        _ => Err(format!("process {pid} ended with {status:?}")),
    }
}
