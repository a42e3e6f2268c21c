//! What the tests share: turning a reactor until something holds, and peers with deadlines.
//!
//! Every wait here ends: with what was waited for, or with a panic that says what that was.
#![allow(dead_code, reason = "each test file uses its own part of this")]

pub mod allocations;

use plimsoll::{Reactor, Token};
use std::io::Read;
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::{Command, ExitStatus, Stdio};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// Long enough for a slow machine under load; a test that passes never waits for it.
pub const DEADLINE: Duration = Duration::from_secs(30);

/// Turns until `done` says so.
///
/// # Panics
/// When it has not by the deadline: `what` tells which wait it was.
#[track_caller]
pub fn turn_until<A: 'static>(reactor: &mut Reactor<A>, what: &str, mut done: impl FnMut(&mut Reactor<A>) -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !done(reactor) {
        assert!(Instant::now() < deadline, "waited in vain: {what}");
        reactor.turn(Some(Duration::from_millis(20))).expect("the loop turns");
    }
}

/// Turns for a while whatever happens: to see that something does *not* happen.
pub fn turn_for<A: 'static>(reactor: &mut Reactor<A>, time: Duration) {
    let end = Instant::now() + time;
    while let Some(left) = end.checked_duration_since(Instant::now()) {
        reactor.turn(Some(left)).expect("the loop turns");
    }
}

/// The IP address that a listener or a datagram socket is bound to.
pub fn address_of<A: 'static>(reactor: &Reactor<A>, token: Token) -> SocketAddr {
    reactor.net.local_address(token).and_then(|address| address.ip()).expect("bound to an IP address")
}

/// A blocking peer whose reads and writes end in an error, and not in a hang, at the deadline.
pub fn peer(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect_timeout(&address, DEADLINE).expect("the peer connects");
    stream.set_read_timeout(Some(DEADLINE)).expect("a read time-out");
    stream.set_write_timeout(Some(DEADLINE)).expect("a write time-out");
    stream.set_nodelay(true).expect("no delay");
    stream
}

/// The same for datagrams.
pub fn udp_peer(address: &str) -> UdpSocket {
    let socket = UdpSocket::bind(address).expect("the peer binds");
    socket.set_read_timeout(Some(DEADLINE)).expect("a read time-out");
    socket
}

/// One turn whose callbacks are expected to panic.
#[track_caller]
pub fn turn_and_panic<A: 'static>(reactor: &mut Reactor<A>) {
    let turned = catch_unwind(AssertUnwindSafe(|| reactor.turn(Some(DEADLINE))));
    assert!(turned.is_err(), "a callback was to panic in this turn");
}

/// Runs `body` in a process of its own, for what belongs to a process: signals, limits, namespaces. The child is
/// this test binary, told to run the test `name` alone; `name` is the calling test's own.
///
/// # Panics
/// When the child fails, or has not ended by the deadline.
#[track_caller]
pub fn in_a_child(name: &str, body: impl FnOnce()) {
    if std::env::var_os(IN_CHILD).is_some_and(|child| child == name) {
        return body();
    }
    let this = std::env::current_exe().expect("the test binary");
    let mut child = Command::new(this);
    child.args([name, "--exact", "--nocapture", "--test-threads=1"]).env(IN_CHILD, name).stdin(Stdio::null());
    let status = status_by_deadline(&mut child);
    assert!(status.success(), "the child of {name} failed: {status}");
}

/// Set in a child of [`in_a_child`], to the name of its test.
const IN_CHILD: &str = "PLIMSOLL_TEST_IN_CHILD";

/// Runs a command to its end.
#[track_caller]
pub fn status_by_deadline(command: &mut Command) -> ExitStatus {
    let mut child = command.spawn().expect("the command starts");
    let deadline = Instant::now() + DEADLINE;
    loop {
        if let Some(status) = child.try_wait().expect("a child of ours") {
            return status;
        }
        if Instant::now() > deadline {
            child.kill().expect("a child of ours");
            panic!("{command:?} did not end");
        }
        thread::sleep(Duration::from_millis(2));
    }
}

/// Does blocking things on a thread while the test turns the reactor.
pub fn beside<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
    thread::spawn(work)
}

/// Turns until the thread has ended, and gives its result, or its panic, on.
#[track_caller]
pub fn join<A: 'static, T>(reactor: &mut Reactor<A>, thread: JoinHandle<T>) -> T {
    turn_until(reactor, "the peer's thread ends", |_| thread.is_finished());
    match thread.join() {
        Ok(value) => value,
        Err(panic) => std::panic::resume_unwind(panic),
    }
}

/// Everything until the end of the stream.
pub fn read_all(stream: &mut TcpStream) -> Vec<u8> {
    let mut all = Vec::new();
    stream.read_to_end(&mut all).expect("the stream ends in order");
    all
}

/// Bytes that differ along the stream, so that a loss, a repetition or an exchange shows.
pub fn pattern(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(2).wrapping_add(1);
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}
