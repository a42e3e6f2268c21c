//! The kernel's form of an address, written and read.
//!
//! A family number and a length, and what the bytes between them mean depends on both:
//!
//! ```text
//!   sockaddr_in    family port  address              16 bytes
//!   sockaddr_in6   family port  flow address scope   28 bytes
//!   sockaddr_un    family "/run/x.sock\0"            a path: up to the first NUL
//!                  family "\0name"                   abstract: all of the length, NULs included
//!                  family                            unnamed: length 2
//! ```
//!
//! The rule that is kept: what is read never passes the length that the kernel told, and what is told never
//! passes the room that there is.

use super::address::Address;
use std::ffi::OsStr;
use std::io;
use std::mem::{MaybeUninit, offset_of};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Where `sun_path` begins.
const PATH_OFFSET: usize = offset_of!(libc::sockaddr_un, sun_path);

/// Room for the kernel's form of any address, aligned for all of them.
pub(super) type RawAddress = MaybeUninit<libc::sockaddr_storage>;

/// Writes the kernel's form to the front of `raw`; the answer is its length.
///
/// # Errors
/// `InvalidInput` for a Unix path or name that the kernel's form cannot hold.
pub(super) fn encode(address: &Address, raw: &mut RawAddress) -> io::Result<libc::socklen_t> {
    address.check()?;
    let length = match address {
        Address::Ip(SocketAddr::V4(v4)) => {
            let form = libc::sockaddr_in {
                sin_family: libc::AF_INET as libc::sa_family_t,
                sin_port: v4.port().to_be(),
                sin_addr: in_addr(*v4.ip()),
                sin_zero: [0; 8],
            };
            // SAFETY: `sockaddr_storage` is as large as, and aligned for, every address form.
            unsafe { raw.as_mut_ptr().cast::<libc::sockaddr_in>().write(form) };
            size_of::<libc::sockaddr_in>()
        }
        Address::Ip(SocketAddr::V6(v6)) => {
            let form = libc::sockaddr_in6 {
                sin6_family: libc::AF_INET6 as libc::sa_family_t,
                sin6_port: v6.port().to_be(),
                sin6_flowinfo: v6.flowinfo(),
                sin6_addr: in6_addr(*v6.ip()),
                sin6_scope_id: v6.scope_id(),
            };
            // SAFETY: as above.
            unsafe { raw.as_mut_ptr().cast::<libc::sockaddr_in6>().write(form) };
            size_of::<libc::sockaddr_in6>()
        }
        Address::Path(path) => encode_unix(&[], path.as_os_str().as_bytes(), &[0], raw),
        Address::Abstract(name) => encode_unix(&[0], name, &[], raw),
        Address::Unnamed => encode_unix(&[], &[], &[], raw),
    };
    Ok(length as libc::socklen_t)
}

fn encode_unix(before: &[u8], name: &[u8], after: &[u8], raw: &mut RawAddress) -> usize {
    let mut length = PATH_OFFSET;
    // SAFETY: as in `encode`, for the first field.
    unsafe { raw.as_mut_ptr().cast::<libc::sa_family_t>().write(libc::AF_UNIX as libc::sa_family_t) };
    for part in [before, name, after] {
        assert!(length + part.len() <= size_of::<libc::sockaddr_un>(), "the length of a Unix name was checked before");
        // SAFETY: within the storage, by the line above; the parts are borrowed from elsewhere and cannot
        // overlap it.
        unsafe { part.as_ptr().copy_to_nonoverlapping(raw.as_mut_ptr().cast::<u8>().add(length), part.len()) };
        length += part.len();
    }
    length
}

/// Reads the kernel's form. A family that is none of ours, and a length too short for its family (zero for the
/// sender of an unbound Unix datagram), are `Unnamed`: there is nothing that could be answered to.
///
/// # Safety
/// The first `length` bytes of `raw` have been written, or all of it if `length` is greater than its size.
pub(super) unsafe fn decode(raw: &RawAddress, length: libc::socklen_t) -> Address {
    let length = (length as usize).min(size_of::<RawAddress>());
    let start = raw.as_ptr();
    if length < PATH_OFFSET {
        return Address::Unnamed;
    }
    // SAFETY: the family is the first field of every form, and at least that much was written.
    let family = libc::c_int::from(unsafe { start.cast::<libc::sa_family_t>().read() });
    match family {
        libc::AF_INET if length >= size_of::<libc::sockaddr_in>() => {
            // SAFETY: the family says that it is this form, and all of it was written.
            let form = unsafe { start.cast::<libc::sockaddr_in>().read() };
            SocketAddrV4::new(ipv4(form.sin_addr), u16::from_be(form.sin_port)).into()
        }
        libc::AF_INET6 if length >= size_of::<libc::sockaddr_in6>() => {
            // SAFETY: as above.
            let form = unsafe { start.cast::<libc::sockaddr_in6>().read() };
            let port = u16::from_be(form.sin6_port);
            SocketAddrV6::new(ipv6(form.sin6_addr), port, form.sin6_flowinfo, form.sin6_scope_id).into()
        }
        libc::AF_UNIX => {
            // SAFETY: `length` bytes were written, and they start with the family.
            let name = unsafe { std::slice::from_raw_parts(start.cast::<u8>().add(PATH_OFFSET), length - PATH_OFFSET) };
            decode_unix(name)
        }
        _ => Address::Unnamed,
    }
}

/// A path of 108 bytes has no NUL of its own; the kernel then adds one and counts it, past the end of
/// `sockaddr_un`.
fn decode_unix(name: &[u8]) -> Address {
    match name {
        [] => Address::Unnamed,
        [0, name @ ..] => Address::Abstract(name.into()),
        _ => {
            let path = name.split(|byte| *byte == 0).next().unwrap_or(name);
            Address::Path(Path::new(OsStr::from_bytes(path)).into())
        }
    }
}

pub(super) fn in_addr(ip: Ipv4Addr) -> libc::in_addr {
    libc::in_addr { s_addr: u32::from_ne_bytes(ip.octets()) }
}

pub(super) fn in6_addr(ip: Ipv6Addr) -> libc::in6_addr {
    libc::in6_addr { s6_addr: ip.octets() }
}

pub(super) fn ipv4(raw: libc::in_addr) -> Ipv4Addr {
    Ipv4Addr::from(raw.s_addr.to_ne_bytes())
}

pub(super) fn ipv6(raw: libc::in6_addr) -> Ipv6Addr {
    Ipv6Addr::from(raw.s6_addr)
}

#[cfg(test)]
mod tests {
    use super::super::address::tests::{addresses, bytes_of, path};
    use super::*;
    use proptest::prelude::*;

    fn through_the_kernels_form(address: &Address) -> (Address, usize) {
        let mut raw = RawAddress::uninit();
        let length = encode(address, &mut raw).unwrap();
        // SAFETY: `encode` wrote `length` bytes.
        (unsafe { decode(&raw, length) }, length as usize)
    }

    proptest! {
        #[test]
        fn the_kernels_form_is_read_back_as_what_was_written(address in addresses(), flow in any::<u32>()) {
            let address = match address {
                Address::Ip(SocketAddr::V6(mut v6)) => {
                    v6.set_flowinfo(flow);
                    v6.into()
                }
                other => other,
            };
            let (back, length) = through_the_kernels_form(&address);
            prop_assert_eq!(&back, &address);
            prop_assert_eq!(bytes_of(&back), bytes_of(&address));
            prop_assert!(length <= size_of::<libc::sockaddr_un>());
        }

        #[test]
        fn no_bytes_from_the_kernel_make_the_decoder_panic(family in 0u16..12, bytes in any::<[u8; 126]>(), length in 0u32..200) {
            let mut raw = RawAddress::zeroed();
            // SAFETY: 2 + 126 bytes fill the storage, all of which was written already.
            unsafe {
                raw.as_mut_ptr().cast::<u16>().write(family);
                bytes.as_ptr().copy_to_nonoverlapping(raw.as_mut_ptr().cast::<u8>().add(2), bytes.len());
                decode(&raw, length);
            }
        }
    }

    #[test]
    fn lengths_of_the_kernels_form_are_exact() {
        let length = |address| through_the_kernels_form(&address).1;
        assert_eq!(length(Address::from((Ipv4Addr::LOCALHOST, 1))), 16);
        assert_eq!(length(Address::from((Ipv6Addr::LOCALHOST, 1))), 28);
        assert_eq!(length(path("/a")), 2 + 2 + 1);
        assert_eq!(length(Address::Abstract(b"\0a\0"[..].into())), 2 + 1 + 3);
        assert_eq!(length(Address::Abstract([][..].into())), 2 + 1);
        assert_eq!(length(Address::Unnamed), 2);
        assert_eq!(length(path(&"x".repeat(107))), 110);
        assert_eq!(length(Address::Abstract(vec![0; 107].into())), 110);
    }

    #[test]
    fn a_peers_path_without_a_nul_is_read_to_its_end() {
        let mut long = vec![b'x'; 108];
        assert_eq!(decode_unix(&long), path(&"x".repeat(108)));
        long.push(0);
        assert_eq!(decode_unix(&long), path(&"x".repeat(108)));
        assert_eq!(decode_unix(b"/a\0rubbish"), path("/a"));
    }
}
