//! Handlers that carry what comes to another connection: by a relay, and by hand.

use super::super::peer::{Act, End, Peer};
use super::super::stage::{Entered, Ledger, Stage, Trouble, wrong};
use super::{tcp_host, tcp_peer};
use crate::handler::{Ctx, Handler};
use crate::options::{ListenOptions, RelayOptions, StreamOptions};
use bytes::BytesMut;
use std::rc::Rc;
use std::time::Duration;

/// One side of a relay: what comes before the two are joined is nobody's.
struct Side;

impl Handler<Ledger> for Side {
    fn on_data(&mut self, _: &mut Ctx<'_, Ledger>, _: &mut BytesMut) {}
}

/// A client and its upstream, joined; both write more than the buffers hold before they read.
pub fn relay(stage: &mut Stage) -> Result<(), Trouble> {
    // A pair ends as one.
    stage.sides = 2;
    stage.open_bystander()?;
    let (host, upstream) = tcp_host(2, &[Act::SendDeaf(300_000), Act::Shutdown]);
    stage.hosts.push(host);
    let small = StreamOptions::new().with(|o| {
        o.send_buffer = Some(32 * 1024);
        o.receive_buffer = Some(32 * 1024);
    });
    let outward = Rc::new(small.clone());
    let joint = RelayOptions::new().with(|o| {
        o.high_water = 64 * 1024;
        o.low_water = 16 * 1024;
    });
    let options = ListenOptions::new().with(|o| o.stream = small);
    let listener = stage.net().listen_with("127.0.0.1:0", options, move |ctx, _| {
        let there = Entered::new(ctx.app, Side);
        let other = ctx.net.connect_with(upstream, outward.clone(), there);
        let here = Entered::new(ctx.app, Side);
        if !ctx.net.relay(ctx.token, other, joint.clone()) {
            // The attempt has failed at once, and nobody is there who would carry its end to this side.
            ctx.net.abort(ctx.token);
        }
        Some(here)
    })?;
    let address = stage.address(listener)?;
    stage.peers.push(tcp_peer(&address, 1, &[Act::SendDeaf(300_000), Act::Shutdown]));
    stage.until("both sides have the other's bytes", |stage| {
        stage.peers_ended() && (stage.peers.len() == 2 || !stage.unharmed())
    })?;
    stage.see_off_bystander()?;
    for (at, peer) in stage.peers.iter().enumerate() {
        let other = if at == 0 { 2 } else { 1 };
        if !peer.has_prefix_of(other) || peer.received.len() > 300_000 {
            return Err(wrong(format!("side {at} has got what the other did not send")));
        }
    }
    let cut_short = |peer: &&Peer| peer.received.len() < 300_000 && peer.end == Some(End::Orderly);
    if stage.peers.iter().filter(cut_short).count() * stage.sides > stage.may_harm() {
        return Err(wrong("a stream that was cut looks whole to the other side"));
    }
    stage.all_but_the_harmed(|_, peer| peer.received.len() == 300_000)
}

/// What comes is passed on to the first who came, in slices of the read buffer.
struct Forward;

impl Handler<Ledger> for Forward {
    fn on_open(&mut self, ctx: &mut Ctx<'_, Ledger>) {
        ctx.app.tokens.push(ctx.token);
    }

    fn on_data(&mut self, ctx: &mut Ctx<'_, Ledger>, input: &mut BytesMut) {
        let slices = input.split().freeze();
        let first = ctx.app.tokens[0];
        if first != ctx.token {
            ctx.net.send(first, slices);
        }
    }

    fn on_eof(&mut self, ctx: &mut Ctx<'_, Ledger>, _input: &mut BytesMut) {
        let first = ctx.app.tokens[0];
        if first == ctx.token {
            ctx.app.counts[0] += 1;
        } else {
            ctx.net.shutdown(first);
            ctx.shutdown();
        }
    }
}

/// A peer that has ended its half is sent what another one says, under both time-outs.
pub fn forward(stage: &mut Stage) -> Result<(), Trouble> {
    // Without the second there is nothing for the first.
    stage.sides = 2;
    stage.open_bystander()?;
    // The second may have to wait for as long as a shortage lasts.
    let options = ListenOptions::new().with(|o| {
        o.stream.idle_timeout = Some(Duration::from_secs(8));
        o.stream.stalled_timeout = Some(Duration::from_secs(8));
    });
    let listener = stage.net().listen_with("127.0.0.1:0", options, |ctx, _| Some(Entered::new(ctx.app, Forward)))?;
    let address = stage.address(listener)?;
    stage.peers.push(tcp_peer(&address, 1, &[Act::Send(10), Act::Shutdown]));
    stage.until("the first has ended its half", |stage| stage.reactor.app.counts[0] > 0 || stage.peers_ended())?;
    stage.peers.push(tcp_peer(&address, 2, &[Act::Send(3_000), Act::Shutdown]));
    stage.until("both have ended", Stage::peers_ended)?;
    stage.see_off_bystander()?;
    if !stage.peers[0].has_prefix_of(2) {
        return Err(wrong("false bytes were passed on"));
    }
    stage.all_but_the_harmed(|at, peer| at > 0 || peer.received.len() == 3_000)
}
