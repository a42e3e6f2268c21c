//! The verdicts on a whole run: when all has come to rest, and when it is over.

use super::app::{App, Stream};
use super::hand::LATE;
use super::post;
use super::probe::{now, probe};
use super::reasons::moved_at;
use crate::connection::Phase;
use crate::net::Net;
use crate::reactor::Reactor;
use crate::sockets::Source;
use crate::stats::Stats;
use crate::token::Token;
use std::time::Duration;

/// A second stop is carried out by the end of the next turn, and what its callbacks have brought about by the end of
/// the one after.
const CUT_TURNS: u64 = 2;

/// Everybody has been reading for longer than any time-out: nothing may still wait.
pub fn at_rest(app: &mut App, net: &mut Net<App>) {
    let streams = app.streams.len();
    let wrong = (0..streams)
        .find_map(|index| overdue(app, net, index).or_else(|| stuck(app, net, index)))
        .or_else(|| unfinished(net))
        .or_else(|| post::at_rest(app).err())
        .or_else(|| app.messages.at_rest(net).err());
    app.wrong.extend(wrong);
}

/// Connections that are closed have had all the time there is.
fn unfinished(net: &Net<App>) -> Option<String> {
    net.sockets.table.iter().find_map(|(token, source)| match &**source {
        Source::Connection(conn) if conn.phase != Phase::Open => Some(format!("{token} is {:?} for ever", conn.phase)),
        _ => None,
    })
}

/// A time-out whose time has come and gone.
fn overdue(app: &App, net: &Net<App>, index: usize) -> Option<String> {
    let stream = &app.streams[index];
    let token = stream.token.filter(|token| net.is_open(*token))?;
    let known = probe(net, token)?;
    let other = stream.relay.map(|(other, _)| &app.streams[other]);
    let other_moved = other.and_then(|other| Some(moved_at(other, probe(net, other.token?)?))).unwrap_or(0);
    let moved = moved_at(stream, known).max(other_moved).max(stream.changed_at);
    let passed = |since: u64, timeout: Option<Duration>| {
        timeout.is_some_and(|timeout| now() - since > (timeout + LATE).as_nanos() as u64)
    };
    if passed(moved, stream.options.idle_timeout) {
        return Some(format!("stream {index}: idle since {moved}, and has not ended"));
    }
    let taken = known.taken_at.max(stream.waits_since).max(stream.opened_at.unwrap_or(0)).max(stream.changed_at);
    let stalled = net.queued(token) > 0 && stream.relay.is_none() && passed(taken, stream.options.stalled_timeout);
    stalled.then(|| format!("stream {index}: stalled since {taken}, and has not ended"))
}

fn stuck(app: &App, net: &Net<App>, index: usize) -> Option<String> {
    let peers = std::rc::Rc::clone(&app.peers);
    let mut peers = peers.borrow_mut();
    let party = &mut peers.parties[index];
    let (vanished, gone, mut sent) = (party.vanished, party.gone, party.sent);
    let peer = party.peer();
    let stream = &app.streams[index];
    if vanished {
        return None;
    }
    let Some(token) = stream.token else {
        let waits = peer.is_some_and(|peer| !gone && peer.has_connected() && !peer.is_over() && !peer.has_ended());
        let full = app.listening.max_connections.is_some_and(|most| app.inside >= most);
        return (waits && !full && stream.ended.is_none()).then(|| format!("stream {index}: nobody accepts its peer"));
    };
    if !net.is_open(token) {
        return None;
    }
    if net.queued(token) > 0 {
        return Some(format!("stream {index}: {} bytes wait for ever to be sent", net.queued(token)));
    }
    if gone && (party.reset || !stream.eof && stream.relay.is_none()) {
        return Some(format!("stream {index}: its peer has gone, and the program was never told"));
    }
    if let Some((key, _)) = stream.timers.iter().find(|(_, due)| **due + LATE < net.now()) {
        return Some(format!("stream {index}: timer {key} never runs"));
    }
    if stream.own {
        let other = &app.streams[stream.mirror?];
        if other.ended.is_some() && !stream.eof {
            return Some(format!("stream {index}: its other end has ended, and it was never told"));
        }
        sent = if other.ended.is_none() { other.sent } else { stream.consumed };
    }
    if let Some((other, _)) = stream.relay {
        drop(peers);
        let expected = app.expected(index).len();
        let mut peers = app.peers.borrow_mut();
        let got = peers.parties[index].received().len() as u64;
        let peer_lives = !gone && !peers.parties[other].vanished;
        let other_lives = peer_lives && app.streams[other].token.is_some_and(|token| net.is_open(token));
        if !other_lives {
            return None;
        }
        if got < expected {
            return Some(format!("stream {index}: {got} of {expected} bytes were relayed, and nothing moves"));
        }
        let ended = peers.parties[other].fin;
        let told = peers.parties[index].peer().is_none_or(|peer| peer.has_ended());
        return (ended && !told).then(|| format!("stream {index}: the end of stream {other} was never relayed"));
    }
    let sent = app.readable(index, sent);
    (stream.consumed != sent).then(|| {
        format!("stream {index}: {} of {sent} bytes were given to the handler, and nothing comes", stream.consumed)
    })
}

/// After each turn.
pub fn in_between(app: &App, net: &Net<App>) -> Result<(), String> {
    if let Some(wrong) = app.wrong.first() {
        return Err(wrong.clone());
    }
    if let Some(wrong) = &app.post.borrow().wrong {
        return Err(wrong.clone());
    }
    if let Some((at, turn)) = app.cut_at
        && !net.sockets.is_stopped()
        && (net.stats().turns > turn + CUT_TURNS || now() > at + LATE.as_nanos() as u64)
    {
        return Err("it was stopped a second time, and waits for somebody".to_owned());
    }
    let held = net.stats().held;
    match app.options.memory_budget {
        Some(budget) if held > budget as u64 => Err(format!("{held} bytes are held, and the budget is {budget}")),
        _ => Ok(()),
    }
}

/// What a turn has brought is no more than it was to bring.
pub fn within_budgets(app: &App, before: &Stats, after: &Stats) -> Result<(), String> {
    let (accepts, datagrams) = (after.accepts - before.accepts, after.datagrams_in - before.datagrams_in);
    if accepts > app.listening.accept_budget.into() {
        return Err(format!("{accepts} peers were accepted in one turn, of {}", app.listening.accept_budget));
    }
    if datagrams > app.messages.receive_budget() {
        return Err(format!("{datagrams} datagrams came in one turn, of {}", app.messages.receive_budget()));
    }
    Ok(())
}

/// The peers that wait have their turn when others go.
pub fn make_room(app: &mut App, net: &mut Net<App>) {
    let accepted = |stream: &&mut Stream| stream.place.is_none() && stream.token.is_some();
    let tokens: Vec<Token> = app
        .streams
        .iter_mut()
        .filter(accepted)
        .filter_map(|stream| {
            let token = stream.token?;
            stream.close_asked(net.queued(token));
            Some(token)
        })
        .collect();
    tokens.into_iter().for_each(|token| net.close(token));
}

/// The loop has stopped.
pub fn at_the_end(reactor: &mut Reactor<App>) -> Result<(), String> {
    if let Some(wrong) = reactor.app.wrong.first() {
        return Err(wrong.clone());
    }
    if let Some(life) = reactor.app.lives.iter().position(|life| life.closed != u32::from(!life.replaced)) {
        let told = &reactor.app.lives[life];
        return Err(format!("handler {life} has had {} on_close; replaced: {}", told.closed, told.replaced));
    }
    if let Some(stream) = reactor.app.streams.iter().position(|stream| stream.high) {
        return Err(format!("stream {stream}: a High was never answered"));
    }
    let net = &reactor.net;
    if !net.tokens().is_empty() || net.stats().held != 0 {
        let (tokens, held) = (net.tokens().len(), net.stats().held);
        return Err(format!("{tokens} sockets and {held} bytes are left after the stop"));
    }
    if net.sockets.timers.len() != net.alarms.len() {
        let (timers, alarms) = (net.sockets.timers.len(), net.alarms.len());
        return Err(format!("{timers} timers are left after the stop, and {alarms} are the program's"));
    }
    reactor.app.messages.read_on()?;
    reactor.app.messages.accounted(net)?;
    refused_by_none_but_us(&reactor.app, net)?;
    (0..reactor.app.streams.len()).try_for_each(|index| received_what_was_sent(&reactor.app, index))
}

/// Without a limit, and with memory and descriptors for all, only the program refuses peers.
fn refused_by_none_but_us(app: &App, net: &Net<App>) -> Result<(), String> {
    let refused = net.stats().refused;
    if !app.stormy && app.listening.max_connections.is_none() && refused != app.turned_away {
        return Err(format!("{refused} peers were refused, {} of them by the program", app.turned_away));
    }
    Ok(())
}

fn received_what_was_sent(app: &App, index: usize) -> Result<(), String> {
    let expected = app.expected(index);
    let stream = &app.streams[index];
    let mut peers = app.peers.borrow_mut();
    let party = &mut peers.parties[index];
    let got = party.received();
    expected.is_begun_by(&got)?;
    if let Some(other) = stream.mirror.map(|other| &app.streams[other])
        && [stream, other].iter().all(|end| end.ended.as_deref() == Some("Done"))
        && stream.consumed != other.sent
    {
        return Err(format!("stream {index} is done, and got {} of {} bytes", stream.consumed, other.sent));
    }
    let Some(peer) = party.peer().filter(|_| !party.gone) else { return Ok(()) };
    let (got, all) = (got.len() as u64, expected.len());
    let why = stream.ended.as_deref().unwrap_or("nothing");
    // A pair that the program closes, or the loop's stop, ends in order wherever it is.
    let in_order = stream.relay.is_some() && matches!(why, "Local" | "Stopped");
    // A Unix socket has no way to tell the one from the other.
    let may_look_whole = in_order || app.unix;
    if peer.has_ended() && got < all && stream.ended.is_some() && !may_look_whole {
        return Err(format!("stream {index} ({why}): cut after {got} of {all} bytes, and looks whole to its peer"));
    }
    let whole = all + if stream.opened_at.is_some() { expected.farewell() } else { 0 };
    let alone = stream.relay.is_none();
    match why {
        _ if why.starts_with("Error") => Err(format!("stream {index} ended by {why}, and its peer did nothing wrong")),
        "Done" if got < whole || !peer.has_ended() => {
            Err(format!("stream {index} is done, and its peer got {got} of {whole} bytes"))
        }
        "Done" if alone && stream.consumed != app.readable(index, party.sent) => {
            Err(format!("stream {index} is done, and its handler got {} of {} bytes", stream.consumed, party.sent))
        }
        // A stop cuts the waiting for the peer's end short, and so does a deadline.
        "Local"
            if party.always_read
                && !stream.aborted
                && app.stopped == 1
                && app.quiet
                && got < whole
                && stream.options.close_timeout > Duration::from_secs(1)
                && alone =>
        {
            Err(format!("stream {index} was closed and flushed, and its peer got {got} of {whole} bytes"))
        }
        // Nothing of the peer's was lost by closing, so nothing has made the kernel cut what was under way.
        "Stopped" if alone && party.always_read && stream.silent_after == Some(party.writes) && got < whole => {
            Err(format!("stream {index} was stopped and flushed, and its peer got {got} of {whole} bytes"))
        }
        "Unsent"
            if alone && !app.stormy && unsent_without_need(app, stream, party.always_read, party.surely_reads()) =>
        {
            Err(format!("stream {index} was cut, {got} of {whole} bytes, and its peer would have read all in time"))
        }
        _ => Ok(()),
    }
}

/// A peer that reads everything as it comes would have had all of it long before the deadline.
fn unsent_without_need(app: &App, stream: &Stream, reads: bool, surely_reads: u64) -> bool {
    let timeout = stream.options.close_timeout.min(app.options.stop_timeout);
    reads
        && stream.opened_at.is_some()
        && app.stopped <= 1
        && timeout >= Duration::from_secs(1)
        && stream.sent < surely_reads * (timeout.as_secs() - 1)
}
