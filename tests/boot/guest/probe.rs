// SPDX-License-Identifier: Apache-2.0
//! Probe: the clients that live inside a guest, from the first processes of the initrd to
//! power-off.
//!
//! Nothing that a distribution ships can stand where these must: before a shell, through the switch
//! of root, with the old root gone from under it. Compiled on its own, statically, and put into the
//! guest; it reports by lines on the second serial port, which is there from the first process to
//! the last and needs no file system.
//!
//! It never judges: it counts, and the host asserts.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// Where the public socket lies; entered once, so that the path outlives the old root.
const SOCKET_DIRECTORY: &str = "/run/early-service";
const SOCKET: &str = "early-service.sock";
const REPORTS: &str = "/dev/ttyS1";
/// Between two connects; the figure of the promise that nobody is refused.
const PAUSE: Duration = Duration::from_millis(50);
/// Longer than the worst pause of a slow boot: what takes longer counts as lost.
const PATIENCE: Duration = Duration::from_secs(30);

fn main() {
    match std::env::args().nth(1).as_deref() {
        Some("storm") => storm(&mut reports()),
        Some("sit") => sit(&mut reports()),
        Some("busy") => busy(),
        Some("watch") => watch(),
        Some("flood") => flood(&mut reports(), &std::env::args().nth(2).unwrap_or_default()),
        Some("kill") => kill(&mut reports(), &std::env::args().skip(2).collect::<Vec<_>>()),
        other => panic!("unknown role {other:?}: storm, sit, busy, watch, flood or kill"),
    }
}

/// What one client has seen so far.
#[derive(Default)]
struct Tally {
    answered: u64,
    refused: u64,
    lost: u64,
    backwards: u64,
    last: Option<u64>,
    /// The longest that it waited for an answer since the last report.
    slowest: Duration,
    /// The longest that it woke up after its time: so long the machine stood still.
    standstill: Duration,
}

impl Tally {
    fn count(&mut self, number: u64, took: Duration) {
        self.answered += 1;
        self.backwards += u64::from(self.last.is_some_and(|last| number < last));
        self.last = Some(number);
        self.slowest = self.slowest.max(took);
    }

    /// Sleeps for what is left of [`PAUSE`] since `start`.
    fn pause(&mut self, start: Instant) {
        let left = PAUSE.saturating_sub(start.elapsed());
        let asleep = Instant::now();
        sleep(left);
        self.standstill = self.standstill.max(asleep.elapsed().saturating_sub(left));
    }

    fn report(&mut self, name: &str, to: &mut File) {
        let Self { answered, refused, lost, backwards, slowest, standstill, .. } = self;
        let (slowest, standstill) = (slowest.as_millis(), standstill.as_millis());
        // One write, so that lines of several clients do not mix. A full port is no reason to stop.
        let line = format!(
            "{name}\tanswered={answered} refused={refused} lost={lost} \
             backwards={backwards} slowest_ms={slowest} standstill_ms={standstill}\n"
        );
        drop(to.write_all(line.as_bytes()));
        self.slowest = Duration::ZERO;
    }
}

/// A new connection every [`PAUSE`], each with one question.
fn storm(to: &mut File) {
    let mut tally = Tally::default();
    let mut reported = Instant::now();
    loop {
        let start = Instant::now();
        let before = tally.refused + tally.lost;
        match UnixStream::connect(SOCKET) {
            Ok(connection) => match ask(&mut BufReader::new(connection)) {
                Ok(number) => tally.count(number, start.elapsed()),
                Err(error) => {
                    tally.lost += 1;
                    say(to, "storm-lost", &error);
                }
            },
            Err(error) => {
                tally.refused += 1;
                say(to, "storm-refused", &error.to_string());
            }
        }
        let failed = tally.refused + tally.lost > before;
        if failed || reported.elapsed() > Duration::from_millis(500) {
            tally.report("storm", to);
            reported = Instant::now();
        }
        tally.pause(start);
    }
}

/// One connection for as long as it lasts, with a question every [`PAUSE`]; then a new one.
fn sit(to: &mut File) {
    let mut tally = Tally::default();
    let mut reported = Instant::now();
    loop {
        let Ok(connection) = UnixStream::connect(SOCKET) else {
            sleep(PAUSE);
            continue;
        };
        say(to, "sit-connected", "");
        let mut connection = BufReader::new(connection);
        loop {
            let start = Instant::now();
            match ask(&mut connection) {
                Ok(number) => tally.count(number, start.elapsed()),
                Err(error) => {
                    say(to, "sit-ended", &error);
                    break;
                }
            }
            if reported.elapsed() > Duration::from_millis(500) {
                tally.report("sit", to);
                reported = Instant::now();
            }
            tally.pause(start);
        }
    }
}

/// Keeps the processor and the disk busy for as long as it lives.
fn busy() {
    std::thread::spawn(|| {
        let mut block = vec![0_u8; 1 << 16];
        loop {
            // Before udev has made the device there is nothing to read.
            if let Ok(mut disk) = File::open("/dev/vda") {
                while std::io::Read::read(&mut disk, &mut block).is_ok_and(|count| count > 0) {}
            }
            sleep(PAUSE);
        }
    });
    let mut sum = 0_u64;
    loop {
        sum = std::hint::black_box(sum.wrapping_mul(31).wrapping_add(7));
    }
}

/// Says for how long it was kept from running, whenever that was long, in the kernel's log: its
/// clock stamps what is written there, and the descriptor outlives the old root.
///
/// Around the switch of root that is the time for which PID 1 stops every process, to within a
/// sleep.
fn watch() {
    const SLEEP: Duration = Duration::from_millis(1);
    /// What is shorter makes no tick late that anybody would ask about.
    const LONG: Duration = Duration::from_millis(6);
    let mut log = OpenOptions::new().write(true).open("/dev/kmsg").expect("the kernel has a log");
    loop {
        let asleep = Instant::now();
        sleep(SLEEP);
        let still = asleep.elapsed().saturating_sub(SLEEP);
        if still > LONG {
            // One write is one record.
            let line = format!("boot-watch: stood still for {} us\n", still.as_micros());
            drop(log.write_all(line.as_bytes()));
        }
    }
}

/// Sets the counter so often, and no faster than a counter ticks that does so every 2 ms: of all
/// that is set between two ticks only the last is worth a line in the log.
fn flood(to: &mut File, times: &str) {
    const PERIOD: Duration = Duration::from_millis(2);
    let times: u64 = times.parse().expect("the number of commands follows the role");
    let mut tally = Tally::default();
    let connection = UnixStream::connect(SOCKET).expect("somebody listens");
    let mut connection = BufReader::new(connection);
    // Far enough apart that the count never goes back, whatever it has come to meanwhile.
    let mut number = ask(&mut connection).expect("an answer");
    for _ in 0..times {
        number += 1000;
        let start = Instant::now();
        let reply = exchange(&mut connection, &format!("set_counter {number}\n"));
        match reply.as_deref().map(|line| line.starts_with("previous value ")) {
            Ok(true) => tally.count(number, start.elapsed()),
            _ => return say(to, "flood-ended", &format!("{reply:?} at {number}")),
        }
        sleep(PERIOD.saturating_sub(start.elapsed()));
    }
    tally.report("flood", to);
}

/// Where successors that the probe starts find the predecessor that they are killed for.
const PREDECESSOR: &str = "/run/early-service-initrd/early-service.sock";
/// In the place of the predecessor, to find out when a successor comes to ask.
const DECOY: &str = "/run/boot-probe.sock";
/// A successor that is stopped hangs for so long: longer than its predecessor waits for it.
const STOPPED: Duration = Duration::from_millis(1300);

/// Successors, one after another, each killed a little later than the one before, from just before
/// it asks to some time after; every sixteenth is stopped first.
///
/// A handoff takes a fraction of a millisecond on a fast host: the steps are so small that dozens
/// of them are in the middle of it there too.
///
/// The words are the successor's command; `PREDECESSOR` among them stands for the socket to adopt
/// from. It ends when a successor was left enough time to adopt, and the predecessor is gone.
fn kill(to: &mut File, words: &[String]) {
    const TRIES: u32 = 400;
    const EARLIER: Duration = Duration::from_micros(500);
    const STEP: Duration = Duration::from_micros(10);
    let start = |predecessor: &str| -> Child {
        let words = words.iter().map(|word| if word == "PREDECESSOR" { predecessor } else { word });
        let mut words = words.map(str::to_owned);
        let program = words.next().expect("the successor's command follows the role");
        Command::new(program).args(words).spawn().expect("the successor starts")
    };
    // What sleeps here wakes up on time.
    drop(fs::write("/proc/self/timerslack_ns", "1"));
    let asks_after = (0..3).map(|_| time_to_ask(&start)).min().unwrap_or_default();
    for number in 0..TRIES {
        let stops = (number % 16 == 15).then(Stopper::ready);
        let started = Instant::now();
        let mut successor = start(PREDECESSOR);
        let moment = asks_after.saturating_sub(EARLIER) + number * STEP;
        sleep(moment.saturating_sub(started.elapsed()));
        if let Some(stopper) = stops {
            stopper.stop(&successor);
            sleep(STOPPED);
        }
        drop(successor.kill());
        drop(successor.wait());
        let answer = UnixStream::connect(PREDECESSOR)
            .map_err(|error| error.to_string())
            .and_then(|connection| ask(&mut BufReader::new(connection)));
        if let Err(error) = answer {
            return say(to, "kill-over", &format!("after={number} predecessor: {error}"));
        }
    }
    say(to, "kill-over", &format!("after={TRIES} asks_after={asks_after:?}"));
}

/// A shell that stands by to stop a process: to start one at the moment would take too long, and to
/// send a signal from here takes more than the standard library.
struct Stopper(Child);

impl Stopper {
    fn ready() -> Self {
        let shell = Command::new("sh")
            .args(["-c", r#"read -r pid && kill -STOP "$pid""#])
            .stdin(Stdio::piped())
            .spawn();
        let stopper = Self(shell.expect("the shell starts"));
        // It is waiting by then.
        sleep(Duration::from_millis(20));
        stopper
    }

    fn stop(mut self, process: &Child) {
        let input = self.0.stdin.as_mut().expect("the input is a pipe");
        drop(writeln!(input, "{}", process.id()));
        drop(self.0.wait());
    }
}

/// From a successor's start until it asks for the state.
fn time_to_ask(start: &impl Fn(&str) -> Child) -> Duration {
    drop(fs::remove_file(DECOY));
    let decoy = UnixListener::bind(DECOY).expect("/run can be written");
    fs::set_permissions(DECOY, Permissions::from_mode(0o666)).expect("the file is ours");
    let started = Instant::now();
    let mut successor = start(DECOY);
    let (asker, _) = decoy.accept().expect("somebody connects");
    drop(BufReader::new(asker).read_line(&mut String::new()));
    let took = started.elapsed();
    drop(successor.kill());
    drop(successor.wait());
    took
}

fn ask(connection: &mut BufReader<UnixStream>) -> Result<u64, String> {
    let line = exchange(connection, "get_counter\n")?;
    line.trim_end().parse().map_err(|_| format!("not a number: {line:?}"))
}

fn exchange(connection: &mut BufReader<UnixStream>, command: &str) -> Result<String, String> {
    let stream = connection.get_mut();
    stream.set_read_timeout(Some(PATIENCE)).map_err(|error| error.to_string())?;
    stream.write_all(command.as_bytes()).map_err(|error| format!("write: {error}"))?;
    let mut line = String::new();
    match connection.read_line(&mut line) {
        Ok(0) => Err("read: closed".to_owned()),
        Ok(_) => Ok(line),
        Err(error) if error.kind() == ErrorKind::WouldBlock => Err("read: no answer".to_owned()),
        Err(error) => Err(format!("read: {error}")),
    }
}

fn say(to: &mut File, key: &str, text: &str) {
    drop(to.write_all(format!("{key}\t{text}\n").as_bytes()));
}

fn reports() -> File {
    while std::env::set_current_dir(SOCKET_DIRECTORY).is_err() {
        sleep(PAUSE);
    }
    OpenOptions::new().write(true).open(REPORTS).expect("the second serial port is configured")
}
