//! Every `Flow::High` is answered: exactly one later `on_low_water` or `on_close` for each (several in a row by
//! one), and no `on_low_water` that nobody waited for. Marks are compared with the live queue.

mod support;

use plimsoll::{CloseReason, Ctx, Flow, Reactor, StreamOptions, Token};
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;
use support::{Chance, Told, address_of, hook, narrow, peer, turn_for, turn_until};

/// The model: what a connection was promised, and what it was told.
#[derive(Default)]
struct App {
    token: Option<Token>,
    /// A `High` waits for its answer.
    waits: bool,
    /// What `on_low_water` sends again, and whether that may go over the mark.
    refill: usize,
    low_water: usize,
    highs: u64,
    answers: u64,
    high_waters: u64,
    completes: u64,
    data: Vec<u8>,
    leave: usize,
    closed: Vec<CloseReason>,
}

fn send(ctx: &mut Ctx<'_, App>, data: &[u8]) -> Flow {
    let flow = ctx.send(data);
    note(ctx.app, flow);
    flow
}

fn note(app: &mut App, flow: Flow) {
    if flow == Flow::High && !app.waits {
        app.waits = true;
        app.highs += 1;
    }
}

fn told(ctx: &mut Ctx<'_, App>, told: Told<'_>) {
    let low_water = ctx.app.low_water;
    match told {
        Told::Open => ctx.app.token = Some(ctx.token),
        Told::Data(input) => {
            let leave = ctx.app.leave.min(input.len());
            let take = input.split_to(input.len() - leave);
            ctx.app.data.extend_from_slice(&take);
        }
        Told::Eof(_) => ctx.shutdown(),
        Told::High(queued) => {
            ctx.app.high_waters += 1;
            assert_eq!(queued, ctx.queued());
            assert!(queued > 64 * 1024, "the mark is compared with the live queue");
        }
        Told::Low => {
            assert!(ctx.app.waits, "nobody waited");
            assert!(ctx.queued() <= low_water, "the mark is compared with the live queue");
            ctx.app.waits = false;
            ctx.app.answers += 1;
            let refill = std::mem::take(&mut ctx.app.refill);
            if refill > 0 {
                send(ctx, &vec![1; refill]);
            }
        }
        Told::Complete => {
            assert_eq!(ctx.queued(), 0, "the kernel has taken everything");
            ctx.app.completes += 1;
        }
        Told::Close(why) => {
            if std::mem::take(&mut ctx.app.waits) {
                ctx.app.answers += 1;
            }
            ctx.app.closed.push(why);
        }
        Told::Timer(_) => {}
    }
}

fn server(change: impl FnOnce(&mut StreamOptions)) -> (Reactor<App>, TcpStream, Token) {
    let mut reactor = Reactor::new(App { low_water: 16 * 1024, ..App::default() }).expect("a reactor");
    let marks = |o: &mut StreamOptions| {
        o.high_water = 64 * 1024;
        o.low_water = 16 * 1024;
        change(o);
    };
    let listener = reactor.net.listen_with("127.0.0.1:0", narrow(marks), |_, _| Some(hook(told)));
    let address: SocketAddr = address_of(&reactor, listener.expect("it listens"));
    let stream = peer(address);
    turn_until(&mut reactor, "it is accepted", |r| r.app.token.is_some());
    let token = reactor.app.token.expect("just seen");
    (reactor, stream, token)
}

/// Reads what is there, up to `limit`.
fn drain(stream: &mut TcpStream, limit: usize) -> usize {
    stream.set_nonblocking(true).expect("non-blocking");
    let mut buffer = vec![0; limit];
    match stream.read(&mut buffer) {
        Ok(n) => n,
        // Nothing there; or aborted, when a test does that.
        Err(e) => {
            assert!(matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::ConnectionReset), "{e}");
            0
        }
    }
}

#[test]
fn random_sends_and_drains_leave_no_high_unanswered() {
    let mut chance = Chance::new();
    let mut highs = 0;
    for _ in 0..100 {
        let (mut reactor, mut stream, token) = server(|_| {});
        for _ in 0..150 {
            match chance.below(8) {
                // From outside any callback, small and large, borrowed and owned.
                0 | 1 => {
                    let magnitude = chance.below(19);
                    let data = vec![2; chance.below(1 << magnitude)];
                    let flow = match chance.below(2) {
                        0 => reactor.net.send(token, &data),
                        _ => reactor.net.send(token, data),
                    };
                    note(&mut reactor.app, flow);
                }
                // From a deferred closure, several at once.
                2 => {
                    let (len, times) = (chance.below(100_000), chance.below(4));
                    reactor.net.defer(move |lp| {
                        for _ in 0..times {
                            let flow = lp.send(token, vec![3; len]);
                            note(lp.app, flow);
                        }
                    });
                }
                3 => reactor.app.refill = chance.below(200_000),
                4 => {
                    let flow = reactor.net.send(token, "");
                    note(&mut reactor.app, flow);
                    reactor.net.flush(token);
                }
                _ => {
                    drain(&mut stream, 1 + chance.below(400_000));
                }
            }
            if chance.once_in(2) {
                reactor.turn(Some(Duration::ZERO)).expect("the loop turns");
            }
        }
        reactor.app.refill = 0;
        if chance.once_in(3) {
            reactor.net.abort(token);
        }
        turn_until(&mut reactor, "the last High is answered", |r| {
            drain(&mut stream, 400_000);
            !r.app.waits && r.net.queued(token) == 0 && r.net.is_open(token) == r.app.closed.is_empty()
        });
        assert_eq!(reactor.app.highs, reactor.app.answers);
        assert_eq!(reactor.net.stats().held, 0);
        highs += reactor.app.highs;
    }
    assert!(highs > 50, "or this test shows nothing: {highs}");
}

#[test]
fn a_queue_that_fills_and_drains_within_one_turn_is_answered() {
    // The classic race: the high mark is crossed and the queue drained before anybody could be told.
    let (mut reactor, mut stream, token) = server(|o| o.eager_flush = usize::MAX);
    // No eager flush: the queue is over the mark when `send` returns, and the kernel takes it all at settle.
    reactor.net.options(token, |o| {
        o.high_water = 4000;
        o.low_water = 1000;
    });
    let flow = reactor.net.send(token, &[1; 8000]);
    // Over the high mark the queue is offered at once; whatever was left, the answer is what the queue is now.
    assert_eq!(flow == Flow::High, reactor.net.queued(token) > 4000);
    note(&mut reactor.app, flow);
    turn_until(&mut reactor, "it is answered", |r| !r.app.waits && r.net.queued(token) == 0);

    // Now with a full kernel: High for certain; then the peer takes all before the loop turns.
    reactor.net.options(token, |o| {
        o.high_water = 64 * 1024;
        o.low_water = 16 * 1024;
    });
    let mut highs = 0;
    for _ in 0..20 {
        while !reactor.app.waits {
            let flow = reactor.net.send(token, vec![1; 30_000]);
            note(&mut reactor.app, flow);
        }
        highs += 1;
        // Until nothing comes any more the kernel's buffers are empty, and OUT is due together with High.
        while drain(&mut stream, 1 << 20) > 0 {}
        reactor.net.flush(token);
        turn_until(&mut reactor, "it is answered", |r| {
            drain(&mut stream, 1 << 20);
            !r.app.waits
        });
    }
    assert_eq!(reactor.app.highs, reactor.app.answers);
    assert!(reactor.app.answers >= highs);
}

#[test]
fn on_high_water_is_not_called_for_a_queue_that_has_drained_meanwhile() {
    let (mut reactor, mut stream, token) = server(|_| {});
    let flow = reactor.net.send(token, vec![1; 600_000]);
    assert_eq!(flow, Flow::High);
    note(&mut reactor.app, flow);
    // The mark is raised past what is queued before the turn that would have told.
    reactor.net.options(token, |o| o.high_water = 1 << 20);
    turn_for(&mut reactor, Duration::from_millis(5));
    assert_eq!(reactor.app.high_waters, 0);
    assert!(reactor.app.waits, "the low mark is not reached");
    turn_until(&mut reactor, "it is answered", |r| {
        drain(&mut stream, 1 << 20);
        !r.app.waits
    });
    assert_eq!((reactor.app.highs, reactor.app.answers), (1, 1));
}

#[test]
fn a_handler_that_stops_at_high_with_input_left_goes_on_after_low_water_without_new_bytes() {
    // An expander: each byte becomes two hundred, as long as the flow is open.
    let mut reactor = Reactor::new(App { low_water: 16 * 1024, ..App::default() }).expect("a reactor");
    let marks = |o: &mut StreamOptions| {
        o.high_water = 64 * 1024;
        o.low_water = 16 * 1024;
    };
    let listener = reactor.net.listen_with("127.0.0.1:0", narrow(marks), |_, _| {
        Some(hook(|ctx: &mut Ctx<'_, App>, told: Told<'_>| match told {
            Told::Data(input) => {
                while !input.is_empty() {
                    let byte = input.split_to(1)[0];
                    if ctx.send(&[byte; 200]) == Flow::High {
                        ctx.app.highs += 1;
                        break;
                    }
                }
            }
            Told::Eof(rest) => assert!(rest.is_empty(), "the end comes after everything was offered"),
            Told::Low => ctx.app.answers += 1,
            _ => {}
        }))
    });
    let mut stream = peer(address_of(&reactor, listener.expect("it listens")));
    // The first part fits a copied leftover, the second needs a buffer of its own.
    for (len, seed) in [(3000, 1), (10_000, 2)] {
        let request = support::pattern(len, seed);
        stream.write_all(&request).expect("sent");
        let mut reading = stream.try_clone().expect("cloned");
        turn_until(&mut reactor, "the first High", |r| r.app.highs > 0);
        let reader = support::beside(move || {
            let mut got = vec![0; len * 200];
            reading.read_exact(&mut got).expect("all of it");
            got
        });
        let got = support::join(&mut reactor, reader);
        assert!(got.chunks(200).zip(&request).all(|(chunk, byte)| chunk.iter().all(|got| got == byte)));
        turn_for(&mut reactor, Duration::from_millis(2));
        assert_eq!(reactor.app.highs, reactor.app.answers);
    }
}

#[test]
fn marks_that_are_moved_hold_for_what_is_queued_now() {
    let (mut reactor, mut stream, token) = server(|o| o.high_water = 10 << 20);
    assert_eq!(reactor.net.send(token, vec![1; 1 << 20]), Flow::Open);
    turn_for(&mut reactor, Duration::from_millis(2));
    let queued = reactor.net.queued(token);
    assert!(queued > 500_000, "or this test shows nothing");
    assert_eq!(reactor.app.high_waters, 0);
    // Lowered: over the mark at once.
    reactor.app.waits = true;
    reactor.net.options(token, |o| o.high_water = 100_000);
    turn_for(&mut reactor, Duration::from_millis(2));
    assert_eq!(reactor.app.high_waters, 1);
    // And the low mark raised past what is queued: drained at once.
    reactor.app.low_water = 5 << 20;
    reactor.net.options(token, |o| {
        o.high_water = 10 << 20;
        o.low_water = 5 << 20;
    });
    turn_for(&mut reactor, Duration::from_millis(2));
    assert!(!reactor.app.waits);
    drain(&mut stream, 1);
}

#[test]
fn while_its_own_output_is_over_the_high_mark_a_connection_is_not_read_unless_it_wants_to_be() {
    for read_while_high in [false, true] {
        let (mut reactor, mut stream, token) = server(|o| o.read_while_high = read_while_high);
        let flow = reactor.net.send(token, vec![1; 1 << 20]);
        note(&mut reactor.app, flow);
        stream.write_all(b"hello").expect("sent");
        turn_for(&mut reactor, Duration::from_millis(20));
        assert_eq!(reactor.app.data.len(), if read_while_high { 5 } else { 0 });
        turn_until(&mut reactor, "it is read", |r| {
            drain(&mut stream, 1 << 20);
            r.app.data == b"hello"
        });
        turn_until(&mut reactor, "it is answered", |r| {
            drain(&mut stream, 1 << 20);
            !r.app.waits
        });
    }
}

#[test]
fn on_low_water_may_send_and_on_write_complete_still_tells_the_truth() {
    let (mut reactor, mut stream, token) = server(|o| o.low_water = 0);
    // `told` asserts in on_write_complete that nothing is queued.
    for _ in 0..5 {
        reactor.app.refill = 600_000;
        let flow = reactor.net.send(token, vec![1; 300_000]);
        note(&mut reactor.app, flow);
        turn_until(&mut reactor, "all is drained", |r| {
            drain(&mut stream, 1 << 20);
            r.net.queued(token) == 0 && !r.app.waits && r.app.refill == 0
        });
    }
    turn_for(&mut reactor, Duration::from_millis(2));
    assert_eq!(reactor.app.highs, reactor.app.answers);
}

#[test]
fn a_high_of_a_connection_in_the_making_is_answered() {
    let mut reactor = Reactor::new(App { low_water: 16 * 1024, ..App::default() }).expect("a reactor");
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("bound");
    let address = listener.local_addr().expect("an address");
    let token = reactor.net.connect(address, hook(told));
    let options = |o: &mut StreamOptions| {
        o.high_water = 64 * 1024;
        o.low_water = 16 * 1024;
    };
    reactor.net.options(token, options);
    let flow = reactor.net.send(token, vec![1; 100_000]);
    assert_eq!(flow, Flow::High);
    note(&mut reactor.app, flow);
    let (_far, _) = listener.accept().expect("accepted");
    turn_until(&mut reactor, "it is answered", |r| !r.app.waits);
    // And of one that is never made.
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a free port");
    let token = reactor.net.connect(nobody, hook(told));
    let flow = reactor.net.send(token, vec![1; 2 << 20]);
    assert_eq!(flow, Flow::High);
    note(&mut reactor.app, flow);
    turn_until(&mut reactor, "it is answered by on_close", |r| !r.app.waits);
    assert_eq!(reactor.app.closed.len(), 1);
}
