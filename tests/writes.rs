//! One write per dispatch: `send` appends, and what a callback has sent goes out in one call when it returns;
//! sooner past the eager-flush size. `on_write_complete` tells when the kernel has taken everything.

mod support;

use plimsoll::{BytesMut, Ctx, ListenOptions, Reactor, StreamOptions, Token};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;
use support::{Told, address_of, hook, peer, turn_for, turn_until};

#[derive(Default)]
struct App {
    opened: Vec<Token>,
    completes: Vec<Token>,
    answers: usize,
    answer: Vec<u8>,
}

/// Answers each byte with `answer`.
fn told(ctx: &mut Ctx<'_, App>, told: Told<'_>) {
    match told {
        Told::Open => ctx.app.opened.push(ctx.token),
        Told::Data(input) => {
            for _ in 0..input.len() {
                ctx.app.answers += 1;
                let (net, token) = (&mut *ctx.net, ctx.token);
                net.send(token, &ctx.app.answer);
            }
            input.clear();
        }
        Told::Complete => ctx.app.completes.push(ctx.token),
        Told::Eof(_) => ctx.shutdown(),
        _ => {}
    }
}

fn server(answer: usize, change: impl FnOnce(&mut StreamOptions)) -> (Reactor<App>, TcpStream, Token) {
    let mut reactor = Reactor::new(App { answer: vec![7; answer], ..App::default() }).expect("a reactor");
    let options = ListenOptions::new().with(|o| change(&mut o.stream));
    let listener = reactor.net.listen_with("127.0.0.1:0", options, |_, _| Some(hook(told)));
    let stream = peer(address_of(&reactor, listener.expect("it listens")));
    turn_until(&mut reactor, "it is accepted", |r| !r.app.opened.is_empty());
    turn_for(&mut reactor, Duration::from_millis(2));
    let token = reactor.app.opened[0];
    (reactor, stream, token)
}

fn ask(reactor: &mut Reactor<App>, stream: &mut TcpStream, requests: usize) -> u64 {
    let before = reactor.net.stats().writes;
    let answers = reactor.app.answers;
    stream.write_all(&vec![b'?'; requests]).expect("sent");
    turn_until(reactor, "it is answered", |r| r.app.answers == answers + requests);
    turn_for(reactor, Duration::from_millis(2));
    let mut got = vec![0; requests * reactor.app.answer.len()];
    stream.read_exact(&mut got).expect("the answers");
    reactor.net.stats().writes - before
}

#[test]
fn sixteen_pipelined_requests_answered_by_sixteen_sends_make_one_write() {
    for answer in [1, 64, 1000, 1024, 3000] {
        let (mut reactor, mut stream, _) = server(answer, |_| {});
        for _ in 0..5 {
            assert_eq!(ask(&mut reactor, &mut stream, 16), 1, "answers of {answer} bytes");
        }
        assert_eq!(reactor.app.completes.len(), 5, "and each of these writes was complete");
    }
}

#[test]
fn what_others_send_in_a_turn_is_one_write_too() {
    let (mut reactor, _stream, token) = server(1, |_| {});
    let before = reactor.net.stats().writes;
    for i in 0..100 {
        match i % 3 {
            0 => {
                reactor.net.send(token, "directly");
            }
            1 => reactor.net.defer(move |lp| {
                lp.send(token, "deferred");
            }),
            _ => {
                reactor.net.after(Duration::ZERO, move |lp| {
                    lp.send(token, "timed");
                });
            }
        }
    }
    assert_eq!(reactor.net.stats().writes, before, "send only appends");
    turn_until(&mut reactor, "it is sent", |r| r.net.stats().bytes_written == 34 * 8 + 33 * 8 + 33 * 5);
    assert_eq!(reactor.net.stats().writes, before + 1);
    assert_eq!(reactor.app.completes.len(), 1);
}

#[test]
fn a_queue_past_the_eager_flush_size_is_offered_before_the_callback_returns() {
    let (mut reactor, _stream, token) = server(1, |o| o.eager_flush = 10_000);
    for owned in [false, true] {
        reactor.net.defer(move |lp| {
            let before = lp.stats().writes;
            for _ in 0..9 {
                lp.send(token, &[1; 1000]);
            }
            assert_eq!((lp.stats().writes, lp.queued(token)), (before, 9000));
            if owned {
                lp.send(token, vec![1; 1000])
            } else {
                lp.send(token, &[1; 1000])
            };
            assert_eq!((lp.stats().writes, lp.queued(token)), (before + 1, 0));
        });
        let written = reactor.net.stats().bytes_written;
        turn_until(&mut reactor, "it is sent", |r| r.net.stats().bytes_written == written + 10_000);
    }
    turn_for(&mut reactor, Duration::from_millis(2));
    assert_eq!(reactor.app.completes.len(), 2, "an eager flush that empties the queue is told like any other");
}

#[test]
fn flush_offers_the_queue_at_once() {
    let (mut reactor, mut stream, token) = server(1, |_| {});
    reactor.net.send(token, "now");
    assert_eq!(reactor.net.queued(token), 3);
    reactor.net.flush(token);
    assert_eq!(reactor.net.queued(token), 0);
    let mut got = [0; 3];
    stream.read_exact(&mut got).expect("without a turn");
    turn_for(&mut reactor, Duration::from_millis(2));
    assert_eq!(reactor.app.completes.len(), 1);
}

#[test]
fn on_write_complete_comes_when_the_kernel_has_taken_everything_and_not_before() {
    let (mut reactor, mut stream, token) = server(1, |o| o.send_buffer = Some(16 * 1024));
    reactor.net.send(token, vec![1; 1 << 20]);
    turn_for(&mut reactor, Duration::from_millis(20));
    assert!(reactor.net.queued(token) > 0);
    assert!(reactor.app.completes.is_empty());
    let reader = support::beside(move || {
        stream.read_exact(&mut vec![0; 1 << 20]).expect("all of it");
        stream
    });
    let _stream = support::join(&mut reactor, reader);
    turn_until(&mut reactor, "it is told", |r| !r.app.completes.is_empty());
    turn_for(&mut reactor, Duration::from_millis(5));
    assert_eq!((reactor.app.completes.len(), reactor.net.queued(token)), (1, 0));
}

#[test]
fn what_a_turn_sends_to_many_is_one_write_and_one_completion_for_each() {
    const SUBSCRIBERS: usize = 200;
    let mut reactor = Reactor::new(App::default()).expect("a reactor");
    let listener = reactor.net.listen("127.0.0.1:0", |_, _| Some(hook(told))).expect("it listens");
    let address = address_of(&reactor, listener);
    let mut streams: Vec<TcpStream> = (0..SUBSCRIBERS).map(|_| peer(address)).collect();
    turn_until(&mut reactor, "all are accepted", |r| r.app.opened.len() == SUBSCRIBERS);
    let before = *reactor.net.stats();
    for message in ["one ", "two ", "three"] {
        for token in reactor.app.opened.clone() {
            reactor.net.send(token, message);
        }
    }
    turn_for(&mut reactor, Duration::from_millis(2));
    assert_eq!(reactor.net.stats().writes - before.writes, SUBSCRIBERS as u64);
    assert_eq!(reactor.net.stats().held, before.held, "nothing is left of it");
    let mut completes = std::mem::take(&mut reactor.app.completes);
    completes.sort_unstable();
    reactor.app.opened.sort_unstable();
    assert_eq!(completes, reactor.app.opened);
    for stream in &mut streams {
        let mut got = [0; 13];
        stream.read_exact(&mut got).expect("it comes");
        assert_eq!(&got, b"one two three");
    }
}

#[test]
fn a_handler_that_sends_more_in_on_write_complete_leaves_the_others_their_turn() {
    struct Fountain;
    impl plimsoll::Handler<App> for Fountain {
        fn on_data(&mut self, _: &mut Ctx<'_, App>, _: &mut BytesMut) {}
        fn on_open(&mut self, ctx: &mut Ctx<'_, App>) {
            ctx.send("!");
        }
        fn on_write_complete(&mut self, ctx: &mut Ctx<'_, App>) {
            ctx.app.completes.push(ctx.token);
            ctx.send("!");
        }
    }
    let mut reactor = Reactor::new(App::default()).expect("a reactor");
    let listener = reactor.net.listen("127.0.0.1:0", |_, _| Some(Fountain)).expect("it listens");
    let address = address_of(&reactor, listener);
    let _streams = (peer(address), peer(address));
    turn_until(&mut reactor, "both run", |r| r.net.tokens().len() == 2);
    let (turns, completes) = (reactor.net.stats().turns, reactor.app.completes.len());
    for _ in 0..100 {
        reactor.turn(Some(Duration::ZERO)).expect("the loop turns");
    }
    let told = reactor.app.completes.len() - completes;
    assert!((200..=204).contains(&told), "once a turn each: {told} in {}", reactor.net.stats().turns - turns);
}

#[test]
fn a_connection_that_cannot_write_is_not_tried_again_before_there_is_room() {
    let (mut reactor, mut stream, token) = server(1, |o| o.send_buffer = Some(16 * 1024));
    reactor.net.send(token, vec![1; 1 << 20]);
    turn_for(&mut reactor, Duration::from_millis(20));
    let before = reactor.net.stats().writes;
    for _ in 0..100 {
        reactor.net.send(token, "more");
        reactor.turn(Some(Duration::ZERO)).expect("the loop turns");
    }
    assert_eq!(reactor.net.stats().writes, before, "readiness lives in user space");
    turn_until(&mut reactor, "there is room", |r| {
        assert!(stream.read(&mut vec![0; 10_000]).expect("read") > 0);
        r.net.stats().writes > before
    });
}

#[test]
fn a_large_slice_for_another_connection_is_one_write_and_nothing_behind_it() {
    let (mut reactor, _stream, token) = server(1, |o| o.send_buffer = Some(1 << 20));
    let before = reactor.net.stats().writes;
    reactor.net.send(token, &[7; 100_000][..]);
    turn_until(&mut reactor, "it is complete", |r| !r.app.completes.is_empty());
    turn_for(&mut reactor, Duration::from_millis(2));
    assert_eq!(reactor.net.stats().writes - before, 1);
    assert_eq!(reactor.app.completes.len(), 1);
}
