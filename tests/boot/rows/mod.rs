// SPDX-License-Identifier: Apache-2.0
//! Rows: the scenarios, one file for each kind of trouble.

pub(crate) mod c_program;
mod can;
mod commands;
pub(crate) mod confinement;
mod dpkg;
mod dracut;
pub(crate) mod first_stage;
mod initramfs_tools;
mod newest;
mod older;
pub(crate) mod ordinary;
mod package;
mod reload;
mod root_stage;
pub(crate) mod rpm;
pub(crate) mod selinux;
mod soft_reboot;
mod starts;
pub(crate) mod surroundings;
mod two_services;
mod updates;
mod watchdog;

use crate::guest::Guest;
use crate::plan::{Plan, TreeRow};

/// The tests on one guest.
#[derive(Clone)]
pub(crate) struct Table {
    pub(crate) guest: Guest,
    /// Every boot.
    pub(crate) plans: Vec<Plan>,
    /// Rows that need only the guest's tree.
    pub(crate) tree_rows: Vec<TreeRow>,
}

impl Table {
    /// Number of rows.
    pub(crate) fn len(&self) -> usize {
        self.tree_rows.len() + self.plans.iter().map(|plan| plan.rows.len()).sum::<usize>()
    }
}

/// The released Debians have all rows that depend on the kernel, PID 1 or dracut. One of them has
/// the rows that depend only on our programs and on dpkg. The newest Debian has the rows that
/// depend on its kernel.
pub(crate) fn of(guest: Guest) -> Table {
    let plans = |of_one: &[&[Plan]]| [&of_any(), of_one.concat().as_slice()].concat();
    match guest {
        // This guest also boots the sabotages of these plans.
        Guest::Bookworm => Table {
            guest,
            plans: plans(&[c_program::PLANS, surroundings::OF_OUR_OWN]),
            tree_rows: tree_rows(),
        },
        Guest::Trixie => Table {
            guest,
            plans: plans(&[
                older::PLANS,
                root_stage::OF_OUR_OWN,
                soft_reboot::PLANS,
                two_services::PLANS,
                initramfs_tools::PLANS,
                updates::PLANS,
                watchdog::PLANS,
                can::PLANS,
            ]),
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
        reload::PLANS,
        first_stage::PLANS,
        confinement::PLANS,
        surroundings::PLANS,
        starts::PLANS,
    ]
    .concat()
}

/// Rows that need only a guest's tree.
fn tree_rows() -> Vec<TreeRow> {
    [package::ROWS, dpkg::ROWS, dracut::ROWS].concat()
}
