// SPDX-License-Identifier: Apache-2.0
//! The ordinary boot: nobody fails, clients watch from the initrd to power-off.

use crate::claims::Claims;
use crate::machine::Boot;
use crate::plan::{Plan, Row};
use crate::ticks::{self, PERIOD, ticks};

pub(super) const PLANS: &[Plan] = &[Plan {
    clients: &["boot-storm", "boot-sit", "boot-nc"],
    rows: &[Row { name: "ordinary boot: numbers", holds: numbers }],
    ..Plan::ORDINARY
}];

fn numbers(boot: &Boot, claims: &mut Claims) {
    let ticks = ticks(boot);
    ticks::each_once_from(0, &ticks, claims);
    ticks::on_time(PERIOD, &ticks, claims);
}
