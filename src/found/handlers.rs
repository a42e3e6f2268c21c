//! Whose handler it is when one takes another's place.

use super::{App, Told, connected, here, turn};
use crate::options::{DialOptions, ListenOptions};
use crate::reactor::Reactor;
use crate::sim::World;
use std::time::Duration;

#[test]
fn a_handler_that_mail_has_replaced_hears_no_timer_of_the_same_turn() {
    let world = World::calm();
    let (mut reactor, token, _peer) = connected(&world, ListenOptions::new());
    reactor.net.tell::<Told>(token, |_, ctx| ctx.timer(1, Duration::from_secs(1)));
    reactor.turn(Some(Duration::ZERO)).expect("the loop turns");
    let letter = reactor.net.mailbox().post(move |lp| lp.net.swap(token, Told("second")));
    letter.expect("there is room");
    world.pass(Duration::from_secs(2));
    reactor.turn(Some(Duration::ZERO)).expect("the loop turns");
    assert_eq!(reactor.app.timers, ["second"]);
}

#[test]
fn a_swap_inside_a_factory_outdoes_what_the_factory_returns() {
    let world = World::calm();
    let mut reactor = Reactor::new(App::default()).expect("a reactor");
    let listening = reactor.net.listen(here(), |ctx, _| {
        ctx.net.swap(ctx.token, Told("swapped"));
        Some(Told("returned"))
    });
    listening.expect("it listens");
    world.connect(here()).reset();
    turn(&mut reactor, 10);
    assert_eq!(reactor.app.closed, ["swapped"], "of a listener");
    let once = DialOptions::new().with(|o| o.max_failures = Some(1));
    // Nobody listens there.
    reactor.net.dial(super::there(), once, |ctx| {
        ctx.net.swap(ctx.token, Told("swapped"));
        Told("returned")
    });
    turn(&mut reactor, 100);
    assert_eq!(reactor.app.closed, ["swapped", "swapped"], "of a dialer");
}
