//! What one side of a relay sends reaches the other side, whole and in order, whatever the sizes and the pauses.

mod support;

use plimsoll::{BytesMut, Ctx, Handler, ListenOptions, Reactor, RelayOptions, StreamOptions};
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::thread;
use std::time::Duration;
use support::witness::{Record, Witness, reactor, relay};
use support::{accept, address_of, beside, join, pattern, peer, read_all, turn_for, turn_until, upstream};

/// Pieces from one byte to 100 kB, now and then a pause, then the end of this half.
fn write_in_pieces(mut stream: &TcpStream, data: &[u8], seed: u64) {
    let mut rest = data;
    for draw in pattern(2 * data.len() + 8, seed).chunks_exact(8) {
        let draw = u64::from_le_bytes(draw.try_into().expect("eight bytes"));
        // As often short as long.
        let len = (draw >> 8) % (1 << (draw % 18)) + 1;
        let (now, later) = rest.split_at(rest.len().min(len as usize));
        stream.write_all(now).expect("the relay takes it");
        rest = later;
        if rest.is_empty() {
            break;
        }
        if draw % 97 == 0 {
            thread::sleep(Duration::from_millis(1));
        }
    }
    assert!(rest.is_empty());
    stream.shutdown(Shutdown::Write).expect("the half ends");
}

/// Sends one stream and reads the other at the same time, as a peer of a relay may.
fn exchange(stream: TcpStream, ours: u64, theirs: u64) {
    let mut reader = stream.try_clone().expect("a second handle");
    let writer = thread::spawn(move || write_in_pieces(&stream, &data_of(ours), ours));
    let read = read_all(&mut reader);
    writer.join().expect("everything is written");
    assert!(read == data_of(theirs), "stream {theirs}: {} bytes came", read.len());
}

fn data_of(seed: u64) -> Vec<u8> {
    let len = pattern(8, seed ^ 0x55);
    pattern(usize::from(u16::from_le_bytes([len[0], len[1]])) * 12 + 1, seed)
}

#[test]
fn bytes_go_both_ways_at_once_in_random_sizes() {
    const PAIRS: u64 = 24;
    for high_water in [1, 5_000, 64 * 1024] {
        let mut reactor = reactor();
        let (listener, address) = upstream();
        let options = RelayOptions::new().with(|o| {
            o.high_water = high_water;
            o.low_water = high_water / 3;
        });
        let relay = relay(&mut reactor, address, options);
        let servers = beside(move || {
            let serve = |_| {
                let mut stream = accept(&listener);
                let mut id = [0];
                stream.read_exact(&mut id).expect("the client says who it is");
                thread::spawn(move || exchange(stream, 1000 + u64::from(id[0]), u64::from(id[0])))
            };
            let servers: Vec<_> = (0..PAIRS).map(serve).collect();
            servers.into_iter().for_each(|server| server.join().expect("a server gets what its client sent"));
        });
        let clients: Vec<_> = (0..PAIRS)
            .map(|id| {
                beside(move || {
                    let mut stream = peer(relay);
                    stream.write_all(&[id as u8]).expect("written");
                    exchange(stream, id, 1000 + id);
                })
            })
            .collect();
        clients.into_iter().for_each(|client| join(&mut reactor, client));
        join(&mut reactor, servers);
        turn_until(&mut reactor, "both sides of each pair end", |reactor| {
            reactor.app.closed.len() == 2 * PAIRS as usize
        });
        assert!(reactor.app.closed.iter().all(|(_, why)| matches!(why, plimsoll::CloseReason::Done)));
        assert_eq!(reactor.net.stats().held, 0);
    }
}

/// Reads a line by itself, then has the rest relayed.
struct Proxy {
    upstream: std::net::SocketAddr,
    greeting: &'static [u8],
}

impl Handler<Record> for Proxy {
    fn on_data(&mut self, ctx: &mut Ctx<'_, Record>, input: &mut BytesMut) {
        let Some(end) = input.iter().position(|byte| *byte == b'\n') else { return };
        let _ = input.split_to(end + 1);
        ctx.send(self.greeting);
        let other = ctx.connect(self.upstream, Witness);
        ctx.app.pairs.push((ctx.token, other));
        let token = ctx.token;
        assert!(ctx.relay(token, other, RelayOptions::new()));
    }

    fn on_close(&mut self, ctx: &mut Ctx<'_, Record>, why: plimsoll::CloseReason) {
        ctx.app.closed.push((ctx.token, why));
    }
}

#[test]
fn what_a_handler_had_left_unconsumed_and_unsent_goes_first() {
    for len in [1, 3_000, 60_000, 400_000] {
        let mut reactor = reactor();
        let (listener, address) = upstream();
        let proxy = reactor
            .net
            .listen("127.0.0.1:0", move |_, _| Some(Proxy { upstream: address, greeting: b"welcome\n" }))
            .expect("it listens");
        let relay = address_of(&reactor, proxy);
        let server = beside(move || {
            let mut stream = accept(&listener);
            stream.write_all(b"from the upstream").expect("written");
            read_all(&mut stream)
        });
        let client = beside(move || {
            let mut stream = peer(relay);
            stream.write_all(b"CONNECT\n").expect("written");
            stream.write_all(&pattern(len, 9)).expect("written");
            stream.shutdown(Shutdown::Write).expect("the half ends");
            read_all(&mut stream)
        });
        assert!(join(&mut reactor, server) == pattern(len, 9), "the leftover and what came behind it");
        assert_eq!(join(&mut reactor, client), b"welcome\nfrom the upstream");
        turn_until(&mut reactor, "both sides end", |reactor| reactor.app.closed.len() == 2);
        assert_eq!(reactor.net.stats().held, 0);
    }
}

/// Takes nothing until it is told that the peer has ended, and then wants the connection relayed.
struct Late(std::net::SocketAddr);

impl Handler<Record> for Late {
    fn on_data(&mut self, _: &mut Ctx<'_, Record>, _: &mut BytesMut) {}

    fn on_eof(&mut self, ctx: &mut Ctx<'_, Record>, rest: &mut BytesMut) {
        let other = ctx.connect(self.0, Witness);
        ctx.net.send(other, &rest[..]);
        let token = ctx.token;
        assert!(ctx.relay(token, other, RelayOptions::new()));
    }

    fn on_close(&mut self, ctx: &mut Ctx<'_, Record>, why: plimsoll::CloseReason) {
        ctx.app.closed.push((ctx.token, why));
    }
}

#[test]
fn an_end_that_came_before_the_relay_is_carried_too() {
    let mut reactor = reactor();
    let (listener, address) = upstream();
    let late = reactor.net.listen("127.0.0.1:0", move |_, _| Some(Late(address))).expect("it listens");
    let relay = address_of(&reactor, late);
    let server = beside(move || {
        let mut stream = accept(&listener);
        let request = read_all(&mut stream);
        stream.write_all(b"reply").expect("written");
        request
    });
    let client = beside(move || {
        let mut stream = peer(relay);
        stream.write_all(b"request").expect("written");
        stream.shutdown(Shutdown::Write).expect("the half ends");
        read_all(&mut stream)
    });
    assert_eq!(join(&mut reactor, server), b"request");
    assert_eq!(join(&mut reactor, client), b"reply");
    turn_until(&mut reactor, "both sides end", |reactor| reactor.app.closed.len() == 2);
}

/// A relay whose clients have options of their own.
fn relay_to(
    reactor: &mut Reactor<Record>,
    upstream: SocketAddr,
    change: impl FnOnce(&mut StreamOptions),
) -> SocketAddr {
    let options = ListenOptions::new().with(|o| change(&mut o.stream));
    let listener = reactor.net.listen_with("127.0.0.1:0", options, move |ctx, _| {
        let other = ctx.net.connect(upstream, Witness);
        ctx.app.pairs.push((ctx.token, other));
        ctx.net.relay(ctx.token, other, RelayOptions::new()).then_some(Witness)
    });
    address_of(reactor, listener.expect("it listens"))
}

#[test]
fn a_side_is_read_no_more_than_its_budget_in_a_turn() {
    const LEN: usize = 4 << 20;
    for budget in [1, 2] {
        let mut reactor = reactor();
        let (listener, address) = upstream();
        let relay = relay_to(&mut reactor, address, |o| o.read_budget = budget);
        let mut client = peer(relay);
        turn_until(&mut reactor, "the pair is made", |reactor| reactor.app.pairs.len() == 1);
        let mut server = accept(&listener);
        turn_for(&mut reactor, Duration::from_millis(20));
        let writer = beside(move || {
            client.write_all(&pattern(LEN, 5)).expect("the relay takes it");
            client
        });
        let reader = beside(move || {
            let mut all = vec![0; LEN];
            server.read_exact(&mut all).expect("all of it comes");
            assert!(all == pattern(LEN, 5));
            server
        });
        while !reader.is_finished() {
            let before = reactor.net.stats().reads;
            reactor.turn(Some(Duration::from_millis(20))).expect("the loop turns");
            let reads = reactor.net.stats().reads - before;
            assert!(reads <= u64::from(budget), "{reads} reads in a turn");
        }
        let _client = join(&mut reactor, writer);
        let _server = join(&mut reactor, reader);
    }
}

/// The limit bounds what a handler leaves unconsumed; a relay leaves nothing, so a message is not cut at it.
#[test]
fn the_input_limit_cuts_no_message_of_a_relay() {
    let mut reactor = reactor();
    let (listener, address) = upstream();
    let relay = relay_to(&mut reactor, address, |o| o.input_limit = 16);
    let mut client = peer(relay);
    turn_until(&mut reactor, "the pair is made", |reactor| reactor.app.pairs.len() == 1);
    let mut server = accept(&listener);
    turn_for(&mut reactor, Duration::from_millis(20));
    let before = *reactor.net.stats();
    client.write_all(&[7; 1000]).expect("written");
    turn_until(&mut reactor, "it is carried", |reactor| {
        reactor.net.stats().bytes_written - before.bytes_written == 1000
    });
    let after = *reactor.net.stats();
    assert_eq!((after.reads - before.reads, after.writes - before.writes), (1, 1));
    server.read_exact(&mut [0; 1000]).expect("it comes");
}
