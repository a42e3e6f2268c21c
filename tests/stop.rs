//! Nothing stops the loop but `stop`, and `stop` is graceful: listeners close, what is queued goes out within a
//! deadline, every handler has had its `on_close` before `run` returns, and `run` may be called again.

mod support;

use plimsoll::{CloseReason, Ctx, DialOptions, ListenOptions, Reactor, ReactorOptions, Token};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};
use support::{Told, address_of, beside, hook, narrow, peer, turn_for, turn_until};

#[derive(Default)]
struct App {
    opened: Vec<Token>,
    closed: Vec<(Token, CloseReason)>,
}

fn told(ctx: &mut Ctx<'_, App>, told: Told<'_>) {
    match told {
        Told::Open => ctx.app.opened.push(ctx.token),
        Told::Data(input) => input.clear(),
        Told::Eof(_) => ctx.shutdown(),
        Told::Close(why) => ctx.app.closed.push((ctx.token, why)),
        _ => {}
    }
}

fn server(options: ReactorOptions) -> (Reactor<App>, SocketAddr) {
    let mut reactor = Reactor::with_options(App::default(), options).expect("a reactor");
    let listener = reactor.net.listen_with("127.0.0.1:0", narrow(|_| {}), |_, _| Some(hook(told)));
    let address = address_of(&reactor, listener.expect("it listens"));
    (reactor, address)
}

fn accepted(reactor: &mut Reactor<App>, address: SocketAddr) -> (TcpStream, Token) {
    let before = reactor.app.opened.len();
    let stream = peer(address);
    turn_until(reactor, "the peer is accepted", |r| r.app.opened.len() == before + 1);
    (stream, reactor.app.opened[before])
}

#[test]
fn a_stop_asked_for_before_run_counts() {
    let (mut reactor, address) = server(ReactorOptions::new());
    reactor.net.stop();
    support::run(&mut reactor);
    assert!(TcpStream::connect(address).is_err(), "the listener is closed");
}

#[test]
fn run_may_be_called_again() {
    for _ in 0..2 {
        let (mut reactor, address) = server(ReactorOptions::new());
        let (_stream, _) = accepted(&mut reactor, address);
        for round in 1..4 {
            reactor.net.after(Duration::from_millis(5), |lp| lp.stop());
            let began = Instant::now();
            support::run(&mut reactor);
            if round > 1 {
                assert!(began.elapsed() >= Duration::from_millis(5), "an old stop does not end a new run");
            }
            assert_eq!(reactor.app.closed.len(), round, "every handler has had on_close");
            let listener = reactor.net.listen("127.0.0.1:0", |_, _| Some(hook(told))).expect("it listens again");
            let address = address_of(&reactor, listener);
            let (_stream, _) = accepted(&mut reactor, address);
        }
    }
}

#[test]
fn what_is_queued_goes_out_before_a_graceful_stop_is_over() {
    let (mut reactor, address) = server(ReactorOptions::new());
    let (mut stream, token) = accepted(&mut reactor, address);
    let (mut idle, _) = accepted(&mut reactor, address);
    let data = support::pattern(4 << 20, 3);
    reactor.net.send(token, data.clone());
    turn_for(&mut reactor, Duration::from_millis(5));
    assert!(reactor.net.queued(token) > 0, "or this test shows nothing");
    reactor.net.stop();
    let reader = beside(move || {
        assert_eq!(idle.read(&mut [0; 1]).expect("an orderly end"), 0, "nothing queued: ended at once");
        support::read_all(&mut stream)
    });
    support::run(&mut reactor);
    assert!(reader.join().expect("an orderly end") == data);
    assert_eq!(reactor.app.closed.len(), 2);
    assert!(reactor.app.closed.iter().all(|(_, why)| matches!(why, CloseReason::Stopped)));
}

#[test]
fn what_comes_in_while_it_stops_is_not_heard_and_nobody_new_is_let_in() {
    let (mut reactor, address) = server(ReactorOptions::new());
    let (_stream, token) = accepted(&mut reactor, address);
    reactor.net.send(token, vec![1; 4 << 20]);
    reactor.net.stop();
    turn_for(&mut reactor, Duration::from_millis(10));
    assert!(TcpStream::connect(address).is_err());
    assert!(reactor.net.listen("127.0.0.1:0", |_, _| Some(hook(told))).is_err());
    reactor.net.connect(address, hook(told));
    turn_until(&mut reactor, "the new one is ended", |r| !r.app.closed.is_empty());
    assert!(matches!(reactor.app.closed[0].1, CloseReason::Stopped));
    reactor.net.stop();
    support::run(&mut reactor);
}

#[test]
fn the_deadline_cuts_those_who_do_not_read() {
    let (mut reactor, address) = server(ReactorOptions::new().with(|o| o.stop_timeout = Duration::from_millis(100)));
    let (mut stream, token) = accepted(&mut reactor, address);
    reactor.net.send(token, vec![1; 4 << 20]);
    reactor.net.stop();
    let began = Instant::now();
    support::run(&mut reactor);
    assert!(began.elapsed() >= Duration::from_millis(100), "not before the deadline");
    assert!(began.elapsed() < Duration::from_secs(4), "not long after it");
    assert!(matches!(reactor.app.closed[..], [(_, CloseReason::Unsent)]), "{:?}", reactor.app.closed);
    assert!(std::io::copy(&mut stream, &mut std::io::sink()).is_err(), "the peer sees that it was cut");
}

#[test]
fn a_second_stop_ends_all_at_once() {
    let (mut reactor, address) = server(ReactorOptions::new());
    let (mut stream, token) = accepted(&mut reactor, address);
    reactor.net.send(token, vec![1; 4 << 20]);
    reactor.net.stop();
    turn_for(&mut reactor, Duration::from_millis(20));
    assert!(reactor.app.closed.is_empty(), "it waits for the flush");
    reactor.net.stop();
    let began = Instant::now();
    support::run(&mut reactor);
    assert!(began.elapsed() < Duration::from_secs(2));
    assert!(matches!(reactor.app.closed[..], [(_, CloseReason::Unsent)]), "{:?}", reactor.app.closed);
    assert!(std::io::copy(&mut stream, &mut std::io::sink()).is_err(), "the peer sees that it was cut");
}

#[test]
fn the_deadline_of_a_stop_that_was_cut_short_does_not_cut_the_next_run() {
    let (mut reactor, address) = server(ReactorOptions::new().with(|o| o.stop_timeout = Duration::from_millis(50)));
    let (_stream, token) = accepted(&mut reactor, address);
    reactor.net.send(token, vec![0; 32 << 20]);
    for at in [1, 10] {
        reactor.net.after(Duration::from_millis(at), |lp| lp.stop());
    }
    reactor.run().expect("it runs");
    // The loop's time, from which timers are reckoned: it is that of its last turn.
    let began = reactor.net.now();
    reactor.net.after(Duration::from_millis(150), |lp| lp.stop());
    reactor.run().expect("it runs again");
    assert!(began.elapsed() >= Duration::from_millis(150), "ended after {:?}", began.elapsed());
}

#[test]
fn a_loop_that_is_turned_on_after_a_cut_sleeps() {
    let (mut reactor, _) = server(ReactorOptions::new());
    reactor.net.stop();
    reactor.net.stop();
    turn_for(&mut reactor, Duration::from_millis(5));
    let before = reactor.net.stats().turns;
    turn_for(&mut reactor, Duration::from_millis(50));
    let turns = reactor.net.stats().turns - before;
    assert!(turns < 10, "{turns} turns in 50 ms with nothing to do");
    assert_eq!(reactor.next_turn_in(), None);
}

#[test]
fn stop_twice_in_one_breath_ends_dialers_too() {
    let (mut reactor, _) = server(ReactorOptions::new());
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a free port");
    let options = DialOptions::new().with(|o| o.first_delay = Duration::from_millis(5));
    reactor.net.dial(nobody, options, |_| hook(told));
    turn_for(&mut reactor, Duration::from_millis(10));
    reactor.net.stop();
    reactor.net.stop();
    support::run(&mut reactor);
    let attempts = reactor.net.stats().connects;
    turn_for(&mut reactor, Duration::from_millis(50));
    assert_eq!(reactor.net.stats().connects, attempts, "nobody dials any more");
}

#[test]
fn a_handler_that_begins_anew_in_on_close_does_not_keep_the_loop() {
    fn phoenix(ctx: &mut Ctx<'_, App>, told: Told<'_>) {
        if let Told::Close(why) = told {
            ctx.app.closed.push((ctx.token, why));
            if ctx.app.closed.len() < 100 {
                ctx.connect("127.0.0.1:1", hook(phoenix));
            }
        }
    }
    let (mut reactor, address) = server(ReactorOptions::new());
    reactor.net.connect(address, hook(phoenix));
    turn_until(&mut reactor, "it is made", |r| !r.app.opened.is_empty());
    reactor.net.stop();
    support::run(&mut reactor);
    assert_eq!(reactor.app.closed.len(), 100, "everybody had on_close");
}

#[test]
fn stop_right_after_close_costs_the_peer_neither_the_answer_nor_a_reset() {
    // More than the peer's window: it waits in the kernel, which drops it if the socket is closed with input unread.
    const ANSWER_BYTES: usize = 1 << 20;
    let mut reactor = Reactor::new(()).expect("a reactor");
    // One read a turn, so that the rest of the request is still in the kernel when the loop stops.
    let options = ListenOptions::new().with(|o| o.stream.read_budget = 1);
    let listener = reactor.net.serve_with("127.0.0.1:0", options, |ctx, input| {
        // Answers a long request at its first bytes, and is done for good.
        input.clear();
        ctx.send(vec![b'n'; ANSWER_BYTES]);
        ctx.close();
        ctx.stop();
    });
    let address = address_of(&reactor, listener.expect("it listens"));
    let mut stream = peer(address);
    stream.write_all(&[b'x'; 100_000]).expect("the kernel holds so much");
    support::run(&mut reactor);
    assert_eq!(support::read_all(&mut stream).len(), ANSWER_BYTES);
}

#[test]
fn an_answer_that_is_flushed_while_the_loop_stops_is_not_cut_by_unread_input() {
    let mut reactor = Reactor::new(()).expect("a reactor");
    let options = narrow(|o| o.read_budget = 1);
    let listener = reactor.net.serve_with("127.0.0.1:0", options, |ctx, input| {
        input.clear();
        ctx.send(vec![b'n'; 1 << 20]);
        ctx.stop();
    });
    let address = address_of(&reactor, listener.expect("it listens"));
    let mut stream = peer(address);
    stream.write_all(&[b'x'; 100_000]).expect("the kernel holds so much");
    let reader = beside(move || support::read_all(&mut stream));
    support::run(&mut reactor);
    assert_eq!(reader.join().expect("an orderly end").len(), 1 << 20);
}

#[test]
fn an_error_of_a_peer_or_of_a_connect_does_not_stop_the_loop() {
    let (mut reactor, address) = server(ReactorOptions::new());
    for _ in 0..10 {
        let (stream, _) = accepted(&mut reactor, address);
        support::reset(stream);
        reactor.net.connect("127.0.0.1:1", hook(told));
        reactor.net.connect("no address at all", hook(told));
    }
    turn_until(&mut reactor, "all have ended", |r| r.app.closed.len() == 30);
    let (_stream, _) = accepted(&mut reactor, address);
}
