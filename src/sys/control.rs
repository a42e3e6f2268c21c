//! Control messages: what travels beside a datagram's bytes (cmsg(3)).
//!
//! ```text
//!   msg_control ──► ┌ cmsghdr ─────────────┬─────────────┬─────┐
//!                   │ len │ level │ type   │ value       │ pad │  …the next one, aligned
//!                   └─────┴───────┴────────┴─────────────┴─────┘ ◄── msg_controllen
//! ```
//!
//! Two kinds matter here. Packet information says which of our addresses and interfaces a datagram came to, and
//! orders, when one is sent, which it shall leave from. Descriptors are what a Unix peer may attach whether we
//! like it or not: the mere room for control messages invites them, so they are closed at once, or a peer could
//! fill our table.

use super::Fd;
use super::address::Address;
use super::sockaddr::{in_addr, in6_addr, ipv4, ipv6};
use std::io;
use std::mem::MaybeUninit;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Room for control messages beside one datagram: packet information (40 bytes at most), and some for what an
/// adopted socket may have been told to say. What does not fit is dropped by the kernel.
pub const CONTROL_BYTES: usize = 64;

/// The room itself, aligned as control messages must be: their headers begin with a `size_t`.
#[derive(Clone, Copy)]
#[repr(C, align(8))]
pub struct Control([MaybeUninit<u8>; CONTROL_BYTES]);

const _: () = assert!(align_of::<Control>() >= align_of::<libc::cmsghdr>());

impl Control {
    /// Nothing written yet.
    pub const EMPTY: Control = Control([MaybeUninit::uninit(); CONTROL_BYTES]);
}

/// How a datagram came, as far as the kernel tells.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PacketInfo {
    /// The address that it was sent to.
    pub to: Option<IpAddr>,
    /// Our address to answer from.
    pub local: Option<IpAddr>,
    /// The interface that it came through; 0: unknown.
    pub interface: u32,
}

/// Reads the packet information beside a datagram.
///
/// # Safety
/// `message` has a control buffer that the kernel has filled up to `msg_controllen`.
pub unsafe fn packet_info(message: &libc::msghdr) -> PacketInfo {
    // SAFETY: this function's caller guarantees the same.
    for (level, kind, data) in unsafe { messages(message) } {
        match (level, kind) {
            (libc::IPPROTO_IP, libc::IP_PKTINFO) if data.len() >= size_of::<libc::in_pktinfo>() => {
                // SAFETY: long enough, and any bits are a value of a struct of integers.
                let info = unsafe { data.as_ptr().cast::<libc::in_pktinfo>().read_unaligned() };
                let local = ipv4(info.ipi_spec_dst);
                return PacketInfo {
                    to: Some(ipv4(info.ipi_addr).into()),
                    local: Some(local).filter(|local| !local.is_unspecified()).map(IpAddr::from),
                    interface: info.ipi_ifindex as u32,
                };
            }
            (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) if data.len() >= size_of::<libc::in6_pktinfo>() => {
                // SAFETY: as above.
                let info = unsafe { data.as_ptr().cast::<libc::in6_pktinfo>().read_unaligned() };
                let to = IpAddr::from(ipv6(info.ipi6_addr));
                return PacketInfo {
                    to: Some(to),
                    local: Some(to).filter(|to| !is_for_many(to.to_canonical())),
                    interface: info.ipi6_ifindex,
                };
            }
            _ => {}
        }
    }
    PacketInfo::default()
}

/// Whether an address is by its form nobody's own. (The broadcast address of a network has no such form.)
fn is_for_many(address: IpAddr) -> bool {
    address.is_multicast() || address == Ipv4Addr::BROADCAST
}

/// Closes the descriptors that a Unix peer has attached. The kernel has put them into our table by now.
///
/// # Safety
/// As [`packet_info`]; and nobody else owns or has closed the descriptors in `message`.
pub unsafe fn close_descriptors(message: &libc::msghdr) {
    // SAFETY: this function's caller guarantees the same.
    for (level, kind, data) in unsafe { messages(message) } {
        if (level, kind) != (libc::SOL_SOCKET, libc::SCM_RIGHTS) {
            continue;
        }
        for fd in data.chunks_exact(size_of::<libc::c_int>()) {
            let fd = libc::c_int::from_ne_bytes(fd.try_into().expect("chunks have the size that was asked for"));
            // SAFETY: the kernel has just made it for us, and it is ours alone, as the caller guarantees.
            drop(unsafe { Fd::from_new(fd) });
        }
    }
}

/// Each control message: its level, its type and its value.
///
/// # Safety
/// As [`packet_info`].
unsafe fn messages(message: &libc::msghdr) -> impl Iterator<Item = (libc::c_int, libc::c_int, &[u8])> {
    // SAFETY: the caller guarantees a buffer that is filled up to `msg_controllen`.
    let mut next = unsafe { libc::CMSG_FIRSTHDR(message) };
    std::iter::from_fn(move || {
        // SAFETY: null, or a header that lies whole within the filled part of the buffer.
        let head = unsafe { next.as_ref() }?;
        // SAFETY: `next` is such a header.
        let data = unsafe { libc::CMSG_DATA(next) };
        // Cut to the buffer: a length beyond its end would be the kernel's mistake, and must not become ours.
        let end = message.msg_control.addr() + in_bytes(message.msg_controllen);
        let length =
            in_bytes(head.cmsg_len).saturating_sub(data.addr() - next.addr()).min(end.saturating_sub(data.addr()));
        // SAFETY: within the filled part of the buffer, by the line above.
        let item = (head.cmsg_level, head.cmsg_type, unsafe { std::slice::from_raw_parts(data, length) });
        // SAFETY: as for the first.
        next = unsafe { libc::CMSG_NXTHDR(message, next) };
        Some(item)
    })
}

/// C libraries disagree on the type of these lengths: `size_t` or `socklen_t`.
fn in_bytes(length: impl TryInto<usize>) -> usize {
    length.try_into().unwrap_or(0)
}

/// Writes the order to send through `interface` (0: whichever) and from `from`; the answer is the length that
/// is in use.
///
/// The form follows the protocol that will be spoken and not the socket: to a mapped IPv4 address a dual-stack
/// socket speaks IPv4, and there the kernel takes the IPv6 form only if it holds a source.
///
/// # Errors
/// `InvalidInput`: `to` is no IP address, or `from` has another IP version.
pub fn write_packet_info(
    control: &mut Control,
    to: &Address,
    from: Option<IpAddr>,
    interface: u32,
) -> io::Result<usize> {
    let target = to.ip().map(|to| to.ip().to_canonical());
    match (target, from.map(|from| from.to_canonical())) {
        (Some(IpAddr::V4(_)), None | Some(IpAddr::V4(_))) => {
            let source = match from.map(|from| from.to_canonical()) {
                Some(IpAddr::V4(source)) => source,
                _ => Ipv4Addr::UNSPECIFIED,
            };
            let info = libc::in_pktinfo {
                ipi_ifindex: interface as libc::c_int,
                ipi_spec_dst: in_addr(source),
                ipi_addr: in_addr(Ipv4Addr::UNSPECIFIED),
            };
            Ok(write(control, libc::IPPROTO_IP, libc::IP_PKTINFO, info))
        }
        (Some(IpAddr::V6(_)), None | Some(IpAddr::V6(_))) => {
            let source = match from {
                Some(IpAddr::V6(source)) => source,
                _ => Ipv6Addr::UNSPECIFIED,
            };
            let info = libc::in6_pktinfo { ipi6_addr: in6_addr(source), ipi6_ifindex: interface };
            Ok(write(control, libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, info))
        }
        (Some(_), Some(from)) => Err(invalid(format!("cannot send to {to} from {from}: another IP version"))),
        (None, _) => Err(invalid(format!("an interface or a source is chosen for an IP receiver, not for `{to}`"))),
    }
}

/// Writes what the kernel tells of a datagram that has come; the answer is the length that is in use.
#[cfg(any(test, feature = "sim"))]
pub fn tell_packet_info(control: &mut Control, to: IpAddr, interface: u32) -> usize {
    match to {
        IpAddr::V4(to) => {
            let info = libc::in_pktinfo {
                ipi_ifindex: interface as libc::c_int,
                ipi_spec_dst: in_addr(if is_for_many(to.into()) { Ipv4Addr::LOCALHOST } else { to }),
                ipi_addr: in_addr(to),
            };
            write(control, libc::IPPROTO_IP, libc::IP_PKTINFO, info)
        }
        IpAddr::V6(to) => {
            let info = libc::in6_pktinfo { ipi6_addr: in6_addr(to), ipi6_ifindex: interface };
            write(control, libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, info)
        }
    }
}

fn invalid(text: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, text)
}

/// Writes one control message to the front; the answer is the length that is in use.
pub fn write<T: Copy>(control: &mut Control, level: libc::c_int, kind: libc::c_int, value: T) -> usize {
    const { assert!(space_for::<T>() <= CONTROL_BYTES) };
    let head = control.0.as_mut_ptr().cast::<libc::cmsghdr>();
    // SAFETY: `Control` is aligned for a `cmsghdr`, and the first line says that header and value fit into it.
    // All is zeroed first: there is padding behind the value, and in the header of some C libraries, and the kernel is
    // given no byte that was never written.
    unsafe {
        head.cast::<u8>().write_bytes(0, space_for::<T>());
        (*head).cmsg_len = libc::CMSG_LEN(size_of::<T>() as libc::c_uint) as _;
        (*head).cmsg_level = level;
        (*head).cmsg_type = kind;
        libc::CMSG_DATA(head).cast::<T>().write_unaligned(value);
    }
    space_for::<T>()
}

/// Header, value and the padding after it.
const fn space_for<T>() -> usize {
    // SAFETY: computes a number from a number.
    unsafe { libc::CMSG_SPACE(size_of::<T>() as libc::c_uint) as usize }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As the kernel would leave a message: a buffer, filled up to `length`.
    fn message(control: &mut Control, length: usize) -> libc::msghdr {
        // SAFETY: integers and nullable pointers, for all of which zero is a value.
        let mut message: libc::msghdr = unsafe { MaybeUninit::zeroed().assume_init() };
        message.msg_control = (&raw mut *control).cast();
        message.msg_controllen = length as _;
        message
    }

    fn address(text: &str) -> Address {
        text.parse().unwrap()
    }

    fn ip(text: &str) -> Option<IpAddr> {
        Some(text.parse().unwrap())
    }

    #[test]
    fn the_form_follows_the_protocol_that_will_be_spoken() {
        let mut control = Control::EMPTY;
        for (to, from, kind) in [
            ("192.0.2.1:9", ip("192.0.2.2"), libc::IP_PKTINFO),
            ("192.0.2.1:9", None, libc::IP_PKTINFO),
            ("[::ffff:192.0.2.1]:9", ip("::ffff:192.0.2.2"), libc::IP_PKTINFO),
            ("[::ffff:192.0.2.1]:9", ip("192.0.2.2"), libc::IP_PKTINFO),
            ("[::ffff:192.0.2.1]:9", None, libc::IP_PKTINFO),
            ("[fe80::1%2]:9", ip("fe80::2"), libc::IPV6_PKTINFO),
            ("[fe80::1%2]:9", None, libc::IPV6_PKTINFO),
        ] {
            let length = write_packet_info(&mut control, &address(to), from, 7).unwrap();
            let message = message(&mut control, length);
            // SAFETY: `length` bytes were written.
            let kinds: Vec<_> = unsafe { messages(&message) }.map(|(_, kind, data)| (kind, data.len())).collect();
            let size = if kind == libc::IP_PKTINFO { 12 } else { 20 };
            assert_eq!(kinds, [(kind, size)], "{to} {from:?}");
            // SAFETY: as above.
            assert_eq!(unsafe { packet_info(&message) }.interface, 7);
        }
    }

    #[test]
    fn a_source_of_another_kind_than_the_receiver_is_a_mistake() {
        let mut control = Control::EMPTY;
        for (to, from) in [
            ("192.0.2.1:9", ip("::1")),
            ("[::ffff:192.0.2.1]:9", ip("::1")),
            ("[::1]:9", ip("192.0.2.1")),
            ("[::1]:9", ip("::ffff:192.0.2.1")),
            ("unix:@x", None),
            ("unix:", ip("::1")),
        ] {
            let error = write_packet_info(&mut control, &address(to), from, 1).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput, "{to} {from:?}");
        }
    }

    #[test]
    fn a_length_that_lies_is_cut_to_the_buffer() {
        let mut control = Control::EMPTY;
        let filled = write(&mut control, libc::SOL_SOCKET, 99, [7u8; 16]);
        // SAFETY: the header was written by the line above.
        unsafe { (*control.0.as_mut_ptr().cast::<libc::cmsghdr>()).cmsg_len = 4_000 };
        let message = message(&mut control, filled);
        // SAFETY: `filled` bytes were written.
        assert_eq!(unsafe { messages(&message) }.map(|(.., data)| data.to_vec()).collect::<Vec<_>>(), [vec![7; 16]]);
    }

    #[test]
    fn no_room_holds_no_message() {
        let mut control = Control::EMPTY;
        let message = message(&mut control, 0);
        // SAFETY: nothing is claimed to be written.
        assert_eq!(unsafe { packet_info(&message) }, PacketInfo::default());
    }
}
