// SPDX-License-Identifier: Apache-2.0
//! Rows: the scenarios, one file for each kind of trouble.

pub(crate) mod c_program;
mod commands;
pub(crate) mod confinement;
mod dpkg;
mod dracut;
pub(crate) mod first_stage;
mod newest;
mod older;
pub(crate) mod ordinary;
mod package;
mod root_stage;
pub(crate) mod rpm;
pub(crate) mod selinux;
mod starts;
pub(crate) mod surroundings;
mod updates;

use crate::guest::Guest;
use crate::plan::{Plan, TreeRow};

/// What is tried on one guest.
#[derive(Clone)]
pub(crate) struct Table {
    pub(crate) guest: Guest,
    /// Every boot.
    pub(crate) plans: Vec<Plan>,
    /// What is proved in the guest's tree, without a boot.
    pub(crate) tree_rows: Vec<TreeRow>,
}

impl Table {
    /// How many rows it has.
    pub(crate) fn len(&self) -> usize {
        self.tree_rows.len() + self.plans.iter().map(|plan| plan.rows.len()).sum::<usize>()
    }
}

/// All of it on the released Debians; on the newest one, what depends on the kernel and on PID 1.
pub(crate) fn of(guest: Guest) -> Table {
    match guest {
        Guest::Bookworm | Guest::Trixie => Table { guest, plans: plans(), tree_rows: tree_rows() },
        Guest::Sid => newest::table(),
    }
}

fn plans() -> Vec<Plan> {
    [
        ordinary::PLANS,
        commands::PLANS,
        root_stage::PLANS,
        first_stage::PLANS,
        confinement::PLANS,
        older::PLANS,
        c_program::PLANS,
        surroundings::PLANS,
        starts::PLANS,
        updates::PLANS,
    ]
    .concat()
}

/// What is proved in a guest's tree, without a boot.
fn tree_rows() -> Vec<TreeRow> {
    [package::ROWS, dpkg::ROWS, dracut::ROWS].concat()
}
