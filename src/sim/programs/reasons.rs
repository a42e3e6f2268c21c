//! Why connections end: whether the reason that is told can be the reason.
//!
//! A reason is a claim about the past: so much was queued, nothing has moved for so long, somebody has asked for it.
//! The program knows what it asked for, and the simulated kernel what has moved; nothing is taken on the library's
//! word.

use super::acts::Place;
use super::app::{App, Stream};
use super::dials;
use super::hand::{Hand, LATE};
use super::mask::FAREWELL;
use super::probe::{MS, Probe, now, probe};
use crate::connection::Connection;
use crate::handler::CloseReason;
use crate::net::Net;
use crate::token::Token;
use std::io::ErrorKind;
use std::time::Duration;

/// The loop reads the clock once a turn, so that it may take for earlier what has happened in a turn.
const EARLY: u64 = 5 * MS;

/// A handler hears that its connection is over.
pub fn closed(app: &mut App, net: &Net<App>, hand: &Hand, token: Token, why: &CloseReason) {
    let life = &app.lives[hand.life];
    if life.accepted {
        app.inside -= 1;
    }
    if let Some(dial) = life.dial {
        dials::ended(app, dial);
    }
    let known = probe(net, token);
    let claim = claim_of(app, net, hand, token, why);
    if let Err(wrong) = claim {
        app.wrong(format!("stream {}: on_close({why:?}): {wrong}", hand.stream));
    }
    if app.streams[hand.stream].token == Some(token) {
        let peers = std::rc::Rc::clone(&app.peers);
        let party = &mut peers.borrow_mut().parties[hand.stream];
        let silent = party.under_way() == 0 && known.is_some_and(|known| known.unread == 0);
        app.streams[hand.stream].silent_after = silent.then_some(party.writes);
    }
}

fn claim_of(app: &App, net: &Net<App>, hand: &Hand, token: Token, why: &CloseReason) -> Result<(), String> {
    let stream = &app.streams[hand.stream];
    if stream.token != Some(token) || matches!(why, CloseReason::Detached) {
        let detached = stream.token != Some(token) && matches!(why, CloseReason::Detached) || stream.aborted;
        return hold(detached, "it is the former connection that was detached");
    }
    let Some(known) = probe(net, token) else {
        return hold(stream.opened_at.is_none(), "it was open, and has no descriptor");
    };
    let relayed = stream.relay.is_some();
    let farewell = if stream.opened_at.is_some() { app.expected(hand.stream).farewell() } else { 0 };
    let queued = (stream.sent + farewell).saturating_sub(known.taken);
    if why.is_orderly() && !relayed {
        hold(queued == 0 && known.taken <= stream.at_most + farewell, "what was sent is not with the kernel")?;
    }
    let options = &stream.options;
    match why {
        CloseReason::Done => {
            hold(relayed || stream.eof && stream.shut, "both halves have not ended")?;
        }
        CloseReason::Local => hold(relayed || stream.closed_at.is_some(), "nobody has closed it")?,
        CloseReason::Aborted => hold(stream.aborted, "nobody has aborted it")?,
        CloseReason::Relay => hold(relayed, "it is not relayed")?,
        CloseReason::Stopped => hold(app.stopped > 0, "nobody has stopped the loop")?,
        CloseReason::Memory => memory(app, net, stream, known)?,
        CloseReason::Overflow => {
            let unsent = stream.at_most.saturating_sub(known.taken);
            hold(!relayed && unsent > options.hard_limit as u64, &format!("{unsent} bytes are queued"))?;
        }
        CloseReason::InputLimit => {
            let unread = known.read.saturating_sub(stream.consumed);
            hold(relayed || unread > options.input_limit as u64, &format!("{unread} bytes are unread"))?;
        }
        CloseReason::Idle => idle(app, stream, known)?,
        CloseReason::Stalled => {
            hold(relayed || queued > 0, "nothing is queued")?;
            let since = known.taken_at.max(stream.waits_since).max(stream.opened_at.unwrap_or(0));
            // A stop has the filter say its farewell, of which the program is not told when.
            let on_time = !relayed && (stream.masked.is_none() || app.stopped == 0);
            within(options.stalled_timeout, since, since.max(stream.changed_at), on_time)?;
        }
        CloseReason::Unsent => unsent(app, stream, queued)?,
        CloseReason::Connect(e) => connect(app, hand.stream, e.kind())?,
        CloseReason::ErrorUnread(_) => hold(relayed || stream.paused, "nobody has paused it")?,
        CloseReason::Error(_) => {
            // What is unread of one that is closed or stopped, the handler was not to have.
            let reads = !relayed && stream.closed_at.is_none() && app.stopped == 0;
            hold(!reads || known.unread == 0, &format!("{} bytes could still be read", known.unread))?;
        }
        CloseReason::Detached => {}
    }
    Ok(())
}

/// Nobody who is left holds more than it did.
fn memory(app: &App, net: &Net<App>, stream: &Stream, known: Probe) -> Result<(), String> {
    hold(app.options.memory_budget.is_some(), "there is no budget")?;
    if stream.relay.is_some() {
        return Ok(());
    }
    let unsent = stream.at_most.max(stream.sent).saturating_sub(known.taken) + FAREWELL.len() as u64;
    let held = unsent + known.read.saturating_sub(stream.consumed);
    let left = net.tokens().iter().filter_map(|token| net.sockets.connection(*token)).map(Connection::held).max();
    let left = left.unwrap_or(0) as u64;
    hold(left <= held, &format!("it held {held} bytes at most, and another holds {left}"))
}

fn hold(is_so: bool, what: &str) -> Result<(), String> {
    if is_so { Ok(()) } else { Err(what.to_owned()) }
}

/// Whether a time-out that has run since some time is due just now.
fn within(timeout: Option<Duration>, since: u64, latest: u64, on_time: bool) -> Result<(), String> {
    let Some(timeout) = timeout else { return Err("no such time-out was set".to_owned()) };
    let (timeout, now) = (timeout.as_nanos() as u64, now());
    let waited = now.saturating_sub(since);
    hold(waited + EARLY >= timeout, &format!("after {waited} ns of {timeout}"))?;
    let late = now.saturating_sub(latest) > timeout + LATE.as_nanos() as u64;
    hold(!late || !on_time, &format!("late, after {waited} ns of {timeout}"))
}

/// When a byte last moved on a connection.
pub fn moved_at(stream: &Stream, known: Probe) -> u64 {
    known.moved_at.max(stream.opened_at.unwrap_or(0))
}

fn idle(app: &App, stream: &Stream, known: Probe) -> Result<(), String> {
    let moved = moved_at(stream, known);
    let Some((other, _)) = stream.relay else {
        return within(stream.options.idle_timeout, moved, moved.max(stream.changed_at), true);
    };
    // One clock for both, and each has a time of its own.
    let either = [stream, &app.streams[other]].iter().filter_map(|side| side.options.idle_timeout).min();
    within(either, moved, moved, false)
}

fn unsent(app: &App, stream: &Stream, queued: u64) -> Result<(), String> {
    if stream.relay.is_some() || stream.opened_at.is_none() {
        return Ok(());
    }
    hold(queued > 0, "all is with the kernel")?;
    let passed = |since: u64, timeout: Duration| now().saturating_sub(since) + EARLY >= timeout.as_nanos() as u64;
    let closed = stream.closed_at.is_some_and(|at| passed(at, stream.options.close_timeout));
    let stopped = app.stopped > 0 && passed(app.stopped_at, app.options.stop_timeout);
    hold(closed || stopped || app.stopped > 1, "its time is not over")
}

fn connect(app: &App, index: usize, kind: ErrorKind) -> Result<(), String> {
    let stream = &app.streams[index];
    hold(stream.opened_at.is_none(), "it was open")?;
    if app.stormy {
        return Ok(());
    }
    match stream.place {
        None => Err("it was accepted".to_owned()),
        Some(Place::Server) => hold(app.peers.borrow().parties[index].gone, "somebody listens there"),
        Some(Place::Nobody) => hold(kind == ErrorKind::ConnectionRefused, "nobody listens there"),
        Some(Place::Silence) => {
            hold(kind == ErrorKind::TimedOut, "nobody answers there")?;
            within(Some(stream.options.connect_timeout), stream.begun_at, stream.begun_at, true)
        }
        // The listener may be gone, or at its limit and refuse.
        Some(Place::Own) => Ok(()),
    }
}
