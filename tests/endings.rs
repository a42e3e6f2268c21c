//! `on_close` comes exactly once for every connection that got a handler, with the reason.

mod support;

use plimsoll::{CloseReason, Ctx, Reactor, ReactorOptions, StreamOptions, Token};
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::rc::Rc;
use std::time::Duration;
use support::{Told, address_of, hook, narrow, peer, reset, turn_for, turn_until};

#[derive(Default)]
struct App {
    opened: Vec<Token>,
    closed: Vec<(Token, CloseReason)>,
}

/// A server whose handler keeps its input unless told otherwise by the first byte of it.
fn server(options: ReactorOptions, change: impl FnOnce(&mut StreamOptions)) -> (Reactor<App>, SocketAddr) {
    let mut reactor = Reactor::with_options(App::default(), options).expect("a reactor");
    let listener = reactor.net.listen_with("127.0.0.1:0", narrow(change), |_, _| Some(hook(told)));
    let address = address_of(&reactor, listener.expect("it listens"));
    (reactor, address)
}

fn told(ctx: &mut Ctx<'_, App>, told: Told<'_>) {
    match told {
        Told::Open => ctx.app.opened.push(ctx.token),
        Told::Data(input) => match input[0] {
            // Keep it.
            b'k' => {}
            // Answer with a megabyte.
            b'm' => {
                ctx.send(vec![1; 1 << 20]);
                input.clear();
            }
            // Answer without end.
            b'!' => {
                while ctx.send(vec![1; 10_000]) != plimsoll::Flow::Closed {}
                input.clear();
            }
            b'p' => {
                ctx.pause_reading();
                input.clear();
            }
            _ => input.clear(),
        },
        Told::Eof(_) => ctx.shutdown(),
        Told::Close(why) => ctx.app.closed.push((ctx.token, why)),
        _ => {}
    }
}

/// Connects, says something, and waits until the server has it.
fn saying(reactor: &mut Reactor<App>, address: SocketAddr, text: &[u8]) -> (TcpStream, Token) {
    let mut stream = peer(address);
    let before = reactor.net.stats().bytes_read;
    stream.write_all(text).expect("sent");
    let opened = reactor.app.opened.len();
    turn_until(reactor, "it was read", |r| {
        r.net.stats().bytes_read >= before + text.len() as u64 && r.app.opened.len() > opened
    });
    let token = reactor.app.opened[opened];
    (stream, token)
}

/// Waits for the one `on_close`, and then for no second one.
#[track_caller]
fn reason(reactor: &mut Reactor<App>) -> CloseReason {
    turn_until(reactor, "on_close", |r| !r.app.closed.is_empty());
    turn_for(reactor, Duration::from_millis(10));
    assert_eq!(reactor.app.closed.len(), 1, "once: {:?}", reactor.app.closed);
    let (token, why) = reactor.app.closed.remove(0);
    assert!(reactor.app.opened.contains(&token));
    why
}

fn is_reset(stream: &mut TcpStream) -> bool {
    match std::io::copy(stream, &mut std::io::sink()) {
        Ok(_) => false,
        Err(e) => {
            assert_eq!(e.kind(), ErrorKind::ConnectionReset);
            true
        }
    }
}

#[test]
fn the_peers_end_is_done() {
    let (mut reactor, address) = server(ReactorOptions::new(), |_| {});
    let (mut stream, _) = saying(&mut reactor, address, b"hello");
    stream.shutdown(Shutdown::Write).expect("half closed");
    assert!(matches!(reason(&mut reactor), CloseReason::Done));
    assert!(!is_reset(&mut stream));
}

#[test]
fn a_reset_is_an_error() {
    let (mut reactor, address) = server(ReactorOptions::new(), |_| {});
    let (stream, _) = saying(&mut reactor, address, b"hello");
    reset(stream);
    assert!(matches!(reason(&mut reactor), CloseReason::Error(e) if e.kind() == ErrorKind::ConnectionReset));
}

#[test]
fn a_reset_of_a_paused_connection_is_an_error_that_tells_of_unread_input() {
    let (mut reactor, address) = server(ReactorOptions::new(), |_| {});
    let (mut stream, token) = saying(&mut reactor, address, b"pause");
    stream.write_all(b"never read").expect("sent");
    turn_for(&mut reactor, Duration::from_millis(5));
    assert!(reactor.net.is_open(token));
    reset(stream);
    assert!(matches!(reason(&mut reactor), CloseReason::ErrorUnread(e) if e.kind() == ErrorKind::ConnectionReset));
}

#[test]
fn a_reset_that_came_before_the_pause_is_told_too() {
    let (mut reactor, address) = server(ReactorOptions::new(), |_| {});
    let (mut stream, _) = saying(&mut reactor, address, b"hello");
    // Both are there when the turn begins: the data is delivered, the handler pauses, and no edge will come.
    stream.write_all(b"pause").expect("sent");
    reset(stream);
    let why = reason(&mut reactor);
    assert!(matches!(&why, CloseReason::ErrorUnread(e) if e.kind() == ErrorKind::ConnectionReset), "{why:?}");
}

#[test]
fn a_reset_behind_the_peers_end_is_an_error() {
    let mut reactor = Reactor::new(App::default()).expect("a reactor");
    let listener = reactor.net.listen("127.0.0.1:0", |_, _| {
        Some(hook(|ctx: &mut Ctx<'_, App>, what: Told<'_>| match what {
            // Its own half stays open, as if the answer took time.
            Told::Eof(_) => ctx.app.opened.push(ctx.token),
            what => told(ctx, what),
        }))
    });
    let address = address_of(&reactor, listener.expect("it listens"));
    let (stream, _) = saying(&mut reactor, address, b"hello");
    let before = reactor.app.opened.len();
    stream.shutdown(Shutdown::Write).expect("the half ends");
    turn_until(&mut reactor, "the end is told", |r| r.app.opened.len() > before);
    reset(stream);
    assert!(matches!(reason(&mut reactor), CloseReason::Error(_)));
}

#[test]
fn a_reset_while_output_waits_is_an_error() {
    let (mut reactor, address) = server(ReactorOptions::new(), |_| {});
    let (stream, token) = saying(&mut reactor, address, b"megabyte");
    assert!(reactor.net.queued(token) > 0);
    reset(stream);
    assert!(matches!(reason(&mut reactor), CloseReason::Error(_)));
    assert_eq!(reactor.net.stats().held, 0);
}

#[test]
fn silence_is_idle_and_traffic_is_not() {
    let (mut reactor, address) = server(ReactorOptions::new(), |o| o.idle_timeout = Some(Duration::from_millis(300)));
    let (mut stream, _) = saying(&mut reactor, address, b"hello");
    for _ in 0..10 {
        turn_for(&mut reactor, Duration::from_millis(40));
        stream.write_all(b"hello").expect("sent");
    }
    assert!(reactor.app.closed.is_empty(), "bytes move, so it is not idle");
    let began = std::time::Instant::now();
    assert!(matches!(reason(&mut reactor), CloseReason::Idle));
    assert!(began.elapsed() >= Duration::from_millis(250), "not early");
    assert!(!is_reset(&mut stream), "nothing was cut");
}

#[test]
fn output_that_nobody_takes_is_stalled_and_the_peer_sees_that_it_was_cut() {
    let (mut reactor, address) = server(ReactorOptions::new(), |o| o.stalled_timeout = Some(Duration::from_millis(50)));
    let (mut stream, _) = saying(&mut reactor, address, b"hello");
    turn_for(&mut reactor, Duration::from_millis(100));
    assert!(reactor.app.closed.is_empty(), "nothing waits, so nothing is stalled");
    stream.write_all(b"megabyte").expect("sent");
    assert!(matches!(reason(&mut reactor), CloseReason::Stalled));
    assert!(is_reset(&mut stream));
}

#[test]
fn output_that_is_taken_slowly_is_not_stalled() {
    let (mut reactor, address) =
        server(ReactorOptions::new(), |o| o.stalled_timeout = Some(Duration::from_millis(200)));
    let (mut stream, token) = saying(&mut reactor, address, b"megabyte");
    let mut buffer = vec![0; 128 * 1024];
    let began = std::time::Instant::now();
    let mut got = 0;
    while got < 1 << 20 {
        got += stream.read(&mut buffer).expect("it goes on");
        if began.elapsed() < Duration::from_millis(400) {
            turn_for(&mut reactor, Duration::from_millis(40));
        }
        turn_until(&mut reactor, "more is sent", |r| {
            r.net.stats().bytes_written > got as u64 || r.net.queued(token) == 0
        });
    }
    assert!(reactor.app.closed.is_empty(), "{:?}", reactor.app.closed);
}

#[test]
fn more_output_than_the_hard_limit_is_overflow() {
    let (mut reactor, address) = server(ReactorOptions::new(), |o| o.hard_limit = 1 << 20);
    let (mut stream, _) = saying(&mut reactor, address, b"!");
    assert!(matches!(reason(&mut reactor), CloseReason::Overflow));
    assert!(is_reset(&mut stream));
    assert_eq!(reactor.net.stats().held, 0);
}

#[test]
fn more_unconsumed_input_than_the_limit_is_the_input_limit_and_just_the_limit_is_not() {
    let (mut reactor, address) = server(ReactorOptions::new(), |o| o.input_limit = 100_000);
    let (mut stream, token) = saying(&mut reactor, address, &vec![b'k'; 100_000]);
    turn_for(&mut reactor, Duration::from_millis(5));
    assert_eq!(reactor.net.unread(token), 100_000);
    stream.write_all(b"k").expect("sent");
    assert!(matches!(reason(&mut reactor), CloseReason::InputLimit));
    assert!(is_reset(&mut stream));
    assert_eq!(reactor.net.stats().held, 0);

    // The end is not one byte too many.
    let (mut stream, _) = saying(&mut reactor, address, &vec![b'k'; 100_000]);
    stream.shutdown(Shutdown::Write).expect("half closed");
    assert!(matches!(reason(&mut reactor), CloseReason::Done));
    assert!(!is_reset(&mut stream));
}

#[test]
fn close_is_local_and_orderly() {
    let (mut reactor, address) = server(ReactorOptions::new(), |_| {});
    let (mut stream, token) = saying(&mut reactor, address, b"hello");
    reactor.net.send(token, "bye");
    reactor.net.close(token);
    reactor.net.close(token);
    assert!(matches!(reason(&mut reactor), CloseReason::Local));
    let mut got = String::new();
    stream.read_to_string(&mut got).expect("an orderly end");
    assert_eq!(got, "bye");
}

#[test]
fn abort_is_aborted_and_a_reset() {
    let (mut reactor, address) = server(ReactorOptions::new(), |_| {});
    let (mut stream, token) = saying(&mut reactor, address, b"hello");
    reactor.net.send(token, "bye");
    reactor.net.abort(token);
    reactor.net.abort(token);
    reactor.net.close(token);
    assert!(matches!(reason(&mut reactor), CloseReason::Aborted));
    assert!(is_reset(&mut stream));
}

#[test]
fn a_close_that_cannot_flush_is_unsent_and_a_reset() {
    let (mut reactor, address) = server(ReactorOptions::new(), |o| o.close_timeout = Duration::from_millis(500));
    let (mut stream, token) = saying(&mut reactor, address, b"megabyte");
    reactor.net.close(token);
    turn_for(&mut reactor, Duration::from_millis(20));
    assert!(reactor.app.closed.is_empty(), "it is still trying");
    assert!(matches!(reason(&mut reactor), CloseReason::Unsent));
    assert!(is_reset(&mut stream));
}

#[test]
fn stop_is_stopped() {
    let (mut reactor, address) = server(ReactorOptions::new(), |_| {});
    let (mut stream, _) = saying(&mut reactor, address, b"hello");
    reactor.net.stop();
    support::run(&mut reactor);
    assert_eq!(reactor.app.closed.len(), 1);
    assert!(matches!(reason(&mut reactor), CloseReason::Stopped));
    assert!(!is_reset(&mut stream));
}

#[test]
fn a_refused_connection_is_connect_and_never_opens() {
    let mut reactor = Reactor::new(App::default()).expect("a reactor");
    let nobody = TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a free port");
    let token = reactor.net.connect(nobody, hook(told));
    // What is sent meanwhile dies with the attempt, and the reason says so by being none of the orderly ones.
    reactor.net.send(token, "hello");
    turn_until(&mut reactor, "on_close", |r| !r.app.closed.is_empty());
    turn_for(&mut reactor, Duration::from_millis(10));
    assert!(reactor.app.opened.is_empty());
    assert_eq!(reactor.app.closed.len(), 1);
    let (closed, why) = &reactor.app.closed[0];
    assert_eq!(*closed, token);
    assert!(matches!(why, CloseReason::Connect(e) if e.kind() == ErrorKind::ConnectionRefused), "{why:?}");
    assert!(!why.is_orderly());
    assert_eq!(reactor.net.stats().held, 0);
}

#[test]
fn a_connection_may_be_closed_or_aborted_while_it_is_made() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bound");
    let address = listener.local_addr().expect("an address");
    for (queued, abort) in [(false, false), (true, false), (false, true), (true, true)] {
        let mut reactor = Reactor::new(App::default()).expect("a reactor");
        let token = reactor.net.connect(address, hook(told));
        if queued {
            reactor.net.send(token, "hello");
        }
        if abort {
            reactor.net.abort(token)
        } else {
            reactor.net.close(token)
        }
        turn_until(&mut reactor, "on_close", |r| !r.app.closed.is_empty());
        turn_for(&mut reactor, Duration::from_millis(5));
        assert_eq!(reactor.app.closed.len(), 1);
        let why = &reactor.app.closed[0].1;
        match (queued, abort) {
            (_, true) => assert!(matches!(why, CloseReason::Aborted)),
            // What `send` took was not handed to the kernel, and the reason says so.
            (true, false) => assert!(matches!(why, CloseReason::Unsent)),
            (false, false) => assert!(matches!(why, CloseReason::Local)),
        }
    }
}

#[test]
fn over_the_memory_budget_the_biggest_holder_ends_and_the_others_go_on() {
    let options = ReactorOptions::new().with(|o| o.memory_budget = Some(500_000));
    let (mut reactor, address) = server(options, |_| {});
    let (_small, small) = saying(&mut reactor, address, &vec![b'k'; 200_000]);
    let (_middle, middle) = saying(&mut reactor, address, &vec![b'k'; 250_000]);
    turn_for(&mut reactor, Duration::from_millis(5));
    assert!(reactor.app.closed.is_empty(), "within the budget");
    let (mut big, big_token) = saying(&mut reactor, address, b"megabyte");
    assert!(matches!(reason(&mut reactor), CloseReason::Memory));
    assert!(!reactor.net.is_open(big_token));
    assert!(is_reset(&mut big));
    assert!(reactor.net.is_open(small) && reactor.net.is_open(middle));
    assert_eq!(reactor.net.stats().held, 450_000);
}

#[test]
fn a_peer_that_the_factory_refuses_never_had_a_handler() {
    let mut reactor = Reactor::new(App::default()).expect("a reactor");
    let listener = reactor.net.listen("127.0.0.1:0", |ctx: &mut Ctx<'_, App>, _| {
        ctx.send("full, come back later");
        false.then(|| hook(told))
    });
    let address = address_of(&reactor, listener.expect("it listens"));
    let mut stream = peer(address);
    turn_until(&mut reactor, "it is refused", |r| r.net.stats().refused == 1);
    turn_for(&mut reactor, Duration::from_millis(10));
    let mut got = String::new();
    stream.read_to_string(&mut got).expect("an orderly end");
    assert_eq!(got, "full, come back later");
    drop(stream);
    turn_for(&mut reactor, Duration::from_millis(10));
    assert!(reactor.app.closed.is_empty() && reactor.app.opened.is_empty());
}

#[test]
fn the_address_of_the_peer_is_good_in_on_close() {
    let mut reactor = Reactor::new(Vec::new()).expect("a reactor");
    let listener = reactor.net.listen("127.0.0.1:0", |_, _| {
        Some(hook(|ctx: &mut Ctx<'_, Vec<SocketAddr>>, told| match told {
            Told::Eof(_) => ctx.shutdown(),
            Told::Close(_) => {
                let address = ctx.peer_address(ctx.token).and_then(|address| address.ip());
                ctx.app.push(address.expect("still known"));
            }
            _ => {}
        }))
    });
    let address = address_of(&reactor, listener.expect("it listens"));
    let stream = peer(address);
    let own = stream.local_addr().expect("an address");
    drop(stream);
    turn_until(&mut reactor, "on_close", |r| !r.app.is_empty());
    assert_eq!(reactor.app, [own]);
}

/// A handler that notes in a place of its own whether it was told of the end, and whether it was dropped.
struct Witness(Rc<std::cell::RefCell<Vec<&'static str>>>);

impl plimsoll::Handler<App> for Witness {
    fn on_open(&mut self, ctx: &mut Ctx<'_, App>) {
        ctx.app.opened.push(ctx.token);
        ctx.timer(1, Duration::ZERO);
    }
    fn on_data(&mut self, _: &mut Ctx<'_, App>, _: &mut plimsoll::BytesMut) {}
    fn on_timer(&mut self, ctx: &mut Ctx<'_, App>, _: u32) {
        // Something is always due when the reactor goes.
        ctx.timer(1, Duration::ZERO);
        ctx.defer(|_| ());
    }
    fn on_close(&mut self, _: &mut Ctx<'_, App>, _: CloseReason) {
        self.0.borrow_mut().push("closed");
    }
}

impl Drop for Witness {
    fn drop(&mut self) {
        self.0.borrow_mut().push("dropped");
    }
}

#[test]
fn dropping_a_reactor_delivers_nothing_and_into_app_gives_the_state_back() {
    for into_app in [false, true] {
        let seen = Rc::new(std::cell::RefCell::new(Vec::new()));
        let mut reactor = Reactor::new(App::default()).expect("a reactor");
        let witness = seen.clone();
        let listener = reactor.net.listen("127.0.0.1:0", move |_, _| Some(Witness(witness.clone())));
        let address = address_of(&reactor, listener.expect("it listens"));
        let mut streams: Vec<TcpStream> = (0..3).map(|_| peer(address)).collect();
        turn_until(&mut reactor, "all are accepted", |r| r.app.opened.len() == 3);
        let aborted = reactor.app.opened[0];
        reactor.net.abort(aborted);
        if into_app {
            let app = reactor.into_app();
            assert_eq!(app.opened.len(), 3);
            assert!(app.closed.is_empty());
        } else {
            drop(reactor);
        }
        assert_eq!(*seen.borrow(), ["dropped"; 3]);
        for stream in &mut streams {
            assert!(!matches!(stream.read(&mut [0; 1]), Ok(n) if n > 0), "the sockets are closed");
        }
    }
}
