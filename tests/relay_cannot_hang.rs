//! A relay goes on as long as its peers do, in whatever order they write and read and whatever the marks are.
//!
//! The classic mistake: a high-water callback is queued, the queue drains before it runs, and then the relay has
//! stopped reading and waits for a drain that has been. Here both happen in one turn, over and over, once with
//! `Net::relay` and once with handlers that a user could have written.

mod support;

use nix::sys::socket::{setsockopt, sockopt};
use plimsoll::{BytesMut, CloseReason, Ctx, Flow, Handler, ListenOptions, Reactor, RelayOptions, StreamOptions, Token};
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant};
use support::witness::{reactor, relay};
use support::{DEADLINE, accept, address_of, beside, join, pattern, peer, read_all, turn_until, upstream};

const MIB: usize = 1024 * 1024;

/// A relay as a user would write it: stops reading one side while the other is over its mark.
struct Forward {
    other: Token,
    /// Whether it stops at the mark, or leaves it to the hard limit to bound the queue.
    heeds: bool,
}

impl Handler for Forward {
    fn on_data(&mut self, ctx: &mut Ctx<'_>, input: &mut BytesMut) {
        if ctx.net.send(self.other, &input[..]) == Flow::High && self.heeds {
            ctx.pause_reading();
        }
        input.clear();
    }

    fn on_low_water(&mut self, ctx: &mut Ctx<'_>) {
        ctx.net.resume_reading(self.other);
    }

    fn on_eof(&mut self, ctx: &mut Ctx<'_>, input: &mut BytesMut) {
        assert!(input.is_empty(), "nothing is ever left");
        ctx.net.shutdown(self.other);
    }

    fn on_close(&mut self, ctx: &mut Ctx<'_>, why: CloseReason) {
        if !why.is_orderly() {
            ctx.net.abort(self.other);
        }
    }
}

fn forwarding_relay(reactor: &mut Reactor, upstream: SocketAddr, stream: &StreamOptions, heeds: bool) -> SocketAddr {
    let stream = stream.clone();
    let options = ListenOptions::new().with(|o| o.stream = stream.clone());
    let listener = reactor.net.listen_with("127.0.0.1:0", options, move |ctx, _| {
        let client = ctx.token;
        let other = ctx.net.connect_with(upstream, stream.clone(), Forward { other: client, heeds });
        Some(Forward { other, heeds })
    });
    address_of(reactor, listener.expect("it listens"))
}

/// Writes everything, and reads only then.
fn write_then_read(mut stream: TcpStream, ours: u64, theirs: u64, len: usize) {
    stream.write_all(&pattern(len, ours)).expect("everything is taken");
    stream.shutdown(Shutdown::Write).expect("the half ends");
    assert!(read_all(&mut stream) == pattern(len, theirs), "what came is not what was sent");
}

fn both_write_before_either_reads<A: 'static>(
    reactor: &mut Reactor<A>,
    listener: std::net::TcpListener,
    relay: SocketAddr,
) {
    let server = beside(move || write_then_read(accept(&listener), 1, 2, 30 * MIB));
    let client = beside(move || write_then_read(peer(relay), 2, 1, 30 * MIB));
    join(reactor, server);
    join(reactor, client);
}

#[test]
fn two_sides_that_write_30_mib_before_either_reads_are_done_when_the_marks_hold_it() {
    let mut reactor = reactor();
    let (listener, address) = upstream();
    let relay = relay(&mut reactor, address, RelayOptions::new().with(|o| o.high_water = 30 * MIB));
    both_write_before_either_reads(&mut reactor, listener, relay);
    turn_until(&mut reactor, "both sides end", |reactor| reactor.app.closed.len() == 2);
    assert!(reactor.app.closed.iter().all(|(_, why)| matches!(why, CloseReason::Done)));
}

#[test]
fn handlers_that_read_while_high_carry_30_mib_each_way_before_either_side_reads() {
    let mut reactor = Reactor::new(()).expect("a reactor");
    let (listener, address) = upstream();
    // Both queues pass the high mark: a side that is then not read, as is the default, would never be written out.
    let stream = StreamOptions::new().with(|o| o.read_while_high = true);
    let relay = forwarding_relay(&mut reactor, address, &stream, false);
    both_write_before_either_reads(&mut reactor, listener, relay);
    turn_until(&mut reactor, "both sides end", |reactor| reactor.net.tokens().is_empty());
}

/// With marks that hold little, a peer must read sooner or later: here when its writes have stalled.
#[test]
fn two_sides_that_read_only_when_they_cannot_write_finish_with_the_default_marks() {
    let mut reactor = reactor();
    let (listener, address) = upstream();
    let relay = relay(&mut reactor, address, RelayOptions::new());
    // Neither reads until the other is stuck too.
    let both_stuck = Arc::new(Barrier::new(2));
    let (stuck, also_stuck) = (both_stuck.clone(), both_stuck);
    let server = beside(move || write_until_stuck_then_both(accept(&listener), 1, 2, &stuck));
    let client = beside(move || write_until_stuck_then_both(peer(relay), 2, 1, &also_stuck));
    join(&mut reactor, server);
    join(&mut reactor, client);
    turn_until(&mut reactor, "both sides end", |reactor| reactor.app.closed.len() == 2);
}

fn write_until_stuck_then_both(mut stream: TcpStream, ours: u64, theirs: u64, stuck: &Barrier) {
    const LEN: usize = 60 * MIB;
    let data = pattern(LEN, ours);
    // The kernel would let it grow to as much as the machine allows, which may be more than all of it.
    setsockopt(&stream, sockopt::RcvBuf, &(64 * 1024)).expect("a receive buffer");
    stream.set_write_timeout(Some(Duration::from_millis(100))).expect("a time-out");
    let mut written = 0;
    loop {
        match stream.write(&data[written..]) {
            Ok(n) => written += n,
            Err(e) if e.kind() == ErrorKind::WouldBlock => break,
            Err(e) => panic!("{e}"),
        }
        assert!(written < LEN, "60 MiB fit into the kernel's buffers and the marks: nothing is shown");
    }
    stuck.wait();
    stream.set_write_timeout(Some(DEADLINE)).expect("a time-out");
    let mut reader = stream.try_clone().expect("a second handle");
    let reader = thread::spawn(move || read_all(&mut reader));
    stream.write_all(&data[written..]).expect("everything is taken");
    stream.shutdown(Shutdown::Write).expect("the half ends");
    assert!(reader.join().expect("read") == pattern(LEN, theirs), "what came is not what was sent");
}

/// One peer, one thread: writes and reads pieces between turns, so that in one turn the client is readable and
/// the upstream writable, and the mark is crossed and left again.
struct Stepper {
    stream: TcpStream,
    out: Vec<u8>,
    written: usize,
    read: Vec<u8>,
    ended: bool,
}

impl Stepper {
    fn new(stream: TcpStream, out: Vec<u8>) -> Stepper {
        stream.set_nonblocking(true).expect("non-blocking");
        Stepper { stream, out, written: 0, read: Vec::new(), ended: false }
    }

    fn write(&mut self, most: usize) {
        let until = self.out.len().min(self.written + most);
        if self.written == self.out.len() {
            return;
        }
        match self.stream.write(&self.out[self.written..until]) {
            Ok(n) => self.written += n,
            Err(e) => assert_eq!(e.kind(), ErrorKind::WouldBlock),
        }
        if self.written == self.out.len() {
            self.stream.shutdown(Shutdown::Write).expect("the half ends");
        }
    }

    fn read(&mut self, most: usize) {
        let mut buffer = vec![0; most];
        match self.stream.read(&mut buffer) {
            Ok(0) => self.ended |= most > 0,
            Ok(n) => self.read.extend_from_slice(&buffer[..n]),
            Err(e) => assert_eq!(e.kind(), ErrorKind::WouldBlock),
        }
    }
}

fn race<A: 'static>(reactor: &mut Reactor<A>, listener: &std::net::TcpListener, relay: SocketAddr, seed: u64) {
    const LEN: usize = 3 * MIB;
    let client = peer(relay);
    // The loop turns on this thread, so the connection must be accepted and made before we wait for it.
    listener.set_nonblocking(true).expect("non-blocking");
    let mut server = None;
    turn_until(reactor, "the upstream is reached", |_| {
        server = listener.accept().ok();
        server.is_some()
    });
    let (server, _) = server.expect("accepted");
    let mut client = Stepper::new(client, pattern(LEN, seed));
    let mut server = Stepper::new(server, pattern(LEN, seed + 1));
    let deadline = Instant::now() + DEADLINE;
    let mut draws = pattern(4 * MIB, seed + 2).into_iter().cycle();
    let mut size = |most: u32| 1usize << (u32::from(draws.next().expect("endless")) % most);
    while !(client.ended && server.ended) {
        client.write(size(19));
        server.read(size(20));
        server.write(size(20));
        client.read(size(19));
        reactor.turn(Some(Duration::ZERO)).expect("the loop turns");
        assert!(
            Instant::now() < deadline,
            "hangs: client {}/{} bytes, server {}/{}",
            client.written,
            client.read.len(),
            server.written,
            server.read.len()
        );
    }
    assert!(server.read == client.out && client.read == server.out, "what came is not what was sent");
}

#[test]
fn crossing_the_mark_and_draining_in_one_turn_does_not_stop_the_relay() {
    for (seed, high_water) in [(10, 1), (20, 10_000), (30, 64 * 1024), (40, 300_000)] {
        let mut reactor = reactor();
        let (listener, address) = upstream();
        let relay = relay(&mut reactor, address, RelayOptions::new().with(|o| o.high_water = high_water));
        race(&mut reactor, &listener, relay, seed);
        turn_until(&mut reactor, "both sides end", |reactor| reactor.app.closed.len() == 2);
        assert_eq!(reactor.net.stats().held, 0);
    }
}

#[test]
fn crossing_the_mark_and_draining_in_one_turn_does_not_stop_handlers_that_relay() {
    for (seed, high_water, eager_flush) in
        [(50, 1, 64 * 1024), (60, 10_000, 1), (70, 64 * 1024, 1), (80, 300_000, 64 * 1024)]
    {
        let mut reactor = Reactor::new(()).expect("a reactor");
        let (listener, address) = upstream();
        let stream = StreamOptions::new().with(|o| {
            o.read_while_high = true;
            o.high_water = high_water;
            o.low_water = high_water / 4;
            o.eager_flush = eager_flush;
        });
        let relay = forwarding_relay(&mut reactor, address, &stream, true);
        race(&mut reactor, &listener, relay, seed);
        turn_until(&mut reactor, "both sides end", |reactor| reactor.net.tokens().is_empty());
        assert_eq!(reactor.net.stats().held, 0);
    }
}
