//! Closes and stops that met something else on their way.

use super::{App, Polite, connected, connected_to, failing, turn};
use crate::handler::{CloseReason, Ctx, Handler};
use crate::options::ListenOptions;
use crate::reactor::Reactor;
use crate::sim::World;
use crate::sys::fault::{self, Call, Fault, Plan};
use bytes::BytesMut;
use std::time::Duration;

/// More calls than a test makes.
const ALWAYS: u32 = 3_000;

/// Turns until the loop has stopped, but not for ever; how long that took.
fn stops_in(world: &World, reactor: &mut Reactor<App>) -> Duration {
    let began = world.elapsed();
    for _ in 0..ALWAYS {
        if reactor.is_stopped() {
            return world.elapsed() - began;
        }
        reactor.turn(Some(Duration::from_millis(100))).expect("the loop turns");
    }
    panic!("it does not stop");
}

#[test]
fn a_farewell_that_cannot_be_sent_is_no_orderly_end() {
    for stops in [false, true] {
        let world = World::calm();
        // The farewell is offered to the kernel as soon as it is said.
        let options = ListenOptions::new().with(|o| o.stream.eager_flush = 1);
        let (mut reactor, token, peer) = connected(&world, options);
        assert!(reactor.net.filter(token, Polite));
        // Nobody has told the loop of this yet.
        peer.reset();
        if stops {
            reactor.net.stop()
        } else {
            reactor.net.close(token)
        }
        reactor.turn(Some(Duration::ZERO)).expect("the loop turns");
        let why = reactor.app.why.take().expect("it has ended");
        assert!(!why.is_orderly(), "{why:?}, and the farewell is lost");
    }
}

/// As TCP has it: what has broken the connection is told once, and then that the pipe is broken.
#[test]
fn the_cause_is_told_that_the_first_send_has_met() {
    let world = World::calm();
    let (mut reactor, token, _peer) = connected(&world, ListenOptions::new());
    let plan = Plan::new().with(Call::Send, 1, Fault::Fail(libc::ETIMEDOUT));
    fault::install(plan.with(Call::Send, 2, Fault::Fail(libc::EPIPE)));
    // Much, and borrowed: it is offered to the kernel before it is queued.
    reactor.net.send(token, &[7; 1 << 17][..]);
    turn(&mut reactor, 2);
    fault::remove();
    match reactor.app.why {
        Some(CloseReason::Error(e)) => assert_eq!(e.raw_os_error(), Some(libc::ETIMEDOUT), "{e}"),
        why => panic!("{why:?}"),
    }
}

#[test]
fn a_stop_lets_connections_flush_for_as_long_as_it_says_whatever_a_close_would_have() {
    let world = World::calm();
    let options = ListenOptions::new().with(|o| o.stream.close_timeout = Duration::from_millis(100));
    let (mut reactor, token, peer) = connected(&world, options);
    reactor.net.send(token, vec![7; 1 << 20]);
    reactor.net.stop();
    world.after(Duration::from_secs(4), move |_| peer.takes());
    reactor.run().expect("the loop runs");
    assert!(matches!(reactor.app.why, Some(CloseReason::Stopped)), "{:?}", reactor.app.why);
    assert_eq!(peer.received().len(), 1 << 20);
}

/// With input that cannot be read away: closing then would send an RST.
#[test]
fn a_second_stop_and_the_deadline_of_the_first_cut_who_cannot_be_read() {
    for (filtered, twice) in [(false, false), (false, true), (true, false), (true, true)] {
        let world = World::calm();
        let (mut reactor, token, peer) = connected(&world, ListenOptions::new());
        if filtered {
            assert!(reactor.net.filter(token, Polite));
        }
        reactor.net.pause_reading(token);
        peer.send(b"never read");
        turn(&mut reactor, 10);
        fault::install(failing(Call::Recv, 1..=ALWAYS, libc::ENOMEM));
        reactor.net.stop();
        if twice {
            reactor.turn(Some(Duration::ZERO)).expect("the loop turns");
            reactor.net.stop();
        }
        let time = stops_in(&world, &mut reactor);
        fault::remove();
        assert_eq!(time >= Duration::from_secs(5), !twice, "{time:?}, filtered: {filtered}");
        assert!(matches!(reactor.app.why, Some(CloseReason::Stopped)), "{:?}", reactor.app.why);
    }
}

/// Reads a part, then closes and stops.
struct Leaver;

impl Handler<App> for Leaver {
    fn on_data(&mut self, ctx: &mut Ctx<'_, App>, input: &mut BytesMut) {
        input.clear();
        ctx.close();
        ctx.stop();
    }

    fn on_close(&mut self, ctx: &mut Ctx<'_, App>, why: CloseReason) {
        ctx.app.why = Some(why);
    }
}

#[test]
fn one_shortage_does_not_make_a_stop_wait_for_the_peer_of_a_closed_connection() {
    let world = World::calm();
    let options = ListenOptions::new().with(|o| {
        o.stream.input_limit = 4;
        o.stream.read_budget = 1;
    });
    let (mut reactor, _, peer) = connected_to(&world, options, || Leaver);
    peer.send(b"0123456789");
    fault::install(failing(Call::Recv, 2..=2, libc::ENOMEM));
    while reactor.app.why.is_none() {
        turn(&mut reactor, 1);
    }
    let time = stops_in(&world, &mut reactor);
    assert_eq!(fault::remove().expect("the plan").met(), 1);
    assert!(matches!(reactor.app.why, Some(CloseReason::Local)), "{:?}", reactor.app.why);
    assert!(time < Duration::from_secs(1), "it took {time:?}");
}

#[test]
fn who_has_had_all_that_was_sent_does_not_end_as_unsent() {
    let world = World::calm();
    let options = ListenOptions::new().with(|o| o.stream.close_timeout = Duration::from_secs(1));
    let (mut reactor, token, peer) = connected(&world, options);
    reactor.net.send(token, vec![7; 1 << 20]);
    reactor.net.close(token);
    turn(&mut reactor, 10);
    assert!(reactor.net.queued(token) > 0);
    fault::install(failing(Call::Recv, 1..=ALWAYS, libc::ENOMEM));
    peer.send(b"never read");
    turn(&mut reactor, 10);
    reactor.net.stop();
    turn(&mut reactor, 1);
    peer.takes();
    turn(&mut reactor, 100);
    assert_eq!(reactor.net.queued(token), 0);
    assert!(reactor.app.why.is_none(), "{:?}", reactor.app.why);
    stops_in(&world, &mut reactor);
    fault::remove();
    assert!(matches!(reactor.app.why, Some(CloseReason::Stopped)), "{:?}", reactor.app.why);
}

/// It takes a part at first, and then a little now and then.
#[test]
fn the_stalled_time_out_runs_from_what_was_taken_and_not_from_when_it_was_sent() {
    let second = Duration::from_secs(1);
    let world = World::calm();
    let options = ListenOptions::new().with(|o| {
        o.stream.stalled_timeout = Some(second);
        // All of it goes out in one piece, at the end of a turn.
        o.stream.eager_flush = 16 << 20;
        o.stream.high_water = 16 << 20;
    });
    let (mut reactor, token, peer) = connected(&world, options);
    // What the kernel has to say of a new socket is said.
    turn(&mut reactor, 2);
    let sent = vec![7; 1 << 20];
    reactor.net.send(token, &sent[..]);
    // The program is busy elsewhere for longer than the time-out.
    world.pass(2 * second);
    turn(&mut reactor, 1);
    assert!(reactor.app.why.is_none(), "{:?}", reactor.app.why);
    assert!((1..sent.len()).contains(&reactor.net.queued(token)), "or this test shows nothing");
    while reactor.net.queued(token) > 0 {
        let next = world.elapsed() + second * 9 / 10;
        while world.elapsed() < next {
            turn(&mut reactor, 10);
        }
        assert!(reactor.app.why.is_none(), "{:?}", reactor.app.why);
        assert!(!peer.read(128 << 10).is_empty());
    }
    // And when it takes nothing any more, it is.
    reactor.net.send(token, &sent[..]);
    turn(&mut reactor, 2_000);
    assert!(matches!(reactor.app.why, Some(CloseReason::Stalled)), "{:?}", reactor.app.why);
}
