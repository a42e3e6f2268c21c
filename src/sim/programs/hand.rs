//! The program: what it does with its connections, and what it is told of them.
//!
//! Every connection has the same handler, which watches what it is called for and how often, checks each byte, and
//! takes as much of its input as chance says.

use super::oracle::{Direction, Expected, Relayed, check, pattern};
use super::peers::Peers;
use super::{Act, Place};
use crate::handler::{CloseReason, Ctx, Flow, Handler};
use crate::net::Net;
use crate::options::{RelayOptions, StreamOptions};
use crate::sim::Harbor;
use crate::sys::Address;
use crate::sys::sim::chance::Chance;
use crate::token::Token;
use bytes::{Bytes, BytesMut};
use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::time::Duration;

/// One connection, through all its handlers.
#[derive(Debug, Default)]
pub struct Stream {
    pub token: Option<Token>,
    pub sent: u64,
    /// With what a `send` that answered `Closed` may have sent.
    pub at_most: u64,
    pub consumed: u64,
    /// The other side of a relay, and how much of its input had been consumed by then.
    pub relay: Option<(usize, u64)>,
    /// A `High` was answered, and nothing has followed yet.
    pub high: bool,
    /// Its handler knows of the peer's end.
    pub eof: bool,
    /// Connected to the program's own listener, or accepted there from itself.
    pub own: bool,
    /// The other end, if that is the program's too.
    pub mirror: Option<usize>,
    pub aborted: bool,
    pub ended: Option<String>,
    pub todo: Vec<Act>,
}

/// One handler.
#[derive(Debug, Default)]
pub struct Life {
    opened: u32,
    eofs: u32,
    pub closed: u32,
}

pub struct App {
    pub chance: Chance,
    pub streams: Vec<Stream>,
    pub lives: Vec<Life>,
    pub by_address: HashMap<Address, usize>,
    pub peers: Rc<RefCell<Peers>>,
    /// Nothing new is begun, and everything is read.
    pub quiet: bool,
    pub stopped: u32,
    /// Where it listens.
    pub at: Address,
    /// Its listener is a Unix socket's.
    pub unix: bool,
    pub wrong: Vec<String>,
}

/// The handler of every connection.
pub struct Hand {
    stream: usize,
    life: usize,
}

impl App {
    pub fn hand(&mut self, stream: usize) -> Hand {
        self.lives.push(Life::default());
        Hand { stream, life: self.lives.len() - 1 }
    }

    fn wrong(&mut self, what: String) {
        self.wrong.push(what);
    }

    /// The connection that a number means.
    pub fn pick(&self, which: u8) -> Option<(usize, Token)> {
        let index = usize::from(which).checked_rem(self.streams.len())?;
        Some((index, self.streams[index].token?))
    }

    pub fn expected(&self, stream: usize) -> Expected {
        let own = &self.streams[stream];
        let relayed = own.relay.map(|(from, first)| {
            let sent = self.peers.borrow().parties[from].sent;
            Relayed { from, first, sent }
        });
        Expected { stream, sent: own.sent, at_most: own.at_most, relayed }
    }

    pub fn stream_at(&mut self, index: usize) -> &mut Stream {
        if self.streams.len() <= index {
            self.streams.resize_with(index + 1, Stream::default);
        }
        &mut self.streams[index]
    }
}

// ── What the program does ────────────────────────────────────────────────────────────────────────────────────

pub fn act(app: &mut App, net: &mut Net<App>, act: Act, input_in_hand: bool) {
    if app.quiet {
        return;
    }
    match act {
        Act::Connect(place) => return connect(app, net, place),
        Act::Stop => {
            app.stopped += 1;
            return net.stop();
        }
        _ => {}
    }
    let (Act::Send(which, _)
    | Act::Flush(which)
    | Act::Pause(which)
    | Act::Resume(which)
    | Act::Want(which, _)
    | Act::Shutdown(which)
    | Act::Close(which)
    | Act::Abort(which)
    | Act::Relay(which, _)
    | Act::Rehome(which)
    | Act::Timer(which, ..)) = act
    else {
        return;
    };
    let Some((stream, token)) = app.pick(which) else { return };
    match act {
        Act::Send(_, len) => send(app, net, stream, usize::from(len)),
        Act::Flush(_) => net.flush(token),
        Act::Pause(_) => net.pause_reading(token),
        Act::Resume(_) => net.resume_reading(token),
        Act::Want(_, bytes) => net.want(token, usize::from(bytes)),
        Act::Shutdown(_) => net.shutdown(token),
        Act::Close(_) => net.close(token),
        Act::Abort(_) => {
            app.streams[stream].aborted = true;
            net.abort(token);
        }
        Act::Relay(_, other) => relay(app, net, stream, other),
        // What a relay has carried by then is not ours to know, and so not what the next owner is to get.
        Act::Rehome(_) if !input_in_hand && app.streams[stream].relay.is_none() => rehome(app, net, stream, token),
        Act::Timer(_, key, ms) => {
            net.tell::<Hand>(token, move |_, ctx| ctx.timer(u32::from(key), Duration::from_millis(ms.into())));
        }
        _ => {}
    }
}

fn send(app: &mut App, net: &mut Net<App>, stream: usize, len: usize) {
    let Some(token) = app.streams[stream].token else { return };
    let data = pattern(stream, Direction::Out, app.streams[stream].sent, len);
    let flow = match app.chance.below(3) {
        0 => net.send(token, data),
        1 => net.send(token, data.to_vec()),
        _ => net.send(token, Bytes::copy_from_slice(data)),
    };
    let own = &mut app.streams[stream];
    match flow {
        Flow::Closed if own.relay.is_none() => own.at_most = own.at_most.max(own.sent + len as u64),
        Flow::Closed => {}
        Flow::Open | Flow::High => {
            own.sent += len as u64;
            own.at_most = own.at_most.max(own.sent);
            own.high |= flow == Flow::High;
        }
    }
}

fn relay(app: &mut App, net: &mut Net<App>, a: usize, other: u8) {
    let Some((b, other)) = app.pick(other) else { return };
    let Some(token) = app.streams[a].token else { return };
    if app.streams[a].own || app.streams[b].own {
        return;
    }
    let options = RelayOptions::default().with(|o| {
        o.high_water = 1 + app.chance.below(5_000) as usize;
        o.low_water = app.chance.below(5_000) as usize;
    });
    if net.relay(token, other, options) {
        app.streams[a].relay = Some((b, app.streams[b].consumed));
        app.streams[b].relay = Some((a, app.streams[a].consumed));
        // What a `High` was about is the relay's affair now.
        (app.streams[a].high, app.streams[b].high) = (false, false);
    }
}

fn rehome(app: &mut App, net: &mut Net<App>, stream: usize, token: Token) {
    let Some(detached) = net.detach(token) else { return };
    // The old handler's `on_close` is still to come, and answers its `High`.
    app.streams[stream].high = false;
    let hand = app.hand(stream);
    let life = hand.life;
    match net.adopt(detached, hand) {
        Ok(token) => app.streams[stream].token = Some(token),
        Err(e) => {
            if e.kind() == std::io::ErrorKind::NotConnected {
                app.wrong.push(format!("stream {stream}: given away, and nobody may have it: {e}"));
            }
            // No memory to watch it, or the loop is stopping: then it is closed, and what came with it is lost.
            app.lives[life].closed = 1;
            app.streams[stream].token = None;
            app.streams[stream].aborted = true;
            app.streams[stream].ended = Some(format!("not adopted: {e}"));
        }
    }
}

fn connect(app: &mut App, net: &mut Net<App>, place: Place) {
    let reads = app.chance.below(2) == 0;
    let number = app.peers.borrow().parties.len();
    if place == Place::Own && app.unix {
        // The accepted end could not be told from others: it has no name.
        return;
    }
    let address: Address = match place {
        Place::Server => format!("10.0.1.{}:80", number % 250),
        Place::Own => app.at.to_string(),
        Place::Silence => "10.0.2.1:80".to_owned(),
        Place::Nobody => "10.0.3.1:80".to_owned(),
    }
    .parse()
    .expect("an address");
    let harbor = (place == Place::Server).then(|| Harbor::open(&address)).and_then(Result::ok);
    let stream = app.peers.borrow_mut().expect(harbor, reads);
    let hand = app.hand(stream);
    let mut options = draw_options(&mut app.chance);
    // Two ends of which neither reads before its output has drained wait for each other for ever: see the option.
    options.read_while_high |= place == Place::Own;
    let token = net.connect_with(address, options, hand);
    app.stream_at(stream).token = Some(token);
    app.stream_at(stream).own = place == Place::Own;
}

/// The stream of an accepted peer, if it is known. The program itself is one when it connects to its own listener.
pub fn recognize(app: &mut App, net: &Net<App>, peer: &Address) -> Option<usize> {
    if let Some(stream) = app.by_address.get(peer) {
        return Some(*stream);
    }
    let connected = |stream: &Stream| {
        stream.own
            && stream.mirror.is_none()
            && stream.token.and_then(|token| net.local_address(token)).as_ref() == Some(peer)
    };
    let other = app.streams.iter().position(connected)?;
    let stream = app.peers.borrow_mut().expect(None, false);
    *app.stream_at(stream) = Stream { own: true, mirror: Some(other), ..Stream::default() };
    app.streams[other].mirror = Some(stream);
    Some(stream)
}

pub fn draw_options(chance: &mut Chance) -> StreamOptions {
    let small = |chance: &mut Chance| [1, 100, 5_000, 1 << 20][chance.below(4) as usize];
    StreamOptions::default().with(|o| {
        o.high_water = small(chance);
        o.low_water = small(chance);
        o.eager_flush = small(chance);
        o.read_budget = 1 + chance.below(4) as u32;
        o.read_while_high = chance.below(3) == 0;
        if chance.below(4) == 0 {
            // Small reads, which use up their budget.
            o.input_limit = 100 + chance.below(3_000) as usize;
        }
        if chance.below(6) == 0 {
            o.hard_limit = 10_000;
        }
        let seconds = |chance: &mut Chance| Duration::from_millis(1 + chance.below(30_000));
        o.idle_timeout = (chance.below(8) == 0).then(|| seconds(chance));
        o.stalled_timeout = (chance.below(8) == 0).then(|| seconds(chance));
    })
}

// ── What it is told ──────────────────────────────────────────────────────────────────────────────────────────

impl Hand {
    /// No callback comes before `on_open` or after `on_close`.
    pub fn called(&self, app: &mut App, what: &str) {
        let life = &app.lives[self.life];
        let (opened, closed) = (life.opened, life.closed);
        if closed > 0 || opened != 1 && what != "on_timer" && what != "tell" {
            app.wrong(format!(
                "stream {}: {what} when on_open had come {opened} times, on_close {closed}",
                self.stream
            ));
        }
    }

    /// Checks input, and takes some of it.
    fn take(&self, app: &mut App, input: &mut BytesMut, all: bool) {
        let consumed = app.streams[self.stream].consumed;
        let checked = match app.streams[self.stream].mirror {
            Some(other) => check(other, Direction::Out, consumed, input),
            None => check(self.stream, Direction::In, consumed, input),
        };
        if let Err(wrong) = checked {
            app.wrong(wrong);
        }
        let n = match app.chance.below(4) {
            _ if all || app.quiet => input.len(),
            0 | 1 => input.len(),
            2 => app.chance.below(input.len() as u64 + 1) as usize,
            _ => 0,
        };
        let _ = input.split_to(n);
        app.streams[self.stream].consumed += n as u64;
    }

    fn do_todo(&self, ctx: &mut Ctx<'_, App>) {
        for todo in std::mem::take(&mut ctx.app.streams[self.stream].todo) {
            act(ctx.app, ctx.net, todo, true);
        }
    }
}

impl Handler<App> for Hand {
    fn on_open(&mut self, ctx: &mut Ctx<'_, App>) {
        ctx.app.lives[self.life].opened += 1;
        self.called(ctx.app, "on_open");
    }

    fn on_data(&mut self, ctx: &mut Ctx<'_, App>, input: &mut BytesMut) {
        self.called(ctx.app, "on_data");
        if input.is_empty() {
            ctx.app.wrong(format!("stream {}: on_data without input", self.stream));
        }
        self.do_todo(ctx);
        if ctx.app.streams[self.stream].relay.is_some() {
            return;
        }
        self.take(ctx.app, input, false);
        // Two ends that answer each other would never come to an end.
        if ctx.app.chance.below(3) == 0 && !ctx.app.quiet && !ctx.app.streams[self.stream].own {
            let len = ctx.app.chance.below(3_000) as usize;
            send(ctx.app, ctx.net, self.stream, len);
        }
    }

    fn on_eof(&mut self, ctx: &mut Ctx<'_, App>, input: &mut BytesMut) {
        self.called(ctx.app, "on_eof");
        ctx.app.lives[self.life].eofs += 1;
        ctx.app.streams[self.stream].eof = true;
        if ctx.app.lives[self.life].eofs > 1 {
            ctx.app.wrong(format!("stream {}: a second on_eof", self.stream));
        }
        self.take(ctx.app, input, true);
        match ctx.app.chance.below(3) {
            0 => {}
            1 => ctx.close(),
            _ => ctx.shutdown(),
        }
    }

    fn on_high_water(&mut self, ctx: &mut Ctx<'_, App>, _queued: usize) {
        self.called(ctx.app, "on_high_water");
    }

    fn on_low_water(&mut self, ctx: &mut Ctx<'_, App>) {
        self.called(ctx.app, "on_low_water");
        if !std::mem::take(&mut ctx.app.streams[self.stream].high) {
            ctx.app.wrong(format!("stream {}: on_low_water without a High", self.stream));
        }
    }

    fn on_write_complete(&mut self, ctx: &mut Ctx<'_, App>) {
        self.called(ctx.app, "on_write_complete");
    }

    fn on_timer(&mut self, ctx: &mut Ctx<'_, App>, _key: u32) {
        self.called(ctx.app, "on_timer");
        let len = ctx.app.chance.below(100) as usize;
        send(ctx.app, ctx.net, self.stream, len);
    }

    fn on_close(&mut self, ctx: &mut Ctx<'_, App>, why: CloseReason) {
        ctx.app.lives[self.life].closed += 1;
        if ctx.app.lives[self.life].closed > 1 {
            ctx.app.wrong(format!("stream {}: a second on_close", self.stream));
        }
        if ctx.app.streams[self.stream].token == Some(ctx.token) {
            let own = &mut ctx.app.streams[self.stream];
            own.high = false;
            own.ended = Some(format!("{why:?}"));
        }
    }
}
