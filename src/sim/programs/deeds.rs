//! What the program does with its connections, and what it writes down of it.

use super::acts::{Act, Place};
use super::app::{App, Life, Stream, draw_options};
use super::hand::Hand;
use super::mask::{Mask, Masked};
use super::oracle::{Direction, pattern};
use super::probe::now;
use super::{dials, messages};
use crate::handler::Flow;
use crate::net::Net;
use crate::options::{RelayOptions, StreamOptions};
use crate::sim::Harbor;
use crate::sys::Address;
use crate::token::Token;
use bytes::Bytes;
use std::time::Duration;

/// The connection whose `on_data` runs, if one does: what its input is to be is not decided yet.
pub type InHand = Option<usize>;

pub fn act(app: &mut App, net: &mut Net<App>, act: Act, in_hand: InHand) {
    if app.quiet {
        return;
    }
    match act {
        Act::Connect(place) => connect(app, net, place),
        Act::Dial(place) => dials::dial(app, net, place),
        Act::CancelDial(which) => dials::cancel(app, net, which),
        Act::Datagram(which, size) => messages::send(app, net, which, size),
        Act::CloseDatagrams => messages::close(app, net),
        Act::Stop => app.stop(net),
        act => on_stream(app, net, act, in_hand),
    }
}

fn on_stream(app: &mut App, net: &mut Net<App>, act: Act, in_hand: InHand) {
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
    | Act::Swap(which)
    | Act::Filter(which)
    | Act::Tune(which)
    | Act::CancelTimer(which, _)
    | Act::Timer(which, ..)) = act
    else {
        return;
    };
    let Some((stream, token)) = app.pick(which) else { return };
    match act {
        Act::Send(_, len) => send(app, net, stream, usize::from(len)),
        Act::Flush(_) => net.flush(token),
        Act::Pause(_) => pause(app, net, stream, token),
        Act::Resume(_) => resume(app, net, stream, token),
        Act::Want(_, bytes) => want(app, net, stream, token, usize::from(bytes)),
        Act::Shutdown(_) => shutdown(app, net, stream, token),
        Act::Close(_) => close(app, net, stream, token),
        Act::Abort(_) => {
            app.streams[stream].aborted = true;
            net.abort(token);
        }
        Act::Relay(_, other) => relay(app, net, stream, other),
        // What a relay has carried by then is not ours to know, and so not what the next owner is to get.
        Act::Rehome(_) if in_hand.is_none() && app.streams[stream].relay.is_none() => rehome(app, net, stream, token),
        Act::Swap(_) => swap(app, net, stream, token),
        Act::Filter(_) => filter(app, net, stream, token, in_hand),
        Act::Tune(_) => tune(app, net, stream, token),
        Act::Timer(_, key, ms) => arm(net, token, key, ms),
        Act::CancelTimer(_, key) => disarm(net, token, key),
        _ => {}
    }
}

fn pause(app: &mut App, net: &mut Net<App>, stream: usize, token: Token) {
    app.streams[stream].paused = true;
    net.pause_reading(token);
}

fn resume(app: &mut App, net: &mut Net<App>, stream: usize, token: Token) {
    // One that has failed while it was paused, and has not heard of it yet, was paused.
    app.streams[stream].paused &= !net.is_open(token);
    net.resume_reading(token);
}

fn want(app: &mut App, net: &mut Net<App>, stream: usize, token: Token, bytes: usize) {
    app.streams[stream].wants = bytes > 1;
    net.want(token, bytes);
}

/// Has all that waits for the program's word given to the handlers. What does not is left alone: a wake-up that was
/// lost is to stay lost.
pub fn read_on(app: &mut App, net: &mut Net<App>) {
    for stream in 0..app.streams.len() {
        let Some(token) = app.streams[stream].token else { continue };
        if app.streams[stream].wants {
            want(app, net, stream, token, 0);
        }
        if app.streams[stream].left {
            // Offered again when more comes, or by this.
            pause(app, net, stream, token);
        }
        if app.streams[stream].paused {
            resume(app, net, stream, token);
        }
    }
}

pub fn send(app: &mut App, net: &mut Net<App>, stream: usize, len: usize) {
    let Some(token) = app.streams[stream].token else { return };
    let data = pattern(stream, Direction::Out, app.streams[stream].sent, len);
    let queued = net.queued(token);
    let flow = match app.chance.below(3) {
        0 => net.send(token, data),
        1 => net.send(token, data.to_vec()),
        _ => net.send(token, Bytes::copy_from_slice(data)),
    };
    let own = &mut app.streams[stream];
    own.owes_complete = true;
    if queued == 0 {
        own.waits_since = now();
    }
    match flow {
        Flow::Closed if own.relay.is_none() => own.at_most = own.at_most.max(own.sent + len as u64),
        Flow::Closed => {}
        Flow::Open | Flow::High => {
            own.sent += len as u64;
            own.at_most = own.at_most.max(own.sent);
            own.high |= flow == Flow::High;
            if queued > own.options.hard_limit && len > 0 {
                app.wrong(format!("stream {stream}: {queued} bytes were queued, and more was taken"));
            }
        }
    }
}

pub fn shutdown(app: &mut App, net: &mut Net<App>, stream: usize, token: Token) {
    let own = &mut app.streams[stream];
    // Of a relayed connection, nothing.
    if own.relay.is_none() && net.is_open(token) {
        own.shut = true;
        // A filter says farewell.
        own.owes_complete |= own.masked.is_some();
        if net.queued(token) == 0 {
            own.waits_since = now();
        }
    }
    net.shutdown(token);
    let own = &mut app.streams[stream];
    // A filter's farewell may cross the mark too.
    own.high |= own.masked.is_some() && own.relay.is_none() && net.queued(token) > own.options.high_water;
}

pub fn close(app: &mut App, net: &mut Net<App>, stream: usize, token: Token) {
    let own = &mut app.streams[stream];
    if net.is_open(token) {
        own.close_asked(net.queued(token));
    }
    net.close(token);
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
        if app.chance.below(4) == 0 {
            o.idle_timeout = Some(Duration::from_millis(1 + app.chance.below(20_000)));
        }
    });
    let idle_timeout = options.idle_timeout;
    if net.relay(token, other, options) {
        app.streams[a].relay = Some((b, app.streams[b].consumed));
        app.streams[b].relay = Some((a, app.streams[a].consumed));
        for side in [a, b] {
            let stream = &mut app.streams[side];
            // What a `High` was about is the relay's affair now, and so is when it is read.
            (stream.high, stream.paused, stream.wants) = (false, false, false);
            stream.options.idle_timeout = idle_timeout.or(stream.options.idle_timeout);
            stream.changed_at = now();
        }
    }
}

fn rehome(app: &mut App, net: &mut Net<App>, stream: usize, token: Token) {
    let Some(detached) = net.detach(token) else { return };
    // The old handler's `on_close` is still to come, and answers its `High`.
    let own = &mut app.streams[stream];
    (own.high, own.paused, own.wants, own.owes_complete) = (false, false, false, true);
    own.timers.clear();
    // Open from the start: what is closed before `on_open` says farewell all the same.
    (own.options, own.place, own.opened_at) = (StreamOptions::default(), None, Some(now()));
    let hand = app.hand(stream);
    let life = hand.life;
    app.streams[stream].life = Some(life);
    match net.adopt(detached, hand) {
        Ok(token) => app.streams[stream].token = Some(token),
        Err(e) => {
            if e.kind() == std::io::ErrorKind::NotConnected {
                app.wrong(format!("stream {stream}: given away, and nobody may have it: {e}"));
            }
            // No memory to watch it, or the loop is stopping: then it is closed, and what came with it is lost.
            app.lives[life].closed = 1;
            app.streams[stream].token = None;
            app.streams[stream].aborted = true;
            app.streams[stream].ended = Some(format!("not adopted: {e}"));
        }
    }
}

fn swap(app: &mut App, net: &mut Net<App>, stream: usize, token: Token) {
    if !net.is_open(token) {
        return;
    }
    // The one that has the connection now, or will have it if an earlier swap is still to take effect.
    let Some(life) = app.streams[stream].life else { return };
    let successor = Life { replaced: false, ..app.lives[life].clone() };
    app.lives[life].replaced = true;
    let hand = app.born(stream, successor);
    app.streams[stream].life = Some(hand.life);
    net.swap(token, hand);
}

fn filter(app: &mut App, net: &mut Net<App>, stream: usize, token: Token, in_hand: InHand) {
    let block = [1, 3, 7][app.chance.below(3) as usize];
    let own = &mut app.streams[stream];
    if own.own || own.relay.is_some() || !net.filter(token, Mask::new(block)) {
        return;
    }
    own.masked = Some(Masked {
        // What the callback leaves of its input is the filter's.
        input_from: if in_hand == Some(stream) { u64::MAX } else { own.consumed },
        output_from: own.sent,
        says_farewell: !own.shut,
        block: block as u64,
    });
}

/// Other marks, limits and times than it began with.
fn tune(app: &mut App, net: &mut Net<App>, stream: usize, token: Token) {
    let drawn = draw_options(&mut app.chance);
    let own = &mut app.streams[stream];
    let options = StreamOptions { read_while_high: drawn.read_while_high || own.own, ..drawn };
    if net.is_open(token) && net.options(token, |o| *o = options.clone()) {
        // A mark that is crossed by being moved is told as if the queue had crossed it.
        own.high |= own.relay.is_none() && net.queued(token) > options.high_water;
        own.options = options;
        own.changed_at = now();
    }
}

fn arm(net: &mut Net<App>, token: Token, key: u8, ms: u16) {
    let (key, after) = (u32::from(key), Duration::from_millis(ms.into()));
    net.tell::<Hand>(token, move |hand, ctx| {
        hand.called(ctx.app, "tell");
        let due = ctx.net.now() + after;
        ctx.timer(key, after);
        ctx.app.streams[hand.stream].timers.insert(key, due);
    });
}

fn disarm(net: &mut Net<App>, token: Token, key: u8) {
    net.tell::<Hand>(token, move |hand, ctx| {
        let was_armed = ctx.app.streams[hand.stream].timers.remove(&key.into()).is_some();
        if ctx.cancel_timer(key.into()) != was_armed {
            ctx.app.wrong(format!("stream {}: timer {key} was armed: {was_armed}, not so cancelled", hand.stream));
        }
    });
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
    let place = if place == Place::Server && harbor.is_none() { Place::Nobody } else { place };
    let stream = app.peers.borrow_mut().expect(harbor, reads);
    let hand = app.hand(stream);
    let mut options = draw_options(&mut app.chance);
    // Two ends of which neither reads before its output has drained wait for each other for ever: see the option.
    options.read_while_high |= place == Place::Own;
    let life = hand.life;
    let token = net.connect_with(address, options.clone(), hand);
    *app.stream_at(stream) = Stream {
        token: Some(token),
        life: Some(life),
        options,
        place: Some(place),
        begun_at: now(),
        own: place == Place::Own,
        ..Stream::default()
    };
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

/// A peer has come to the listener.
pub fn welcome(app: &mut App, net: &mut Net<App>, token: Token, peer: &Address) -> Option<Hand> {
    let Some(stream) = recognize(app, net, peer) else {
        app.turned_away += 1;
        return None;
    };
    app.inside += 1;
    if app.listening.max_connections.is_some_and(|most| app.inside > most) {
        app.wrong(format!("{} connections are open, more than the listener is to have", app.inside));
    }
    let mut options = app.listening.stream.clone();
    if app.stream_at(stream).own {
        options.read_while_high = true;
        net.options(token, |o| o.read_while_high = true);
    }
    let hand = app.born(stream, Life { accepted: true, ..Life::default() });
    let own = &mut app.streams[stream];
    (own.token, own.options, own.life, own.begun_at) = (Some(token), options, Some(hand.life), now());
    Some(hand)
}
