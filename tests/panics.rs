//! A callback that panics costs its own connection and nothing else.
//!
//! The panic leaves `turn`; the connection whose callback it was is aborted without `on_close`; what was ready in
//! the same turn, timers, mail and deferred closures are served when the loop goes on.

mod support;

use plimsoll::{CloseReason, Ctx, Loop, Reactor, StreamOptions, Token};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::time::Duration;
use support::{Told, address_of, hook, narrow, peer, turn_until};

/// What a callback throws: unlike `panic!` it prints nothing.
struct Thrown;

fn throw() -> ! {
    resume_unwind(Box::new(Thrown));
}

#[derive(Default)]
struct App {
    /// The kind of callback that panics next.
    fuse: Option<&'static str>,
    closed: Vec<(Token, CloseReason)>,
    opened: Vec<Token>,
    ran: Vec<&'static str>,
}

fn light(app: &mut App, kind: &'static str) {
    if app.fuse == Some(kind) {
        app.fuse = None;
        throw();
    }
}

/// An echo whose every callback may panic; a `!` makes it queue far more than the kernel takes.
fn fused(ctx: &mut Ctx<'_, App>, told: Told<'_>) {
    let own_fuse = ctx.app.opened.first() == Some(&ctx.token);
    match told {
        Told::Open => {
            ctx.app.opened.push(ctx.token);
            light(ctx.app, "open");
            ctx.timer(1, Duration::from_millis(1));
        }
        Told::Data(input) => {
            light(ctx.app, "data");
            if input[0] == b'!' {
                ctx.send(vec![7; 512 * 1024]);
            } else {
                ctx.send(&input[..]);
            }
            input.clear();
        }
        Told::Eof(_) => {
            light(ctx.app, "eof");
            ctx.shutdown();
        }
        Told::High(_) => light(ctx.app, "high"),
        Told::Low => light(ctx.app, "low"),
        Told::Complete => light(ctx.app, "complete"),
        Told::Timer(_) if own_fuse => light(ctx.app, "timer"),
        Told::Timer(_) => {}
        Told::Close(why) => {
            ctx.app.closed.push((ctx.token, why));
            light(ctx.app, "close");
        }
    }
}

fn server(app: App) -> (Reactor<App>, std::net::SocketAddr) {
    let mut reactor = Reactor::new(app).expect("a reactor");
    let marks = |o: &mut StreamOptions| {
        o.high_water = 64 * 1024;
        o.low_water = 16 * 1024;
    };
    let listener = reactor.net.listen_with("127.0.0.1:0", narrow(marks), |ctx: &mut Ctx<'_, App>, _| {
        light(ctx.app, "factory");
        Some(hook(fused))
    });
    let address = address_of(&reactor, listener.expect("it listens"));
    (reactor, address)
}

/// Turns until a panic comes out.
#[track_caller]
fn turn_until_thrown(reactor: &mut Reactor<App>, what: &str, mut drive: impl FnMut()) {
    let end = std::time::Instant::now() + support::DEADLINE;
    loop {
        assert!(std::time::Instant::now() < end, "no panic came: {what}");
        drive();
        let turned = catch_unwind(AssertUnwindSafe(|| reactor.turn(Some(Duration::from_millis(5)))));
        match turned {
            Ok(turned) => turned.expect("the loop turns"),
            Err(panic) => {
                assert!(panic.is::<Thrown>(), "{what}: another panic than the one thrown");
                return;
            }
        }
    }
}

fn echoes(reactor: &mut Reactor<App>, stream: &mut TcpStream) {
    stream.write_all(b"hello").expect("sent");
    stream.set_nonblocking(true).expect("non-blocking");
    let mut got = Vec::new();
    turn_until(reactor, "the echo", |_| {
        let mut buffer = [0; 64];
        match stream.read(&mut buffer) {
            Ok(n) => got.extend_from_slice(&buffer[..n]),
            Err(e) => assert_eq!(e.kind(), std::io::ErrorKind::WouldBlock),
        }
        got == b"hello"
    });
    stream.set_nonblocking(false).expect("blocking");
}

#[test]
fn a_panic_in_any_callback_ends_that_connection_without_on_close_and_no_other() {
    for kind in ["factory", "open", "data", "high", "low", "complete", "timer", "eof", "close"] {
        let (mut reactor, address) = server(App::default());
        let before = peer(address);
        turn_until(&mut reactor, "the bystander is accepted", |r| r.app.opened.len() == 1);
        // The subject's timer is the first one's: see `fused`.
        reactor.app.opened.clear();
        reactor.app.fuse = Some(kind);
        let mut subject = peer(address);
        subject.write_all(b"!").expect("sent");
        if kind == "eof" || kind == "close" {
            subject.shutdown(std::net::Shutdown::Write).expect("half closed");
        }
        subject.set_nonblocking(true).expect("non-blocking");
        let reads = !matches!(kind, "high");
        turn_until_thrown(&mut reactor, kind, || {
            let mut buffer = vec![0; 64 * 1024];
            while reads && matches!(subject.read(&mut buffer), Ok(n) if n > 0) {}
        });
        // The loop goes on, with the other connection and with new ones.
        let mut before = before;
        echoes(&mut reactor, &mut before);
        let mut after = peer(address);
        echoes(&mut reactor, &mut after);

        let closed_before = usize::from(kind == "close");
        assert_eq!(reactor.app.closed.len(), closed_before, "{kind}: {:?}", reactor.app.closed);
        if let Some(token) = reactor.app.opened.first().copied().filter(|_| kind != "factory") {
            assert!(!reactor.net.is_open(token), "{kind}: the connection is gone");
            assert_eq!(reactor.net.peer_address(token), None, "{kind}: its slot is free");
        }
        // Its peer sees no orderly end, unless the handler had been through with it.
        subject.set_nonblocking(false).expect("blocking");
        let ending = std::io::copy(&mut subject, &mut std::io::sink());
        assert_eq!(ending.is_ok(), kind == "close", "{kind}: {ending:?}");

        reactor.net.stop();
        support::run(&mut reactor);
        assert_eq!(reactor.app.closed.len(), closed_before + 2, "{kind}: {:?}", reactor.app.closed);
    }
}

#[test]
fn what_was_ready_in_the_turn_of_a_panic_is_served_afterwards() {
    let (mut reactor, address) = server(App::default());
    let mut peers: Vec<TcpStream> = (0..8).map(|_| peer(address)).collect();
    turn_until(&mut reactor, "all are accepted", |r| r.app.opened.len() == 8);
    support::turn_for(&mut reactor, Duration::from_millis(5));
    // All become readable in one turn, and the first of them panics: the edges of the others come once.
    for stream in &mut peers {
        stream.write_all(b"hello").expect("sent");
    }
    reactor.app.fuse = Some("data");
    turn_until_thrown(&mut reactor, "data", || {});
    let echoed = 7 * 5;
    turn_until(&mut reactor, "the other seven are answered", |r| r.net.stats().bytes_written == echoed);
    assert_eq!(reactor.net.tokens().len(), 7);
}

#[test]
fn a_panic_in_a_closure_of_the_loop_loses_only_that_closure() {
    let mut reactor = Reactor::new(App::default()).expect("a reactor");
    let ran = |name: &'static str| move |lp: &mut Loop<'_, App>| lp.app.ran.push(name);
    let mailbox = reactor.net.mailbox();
    mailbox.post(|_| throw()).expect("posted");
    mailbox.post(ran("mail")).expect("posted");
    reactor.net.after(Duration::ZERO, |_| throw());
    reactor.net.after(Duration::ZERO, ran("timer"));
    reactor.net.defer(|_| throw());
    reactor.net.defer(ran("deferred"));
    for what in ["mail", "timer", "deferred"] {
        turn_until_thrown(&mut reactor, what, || {});
    }
    turn_until(&mut reactor, "the others have run", |r| r.app.ran.len() == 3);
    reactor.net.stop();
    support::run(&mut reactor);
}

#[test]
fn a_panic_in_a_tell_ends_the_connection_that_was_told() {
    let (mut reactor, address) = server(App::default());
    let mut first = peer(address);
    let mut second = peer(address);
    turn_until(&mut reactor, "both are accepted", |r| r.app.opened.len() == 2);
    let token = reactor.app.opened[0];
    // `listen`'s handlers have no name here, so the tell goes through a handler of our own.
    struct Named;
    impl plimsoll::Handler<App> for Named {
        fn on_data(&mut self, _: &mut Ctx<'_, App>, _: &mut plimsoll::BytesMut) {}
        fn on_close(&mut self, ctx: &mut Ctx<'_, App>, why: CloseReason) {
            ctx.app.closed.push((ctx.token, why));
        }
    }
    reactor.net.swap(token, Named);
    reactor.net.tell::<Named>(token, |_, _| throw());
    turn_until_thrown(&mut reactor, "tell", || {});
    echoes(&mut reactor, &mut second);
    assert!(reactor.app.closed.is_empty());
    assert!(first.read(&mut [0; 1]).is_err(), "aborted, so reset");
}
