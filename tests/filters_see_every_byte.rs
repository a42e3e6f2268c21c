//! Whatever goes over a connection with a filter goes through the filter, whoever sends it and whenever it was set.

mod support;

use plimsoll::{BytesMut, CloseReason, Ctx, Filter, Flow, Handler, Reactor, RelayOptions, Token};
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;
use support::witness::{Record, Witness, reactor};
use support::{accept, address_of, beside, join, pattern, peer, read_all, turn_for, turn_until, upstream};

/// Byte for byte: the stream has no structure, so nothing is ever left over.
struct Xor(u8);

impl Xor {
    fn apply(&self, bytes: &[u8]) -> Vec<u8> {
        bytes.iter().map(|byte| byte ^ self.0).collect()
    }
}

impl Filter for Xor {
    fn decode(&mut self, wire: &mut BytesMut, plain: &mut BytesMut, _: &mut BytesMut) -> io::Result<()> {
        plain.extend_from_slice(&self.apply(wire));
        wire.clear();
        Ok(())
    }

    fn encode(&mut self, plain: &[u8], wire: &mut BytesMut) -> io::Result<()> {
        wire.extend_from_slice(&self.apply(plain));
        Ok(())
    }
}

/// A toy of TLS's shape: records of `length u16, kind u8, bytes`, a hello that must be answered before anything can be
/// sent, pings answered by the filter itself, and a farewell without which the stream counts as cut.
#[derive(Default)]
struct Records {
    greeted: bool,
    ended: bool,
    /// Sent before the hello has come.
    early: Vec<u8>,
}

const HELLO: u8 = 0;
const DATA: u8 = 1;
const PING: u8 = 2;
const PONG: u8 = 3;
const FAREWELL: u8 = 4;

fn record(kind: u8, bytes: &[u8]) -> Vec<u8> {
    let mut record = (bytes.len() as u16).to_be_bytes().to_vec();
    record.push(kind);
    record.extend(bytes.iter().map(|byte| !byte));
    record
}

fn records(bytes: &[u8]) -> Vec<u8> {
    bytes.chunks(1_000).flat_map(|chunk| record(DATA, chunk)).collect()
}

impl Filter for Records {
    fn decode(&mut self, wire: &mut BytesMut, plain: &mut BytesMut, reply: &mut BytesMut) -> io::Result<()> {
        while let [high, low, kind, ..] = wire[..] {
            let len = usize::from(u16::from_be_bytes([high, low]));
            if wire.len() < 3 + len {
                break;
            }
            let taken = wire.split_to(3 + len);
            let bytes: Vec<u8> = taken[3..].iter().map(|byte| !byte).collect();
            match kind {
                HELLO => {
                    self.greeted = true;
                    reply.extend_from_slice(&record(HELLO, b""));
                    reply.extend_from_slice(&records(&std::mem::take(&mut self.early)));
                }
                DATA => plain.extend_from_slice(&bytes),
                PING => reply.extend_from_slice(&record(PONG, &bytes)),
                FAREWELL => self.ended = true,
                _ => return Err(ErrorKind::InvalidData.into()),
            }
        }
        Ok(())
    }

    fn encode(&mut self, plain: &[u8], wire: &mut BytesMut) -> io::Result<()> {
        if self.greeted {
            wire.extend_from_slice(&records(plain));
        } else {
            self.early.extend_from_slice(plain);
        }
        Ok(())
    }

    fn finish(&mut self, wire: &mut BytesMut) -> io::Result<()> {
        wire.extend_from_slice(&record(FAREWELL, b""));
        Ok(())
    }

    fn end(&mut self, wire: &[u8]) -> io::Result<()> {
        if self.ended && wire.is_empty() { Ok(()) } else { Err(ErrorKind::UnexpectedEof.into()) }
    }
}

/// What the peer of a `Records` connection has to say around `data`.
fn spoken(data: &[u8]) -> Vec<u8> {
    [record(HELLO, b""), records(data), record(FAREWELL, b"")].concat()
}

/// The data and the farewells in what a `Records` connection has sent.
fn heard(mut wire: &[u8]) -> (Vec<u8>, usize) {
    let (mut data, mut farewells) = (Vec::new(), 0);
    while let [high, low, kind, rest @ ..] = wire {
        let len = usize::from(u16::from_be_bytes([*high, *low]));
        assert_eq!(farewells, 0, "nothing comes behind the farewell");
        match *kind {
            DATA => data.extend(rest[..len].iter().map(|byte| !byte)),
            FAREWELL => farewells += 1,
            _ => {}
        }
        wire = &rest[len..];
    }
    assert!(wire.is_empty());
    (data, farewells)
}

/// Echoes through a filter that it sets when it opens.
struct Echo<F: FnMut() -> X, X: Filter>(F);

impl<F: FnMut() -> X + 'static, X: Filter + 'static> Handler<Record> for Echo<F, X> {
    fn on_open(&mut self, ctx: &mut Ctx<'_, Record>) {
        ctx.app.opened.push(ctx.token);
        let token = ctx.token;
        assert!(ctx.filter(token, (self.0)()));
        assert!(!ctx.filter(token, (self.0)()), "one filter to a connection");
    }
    fn on_data(&mut self, ctx: &mut Ctx<'_, Record>, input: &mut BytesMut) {
        ctx.app.input.entry(ctx.token).or_default().extend_from_slice(input);
        ctx.send(&input[..]);
        input.clear();
    }
    fn on_close(&mut self, ctx: &mut Ctx<'_, Record>, why: CloseReason) {
        ctx.app.closed.push((ctx.token, why));
    }
}

fn echo<X: Filter + 'static>(reactor: &mut Reactor<Record>, filter: fn() -> X) -> TcpStream {
    let listener = reactor.net.listen("127.0.0.1:0", move |_, _| Some(Echo(filter))).expect("it listens");
    let peer = peer(address_of(reactor, listener));
    turn_until(reactor, "it is open", |reactor| !reactor.app.opened.is_empty());
    peer
}

/// Sends `data` in odd pieces beside reading everything.
fn exchange(stream: TcpStream, data: Vec<u8>) -> Vec<u8> {
    let mut writer = stream.try_clone().expect("a second handle");
    let writer = beside(move || {
        for piece in data.chunks(777) {
            writer.write_all(piece).expect("written");
        }
        writer.shutdown(Shutdown::Write).expect("the half ends");
    });
    let all = read_all(&mut { stream });
    writer.join().expect("everything is written");
    all
}

#[track_caller]
fn until_it_ends(reactor: &mut Reactor<Record>) -> CloseReason {
    turn_until(reactor, "it ends", |reactor| !reactor.app.closed.is_empty());
    turn_for(reactor, Duration::from_millis(2));
    assert_eq!(reactor.net.stats().held, 0);
    let (_, why) = reactor.app.closed.remove(0);
    assert!(reactor.app.closed.is_empty(), "once");
    why
}

#[test]
fn an_echo_under_a_bytewise_filter_reads_and_writes_through_it() {
    let mut reactor = reactor();
    let stream = echo(&mut reactor, || Xor(0x5a));
    let wire = Xor(0x5a).apply(&pattern(3_000_000, 1));
    let peer = {
        let wire = wire.clone();
        beside(move || exchange(stream, wire))
    };
    assert!(join(&mut reactor, peer) == wire);
    assert!(matches!(until_it_ends(&mut reactor), CloseReason::Done));
    assert!(reactor.app.input_of(reactor.app.opened[0]) == pattern(3_000_000, 1));
}

#[test]
fn an_echo_under_a_filter_of_records_has_whole_records_replies_and_one_farewell_before_the_fin() {
    let mut reactor = reactor();
    let stream = echo(&mut reactor, Records::default);
    let peer = beside(move || exchange(stream, spoken(&pattern(1_000_000, 2))));
    let (data, farewells) = heard(&join(&mut reactor, peer));
    assert!(data == pattern(1_000_000, 2));
    assert_eq!(farewells, 1);
    assert!(matches!(until_it_ends(&mut reactor), CloseReason::Done));
}

#[test]
fn the_filter_answers_by_itself_and_keeps_what_it_cannot_send_yet() {
    let mut reactor = reactor();
    let mut stream = echo(&mut reactor, Records::default);
    let token = reactor.app.opened[0];
    assert_eq!(reactor.net.send(token, b"early"), Flow::Open);
    turn_for(&mut reactor, Duration::from_millis(5));
    assert_eq!(reactor.net.queued(token), 0, "it waits in the filter");
    stream.write_all(&record(PING, b"are you there?")).expect("written");
    stream.write_all(&record(HELLO, b"")).expect("written");
    let expected = [record(PONG, b"are you there?"), record(HELLO, b""), record(DATA, b"early")].concat();
    let read = beside(move || {
        let mut answer = vec![0; expected.len()];
        stream.read_exact(&mut answer).expect("the answer");
        assert_eq!(answer, expected);
        stream
    });
    let stream = join(&mut reactor, read);
    assert!(reactor.app.input.is_empty(), "the handler has heard nothing of it");
    drop(stream);
}

/// A line in clear, and from then on under a filter: what came in the same read behind the line is the filter's.
struct StartTls;

impl Handler<Record> for StartTls {
    fn on_data(&mut self, ctx: &mut Ctx<'_, Record>, input: &mut BytesMut) {
        let token = ctx.token;
        match ctx.app.opened.contains(&token) {
            true => {
                ctx.app.input.entry(token).or_default().extend_from_slice(input);
                ctx.send(&input[..]);
                input.clear();
            }
            false => {
                let Some(end) = input.iter().position(|byte| *byte == b'\n') else { return };
                assert_eq!(&input.split_to(end + 1)[..], b"STARTTLS\n");
                ctx.send(b"go on\n");
                ctx.app.opened.push(token);
                assert!(ctx.filter(token, Records::default()));
                ctx.send(b"welcome");
            }
        }
    }
    fn on_close(&mut self, ctx: &mut Ctx<'_, Record>, why: CloseReason) {
        ctx.app.closed.push((ctx.token, why));
    }
}

#[test]
fn a_filter_set_in_the_middle_of_a_stream_takes_over_at_the_byte() {
    let data = pattern(20_000, 3);
    let wire = [b"STARTTLS\n".to_vec(), spoken(&data)].concat();
    // The whole at once, byte by byte, and cuts around the places where one thing ends and the next begins.
    for first in [wire.len(), 0, 8, 9, 10, 12, 13, 500] {
        let mut reactor = reactor();
        let listener = reactor.net.listen("127.0.0.1:0", |_, _| Some(StartTls)).expect("it listens");
        let mut stream = peer(address_of(&reactor, listener));
        let wire = wire.clone();
        let peer = beside(move || {
            stream.write_all(&wire[..first]).expect("written");
            let pieces = if first == 0 { 1 } else { 5_000 };
            for piece in wire[first..].chunks(pieces) {
                stream.write_all(piece).expect("written");
            }
            stream.shutdown(Shutdown::Write).expect("the half ends");
            read_all(&mut stream)
        });
        let answer = join(&mut reactor, peer);
        let (clear, under) = answer.split_at(6);
        assert_eq!(clear, b"go on\n");
        let (heard, farewells) = heard(under);
        assert!(heard == [b"welcome", &data[..]].concat(), "cut at {first}");
        assert_eq!(farewells, 1);
        assert!(matches!(until_it_ends(&mut reactor), CloseReason::Done));
    }
}

#[test]
fn what_other_connections_send_goes_through_it_too() {
    let mut reactor = reactor();
    let mut stream = echo(&mut reactor, || Xor(0x11));
    let token = reactor.app.opened[0];
    let chat = reactor.net.listen("127.0.0.1:0", move |_, _| {
        Some(move |ctx: &mut Ctx<'_, Record>, input: &mut BytesMut| {
            // As a slice of the loop's read buffer.
            ctx.net.send(token, input.split());
        })
    });
    let mut other = peer(address_of(&reactor, chat.expect("it listens")));
    other.write_all(&pattern(5_000, 4)).expect("written");
    let read = beside(move || {
        let mut all = vec![0; 5_000];
        stream.read_exact(&mut all).expect("it comes");
        all
    });
    assert!(join(&mut reactor, read) == Xor(0x11).apply(&pattern(5_000, 4)));
}

#[test]
fn a_stream_cut_inside_a_record_or_without_a_farewell_is_an_error() {
    let whole = [record(HELLO, b""), record(DATA, b"hello"), record(FAREWELL, b"")].concat();
    for cut in [3, 4, 8, 10, 11, 12, 13] {
        let mut reactor = reactor();
        let mut stream = echo(&mut reactor, Records::default);
        stream.write_all(&whole[..cut]).expect("written");
        stream.shutdown(Shutdown::Write).expect("the half ends");
        let why = until_it_ends(&mut reactor);
        assert!(matches!(&why, CloseReason::Error(e) if e.kind() == ErrorKind::UnexpectedEof), "cut at {cut}: {why:?}");
        let input = reactor.app.input_of(reactor.app.opened[0]);
        assert_eq!(input, if cut >= 11 { &b"hello"[..] } else { b"" }, "what was whole is delivered");
    }
}

#[test]
fn bytes_that_mean_nothing_end_the_connection() {
    let mut reactor = reactor();
    let mut stream = echo(&mut reactor, Records::default);
    stream.write_all(&[record(HELLO, b""), record(99, b"nonsense")].concat()).expect("written");
    let why = until_it_ends(&mut reactor);
    assert!(matches!(&why, CloseReason::Error(e) if e.kind() == ErrorKind::InvalidData), "{why:?}");
}

#[test]
fn every_end_in_order_says_farewell_once() {
    type End = fn(&mut Reactor<Record>, Token);
    let ends: [(&str, End); 5] = [
        ("shutdown", |reactor, token| reactor.net.shutdown(token)),
        ("close", |reactor, token| reactor.net.close(token)),
        ("shutdown and close", |reactor, token| {
            reactor.net.shutdown(token);
            reactor.net.close(token);
        }),
        ("shutdown, and close when the FIN is out", |reactor, token| {
            reactor.net.shutdown(token);
            turn_for(reactor, Duration::from_millis(5));
            reactor.net.close(token);
        }),
        ("stop", |reactor, _| reactor.net.stop()),
    ];
    for (what, end) in ends {
        let mut reactor = reactor();
        let mut stream = echo(&mut reactor, Records::default);
        let token = reactor.app.opened[0];
        stream.write_all(&record(HELLO, b"")).expect("written");
        turn_for(&mut reactor, Duration::from_millis(5));
        reactor.net.send(token, b"the last word");
        turn_for(&mut reactor, Duration::from_millis(5));
        end(&mut reactor, token);
        let read = beside(move || {
            let all = read_all(&mut stream);
            let _ = stream.write_all(&record(FAREWELL, b""));
            all
        });
        let (data, farewells) = heard(&join(&mut reactor, read));
        assert_eq!((&data[..], farewells), (&b"the last word"[..], 1), "{what}");
        let why = until_it_ends(&mut reactor);
        assert!(why.is_orderly(), "{what}: {why:?}");
    }
}

/// Sets a filter and ends the connection in one callback, with input left that would be the filter's.
struct Fickle;

impl Handler<Record> for Fickle {
    fn on_data(&mut self, ctx: &mut Ctx<'_, Record>, _: &mut BytesMut) {
        let token = ctx.token;
        assert!(ctx.filter(token, Xor(1)));
        ctx.abort();
    }
    fn on_close(&mut self, ctx: &mut Ctx<'_, Record>, why: CloseReason) {
        ctx.app.closed.push((ctx.token, why));
    }
}

#[test]
fn a_connection_that_ends_as_it_gets_its_filter_holds_nothing() {
    let mut reactor = reactor();
    let listener = reactor.net.listen("127.0.0.1:0", |_, _| Some(Fickle)).expect("it listens");
    let mut stream = peer(address_of(&reactor, listener));
    stream.write_all(&pattern(10_000, 5)).expect("written");
    assert!(matches!(until_it_ends(&mut reactor), CloseReason::Aborted));
}

#[test]
fn a_record_that_never_came_whole_is_not_held_once_its_connection_is_closed() {
    let mut reactor = reactor();
    let mut stream = echo(&mut reactor, Records::default);
    turn_until(&mut reactor, "it is open", |reactor| !reactor.app.opened.is_empty());
    let half = &record(DATA, &[7; 1_000])[..500];
    stream.write_all(half).expect("written");
    turn_until(&mut reactor, "half a record is held", |reactor| reactor.net.stats().held == 500);
    reactor.net.close(reactor.app.opened[0]);
    assert!(matches!(until_it_ends(&mut reactor), CloseReason::Local));
    drop(stream);
    turn_for(&mut reactor, Duration::from_millis(5));
    assert_eq!(reactor.net.stats().held, 0);
}

#[test]
fn a_reply_of_the_filter_behind_our_end_is_not_sent_and_ends_nothing() {
    let mut reactor = reactor();
    let mut stream = echo(&mut reactor, Records::default);
    turn_until(&mut reactor, "it is open", |reactor| !reactor.app.opened.is_empty());
    reactor.net.shutdown(reactor.app.opened[0]);
    let read = beside(move || (read_all(&mut stream), stream));
    let (said, mut stream) = join(&mut reactor, read);
    assert_eq!(heard(&said), (Vec::new(), 1));
    let token = reactor.app.opened[0];
    for ping in 1..=3 {
        stream.write_all(&record(PING, b"?")).expect("our half still reads");
        turn_until(&mut reactor, "the ping was read", |reactor| reactor.net.stats().bytes_read == 4 * ping);
    }
    turn_for(&mut reactor, Duration::from_millis(2));
    assert!(reactor.net.is_open(token), "{:?}", reactor.app.closed);
    stream.write_all(&record(FAREWELL, b"")).expect("our half still reads");
    stream.shutdown(Shutdown::Write).expect("the half ends");
    assert!(matches!(until_it_ends(&mut reactor), CloseReason::Done));
}

#[test]
fn the_end_behind_a_full_input_limit_is_told_under_a_filter_too() {
    /// Leaves everything until the end.
    struct Patient;
    impl Handler<Record> for Patient {
        fn on_open(&mut self, ctx: &mut Ctx<'_, Record>) {
            let token = ctx.token;
            ctx.options(token, |o| o.input_limit = 8);
            assert!(ctx.filter(token, Xor(1)));
        }
        fn on_data(&mut self, _: &mut Ctx<'_, Record>, _: &mut BytesMut) {}
        fn on_eof(&mut self, ctx: &mut Ctx<'_, Record>, rest: &mut BytesMut) {
            ctx.app.input.insert(ctx.token, rest.to_vec());
            ctx.shutdown();
        }
        fn on_close(&mut self, ctx: &mut Ctx<'_, Record>, why: CloseReason) {
            ctx.app.closed.push((ctx.token, why));
        }
    }
    for (len, ends_in_order) in [(8, true), (9, false)] {
        let mut reactor = reactor();
        let listener = reactor.net.listen("127.0.0.1:0", |_, _| Some(Patient)).expect("it listens");
        let mut stream = peer(address_of(&reactor, listener));
        for _ in 0..len {
            stream.write_all(&[7]).expect("written");
        }
        turn_for(&mut reactor, Duration::from_millis(5));
        // The second time it has been reset already.
        let _ = stream.shutdown(Shutdown::Write);
        match until_it_ends(&mut reactor) {
            CloseReason::Done if ends_in_order => assert!(reactor.app.input.values().eq([&vec![6; len]])),
            CloseReason::InputLimit if !ends_in_order => {}
            why => panic!("{len} bytes: {why}"),
        }
    }
}

/// A relay from a client in clear to an upstream under `Records`, as a proxy that speaks TLS to one side.
fn relayed(reactor: &mut Reactor<Record>) -> (TcpStream, TcpStream) {
    let (listener, address) = upstream();
    let relay = reactor.net.listen("127.0.0.1:0", move |ctx: &mut Ctx<'_, Record>, _| {
        let other = ctx.net.connect(address, Witness);
        assert!(ctx.net.filter(other, Records::default()));
        ctx.app.pairs.push((ctx.token, other));
        ctx.net.relay(ctx.token, other, RelayOptions::new()).then_some(Witness)
    });
    let client = peer(address_of(reactor, relay.expect("it listens")));
    let server = beside(move || accept(&listener));
    let server = join(reactor, server);
    turn_until(reactor, "both sides are open", |reactor| reactor.app.opened.len() == 2);
    (client, server)
}

#[test]
fn a_relay_goes_through_the_filters_of_its_sides() {
    let mut reactor = reactor();
    let (client, mut server) = relayed(&mut reactor);
    let greeting = beside(move || {
        server.write_all(&record(HELLO, b"")).expect("written");
        server.read_exact(&mut [0; 3]).expect("the hello");
        server
    });
    let server = join(&mut reactor, greeting);
    let client = beside(move || exchange(client, pattern(2_000_000, 6)));
    let server = beside(move || exchange(server, [records(&pattern(1_500_000, 7)), record(FAREWELL, b"")].concat()));
    assert!(join(&mut reactor, client) == pattern(1_500_000, 7));
    let (data, farewells) = heard(&join(&mut reactor, server));
    assert!(data == pattern(2_000_000, 6));
    assert_eq!(farewells, 1);
    turn_until(&mut reactor, "both sides end", |reactor| reactor.app.closed.len() == 2);
    assert!(reactor.app.closed.iter().all(|(_, why)| matches!(why, CloseReason::Done)), "{:?}", reactor.app.closed);
    assert_eq!(reactor.net.stats().held, 0);
}

#[test]
fn a_relay_does_not_carry_the_end_of_a_stream_that_its_filter_finds_cut() {
    let mut reactor = reactor();
    let (client, mut server) = relayed(&mut reactor);
    server.write_all(&[record(HELLO, b""), record(DATA, b"half of i")].concat()).expect("written");
    server.shutdown(Shutdown::Write).expect("the half ends, without a farewell");
    let client = beside(move || io::copy(&mut { client }, &mut io::sink()).map_err(|e| e.kind()));
    assert_eq!(join(&mut reactor, client), Err(ErrorKind::ConnectionReset));
    turn_until(&mut reactor, "both sides end", |reactor| reactor.app.closed.len() == 2);
    let (a, b) = reactor.app.pairs[0];
    assert!(matches!(reactor.app.why(b), Some(CloseReason::Error(e)) if e.kind() == ErrorKind::UnexpectedEof));
    assert!(matches!(reactor.app.why(a), Some(CloseReason::Relay)));
}

#[test]
fn a_record_that_never_ends_is_bounded_in_a_relay_too() {
    /// Waits for a whole that does not come.
    struct Endless;
    impl Filter for Endless {
        fn decode(&mut self, _: &mut BytesMut, _: &mut BytesMut, _: &mut BytesMut) -> io::Result<()> {
            Ok(())
        }
        fn encode(&mut self, plain: &[u8], wire: &mut BytesMut) -> io::Result<()> {
            wire.extend_from_slice(plain);
            Ok(())
        }
    }
    let mut reactor = reactor();
    let (listener, address) = upstream();
    let relay = reactor.net.listen("127.0.0.1:0", move |ctx: &mut Ctx<'_, Record>, _| {
        let (client, other) = (ctx.token, ctx.net.connect(address, Witness));
        assert!(ctx.filter(client, Endless));
        ctx.app.pairs.push((client, other));
        ctx.net.relay(client, other, RelayOptions::new()).then_some(Witness)
    });
    let mut client = peer(address_of(&reactor, relay.expect("it listens")));
    let server = beside(move || accept(&listener));
    let _server = join(&mut reactor, server);
    // The default input limit is 1 MiB.
    let client = beside(move || client.write_all(&[0; 32 << 20]).map_err(|e| e.kind()));
    assert!(join(&mut reactor, client).is_err(), "the client is cut off");
    turn_until(&mut reactor, "both sides end", |reactor| reactor.app.closed.len() == 2);
    let (a, b) = reactor.app.pairs[0];
    assert!(matches!(reactor.app.why(a), Some(CloseReason::InputLimit)));
    assert!(matches!(reactor.app.why(b), Some(CloseReason::Relay)));
    assert_eq!(reactor.net.stats().held, 0);
}
