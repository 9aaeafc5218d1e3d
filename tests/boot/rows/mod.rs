// SPDX-License-Identifier: Apache-2.0
//! Rows: the scenarios, one file for each kind of trouble.

mod ordinary;

use crate::plan::Plan;

/// Every boot of the suite.
pub(crate) const PLANS: &[&[Plan]] = &[ordinary::PLANS];
