//! Promise: datagrams that wait to be sent are bounded in number, and one that cannot be sent costs neither its
//! socket nor the others behind it.

mod support;

use plimsoll::{Admission, Reactor, UdpOptions};
use std::net::{SocketAddr, UdpSocket};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::UnixDatagram;
use std::time::{Duration, Instant};
use support::{DEADLINE, turn_for, turn_until, udp_peer};

fn received(peer: &UdpSocket) -> Vec<u8> {
    let mut bytes = [0; 64];
    let n = peer.recv(&mut bytes).unwrap();
    bytes[..n].to_vec()
}

#[test]
fn one_over_the_limit_is_refused_and_counted_and_there_is_room_again_after_the_turn() {
    let mut reactor = Reactor::new(()).unwrap();
    let options = UdpOptions::new().with(|o| o.queue_limit = 3);
    let udp = reactor.net.udp_with("127.0.0.1:0", options, |_, _| ()).unwrap();
    let peer = udp_peer("127.0.0.1:0");
    let to = peer.local_addr().unwrap();
    for round in 1..=2 {
        for text in ["one", "two", "three"] {
            assert_eq!(reactor.net.send_to(udp, to, text), Admission::Queued);
        }
        assert_eq!(reactor.net.send_to(udp, to, "four"), Admission::Full);
        reactor.turn(Some(DEADLINE)).unwrap();
        assert_eq!([received(&peer), received(&peer), received(&peer)], [&b"one"[..], b"two", b"three"]);
        let stats = reactor.net.stats();
        assert_eq!((stats.datagrams_out, stats.datagrams_dropped), (3 * round, round));
    }
}

#[test]
fn hundreds_leave_in_order_when_the_turn_settles() {
    let mut reactor = Reactor::new(()).unwrap();
    let udp = reactor.net.udp("127.0.0.1:0", |_, _| ()).unwrap();
    let peer = udp_peer("127.0.0.1:0");
    let to = peer.local_addr().unwrap();
    for number in 0..200u8 {
        assert_eq!(reactor.net.send_to(udp, to, vec![number]), Admission::Queued);
    }
    reactor.turn(Some(DEADLINE)).unwrap();
    assert_eq!(reactor.net.stats().datagrams_out, 200);
    assert!((0..200).all(|number| received(&peer) == [number]));
}

#[test]
fn what_the_kernel_will_not_have_is_dropped_alone() {
    let mut reactor = Reactor::new(()).unwrap();
    let options = UdpOptions::new().with(|o| o.broadcast = false);
    let udp = reactor.net.udp_with("127.0.0.1:0", options, |_, _| ()).unwrap();
    let peer = udp_peer("127.0.0.1:0");
    let to = peer.local_addr().unwrap();
    let everyone: SocketAddr = "127.255.255.255:9".parse().unwrap();
    let elsewhere: SocketAddr = "[::1]:9".parse().unwrap();
    let queued = [
        reactor.net.send_to(udp, to, "first"),
        reactor.net.send_to(udp, to, vec![0; 70_000]), // EMSGSIZE
        reactor.net.send_to(udp, to, "second"),
        reactor.net.send_to(udp, everyone, "x"),  // EACCES
        reactor.net.send_to(udp, elsewhere, "x"), // EAFNOSUPPORT
        reactor.net.send_from(udp, to, "x", 0, Some("192.0.2.1".parse().unwrap())), // not ours: EINVAL
        reactor.net.send_from(udp, to, "x", u32::MAX / 2, None), // no such interface
        reactor.net.send_from(udp, to, "x", 0, Some("::1".parse().unwrap())), // another kind of address
        reactor.net.send_to(udp, to, "third"),
    ];
    assert_eq!(queued, [Admission::Queued; 9]);
    reactor.turn(Some(DEADLINE)).unwrap();
    assert_eq!([received(&peer), received(&peer), received(&peer)], [&b"first"[..], b"second", b"third"]);
    let stats = reactor.net.stats();
    assert_eq!((stats.datagrams_out, stats.datagrams_dropped), (3, 6));
    assert_eq!(reactor.next_turn_in(), None);
}

#[test]
fn a_receiver_that_is_not_there_harms_neither_the_socket_nor_the_others() {
    let mut reactor = Reactor::new(0).unwrap();
    let udp = reactor.net.udp("127.0.0.1:0", |ctx, _| *ctx.app += 1).unwrap();
    let own = support::address_of(&reactor, udp);
    let gone = udp_peer("127.0.0.1:0").local_addr().unwrap(); // closed by now
    let peer = udp_peer("127.0.0.1:0");
    for round in 1..=20 {
        for to in [gone, peer.local_addr().unwrap(), gone] {
            assert_eq!(reactor.net.send_to(udp, to, "x"), Admission::Queued);
        }
        reactor.turn(Some(DEADLINE)).unwrap();
        assert_eq!(received(&peer), b"x");
        peer.send_to(b"y", own).unwrap();
        turn_until(&mut reactor, "the answer", |reactor| reactor.app == round);
    }
}

#[test]
fn a_unix_receiver_that_is_gone_loses_only_its_own() {
    let name = format!("plimsoll-bounded-{}", std::process::id());
    let mut reactor = Reactor::new(()).unwrap();
    let udp = reactor.net.udp(&*format!("unix:@{name}"), |_, _| ()).unwrap();
    let there = std::os::unix::net::SocketAddr::from_abstract_name(format!("{name}-there")).unwrap();
    let peer = UnixDatagram::bind_addr(&there).unwrap();
    peer.set_read_timeout(Some(DEADLINE)).unwrap();
    let to = |who: &str| format!("unix:@{name}-{who}").parse::<plimsoll::Address>().unwrap();
    for who in ["gone", "there", "gone", "there"] {
        assert_eq!(reactor.net.send_to(udp, to(who), who), Admission::Queued);
    }
    reactor.turn(Some(DEADLINE)).unwrap();
    for _ in 0..2 {
        assert_eq!(peer.recv(&mut [0; 64]).unwrap(), 5);
    }
    let stats = reactor.net.stats();
    assert_eq!((stats.datagrams_out, stats.datagrams_dropped), (2, 2));
}

#[test]
fn a_unix_receiver_that_does_not_read_costs_no_processor_and_gets_all_in_the_end() {
    const COUNT: u32 = 600; // net.unix.max_dgram_qlen is 10 or 512
    let name = format!("plimsoll-slow-{}", std::process::id());
    let mut reactor = Reactor::new(()).unwrap();
    let options = UdpOptions::new().with(|o| o.queue_limit = COUNT as usize);
    let udp = reactor.net.udp_with(&*format!("unix:@{name}"), options, |_, _| ()).unwrap();
    let slow = std::os::unix::net::SocketAddr::from_abstract_name(format!("{name}-slow")).unwrap();
    let peer = UnixDatagram::bind_addr(&slow).unwrap();
    let to: plimsoll::Address = format!("unix:@{name}-slow").parse().unwrap();
    for number in 0..COUNT {
        assert_eq!(reactor.net.send_to(udp, to.clone(), number.to_le_bytes().to_vec()), Admission::Queued);
    }
    reactor.turn(Some(DEADLINE)).unwrap();
    let sent = reactor.net.stats().datagrams_out;
    assert!(sent < u64::from(COUNT), "the test needs a receiver that fills up");
    let (began, turns) = (Instant::now(), reactor.net.stats().turns);
    turn_for(&mut reactor, Duration::from_millis(100));
    let (turns, allowed) = (reactor.net.stats().turns - turns, began.elapsed().as_millis() as u64 / 5 + 5);
    assert!(turns <= allowed, "{turns} turns while nothing could be done");
    peer.set_nonblocking(true).unwrap();
    let mut next = 0;
    turn_until(&mut reactor, "the rest", |_| {
        let mut bytes = [0; 8];
        while peer.recv(&mut bytes).is_ok() {
            assert_eq!(bytes[..4], u32::to_le_bytes(next));
            next += 1;
        }
        next == COUNT
    });
    assert_eq!(reactor.net.stats().datagrams_dropped, 0);
}

#[test]
fn a_closed_socket_offers_what_waits_once_more_and_counts_what_is_lost() {
    let mut reactor = Reactor::new(()).unwrap();
    let udp = reactor.net.udp("127.0.0.1:0", |_, _| ()).unwrap();
    let peer = udp_peer("127.0.0.1:0");
    reactor.net.send_to(udp, peer.local_addr().unwrap(), "farewell");
    reactor.net.close(udp);
    assert_eq!(received(&peer), b"farewell");
    assert_eq!(reactor.net.send_to(udp, peer.local_addr().unwrap(), "too late"), Admission::Closed);
}
