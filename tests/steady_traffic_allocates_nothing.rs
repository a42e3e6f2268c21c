//! Promise: once warm, the loop moves messages without asking for memory.
//!
//! A counting allocator counts what the reactor's thread asks for while a thousand messages go back and forth, one
//! at a time.

mod support;

use plimsoll::codec::{Delimited, LengthPrefixed};
use plimsoll::{BytesMut, Ctx, Reactor};
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::time::Duration;
use support::allocations::{Counting, calls};
use support::{address_of, peer, turn_until, udp_peer};

#[global_allocator]
static COUNTING: Counting = Counting;

const WARM_UP: usize = 200;
const MESSAGES: usize = 1_000;

/// How often the reactor's thread asks for memory for each of a thousand messages.
fn allocations_per_message(message: &[u8], handler: impl FnMut(&mut Ctx<'_>, &mut BytesMut) + Clone + 'static) -> f64 {
    let mut reactor = Reactor::new(()).unwrap();
    let listener = reactor.net.serve("127.0.0.1:0", handler).unwrap();
    let mut stream = peer(address_of(&reactor, listener));
    let mut back = vec![0; message.len()];
    let mut exchange = |reactor: &mut Reactor, count: usize| {
        for _ in 0..count {
            let written = reactor.net.stats().bytes_written + message.len() as u64;
            stream.write_all(message).unwrap();
            turn_until(reactor, "the echo", |reactor| reactor.net.stats().bytes_written >= written);
            stream.read_exact(&mut back).unwrap();
        }
        assert_eq!(back, message);
    };
    exchange(&mut reactor, WARM_UP);
    let before = calls();
    exchange(&mut reactor, MESSAGES);
    (calls() - before) as f64 / MESSAGES as f64
}

#[test]
fn an_echo_of_borrowed_input() {
    for len in [1, 64, 1_000, 10_000] {
        let each = allocations_per_message(&support::pattern(len, 1), |ctx, input| {
            ctx.send(&input[..]);
            input.clear();
        });
        assert_eq!(each, 0.0, "allocations for each message of {len} bytes");
    }
}

#[test]
fn an_echo_of_split_input() {
    for len in [64, 10_000] {
        let each = allocations_per_message(&support::pattern(len, 1), |ctx, input| {
            let all = input.split();
            ctx.send(all);
        });
        // The read buffer is shared from the first split on, and whole again when what was sent is gone.
        assert_eq!(each, 0.0, "allocations for each message of {len} bytes");
    }
}

#[test]
fn lines_that_are_decoded_and_answered() {
    let mut lines = Delimited::lines(1024);
    let each = allocations_per_message(b"one\ntwo and a half\nthree\n", move |ctx, input| {
        while let Some(line) = lines.decode(input).unwrap() {
            ctx.net.send(ctx.token, line.whole());
        }
    });
    assert_eq!(each, 0.0);
}

#[test]
fn frames_that_are_decoded_and_encoded_again() {
    const FRAMES: LengthPrefixed = LengthPrefixed::new(1024);
    let mut wire = BytesMut::new();
    for payload in [&b"first"[..], b"", &[7; 1000]] {
        FRAMES.encode(payload, &mut wire).unwrap();
    }
    let each = allocations_per_message(&wire, |ctx, input| {
        while let Some(frame) = FRAMES.decode(input).unwrap() {
            let header = FRAMES.header(frame.len()).unwrap();
            ctx.net.send(ctx.token, &header[..]);
            ctx.net.send(ctx.token, &frame[..]);
        }
    });
    assert_eq!(each, 0.0);
}

#[test]
fn input_that_is_left_and_taken_later_costs_no_more_than_its_keeping() {
    // The first half of each message is left, the second completes it.
    let message = support::pattern(3_000, 2);
    let mut reactor = Reactor::new(()).unwrap();
    let listener = reactor
        .net
        .serve("127.0.0.1:0", |ctx, input| {
            if input.len() == 3_000 {
                ctx.send(&input[..]);
                input.clear();
            }
        })
        .unwrap();
    let mut stream = peer(address_of(&reactor, listener));
    let mut exchange = |reactor: &mut Reactor, count: usize| {
        for _ in 0..count {
            for half in message.chunks(1_500) {
                let read = reactor.net.stats().bytes_read + 1_500;
                stream.write_all(half).unwrap();
                turn_until(reactor, "a half", |reactor| reactor.net.stats().bytes_read == read);
            }
            stream.read_exact(&mut [0; 3_000]).unwrap();
        }
    };
    exchange(&mut reactor, WARM_UP);
    let before = calls();
    exchange(&mut reactor, MESSAGES);
    let each = (calls() - before) as f64 / MESSAGES as f64;
    println!("a message in two halves: {each} allocations");
    assert!(each <= 2.0, "{each} allocations for a leftover: its bytes, and the box that holds them");
}

#[test]
fn idle_turns_and_periodic_timers() {
    let mut reactor = Reactor::new(()).unwrap();
    reactor.net.every(Duration::from_micros(100), |_| ());
    let ticks = |reactor: &mut Reactor, count: u64| {
        let until = reactor.net.stats().timers + count;
        turn_until(reactor, "ticks", |reactor| reactor.net.stats().timers >= until);
    };
    ticks(&mut reactor, 10);
    let before = calls();
    ticks(&mut reactor, 100);
    (0..100).for_each(|_| reactor.turn(Some(Duration::ZERO)).unwrap());
    assert_eq!(calls() - before, 0);
}

#[test]
fn datagrams_that_are_received() {
    let mut reactor = Reactor::new(()).unwrap();
    let udp = reactor.net.udp("127.0.0.1:0", |_, _| ()).unwrap();
    let to: SocketAddr = address_of(&reactor, udp);
    let peer = udp_peer("127.0.0.1:0");
    let receive = |reactor: &mut Reactor, count: u64| {
        for _ in 0..count {
            let until = reactor.net.stats().datagrams_in + 1;
            peer.send_to(b"hello", to).unwrap();
            turn_until(reactor, "it arrives", |reactor| reactor.net.stats().datagrams_in == until);
        }
    };
    receive(&mut reactor, 10);
    let before = calls();
    receive(&mut reactor, 1_000);
    assert_eq!(calls() - before, 0);
}
