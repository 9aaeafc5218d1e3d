// SPDX-License-Identifier: Apache-2.0
//! Over: tells a thread that it is no longer needed, whether the row ended well or not.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Held by whoever started the thread; when it is dropped, the thread ends.
#[derive(Default)]
pub(crate) struct Over(Arc<AtomicBool>);

/// Held by the thread.
pub(crate) struct Whether(Arc<AtomicBool>);

impl Over {
    pub(crate) fn whether(&self) -> Whether {
        Whether(Arc::clone(&self.0))
    }
}

impl Drop for Over {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Whether {
    pub(crate) fn is_over(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}
