// SPDX-License-Identifier: Apache-2.0
//! Traced device: notes each call, and whether the device keeps what its trait promises.
//!
//! Two descriptors are of the same open file if a change of `O_NONBLOCK` through one of them shows
//! in the other: it is a property of the open file, and not of a descriptor.

use std::cell::RefCell;
use std::convert::Infallible;
use std::fmt::Display;
use std::fs;
use std::future::poll_fn;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::rc::Rc;
use std::task::Poll;

use early_service_machine::device::{Kind, Need};
use early_service_machine::schedule::Monotonic;
use futures_lite::future;
use rustix::fs::{OFlags, Stat, fcntl_getfl, fcntl_setfl, fstat, stat};

use crate::device::actor::names;
use crate::device::{Device, Luggage, Port};
use crate::platform::files::is_same;
use crate::trial::clock::Clock;
use crate::trial::{Call, Side};

/// What a trial has seen. The functions of a device have no other way to it, because most of them
/// have no `self`.
pub(super) struct Trace {
    pub(super) clock: Rc<Clock>,
    /// The process that runs now.
    pub(super) side: Side,
    pub(super) calls: Vec<Call>,
    pub(super) wrong: Vec<String>,
    /// Whether the next poll of `run` fails.
    pub(super) fails: bool,
    /// Each file of the device, and how often this process had it open besides.
    files: Vec<(Stat, usize)>,
}

thread_local! {
    static TRACE: RefCell<Option<Trace>> = const { RefCell::new(None) };
}

impl Trace {
    pub(super) fn begin(clock: Rc<Clock>) {
        let (calls, wrong, files) = (Vec::new(), Vec::new(), Vec::new());
        let side = Side::Predecessor;
        TRACE.set(Some(Self { clock, side, calls, wrong, fails: false, files }));
    }

    /// Ends the trial; returns the calls, or what was wrong.
    pub(super) fn end() -> Result<Vec<Call>, String> {
        let mut trace = TRACE.take().expect("a trial has begun");
        for (file, others) in std::mem::take(&mut trace.files) {
            if opens(&file).count() > others {
                trace.wrong("after the end", "the device is still open");
            }
        }
        if trace.wrong.is_empty() { Ok(trace.calls) } else { Err(trace.wrong.join("\n")) }
    }

    fn wrong(&mut self, method: &str, what: impl Display) {
        let milliseconds = self.clock.now().as_nanos() / 1_000_000;
        self.wrong.push(format!("{milliseconds} ms, {}, {method}: {what}", self.side));
    }
}

pub(super) fn with<T>(see: impl FnOnce(&mut Trace) -> T) -> T {
    TRACE.with_borrow_mut(|trace| see(trace.as_mut().expect("a trial runs on this thread")))
}

pub(super) fn note(method: &'static str) {
    with(|trace| trace.calls.push(Call { at: trace.clock.now(), side: trace.side, method }));
}

pub(super) fn wrong(method: &str, what: impl Display) {
    with(|trace| trace.wrong(method, what));
}

/// The device of an author.
pub(super) struct Traced<D: Device> {
    /// Taken when it freezes.
    device: Option<D>,
    /// Copies of the descriptors that it was given.
    given: Vec<OwnedFd>,
}

/// Its descriptors; taken when it thaws or is released.
pub(super) struct Case<L: Luggage>(Option<L>);

impl<L: Luggage> Case<L> {
    fn get(&self) -> &L {
        self.0.as_ref().expect("it is taken only with the case")
    }

    fn take(mut self) -> L {
        self.0.take().expect("it is taken only with the case")
    }
}

impl<L: Luggage> Drop for Case<L> {
    fn drop(&mut self) {
        if self.0.is_some() {
            note("close");
        }
    }
}

impl<D: Device> Drop for Traced<D> {
    fn drop(&mut self) {
        if self.device.is_some() {
            note("close");
        }
    }
}

impl<L: Luggage> Luggage for Case<L> {
    fn lend(&self) -> Vec<BorrowedFd<'_>> {
        self.get().lend()
    }

    fn accept(descriptors: Vec<OwnedFd>) -> Result<Self, String> {
        note("accept");
        let given = copies(descriptors.iter().map(AsFd::as_fd));
        let luggage = L::accept(descriptors).inspect_err(|why| wrong("accept", why))?;
        compare("accept", &given, &luggage.lend());
        Ok(Self(Some(luggage)))
    }
}

impl<D: Device> Device for Traced<D> {
    type Service = D::Service;
    type Luggage = Case<D::Luggage>;

    const KINDS: &'static [Kind] = D::KINDS;

    async fn acquire(need: Need, port: &Port<D::Service>) -> io::Result<Self::Luggage> {
        note("acquire");
        let luggage = D::acquire(need, port).await?;
        let lent = luggage.lend();
        let names = names::<D>().count();
        if lent.len() != names {
            let lent = lent.len();
            wrong("acquire", format_args!("lends {lent} descriptors, and DESCRIPTORS has {names}"));
        }
        let files = lent.iter().filter_map(|lent| Some((fstat(lent).ok()?, opened_besides(*lent))));
        with(|trace| {
            if trace.files.is_empty() {
                trace.files = files.collect();
            }
        });
        Ok(Case(Some(luggage)))
    }

    fn thaw(luggage: Self::Luggage, state: &D::Service, now: Monotonic) -> Self {
        note("thaw");
        let given = copies(luggage.lend());
        let opened = |given: &[OwnedFd]| given.iter().map(|fd| opened_besides(fd.as_fd())).sum();
        let before: usize = opened(&given);
        let device = D::thaw(luggage.take(), state, now);
        if opened(&given) > before {
            wrong("thaw", "opens the device again");
        }
        Self { device: Some(device), given }
    }

    async fn run(&mut self, port: &Port<D::Service>) -> io::Result<Infallible> {
        note("run");
        let Some(device) = &mut self.device else { return future::pending().await };
        let fails = poll_fn(|_| match with(|trace| std::mem::take(&mut trace.fails)) {
            true => Poll::Ready(Err(io::Error::other("the trial lets it fail"))),
            false => Poll::Pending,
        });
        future::or(fails, device.run(port)).await
    }

    fn freeze(mut self) -> Self::Luggage {
        note("freeze");
        let luggage = self.device.take().map(D::freeze).expect("it is frozen once");
        compare("freeze", &self.given, &luggage.lend());
        Case(Some(luggage))
    }

    fn keep_alive(luggage: &Self::Luggage, now: Monotonic) -> Option<Monotonic> {
        note("keep_alive");
        let next = D::keep_alive(luggage.get(), now);
        if next.is_some_and(|next| next <= now) {
            wrong("keep_alive", "returns a time that is not later than now");
            return None;
        }
        next
    }

    fn release(luggage: Self::Luggage) {
        note("release");
        D::release(luggage.take());
    }
}

fn copies<'a>(descriptors: impl IntoIterator<Item = BorrowedFd<'a>>) -> Vec<OwnedFd> {
    let copy = |descriptor: BorrowedFd<'_>| {
        descriptor.try_clone_to_owned().expect("the process may open another file")
    };
    descriptors.into_iter().map(copy).collect()
}

/// Notes if `lent` are not the open files that the device was given.
fn compare(method: &str, given: &[OwnedFd], lent: &[BorrowedFd<'_>]) {
    let are_same = given.len() == lent.len()
        && given
            .iter()
            .zip(lent)
            .all(|(given, lent)| share_open_file(given.as_fd(), lent.as_raw_fd()));
    if !are_same {
        wrong(method, "the descriptors are not the ones that the device was given");
    }
}

/// Whether `number` is a descriptor of the same open file as `descriptor`.
fn share_open_file(descriptor: BorrowedFd<'_>, number: RawFd) -> bool {
    let look = || fs::read_to_string(format!("/proc/self/fdinfo/{number}")).unwrap_or_default();
    let flags =
        |text: String| text.lines().find(|line| line.starts_with("flags:")).map(str::to_owned);
    let before = flags(look());
    let Ok(old) = fcntl_getfl(descriptor) else { return true };
    if fcntl_setfl(descriptor, old ^ OFlags::NONBLOCK).is_err() {
        return true;
    }
    let after = flags(look());
    let _ = fcntl_setfl(descriptor, old);
    before != after
}

/// How often this process has the file open, except for the open file of `descriptor`.
fn opened_besides(descriptor: BorrowedFd<'_>) -> usize {
    let Ok(file) = fstat(descriptor) else { return 0 };
    opens(&file).filter(|number| !share_open_file(descriptor, *number)).count()
}

/// The descriptors of this process that are of a file.
fn opens(file: &Stat) -> impl Iterator<Item = RawFd> {
    let entries = fs::read_dir("/proc/self/fd").into_iter().flatten().flatten();
    entries.filter_map(move |entry| {
        let number = entry.file_name().to_str()?.parse().ok()?;
        is_same(&stat(entry.path()).ok()?, file).then_some(number)
    })
}
