//! What random programs have found in the library, each as a short program of its own.
//!
//! A seed means another program whenever an operation is added to those that are drawn. So what was found is kept here,
//! in a calm world and in the order that it needs.

use crate::filter::Filter;
use crate::handler::{CloseReason, Ctx, Handler};
use crate::options::{ListenOptions, ReactorOptions};
use crate::reactor::Reactor;
use crate::sim::{Peer, World};
use crate::token::Token;
use bytes::BytesMut;
use std::io;
use std::time::Duration;

/// Remembers which connection is its, and what it is told of it.
struct Told(&'static str);

#[derive(Default)]
struct App {
    token: Option<Token>,
    why: Option<CloseReason>,
    /// Whose timers have run.
    timers: Vec<&'static str>,
}

impl Handler<App> for Told {
    fn on_open(&mut self, ctx: &mut Ctx<'_, App>) {
        ctx.app.token = Some(ctx.token);
    }

    fn on_data(&mut self, _ctx: &mut Ctx<'_, App>, _input: &mut BytesMut) {}

    fn on_timer(&mut self, ctx: &mut Ctx<'_, App>, _key: u32) {
        ctx.app.timers.push(self.0);
    }

    fn on_close(&mut self, ctx: &mut Ctx<'_, App>, why: CloseReason) {
        ctx.app.why = Some(why);
    }
}

/// Changes nothing, and says farewell.
struct Polite;

impl Filter for Polite {
    fn decode(&mut self, wire: &mut BytesMut, plain: &mut BytesMut, _reply: &mut BytesMut) -> io::Result<()> {
        plain.unsplit(wire.split());
        Ok(())
    }

    fn encode(&mut self, plain: &[u8], wire: &mut BytesMut) -> io::Result<()> {
        wire.extend_from_slice(plain);
        Ok(())
    }

    fn finish(&mut self, wire: &mut BytesMut) -> io::Result<()> {
        wire.extend_from_slice(b"bye");
        Ok(())
    }
}

fn connected(world: &World, options: ListenOptions) -> (Reactor<App>, Token, Peer) {
    let reactor_options = ReactorOptions::new().with(|o| o.stop_timeout = Duration::from_secs(5));
    let mut reactor = Reactor::with_options(App::default(), reactor_options).expect("a reactor");
    let at = "10.0.0.1:7".parse().expect("an address");
    reactor.net.listen_with(&at, options, |_, _| Some(Told("first"))).expect("it listens");
    let peer = world.connect(&at);
    while reactor.app.token.is_none() {
        reactor.turn(None).expect("the loop turns");
    }
    let token = reactor.app.token.expect("it is open");
    (reactor, token, peer)
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
