//! Input that a handler leaves is offered again: when new bytes come, on resume, when `want` is lowered, and at
//! the end; and what a read costs lies in the new bytes and not in the leftover.

mod support;

use plimsoll::{BytesMut, Ctx, Handler, ListenOptions, Reactor, StreamOptions, Token};
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant};
use support::{Chance, address_of, beside, join, pattern, peer, turn_for, turn_until};

#[derive(Default)]
struct App {
    token: Option<Token>,
    /// Length of the input at each `on_data`.
    offered: Vec<usize>,
    /// How much of it the handler takes.
    take: usize,
    taken: Vec<u8>,
    at_end: Option<Vec<u8>>,
}

struct Taker;

impl Handler<App> for Taker {
    fn on_open(&mut self, ctx: &mut Ctx<'_, App>) {
        ctx.app.token = Some(ctx.token);
    }
    fn on_data(&mut self, ctx: &mut Ctx<'_, App>, input: &mut BytesMut) {
        ctx.app.offered.push(input.len());
        let n = ctx.app.take.min(input.len());
        ctx.app.taken.extend_from_slice(&input.split_to(n));
    }
    fn on_eof(&mut self, ctx: &mut Ctx<'_, App>, input: &mut BytesMut) {
        ctx.app.at_end = Some(input.to_vec());
        ctx.shutdown();
    }
}

fn server(change: impl FnOnce(&mut StreamOptions)) -> (Reactor<App>, TcpStream, Token) {
    let mut reactor = Reactor::new(App::default()).expect("a reactor");
    let options = ListenOptions::new().with(|o| change(&mut o.stream));
    let listener = reactor.net.listen_with("127.0.0.1:0", options, |_, _| Some(Taker)).expect("it listens");
    let stream = peer(address_of(&reactor, listener));
    turn_until(&mut reactor, "it is accepted", |r| r.app.token.is_some());
    let token = reactor.app.token.expect("just seen");
    (reactor, stream, token)
}

fn say(reactor: &mut Reactor<App>, stream: &mut TcpStream, data: &[u8]) {
    let before = reactor.net.stats().bytes_read;
    stream.write_all(data).expect("sent");
    turn_until(reactor, "it is read", |r| r.net.stats().bytes_read == before + data.len() as u64);
    turn_for(reactor, Duration::from_millis(2));
}

#[test]
fn what_is_left_is_offered_again_with_new_bytes_behind_it() {
    for size in [10, 3000, 4096, 4097, 50_000] {
        let (mut reactor, mut stream, token) = server(|_| {});
        let data = pattern(size, 1);
        say(&mut reactor, &mut stream, &data);
        assert_eq!(reactor.net.unread(token), size);
        let calls = reactor.app.offered.len();
        turn_for(&mut reactor, Duration::from_millis(10));
        assert_eq!(reactor.app.offered.len(), calls, "not before something has changed");
        say(&mut reactor, &mut stream, b"more");
        assert_eq!(reactor.app.offered.last(), Some(&(size + 4)));
        reactor.app.take = usize::MAX;
        reactor.net.pause_reading(token);
        reactor.net.resume_reading(token);
        turn_until(&mut reactor, "it is offered on resume", |r| r.net.unread(token) == 0);
        assert!(reactor.app.taken == [&data[..], b"more"].concat());
        assert_eq!(reactor.net.stats().held, 0);
    }
}

#[test]
fn a_partly_consumed_stream_is_whole_whatever_is_left_each_time() {
    let mut chance = Chance::new();
    for _ in 0..10 {
        let (mut reactor, mut stream, token) = server(|_| {});
        let data = pattern(400_000, chance.next());
        let mut at = 0;
        while at < data.len() {
            reactor.app.take = match chance.below(3) {
                0 => 0,
                1 => chance.below(100),
                _ => chance.below(100_000),
            };
            let len = (1 + chance.below(60_000)).min(data.len() - at);
            say(&mut reactor, &mut stream, &data[at..at + len]);
            at += len;
            match chance.below(4) {
                0 => reactor.net.want(token, chance.below(100_000)),
                1 => reactor.net.want(token, 0),
                _ => {}
            }
        }
        stream.shutdown(Shutdown::Write).expect("half closed");
        turn_until(&mut reactor, "the end", |r| r.app.at_end.is_some());
        let rest = reactor.app.at_end.take().expect("just seen");
        assert!([&reactor.app.taken[..], &rest].concat() == data);
        assert_eq!(reactor.net.stats().held, 0);
    }
}

#[test]
fn want_calls_only_when_so_much_is_there() {
    for size in [100, 5000, 200_000] {
        let (mut reactor, mut stream, token) = server(|_| {});
        reactor.net.want(token, size);
        let frame = pattern(size, 2);
        for piece in frame[..size - 1].chunks(size / 10) {
            say(&mut reactor, &mut stream, piece);
        }
        assert_eq!(reactor.app.offered, [], "{size}: not yet");
        assert_eq!(reactor.net.unread(token), size - 1);
        reactor.app.take = usize::MAX;
        say(&mut reactor, &mut stream, &frame[size - 1..]);
        assert_eq!(reactor.app.offered, [size]);
        assert!(reactor.app.taken == frame);
        // It holds until it is changed.
        say(&mut reactor, &mut stream, b"less");
        assert_eq!(reactor.app.offered.len(), 1);
        reactor.net.want(token, 4);
        turn_until(&mut reactor, "lowered, it is offered", |r| r.app.offered.len() == 2);
    }
}

#[test]
fn the_end_brings_what_is_less_than_was_wanted() {
    let (mut reactor, mut stream, token) = server(|_| {});
    reactor.net.want(token, 1000);
    say(&mut reactor, &mut stream, b"too little");
    stream.shutdown(Shutdown::Write).expect("half closed");
    turn_until(&mut reactor, "the end", |r| r.app.at_end.is_some());
    assert_eq!(reactor.app.at_end.as_deref(), Some(&b"too little"[..]));
    assert_eq!(reactor.app.offered, []);
}

#[test]
fn more_wanted_than_the_input_limit_acts_as_the_limit_also_when_that_is_lowered() {
    for lowered in [false, true] {
        let (mut reactor, mut stream, token) = server(|o| o.input_limit = if lowered { 1 << 20 } else { 10_000 });
        reactor.net.want(token, 50_000);
        if lowered {
            reactor.net.options(token, |o| o.input_limit = 10_000);
        }
        reactor.app.take = usize::MAX;
        let data = pattern(30_000, 3);
        say(&mut reactor, &mut stream, &data);
        assert_eq!(reactor.app.offered, [10_000; 3]);
        assert!(reactor.app.taken == data);
    }
}

#[test]
fn a_paused_connection_is_not_called_and_its_peer_is_held_back() {
    let (mut reactor, stream, token) = server(|o| o.receive_buffer = Some(16 * 1024));
    reactor.net.pause_reading(token);
    reactor.app.take = usize::MAX;
    let data = pattern(8 << 20, 4);
    let (sent, mut writing) = (data.clone(), stream);
    let writer = beside(move || {
        writing.write_all(&sent).expect("sent in the end");
        writing
    });
    turn_for(&mut reactor, Duration::from_millis(50));
    assert_eq!(reactor.net.stats().bytes_read, 0);
    assert!(!writer.is_finished(), "the peer is held back");
    reactor.net.resume_reading(token);
    let _stream = join(&mut reactor, writer);
    turn_until(&mut reactor, "all was read", |r| r.app.taken.len() == data.len());
    assert!(reactor.app.taken == data);
}

#[test]
fn one_byte_packets_of_a_large_frame_cost_linear_time() {
    // The bytes come one a read: the input limit leaves room for all, and a read takes what is there. Each read
    // is made to see one byte, since the peer sends the next only when the last was read.
    let cost = |before: usize, count: usize| {
        let (mut reactor, mut stream, token) = server(|o| o.input_limit = 4 << 20);
        reactor.net.want(token, before + count);
        let mut left = before;
        while left > 0 {
            let n = left.min(100_000);
            say(&mut reactor, &mut stream, &vec![1; n]);
            left -= n;
        }
        stream.set_nonblocking(true).expect("non-blocking");
        let began = Instant::now();
        for _ in 0..count {
            stream.write_all(&[2]).expect("sent");
            reactor.turn(Some(support::DEADLINE)).expect("the loop turns");
        }
        let spent = began.elapsed();
        assert_eq!(reactor.app.offered, [before + count]);
        spent
    };
    // Behind a megabyte a byte costs what it costs behind ten kilobytes. If it were copied each time, a byte
    // would cost a copy of a megabyte, some 50 µs, against some 10 µs for the two system calls.
    let measured: Vec<f64> =
        (0..5).map(|_| cost(3 << 20, 1000).as_secs_f64() / cost(10_000, 1000).as_secs_f64()).collect();
    let best = measured.iter().copied().fold(f64::MAX, f64::min);
    assert!(best < 3.0, "{measured:?}");
}

#[test]
fn a_handler_that_resumes_itself_without_taking_anything_leaves_the_others_their_turn() {
    struct Stubborn;
    impl Handler<App> for Stubborn {
        fn on_open(&mut self, ctx: &mut Ctx<'_, App>) {
            ctx.app.token = Some(ctx.token);
        }
        fn on_data(&mut self, ctx: &mut Ctx<'_, App>, input: &mut BytesMut) {
            ctx.app.offered.push(input.len());
            assert!(ctx.app.offered.len() < 100_000, "it is called without end");
            ctx.pause_reading();
            ctx.resume_reading();
        }
    }
    let mut reactor = Reactor::new(App::default()).expect("a reactor");
    let listener = reactor.net.listen("127.0.0.1:0", |_, _| Some(Stubborn)).expect("it listens");
    let address = address_of(&reactor, listener);
    let echo = reactor.net.serve("127.0.0.1:0", |ctx, input| {
        ctx.send(&input[..]);
        input.clear();
    });
    let mut stubborn = peer(address);
    stubborn.write_all(b"x").expect("sent");
    turn_until(&mut reactor, "it is called", |r| !r.app.offered.is_empty());
    let mut other = peer(address_of(&reactor, echo.expect("it listens")));
    other.write_all(b"hello").expect("sent");
    turn_until(&mut reactor, "the other is answered", |r| r.net.stats().bytes_written == 5);
    other.read_exact(&mut [0; 5]).expect("the answer");
}
