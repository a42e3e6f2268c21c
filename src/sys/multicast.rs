//! One to many: broadcast, multicast, and the packet information that goes with them.
//!
//! IPv4 and IPv6 have the same ideas under different numbers and in different structs; the family says which.
//! Interfaces are named by number throughout: an address, which the older IPv4 options take, may belong to two
//! of them.
//!
//! Membership belongs to the socket and ends with it. To join a group is to ask the interface for its
//! datagrams, no more: a socket that is bound to every address gets what comes in for its port, of any group
//! that anybody on this machine has joined.

use super::Fd;
use super::options::{int, set};
use super::sockaddr::{in_addr, in6_addr};
use super::socket::Family;
use std::io;
use std::net::{IpAddr, Ipv4Addr};

/// Makes the socket tell, for each datagram, where it was sent to and through which interface it came.
///
/// # Errors
/// EOPNOTSUPP: a Unix socket.
pub fn set_packet_info(fd: &Fd, family: Family) -> io::Result<()> {
    match family {
        Family::V4 => set(fd, libc::IPPROTO_IP, libc::IP_PKTINFO, &int(true)),
        // On a dual-stack socket it tells about IPv4 too, in mapped form.
        Family::V6 => set(fd, libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO, &int(true)),
        Family::Unix => Err(not_for_unix()),
    }
}

/// Whether datagrams to broadcast addresses may be sent.
pub fn set_broadcast(fd: &Fd, on: bool) -> io::Result<()> {
    set(fd, libc::SOL_SOCKET, libc::SO_BROADCAST, &int(on))
}

/// Asks for what is sent to `group` and comes in through `interface` (with 0 the routing table chooses one).
///
/// # Errors
/// EINVAL: not a multicast address. ENODEV: no such interface, or no route that could choose one. EADDRINUSE:
/// joined already. ENOBUFS: too many groups (`net.ipv4.igmp_max_memberships`).
pub fn join_multicast(fd: &Fd, group: &IpAddr, interface: u32) -> io::Result<()> {
    set_membership(fd, group, interface, libc::IP_ADD_MEMBERSHIP, libc::IPV6_ADD_MEMBERSHIP)
}

/// Ends what [`join_multicast`] began with the same group and interface.
///
/// # Errors
/// EADDRNOTAVAIL: not joined. ENODEV: no such interface.
pub fn leave_multicast(fd: &Fd, group: &IpAddr, interface: u32) -> io::Result<()> {
    set_membership(fd, group, interface, libc::IP_DROP_MEMBERSHIP, libc::IPV6_DROP_MEMBERSHIP)
}

fn set_membership(fd: &Fd, group: &IpAddr, interface: u32, v4: libc::c_int, v6: libc::c_int) -> io::Result<()> {
    match group {
        IpAddr::V4(group) => {
            let membership = libc::ip_mreqn {
                imr_multiaddr: in_addr(*group),
                imr_address: in_addr(Ipv4Addr::UNSPECIFIED),
                imr_ifindex: interface as libc::c_int,
            };
            set(fd, libc::IPPROTO_IP, v4, &membership)
        }
        IpAddr::V6(group) => {
            let membership = libc::ipv6_mreq { ipv6mr_multiaddr: in6_addr(*group), ipv6mr_interface: interface as _ };
            set(fd, libc::IPPROTO_IPV6, v6, &membership)
        }
    }
}

/// Whether this machine's own members of a group hear what this socket sends to it. The kernel's default is yes.
///
/// # Errors
/// EOPNOTSUPP: a Unix socket.
pub fn set_multicast_loop(fd: &Fd, family: Family, on: bool) -> io::Result<()> {
    match family {
        Family::V4 => set(fd, libc::IPPROTO_IP, libc::IP_MULTICAST_LOOP, &int(on)),
        Family::V6 => set(fd, libc::IPPROTO_IPV6, libc::IPV6_MULTICAST_LOOP, &int(on)),
        Family::Unix => Err(not_for_unix()),
    }
}

/// How many routers a multicast datagram may pass, plus one: 1, the kernel's default, keeps it on the local
/// network, and 0 on this machine.
///
/// # Errors
/// EOPNOTSUPP: a Unix socket.
pub fn set_multicast_ttl(fd: &Fd, family: Family, hops: u8) -> io::Result<()> {
    match family {
        Family::V4 => set(fd, libc::IPPROTO_IP, libc::IP_MULTICAST_TTL, &libc::c_int::from(hops)),
        Family::V6 => set(fd, libc::IPPROTO_IPV6, libc::IPV6_MULTICAST_HOPS, &libc::c_int::from(hops)),
        Family::Unix => Err(not_for_unix()),
    }
}

/// Through which interface multicast goes out, unless a datagram says otherwise; with 0 the routing table decides.
///
/// # Errors
/// EADDRNOTAVAIL, ENODEV: no such interface. EOPNOTSUPP: a Unix socket.
pub fn set_multicast_interface(fd: &Fd, family: Family, index: u32) -> io::Result<()> {
    match family {
        Family::V4 => {
            let any = in_addr(Ipv4Addr::UNSPECIFIED);
            let choice = libc::ip_mreqn { imr_multiaddr: any, imr_address: any, imr_ifindex: index as libc::c_int };
            set(fd, libc::IPPROTO_IP, libc::IP_MULTICAST_IF, &choice)
        }
        Family::V6 => set(fd, libc::IPPROTO_IPV6, libc::IPV6_MULTICAST_IF, &(index as libc::c_int)),
        Family::Unix => Err(not_for_unix()),
    }
}

fn not_for_unix() -> io::Error {
    io::Error::from_raw_os_error(libc::EOPNOTSUPP)
}

#[cfg(test)]
mod tests {
    use super::super::address::Address;
    use super::super::datagram::tests::{await_input, bound, loopback_index, to};
    use super::super::datagram::{Inbox, send_batch};
    use super::super::socket::datagram;
    use super::*;
    use std::net::Ipv6Addr;

    #[test]
    fn a_group_on_loopback_hears_what_is_sent_to_it() {
        let group: IpAddr = Ipv4Addr::new(239, 255, 71, 7).into();
        let interface = loopback_index();
        let (receiver, address) = bound(Ipv4Addr::UNSPECIFIED);
        set_packet_info(&receiver, Family::V4).unwrap();
        join_multicast(&receiver, &group, interface).unwrap();
        assert_eq!(join_multicast(&receiver, &group, interface).unwrap_err().raw_os_error(), Some(libc::EADDRINUSE));
        let (sender, _) = bound(Ipv4Addr::LOCALHOST);
        set_multicast_interface(&sender, Family::V4, interface).unwrap();
        set_multicast_ttl(&sender, Family::V4, 0).unwrap();
        set_multicast_loop(&sender, Family::V4, true).unwrap();
        let destination = Address::from((group, address.port().unwrap()));
        send_batch(&sender, &[to(&destination, b"all")]).unwrap();
        await_input(&receiver);
        let mut inbox = Inbox::new(1, 64);
        assert_eq!(inbox.receive(&receiver, 1).unwrap(), 1);
        assert_eq!((inbox.get(0).to, inbox.get(0).interface), (Some(group), interface));
        leave_multicast(&receiver, &group, interface).unwrap();
        assert_eq!(
            leave_multicast(&receiver, &group, interface).unwrap_err().raw_os_error(),
            Some(libc::EADDRNOTAVAIL)
        );
    }

    #[test]
    fn multicast_options_exist_on_ipv6_as_well() {
        let group: IpAddr = "ff02::7107".parse().unwrap();
        let (fd, _) = bound(Ipv6Addr::LOCALHOST);
        let interface = loopback_index();
        set_multicast_interface(&fd, Family::V6, interface).unwrap();
        set_multicast_ttl(&fd, Family::V6, 255).unwrap();
        set_multicast_loop(&fd, Family::V6, false).unwrap();
        join_multicast(&fd, &group, interface).unwrap();
        leave_multicast(&fd, &group, interface).unwrap();
        assert!(join_multicast(&fd, &Ipv6Addr::LOCALHOST.into(), interface).is_err());
    }

    #[test]
    fn broadcast_needs_permission() {
        let (fd, _) = bound(Ipv4Addr::LOCALHOST);
        // Loopback's own broadcast address: nothing leaves this machine.
        let everyone = Address::from((Ipv4Addr::new(127, 255, 255, 255), 9));
        assert_eq!(send_batch(&fd, &[to(&everyone, b"x")]).unwrap_err().raw_os_error(), Some(libc::EACCES));
        set_broadcast(&fd, true).unwrap();
        assert_eq!(send_batch(&fd, &[to(&everyone, b"x")]).unwrap(), 1);
    }

    #[test]
    fn unix_sockets_have_none_of_it() {
        let fd = datagram(Family::Unix).unwrap();
        for answer in [
            set_packet_info(&fd, Family::Unix),
            set_multicast_loop(&fd, Family::Unix, true),
            set_multicast_ttl(&fd, Family::Unix, 1),
            set_multicast_interface(&fd, Family::Unix, 1),
        ] {
            assert_eq!(answer.unwrap_err().raw_os_error(), Some(libc::EOPNOTSUPP));
        }
    }
}
