//! Handlers that ask and count the answers: on connections of our own, to an address, to a name, and in the place of
//! one that was aborted.

use super::super::peer::{Act, speech};
use super::super::stage::{Entered, Ledger, Stage, Trouble, wrong};
use super::{tcp_host, tcp_peer};
use crate::connect::Target;
use crate::handler::{Ctx, Handler, Loop};
use crate::options::DialOptions;
use bytes::BytesMut;
use std::net::SocketAddr;
use std::time::Duration;

/// Asks once, reads the answer to its end, and counts it.
pub struct Asker {
    pub heard: usize,
}

impl Handler<Ledger> for Asker {
    fn on_open(&mut self, ctx: &mut Ctx<'_, Ledger>) {
        ctx.send(speech(7, 100));
    }

    fn on_data(&mut self, ctx: &mut Ctx<'_, Ledger>, input: &mut BytesMut) {
        let before = self.heard;
        self.heard += input.len();
        ctx.app.counts[1] += u32::from(input[..] != speech(1, self.heard)[before..]);
        input.clear();
    }

    fn on_eof(&mut self, ctx: &mut Ctx<'_, Ledger>, _: &mut BytesMut) {
        ctx.app.counts[0] += u32::from(self.heard == 3_000);
        ctx.shutdown();
    }
}

/// A dialer whose host ends every connection after its answer: whatever fails, three answers come in the end.
pub fn dial(stage: &mut Stage) -> Result<(), Trouble> {
    let (host, upstream) = tcp_host(1, &[Act::Expect(100), Act::Send(3_000), Act::Shutdown]);
    stage.hosts.push(host);
    let options = DialOptions::new().with(|o| {
        o.first_delay = Duration::from_millis(10);
        o.max_delay = Duration::from_millis(50);
    });
    let dial = stage.net().dial(upstream, options, |ctx| Entered::new(ctx.app, Asker { heard: 0 }));
    stage.until("three answers", |stage| stage.reactor.app.counts[0] >= 3)?;
    if !stage.net().cancel_dial(dial) {
        return Err(wrong("the dialer is gone"));
    }
    stage.hosts.clear();
    stage.until("hosts have their end", Stage::peers_ended)?;
    if stage.reactor.app.counts[1] > 0 {
        return Err(wrong("an answer differs from what was sent"));
    }
    Ok(())
}

/// Work on another thread, and a name that is looked up there.
pub fn offload(stage: &mut Stage) -> Result<(), Trouble> {
    stage.open_bystander()?;
    let (host, upstream) = tcp_host(1, &[Act::Expect(100), Act::Send(3_000), Act::Shutdown]);
    stage.hosts.push(host);
    let asker = stage.reactor.app.closes.len();
    let handler = Entered::new(&mut stage.reactor.app, Asker { heard: 0 });
    stage.net().connect(Target::from(("localhost", upstream.port())), handler);
    let done = |lp: &mut Loop<'_, Ledger>, sum: Result<u32, _>| {
        lp.app.counts[2] += sum.unwrap_or(0);
    };
    let submitted = stage.net().offload(|| (1..=4).sum::<u32>(), done);
    let accepted = submitted.is_ok();
    if !accepted && stage.unharmed() {
        return Err(wrong("work is refused"));
    }
    stage.until("the sum comes back", |stage| !accepted || stage.reactor.app.counts[2] == 10)?;
    stage.until("the connection has ended", |stage| stage.reactor.app.closes[asker] == 1)?;
    stage.hosts.clear();
    stage.until("its peer has, too", Stage::peers_ended)?;
    stage.see_off_bystander()?;
    if stage.unharmed() && stage.reactor.app.counts[..2] != [1, 0] {
        return Err(wrong("the answer is not what was sent"));
    }
    Ok(())
}

/// The first to hear something ends all others, and makes a new connection in their place.
struct Rival;

impl Handler<Ledger> for Rival {
    fn on_open(&mut self, ctx: &mut Ctx<'_, Ledger>) {
        ctx.app.tokens.push(ctx.token);
    }

    fn on_data(&mut self, ctx: &mut Ctx<'_, Ledger>, input: &mut BytesMut) {
        input.clear();
        for rival in std::mem::take(&mut ctx.app.tokens).into_iter().filter(|rival| *rival != ctx.token) {
            ctx.net.abort(rival);
            let port = ctx.app.counts[3] as u16;
            let asker = Entered::new(ctx.app, Asker { heard: 0 });
            ctx.net.connect(SocketAddr::from(([127, 0, 0, 1], port)), asker);
        }
        ctx.send("won");
        ctx.shutdown();
    }
}

/// Two rivals hear something in the same turn: the event of the one that is aborted stands behind the other's, and a
/// connection is made meanwhile.
pub fn turnover(stage: &mut Stage) -> Result<(), Trouble> {
    stage.cuts = 1;
    let (host, upstream) = tcp_host(1, &[Act::Expect(100), Act::Send(3_000), Act::Shutdown]);
    stage.hosts.push(host);
    stage.reactor.app.counts[3] = u32::from(upstream.port());
    let listener = stage.net().listen("127.0.0.1:0", |ctx, _| Some(Entered::new(ctx.app, Rival)))?;
    let address = stage.address(listener)?;
    for pattern in 1..=2 {
        stage.peers.push(tcp_peer(&address, pattern, &[]));
    }
    stage.until("both are there", |stage| {
        let s = stage.reactor.net.stats();
        s.accepts + s.refused >= 2
    })?;
    for peer in &mut stage.peers {
        peer.go_on(&[Act::Send(10), Act::Shutdown]);
    }
    stage.until("everybody has ended", |stage| {
        stage.peers_ended() && stage.reactor.app.closes.iter().all(|closes| *closes > 0)
    })?;
    let won = stage.peers.iter().filter(|peer| peer.received == b"won").count();
    let [answers, false_answers, ..] = stage.reactor.app.counts;
    if won + answers as usize + stage.may_harm() < 2 || won > 1 || answers > 1 || false_answers > 0 {
        return Err(wrong(format!("{won} have won, {answers} answers came, {false_answers} pieces false")));
    }
    Ok(())
}
