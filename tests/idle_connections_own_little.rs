//! Promise: an idle connection owns no buffer, and a closed one leaves next to nothing behind: user memory per
//! connection is bounded, whatever passed through it before.
//!
//! A counting allocator sees what the reactor's thread has asked for. The peers are sockets of std, which own a
//! descriptor and no memory.

mod support;

use bytes::BytesMut;
use plimsoll::{Ctx, Handler, Reactor, RelayOptions};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Mutex, PoisonError};
use support::allocations::{Counting, live_bytes};
use support::{address_of, peer, turn_until};

#[global_allocator]
static COUNTING: Counting = Counting;

/// A little less than 2,048: the tables double when they are full, and this is not to measure luck.
const CONNECTIONS: usize = 2_000;

/// One test at a time has thousands of descriptors.
static ALONE: Mutex<()> = Mutex::new(());

struct Echo;

impl Handler for Echo {
    fn on_data(&mut self, ctx: &mut Ctx<'_>, input: &mut BytesMut) {
        ctx.send(&input[..]);
        input.clear();
    }
}

/// Both ends of every connection are in this process.
#[expect(unsafe_code, reason = "setrlimit(2), which std does not have")]
fn allow_many_descriptors() {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is ours, and outlives both calls.
    let raised = unsafe {
        libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) == 0 && {
            limit.rlim_cur = limit.rlim_max;
            libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) == 0
        }
    };
    let needed = 2 * CONNECTIONS as u64 + 100;
    assert!(raised && limit.rlim_cur >= needed, "{} descriptors are too few", limit.rlim_cur);
}

fn connect(reactor: &mut Reactor, address: SocketAddr, peers: &mut Vec<TcpStream>) {
    let begin = reactor.net.stats().accepts;
    for _ in 0..CONNECTIONS {
        peers.push(peer(address));
    }
    turn_until(reactor, "all are accepted", |reactor| reactor.net.stats().accepts == begin + CONNECTIONS as u64);
}

/// What the loop itself keeps after a storm, in bytes: its lists have room for 1,024 entries each.
const KEPT_BY_THE_LOOP: isize = 48 * 1024;

/// Opens, has `talk` talk, and closes: what each connection costs while it is idle and what each slot keeps in the
/// end is printed, and held against the promise.
#[track_caller]
fn check(what: &str, talk: impl Fn(&mut Reactor, &mut [TcpStream])) {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    allow_many_descriptors();
    let mut reactor = Reactor::new(()).unwrap();
    let listener = reactor.net.listen("127.0.0.1:0", |_, _| Some(Echo)).unwrap();
    let address = address_of(&reactor, listener);
    let mut peers = Vec::with_capacity(CONNECTIONS);
    // One that comes and goes pays for what the loop itself keeps.
    peers.push(peer(address));
    turn_until(&mut reactor, "the first", |reactor| reactor.net.tokens().len() == 1);
    talk(&mut reactor, &mut peers);
    peers.clear();
    turn_until(&mut reactor, "the first is gone", |reactor| reactor.net.tokens().is_empty());
    let mut round = || {
        connect(&mut reactor, address, &mut peers);
        talk(&mut reactor, &mut peers);
        let idle = live_bytes();
        peers.clear();
        turn_until(&mut reactor, "all are gone", |reactor| reactor.net.tokens().is_empty());
        (idle, live_bytes())
    };
    let empty = live_bytes();
    let (idle, left) = round();
    let each = |bytes: isize| bytes as f64 / CONNECTIONS as f64;
    println!("{what}: {} bytes for each idle connection, {} left for each", each(idle - empty), each(left - empty));
    assert!(each(idle - empty) <= 256.0, "{} bytes for each idle connection", each(idle - empty));
    assert!(each(left - empty - KEPT_BY_THE_LOOP) <= 32.0, "{} bytes left for each", each(left - empty));
    let (_, left_again) = round();
    assert!(left_again - left <= 4096, "{} bytes more after every storm", left_again - left);
}

#[test]
fn a_connection_that_never_spoke() {
    check("never spoke", |_, _| ());
}

#[test]
fn a_connection_that_has_echoed() {
    check("echoed", |reactor, peers| {
        for peer in &mut *peers {
            peer.write_all(b"hello").unwrap();
        }
        let written = reactor.net.stats().bytes_written + 5 * peers.len() as u64;
        turn_until(reactor, "all are answered", |reactor| reactor.net.stats().bytes_written == written);
        peers.iter_mut().for_each(|peer| peer.read_exact(&mut [0; 5]).unwrap());
    });
}

#[test]
fn a_connection_whose_output_had_to_wait() {
    check("had to wait", |reactor, peers| {
        let tokens = reactor.net.tokens();
        assert_eq!(tokens.len(), peers.len());
        for (index, token) in tokens.iter().enumerate().take(20) {
            reactor.net.send(*token, vec![index as u8; 8 << 20]);
            reactor.net.send(*token, "and a little");
        }
        reactor.turn(Some(std::time::Duration::ZERO)).unwrap();
        assert!(tokens.iter().any(|token| reactor.net.queued(*token) > 0), "the test needs output that waits");
        peers.iter().for_each(|peer| peer.set_nonblocking(true).unwrap());
        let mut buffer = vec![0; 1 << 20];
        turn_until(reactor, "all is sent and read", |reactor| {
            for peer in &mut *peers {
                while peer.read(&mut buffer).is_ok_and(|n| n > 0) {}
            }
            tokens.iter().all(|token| reactor.net.queued(*token) == 0)
        });
    });
}

/// Takes nothing until a newline has come.
struct Line;

impl Handler for Line {
    fn on_data(&mut self, _: &mut Ctx<'_>, input: &mut BytesMut) {
        if input.last() == Some(&b'\n') {
            input.clear();
        }
    }
}

#[test]
fn a_connection_whose_input_had_to_wait() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let mut reactor = Reactor::new(()).unwrap();
    let listener = reactor.net.listen("127.0.0.1:0", |_, _| Some(Line)).unwrap();
    let address = address_of(&reactor, listener);
    let mut peers: Vec<_> = (0..50).map(|_| peer(address)).collect();
    turn_until(&mut reactor, "all are accepted", |reactor| reactor.net.tokens().len() == peers.len());
    let tokens = reactor.net.tokens();
    let unread = |reactor: &Reactor| tokens.iter().map(|token| reactor.net.unread(*token)).sum::<usize>();
    let mut wait_and_take = |reactor: &mut Reactor, len: usize| {
        peers.iter_mut().for_each(|peer| peer.write_all(&vec![b'x'; len]).unwrap());
        turn_until(reactor, "it waits", |reactor| unread(reactor) == tokens.len() * len);
        let waiting = live_bytes();
        peers.iter_mut().for_each(|peer| peer.write_all(b"\n").unwrap());
        turn_until(reactor, "it is taken", |reactor| unread(reactor) == 0);
        waiting
    };
    for len in [10, 3_000, 50_000] {
        wait_and_take(&mut reactor, len); // the loop's own buffers find their size
        let before = live_bytes();
        let waiting = (wait_and_take(&mut reactor, len) - before) / tokens.len() as isize;
        let after = live_bytes(); // before the printing, which allocates where it is captured
        println!("{len} bytes of input that wait: {waiting} bytes each");
        assert!(waiting <= 2 * len as isize + 128, "{waiting} bytes for {len} of input");
        // The loop's lists may have grown by a few entries.
        assert!(after - before <= 4096, "{} bytes are kept for input that was taken", after - before);
    }
}

#[test]
fn a_relayed_pair_that_is_idle() {
    const PAIRS: usize = 500; // and two more are a little less than 1,024 connections
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    allow_many_descriptors();
    let upstream = TcpListener::bind("127.0.0.1:0").unwrap();
    let to = plimsoll::Address::from(upstream.local_addr().unwrap());
    let mut reactor = Reactor::new(()).unwrap();
    let listener = reactor
        .net
        .listen("127.0.0.1:0", move |ctx, _| {
            let other = ctx.net.connect(to.clone(), Echo);
            assert!(ctx.net.relay(ctx.token, other, RelayOptions::default()));
            Some(Echo)
        })
        .unwrap();
    let address = address_of(&reactor, listener);
    let mut streams = Vec::with_capacity(2 * PAIRS + 2);
    let mut relay = |reactor: &mut Reactor, pairs: usize| {
        for _ in 0..pairs {
            let mut near = peer(address);
            near.write_all(b"hello").unwrap();
            turn_until(reactor, "a connection upstream", |reactor| {
                upstream.set_nonblocking(true).unwrap();
                let accepted = upstream.accept();
                upstream.set_nonblocking(false).unwrap();
                let Ok((far, _)) = accepted else { return false };
                streams.push(far);
                let _ = reactor;
                true
            });
            let far = streams.last_mut().unwrap();
            far.set_nonblocking(true).unwrap();
            turn_until(reactor, "five bytes", |_| far.read(&mut [0; 5]).is_ok_and(|n| n == 5));
            streams.push(near);
        }
        live_bytes()
    };
    let one = relay(&mut reactor, 2);
    let all = relay(&mut reactor, PAIRS);
    let each = (all - one) as f64 / PAIRS as f64;
    println!("idle relayed pair: {each} bytes");
    assert!(each <= 640.0, "{each} bytes for each idle pair");
}
