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

/// On the released Debians, all rows that depend on the kernel, PID 1 or dracut; what depends only
/// on our programs and on dpkg is booted on one of them. On the newest Debian, what depends on its
/// kernel.
pub(crate) fn of(guest: Guest) -> Table {
    let plans = |of_one: &[&[Plan]]| [&of_any(), of_one.concat().as_slice()].concat();
    match guest {
        // The sabotages of these plans are booted on this guest too.
        Guest::Bookworm => Table {
            guest,
            plans: plans(&[c_program::PLANS, surroundings::OF_OUR_OWN]),
            tree_rows: tree_rows(),
        },
        Guest::Trixie => Table {
            guest,
            plans: plans(&[older::PLANS, root_stage::OF_OUR_OWN, updates::PLANS]),
            tree_rows: tree_rows(),
        },
        Guest::Sid => newest::table(),
    }
}

/// The boots of every released Debian.
fn of_any() -> Vec<Plan> {
    [
        ordinary::PLANS,
        commands::PLANS,
        root_stage::PLANS,
        first_stage::PLANS,
        confinement::PLANS,
        surroundings::PLANS,
        starts::PLANS,
    ]
    .concat()
}

/// What is proved in a guest's tree, without a boot.
fn tree_rows() -> Vec<TreeRow> {
    [package::ROWS, dpkg::ROWS, dracut::ROWS].concat()
}
