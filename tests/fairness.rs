//! Nobody starves: reads, accepts, timers, mail and deferred closures each have a budget per turn, and what is
//! left waits behind the others, without a system call.

mod support;

use plimsoll::{Ctx, ListenOptions, Loop, Reactor, ReactorOptions, Token};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use support::{address_of, beside, peer, turn_for, turn_until};

#[test]
fn a_flood_on_one_connection_does_not_starve_another() {
    let mut reactor = Reactor::new(0u64).expect("a reactor");
    let sink = reactor.net.serve("127.0.0.1:0", |ctx: &mut Ctx<'_, u64>, input| {
        *ctx.app += input.len() as u64;
        input.clear();
    });
    let echo = reactor.net.serve("127.0.0.1:0", |ctx, input| {
        ctx.send(&input[..]);
        input.clear();
    });
    let sink = address_of(&reactor, sink.expect("it listens"));
    let echo = address_of(&reactor, echo.expect("it listens"));
    let over = Arc::new(AtomicBool::new(false));
    let floods: Vec<_> = (0..2)
        .map(|_| {
            let over = over.clone();
            beside(move || {
                let mut stream = peer(sink);
                let data = vec![1; 1 << 20];
                while !over.load(Ordering::Relaxed) {
                    stream.write_all(&data).expect("sent");
                }
            })
        })
        .collect();
    turn_until(&mut reactor, "the flood has begun", |r| r.app > 10 << 20);
    let mut small = peer(echo);
    turn_until(&mut reactor, "it is accepted", |r| r.net.stats().accepts == 3);
    small.set_nonblocking(true).expect("non-blocking");
    // Each message is answered within the turn after the one in which it came, flood or not.
    for _ in 0..50 {
        small.write_all(b"ping").expect("sent");
        let before = *reactor.net.stats();
        let mut got = Vec::new();
        let mut turns = 0;
        while got.len() < 4 {
            assert!(turns < 3, "starved");
            turns += 1;
            reactor.turn(Some(Duration::from_millis(100))).expect("the loop turns");
            let mut buffer = [0; 8];
            if let Ok(n) = small.read(&mut buffer) {
                got.extend_from_slice(&buffer[..n]);
            }
        }
        let after = reactor.net.stats();
        let budget = 3 * 4 * (after.turns - before.turns);
        assert!(after.reads - before.reads <= budget, "four reads a turn for each of three connections");
    }
    over.store(true, Ordering::Relaxed);
    for flood in floods {
        support::join(&mut reactor, flood);
    }
}

#[test]
fn a_connection_reads_no_more_than_its_budget_in_a_turn_and_then_goes_on_without_an_event() {
    let mut reactor = Reactor::new((None::<Token>, 0usize)).expect("a reactor");
    let options = ListenOptions::new().with(|o| {
        o.stream.read_budget = 2;
        o.stream.input_limit = 1000;
    });
    let listener =
        reactor.net.serve_with("127.0.0.1:0", options, |ctx: &mut Ctx<'_, (Option<Token>, usize)>, input| {
            ctx.app.0 = Some(ctx.token);
            ctx.app.1 += input.len();
            input.clear();
        });
    let mut stream = peer(address_of(&reactor, listener.expect("it listens")));
    turn_until(&mut reactor, "it is accepted", |r| r.net.stats().accepts == 1);
    turn_for(&mut reactor, Duration::from_millis(2));
    stream.write_all(&[1; 20_000]).expect("sent");
    let mut events = None;
    for turn in 1..=10 {
        assert_eq!(reactor.app.1, (turn - 1) * 2000, "two reads of a thousand a turn");
        reactor.turn(Some(support::DEADLINE)).expect("the loop turns");
        let so_far = *events.get_or_insert(reactor.net.stats().events);
        assert_eq!(reactor.net.stats().events, so_far, "the rest needs no event");
        if turn < 10 {
            assert_eq!(reactor.next_turn_in(), Some(Duration::ZERO), "nor a sleep");
        }
    }
    assert_eq!(reactor.app.1, 20_000);
}

#[test]
fn accepting_has_a_budget() {
    let mut reactor = Reactor::new(()).expect("a reactor");
    let options = ListenOptions::new().with(|o| o.accept_budget = 8);
    let listener = reactor.net.serve_with("127.0.0.1:0", options, |_, input| input.clear());
    let address = address_of(&reactor, listener.expect("it listens"));
    let _streams: Vec<TcpStream> = (0..100).map(|_| peer(address)).collect();
    let mut turns = 0;
    while reactor.net.stats().accepts < 100 {
        let before = reactor.net.stats().accepts;
        reactor.turn(Some(Duration::from_millis(100))).expect("the loop turns");
        assert!(reactor.net.stats().accepts - before <= 8);
        turns += 1;
        assert!(turns < 100, "more than one a turn in a storm");
    }
}

#[test]
fn timers_mail_and_deferred_closures_have_a_budget() {
    #[derive(Default)]
    struct Counts {
        mail: u64,
        timers: u64,
        deferred: u64,
    }
    let options = ReactorOptions::new().with(|o| o.closure_budget = 10);
    let mut reactor = Reactor::with_options(Counts::default(), options).expect("a reactor");
    let mailbox = reactor.net.mailbox();
    for _ in 0..100 {
        mailbox.post(|lp: &mut Loop<'_, Counts>| lp.app.mail += 1).expect("posted");
        reactor.net.after(Duration::ZERO, |lp| lp.app.timers += 1);
        reactor.net.defer(|lp| lp.app.deferred += 1);
    }
    for turn in 1..=10 {
        assert_eq!(reactor.next_turn_in(), Some(Duration::ZERO));
        reactor.turn(Some(support::DEADLINE)).expect("the loop turns");
        let counts = &reactor.app;
        assert_eq!((counts.mail, counts.timers, counts.deferred), (10 * turn, 10 * turn, 10 * turn));
    }
    assert_eq!(reactor.next_turn_in(), None);
}
