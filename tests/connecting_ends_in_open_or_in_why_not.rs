//! Every attempt to connect ends in `on_open` or in one `on_close` that says why not, whenever it is called off.

mod support;

use plimsoll::{BytesMut, CloseReason, Ctx, Flow, Handler, StreamOptions, Target};
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::time::{Duration, Instant};
use support::witness::{Record, Witness, reactor};
use support::{accept, address_of, beside, full_listener, join, pattern, read_all, turn_for, turn_until, upstream};

/// A port on which nobody listens.
fn refusing() -> SocketAddr {
    upstream().1
}

#[test]
fn a_port_without_a_listener_refuses() {
    let mut reactor = reactor();
    let token = reactor.net.connect(refusing(), Witness);
    assert!(reactor.net.is_open(token), "in the making");
    turn_until(&mut reactor, "the outcome", |reactor| reactor.app.why(token).is_some());
    assert_eq!(reactor.app.connect_error(token), Some(ErrorKind::ConnectionRefused));
    assert!(reactor.app.opened.is_empty());
    assert!(!reactor.net.is_open(token));
    assert_eq!(reactor.net.send(token, b"x"), Flow::Closed);
    assert_eq!(reactor.net.stats().connect_failures, 1);
}

#[test]
fn a_listener_that_does_not_answer_is_given_up_at_the_time_out_and_not_before() {
    const TIMEOUT: Duration = Duration::from_millis(150);
    let (full, address) = full_listener();
    let mut reactor = reactor();
    turn_for(&mut reactor, Duration::ZERO);
    let start = Instant::now();
    let options = StreamOptions::new().with(|o| o.connect_timeout = TIMEOUT);
    let token = reactor.net.connect_with(address, options, Witness);
    turn_until(&mut reactor, "the outcome", |reactor| reactor.app.why(token).is_some());
    assert_eq!(reactor.app.connect_error(token), Some(ErrorKind::TimedOut));
    // The loop's clock is as old as the turn.
    assert!(start.elapsed() >= TIMEOUT - Duration::from_millis(20), "{:?}", start.elapsed());
    assert!(start.elapsed() < TIMEOUT * 5, "{:?}", start.elapsed());
    drop(full);
}

#[test]
fn the_time_out_counts_for_all_addresses_together() {
    let (full, address) = full_listener();
    let mut reactor = reactor();
    let options = StreamOptions::new().with(|o| o.connect_timeout = Duration::from_millis(150));
    let token = reactor.net.connect_with(vec![refusing(), address, address], options, Witness);
    let start = Instant::now();
    turn_until(&mut reactor, "the outcome", |reactor| reactor.app.why(token).is_some());
    assert_eq!(reactor.app.connect_error(token), Some(ErrorKind::TimedOut));
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
    drop(full);
}

#[test]
fn addresses_are_tried_in_turn_until_one_answers() {
    let mut reactor = reactor();
    let (listener, good) = upstream();
    let (unused, later) = upstream();
    let token = reactor.net.connect(vec![refusing(), refusing(), good, later], Witness);
    reactor.net.send(token, b"hello");
    turn_until(&mut reactor, "it is open", |reactor| reactor.app.opened == [token]);
    assert_eq!(reactor.net.peer_address(token), Some(good.into()));
    reactor.net.shutdown(token);
    let server = beside(move || read_all(&mut accept(&listener)));
    assert_eq!(join(&mut reactor, server), b"hello");
    turn_until(&mut reactor, "both halves end", |reactor| reactor.app.why(token).is_some());
    assert!(matches!(reactor.app.why(token), Some(CloseReason::Done)));
    unused.set_nonblocking(true).expect("non-blocking");
    assert!(unused.accept().is_err(), "the one behind it is left alone");
}

#[test]
fn the_last_address_that_fails_says_why() {
    let mut reactor = reactor();
    let missing: plimsoll::Address = "unix:/nowhere/at/all.sock".parse().expect("an address");
    let one = reactor.net.connect(vec![missing.clone(), refusing().into()], Witness);
    let other = reactor.net.connect(vec![refusing().into(), missing], Witness);
    let none = reactor.net.connect(Target::Addresses(Vec::new()), Witness);
    turn_until(&mut reactor, "the outcomes", |reactor| reactor.app.closed.len() == 3);
    assert_eq!(reactor.app.connect_error(one), Some(ErrorKind::ConnectionRefused));
    assert_eq!(reactor.app.connect_error(other), Some(ErrorKind::NotFound));
    assert_eq!(reactor.app.connect_error(none), Some(ErrorKind::NotFound));
}

#[test]
fn a_name_is_looked_up_and_its_addresses_are_tried() {
    let mut reactor = reactor();
    // Only on IPv4: the name may well have ::1 as its first address, which then refuses.
    let (listener, address) = upstream();
    let token = reactor.net.connect(format!("localhost:{}", address.port()), Witness);
    reactor.net.send(token, b"by name");
    turn_until(&mut reactor, "it is open", |reactor| reactor.app.opened == [token]);
    assert_eq!(reactor.net.peer_address(token), Some(address.into()));
    reactor.net.shutdown(token);
    let server = beside(move || read_all(&mut accept(&listener)));
    assert_eq!(join(&mut reactor, server), b"by name");
    let nobody = reactor.net.connect(("localhost", refusing().port()), Witness);
    turn_until(&mut reactor, "the outcome", |reactor| reactor.app.why(nobody).is_some());
    assert_eq!(reactor.app.connect_error(nobody), Some(ErrorKind::ConnectionRefused));
}

#[test]
fn what_names_no_target_is_an_error_at_the_attempt() {
    let mut reactor = reactor();
    for nonsense in ["", "localhost", "127.0.0.1", "localhost:http", "unix"] {
        let token = reactor.net.connect(nonsense, Witness);
        assert!(reactor.app.why(token).is_none(), "no callback inside a verb");
        turn_until(&mut reactor, "the outcome", |reactor| reactor.app.why(token).is_some());
        assert_eq!(reactor.app.connect_error(token), Some(ErrorKind::InvalidInput), "{nonsense}");
    }
}

#[test]
fn an_attempt_can_be_called_off_in_every_phase() {
    let (full, hanging) = full_listener();
    let (_listener, good) = upstream();
    let targets: [Target; 4] =
        [hanging.into(), good.into(), refusing().into(), format!("localhost:{}", good.port()).into()];
    for target in targets {
        for turns in 0..4 {
            for abort in [false, true] {
                let mut reactor = reactor();
                let token = reactor.net.connect(target.clone(), Witness);
                for _ in 0..turns {
                    reactor.turn(Some(Duration::ZERO)).expect("the loop turns");
                }
                if abort {
                    reactor.net.abort(token);
                } else {
                    reactor.net.close(token);
                }
                assert_eq!(reactor.net.send(token, b"x"), Flow::Closed);
                turn_until(&mut reactor, "the end", |reactor| reactor.app.why(token).is_some());
                let opened = reactor.app.opened.len();
                turn_for(&mut reactor, Duration::from_millis(5));
                assert_eq!(reactor.app.opened.len(), opened, "it does not come back to life");
                match reactor.app.why(token) {
                    Some(CloseReason::Local) => assert!(!abort),
                    Some(CloseReason::Aborted) => assert!(abort),
                    Some(CloseReason::Connect(e)) => assert_eq!(e.kind(), ErrorKind::ConnectionRefused),
                    why => panic!("{target:?} after {turns} turns: {why:?}"),
                }
                assert!(reactor.net.tokens().is_empty());
            }
        }
    }
    drop(full);
}

#[test]
fn calling_off_an_attempt_with_output_queued_says_that_it_was_not_sent() {
    let (full, hanging) = full_listener();
    let mut reactor = reactor();
    let token = reactor.net.connect(hanging, Witness);
    assert_eq!(reactor.net.send(token, pattern(100_000, 1)), Flow::Open);
    turn_for(&mut reactor, Duration::from_millis(5));
    assert_eq!((reactor.net.queued(token), reactor.net.stats().held), (100_000, 100_000));
    reactor.net.close(token);
    turn_until(&mut reactor, "the end", |reactor| reactor.app.why(token).is_some());
    assert!(matches!(reactor.app.why(token), Some(CloseReason::Unsent)));
    assert_eq!(reactor.net.stats().held, 0);
    drop(full);
}

#[test]
fn stop_ends_attempts() {
    let (full, hanging) = full_listener();
    let mut reactor = reactor();
    let idle = reactor.net.connect(hanging, Witness);
    let by_name = reactor.net.connect(format!("localhost:{}", hanging.port()), Witness);
    let sending = reactor.net.connect(hanging, Witness);
    reactor.net.send(sending, b"unsent");
    turn_for(&mut reactor, Duration::from_millis(5));
    reactor.net.stop();
    reactor.run().expect("it stops");
    assert!(matches!(reactor.app.why(idle), Some(CloseReason::Stopped)));
    assert!(matches!(reactor.app.why(by_name), Some(CloseReason::Stopped)));
    assert!(matches!(reactor.app.why(sending), Some(CloseReason::Unsent)));
    drop(full);
}

/// Sends on as soon as it may.
struct Talker;

impl Handler<Record> for Talker {
    fn on_open(&mut self, ctx: &mut Ctx<'_, Record>) {
        ctx.app.opened.push(ctx.token);
        ctx.send(b", open");
        ctx.shutdown();
    }

    fn on_data(&mut self, _: &mut Ctx<'_, Record>, _: &mut BytesMut) {}

    fn on_close(&mut self, ctx: &mut Ctx<'_, Record>, why: CloseReason) {
        ctx.app.closed.push((ctx.token, why));
    }
}

#[test]
fn what_is_sent_before_it_is_open_goes_first() {
    for len in [1, 2_000, 700_000, 3_000_000] {
        let mut reactor = reactor();
        let (listener, address) = upstream();
        let token = reactor.net.connect(address, Talker);
        let flow = reactor.net.send(token, pattern(len, 2));
        assert_eq!(flow, if len > 1 << 20 { Flow::High } else { Flow::Open });
        assert_eq!(reactor.net.queued(token), len);
        let server = beside(move || read_all(&mut accept(&listener)));
        let mut expected = pattern(len, 2);
        expected.extend_from_slice(b", open");
        assert!(join(&mut reactor, server) == expected, "{len}");
        turn_until(&mut reactor, "the end", |reactor| reactor.app.why(token).is_some());
        assert!(matches!(reactor.app.why(token), Some(CloseReason::Done)));
    }
}

#[test]
fn many_connect_at_once() {
    const MANY: usize = 1_000;
    let mut reactor = reactor();
    let echo = reactor.net.serve("127.0.0.1:0", |ctx, input| {
        ctx.send(&input[..]);
        input.clear();
    });
    let address = address_of(&reactor, echo.expect("it listens"));
    let tokens: Vec<_> = (0..MANY).map(|_| reactor.net.connect(address, Witness)).collect();
    for (index, token) in tokens.iter().enumerate() {
        reactor.net.send(*token, pattern(100 + index, index as u64));
        reactor.net.shutdown(*token);
    }
    turn_until(&mut reactor, "all are done", |reactor| reactor.app.closed.len() == MANY);
    for (index, token) in tokens.iter().enumerate() {
        assert!(matches!(reactor.app.why(*token), Some(CloseReason::Done)));
        assert_eq!(reactor.app.input_of(*token), pattern(100 + index, index as u64));
    }
    assert_eq!(reactor.app.opened.len(), MANY);
}
