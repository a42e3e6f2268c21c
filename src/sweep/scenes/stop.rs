//! The stop.

use super::super::peer::{Act, speech};
use super::super::stage::{Entered, Ledger, Stage, Trouble, wrong};
use super::echo::Echo;
use super::tcp_peer;
use crate::handler::{CloseReason, Ctx, Flow, Handler};
use crate::options::{ListenOptions, StreamOptions};
use bytes::BytesMut;

/// Says much, and is told to stop while most of it is still queued.
struct Talker;

impl Handler<Ledger> for Talker {
    fn on_open(&mut self, ctx: &mut Ctx<'_, Ledger>) {
        ctx.app.counts[0] += u32::from(ctx.send(speech(9, 200_000)) == Flow::Closed);
    }

    fn on_data(&mut self, _: &mut Ctx<'_, Ledger>, input: &mut BytesMut) {
        input.clear();
    }

    fn on_close(&mut self, ctx: &mut Ctx<'_, Ledger>, why: CloseReason) {
        ctx.app.counts[1] += u32::from(matches!(why, CloseReason::Stopped));
    }
}

/// A stop with nothing queued, with much queued, and with a connection that is closed already.
pub fn stop(stage: &mut Stage) -> Result<(), Trouble> {
    let stream = StreamOptions::new().with(|o| o.send_buffer = Some(16 * 1024));
    let options = ListenOptions::new().with(|o| o.stream = stream);
    let talk = stage.net().listen_with("127.0.0.1:0", options, |ctx, _| Some(Entered::new(ctx.app, Talker)))?;
    let idle = stage.net().listen("127.0.0.1:0", |ctx, _| Some(Entered::new(ctx.app, Echo { in_pieces: false })))?;
    let (talk, idle) = (stage.address(talk)?, stage.address(idle)?);
    stage.peers.push(tcp_peer(&idle, 1, &[Act::Send(10), Act::Expect(10)]));
    stage.until("a peer has its echo", |stage| stage.peers[0].received.len() == 10 || stage.peers[0].end.is_some())?;
    // These hear nothing until they have found for a while that they cannot send: by then they are told to stop.
    stage.peers.push(tcp_peer(&talk, 2, &[]));
    stage.peers.push(tcp_peer(&talk, 3, &[Act::Send(10)]));
    stage.until("the speech begins", |stage| {
        stage.reactor.net.stats().accepts + stage.reactor.net.stats().refused >= 3
    })?;
    stage.net().stop();
    stage.until("all have ended", |stage| stage.reactor.is_stopped())?;
    stage.until("peers have read to the end", Stage::peers_ended)?;
    if !stage.peers[1..].iter().all(|peer| peer.has_prefix_of(9)) {
        return Err(wrong("a peer has got what is not in the speech"));
    }
    if stage.unharmed() && stage.reactor.app.counts[..2] != [0, 2] {
        return Err(wrong("a talker was not heard out, or not told of the stop"));
    }
    stage.all_but_the_harmed(|at, peer| at == 0 || peer.received.len() == 200_000)
}
