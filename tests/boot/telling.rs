// SPDX-License-Identifier: Apache-2.0
//! Telling: one boot and its figures for people to read. `scripts/boot` shows it.
//!
//! Lines are in the order of their events, not in the order in which journald received them:
//! journald starts later than the initrd stage, and is stopped for seconds around the switch of
//! root.

use crate::guest::Image;
use crate::journal::Record;
use crate::machine::Boot;
use crate::plan::Plan;
use crate::ticks::{PERIOD, ticks};
use std::fmt::Write as _;
use std::time::Duration;

/// An ordinary boot with a person in nc.
pub(crate) const TOLD: Plan = Plan {
    name: "told",
    clients: &["boot-nc", "boot-watch"],
    in_initrd: r"note_first; type_into_nc 'status\n'; wait_until nc_shows 1",
    in_root: r"
        wait_until root_serves && wait_until first_is_gone && sleep 2 && tell_left_of_first
        type_into_nc 'status\n'; wait_until nc_shows 2; tell nc < /run/boot-nc/out",
    // The kernel must not limit the lines of the watching client.
    cmdline: "printk.devkmsg=on",
    ..Plan::ORDINARY
};

/// Number of lines shown at the beginning and at the end of a run of numbers.
const SHOWN: usize = 3;

/// The log of both stages as text.
pub(crate) fn log(boot: &Boot) -> String {
    let mut records: Vec<_> = boot.journal.iter().filter(|record| is_told(record)).collect();
    records.sort_by_key(|record| record.made());
    let mut text = String::new();
    for (at, record) in records.iter().enumerate() {
        let is_tick = |at: usize| records.get(at).is_some_and(|r| r.number("COUNTER").is_some());
        let in_run = |at: usize| at < records.len() && is_tick(at);
        let is_inner = (at.saturating_sub(SHOWN)..=at + SHOWN).all(in_run);
        if is_inner {
            if !text.ends_with("…\n") {
                text += "…\n";
            }
            continue;
        }
        let message = record.message();
        let seconds = record.made().as_secs_f64();
        let pid = record.field("_PID").or(record.field("SYSLOG_PID")).unwrap_or_default();
        let _ = writeln!(text, "[{seconds:12.6}] {}[{pid}]: {message}", record.identifier());
        for (words, mark) in [("Switching root", "switch of root"), ("Adopting ", "handoff")] {
            if message.starts_with(words) {
                let _ = writeln!(text, "-------------- {mark} --------------");
            }
        }
    }
    text
}

/// The input and the output of nc in both stages.
pub(crate) fn nc(boot: &Boot) -> String {
    let mut text = "One nc, which sits there from the initrd on:\n\n".to_owned();
    for line in boot.lines("nc") {
        let _ = writeln!(text, "> status\n{line}");
    }
    text
}

/// The lines of our processes, and PID 1's lines about them and the switch. Lines before the
/// journal came from the kernel's log, without the unit's field.
fn is_told(record: &Record) -> bool {
    match record.identifier() {
        "early-service-initrd" | "early-service" => true,
        "systemd" => {
            ["early-service", "Switching root."].iter().any(|w| record.message().contains(w))
        }
        _ => false,
    }
}

/// The figures of a boot; an error names the missing event.
pub(crate) fn figures(boot: &Boot, image: &Image) -> Result<String, String> {
    let ticks = ticks(boot);
    let find = |words: &str, identifier: &str| {
        let mut records = boot.journal.iter();
        records
            .find(|record| record.identifier() == identifier && record.message().starts_with(words))
            .map(Record::made)
            .ok_or_else(|| format!("the journal does not say {words:?}"))
    };
    let init = find("systemd ", "systemd")?;
    let starting = find("Starting early-service-initrd.service", "systemd")?;
    let started = find("Started early-service-initrd.service", "systemd")?;
    let serving = find("Listening on UNIX socket", "early-service-initrd")?;
    let switch = find("Switching root.", "systemd")?;
    let drained = find("serving => draining", "early-service-initrd")?;
    let adopted = find("adopting => serving", "early-service")?;
    let first_tick = ticks.first().ok_or("no tick")?.actual;
    let last_of_first = ticks.iter().rfind(|tick| tick.stage == "initrd").ok_or("no tick")?.actual;
    let first_of_root = ticks.iter().find(|tick| tick.stage == "root").ok_or("no tick")?.actual;
    let added = image.added_to_initrd()?;
    let latest = ticks.iter().map(|tick| tick.late()).max().unwrap_or_default();

    let memory = |key: &str| {
        let said = boot.lines(key).next().ok_or_else(|| format!("nobody says {key:?}"))?;
        Ok::<_, String>(format!("{said} kB"))
    };
    let kilobytes = |bytes: usize| format!("{} kB", bytes.div_ceil(1000));

    let mut text = String::new();
    let mut line = |what: &str, figure: String| {
        let _ = writeln!(text, "{what:44} {figure:>10}");
    };
    let ms = |from: Duration, to: Duration| {
        format!("{:.1} ms", to.saturating_sub(from).as_secs_f64() * 1000.0)
    };
    line("PID 1 to first tick", ms(init, first_tick));
    line("initrd stage, Starting to first tick", ms(starting, first_tick));
    line("initrd stage, Starting to serving", ms(starting, serving));
    // PID 1 notices the start only after it has forked the other due services.
    line("initrd stage, Starting to Started", ms(starting, started));
    line("switch of root to handoff", ms(switch, drained));
    line("handoff, from freezing to serving", ms(drained, adopted));
    line(
        &format!("handoff, tick to tick (period {} ms)", PERIOD.as_millis()),
        ms(last_of_first, first_of_root),
    );
    line("latest tick after its deadline", ms(Duration::ZERO, latest));
    line("ticks", ticks.len().to_string());
    line("added to the initrd, by gzip", kilobytes(added));
    line("  of that the program", kilobytes(image.program_in_initrd()?));
    line("initrd stage, resident before the handoff", memory("first-Rss:")?);
    line("  of that anonymous", memory("first-Anonymous:")?);
    line("initrd stage, held after the handoff", held_after(boot)?);
    Ok(text)
}

/// Resources of the initrd stage after its handoff.
fn held_after(boot: &Boot) -> Result<String, String> {
    if boot.lines("first-looked-for").next().is_none() {
        return Err("nobody looked for what is left of the first stage".to_owned());
    }
    let left: Vec<_> = boot.lines("first-left").collect();
    Ok(if left.is_empty() { "nothing".to_owned() } else { left.join(", ") })
}
