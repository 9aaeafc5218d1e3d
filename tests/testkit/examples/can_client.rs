// SPDX-License-Identifier: Apache-2.0
//! The client of `examples/can` in a guest, from the initrd on.
//!
//! `up` makes a virtual CAN interface. `send COUNT` sends so many numbered requests to it. Answers
//! are in the order of the requests, so an answer shows which requests before it were lost. The
//! client reports on the second serial port, which needs no file system. It never judges: it
//! counts, and the host asserts.

use std::fs::OpenOptions;
use std::io::Write;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use can_socket::{CanFilter, CanFrame, CanSocket, standard_id};
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};
use rustix::net::{recv, sendto, socket_with};

const INTERFACE: &str = "vcan0";
/// Maximum number of requests without an answer: fewer than fit into the queue of a socket.
const WINDOW: u32 = 64;
/// Number of requests between two pauses.
const BURST: u32 = 16;
const PAUSE: Duration = Duration::from_millis(20);
/// Number of requests between two reports.
const REPORT: u32 = 100;

fn main() {
    let words: Vec<_> = std::env::args().skip(1).collect();
    match words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["up"] => up(),
        ["send", count] => send(count.parse().expect("the number of requests")),
        _ => panic!("up, or send COUNT"),
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

fn send(count: u32) {
    let mut port = OpenOptions::new().write(true).open("/dev/ttyS1").expect("a serial port");
    // One write, so that lines of several clients do not mix.
    let mut say = |line: String| port.write_all(line.as_bytes()).expect("the port takes all");
    let socket = CanSocket::bind(INTERFACE).expect("the interface exists");
    let answers = CanFilter::new_standard(standard_id!(0x124)).match_exact_id();
    socket.set_filters(&[answers]).expect("a filter");
    let started = Instant::now();
    let now = || u32::try_from(started.elapsed().as_micros()).expect("a boot takes minutes");
    // The first request that may still be answered.
    let first = AtomicU32::new(0);
    thread::scope(|scope| {
        scope.spawn(|| {
            for number in 0..count {
                while number - first.load(Ordering::Relaxed) >= WINDOW {
                    thread::sleep(PAUSE);
                }
                if number % BURST == 0 {
                    thread::sleep(PAUSE);
                }
                let data: [_; 8] =
                    [number, now()].map(u32::to_ne_bytes).concat().try_into().expect("8");
                socket.send(&CanFrame::new(standard_id!(0x123), data)).expect("it is sent");
            }
        });
        let mut slowest = 0;
        while first.load(Ordering::Relaxed) < count {
            let answer = socket.recv().expect("an answer").data().expect("data");
            let part = |at| u32::from_ne_bytes(answer[at..at + 4].try_into().expect("4"));
            let (number, sent) = (part(0), part(4));
            let expected = first.load(Ordering::Relaxed);
            for lost in expected..number {
                say(format!("can-lost\t{lost}\n"));
            }
            if number < expected {
                say(format!("can-twice\t{number}\n"));
                continue;
            }
            slowest = slowest.max(now() - sent);
            first.store(number + 1, Ordering::Relaxed);
            if (number + 1) % REPORT == 0 || number + 1 == count {
                say(format!("can\tup_to={} slowest_us={slowest}\n", number + 1));
                slowest = 0;
            }
        }
    });
}
