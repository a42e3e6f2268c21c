//! No callback inside a callback, whatever a callback does: every verb writes down what follows, and it is
//! delivered later.
//!
//! One connection goes through every callback there is; in each in turn it closes or aborts itself or another,
//! or stops the loop, once or twice. A depth that every callback raises and lowers shows nesting.

mod support;

use plimsoll::{CloseReason, Ctx, Flow, Loop, Net, Reactor, StreamOptions, Token};
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;
use support::{Hook, Told, address_of, beside, hook, join, narrow, peer, turn_until};

const PLACES: [&str; 13] = [
    "factory", "open", "data", "eof", "high", "low", "complete", "timer", "close", "deferred", "tell", "alarm", "mail",
];

#[derive(Debug, Clone, Copy, PartialEq)]
enum Act {
    CloseSelf,
    AbortSelf,
    CloseOther,
    AbortOther,
    CloseListener,
    SendToBoth,
    Stop,
    StopTwice,
    Everything,
}

const ACTS: [Act; 9] = [
    Act::CloseSelf,
    Act::AbortSelf,
    Act::CloseOther,
    Act::AbortOther,
    Act::CloseListener,
    Act::SendToBoth,
    Act::Stop,
    Act::StopTwice,
    Act::Everything,
];

struct App {
    depth: u32,
    place: &'static str,
    act: Act,
    done: bool,
    listener: Option<Token>,
    bystander: Option<Token>,
    subject: Option<Token>,
    opens: u32,
    closes: BTreeMap<Token, Vec<CloseReason>>,
}

fn act(app: &mut App, net: &mut Net<App>, place: &'static str, own: Token) {
    if app.place != place || app.done || app.subject != Some(own) {
        return;
    }
    app.done = true;
    let other = app.bystander.expect("accepted first");
    match app.act {
        Act::CloseSelf => {
            net.close(own);
            if place != "factory" {
                assert_eq!(net.send(own, "late"), Flow::Closed);
            }
        }
        Act::AbortSelf => {
            net.abort(own);
            assert_eq!(net.send(own, "late"), Flow::Closed);
        }
        Act::CloseOther => net.close(other),
        Act::AbortOther => net.abort(other),
        Act::CloseListener => net.close(app.listener.expect("there is one")),
        Act::SendToBoth => {
            net.send(own, vec![1; 200_000]);
            net.send(other, vec![1; 200_000]);
        }
        Act::Stop => net.stop(),
        Act::StopTwice => {
            net.stop();
            net.stop();
        }
        Act::Everything => {
            for token in [own, other] {
                net.send(token, vec![1; 200_000]);
                net.pause_reading(token);
                net.resume_reading(token);
                net.want(token, 5);
                net.want(token, 0);
                net.flush(token);
                net.options(token, |o| o.high_water = 10);
                net.options(token, |o| o.high_water = 64 * 1024);
                net.shutdown(token);
                net.close(token);
                net.abort(token);
            }
            net.stop();
        }
    }
}

fn enter(app: &mut App) {
    assert_eq!(app.depth, 0, "a callback inside a callback");
    app.depth = 1;
}

fn leave(app: &mut App) {
    app.depth = 0;
}

fn of_loop(place: &'static str, own: Token) -> impl FnOnce(&mut Loop<'_, App>) + Send {
    move |lp| {
        enter(lp.app);
        act(lp.app, lp.net, place, own);
        leave(lp.app);
    }
}

fn told(ctx: &mut Ctx<'_, App>, told: Told<'_>) {
    enter(ctx.app);
    let own = ctx.token;
    assert!(!ctx.app.closes.contains_key(&own), "nothing comes after on_close");
    match told {
        Told::Open => {
            ctx.timer(1, Duration::ZERO);
            act(ctx.app, ctx.net, "open", own);
        }
        Told::Data(input) => {
            input.clear();
            ctx.send(vec![7; 512 * 1024]);
            ctx.defer(of_loop("deferred", own));
            ctx.after(Duration::ZERO, of_loop("alarm", own));
            ctx.mailbox().post(of_loop("mail", own)).expect("posted");
            tell_self(ctx);
            act(ctx.app, ctx.net, "data", own);
        }
        Told::Eof(_) => {
            ctx.shutdown();
            act(ctx.app, ctx.net, "eof", own);
        }
        Told::High(_) => act(ctx.app, ctx.net, "high", own),
        Told::Low => act(ctx.app, ctx.net, "low", own),
        Told::Complete => act(ctx.app, ctx.net, "complete", own),
        Told::Timer(_) => act(ctx.app, ctx.net, "timer", own),
        Told::Close(why) => {
            ctx.app.closes.entry(own).or_default().push(why);
            act(ctx.app, ctx.net, "close", own);
        }
    }
    leave(ctx.app);
}

type Fn = for<'a, 'b, 'c> fn(&'a mut Ctx<'b, App>, Told<'c>);

fn tell_self(ctx: &mut Ctx<'_, App>) {
    let own = ctx.token;
    ctx.tell::<Hook<Fn>>(own, move |_, ctx| {
        enter(ctx.app);
        act(ctx.app, ctx.net, "tell", own);
        leave(ctx.app);
    });
}

fn server(place: &'static str, act_: Act) -> (Reactor<App>, SocketAddr) {
    let app = App {
        depth: 0,
        place,
        act: act_,
        done: false,
        listener: None,
        bystander: None,
        subject: None,
        opens: 0,
        closes: BTreeMap::new(),
    };
    let mut reactor = Reactor::new(app).expect("a reactor");
    let marks = |o: &mut StreamOptions| {
        o.high_water = 64 * 1024;
        o.low_water = 16 * 1024;
        o.close_timeout = Duration::from_secs(2);
    };
    let listener = reactor.net.listen_with("127.0.0.1:0", narrow(marks), |ctx: &mut Ctx<'_, App>, _| {
        enter(ctx.app);
        ctx.app.opens += 1;
        match ctx.app.bystander {
            None => ctx.app.bystander = Some(ctx.token),
            Some(_) => ctx.app.subject = Some(ctx.token),
        }
        act(ctx.app, ctx.net, "factory", ctx.token);
        leave(ctx.app);
        Some(hook(told as Fn))
    });
    reactor.app.listener = Some(listener.expect("it listens"));
    let address = address_of(&reactor, reactor.app.listener.expect("just set"));
    (reactor, address)
}

/// Takes a connection through its life; errors are what some of the acts amount to.
fn live(address: SocketAddr) {
    let mut bystander = peer(address);
    // The factory may have it reset before connect(2) has returned.
    if let Ok(mut subject) = TcpStream::connect(address) {
        let _ = subject.set_read_timeout(Some(support::DEADLINE));
        let _ = subject.write_all(b"x");
        let mut buffer = vec![0; 64 * 1024];
        let mut got = 0;
        while got < 512 * 1024 {
            match subject.read(&mut buffer) {
                Ok(0) | Err(_) => break,
                Ok(n) => got += n,
            }
        }
        let _ = subject.shutdown(Shutdown::Write);
        let _ = std::io::copy(&mut subject, &mut std::io::sink());
    }
    let _ = bystander.shutdown(Shutdown::Write);
    let _ = std::io::copy(&mut bystander, &mut std::io::sink());
}

fn play(place: &'static str, act: Act) {
    let (mut reactor, address) = server(place, act);
    let peers = beside(move || live(address));
    let stops = matches!(act, Act::Stop | Act::StopTwice | Act::Everything);
    if stops {
        support::run(&mut reactor);
    } else {
        turn_until(&mut reactor, "both connections are over", |r| r.app.closes.len() == 2);
    }
    assert!(reactor.app.done, "the act was played");
    // Whatever was set going has time to do harm.
    join(&mut reactor, peers);
    let app = &reactor.app;
    assert_eq!(app.closes.len(), app.opens as usize, "everybody who had a handler had on_close: {:?}", app.closes);
    for (token, reasons) in &app.closes {
        assert_eq!(reasons.len(), 1, "{token}: once each: {reasons:?}");
    }
    let reason = |token: Option<Token>| app.closes.get(&token.expect("accepted")).map(|reasons| &reasons[0]);
    let subject = reason(app.subject);
    let other = reason(app.bystander);
    // In its on_close the subject is over already, for the reason that its life had.
    let (own_close, own_abort) = if place == "close" { ("Done", "Done") } else { ("Local", "Aborted") };
    let (expected_subject, expected_other) = match act {
        Act::CloseSelf => (own_close, "Done"),
        Act::AbortSelf => (own_abort, "Done"),
        Act::CloseOther => ("Done", "Local"),
        Act::AbortOther => ("Done", "Aborted"),
        Act::CloseListener | Act::SendToBoth => ("Done", "Done"),
        Act::Stop | Act::StopTwice => return,
        // After `on_eof` has shut down, the flush is all that was missing.
        Act::Everything if place == "close" || place == "eof" => ("Done", "Aborted"),
        Act::Everything => ("Aborted", "Aborted"),
    };
    assert_eq!(subject.map(|why| format!("{why:?}")).as_deref(), Some(expected_subject));
    assert_eq!(other.map(|why| format!("{why:?}")).as_deref(), Some(expected_other));
}

#[test]
fn every_callback_may_close_itself_or_another_or_stop_the_loop() {
    for act in ACTS {
        for place in PLACES {
            println!("{act:?} in {place}");
            play(place, act);
        }
    }
}

#[test]
fn on_open_comes_first_also_when_others_sent_or_told_before() {
    #[derive(Default)]
    struct Order(Vec<&'static str>);
    type Fn = for<'a, 'b, 'c> fn(&'a mut Ctx<'b, Order>, Told<'c>);
    fn note(ctx: &mut Ctx<'_, Order>, told: Told<'_>) {
        ctx.app.0.push(match told {
            Told::Open => "open",
            Told::Complete => "complete",
            Told::Close(_) => "close",
            _ => "other",
        });
    }
    let mut reactor = Reactor::new(Order::default()).expect("a reactor");
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("bound");
    let far = peer(listener.local_addr().expect("an address"));
    let (near, _) = listener.accept().expect("accepted");
    let fd = plimsoll::Fd::from_owned(near.into());
    // In a deferred closure: the turn settles already, and the new connection is looked at in the next one.
    reactor.net.defer(move |lp| {
        let token = lp.adopt(fd, hook(note as Fn)).expect("adopted");
        lp.send(token, "early");
        lp.tell::<Hook<Fn>>(token, |_, ctx| ctx.app.0.push("told"));
    });
    turn_until(&mut reactor, "the told one has been told", |r| r.app.0.contains(&"told"));
    support::turn_for(&mut reactor, Duration::from_millis(10));
    assert_eq!(reactor.app.0[0], "open", "{:?}", reactor.app.0);
    assert_eq!(reactor.app.0.len(), 3, "{:?}", reactor.app.0);
    drop(far);
}

#[test]
fn after_close_there_is_no_callback_but_on_close() {
    type Fn = for<'a, 'b, 'c> fn(&'a mut Ctx<'b, Vec<&'static str>>, Told<'c>);
    fn note(ctx: &mut Ctx<'_, Vec<&'static str>>, told: Told<'_>) {
        ctx.app.push(match told {
            Told::Open => return ctx.timer(1, Duration::from_millis(5)),
            Told::Data(_) => "data",
            Told::Eof(_) => "eof",
            Told::High(_) => "high",
            Told::Low => "low",
            Told::Complete => "complete",
            Told::Timer(_) => "timer",
            Told::Close(_) => "close",
        });
    }
    let mut reactor = Reactor::new(Vec::new()).expect("a reactor");
    let marks = |o: &mut StreamOptions| {
        o.high_water = 64 * 1024;
        o.low_water = 16 * 1024;
    };
    let listener = reactor.net.listen_with("127.0.0.1:0", narrow(marks), |_, _| Some(hook(note as Fn)));
    let mut stream = peer(address_of(&reactor, listener.expect("it listens")));
    turn_until(&mut reactor, "it is accepted", |r| r.net.tokens().len() == 1);
    let token = reactor.net.tokens()[0];
    // Everything is due, or comes while the queue drains: marks, completion, a timer, a tell, input and its end.
    assert_eq!(reactor.net.send(token, vec![1; 1 << 20]), Flow::High);
    reactor.net.close(token);
    reactor.net.tell::<Hook<Fn>>(token, |_, ctx| ctx.app.push("told"));
    stream.write_all(b"hello").expect("sent");
    support::turn_for(&mut reactor, Duration::from_millis(20));
    assert!(reactor.app.is_empty(), "{:?}", reactor.app);
    let reader = beside(move || {
        let got = support::read_all(&mut stream).len();
        stream.write_all(b"hello").expect("sent");
        got
    });
    assert_eq!(join(&mut reactor, reader), 1 << 20);
    turn_until(&mut reactor, "it is released", |r| r.net.peer_address(token).is_none());
    assert_eq!(reactor.app, ["close"]);
    assert_eq!(reactor.net.stats().tells_dropped, 1);
}

#[test]
fn what_is_deferred_while_the_turn_settles_runs_in_the_next_without_sleep() {
    let mut reactor = Reactor::new(Vec::<u64>::new()).expect("a reactor");
    fn again(lp: &mut Loop<'_, Vec<u64>>) {
        let turn = lp.stats().turns;
        lp.app.push(turn);
        if lp.app.len() < 100 {
            lp.defer(again);
        } else {
            lp.stop();
        }
    }
    reactor.net.defer(again);
    let began = std::time::Instant::now();
    support::run(&mut reactor);
    assert!(began.elapsed() < Duration::from_secs(5), "it did not sleep");
    assert!(reactor.app.windows(2).all(|pair| pair[1] == pair[0] + 1), "one a turn: {:?}", reactor.app);
}
