//! Handlers that carry what comes to another connection: by a relay, and by hand.

use super::super::peer::Act;
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
        ctx.net.relay(ctx.token, other, joint.clone());
        Some(here)
    })?;
    let address = stage.address(listener)?;
    stage.peers.push(tcp_peer(&address, 1, &[Act::SendDeaf(300_000), Act::Shutdown]));
    let passing = stage.passing;
    stage.until("both sides have the other's bytes", |stage| {
        stage.peers_ended() && (stage.peers.len() == 2 || !passing)
    })?;
    for (at, peer) in stage.peers.iter().enumerate() {
        let other = if at == 0 { 2 } else { 1 };
        if !peer.has_prefix_of(other) || peer.received.len() > 300_000 {
            return Err(wrong(format!("side {at} has got what the other did not send")));
        }
        if stage.passing && peer.received.len() != 300_000 {
            return Err(wrong(format!("side {at} has got {} bytes", peer.received.len())));
        }
    }
    Ok(())
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
    let options = ListenOptions::new().with(|o| {
        o.stream.idle_timeout = Some(Duration::from_secs(5));
        o.stream.stalled_timeout = Some(Duration::from_secs(5));
    });
    let listener = stage.net().listen_with("127.0.0.1:0", options, |ctx, _| Some(Entered::new(ctx.app, Forward)))?;
    let address = stage.address(listener)?;
    stage.peers.push(tcp_peer(&address, 1, &[Act::Send(10), Act::Shutdown]));
    stage.until("the first has ended its half", |stage| stage.reactor.app.counts[0] > 0 || stage.peers_ended())?;
    stage.peers.push(tcp_peer(&address, 2, &[Act::Send(3_000), Act::Shutdown]));
    stage.until("both have ended", Stage::peers_ended)?;
    let got = &stage.peers[0];
    if !got.has_prefix_of(2) || stage.passing && got.received.len() != 3_000 {
        return Err(wrong(format!("{} bytes were passed on, or false ones", got.received.len())));
    }
    Ok(())
}
