//! Promise: datagrams are received and sent whole and in batches, say where they came to and through what, and can
//! be answered the way they came.

mod support;

use plimsoll::{Address, Admission, Reactor, UdpOptions};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::UnixDatagram;
use std::time::Duration;
use support::{address_of, turn_for, turn_until, udp_peer};

/// What arrived, as far as the tests look at it.
#[derive(Debug, Default, Clone, PartialEq)]
struct Seen {
    data: Vec<u8>,
    len: usize,
    truncated: bool,
    to: Option<IpAddr>,
    interface: u32,
}

/// A socket that notes and answers all it gets, the way it came.
fn answering(address: &str, options: UdpOptions) -> (Reactor<Vec<Seen>>, SocketAddr) {
    let mut reactor = Reactor::new(Vec::new()).unwrap();
    let udp = reactor
        .net
        .udp_with(address, options, |ctx, datagram| {
            ctx.app.push(Seen {
                data: datagram.data.to_vec(),
                len: datagram.len,
                truncated: datagram.truncated,
                to: datagram.to,
                interface: datagram.interface,
            });
            let (data, token) = (datagram.data.to_vec(), ctx.token);
            ctx.send_from(token, datagram.from, data, datagram.interface, datagram.local);
        })
        .unwrap();
    let address = address_of(&reactor, udp);
    (reactor, address)
}

fn loopback(reactor: &Reactor<Vec<Seen>>) -> u32 {
    let interfaces = reactor.net.interfaces().unwrap();
    interfaces.iter().find(|interface| interface.address == Ipv4Addr::LOCALHOST).expect("lo is up").index
}

#[test]
fn what_is_sent_comes_back_over_ipv4_and_ipv6() {
    for address in ["127.0.0.1:0", "[::1]:0"] {
        let (mut reactor, server) = answering(address, UdpOptions::default());
        let peer = udp_peer(address);
        peer.connect(server).unwrap();
        for len in [1, 0, 2048, 100] {
            let data = support::pattern(len, len as u64);
            peer.send(&data).unwrap();
            turn_until(&mut reactor, "it arrives", |reactor| reactor.app.pop().is_some_and(|seen| seen.data == data));
            let mut back = [0; 4096];
            assert_eq!(peer.recv(&mut back).unwrap(), len);
            assert_eq!(back[..len], data);
        }
        let stats = reactor.net.stats();
        assert_eq!((stats.datagrams_in, stats.datagrams_out, stats.datagrams_dropped), (4, 4, 0));
    }
}

#[test]
fn a_turn_takes_sixty_four_datagrams_and_leaves_the_others_to_the_next() {
    let (mut reactor, server) = answering("127.0.0.1:0", UdpOptions::default());
    let peer = udp_peer("127.0.0.1:0");
    for number in 0..200u8 {
        peer.send_to(&[number], server).unwrap();
    }
    for expected in [64, 128, 192, 200] {
        reactor.turn(None).unwrap();
        assert_eq!(reactor.app.len(), expected);
        assert_eq!(reactor.net.stats().datagrams_out, expected as u64, "answers leave in the turn of the question");
    }
    assert!(reactor.app.iter().map(|seen| usize::from(seen.data[0])).eq(0..200));
    for number in 0..200u8 {
        let mut back = [0; 8];
        assert_eq!((peer.recv(&mut back).unwrap(), back[0]), (1, number));
    }
}

#[test]
fn the_budget_of_a_turn_can_be_smaller_and_larger() {
    for budget in [1, 5, 64, 150] {
        let options = UdpOptions::new().with(|o| o.receive_budget = budget);
        let (mut reactor, server) = answering("127.0.0.1:0", options);
        let peer = udp_peer("127.0.0.1:0");
        (0..160).for_each(|_| assert_eq!(peer.send_to(b"x", server).unwrap(), 1));
        reactor.turn(None).unwrap();
        assert_eq!(reactor.app.len(), budget as usize);
        turn_until(&mut reactor, "the others", |reactor| reactor.app.len() == 160);
    }
}

#[test]
fn a_datagram_over_the_limit_is_delivered_cut_and_marked() {
    let (mut reactor, server) = answering("127.0.0.1:0", UdpOptions::new().with(|o| o.max_datagram = 100));
    let peer = udp_peer("127.0.0.1:0");
    let data = support::pattern(1000, 1);
    for len in [100, 101, 1000, 99] {
        peer.send_to(&data[..len], server).unwrap();
    }
    turn_until(&mut reactor, "all four", |reactor| reactor.app.len() == 4);
    for (seen, len) in reactor.app.iter().zip([100, 101, 1000, 99]) {
        assert_eq!((seen.len, seen.truncated, &seen.data[..]), (len, len > 100, &data[..len.min(100)]));
    }
}

#[test]
fn the_limit_of_one_socket_is_not_that_of_another() {
    let mut reactor = Reactor::new(Vec::new()).unwrap();
    let mut bound = |max_datagram| {
        let options = UdpOptions::new().with(|o| o.max_datagram = max_datagram);
        let note = move |ctx: &mut plimsoll::Ctx<'_, Vec<_>>, datagram: plimsoll::Datagram<'_>| {
            ctx.app.push((max_datagram, datagram.data.len(), datagram.truncated));
        };
        let token = reactor.net.udp_with("127.0.0.1:0", options, note).unwrap();
        address_of(&reactor, token)
    };
    let servers = [bound(10), bound(10_000), bound(10)];
    let peer = udp_peer("127.0.0.1:0");
    for server in servers {
        peer.send_to(&[7; 500], server).unwrap();
        let before = reactor.app.len();
        turn_until(&mut reactor, "it arrives", |reactor| reactor.app.len() > before);
    }
    assert_eq!(reactor.app, [(10, 10, true), (10_000, 500, false), (10, 10, true)]);
}

#[test]
fn the_largest_datagram_passes_whole() {
    let options = UdpOptions::new().with(|o| o.max_datagram = 65_535);
    let (mut reactor, server) = answering("127.0.0.1:0", options);
    let peer = udp_peer("127.0.0.1:0");
    let data = support::pattern(65_507, 9); // what UDP over IPv4 can carry
    peer.send_to(&data, server).unwrap();
    turn_until(&mut reactor, "it arrives", |reactor| reactor.app.first().is_some_and(|seen| seen.data == data));
    let mut back = vec![0; 70_000];
    assert_eq!(peer.recv(&mut back).unwrap(), data.len());
    assert!(back[..data.len()] == data[..]);
}

#[test]
fn an_answer_leaves_from_the_address_that_was_asked() {
    let (mut reactor, server) = answering("0.0.0.0:0", UdpOptions::default());
    for asked in [Ipv4Addr::new(127, 0, 0, 1), Ipv4Addr::new(127, 0, 0, 2), Ipv4Addr::new(127, 9, 8, 7)] {
        let peer = udp_peer("127.0.0.1:0");
        // A connected socket hears only the address it is connected to.
        peer.connect((asked, server.port())).unwrap();
        peer.send(b"who are you?").unwrap();
        turn_until(&mut reactor, "it arrives", |reactor| !reactor.app.is_empty());
        let seen = reactor.app.pop().unwrap();
        assert_eq!((seen.to, seen.interface), (Some(asked.into()), loopback(&reactor)));
        assert_eq!(peer.recv(&mut [0; 64]).unwrap(), 12);
    }
}

#[test]
fn a_dual_stack_socket_answers_ipv4_and_ipv6_from_the_address_that_was_asked() {
    let (mut reactor, server) = answering("[::]:0", UdpOptions::default());
    for (from, asked) in [("127.0.0.1:0", "127.0.0.5"), ("[::1]:0", "::1")] {
        let asked: IpAddr = asked.parse().unwrap();
        let peer = udp_peer(from);
        peer.connect((asked, server.port())).unwrap();
        peer.send(b"?").unwrap();
        turn_until(&mut reactor, "it arrives", |reactor| !reactor.app.is_empty());
        assert_eq!(reactor.app.pop().unwrap().to.map(|to| to.to_canonical()), Some(asked));
        assert_eq!(peer.recv(&mut [0; 8]).unwrap(), 1);
    }
}

#[test]
fn unix_datagrams_are_exchanged_by_name() {
    let name = format!("plimsoll-datagrams-{}", std::process::id());
    let mut reactor = Reactor::new(0).unwrap();
    reactor
        .net
        .udp(&*format!("unix:@{name}"), |ctx, datagram| {
            let (data, token) = (datagram.data.to_vec(), ctx.token);
            assert_eq!(ctx.send_to(token, datagram.from, data), Admission::Queued);
            *ctx.app += 1;
        })
        .unwrap();
    let abstract_name = |name: &str| std::os::unix::net::SocketAddr::from_abstract_name(name).unwrap();
    let peer = UnixDatagram::bind_addr(&abstract_name(&format!("{name}-peer"))).unwrap();
    peer.set_read_timeout(Some(support::DEADLINE)).unwrap();
    peer.send_to_addr(b"by name", &abstract_name(&name)).unwrap();
    turn_until(&mut reactor, "it arrives", |reactor| reactor.app == 1);
    let mut back = [0; 64];
    assert_eq!(peer.recv(&mut back).unwrap(), 7);
    // One without a name cannot be answered, and that harms nobody.
    let nameless = UnixDatagram::unbound().unwrap();
    nameless.send_to_addr(b"by nobody", &abstract_name(&name)).unwrap();
    turn_until(&mut reactor, "it arrives", |reactor| reactor.app == 2);
    assert_eq!(reactor.net.stats().datagrams_dropped, 1);
}

#[test]
fn a_socket_may_be_closed_inside_its_own_receiver() {
    let mut reactor = Reactor::new(0).unwrap();
    let udp = reactor
        .net
        .udp("127.0.0.1:0", |ctx, datagram| {
            *ctx.app += 1;
            let (token, from) = (ctx.token, datagram.from);
            assert_eq!(ctx.send_to(token, from.clone(), "farewell"), Admission::Queued);
            ctx.net.close(token);
            assert_eq!(ctx.send_to(token, from, "too late"), Admission::Closed);
        })
        .unwrap();
    let address = address_of(&reactor, udp);
    let peer = udp_peer("127.0.0.1:0");
    (0..5).for_each(|_| assert_eq!(peer.send_to(b"x", address).unwrap(), 1));
    turn_until(&mut reactor, "the first arrives", |reactor| reactor.app > 0);
    turn_for(&mut reactor, Duration::from_millis(2));
    assert_eq!(reactor.app, 1, "the receiver was called after its socket was closed");
    assert_eq!(peer.recv(&mut [0; 64]).unwrap(), 8);
    assert_eq!(reactor.net.local_address(udp), None);
    // The port is free, and a new socket in the old slot does not answer to the old token.
    let again = reactor.net.udp(address, |ctx, _| *ctx.app += 100).unwrap();
    assert_ne!(again, udp);
    assert_eq!(reactor.net.send_to(udp, Address::from(address), "x"), Admission::Closed);
    reactor.net.close(udp);
    peer.send_to(b"x", address).unwrap();
    turn_until(&mut reactor, "the new one hears", |reactor| reactor.app == 101);
}

#[test]
fn a_receiver_may_open_and_close_other_sockets() {
    let mut reactor = Reactor::new(Vec::new()).unwrap();
    let other = reactor.net.udp("127.0.0.1:0", |_, _| panic!("it was closed before its turn")).unwrap();
    let other_address = address_of(&reactor, other);
    let first = reactor
        .net
        .udp("127.0.0.1:0", move |ctx, _| {
            ctx.net.close(other);
            let token = ctx.udp("127.0.0.1:0", |ctx, datagram| ctx.app.push(Err(datagram.data.len()))).unwrap();
            let address = ctx.local_address(token).unwrap().ip().unwrap();
            ctx.app.push(Ok(address));
        })
        .unwrap();
    let address = address_of(&reactor, first);
    let peer = UdpSocket::bind("127.0.0.1:0").unwrap();
    reactor.turn(Some(Duration::ZERO)).unwrap();
    peer.send_to(b"x", address).unwrap();
    peer.send_to(b"x", other_address).unwrap();
    turn_until(&mut reactor, "a socket is opened", |reactor| !reactor.app.is_empty());
    let Ok(opened) = reactor.app[0] else { panic!("an address comes first") };
    peer.send_to(b"hello", opened).unwrap();
    turn_until(&mut reactor, "it hears", |reactor| reactor.app.len() == 2);
    assert_eq!(reactor.app[1], Err(5));
}

#[test]
fn a_longest_datagram_beyond_all_bounds_reserves_no_more_than_there_can_be() {
    let mut reactor = Reactor::new(Vec::new()).expect("a reactor");
    let options = UdpOptions::new().with(|o| o.max_datagram = usize::MAX);
    let udp = reactor.net.udp_with("127.0.0.1:0", options, |ctx, d| ctx.app.push((d.data.len(), d.truncated)));
    let udp = udp.expect("it is bound");
    let to = reactor.net.local_address(udp).expect("it has an address");
    reactor.net.send_to(udp, &to, vec![7; 60_000]);
    support::turn_until(&mut reactor, "it comes", |reactor| !reactor.app.is_empty());
    assert_eq!(reactor.app, [(60_000, false)]);
}
