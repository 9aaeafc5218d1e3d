// SPDX-License-Identifier: Apache-2.0
//! Trial of a state: what its trait promises and the compiler cannot check.

use early_service_machine::contract;
use early_service_machine::state::Text;

use crate::service::Service;

/// The most ticks that are compared with as many single ones.
const TICKS: u64 = 100;

/// Checks states and the lines of clients: give the longest states, and a line of each command.
///
/// Each line is applied to each state. A program in which one of these promises is broken loses
/// commands or its state, or breaks off in a debug build.
///
/// # Errors
///
/// Returns the first promise that does not hold:
///
/// - the fields are `key=value` pairs of at most `MAX_FIELDS` bytes, without a reserved key, and
///   `read` reads the same state from them;
/// - `parse` reads the output of `write_text`, if the state has `HAND_OVER`;
/// - `command` reads each line, and reads the same command from its text form;
/// - a reply has at most `MAX_REPLY` bytes, and the text for another line at most `MAX_EXPECTED`;
/// - a command that is no change changes nothing;
/// - `tick_many` does the same as as many ticks.
pub fn state<S: Service>(samples: &[S], lines: &[&str]) -> Result<(), String> {
    for sample in samples.iter().chain([&S::default()]) {
        whole(sample).map_err(|wrong| format!("{sample:?}: {wrong}"))?;
        for line in lines {
            let mut state = *sample;
            apply(&mut state, line)
                .and_then(|()| whole(&state))
                .map_err(|wrong| format!("{sample:?}, {line:?}: {wrong}"))?;
        }
        ticks(sample).map_err(|wrong| format!("{sample:?}: {wrong}"))?;
    }
    Ok(())
}

/// Whether the state survives being written and read.
fn whole<S: Service>(state: &S) -> Result<(), String> {
    contract::check(state).map_err(|breach| breach.to_string())?;
    let text = Text(*state).to_string();
    if !S::HAND_OVER.is_empty() && S::parse(text.as_bytes()) != Some(*state) {
        return Err(format!("parse does not read {text:?}, the text form, as the same state"));
    }
    Ok(())
}

fn apply<S: Service>(state: &mut S, line: &str) -> Result<(), String> {
    let refused = |why: &str| match why.len() <= S::MAX_EXPECTED {
        true => format!("command refuses the line: {why}"),
        false => format!("a text of {} bytes, and MAX_EXPECTED is {}", why.len(), S::MAX_EXPECTED),
    };
    let command = S::command(line.as_bytes()).map_err(refused)?;
    let text = command.to_string();
    if S::command(text.as_bytes()) != Ok(command) {
        return Err(format!("command does not read {text:?}, its text form, as the same command"));
    }
    let before = *state;
    let reply = state.apply(command).to_string();
    if reply.len() > S::MAX_REPLY || reply.contains('\n') {
        let (length, most) = (reply.len(), S::MAX_REPLY);
        return Err(format!("a reply of {length} bytes, and MAX_REPLY is {most}: {reply:?}"));
    }
    if *state != before && !S::is_change(&command) {
        return Err("is_change is false, and apply changes the state".to_owned());
    }
    Ok(())
}

fn ticks<S: Service>(sample: &S) -> Result<(), String> {
    let (mut at_once, mut one_by_one) = (*sample, *sample);
    if !at_once.tick_many(TICKS) {
        at_once = *sample;
        (0..TICKS).for_each(|_| at_once.tick());
    }
    for _ in 0..TICKS {
        one_by_one.tick();
        whole(&one_by_one)?;
    }
    match at_once == one_by_one {
        true => Ok(()),
        false => Err(format!("tick_many({TICKS}) differs from as many ticks")),
    }
}
