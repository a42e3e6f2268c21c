//! Datagram sockets that cannot be read for a while.

use super::{failing, here, there, turn};
use crate::reactor::Reactor;
use crate::sim::{DatagramPeer, World};
use crate::sys::fault::{self, Call, Fault};
use crate::token::Token;
use std::time::Duration;

/// A socket with a datagram before it that it finds no memory to read.
fn resting(world: &World) -> (Reactor<()>, Token, DatagramPeer) {
    let mut reactor = Reactor::new(()).expect("a reactor");
    let udp = reactor.net.udp(here(), |_, _| {}).expect("a socket");
    let peer = world.datagrams(there()).expect("a peer");
    peer.send(here(), b"question").expect("it is sent");
    fault::install(failing(Call::ReceiveBatch, 1..=2, libc::ENOMEM));
    turn(&mut reactor, 1);
    assert_eq!(fault::remove().expect("the plan").met(), 2);
    (reactor, udp, peer)
}

#[test]
fn who_cannot_read_sends_all_the_same() {
    let world = World::calm();
    let (mut reactor, udp, _peer) = resting(&world);
    reactor.net.send_to(udp, there(), &b"answer"[..]);
    reactor.turn(Some(Duration::ZERO)).expect("the loop turns");
    assert_eq!(reactor.net.stats().datagrams_out, 1);
}

#[test]
fn who_cannot_read_sends_what_it_has_when_it_is_closed() {
    let world = World::calm();
    let (mut reactor, udp, peer) = resting(&world);
    reactor.net.send_to(udp, there(), &b"farewell"[..]);
    reactor.net.close(udp);
    turn(&mut reactor, 10);
    assert_eq!(reactor.net.stats().datagrams_dropped, 0);
    assert!(peer.receive().is_some());
}

/// Queued and closed in one turn, while epoll_ctl fails.
#[test]
fn a_socket_that_is_closed_while_it_rests_leaves_no_timer() {
    let world = World::calm();
    let mut reactor = Reactor::new(()).expect("a reactor");
    let udp = reactor.net.udp(here(), |_, _| {}).expect("a socket");
    let peer = world.datagrams(there()).expect("a peer");
    peer.send(here(), b"question").expect("it is sent");
    let unread = failing(Call::ReceiveBatch, 1..=2, libc::ENOMEM);
    // The first one lets it rest; those that would wake it fail.
    fault::install((2..=10).fold(unread, |plan, nth| plan.with(Call::EpollModify, nth, Fault::Fail(libc::ENOMEM))));
    turn(&mut reactor, 21);
    reactor.net.send_to(udp, there(), &b"farewell"[..]);
    reactor.net.close(udp);
    turn(&mut reactor, 100);
    let plan = fault::remove().expect("the plan");
    assert!(plan.made(Call::EpollModify) >= 2, "it rests, and could not be woken");
    assert_eq!(reactor.net.sockets.timers.len(), 0);
}
