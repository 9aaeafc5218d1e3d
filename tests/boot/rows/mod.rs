// SPDX-License-Identifier: Apache-2.0
//! Rows: the scenarios, one file for each kind of trouble.

mod commands;
pub(crate) mod confinement;
pub(crate) mod first_stage;
mod older;
pub(crate) mod ordinary;
mod package;
mod root_stage;
pub(crate) mod rpm;
pub(crate) mod selinux;
pub(crate) mod surroundings;

use crate::plan::{Plan, TreeRow};

/// Every boot of the suite.
pub(crate) fn plans() -> Vec<Plan> {
    [
        ordinary::PLANS,
        commands::PLANS,
        root_stage::PLANS,
        first_stage::PLANS,
        confinement::PLANS,
        older::PLANS,
        surroundings::PLANS,
    ]
    .concat()
}

/// What is proved in a guest's tree, without a boot.
pub(crate) const TREE_ROWS: &[TreeRow] = package::ROWS;
