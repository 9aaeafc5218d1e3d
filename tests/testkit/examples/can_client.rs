// SPDX-License-Identifier: Apache-2.0
//! The client of `examples/can` in a guest, from the initrd on.
//!
//! `up` makes a virtual CAN interface. `echo` is the least program that answers requests, to
//! compare with. `send COUNT` sends at least so many numbered requests: some at a time and some one
//! by one while the system boots, then always as many as the window allows, and then to a service
//! that it kills. Answers are in the order of the requests, so an answer shows which requests
//! before it were lost. The client reports on the second serial port, which needs no file system.
//! It never judges: it counts, and the host asserts.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use can_socket::{CanFilter, CanFrame, CanSocket, StandardId, standard_id};
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};
use rustix::net::{recv, sendto, socket_with};
use rustix::process::{Pid, Signal, kill_process};
use rustix::time::{ClockId, clock_gettime};

const INTERFACE: &str = "vcan0";
/// The directory of the public socket, entered once, so that the path outlives the old root.
const DIRECTORY: &str = "/run/early-service";
const SOCKET: &str = "early-service.sock";
/// The requests to the service and to `echo`, each with its answer.
const SERVICE: [StandardId; 2] = [standard_id!(0x123), standard_id!(0x124)];
const ECHO: [StandardId; 2] = [standard_id!(0x125), standard_id!(0x126)];
/// Maximum number of requests without an answer: fewer than fit into the queue of a socket.
const WINDOW: u32 = 64;
/// Number of single requests in a turn, and the pause after each.
const SINGLES: u32 = 8;
const PAUSE: Duration = Duration::from_millis(2);
/// Number of turns between two looks at the owner, and of looks after the handoff.
const TURNS: u32 = 16;
const LOOKS: u32 = 9;
/// The scenario makes this file when it wants no more handoffs.
const HANDED_OVER: &str = "handed-over";
/// The kills end after so many between a request and its answer, or at their maximum.
const HITS: u32 = 3;
const MAX_KILLS: u32 = 40;

fn main() {
    let words: Vec<_> = std::env::args().skip(1).collect();
    match words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["up"] => up(),
        ["echo"] => echo(),
        ["send", count] => send(count.parse().expect("the number of requests")),
        _ => panic!("up, echo, or send COUNT"),
    }
}

/// Makes the interface, as `ip link add vcan0 up type vcan` does.
fn up() {
    const NEWLINK: u16 = 16;
    const REQUEST_ACK_EXCL_CREATE: u16 = 0x605;
    const UP: u32 = 1;
    let (name, info, kind) = (3, 18, 1);
    let body = [
        [0, 0, UP, UP].map(u32::to_ne_bytes).concat(),
        attribute(name, INTERFACE.as_bytes()),
        attribute(info, &attribute(kind, b"vcan")),
    ]
    .concat();
    let length = u32::try_from(16 + body.len()).expect("a short message");
    let kind = [NEWLINK, REQUEST_ACK_EXCL_CREATE].map(u16::to_ne_bytes).concat();
    let message = [&length.to_ne_bytes()[..], &kind, &[0; 8], &body].concat();
    let kernel = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None);
    let kernel = kernel.expect("a netlink socket");
    sendto(&kernel, &message, SendFlags::empty(), &SocketAddrNetlink::new(0, 0)).expect("sent");
    let mut reply = [0; 256];
    recv(&kernel, &mut reply[..], RecvFlags::empty()).expect("an acknowledgement");
    assert_eq!(reply[16..20], [0; 4], "the kernel refuses the interface");
}

fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(4 + value.len()).expect("a short attribute");
    let mut attribute = [&length.to_ne_bytes(), &kind.to_ne_bytes()[..], value].concat();
    attribute.resize(attribute.len().next_multiple_of(4), 0);
    attribute
}

/// A socket with requests of a kind, or the answers to them.
fn bind(filter: StandardId) -> CanSocket {
    let socket = CanSocket::bind(INTERFACE).expect("the interface exists");
    socket.set_filters(&[CanFilter::new_standard(filter).match_exact_id()]).expect("a filter");
    socket
}

/// Answers each request at once.
fn echo() {
    let [request, answer] = ECHO;
    let socket = bind(request);
    loop {
        let data = socket.recv().expect("a request").data().expect("data");
        socket.send(&CanFrame::new(answer, data)).expect("it is sent");
    }
}

fn send(count: u32) {
    std::env::set_current_dir(DIRECTORY).expect("the socket unit makes the directory");
    let mut client = Client {
        port: OpenOptions::new().write(true).open("/dev/ttyS1").expect("a serial port"),
        service: bind(SERVICE[1]),
        echo: bind(ECHO[1]),
        sent: 0,
        next: 0,
        lost: 0,
    };
    let mut looks = 0;
    while looks < LOOKS {
        (0..TURNS).for_each(|_| client.turn());
        looks += u32::from(status().contains("stage=root "));
    }
    client.flood(count);
    client.kills();
    client.is_silent();
}

/// The reply to `status`, from whichever process serves, or from the next one.
fn status() -> String {
    let mut service = BufReader::new(UnixStream::connect(SOCKET).expect("PID 1 listens"));
    service.get_mut().write_all(b"status\n").expect("it is sent");
    let mut line = String::new();
    service.read_line(&mut line).expect("a reply");
    line.trim_end().to_owned()
}

/// A number of that reply.
fn number(status: &str, key: &str) -> i32 {
    let value = status.split(' ').find_map(|word| word.strip_prefix(key)?.strip_prefix('='));
    value.expect("the key").parse().expect("a number")
}

struct Client {
    port: File,
    service: CanSocket,
    echo: CanSocket,
    /// Number of requests sent.
    sent: u32,
    /// The first request that may still be answered.
    next: u32,
    lost: u32,
}

impl Client {
    fn say(&mut self, key: &str, line: &str) {
        // One write, so that lines of several clients do not mix.
        self.port.write_all(format!("{key}\t{line}\n").as_bytes()).expect("the port takes all");
    }

    fn send(&mut self) {
        let [low, high] = [self.sent, 0].map(u32::to_ne_bytes);
        let data: [u8; 8] = [low, high].concat().try_into().expect("8 bytes");
        self.service.send(&CanFrame::new(SERVICE[0], data)).expect("it is sent");
        self.sent += 1;
    }

    fn receive(&mut self) {
        let answer = self.service.recv().expect("an answer").data().expect("data");
        let number = u32::from_ne_bytes(answer[..4].try_into().expect("4 bytes"));
        if number < self.next {
            return self.say("can-twice", &number.to_string());
        }
        for lost in self.next..number {
            self.lost += 1;
            self.say("can-lost", &lost.to_string());
        }
        self.next = number + 1;
    }

    /// Waits for all answers; returns the longest wait for one of them.
    fn drain(&mut self) -> Duration {
        let (mut last, mut longest) = (Instant::now(), Duration::ZERO);
        while self.next < self.sent {
            self.receive();
            longest = longest.max(last.elapsed());
            last = Instant::now();
        }
        longest
    }

    /// Some requests at the same time, then some one by one, each also to `echo`.
    fn turn(&mut self) {
        let at = clock_gettime(ClockId::Monotonic);
        let at = at.tv_sec * 1_000_000 + at.tv_nsec / 1000;
        (0..WINDOW).for_each(|_| self.send());
        let mut line = format!("{at} {}", self.drain().as_micros());
        for _ in 0..SINGLES {
            let started = Instant::now();
            self.send();
            self.receive();
            let service = started.elapsed().as_micros();
            let started = Instant::now();
            self.echo.send(&CanFrame::new(ECHO[0], [0; 8])).expect("it is sent");
            self.echo.recv().expect("an answer");
            line += &format!(" {service}/{}", started.elapsed().as_micros());
            sleep(PAUSE);
        }
        self.say("can-turn", &line);
    }

    /// Sends many at a time, until there were enough requests and handoffs. The client sleeps while
    /// the service answers; otherwise each answer would cost two changes of process.
    fn flood(&mut self, count: u32) {
        let (before, started, mut longest) = (self.next, Instant::now(), Duration::ZERO);
        while self.next < count || !Path::new(HANDED_OVER).exists() {
            (0..WINDOW).for_each(|_| self.send());
            sleep(PAUSE);
            longest = longest.max(self.drain());
        }
        let (frames, took) = (self.next - before, started.elapsed().as_millis());
        let (longest, answered) = (longest.as_micros(), self.next - self.lost);
        let counted = self.counted();
        self.say(
            "can-flood",
            &format!(
                "frames={frames} took_ms={took} longest_us={longest} answered={answered} \
                 counted={counted}"
            ),
        );
    }

    /// The service's count.
    fn counted(&self) -> i32 {
        // It is asked twice, because it may reply before it counts the last answer.
        status();
        number(&status(), "frames")
    }

    /// Kills the service while requests are in flight, between a request and its answer if the
    /// client succeeds in that.
    fn kills(&mut self) {
        let (mut kill, mut hits) = (0, 0);
        let (mut delay, mut step) = (100, 64);
        while hits < HITS && kill < MAX_KILLS {
            kill += 1;
            let pid = Pid::from_raw(number(&status(), "pid")).expect("a process");
            let lost = self.lost;
            (0..WINDOW).for_each(|_| self.send());
            // Any number will do, as long as it differs.
            let left = WINDOW - kill * 13 % 32;
            while self.sent - self.next > left {
                self.receive();
            }
            sleep(Duration::from_micros(delay));
            kill_process(pid, Signal::KILL).expect("it is killed");
            let killed = Instant::now();
            // The next process is not there yet.
            let is_before = || killed.elapsed() < Duration::from_millis(20);
            let next = self.next;
            self.receive();
            let (is_late, mut waited) = (is_before(), u32::from(!is_before()));
            while self.next < self.sent {
                self.receive();
                waited += u32::from(!is_before());
            }
            let again = killed.elapsed().as_millis();
            let lost = self.lost - lost;
            let (answered, counted) = (self.next - self.lost, self.counted());
            self.say(
                "can-kill",
                &format!(
                    "delay_us={delay} next={next} lost={lost} waited={waited} \
                     answered={answered} counted={counted} again_ms={again}"
                ),
            );
            hits += lost;
            if lost == 0 {
                delay = if is_late { delay.saturating_sub(step) } else { delay + step };
                step = (step / 2).max(3);
            }
        }
    }

    /// Reports answers that nobody waits for.
    fn is_silent(&mut self) {
        self.service.set_nonblocking(true).expect("a socket");
        while self.service.recv().is_ok() {
            self.say("can-twice", "after the end");
        }
    }
}
