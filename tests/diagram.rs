// SPDX-License-Identifier: Apache-2.0
//! Diagram: the states of the lifecycle in `docs/architecture.md`, drawn from `Lifecycle::step`.
//!
//! Visits every lifecycle that events can lead to, with every event, and draws the results as
//! Mermaid text, which GitHub shows as a picture. Nothing is drawn from a separate list, so a new
//! or changed transition fails this test until the page is changed as well.

use early_service_machine::lifecycle::{Event, Lifecycle, Phase};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

/// The marks around the diagram.
const BEGIN: &str = "<!-- lifecycle: drawn by tests/diagram.rs -->\n";
const END: &str = "<!-- lifecycle: end -->\n";

/// A lifecycle in the diagram: a phase, and its stage if that has a name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct State {
    phase: String,
    inner: Option<String>,
}

impl State {
    /// `AskingWithLock(Adopting(Asking(Ours)))` is asking, ours, in Adopting;
    /// `Serving(Serving(()))` has no stage.
    fn of(lifecycle: &Lifecycle) -> Self {
        let text = format!("{lifecycle:?}");
        let mut names = text.split(['(', ')']).filter(|name| !name.is_empty()).skip(1);
        let phase = names.next().expect("a variant contains the type of its phase").to_owned();
        let inner: Vec<_> = names.map(str::to_lowercase).collect();
        Self { phase, inner: (!inner.is_empty()).then(|| inner.join(", ")) }
    }

    /// The name of the state in arrows.
    fn id(&self) -> String {
        self.inner.as_ref().map_or_else(|| self.phase.clone(), |inner| inner.replace(", ", "_"))
    }
}

/// A lifecycle, kept as the events that lead to it, because it cannot be copied.
struct Place {
    state: State,
    way: Vec<Event>,
}

/// Every possible lifecycle, in the order of discovery.
fn places() -> Vec<Place> {
    let mut known = HashSet::from([Lifecycle::new()]);
    let mut places = vec![Place { state: State::of(&Lifecycle::new()), way: Vec::new() }];
    let mut next = 0;
    while let Some(Place { way, .. }) = places.get(next) {
        let way = way.clone();
        for event in Event::ALL {
            let there = arrive(&way).step(event).0;
            let state = State::of(&there);
            if known.insert(there) {
                places.push(Place { state, way: way.iter().copied().chain([event]).collect() });
            }
        }
        next += 1;
    }
    places
}

fn arrive(way: &[Event]) -> Lifecycle {
    way.iter().fold(Lifecycle::new(), |at, event| at.step(*event).0)
}

/// The transitions from state to state, in the order of discovery, with their events.
fn roads(places: &[Place]) -> Vec<(State, State, Vec<Event>)> {
    let order: HashMap<_, _> =
        places.iter().enumerate().map(|(at, place)| (&place.state, at)).collect();
    let mut roads = BTreeMap::<_, (State, State, Vec<Event>)>::new();
    for Place { state, way } in places {
        for event in Event::ALL {
            let to = State::of(&arrive(way).step(event).0);
            if to != *state && !is_stop(event, &to) {
                let road = roads.entry((order[state], order[&to]));
                road.or_insert_with(|| (state.clone(), to, Vec::new())).2.push(event);
            }
        }
    }
    roads.into_values().collect()
}

/// Whether the transition is a stop, which leads to the end from every state; the page explains it.
fn is_stop(event: Event, to: &State) -> bool {
    event == Event::StopRequested && to.phase == "Ended"
}

/// The block between the marks.
fn drawn() -> String {
    let places = places();
    let mut text = "```mermaid\nstateDiagram-v2\n    [*] --> Booting\n".to_owned();
    let mut line = |indent: usize, line: &str| {
        writeln!(text, "{:indent$}{line}", "").expect("a string takes all");
    };
    for phase in Phase::ALL.map(|phase| format!("{phase:?}")) {
        let inner = || places.iter().filter(|place| place.state.phase == phase);
        if inner().any(|place| place.state.inner.is_some()) {
            line(4, &format!("state {phase} {{"));
            for Place { state, .. } in inner() {
                let name = state.inner.as_deref().unwrap_or(&phase);
                line(8, &format!("state \"{name}\" as {}", state.id()));
            }
            line(4, "}");
        }
    }
    for (from, to, events) in roads(&places) {
        // `Predecessor(Gone)` becomes `Predecessor Gone`, because a colon would end the label.
        let name = |event| format!("{event:?}").replace('(', " ").replace(')', "");
        let events: Vec<_> = events.iter().map(name).collect();
        line(4, &format!("{} --> {}: {}", from.id(), to.id(), events.join("<br>")));
    }
    line(4, "Ended --> [*]");
    text + "```\n"
}

#[test]
fn the_page_shows_the_lifecycle_as_the_code_has_it() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/architecture.md");
    let page = fs::read_to_string(&path).expect("the page is there");
    let shown = page.split_once(BEGIN).and_then(|(_, rest)| rest.split_once(END));
    let (shown, _) = shown.expect("the page has the marks around the diagram");
    let drawn = drawn();
    assert!(shown == drawn, "docs/architecture.md differs from the code, which draws:\n{drawn}");
}

/// The page explains this in words, because the arrows would hide the others.
#[test]
fn a_stop_ends_every_phase() {
    for Place { state, way } in places() {
        let to = State::of(&arrive(&way).step(Event::StopRequested).0);
        assert_eq!(to.phase, "Ended", "from {state:?}");
    }
}
