// SPDX-License-Identifier: Apache-2.0
//! Public interface: a program that uses each public item of the library with its full type.
//!
//! It does not compile if an item is removed or changes its type, or if a trait requires more of
//! its implementor. In a release that is compatible with the last one, lines are only added here.
//!
//! cargo-semver-checks would not see most of this: `State` and `Fields` are of another crate.

use std::any::type_name;
use std::convert::Infallible;
use std::env;
use std::ffi::OsString;
use std::fmt::{self, Formatter};
use std::fs::{self, File};
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::process::{Command, ExitCode};

use early_service::device::{self, Device, Kind, Luggage, Monotonic, Need, Port};
use early_service::trial::{self, Arrow, Call, Fault, Side};
use early_service::{Fields, MissingField, Service, State, number};

/// The items in the documentation. Whatever else is public is hidden there, and is no part of the
/// interface.
const ITEMS: [&str; 22] = [
    "device/enum.Kind",
    "device/enum.Need",
    "device/fn.main",
    "device/struct.Monotonic",
    "device/struct.Port",
    "device/trait.Device",
    "device/trait.Luggage",
    "fn.main",
    "fn.number",
    "macro.main",
    "struct.Fields",
    "struct.MissingField",
    "trait.Service",
    "trait.State",
    "trial/enum.Arrow",
    "trial/enum.Fault",
    "trial/enum.Side",
    "trial/fn.every_fault",
    "trial/fn.handoff",
    "trial/fn.set",
    "trial/fn.state",
    "trial/struct.Call",
];

/// Implements only what the traits require.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Least(u64);

impl State for Least {
    type Command = u64;
    type Reply = u64;
    fn read(fields: Fields<'_>) -> Result<Self, MissingField> {
        fields.number("n").map(Self)
    }
    fn write_fields(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "n={}", self.0)
    }
    fn apply(&mut self, command: u64) -> u64 {
        command
    }
}

impl Service for Least {
    const ABOUT: &'static str = "Least.";
}

/// Implements everything.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Most(Least);

impl State for Most {
    type Command = u64;
    type Reply = u64;
    const NAME: &'static str = "most";
    const HAND_OVER: &'static str = "get_most_and_terminate";
    const EXPECTED: &'static str = "a number";
    const MAX_EXPECTED: usize = 8;
    const MAX_FIELDS: usize = 22;
    const MAX_REPLY: usize = 20;
    fn write_text(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.0)
    }
    fn parse(reply: &[u8]) -> Option<Self> {
        number(reply).map(|number| Self(Least(number)))
    }
    fn read(fields: Fields<'_>) -> Result<Self, MissingField> {
        Least::read(fields).map(Self)
    }
    fn write_fields(&self, f: &mut Formatter<'_>) -> fmt::Result {
        self.0.write_fields(f)
    }
    fn command(line: &[u8]) -> Result<u64, &'static str> {
        number(line).ok_or(Self::EXPECTED)
    }
    fn is_change(_: &u64) -> bool {
        true
    }
    fn apply(&mut self, command: u64) -> u64 {
        self.0.apply(command)
    }
    fn tick(&mut self) {}
    fn tick_many(&mut self, _: u64) -> bool {
        true
    }
}

impl Service for Most {
    const VERSION: &'static str = "1";
    const ABOUT: &'static str = "Most.";
    const WHAT: &'static str = "number";
    const DESCRIPTORS: &'static str = "device";
    fn write_tick(&self, f: &mut Formatter<'_>) -> fmt::Result {
        self.write_text(f)
    }
    fn fields(&self) -> impl IntoIterator<Item = (&'static str, u64)> {
        [("N", 1)]
    }
    fn write_change(&self, previous: &Self, f: &mut Formatter<'_>) -> fmt::Result {
        previous.write_text(f)
    }
    fn write_last(&self, _: u64, f: &mut Formatter<'_>) -> fmt::Result {
        self.write_text(f)
    }
    fn write_last_before_change(&self, _: u64, _: u64, f: &mut Formatter<'_>) -> fmt::Result {
        self.write_text(f)
    }
}

/// The descriptors of a device.
struct Case(File);

impl Luggage for Case {
    fn lend(&self) -> Vec<BorrowedFd<'_>> {
        self.0.lend()
    }
    fn accept(descriptors: Vec<OwnedFd>) -> Result<Self, String> {
        File::accept(descriptors).map(Self)
    }
}

/// Implements only what the trait requires, and calls everything that the process offers.
struct Plain(Case);

impl Device for Plain {
    type Service = Most;
    type Luggage = Case;
    async fn acquire(need: Need, port: &Port<Most>) -> io::Result<Case> {
        match need {
            Need::Fresh | Need::Recovered => {}
            Need::Failed(times) => assert!(times > 0),
        }
        let _: Most = port.state().await;
        let path: String = port.setting("DEVICE", "/dev/null")?;
        File::open(path).map(Case)
    }
    fn thaw(luggage: Case, _: &Most, _: Monotonic) -> Self {
        Self(luggage)
    }
    async fn run(&mut self, port: &Port<Most>) -> io::Result<Infallible> {
        let now: Monotonic = port.now();
        let _: u64 = port.apply(1).await;
        port.until(now.after_nanos(1)).await;
        port.health(Err("no signal"));
        Err(io::Error::other("the end"))
    }
    fn freeze(self) -> Case {
        self.0
    }
}

/// Implements everything.
struct Full(Plain);

impl Device for Full {
    type Service = Most;
    type Luggage = Case;
    const KINDS: &'static [Kind] = &[Kind::Any];
    async fn acquire(need: Need, port: &Port<Most>) -> io::Result<Case> {
        Plain::acquire(need, port).await
    }
    fn thaw(luggage: Case, state: &Most, now: Monotonic) -> Self {
        Self(Plain::thaw(luggage, state, now))
    }
    async fn run(&mut self, port: &Port<Most>) -> io::Result<Infallible> {
        self.0.run(port).await
    }
    fn freeze(self) -> Case {
        self.0.freeze()
    }
    fn keep_alive(_: &Case, now: Monotonic) -> Option<Monotonic> {
        Some(now)
    }
    fn release(luggage: Case) {
        Plain::release(luggage);
    }
}

mod without_a_device {
    early_service::main!(super::Least);
    pub(super) const MAIN: fn() -> super::ExitCode = main;
}

mod with_a_device {
    early_service::main!(super::Most, with: super::Full);
    pub(super) const MAIN: fn() -> super::ExitCode = main;
}

type Text = Fields<'static>;

type Courses = Vec<(Fault, Vec<Call>)>;

/// Each function with its type.
fn functions() -> [fn() -> ExitCode; 4] {
    let _: fn(&[u8]) -> Option<u64> = number;
    let _: fn(&'static [u8]) -> Text = Fields::new;
    let _: fn(Text, &str) -> Option<&'static [u8]> = Fields::get;
    let _: fn(Text, &'static str) -> Result<u64, MissingField> = Fields::number;
    let _: fn(Text, &'static str, u64) -> Result<u64, MissingField> = Fields::number_up_to;
    let _: fn(Text, &'static str, u64) -> Result<u64, MissingField> = Fields::number_or;
    let _: fn(Text, &'static str) -> Result<bool, MissingField> = Fields::flag;
    let _: fn(Text, &'static str, bool) -> Result<bool, MissingField> = Fields::flag_or;
    let _: fn(u64) -> Monotonic = Monotonic::from_nanos;
    let _: fn(Monotonic) -> u64 = Monotonic::as_nanos;
    let _: fn(Monotonic, u64) -> Monotonic = Monotonic::after_nanos;
    let _: fn(Monotonic, Monotonic) -> u64 = Monotonic::nanos_since;
    let _: fn(Fault) -> Result<Vec<Call>, String> = trial::handoff::<Full>;
    let _: fn() -> Result<Courses, String> = trial::every_fault::<Full>;
    let _: fn(&[Most], &[&str]) -> Result<(), String> = trial::state;
    let _: fn(&str, OsString) = trial::set;
    let _: fn(Side, Arrow) -> Fault = Fault::Death;
    let _ = [Fault::None, Fault::Device];
    let _ = [Side::Predecessor, Side::Successor, Side::Restarted];
    let _: [Arrow; 6] =
        [Arrow::Handoff, Arrow::State, Arrow::End, Arrow::Prepared, Arrow::Commit, Arrow::Done];
    let _ = Arrow::ALL;
    let call = Call { at: Monotonic::default(), side: Side::Predecessor, method: "run" };
    let _: (Monotonic, Side, &'static str) = (call.at, call.side, call.method);
    let _: fn(Kind, Kind) -> bool = Kind::admits;
    let _: fn(Option<(u32, u32)>) -> Kind = Kind::Character;
    let _: fn(u32, u32) -> Kind = Kind::Socket;
    let _ = [Kind::Any, Kind::Regular, Kind::Pipe, Kind::Other];
    [
        early_service::main::<Least>,
        device::main::<Full>,
        without_a_device::MAIN,
        with_a_device::MAIN,
    ]
}

/// Traits that an author may need of the types.
fn is_value<T: Copy + fmt::Debug + Eq + Send + Sync>() -> &'static str {
    type_name::<T>()
}

#[test]
fn a_program_that_uses_every_public_item_compiles() {
    assert_eq!(functions().len(), 4);
    assert!(Monotonic::default() < Monotonic::from_nanos(1));
    for name in [
        is_value::<MissingField>(),
        is_value::<Need>(),
        is_value::<Kind>(),
        is_value::<Monotonic>(),
        is_value::<Arrow>(),
        is_value::<Call>(),
        is_value::<Fault>(),
        is_value::<Side>(),
    ] {
        assert!(!name.is_empty());
    }
    assert_eq!(MissingField("n").to_string(), "no valid n");
    assert_eq!(Least::read(Fields::new(b"n=5")), Ok(Least(5)));
    // The defaults of optional items.
    assert_eq!((Least::NAME, Least::HAND_OVER), ("early-service", ""));
    assert_eq!((Least::EXPECTED, Least::MAX_EXPECTED), ("no command", 10));
    assert_eq!((Least::MAX_FIELDS, Least::MAX_REPLY), (128, 64));
    assert_eq!((Least::WHAT, Least::DESCRIPTORS), ("state", ""));
    assert_eq!(Least::VERSION, env!("CARGO_PKG_VERSION"));
    assert!(Least::parse(b"5").is_none() && Least::is_change(&5) && !Least(5).tick_many(1));
    assert_eq!(Least::command(b"5"), Err("no command"));
    assert_eq!(Least(5).fields().into_iter().count(), 0);
    let file = File::open("/dev/null").expect("a device");
    assert!(Plain::keep_alive(&Case(file), Monotonic::from_nanos(1)).is_none());
}

/// The lines of a text that are neither empty nor a comment.
fn code<'a>(lines: impl Iterator<Item = &'a str>) -> usize {
    lines.filter(|line| !line.trim().is_empty() && !line.trim().starts_with("//")).count()
}

#[test]
fn the_example_and_the_front_page_are_as_short_as_they_say() {
    let watchdog = include_str!("../examples/watchdog/main.rs");
    let program = watchdog.lines().take_while(|line| *line != "#[cfg(test)]");
    let front_page = include_str!("../src/lib.rs");
    let smallest = front_page.split("//! ```").nth(1).expect("an example").lines();
    let smallest = smallest.map(|line| line.trim_start_matches("//!"));
    let lengths = (code(program), code(smallest));
    assert!(lengths.0 <= 60 && lengths.1 <= 30, "{lengths:?}");
}

#[test]
fn the_documentation_lists_only_these_items() {
    let cargo = env::var_os("CARGO").expect("cargo runs the test");
    let mut doc = Command::new(cargo);
    doc.args(["doc", "--quiet", "--locked", "--no-deps", "--package", "early-service"]);
    assert!(doc.status().expect("cargo").success());
    let target = env::current_exe().expect("a program");
    let target = target.ancestors().nth(3).expect("the target directory");
    let page = fs::read_to_string(target.join("doc/early_service/all.html")).expect("a page");
    let links =
        page.split("href=\"").filter_map(|rest| rest.split_once(".html\"")).map(|(at, _)| at);
    let mut items: Vec<_> = links.filter(|link| !link.starts_with("..")).collect();
    items.sort_unstable();
    assert_eq!(items, ITEMS);
}
