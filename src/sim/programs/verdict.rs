//! The verdicts on a whole run: when all has come to rest, and when it is over.

use super::hand::App;
use crate::net::Net;
use crate::reactor::Reactor;

/// Everybody has been reading for longer than any time-out: nothing may still wait.
pub fn at_rest(app: &mut App, net: &mut Net<App>) {
    for index in 0..app.streams.len() {
        if let Some(wrong) = stuck(app, net, index) {
            app.wrong.push(wrong);
            return;
        }
    }
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
        return (waits && stream.ended.is_none()).then(|| format!("stream {index}: nobody accepts its peer"));
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
        return (other_lives && got < expected)
            .then(|| format!("stream {index}: {got} of {expected} bytes were relayed, and nothing moves"));
    }
    (stream.consumed != sent).then(|| {
        format!("stream {index}: {} of {sent} bytes were given to the handler, and nothing comes", stream.consumed)
    })
}

/// The loop has stopped.
pub fn at_the_end(reactor: &mut Reactor<App>) -> Result<(), String> {
    if let Some(life) = reactor.app.lives.iter().position(|life| life.closed != 1) {
        return Err(format!("handler {life} has had {} on_close", reactor.app.lives[life].closed));
    }
    if let Some(stream) = reactor.app.streams.iter().position(|stream| stream.high) {
        return Err(format!("stream {stream}: a High was never answered"));
    }
    if !reactor.net.tokens().is_empty() || reactor.net.stats().held != 0 {
        let (tokens, held) = (reactor.net.tokens().len(), reactor.net.stats().held);
        return Err(format!("{tokens} sockets and {held} bytes are left after the stop"));
    }
    (0..reactor.app.streams.len()).try_for_each(|index| received_what_was_sent(&reactor.app, index))
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
    match why {
        _ if why.starts_with("Error") => Err(format!("stream {index} ended by {why}, and its peer did nothing wrong")),
        "Done" if got < all || !peer.has_ended() => {
            Err(format!("stream {index} is done, and its peer got {got} of {all} bytes"))
        }
        "Done" if stream.relay.is_none() && stream.consumed != party.sent => {
            Err(format!("stream {index} is done, and its handler got {} of {} bytes", stream.consumed, party.sent))
        }
        // A stop cuts the waiting for the peer's end short.
        "Local"
            if party.always_read
                && !stream.aborted
                && app.stopped == 1
                && app.quiet
                && got < all
                && stream.relay.is_none() =>
        {
            Err(format!("stream {index} was closed and flushed, and its peer got {got} of {all} bytes"))
        }
        _ => Ok(()),
    }
}
