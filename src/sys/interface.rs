//! The network interfaces of this machine, and their addresses.
//!
//! A list of the moment: interfaces come and go, and nothing here tells when. Whoever needs to know (a service
//! that announces itself on every network) asks again from time to time.

use nix::net::if_::{InterfaceFlags, if_nametoindex};
use nix::sys::socket::SockaddrStorage;
use std::io;
use std::net::{IpAddr, Ipv4Addr};

/// One address of one network interface of this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// The number that sockets know it by; never 0.
    pub index: u32,
    /// Its name, such as `eth0`; an address with a label has the label's, such as `eth0:1`.
    pub name: String,
    /// One of its addresses. An interface with several is listed once for each.
    pub address: IpAddr,
    /// Where to send what all on its network shall hear; IPv4 only.
    pub broadcast: Option<Ipv4Addr>,
    /// Whether it leads back to this machine.
    pub loopback: bool,
    /// Whether it is switched on.
    pub up: bool,
}

/// Every IP address of every interface of this machine, at this moment. Makes a few system calls for each, so
/// it is not for every turn.
///
/// # Errors
/// Those of getifaddrs(3): EMFILE, ENOBUFS, ENOMEM and others.
pub fn interfaces() -> io::Result<Vec<Interface>> {
    seam!(interfaces());
    let found = nix::ifaddrs::getifaddrs()?.filter_map(|entry| {
        let address = ip(entry.address.as_ref()?)?;
        let broadcast = match (address, entry.broadcast.as_ref().and_then(ip)) {
            (IpAddr::V4(_), Some(IpAddr::V4(broadcast))) => Some(broadcast),
            _ => None,
        };
        // An interface that has vanished since the list was made is left out.
        let index = if_nametoindex(entry.interface_name.as_str()).ok()?;
        let loopback = entry.flags.contains(InterfaceFlags::IFF_LOOPBACK);
        let up = entry.flags.contains(InterfaceFlags::IFF_UP);
        Some(Interface { index, name: entry.interface_name, address, broadcast, loopback, up })
    });
    Ok(found.collect())
}

/// `None` for the hardware addresses that are listed as well.
fn ip(address: &SockaddrStorage) -> Option<IpAddr> {
    let v4 = address.as_sockaddr_in().map(|v4| v4.ip().into());
    v4.or_else(|| address.as_sockaddr_in6().map(|v6| v6.ip().into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_among_the_interfaces() {
        let found = interfaces().unwrap();
        let lo = found.iter().find(|interface| interface.address == Ipv4Addr::LOCALHOST).unwrap();
        assert!(lo.loopback && lo.up && lo.index > 0);
        assert_eq!((lo.name.as_str(), lo.broadcast), ("lo", None));
    }
}
