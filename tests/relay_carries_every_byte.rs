//! What one side of a relay sends reaches the other side, whole and in order, whatever the sizes and the pauses.

mod support;

use plimsoll::{BytesMut, Ctx, Handler, RelayOptions};
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::thread;
use std::time::Duration;
use support::witness::{Record, Witness, reactor, relay};
use support::{accept, address_of, beside, join, pattern, peer, read_all, turn_until, upstream};

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
