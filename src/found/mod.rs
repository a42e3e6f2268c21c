//! Bugs that needed a coincidence, each kept as a short program in a simulated world.
//!
//! A shortage of memory just when the loop stops, a peer's RST just when a filter says farewell: random programs and
//! careful readers find such things, and nobody would find them again. A seed does not keep them, since it means
//! another program whenever something is added to what is drawn. Here the world is calm, what fails is planned, and the
//! order is the one that it takes.

mod accepts;
mod completions;
mod datagrams;
mod ends;
mod handlers;
mod handovers;

use crate::filter::Filter;
use crate::handler::{CloseReason, Ctx, Handler};
use crate::options::{ListenOptions, ReactorOptions};
use crate::reactor::Reactor;
use crate::sim::{Peer, World};
use crate::sys::Address;
use crate::sys::fault::{Call, Fault, Plan};
use crate::token::Token;
use bytes::BytesMut;
use std::io;
use std::ops::RangeInclusive;
use std::time::Duration;

/// Consumes nothing, and remembers what it is told.
struct Told(&'static str);

#[derive(Default)]
struct App {
    /// The connection that has opened.
    token: Option<Token>,
    why: Option<CloseReason>,
    /// Whose timers have run, and who has heard `on_close`.
    timers: Vec<&'static str>,
    closed: Vec<&'static str>,
}

impl Handler<App> for Told {
    fn on_open(&mut self, ctx: &mut Ctx<'_, App>) {
        ctx.app.token = Some(ctx.token);
    }

    fn on_data(&mut self, _: &mut Ctx<'_, App>, _: &mut BytesMut) {}

    fn on_timer(&mut self, ctx: &mut Ctx<'_, App>, _key: u32) {
        ctx.app.timers.push(self.0);
    }

    fn on_close(&mut self, ctx: &mut Ctx<'_, App>, why: CloseReason) {
        ctx.app.why = Some(why);
        ctx.app.closed.push(self.0);
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

fn here() -> Address {
    "10.0.0.1:7".parse().expect("an address")
}

fn there() -> Address {
    "10.0.0.2:9".parse().expect("an address")
}

/// A reactor that listens here, with one connection open.
fn connected(world: &World, options: ListenOptions) -> (Reactor<App>, Token, Peer) {
    connected_to(world, options, || Told("first"))
}

fn connected_to<H: Handler<App>>(
    world: &World,
    options: ListenOptions,
    mut handler: impl FnMut() -> H + 'static,
) -> (Reactor<App>, Token, Peer) {
    let reactor_options = ReactorOptions::new().with(|o| {
        o.stop_timeout = Duration::from_secs(5);
        o.memory_budget = Some(3 << 20);
    });
    let mut reactor = Reactor::with_options(App::default(), reactor_options).expect("a reactor");
    reactor.net.listen_with(here(), options, move |_, _| Some(handler())).expect("it listens");
    let peer = world.connect(here());
    while reactor.net.stats().accepts == 0 {
        reactor.turn(None).expect("the loop turns");
    }
    let token = reactor.net.tokens().into_iter().find(|token| reactor.net.peer_address(*token).is_some());
    (reactor, token.expect("it is open"), peer)
}

/// Calls of a kind that answer this errno.
fn failing(call: Call, nth: RangeInclusive<u32>, errno: i32) -> Plan {
    nth.fold(Plan::new(), |plan, nth| plan.with(call, nth, Fault::Fail(errno)))
}

/// Turns that want to sleep for a millisecond each.
fn turn<A: 'static>(reactor: &mut Reactor<A>, times: u32) {
    for _ in 0..times {
        reactor.turn(Some(Duration::from_millis(1))).expect("the loop turns");
    }
}
