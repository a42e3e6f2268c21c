//! What the tests share: turning a reactor until something holds, and peers with deadlines.
//!
//! Every wait here ends: with what was waited for, or with a panic that says what that was.
#![allow(dead_code, reason = "each test file uses its own part of this")]

pub mod allocations;
pub mod examples;
pub mod witness;

use nix::sys::socket::{setsockopt, sockopt};
use plimsoll::{BytesMut, CloseReason, Ctx, Handler, ListenOptions, Reactor, StreamOptions, Token};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::{Command, ExitStatus, Stdio};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

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

/// Runs until somebody has stopped the loop.
///
/// # Panics
/// When nobody has by the deadline.
pub fn run<A: 'static>(reactor: &mut Reactor<A>) {
    let deadline = reactor.net.after(DEADLINE, |_| panic!("the loop does not stop"));
    reactor.run().expect("the loop runs");
    reactor.net.cancel(deadline);
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

/// [`in_a_child`], with a network of its own that has nothing in it. Where no such thing may be made the test is
/// skipped, and says so; under `CI=true` it fails.
#[track_caller]
pub fn run_in_a_namespace(name: &str, body: impl FnOnce()) {
    if std::env::var_os(IN_CHILD).is_some_and(|child| child == name) {
        return body();
    }
    let works = |command: &mut Command| command.stderr(Stdio::null()).status().is_ok_and(|status| status.success());
    let make = [&["-n"][..], &["-r", "-n"]]
        .into_iter()
        .find(|make| works(Command::new("unshare").args(*make).args(["ip", "link", "set", "lo", "up"])));
    let Some(make) = make else {
        assert!(std::env::var_os("CI").is_none_or(|ci| ci != "true"), "{name}: no network namespace, or no iproute2");
        // Not eprintln, which the harness would keep to itself.
        let notice = format!("SKIPPED {name}: no network namespace can be made here, or iproute2 is missing\n");
        std::io::stderr().write_all(notice.as_bytes()).expect("stderr");
        return;
    };
    let this = std::env::current_exe().expect("the test binary");
    let mut child = Command::new("unshare");
    child.args(make).arg(this).args([name, "--exact", "--nocapture", "--test-threads=1"]);
    child.env(IN_CHILD, name).stdin(Stdio::null());
    let status = status_by_deadline(&mut child);
    assert!(status.success(), "the child of {name} failed: {status}");
}

/// Set in a child of [`in_a_child`], to the name of its test.
const IN_CHILD: &str = "PLIMSOLL_TEST_IN_CHILD";

/// Runs a command to its end. It has twice the time of a wait inside it, so that the inner one tells what it was.
#[track_caller]
pub fn status_by_deadline(command: &mut Command) -> ExitStatus {
    let mut child = command.spawn().expect("the command starts");
    let deadline = Instant::now() + 2 * DEADLINE;
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

/// A blocking server that is not ours, on any free port.
pub fn upstream() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("an address");
    (listener, address)
}

/// A listener whose backlog is full, so that an attempt to connect hangs, and the connections that fill it.
pub fn full_listener() -> ((TcpListener, Vec<TcpStream>), SocketAddr) {
    use nix::sys::socket::{Backlog, listen};
    let (listener, address) = upstream();
    listen(&listener, Backlog::new(0).expect("a backlog of none")).expect("listen again, with less room");
    let mut waiting = Vec::new();
    while let Ok(stream) = TcpStream::connect_timeout(&address, Duration::from_millis(100)) {
        waiting.push(stream);
        assert!(waiting.len() < 10, "the backlog has a bound");
    }
    ((listener, waiting), address)
}

/// Accepts one connection, with the same deadlines as [`peer`].
pub fn accept(listener: &TcpListener) -> TcpStream {
    let (stream, _) = listener.accept().expect("a connection comes");
    stream.set_read_timeout(Some(DEADLINE)).expect("a read time-out");
    stream.set_write_timeout(Some(DEADLINE)).expect("a write time-out");
    stream.set_nodelay(true).expect("no delay");
    stream
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

/// What a handler was told.
pub enum Told<'a> {
    Open,
    Data(&'a mut BytesMut),
    Eof(&'a mut BytesMut),
    High(usize),
    Low,
    Complete,
    Timer(u32),
    Close(CloseReason),
}

/// A handler that is one closure, told everything. It answers an end by itself: nothing is shut down for it.
pub struct Hook<F>(F);

/// Makes a [`Hook`].
pub fn hook<A: 'static, F: FnMut(&mut Ctx<'_, A>, Told<'_>) + 'static>(told: F) -> Hook<F> {
    Hook(told)
}

impl<A: 'static, F: FnMut(&mut Ctx<'_, A>, Told<'_>) + 'static> Handler<A> for Hook<F> {
    fn on_open(&mut self, ctx: &mut Ctx<'_, A>) {
        (self.0)(ctx, Told::Open);
    }
    fn on_data(&mut self, ctx: &mut Ctx<'_, A>, input: &mut BytesMut) {
        (self.0)(ctx, Told::Data(input));
    }
    fn on_eof(&mut self, ctx: &mut Ctx<'_, A>, input: &mut BytesMut) {
        (self.0)(ctx, Told::Eof(input));
    }
    fn on_high_water(&mut self, ctx: &mut Ctx<'_, A>, queued: usize) {
        (self.0)(ctx, Told::High(queued));
    }
    fn on_low_water(&mut self, ctx: &mut Ctx<'_, A>) {
        (self.0)(ctx, Told::Low);
    }
    fn on_write_complete(&mut self, ctx: &mut Ctx<'_, A>) {
        (self.0)(ctx, Told::Complete);
    }
    fn on_timer(&mut self, ctx: &mut Ctx<'_, A>, key: u32) {
        (self.0)(ctx, Told::Timer(key));
    }
    fn on_close(&mut self, ctx: &mut Ctx<'_, A>, why: CloseReason) {
        (self.0)(ctx, Told::Close(why));
    }
}

/// Listener options for connections whose kernel buffer toward the peer is small, so that a queue forms early.
pub fn narrow(change: impl FnOnce(&mut StreamOptions)) -> ListenOptions {
    let stream = StreamOptions::new().with(|o| o.send_buffer = Some(64 * 1024)).with(change);
    ListenOptions::new().with(|o| o.stream = stream)
}

/// Writes `data` again and again until nothing more is taken for a while; how many bytes were.
pub fn stuff(mut stream: &TcpStream, data: &[u8]) -> usize {
    stream.set_write_timeout(Some(Duration::from_millis(100))).expect("a time-out");
    let mut written = 0;
    while let Ok(n) = stream.write(&data[written % data.len()..]) {
        written += n;
    }
    written
}

/// Closes with an RST.
pub fn reset(stream: TcpStream) {
    let now = libc::linger { l_onoff: 1, l_linger: 0 };
    setsockopt(&stream, sockopt::Linger, &now).expect("SO_LINGER");
}

/// Chance with a seed that a failing test shows: `SEED=… cargo test` runs it again.
pub struct Chance(u64);

impl Chance {
    pub fn new() -> Chance {
        let drawn = || SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |since| since.as_nanos() as u64);
        let seed = std::env::var("SEED").ok().and_then(|text| text.parse().ok()).unwrap_or_else(drawn);
        println!("SEED={seed}");
        Chance(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// One for somebody else, drawn from this one.
    pub fn split(&mut self) -> Chance {
        Chance(self.next().wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// A number below `n`.
    pub fn below(&mut self, n: usize) -> usize {
        (self.next() >> 11) as usize % n
    }

    /// True once in `n` times.
    pub fn once_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }
}
