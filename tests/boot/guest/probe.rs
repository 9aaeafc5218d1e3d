// SPDX-License-Identifier: Apache-2.0
//! Probe: the clients inside a guest, from the first processes of the initrd to power-off.
//!
//! No program of a distribution can do this: run before a shell exists, across the switch of root,
//! and after the old root is gone. The probe is compiled separately and statically, and copied into
//! the guest. It reports on the second serial port, which exists from the first process to the last
//! and needs no file system.
//!
//! It never judges: it counts, and the host asserts.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// The directory of the public socket, entered once, so that the path outlives the old root.
const SOCKET_DIRECTORY: &str = "/run/early-service";
const SOCKET: &str = "early-service.sock";
const REPORTS: &str = "/dev/ttyS1";
/// Interval between connections, as in the promise that no connection is refused.
const PAUSE: Duration = Duration::from_millis(50);
/// Longer than the worst pause of a slow boot; a longer wait counts as a loss.
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

/// The results of one client so far.
#[derive(Default)]
struct Tally {
    answered: u64,
    refused: u64,
    lost: u64,
    backwards: u64,
    last: Option<u64>,
    /// The longest wait for an answer since the last report.
    slowest: Duration,
    /// The longest delay of a wake-up: the time for which the machine stood still.
    standstill: Duration,
}

impl Tally {
    fn count(&mut self, number: u64, took: Duration) {
        self.answered += 1;
        self.backwards += u64::from(self.last.is_some_and(|last| number < last));
        self.last = Some(number);
        self.slowest = self.slowest.max(took);
    }

    /// Sleeps for the rest of [`PAUSE`] since `start`.
    fn pause(&mut self, start: Instant) {
        let left = PAUSE.saturating_sub(start.elapsed());
        let asleep = Instant::now();
        sleep(left);
        self.standstill = self.standstill.max(asleep.elapsed().saturating_sub(left));
    }

    fn report(&mut self, name: &str, to: &mut File) {
        let Self { answered, refused, lost, backwards, slowest, standstill, .. } = self;
        let (slowest, standstill) = (slowest.as_millis(), standstill.as_millis());
        // One write, so that lines of several clients do not mix. A full port must not stop the
        // client.
        let line = format!(
            "{name}\tanswered={answered} refused={refused} lost={lost} \
             backwards={backwards} slowest_ms={slowest} standstill_ms={standstill}\n"
        );
        drop(to.write_all(line.as_bytes()));
        self.slowest = Duration::ZERO;
    }
}

/// A new connection every [`PAUSE`], each with one command.
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

/// One connection with a command every [`PAUSE`]; a new one when it ends.
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

/// Keeps the processor and the disk busy until it is killed.
fn busy() {
    std::thread::spawn(|| {
        let mut block = vec![0_u8; 1 << 16];
        loop {
            // Nothing can be read before udev has made the device.
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

/// Reports in the kernel's log whenever it could not run for long. The kernel's clock stamps the
/// report, and the descriptor outlives the old root.
///
/// At the switch of root, this is the time for which PID 1 stops every process, to within one
/// sleep.
fn watch() {
    const SLEEP: Duration = Duration::from_millis(1);
    /// A shorter delay makes no tick noticeably late.
    const LONG: Duration = Duration::from_millis(6);
    let mut log = OpenOptions::new().write(true).open("/dev/kmsg").expect("the kernel has a log");
    loop {
        let asleep = Instant::now();
        sleep(SLEEP);
        let still = asleep.elapsed().saturating_sub(SLEEP);
        if still > LONG {
            // One write makes one record.
            let line = format!("boot-watch: stood still for {} us\n", still.as_micros());
            drop(log.write_all(line.as_bytes()));
        }
    }
}

/// Sets the counter so often, but no faster than it ticks with a period of 2 ms. Of all settings
/// between two ticks, only the last one is logged.
fn flood(to: &mut File, times: &str) {
    const PERIOD: Duration = Duration::from_millis(2);
    let times: u64 = times.parse().expect("the number of commands follows the role");
    let mut tally = Tally::default();
    let connection = UnixStream::connect(SOCKET).expect("somebody listens");
    let mut connection = BufReader::new(connection);
    // Far enough apart that the count never decreases.
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

/// The predecessor of the successors that the probe starts and kills.
const PREDECESSOR: &str = "/run/early-service-initrd/early-service.sock";
/// Replaces the predecessor, to measure when a successor asks.
const DECOY: &str = "/run/boot-probe.sock";
/// How long a stopped successor hangs: longer than its predecessor waits.
const STOPPED: Duration = Duration::from_millis(1300);

/// Starts one successor after another and kills each a little later than the last, from just before
/// its request to some time after it. Every sixteenth is first stopped.
///
/// A handoff takes a fraction of a millisecond on a fast host. The steps are so small that dozens
/// of kills are in the middle of it even there.
///
/// `words` is the successor's command, with `PREDECESSOR` for the socket of the predecessor. Ends
/// once a successor had enough time to adopt and the predecessor is gone.
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
    // Sleeps of this thread then end on time.
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

/// A shell that waits to stop a process. Starting one when it is needed would take too long, and
/// the standard library cannot send signals.
struct Stopper(Child);

impl Stopper {
    fn ready() -> Self {
        let shell = Command::new("sh")
            .args(["-c", r#"read -r pid && kill -STOP "$pid""#])
            .stdin(Stdio::piped())
            .spawn();
        let stopper = Self(shell.expect("the shell starts"));
        // It is waiting by now.
        sleep(Duration::from_millis(20));
        stopper
    }

    fn stop(mut self, process: &Child) {
        let input = self.0.stdin.as_mut().expect("the input is a pipe");
        drop(writeln!(input, "{}", process.id()));
        drop(self.0.wait());
    }
}

/// The time from a successor's start to its request.
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
