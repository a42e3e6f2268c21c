//! A token that is kept after its socket is gone reaches nobody: not the next occupant of its slot, not the next
//! owner of its descriptor, with no verb.

mod support;

use plimsoll::{BytesMut, CloseReason, Ctx, Fd, Filter, Flow, Handler, Reactor, RelayOptions, Token};
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;
use support::{Hook, Told, address_of, hook, narrow, peer, turn_for, turn_until};

#[derive(Default)]
struct App {
    opened: Vec<Token>,
    data: Vec<Token>,
    timers: Vec<(Token, u32)>,
    told: Vec<Token>,
    closed: Vec<(Token, CloseReason)>,
}

/// An echo that notes everything.
struct Echo;

impl Handler<App> for Echo {
    fn on_open(&mut self, ctx: &mut Ctx<'_, App>) {
        ctx.app.opened.push(ctx.token);
    }
    fn on_data(&mut self, ctx: &mut Ctx<'_, App>, input: &mut BytesMut) {
        ctx.app.data.push(ctx.token);
        ctx.send(&input[..]);
        input.clear();
    }
    fn on_timer(&mut self, ctx: &mut Ctx<'_, App>, key: u32) {
        ctx.app.timers.push((ctx.token, key));
    }
    fn on_close(&mut self, ctx: &mut Ctx<'_, App>, why: CloseReason) {
        ctx.app.closed.push((ctx.token, why));
    }
}

/// A handler that must never be called.
struct Nobody;

impl Handler<App> for Nobody {
    fn on_data(&mut self, _: &mut Ctx<'_, App>, _: &mut BytesMut) {
        panic!("a stale token reached somebody");
    }
}

/// A filter that must never be asked.
struct NoFilter;

impl Filter for NoFilter {
    fn decode(&mut self, _: &mut BytesMut, _: &mut BytesMut, _: &mut BytesMut) -> io::Result<()> {
        panic!("a stale token reached somebody");
    }
    fn encode(&mut self, _: &[u8], _: &mut BytesMut) -> io::Result<()> {
        panic!("a stale token reached somebody");
    }
}

fn server() -> (Reactor<App>, SocketAddr) {
    let mut reactor = Reactor::new(App::default()).expect("a reactor");
    let listener = reactor.net.listen_with("127.0.0.1:0", narrow(|_| {}), |_, _| Some(Echo)).expect("it listens");
    let address = address_of(&reactor, listener);
    (reactor, address)
}

fn accepted(reactor: &mut Reactor<App>, address: SocketAddr) -> (TcpStream, Token) {
    let before = reactor.app.opened.len();
    let stream = peer(address);
    turn_until(reactor, "the peer is accepted", |r| r.app.opened.len() == before + 1);
    (stream, reactor.app.opened[before])
}

fn slot(token: Token) -> String {
    token.to_string().split('·').next().expect("slot·generation").to_owned()
}

fn echoes(reactor: &mut Reactor<App>, stream: &mut TcpStream, text: &[u8]) {
    stream.write_all(text).expect("sent");
    let before = reactor.net.stats().bytes_written;
    turn_until(reactor, "the echo", |r| r.net.stats().bytes_written == before + text.len() as u64);
    let mut got = vec![0; text.len()];
    stream.read_exact(&mut got).expect("the echo");
    assert_eq!(got, text);
}

/// Every verb there is, on a token that must be stale.
fn try_everything(reactor: &mut Reactor<App>, stale: Token, living: Token) {
    let net = &mut reactor.net;
    let dropped = net.stats().tells_dropped;
    assert_eq!(net.send(stale, "small"), Flow::Closed);
    assert_eq!(net.send(stale, vec![1; 100_000]), Flow::Closed);
    assert_eq!(net.send(stale, ""), Flow::Closed);
    net.flush(stale);
    net.pause_reading(stale);
    net.resume_reading(stale);
    net.want(stale, 1000);
    net.shutdown(stale);
    net.close(stale);
    net.abort(stale);
    net.swap(stale, Nobody);
    net.tell::<Echo>(stale, |_, ctx| ctx.app.told.push(ctx.token));
    assert_eq!(net.queued(stale), 0);
    assert_eq!(net.unread(stale), 0);
    assert!(!net.is_open(stale));
    assert_eq!(net.peer_address(stale), None);
    assert_eq!(net.local_address(stale), None);
    assert!(net.tcp_info(stale).is_none());
    assert!(!net.tokens().contains(&stale));
    assert!(!net.options(stale, |_| panic!("nobody's options")));
    assert!(!net.filter(stale, NoFilter));
    assert!(!net.relay(stale, living, RelayOptions::new()));
    assert!(!net.relay(living, stale, RelayOptions::new()));
    assert!(net.detach(stale).is_none());
    turn_for(reactor, Duration::from_millis(5));
    assert_eq!(reactor.net.stats().tells_dropped, dropped + 1);
    assert!(reactor.app.told.is_empty());
}

#[test]
fn a_token_kept_after_close_reaches_nobody_though_its_slot_and_descriptor_are_anothers() {
    let (mut reactor, address) = server();
    for ending in ["done", "abort", "close", "detach"] {
        let (mut old_stream, old) = accepted(&mut reactor, address);
        let old_port = reactor.net.peer_address(old);
        let closed = reactor.app.closed.len();
        match ending {
            "done" => old_stream.shutdown(std::net::Shutdown::Write).expect("half closed"),
            "abort" => reactor.net.abort(old),
            "close" => reactor.net.close(old),
            _ => drop(reactor.net.detach(old)),
        }
        turn_until(&mut reactor, "on_close", |r| r.app.closed.len() == closed + 1);
        let _ = old_stream.read(&mut [0; 1]);
        drop(old_stream);
        turn_until(&mut reactor, "it is released", |r| r.net.peer_address(old).is_none());

        let (mut new_stream, new) = accepted(&mut reactor, address);
        assert_eq!(slot(new), slot(old), "the slot is used again, or this test shows nothing");
        assert_ne!(new, old);
        assert_ne!(reactor.net.peer_address(new), old_port);
        try_everything(&mut reactor, old, new);
        echoes(&mut reactor, &mut new_stream, b"still here");
        assert_eq!(reactor.app.closed.len(), closed + 1);
        reactor.net.abort(new);
        turn_until(&mut reactor, "on_close", |r| r.app.closed.len() == closed + 2);
    }
}

#[test]
fn within_a_turn_neither_slot_nor_descriptor_is_used_again() {
    let (mut reactor, address) = server();
    let (_stream, old) = accepted(&mut reactor, address);
    let other = TcpListener::bind("127.0.0.1:0").expect("bound");
    let other_address = other.local_addr().expect("an address");
    reactor.net.defer(move |lp| {
        lp.abort(old);
        // Eight new sockets in the turn in which the old one ended: the old slot is still its own.
        for _ in 0..8 {
            let new = lp.connect(other_address, Echo);
            assert_ne!(slot(new), slot(old));
        }
        assert_eq!(lp.send(old, "late"), Flow::Closed);
        lp.close(old);
        lp.abort(old);
    });
    turn_until(&mut reactor, "the new ones are made", |r| r.app.opened.len() == 9);
    assert_eq!(reactor.app.closed.len(), 1, "{:?}", reactor.app.closed);
    assert!(matches!(reactor.app.closed[0], (token, CloseReason::Aborted) if token == old));
}

#[test]
fn an_event_of_a_connection_that_ended_earlier_in_the_turn_is_dropped() {
    /// Ends the other one of a pair, whichever of them is called first.
    #[derive(Default)]
    struct Pair {
        tokens: Vec<Token>,
        calls: Vec<Token>,
        closes: Vec<Token>,
    }
    let mut reactor = Reactor::new(Pair::default()).expect("a reactor");
    let listener = reactor.net.listen("127.0.0.1:0", |ctx: &mut Ctx<'_, Pair>, _| {
        ctx.app.tokens.push(ctx.token);
        Some(hook(|ctx: &mut Ctx<'_, Pair>, told| match told {
            Told::Data(input) => {
                input.clear();
                ctx.app.calls.push(ctx.token);
                for other in ctx.app.tokens.clone() {
                    if other != ctx.token {
                        ctx.net.abort(other);
                    }
                }
            }
            Told::Close(_) => ctx.app.closes.push(ctx.token),
            _ => {}
        }))
    });
    let address = address_of(&reactor, listener.expect("it listens"));
    let mut peers: Vec<TcpStream> = (0..2).map(|_| peer(address)).collect();
    turn_until(&mut reactor, "both are accepted", |r| r.app.tokens.len() == 2);
    turn_for(&mut reactor, Duration::from_millis(5));
    for stream in &mut peers {
        stream.write_all(b"x").expect("sent");
    }
    let stale = reactor.net.stats().stale_events;
    reactor.turn(Some(support::DEADLINE)).expect("the loop turns");
    assert_eq!(reactor.app.calls.len(), 1, "the second was ended by the first in the same turn");
    assert_eq!(reactor.app.closes.len(), 1);
    assert_eq!(reactor.net.stats().stale_events, stale + 1);
    // It stays that way: its descriptor and slot go to somebody new, who hears nothing of it.
    let third = peer(address);
    turn_until(&mut reactor, "the third is accepted", |r| r.app.tokens.len() == 3);
    turn_for(&mut reactor, Duration::from_millis(5));
    assert_eq!(reactor.app.calls.len(), 1);
    drop(third);
}

#[test]
fn timers_and_tells_die_with_their_connection() {
    let (mut reactor, address) = server();
    let (stream, old) = accepted(&mut reactor, address);
    reactor.net.tell::<Echo>(old, |_, ctx| {
        for key in 0..10 {
            ctx.timer(key, Duration::from_millis(10));
        }
        // Told, and then ended, before the tell's turn has come.
        let own = ctx.token;
        ctx.tell::<Echo>(own, |_, ctx| ctx.app.told.push(ctx.token));
        ctx.abort();
    });
    turn_until(&mut reactor, "on_close", |r| r.app.closed.len() == 1);
    drop(stream);
    let (mut stream, new) = accepted(&mut reactor, address);
    assert_eq!(slot(new), slot(old), "the slot is used again, or this test shows nothing");
    turn_for(&mut reactor, Duration::from_millis(40));
    assert_eq!(reactor.app.timers, []);
    assert_eq!(reactor.app.told, []);
    assert_eq!(reactor.net.stats().tells_dropped, 1);
    echoes(&mut reactor, &mut stream, b"still here");
    // Of a closed one too, while its descriptor still waits for the peer's end.
    reactor.net.tell::<Echo>(new, |_, ctx| {
        ctx.timer(1, Duration::from_millis(10));
        ctx.close();
        ctx.timer(2, Duration::from_millis(10));
    });
    turn_for(&mut reactor, Duration::from_millis(40));
    assert_eq!(reactor.app.timers, []);
    assert_eq!(reactor.app.closed.len(), 2);
}

#[test]
fn a_tell_of_the_wrong_type_is_counted_and_dropped() {
    let (mut reactor, address) = server();
    let (_stream, token) = accepted(&mut reactor, address);
    reactor.net.tell::<Nobody>(token, |_, _| panic!("told to the wrong one"));
    reactor.net.tell::<Echo>(token, |_, ctx| ctx.app.told.push(ctx.token));
    turn_until(&mut reactor, "the right one is told", |r| !r.app.told.is_empty());
    assert_eq!(reactor.net.stats().tells_dropped, 1);
}

#[test]
fn a_swapped_handler_is_called_from_the_next_callback_on() {
    type Fn = for<'a, 'b, 'c> fn(&'a mut Ctx<'b, App>, Told<'c>);
    fn second(ctx: &mut Ctx<'_, App>, told: Told<'_>) {
        match told {
            Told::Data(input) => {
                ctx.send("second ");
                ctx.send(&input[..]);
                input.clear();
            }
            Told::Close(why) => ctx.app.closed.push((ctx.token, why)),
            _ => {}
        }
    }
    let (mut reactor, address) = server();
    let (mut stream, token) = accepted(&mut reactor, address);
    reactor.net.tell::<Echo>(token, |_, ctx| {
        let token = ctx.token;
        ctx.swap(token, hook(second as Fn));
        ctx.tell::<Hook<Fn>>(token, |_, ctx| ctx.app.told.push(ctx.token));
    });
    turn_until(&mut reactor, "the new handler is told", |r| r.app.told == [token]);
    stream.write_all(b"hello").expect("sent");
    let mut got = [0; 12];
    turn_until(&mut reactor, "the answer", |r| r.net.stats().bytes_written == 12);
    stream.read_exact(&mut got).expect("the answer");
    assert_eq!(&got, b"second hello");
    assert!(reactor.app.closed.is_empty(), "the old one hears no on_close");
    reactor.net.close(token);
    turn_until(&mut reactor, "on_close", |r| r.app.closed.len() == 1);
}

#[test]
fn a_detached_connection_goes_on_elsewhere_with_all_that_was_in_flight() {
    let (mut reactor, address) = server();
    let (mut stream, token) = accepted(&mut reactor, address);
    // 3 MiB: more than the kernel takes while nobody reads.
    let reply = support::pattern(3 << 20, 1);
    reactor.net.send(token, reply.clone());
    turn_for(&mut reactor, Duration::from_millis(5));
    assert!(reactor.net.queued(token) > 0);
    let detached = reactor.net.detach(token).expect("open");
    assert!(reactor.net.detach(token).is_none(), "only once");
    turn_until(&mut reactor, "on_close", |r| r.app.closed.len() == 1);
    assert!(matches!(reactor.app.closed[0].1, CloseReason::Detached));
    assert_eq!(reactor.net.stats().held, 0);

    let mut elsewhere = Reactor::new(App::default()).expect("a reactor");
    elsewhere.net.adopt(detached, Echo).expect("adopted");
    stream.write_all(b"and on").expect("sent");
    let reader = support::beside(move || {
        let mut got = vec![0; (3 << 20) + 6];
        stream.read_exact(&mut got).expect("everything");
        got
    });
    let got = support::join(&mut elsewhere, reader);
    assert!(got[..3 << 20] == reply, "what was queued comes first, whole");
    assert_eq!(&got[3 << 20..], b"and on");
}

#[test]
fn adopting_what_is_no_stream_is_an_error_and_leaves_nothing() {
    let mut reactor = Reactor::new(App::default()).expect("a reactor");
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").expect("bound");
    assert!(reactor.net.adopt(Fd::from_owned(socket.into()), Echo).is_err());
    let listener = TcpListener::bind("127.0.0.1:0").expect("bound");
    assert!(reactor.net.adopt(Fd::from_owned(listener.into()), Echo).is_err());
    assert!(reactor.net.tokens().is_empty());
}
