//! How one side of a relay ends is how the other side ends: in order half by half, or not in order and seen to be so.

mod support;

use plimsoll::{CloseReason, Reactor, RelayOptions, StreamOptions, Token};
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant};
use support::witness::{Record, Witness, reactor, relay};
use support::{accept, beside, join, pattern, peer, read_all, reset, turn_for, turn_until, upstream};

/// A relay with one pair: the reactor, the client's and the upstream's sockets, and the pair's tokens.
fn pair(options: RelayOptions) -> (Reactor<Record>, TcpStream, TcpStream, Token, Token) {
    let mut reactor = reactor();
    let (listener, address) = upstream();
    let relay = relay(&mut reactor, address, options);
    let client = peer(relay);
    let server = beside(move || accept(&listener));
    let server = join(&mut reactor, server);
    turn_until(&mut reactor, "both sides are open", |reactor| reactor.app.opened.len() == 2);
    let (a, b) = reactor.app.pairs[0];
    (reactor, client, server, a, b)
}

#[track_caller]
fn until_both_end(reactor: &mut Reactor<Record>) {
    turn_until(reactor, "both sides end", |reactor| reactor.app.closed.len() == 2);
    assert_eq!(reactor.net.stats().held, 0);
    assert!(reactor.net.tokens().is_empty());
}

/// What a peer reads next, while the loop turns.
fn read_one(reactor: &mut Reactor<Record>, stream: &TcpStream) -> Result<usize, ErrorKind> {
    let mut stream = stream.try_clone().expect("a second handle");
    let read = beside(move || stream.read(&mut [0; 1]).map_err(|e| e.kind()));
    join(reactor, read)
}

#[test]
fn the_clients_fin_is_carried_and_the_reply_still_comes() {
    let (mut reactor, mut client, mut server, a, b) = pair(RelayOptions::new());
    let reply = pattern(2_000_000, 3);
    let expected = reply.clone();
    client.write_all(b"request").expect("written");
    client.shutdown(Shutdown::Write).expect("the half ends");
    let server = beside(move || {
        assert_eq!(read_all(&mut server), b"request");
        server
    });
    let mut server = join(&mut reactor, server);
    turn_for(&mut reactor, Duration::from_millis(20));
    assert!(reactor.app.closed.is_empty(), "one half has ended, not the pair: {:?}", reactor.app.closed);
    let server = beside(move || server.write_all(&reply).expect("written"));
    let client = beside(move || read_all(&mut client));
    join(&mut reactor, server);
    assert!(join(&mut reactor, client) == expected);
    until_both_end(&mut reactor);
    for token in [a, b] {
        assert!(matches!(reactor.app.why(token), Some(CloseReason::Done)));
    }
}

#[test]
fn the_upstreams_fin_is_carried_and_the_client_goes_on() {
    let (mut reactor, mut client, server, a, b) = pair(RelayOptions::new());
    server.shutdown(Shutdown::Write).expect("the half ends");
    assert_eq!(read_one(&mut reactor, &client), Ok(0));
    let data = pattern(2_000_000, 4);
    let expected = data.clone();
    let client = beside(move || {
        client.write_all(&data).expect("written");
        client
    });
    let server = beside(move || read_all(&mut { server }));
    drop(join(&mut reactor, client));
    assert!(join(&mut reactor, server) == expected);
    until_both_end(&mut reactor);
    for token in [a, b] {
        assert!(matches!(reactor.app.why(token), Some(CloseReason::Done)));
    }
}

#[test]
fn a_fin_waits_behind_what_is_queued() {
    let (mut reactor, mut client, mut server, ..) = pair(RelayOptions::new().with(|o| o.high_water = 16 << 20));
    // Nobody reads yet, so most of this is queued when the end comes.
    let data = pattern(12 << 20, 5);
    let expected = data.clone();
    let client = beside(move || {
        client.write_all(&data).expect("written");
        client.shutdown(Shutdown::Write).expect("the half ends");
        client
    });
    let client = join(&mut reactor, client);
    turn_for(&mut reactor, Duration::from_millis(20));
    let server = beside(move || read_all(&mut server));
    assert!(join(&mut reactor, server) == expected);
    drop(client);
    until_both_end(&mut reactor);
}

#[test]
fn an_rst_of_the_client_is_an_rst_at_the_upstream() {
    let (mut reactor, client, server, a, b) = pair(RelayOptions::new());
    reset(client);
    assert_eq!(read_one(&mut reactor, &server), Err(ErrorKind::ConnectionReset));
    until_both_end(&mut reactor);
    assert!(matches!(reactor.app.why(a), Some(CloseReason::Error(e)) if e.kind() == ErrorKind::ConnectionReset));
    assert!(matches!(reactor.app.why(b), Some(CloseReason::Relay)));
}

#[test]
fn an_rst_of_the_upstream_is_an_rst_at_the_client() {
    let (mut reactor, client, server, a, b) = pair(RelayOptions::new());
    reset(server);
    assert_eq!(read_one(&mut reactor, &client), Err(ErrorKind::ConnectionReset));
    until_both_end(&mut reactor);
    assert!(matches!(reactor.app.why(b), Some(CloseReason::Error(e)) if e.kind() == ErrorKind::ConnectionReset));
    assert!(matches!(reactor.app.why(a), Some(CloseReason::Relay)));
}

/// After the client's end no read of its side is left to tell that it has gone altogether.
#[test]
fn an_rst_behind_an_end_is_an_rst_at_the_other_side() {
    let (mut reactor, client, mut server, a, b) = pair(RelayOptions::new());
    client.shutdown(Shutdown::Write).expect("the half ends");
    let server = beside(move || {
        assert_eq!(read_all(&mut server), b"");
        server
    });
    let _server = join(&mut reactor, server);
    reset(client);
    until_both_end(&mut reactor);
    assert!(matches!(reactor.app.why(a), Some(CloseReason::Error(_))));
    assert!(matches!(reactor.app.why(b), Some(CloseReason::Relay)));
}

/// The side that is not read, because the other is slow, hears of its peer's RST all the same.
#[test]
fn an_rst_is_carried_while_the_other_side_is_stuck() {
    let (mut reactor, mut client, server, a, b) = pair(RelayOptions::new());
    client.set_write_timeout(Some(Duration::from_millis(200))).expect("a time-out");
    let client = beside(move || {
        let data = vec![7; 64 << 20];
        client.write_all(&data).expect_err("nobody reads");
        client
    });
    let client = join(&mut reactor, client);
    assert!(reactor.net.queued(b) > 0);
    reset(client);
    until_both_end(&mut reactor);
    assert!(matches!(reactor.app.why(a), Some(CloseReason::Error(_) | CloseReason::ErrorUnread(_))));
    assert!(matches!(reactor.app.why(b), Some(CloseReason::Relay)));
    // What the kernel had may be read; then comes the RST and never an end that looks whole.
    let server = beside(move || std::io::copy(&mut { server }, &mut std::io::sink()).map_err(|e| e.kind()));
    assert_eq!(join(&mut reactor, server), Err(ErrorKind::ConnectionReset));
}

#[test]
fn abort_of_one_side_is_an_rst_at_both() {
    let (mut reactor, client, server, a, b) = pair(RelayOptions::new());
    reactor.net.abort(b);
    assert_eq!(read_one(&mut reactor, &client), Err(ErrorKind::ConnectionReset));
    assert_eq!(read_one(&mut reactor, &server), Err(ErrorKind::ConnectionReset));
    until_both_end(&mut reactor);
    assert!(matches!(reactor.app.why(b), Some(CloseReason::Aborted)));
    assert!(matches!(reactor.app.why(a), Some(CloseReason::Relay)));
}

#[test]
fn close_of_one_side_flushes_and_ends_both_in_order() {
    let (mut reactor, mut client, mut server, a, b) = pair(RelayOptions::new().with(|o| o.high_water = 16 << 20));
    let data = pattern(12 << 20, 6);
    let expected = data.clone();
    let server_writes = beside(move || {
        server.write_all(&data).expect("written");
        server
    });
    let mut server = join(&mut reactor, server_writes);
    turn_until(&mut reactor, "everything is read", |reactor| reactor.net.stats().bytes_read == 12 << 20);
    assert!(reactor.net.queued(a) > 0);
    reactor.net.close(a);
    let client = beside(move || read_all(&mut client));
    assert!(join(&mut reactor, client) == expected);
    let server = beside(move || read_all(&mut server));
    assert_eq!(join(&mut reactor, server), b"");
    until_both_end(&mut reactor);
    for token in [a, b] {
        assert!(matches!(reactor.app.why(token), Some(CloseReason::Local)), "{:?}", reactor.app.why(token));
    }
}

/// Bytes that come after `close` are not the closed side's to send, or a busy sender could keep it from ending.
#[test]
fn close_of_one_side_ends_it_although_the_other_goes_on_sending() {
    let options = RelayOptions::new().with(|o| {
        o.high_water = 4 << 20;
        o.low_water = 3 << 20;
    });
    let (mut reactor, client, mut server, a, b) = pair(options);
    let server = beside(move || {
        let chunk = [1; 64 * 1024];
        while server.write_all(&chunk).is_ok() {}
    });
    turn_until(&mut reactor, "the client's side is stuck", |reactor| reactor.net.queued(a) > 4 << 20);
    reactor.net.close(a);
    let closed = Instant::now();
    let client = beside(move || {
        // Slower than the server sends: if that went on filling the queue, it would never be empty.
        let (mut client, mut buffer) = (client, vec![0; 64 * 1024]);
        loop {
            match client.read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(_) => std::thread::sleep(Duration::from_millis(1)),
                Err(e) => return Err(e.kind()),
            }
        }
    });
    let read = join(&mut reactor, client);
    assert!(read.is_ok(), "the end comes in order: {read:?}");
    until_both_end(&mut reactor);
    assert!(closed.elapsed() < Duration::from_secs(3), "not by the deadline: {:?}", closed.elapsed());
    assert!(matches!(reactor.app.why(a), Some(CloseReason::Local)), "{:?}", reactor.app.why(a));
    assert!(matches!(reactor.app.why(b), Some(CloseReason::Local)), "{:?}", reactor.app.why(b));
    join(&mut reactor, server);
}

#[test]
fn detach_of_one_side_gives_it_away_whole_and_closes_the_other() {
    let (mut reactor, mut client, mut server, a, b) = pair(RelayOptions::new());
    server.write_all(b"for the client").expect("written");
    turn_until(&mut reactor, "it is carried", |reactor| reactor.net.stats().bytes_written == 14);
    let detached = reactor.net.detach(a).expect("an open connection");
    assert!(detached.unread.is_empty() && detached.unsent.is_empty() && !detached.ended);
    let mut stream = TcpStream::from(detached.fd.into_owned());
    assert_eq!(read_one(&mut reactor, &server), Ok(0), "the other side is closed");
    drop(server);
    until_both_end(&mut reactor);
    assert!(matches!(reactor.app.why(a), Some(CloseReason::Detached)));
    assert!(matches!(reactor.app.why(b), Some(CloseReason::Local)));
    stream.write_all(b", by hand").expect("it is alive");
    drop(stream);
    assert_eq!(read_all(&mut client), b"for the client, by hand");
}

#[test]
fn stop_ends_a_relay_with_what_is_queued_sent() {
    let (mut reactor, mut client, mut server, a, b) = pair(RelayOptions::new().with(|o| o.high_water = 16 << 20));
    let data = pattern(12 << 20, 6);
    let expected = data.clone();
    let server = beside(move || {
        server.write_all(&data).expect("written");
        server
    });
    let server = join(&mut reactor, server);
    turn_until(&mut reactor, "everything is read", |reactor| reactor.net.stats().bytes_read == 12 << 20);
    assert!(reactor.net.queued(a) > 0);
    reactor.net.stop();
    let client = beside(move || read_all(&mut client));
    reactor.run().expect("it stops");
    assert!(join(&mut reactor, client) == expected);
    for token in [a, b] {
        assert!(matches!(reactor.app.why(token), Some(CloseReason::Stopped)));
    }
    drop(server);
}

#[test]
fn an_upstream_that_refuses_costs_the_client_its_connection_at_once() {
    let (listener, address) = upstream();
    drop(listener);
    let mut reactor = reactor();
    let relay = relay(&mut reactor, address, RelayOptions::new());
    let client = peer(relay);
    let start = Instant::now();
    assert_eq!(read_one(&mut reactor, &client), Err(ErrorKind::ConnectionReset));
    let timeout = StreamOptions::new().connect_timeout;
    assert!(start.elapsed() < timeout, "not by the time-out: {:?}", start.elapsed());
    until_both_end(&mut reactor);
    let (a, b) = reactor.app.pairs[0];
    assert_eq!(reactor.app.connect_error(b), Some(ErrorKind::ConnectionRefused));
    assert!(matches!(reactor.app.why(a), Some(CloseReason::Relay)));
}

#[test]
fn an_upstream_that_fails_before_the_relay_begins_costs_the_client_its_connection_too() {
    let mut reactor = reactor();
    let relay = relay(&mut reactor, "unix:@nobody-listens-here-7a1", RelayOptions::new());
    let client = peer(relay);
    assert_eq!(read_one(&mut reactor, &client), Ok(0));
    turn_until(&mut reactor, "the upstream's end", |reactor| reactor.app.closed.len() == 1);
    let (a, b) = reactor.app.pairs[0];
    assert_eq!(reactor.app.connect_error(b), Some(ErrorKind::ConnectionRefused));
    assert!(reactor.app.why(a).is_none(), "the factory refused it, so it never had a handler");
}

#[test]
fn a_client_that_goes_while_the_upstream_is_being_reached_takes_the_attempt_with_it() {
    // A listener whose backlog is full leaves the attempt pending for as long as we like.
    let (full, address) = support::full_listener();
    let mut reactor = reactor();
    let relay = relay(&mut reactor, address, RelayOptions::new());
    let client = peer(relay);
    turn_until(&mut reactor, "the pair is made", |reactor| reactor.app.pairs.len() == 1);
    reset(client);
    until_both_end(&mut reactor);
    let (a, b) = reactor.app.pairs[0];
    assert!(matches!(reactor.app.why(a), Some(CloseReason::Error(_))));
    assert!(matches!(reactor.app.why(b), Some(CloseReason::Relay)));
    drop(full);
}

#[test]
fn a_pair_shares_one_idle_clock() {
    const IDLE: Duration = Duration::from_millis(300);
    let (mut reactor, mut client, mut server, a, b) = pair(RelayOptions::new().with(|o| o.idle_timeout = Some(IDLE)));
    // Bytes move in one direction only, and yet neither side is idle.
    let start = Instant::now();
    while start.elapsed() < 2 * IDLE {
        client.write_all(b"x").expect("written");
        turn_for(&mut reactor, IDLE / 5);
        server.read_exact(&mut [0]).expect("carried");
        assert!(reactor.app.closed.is_empty(), "{:?}", reactor.app.closed);
    }
    let silent = Instant::now();
    until_both_end(&mut reactor);
    assert!(silent.elapsed() >= IDLE / 2, "{:?}", silent.elapsed());
    for token in [a, b] {
        assert!(matches!(reactor.app.why(token), Some(CloseReason::Idle)));
    }
    // Neither stream had ended, so neither may look whole.
    assert_eq!(read_one(&mut reactor, &client), Err(ErrorKind::ConnectionReset));
    assert_eq!(read_one(&mut reactor, &server), Err(ErrorKind::ConnectionReset));
}

/// A half that was carried to its end is whole; only the other one was cut.
#[test]
fn an_idle_pair_is_cut_only_where_its_stream_had_not_ended() {
    let idle = RelayOptions::new().with(|o| o.idle_timeout = Some(Duration::from_millis(200)));
    let (mut reactor, client, server, a, _) = pair(idle);
    client.shutdown(Shutdown::Write).expect("the half ends");
    assert_eq!(read_one(&mut reactor, &server), Ok(0));
    until_both_end(&mut reactor);
    assert!(matches!(reactor.app.why(a), Some(CloseReason::Idle)));
    assert_eq!(read_one(&mut reactor, &client), Err(ErrorKind::ConnectionReset));
}

/// All is read from one side, and the other is still busy with it.
#[test]
fn a_side_with_nothing_to_do_is_not_idle_while_the_other_moves() {
    const IDLE: Duration = Duration::from_millis(300);
    const LEN: usize = 12 << 20;
    let options = RelayOptions::new().with(|o| {
        o.high_water = 2 * LEN;
        o.idle_timeout = Some(IDLE);
    });
    // Made before the pair is, which would be idle meanwhile.
    let sent = pattern(LEN, 7);
    let written = sent.clone();
    let (mut reactor, mut client, mut server, ..) = pair(options);
    let client = beside(move || {
        client.write_all(&written).expect("written");
        client
    });
    let client = join(&mut reactor, client);
    let start = Instant::now();
    let mut read = vec![0; LEN];
    for piece in read.chunks_mut(LEN / 24) {
        turn_for(&mut reactor, IDLE / 10);
        server.read_exact(piece).expect("it comes");
    }
    assert!(start.elapsed() > 2 * IDLE, "quicker than it was meant to be: nothing is shown");
    assert!(read == sent);
    drop(client);
}

#[test]
fn only_two_live_connections_that_are_not_joined_can_be_joined() {
    let (mut reactor, _client, _server, a, b) = pair(RelayOptions::new());
    let (listener, address) = upstream();
    let free = reactor.net.connect(address, Witness);
    let closed = reactor.net.connect(address, Witness);
    reactor.net.close(closed);
    let joined = [(a, b), (b, a), (a, free), (free, b), (free, free), (free, closed), (closed, free)]
        .map(|(one, other)| reactor.net.relay(one, other, RelayOptions::new()));
    assert_eq!(joined, [false; 7]);
    turn_until(&mut reactor, "the third is open", |reactor| reactor.app.opened.contains(&free));
    let _peer = accept(&listener);
    turn_until(&mut reactor, "the closed one ends", |reactor| reactor.app.why(closed).is_some());
    assert!(!reactor.net.relay(free, closed, RelayOptions::new()), "stale");
    assert!(reactor.app.why(a).is_none() && reactor.app.why(b).is_none());
}
