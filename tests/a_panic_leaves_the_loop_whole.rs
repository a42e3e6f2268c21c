//! Promise: a callback that panics unwinds out of the turn and costs what it belongs to, and nothing else: what
//! was ready, due or posted beside it is served by the turns that follow.
//!
//! Each test makes several things ready in one turn, the first of which panics.

mod support;

use plimsoll::{CloseReason, Reactor, signum};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};
use support::{DEADLINE, address_of, in_a_child, peer, turn_and_panic, turn_until, udp_peer};

/// Peers of a server that answers each byte and panics at a `!`. What they send is there when their call returns.
fn ready_peers(reactor: &mut Reactor<Vec<u8>>, count: usize) -> Vec<TcpStream> {
    let listener = reactor
        .net
        .serve("127.0.0.1:0", |ctx, input| {
            let what = input[0];
            input.clear();
            ctx.app.push(what);
            assert_ne!(what, b'!', "on purpose");
            ctx.send(&[what]);
        })
        .unwrap();
    let address = address_of(reactor, listener);
    let peers: Vec<_> = (0..count).map(|_| peer(address)).collect();
    turn_until(reactor, "all are accepted", |reactor| reactor.net.tokens().len() == count);
    // Their first edges, for room to write, are out of the way then.
    let mut events = 0;
    while std::mem::replace(&mut events, reactor.net.stats().events) != reactor.net.stats().events {
        reactor.turn(Some(Duration::ZERO)).unwrap();
    }
    peers
}

#[test]
fn connections_that_were_ready_in_the_turn_of_a_panic_are_served_after_it() {
    let mut reactor = Reactor::new(Vec::new()).unwrap();
    let mut peers = ready_peers(&mut reactor, 10);
    // Their edges come in this order, and only once each.
    for (index, peer) in peers.iter_mut().enumerate() {
        peer.write_all(if index == 0 { b"!" } else { b"." }).unwrap();
    }
    turn_and_panic(&mut reactor);
    assert_eq!(reactor.app, b"!", "the panic came first");
    assert_eq!(reactor.next_turn_in(), Some(Duration::ZERO), "work is left over");
    turn_until(&mut reactor, "the nine others", |reactor| reactor.app.len() == 10);
    assert_eq!(reactor.app, b"!.........");
    for peer in &mut peers[1..] {
        peer.read_exact(&mut [0]).unwrap();
    }
    assert!(peers[0].read(&mut [0]).is_err(), "the one that panicked is reset");
    assert_eq!(reactor.net.tokens().len(), 9);
}

#[test]
fn an_embedding_loop_is_told_at_once_that_a_panic_left_work() {
    let mut reactor = Reactor::new(Vec::new()).unwrap();
    let mut peers = ready_peers(&mut reactor, 1);
    reactor.turn(Some(Duration::ZERO)).unwrap();
    assert_eq!(reactor.next_turn_in(), None);
    peers[0].write_all(b"!").unwrap();
    turn_and_panic(&mut reactor);
    // The connection is to be aborted.
    assert_eq!(reactor.next_turn_in(), Some(Duration::ZERO));
    reactor.turn(Some(Duration::ZERO)).unwrap();
    assert!(reactor.net.tokens().is_empty());
}

#[test]
fn a_post_after_a_panic_wakes_whoever_waits_for_the_loop() {
    let mut reactor = Reactor::new(Vec::new()).unwrap();
    let mailbox = reactor.net.mailbox();
    reactor.net.defer(|_| panic!("on purpose"));
    turn_and_panic(&mut reactor);
    assert_eq!(reactor.next_turn_in(), None);
    let wakes = reactor.net.stats().mail_wakes;
    mailbox.post(|lp| lp.app.push(1)).unwrap();
    let began = Instant::now();
    reactor.turn(Some(DEADLINE)).unwrap();
    assert!(began.elapsed() < DEADLINE / 2);
    assert_eq!((reactor.app.len(), reactor.net.stats().mail_wakes), (1, wakes + 1), "the post rang no bell");
}

#[test]
fn signals_that_came_together_are_all_answered_although_the_first_panics() {
    in_a_child("signals_that_came_together_are_all_answered_although_the_first_panics", || {
        let mut reactor = Reactor::new(Vec::new()).unwrap();
        reactor.net.on_signal(signum::USR1, |_| panic!("on purpose")).unwrap();
        reactor.net.on_signal(signum::USR2, |lp| lp.app.push(2)).unwrap();
        nix::sys::signal::raise(nix::sys::signal::SIGUSR2).unwrap();
        nix::sys::signal::raise(nix::sys::signal::SIGUSR1).unwrap();
        turn_and_panic(&mut reactor);
        assert_eq!(reactor.next_turn_in(), Some(Duration::ZERO));
        reactor.turn(Some(DEADLINE)).unwrap();
        assert_eq!(reactor.app, [2]);
        assert_eq!(reactor.next_turn_in(), None, "the loop would never sleep again");
    });
}

#[test]
fn a_datagram_receiver_that_panics_has_the_next_datagram() {
    let mut reactor = Reactor::new(Vec::new()).unwrap();
    let udp = reactor
        .net
        .udp("127.0.0.1:0", |ctx, datagram| {
            assert_ne!(datagram.data, b"!", "on purpose");
            ctx.app.extend_from_slice(datagram.data);
        })
        .unwrap();
    let address = address_of(&reactor, udp);
    let peer = udp_peer("127.0.0.1:0");
    peer.send_to(b"!", address).unwrap();
    turn_and_panic(&mut reactor);
    peer.send_to(b".", address).unwrap();
    turn_until(&mut reactor, "the next datagram", |reactor| !reactor.app.is_empty());
}

#[test]
fn deferred_closures_and_tells_behind_one_that_panics_still_run() {
    struct Listening;
    impl plimsoll::Handler<Vec<u8>> for Listening {
        fn on_data(&mut self, _: &mut plimsoll::Ctx<'_, Vec<u8>>, input: &mut bytes::BytesMut) {
            input.clear();
        }
        fn on_close(&mut self, ctx: &mut plimsoll::Ctx<'_, Vec<u8>>, _: CloseReason) {
            ctx.app.push(99);
        }
    }
    let mut reactor = Reactor::new(Vec::new()).unwrap();
    let listener = reactor.net.listen("127.0.0.1:0", |_, _| Some(Listening)).unwrap();
    let address = address_of(&reactor, listener);
    let _peers = [peer(address), peer(address)];
    turn_until(&mut reactor, "both are open", |reactor| reactor.net.tokens().len() == 2);
    let tokens = reactor.net.tokens();
    reactor.net.defer(|_| panic!("on purpose"));
    reactor.net.tell::<Listening>(tokens[0], |_, _| panic!("on purpose"));
    reactor.net.tell::<Listening>(tokens[1], |_, ctx| ctx.app.push(1));
    reactor.net.defer(|lp| lp.app.push(2));
    turn_and_panic(&mut reactor);
    turn_and_panic(&mut reactor);
    reactor.turn(None).unwrap();
    assert_eq!(reactor.app, [1, 2]);
    assert_eq!(reactor.net.tokens(), tokens[1..], "the connection that was told and panicked is gone, unheard");
}

#[test]
fn run_may_be_called_again_after_a_panic() {
    let mut reactor = Reactor::new(0).unwrap();
    reactor.net.after(Duration::from_millis(1), |_| panic!("on purpose"));
    reactor.net.after(Duration::from_millis(3), |lp| {
        *lp.app += 1;
        lp.stop();
    });
    let ran = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| reactor.run()));
    assert!(ran.is_err());
    reactor.run().unwrap();
    assert_eq!(reactor.app, 1);
}
