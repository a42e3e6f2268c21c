//! A dialer connects again whenever its connection ends, ever more slowly while that fails, until it is called off.

mod support;

use plimsoll::{BytesMut, CloseReason, Ctx, DialOptions, DialToken, Handler, Reactor, ReactorOptions, Target, Token};
use std::io::{ErrorKind, Read, Write};
use std::net::TcpListener;
use std::time::{Duration, Instant};
use support::{accept, beside, full_listener, join, pattern, reset, turn_for, turn_until, upstream};

const MS: Duration = Duration::from_millis(1);

#[derive(Default)]
struct Record {
    /// When each attempt began, and its token.
    attempts: Vec<(Instant, Token)>,
    opened: Vec<Token>,
    input: Vec<u8>,
    closed: Vec<(Token, CloseReason)>,
    dial: Option<DialToken>,
}

/// Greets with its number, and sends nothing else.
struct Attempt(usize);

impl Handler<Record> for Attempt {
    fn on_open(&mut self, ctx: &mut Ctx<'_, Record>) {
        ctx.app.opened.push(ctx.token);
        ctx.send([self.0 as u8].as_slice());
    }

    fn on_data(&mut self, ctx: &mut Ctx<'_, Record>, input: &mut BytesMut) {
        ctx.app.input.extend_from_slice(input);
        input.clear();
    }

    fn on_close(&mut self, ctx: &mut Ctx<'_, Record>, why: CloseReason) {
        ctx.app.closed.push((ctx.token, why));
    }
}

fn dial(reactor: &mut Reactor<Record>, target: impl Into<Target>, options: DialOptions) -> DialToken {
    let dial = reactor.net.dial(target, options, |ctx: &mut Ctx<'_, Record>| {
        ctx.app.attempts.push((Instant::now(), ctx.token));
        Attempt(ctx.app.attempts.len())
    });
    reactor.app.dial = Some(dial);
    dial
}

fn reactor() -> Reactor<Record> {
    Reactor::new(Record::default()).expect("a reactor")
}

fn quick() -> DialOptions {
    DialOptions::new().with(|o| {
        o.first_delay = 10 * MS;
        o.max_delay = 40 * MS;
        o.jitter_percent = 0;
    })
}

fn gone(listener: TcpListener) {
    drop(listener);
}

#[test]
fn waits_double_while_attempts_fail_and_stop_at_the_cap() {
    let mut reactor = reactor();
    let (listener, address) = upstream();
    gone(listener);
    dial(&mut reactor, address, quick());
    assert!(reactor.app.attempts.is_empty(), "no callback inside a verb");
    turn_until(&mut reactor, "six attempts", |reactor| reactor.app.attempts.len() == 6);
    let begun: Vec<_> = reactor.app.attempts.iter().map(|(at, _)| *at).collect();
    let waits: Vec<_> = begun.windows(2).map(|pair| pair[1] - pair[0]).collect();
    for (wait, least) in waits.iter().zip([10, 20, 40, 40, 40]) {
        assert!(*wait >= least * MS, "{waits:?}");
        assert!(*wait < (least + 200) * MS, "{waits:?}");
    }
    assert_eq!(reactor.app.closed.len(), 5);
    for (_, why) in &reactor.app.closed {
        assert!(matches!(why, CloseReason::Connect(e) if e.kind() == ErrorKind::ConnectionRefused));
    }
}

#[test]
fn each_attempt_has_a_token_and_a_handler_of_its_own_and_the_dialer_names_the_present_one() {
    let mut reactor = reactor();
    let (listener, address) = upstream();
    let dial = dial(&mut reactor, address, quick());
    for round in 1..=4 {
        turn_until(&mut reactor, "it is open", |reactor| reactor.app.opened.len() == round);
        let token = reactor.app.opened[round - 1];
        assert_eq!(reactor.net.dialed(dial), Some(token));
        assert_eq!(reactor.app.attempts[round - 1].1, token);
        let mut server = accept(&listener);
        let mut greeting = [0];
        turn_for(&mut reactor, MS);
        server.read_exact(&mut greeting).expect("the greeting");
        assert_eq!(usize::from(greeting[0]), round, "the handler is new");
        // In order and not in order by turns: a dialer comes back from both.
        if round % 2 == 0 {
            reset(server);
        } else {
            drop(server);
        }
        turn_until(&mut reactor, "it ends", |reactor| reactor.app.closed.len() == round);
        assert_eq!(reactor.app.closed[round - 1].0, token);
    }
    let mut tokens: Vec<_> = reactor.app.attempts.iter().map(|(_, token)| *token).collect();
    tokens.dedup();
    assert_eq!(tokens.len(), reactor.app.attempts.len());
}

#[test]
fn unsent_output_dies_with_its_attempt() {
    let mut reactor = reactor();
    let (listener, address) = upstream();
    let dial = dial(&mut reactor, address, quick());
    turn_until(&mut reactor, "it is open", |reactor| reactor.app.opened.len() == 1);
    let first = reactor.net.dialed(dial).expect("the first connection");
    let server = accept(&listener);
    reactor.net.send(first, pattern(30 << 20, 1));
    turn_for(&mut reactor, 20 * MS);
    assert!(reactor.net.queued(first) > 0);
    reset(server);
    turn_until(&mut reactor, "the next one is open", |reactor| reactor.app.opened.len() == 2);
    assert_eq!(reactor.net.send(first, b"x"), plimsoll::Flow::Closed);
    let second = reactor.net.dialed(dial).expect("the second connection");
    assert_eq!((reactor.net.queued(second), reactor.net.stats().held), (0, 0));
    let mut server = accept(&listener);
    reactor.net.cancel_dial(dial);
    let read = beside(move || support::read_all(&mut server));
    assert_eq!(join(&mut reactor, read), [2], "only what the second handler sent");
}

#[test]
fn a_connection_that_lasted_resets_the_wait() {
    let mut reactor = reactor();
    let (listener, address) = upstream();
    let options = quick().with(|o| {
        o.max_delay = 60_000 * MS;
        o.stable_after = 50 * MS;
        o.first_delay = 5 * MS;
    });
    dial(&mut reactor, address, options);
    // Without the reset the waits would add up to more than the deadline of the test allows: 5 ms · 2¹³.
    for round in 1..=14 {
        turn_until(&mut reactor, "it is open", |reactor| reactor.app.opened.len() == round);
        let server = accept(&listener);
        turn_for(&mut reactor, 60 * MS);
        drop(server);
    }
}

#[test]
fn a_connection_that_ends_at_once_counts_as_a_failure() {
    let mut reactor = reactor();
    let (listener, address) = upstream();
    let dial = dial(&mut reactor, address, quick().with(|o| o.max_failures = Some(3)));
    let server = beside(move || {
        for _ in 0..3 {
            drop(accept(&listener));
        }
        listener
    });
    turn_until(&mut reactor, "three have ended", |reactor| reactor.app.closed.len() == 3);
    let listener = join(&mut reactor, server);
    turn_for(&mut reactor, 100 * MS);
    assert_eq!(reactor.app.attempts.len(), 3, "it has given up");
    assert_eq!(reactor.net.dialed(dial), None);
    assert!(!reactor.net.cancel_dial(dial), "stale");
    assert_eq!(reactor.next_turn_in(), None, "nothing is left to do");
    drop(listener);
}

#[test]
fn it_can_be_called_off_at_any_time() {
    let (full, hanging) = full_listener();
    let (_listener, good) = upstream();
    let refusing = upstream().1;
    for target in [hanging, good, refusing] {
        for turns in 0..5 {
            let mut reactor = reactor();
            let dial = dial(&mut reactor, target, quick());
            for _ in 0..turns {
                reactor.turn(Some(Duration::ZERO)).expect("the loop turns");
            }
            let begun = reactor.app.attempts.len();
            assert!(reactor.net.cancel_dial(dial));
            assert!(!reactor.net.cancel_dial(dial), "stale");
            turn_until(&mut reactor, "the attempt ends", |reactor| reactor.app.closed.len() == begun);
            turn_for(&mut reactor, 30 * MS);
            assert_eq!((reactor.app.attempts.len(), reactor.app.closed.len()), (begun, begun), "{target} {turns}");
            assert_eq!(reactor.net.tokens(), []);
        }
    }
    drop(full);
}

/// Calls its dialer off: from its factory, or from the callback with this number.
struct Fickle(u32);

impl Fickle {
    fn call_off(&self, ctx: &mut Ctx<'_, Record>, at: u32) {
        if self.0 == at
            && let Some(dial) = ctx.app.dial
        {
            assert!(ctx.cancel_dial(dial));
        }
    }
}

impl Handler<Record> for Fickle {
    fn on_open(&mut self, ctx: &mut Ctx<'_, Record>) {
        ctx.app.opened.push(ctx.token);
        self.call_off(ctx, 1);
    }

    fn on_data(&mut self, ctx: &mut Ctx<'_, Record>, input: &mut BytesMut) {
        input.clear();
        self.call_off(ctx, 2);
    }

    fn on_close(&mut self, ctx: &mut Ctx<'_, Record>, why: CloseReason) {
        ctx.app.closed.push((ctx.token, why));
        self.call_off(ctx, 3);
    }
}

#[test]
fn it_can_be_called_off_from_its_factory_and_from_each_callback() {
    for at in 0..4 {
        let mut reactor = reactor();
        let (listener, address) = upstream();
        let dial = reactor.net.dial(address, quick(), move |ctx: &mut Ctx<'_, Record>| {
            ctx.app.attempts.push((Instant::now(), ctx.token));
            let handler = Fickle(at);
            handler.call_off(ctx, 0);
            handler
        });
        reactor.app.dial = Some(dial);
        if at > 0 {
            turn_until(&mut reactor, "it is open", |reactor| reactor.app.opened.len() == 1);
            let mut server = accept(&listener);
            server.write_all(b"x").expect("written");
            turn_for(&mut reactor, MS);
            drop(server);
        }
        turn_until(&mut reactor, "it ends", |reactor| reactor.app.closed.len() == 1);
        turn_for(&mut reactor, 60 * MS);
        assert_eq!((reactor.app.attempts.len(), reactor.app.closed.len()), (1, 1), "called off at {at}");
        assert_eq!(reactor.net.dialed(dial), None);
    }
}

#[test]
fn stop_ends_dialers_in_every_state() {
    let (full, hanging) = full_listener();
    let (_listener, good) = upstream();
    let refusing = upstream().1;
    for stops in [1, 2] {
        // Whatever the stop would wait for takes an hour: the next attempt, the one under way, its own deadline.
        const HOUR: Duration = Duration::from_secs(3600);
        let reactor_options = ReactorOptions::new().with(|o| o.stop_timeout = HOUR);
        let mut reactor = Reactor::with_options(Record::default(), reactor_options).expect("a reactor");
        for target in [hanging, good, refusing] {
            let options = DialOptions::new().with(|o| {
                o.first_delay = HOUR;
                o.max_delay = HOUR;
                o.stream.connect_timeout = HOUR;
            });
            dial(&mut reactor, target, options);
        }
        turn_until(&mut reactor, "one open, one refused", |reactor| {
            reactor.app.opened.len() == 1 && reactor.app.closed.len() == 1
        });
        for _ in 0..stops {
            reactor.net.stop();
        }
        turn_until(&mut reactor, "it stops", |reactor| reactor.is_stopped());
        reactor.run().expect("it returns at once");
        assert_eq!((reactor.app.attempts.len(), reactor.app.closed.len()), (3, 3));
        assert_eq!(reactor.next_turn_in(), None, "no dialer outlives the stop");
    }
    drop(full);
}

#[test]
fn a_name_is_looked_up_for_each_attempt() {
    let mut reactor = reactor();
    let (listener, address) = upstream();
    dial(&mut reactor, format!("localhost:{}", address.port()), quick());
    for round in 1..=3 {
        turn_until(&mut reactor, "it is open", |reactor| reactor.app.opened.len() == round);
        drop(accept(&listener));
        turn_until(&mut reactor, "it ends", |reactor| reactor.app.closed.len() == round);
    }
    let nonsense = dial(&mut reactor, "no target", quick().with(|o| o.max_failures = Some(1)));
    turn_until(&mut reactor, "it gives up", |reactor| {
        reactor
            .app
            .closed
            .iter()
            .any(|(_, why)| matches!(why, CloseReason::Connect(e) if e.kind() == ErrorKind::InvalidInput))
    });
    assert_eq!(reactor.net.dialed(nonsense), None);
}
