//! Promise: broadcast and multicast leave through the interfaces that are named, and reach who has asked for them.
//!
//! What loopback cannot show (a broadcast on several interfaces, a group that ends at the edge of the machine) is
//! tried in a network namespace of the test's own, with a pair of virtual cables, where that may be made.

mod support;

use plimsoll::{Address, Admission, Interface, Reactor, Token, UdpOptions};
use std::net::{IpAddr, Ipv4Addr};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};
use support::{DEADLINE, address_of, run_in_a_namespace, turn_for, turn_until};

#[derive(Debug, Clone, PartialEq)]
struct Seen {
    data: Vec<u8>,
    to: Option<IpAddr>,
    local: Option<IpAddr>,
    interface: u32,
}

fn listening(reactor: &mut Reactor<Vec<Seen>>, address: &str) -> (Token, u16) {
    let options = UdpOptions::new().with(|o| o.reuse_address = true);
    let udp = reactor
        .net
        .udp_with(address, options, |ctx, datagram| {
            let (to, local, interface) = (datagram.to, datagram.local, datagram.interface);
            ctx.app.push(Seen { data: datagram.data.to_vec(), to, local, interface });
        })
        .unwrap();
    let port = address_of(reactor, udp).port();
    (udp, port)
}

fn interface(reactor: &Reactor<Vec<Seen>>, name: &str) -> Interface {
    let interfaces = reactor.net.interfaces().unwrap();
    interfaces.into_iter().find(|one| one.name == name && one.address.is_ipv4()).expect("an interface of that name")
}

fn to(ip: impl Into<IpAddr>, port: u16) -> Address {
    Address::from((ip.into(), port))
}

#[test]
fn loopbacks_own_broadcast_address_reaches_us_and_can_be_answered() {
    let mut reactor = Reactor::new(()).unwrap();
    let everyone: IpAddr = "127.255.255.255".parse().unwrap();
    let server = reactor
        .net
        .udp("0.0.0.0:0", move |ctx, datagram| {
            assert_eq!(datagram.to, Some(everyone));
            let (token, answer) = (ctx.token, datagram.data.to_vec());
            ctx.send_from(token, datagram.from, answer, datagram.interface, datagram.local);
        })
        .unwrap();
    let port = address_of(&reactor, server).port();
    let asking = reactor.net.udp("127.0.0.1:0", |ctx, datagram| {
        assert_eq!(datagram.data, b"anybody?");
        ctx.stop();
    });
    assert_eq!(reactor.net.send_to(asking.unwrap(), to(everyone, port), "anybody?"), Admission::Queued);
    reactor.run().unwrap();
    assert_eq!(reactor.net.stats().datagrams_dropped, 0);
}

#[test]
fn a_group_is_heard_between_join_and_leave() {
    let group: IpAddr = Ipv4Addr::new(239, 255, 18, 76).into();
    let mut reactor = Reactor::new(Vec::new()).unwrap();
    let lo = interface(&reactor, "lo").index;
    // Bound to the group itself, so that only what is sent to it counts.
    let (udp, port) = listening(&mut reactor, "239.255.18.76:0");
    let (sender, _) = listening(&mut reactor, "127.0.0.1:0");
    reactor.net.set_multicast_interface(sender, lo).unwrap();
    reactor.net.set_multicast_ttl(sender, 0).unwrap();
    reactor.net.set_multicast_loop(sender, true).unwrap();

    reactor.net.join_multicast(udp, group, lo).unwrap();
    let again = reactor.net.join_multicast(udp, group, lo).unwrap_err();
    assert_eq!(again.raw_os_error(), Some(libc::EADDRINUSE));
    assert_eq!(reactor.net.send_to(sender, to(group, port), "joined"), Admission::Queued);
    turn_until(&mut reactor, "the group's datagram", |reactor| !reactor.app.is_empty());
    let seen = reactor.app.pop().unwrap();
    assert_eq!((&seen.data[..], seen.to, seen.interface), (&b"joined"[..], Some(group), lo));
    assert!(seen.local.is_some_and(|local| local.is_loopback()), "{seen:?}");

    reactor.net.leave_multicast(udp, group, lo).unwrap();
    let left = reactor.net.leave_multicast(udp, group, lo).unwrap_err();
    assert_eq!(left.raw_os_error(), Some(libc::EADDRNOTAVAIL));
    assert_eq!(reactor.net.send_to(sender, to(group, port), "left"), Admission::Queued);
    turn_for(&mut reactor, Duration::from_millis(5));
    assert!(reactor.app.is_empty());
}

#[test]
fn what_a_socket_has_not_is_an_error_and_no_more() {
    let mut reactor = Reactor::new(Vec::new()).unwrap();
    let (udp, _) = listening(&mut reactor, "127.0.0.1:0");
    let group: IpAddr = "239.1.2.3".parse().unwrap();
    assert!(reactor.net.set_multicast_interface(udp, u32::MAX / 2).is_err());
    assert!(reactor.net.join_multicast(udp, Ipv4Addr::LOCALHOST.into(), 0).is_err());
    let unix = reactor.net.udp(&*format!("unix:@plimsoll-many-{}", std::process::id()), |_, _| ()).unwrap();
    for refused in [reactor.net.set_multicast_loop(unix, true), reactor.net.set_multicast_ttl(unix, 1)] {
        assert_eq!(refused.unwrap_err().raw_os_error(), Some(libc::EOPNOTSUPP));
    }
    reactor.net.close(udp);
    for stale in [
        reactor.net.set_multicast_loop(udp, true),
        reactor.net.set_multicast_ttl(udp, 1),
        reactor.net.set_multicast_interface(udp, 0),
        reactor.net.join_multicast(udp, group, 0),
        reactor.net.leave_multicast(udp, group, 0),
    ] {
        assert_eq!(stale.unwrap_err().kind(), std::io::ErrorKind::NotFound);
    }
    assert_eq!(reactor.net.broadcast(udp, 9, "x").unwrap(), 0);
}

#[test]
fn a_broadcast_leaves_through_every_interface_that_has_one() {
    run_in_a_namespace("a_broadcast_leaves_through_every_interface_that_has_one", || {
        let (mut reactor, first, second) = two_cables();
        let (udp, port) = listening(&mut reactor, "0.0.0.0:0");
        assert_eq!(reactor.net.broadcast(udp, port, "to all").unwrap(), 2);
        // We hear our own at once, and what has passed the cables at their other ends.
        turn_until(&mut reactor, "four copies", |reactor| reactor.app.len() >= 4);
        let mut seen: Vec<_> = reactor.app.iter().map(|seen| (seen.to, seen.interface)).collect();
        seen.sort_unstable();
        let (left, right) = (first.broadcast.map(IpAddr::V4), second.broadcast.map(IpAddr::V4));
        let mut expected = [(left, first.index), (left, second.index), (right, first.index), (right, second.index)];
        expected.sort_unstable();
        assert_eq!(seen, expected);
        assert!(reactor.app.iter().all(|seen| seen.data == b"to all" && seen.local.is_some()));

        // An interface that is down is left out.
        reactor.app.clear();
        ip("link set right down");
        assert_eq!(reactor.net.broadcast(udp, port, "to fewer").unwrap(), 1);
        turn_until(&mut reactor, "our own copy", |reactor| !reactor.app.is_empty());
    });
}

#[test]
fn a_datagram_leaves_through_the_interface_that_is_named() {
    run_in_a_namespace("a_datagram_leaves_through_the_interface_that_is_named", || {
        let (mut reactor, first, second) = two_cables();
        let (udp, port) = listening(&mut reactor, "0.0.0.0:0");
        for (through, other) in [(&first, &second), (&second, &first)] {
            let everybody = to(Ipv4Addr::BROADCAST, port);
            assert_eq!(reactor.net.send_from(udp, everybody, "x", through.index, None), Admission::Queued);
            turn_until(&mut reactor, "both copies", |reactor| reactor.app.len() == 2);
            let mut seen: Vec<_> = reactor.app.drain(..).map(|seen| seen.interface).collect();
            seen.sort_unstable();
            let mut expected = [through.index, other.index];
            expected.sort_unstable();
            assert_eq!(seen, expected);
        }
    });
}

#[test]
fn multicast_obeys_its_interface_and_its_loop() {
    run_in_a_namespace("multicast_obeys_its_interface_and_its_loop", || {
        let (mut reactor, first, second) = two_cables();
        let group: IpAddr = "239.255.1.1".parse().unwrap();
        let (udp, port) = listening(&mut reactor, "0.0.0.0:0");
        let (sender, _) = listening(&mut reactor, "0.0.0.0:0");
        for one in [&first, &second] {
            reactor.net.join_multicast(udp, group, one.index).unwrap();
        }
        let interfaces_of_a_copy = |reactor: &mut Reactor<Vec<Seen>>, copies: usize| {
            assert_eq!(reactor.net.send_to(sender, to(group, port), "x"), Admission::Queued);
            turn_until(reactor, "the copies", |reactor| reactor.app.len() >= copies);
            turn_for(reactor, Duration::from_millis(20));
            let mut seen: Vec<_> = reactor.app.drain(..).map(|seen| seen.interface).collect();
            seen.sort_unstable();
            seen
        };
        let mut both = vec![first.index, second.index];
        both.sort_unstable();
        reactor.net.set_multicast_interface(sender, first.index).unwrap();
        assert_eq!(interfaces_of_a_copy(&mut reactor, 2), both, "our own, and the one from the cable's other end");
        reactor.net.set_multicast_loop(sender, false).unwrap();
        assert_eq!(interfaces_of_a_copy(&mut reactor, 1), [second.index]);
        reactor.net.set_multicast_interface(sender, second.index).unwrap();
        assert_eq!(interfaces_of_a_copy(&mut reactor, 1), [first.index]);
        // With no hop allowed it does not even reach the cable.
        reactor.net.set_multicast_ttl(sender, 0).unwrap();
        assert_eq!(interfaces_of_a_copy(&mut reactor, 0), [0; 0]);
    });
}

#[test]
fn an_ipv6_group_is_heard_where_it_was_joined() {
    run_in_a_namespace("an_ipv6_group_is_heard_where_it_was_joined", || {
        let (mut reactor, first, _) = two_cables();
        ip("addr add fd71::1/64 dev left nodad");
        let group: IpAddr = "ff02::1876".parse().unwrap();
        let (udp, port) = listening(&mut reactor, "[::]:0");
        let (sender, _) = listening(&mut reactor, "[fd71::1]:0");
        reactor.net.join_multicast(udp, group, first.index).unwrap();
        reactor.net.set_multicast_interface(sender, first.index).unwrap();
        reactor.net.set_multicast_ttl(sender, 1).unwrap();
        assert_eq!(reactor.net.send_to(sender, to(group, port), "joined"), Admission::Queued);
        turn_until(&mut reactor, "the group's datagram", |reactor| !reactor.app.is_empty());
        let seen = reactor.app.pop().unwrap();
        assert_eq!((seen.to, seen.local, seen.interface), (Some(group), None, first.index));
        reactor.net.leave_multicast(udp, group, first.index).unwrap();
    });
}

/// A cable whose two ends are both here, each with a network of its own, so that what leaves through one comes in
/// at the other.
fn two_cables() -> (Reactor<Vec<Seen>>, Interface, Interface) {
    ip("link set lo up");
    ip("link add left type veth peer name right");
    ip("addr add 10.71.1.1/24 brd + dev left");
    ip("addr add 10.71.2.1/24 brd + dev right");
    for name in ["left", "right"] {
        ip(&format!("link set {name} up"));
        // What we sent ourselves would else be refused as forged.
        for (file, value) in [("accept_local", "1"), ("rp_filter", "0")] {
            std::fs::write(format!("/proc/sys/net/ipv4/conf/{name}/{file}"), value).unwrap();
        }
    }
    std::fs::write("/proc/sys/net/ipv4/conf/all/rp_filter", "0").unwrap();
    // A link that was switched on drops what it is given until the kernel has noticed its carrier.
    let deadline = Instant::now() + DEADLINE;
    while ["left", "right"].iter().any(|name| !ip(&format!("-o link show {name}")).contains("state UP")) {
        assert!(Instant::now() < deadline, "the cable has no carrier");
        thread::yield_now();
    }
    let reactor = Reactor::new(Vec::new()).unwrap();
    let (left, right) = (interface(&reactor, "left"), interface(&reactor, "right"));
    assert!(left.up && right.up && left.broadcast == Some(Ipv4Addr::new(10, 71, 1, 255)));
    (reactor, left, right)
}

fn ip(arguments: &str) -> String {
    let output = Command::new("ip").args(arguments.split(' ')).output().expect("ip, of iproute2");
    assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}
