// SPDX-License-Identifier: Apache-2.0
//! Starts that fail, that take long, or that hang.

use crate::claims::Claims;
use crate::machine::Boot;
use crate::plan::{Plan, Row};
use crate::story;
use crate::ticks::{self, ticks};
use std::time::Duration;

pub(super) const PLANS: &[Plan] = &[
    Plan {
        name: "first-fails-for-ever",
        // Its group does not exist, so PID 1 fails before it executes the program.
        over_initrd: &[("/etc/group", "root:x:0:\n"), ("/etc/passwd", "root:x:0:0::/:/bin/sh\n")],
        in_initrd: r#"
            systemctl --version | { read -r _ version _; say version "$version"; }
            sleep 25"#,
        rows: &[Row {
            name: "a first stage that cannot start is tried ever less often",
            holds: slows,
        }],
        ..Plan::ORDINARY
    },
    Plan {
        name: "slow-set-up",
        // PID 1's child opens the file before it executes the program. Opening a FIFO blocks until
        // another process opens its other end.
        over_disk: &[
            (
                "/etc/systemd/system/early-service.service.d/slow.conf",
                "[Unit]\nWants=boot-fifo.service\nAfter=boot-fifo.service\n\
                 [Service]\nStandardInput=file:/boot-test/fifo\n",
            ),
            (
                "/etc/systemd/system/boot-fifo.service",
                "[Service]\nType=oneshot\nRemainAfterExit=yes\n\
                 ExecStart=/usr/bin/mkfifo /boot-test/fifo\n",
            ),
        ],
        clients: &["boot-storm"],
        in_root: r#"
            wait_until [ -p /boot-test/fifo ]
            sleep 8; : > /boot-test/fifo
            wait_until root_serves && wait_until first_is_gone && sleep 1
            # The next one waits for the lock, that is, it starts; and then it hangs, at once.
            systemctl stop early-service.service
            flock "$STATE" sleep 20 &
            systemctl start --no-block early-service.service
            : > /boot-test/fifo
            runs() { [ "$(cat "/proc/$(root_pid)/comm")" = early-service ]; }
            wait_until runs
            hung=$(root_pid); kill -STOP "$hung"
            say hangs "$(cut -d ' ' -f 1 /proc/uptime)"
            is_ended() { [ ! -e "/proc/$hung" ] || grep -q '^State:.*zombie' "/proc/$hung/status"; }
            wait_until is_ended
            say ended "$(cut -d ' ' -f 1 /proc/uptime)"
            : > /boot-test/fifo &
            wait_until root_serves"#,
        rows: &[
            Row { name: "a start is not ended while its sandbox is set up", holds: slow_set_up },
            Row { name: "a start that hangs is ended within five seconds", holds: hung_start },
        ],
        ..Plan::ORDINARY
    },
];

/// The first systemd release with `RestartSteps=`.
const STEPS: u32 = 254;

fn slows(boot: &Boot, claims: &mut Claims) {
    let version = boot.lines("version").next().unwrap_or_default();
    let knows_steps = version.parse::<u32>().is_ok_and(|version| version >= STEPS);
    let failures = story::of_unit(boot, story::FIRST, "Failed with result");
    let restarts = story::of_unit(boot, story::FIRST, "Scheduled restart");
    let at: Vec<_> = restarts.iter().map(|record| record.at()).collect();
    let gaps: Vec<_> = at.windows(2).map(|pair| pair[1].saturating_sub(pair[0])).collect();
    claims.that("it is tried again and again", at.len() > 3, format!("{at:?}"));
    let first = failures.first().zip(at.first()).map(|(failed, at)| at.saturating_sub(failed.at()));
    if knows_steps {
        // 10 ms and PID 1's other work; an older systemd waits for five seconds.
        let soon = first.is_some_and(|first| first < Duration::from_secs(2));
        claims.that("at first soon", soon, format!("{first:?}"));
        let slower = gaps.last().is_some_and(|last| *last > Duration::from_secs(2));
        claims.that("then ever more slowly", slower, format!("{gaps:?}"));
    } else {
        // The unit of the root filesystem may cause the last one; it is read at the switch of root.
        let in_initrd = &gaps[..gaps.len().saturating_sub(1)];
        let apart = in_initrd.iter().all(|gap| *gap >= Duration::from_secs(5));
        claims.that("five seconds apart", apart, format!("{gaps:?}"));
    }
    claims.that("few times in 25 seconds", at.len() <= 9, format!("{} times", at.len()));
    let ticks = ticks(boot);
    // A restart that is due at the switch of root happens after it. systemd 252 then checks the
    // unit's condition. 257 starts the unit before the root stage, which adopts from it as usual.
    let last = ticks.last().map_or("nobody", |tick| &*tick.stage);
    claims.that("the root stage serves", last == "root", last);
    ticks::each_once_from(0, &ticks, claims);
}

fn slow_set_up(boot: &Boot, claims: &mut Claims) {
    for words in ["timed out", "Failed with result 'timeout'"] {
        let complaints = story::of_unit(boot, story::ROOT, words).len();
        claims.that(&format!("PID 1 never comes to {words:?}"), complaints == 0, complaints);
    }
    let ticks = ticks(boot);
    let owners = ticks::owners(&ticks);
    let handed_over: Vec<_> = owners.iter().take(2).map(|ticks| &*ticks[0].stage).collect();
    claims.that(
        "the first start adopts",
        handed_over == ["initrd", "root"],
        handed_over.join(", "),
    );
    story::storm_is_never_refused(boot, 0, claims);
}

fn hung_start(boot: &Boot, claims: &mut Claims) {
    let second = |key| boot.lines(key).next().and_then(|line| line.parse::<f64>().ok());
    let took = second("ended").zip(second("hangs")).map(|(ended, hangs)| ended - hangs);
    claims.that("within five seconds", took.is_some_and(|took| took < 5.0), format!("{took:?}"));
    let watchdog = story::of_unit(boot, story::ROOT, "Watchdog timeout").len();
    claims.that("by its watchdog", watchdog == 1, watchdog);
}
