//! Sockets.

use super::super::kernel::{Errno, FIRST, Id, Kernel, Protocol, What};
use super::super::stream::State;
use super::super::with;
use super::{call, on, own, risk, size, unit};
use crate::sys::socket::{Family, IOV_LIMIT};
use crate::sys::{Address, Fd};
use bytes::BytesMut;
use std::io::{self, IoSlice};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::Path;

pub fn create(family: Family, kind: libc::c_int) -> Option<io::Result<Fd>> {
    call(1, |kernel| {
        kernel.enter();
        if kernel.chance.once_in(kernel.weather.shortages) {
            return Err(libc::ENOBUFS);
        }
        let unix = family == Family::Unix;
        let id = if kind == libc::SOCK_STREAM { kernel.make_stream(unix) } else { kernel.make_datagram(unix) };
        if let Some(node) = kernel.node_mut(id) {
            node.v6 = family == Family::V6;
        }
        kernel.install(id).map(own)
    })
}

pub fn bind(fd: &Fd, address: &Address) -> Option<io::Result<()>> {
    on(2, fd, unit, |kernel, id| match kernel.node(id).map(|node| &node.what) {
        Some(What::Datagram(_)) => kernel.bind_datagram(id, address),
        _ => kernel.bind_stream(id, address),
    })
}

pub fn listen(fd: &Fd, backlog: u32) -> Option<io::Result<()>> {
    on(3, fd, unit, |kernel, id| kernel.listen(id, backlog as usize))
}

pub fn connect(fd: &Fd, address: &Address) -> Option<io::Result<()>> {
    on(4, fd, unit, |kernel, id| kernel.connect(id, address))
}

pub fn accept(fd: &Fd) -> Option<io::Result<(Fd, Address)>> {
    on(
        5,
        fd,
        |(fd, _): &(Fd, Address)| fd.raw() as u64,
        |kernel, id| {
            // Before anything else, and even if nobody waits.
            kernel.has_descriptor()?;
            if kernel.chance.once_in(kernel.weather.interrupts) {
                return Err(libc::EINTR);
            }
            if kernel.chance.once_in(kernel.weather.accept_failures) {
                return Err(fail_accept(kernel, id));
            }
            let (child, address) = kernel.accept(id)?;
            Ok((own(kernel.install(child)?), address))
        },
    )
}

/// One of the errors that accept(2) may answer by no fault of the program.
fn fail_accept(kernel: &mut Kernel, listener: Id) -> Errno {
    match kernel.chance.below(4) {
        0 => libc::EMFILE,
        1 => libc::ENOBUFS,
        2 => libc::ENFILE,
        _ => match kernel.accept(listener) {
            Ok((child, _)) => {
                kernel.abandon(child);
                libc::ECONNABORTED
            }
            Err(errno) => errno,
        },
    }
}

pub fn local_address(fd: &Fd) -> Option<io::Result<Address>> {
    on(
        6,
        fd,
        |_| 1,
        |kernel, id| {
            let node = kernel.node(id).ok_or(libc::EBADF)?;
            match &node.what {
                What::Stream(stream) => Ok(stream.local.clone().unwrap_or(unbound(stream.unix, node.v6))),
                What::Datagram(datagram) => Ok(datagram.local.clone().unwrap_or(unbound(datagram.unix, node.v6))),
                _ => Err(libc::ENOTSOCK),
            }
        },
    )
}

fn unbound(unix: bool, v6: bool) -> Address {
    match (unix, v6) {
        (true, _) => Address::Unnamed,
        (_, true) => (Ipv6Addr::UNSPECIFIED, 0).into(),
        (_, false) => (Ipv4Addr::UNSPECIFIED, 0).into(),
    }
}

pub fn peer_address(fd: &Fd) -> Option<io::Result<Address>> {
    on(
        7,
        fd,
        |_| 1,
        |kernel, id| {
            let stream = kernel.stream(id).ok_or(libc::ENOTCONN)?;
            let known = stream.state == State::Open || stream.unix && stream.state == State::Closed;
            if !known {
                return Err(libc::ENOTCONN);
            }
            Ok(stream.remote.clone().unwrap_or(Address::Unnamed))
        },
    )
}

pub fn recv(fd: &Fd, input: &mut BytesMut, limit: usize) -> Option<io::Result<usize>> {
    on(8, fd, size, |kernel, id| {
        risk(kernel, libc::ENOMEM)?;
        let room = (input.capacity() - input.len()).min(limit);
        kernel.recv(id, room, |bytes| input.extend_from_slice(bytes))
    })
}

pub fn send(fd: &Fd, bytes: &[u8]) -> Option<io::Result<usize>> {
    send_vectored(fd, &[IoSlice::new(bytes)])
}

pub fn send_vectored(fd: &Fd, slices: &[IoSlice<'_>]) -> Option<io::Result<usize>> {
    on(9, fd, size, |kernel, id| {
        risk(kernel, libc::ENOBUFS)?;
        kernel.send(id, &slices[..slices.len().min(IOV_LIMIT)], false)
    })
}

pub fn shutdown_write(fd: &Fd) -> Option<io::Result<()>> {
    on(10, fd, unit, |kernel, id| kernel.shutdown(id))
}

pub fn unlink(path: &Path) -> Option<io::Result<()>> {
    call(11, |kernel| {
        kernel.enter();
        let address = Address::Path(path.into());
        let stream = kernel.names.remove(&(Protocol::Stream, address.clone())).is_some();
        let datagram = kernel.names.remove(&(Protocol::Datagram, address)).is_some();
        if stream || datagram { Ok(()) } else { Err(libc::ENOENT) }
    })
}

pub fn is_socket_file(path: &Path) -> Option<bool> {
    with(|kernel| {
        let address = Address::Path(path.into());
        kernel.names.contains_key(&(Protocol::Stream, address.clone()))
            || kernel.names.contains_key(&(Protocol::Datagram, address))
    })
}

/// Bytes that a read could take now, if the descriptor is a simulated one.
pub fn waiting(fd: &Fd) -> Option<usize> {
    if fd.raw() < FIRST {
        return None;
    }
    with(|kernel| kernel.find(fd.raw()).ok().and_then(|id| kernel.stream(id)).map_or(0, |stream| stream.rx.len()))
}

/// Has epoll report anew what is ready; whether the descriptor is a simulated one.
pub fn arm_again(fd: &Fd) -> bool {
    fd.raw() >= FIRST && with(|kernel| kernel.find(fd.raw()).map(|id| kernel.wake(id, 0))).is_some()
}

/// send(2) with MSG_OOB.
#[cfg(test)]
pub fn send_urgent(fd: &Fd, bytes: &[u8]) -> Option<io::Result<usize>> {
    on(9, fd, size, |kernel, id| kernel.send(id, &[IoSlice::new(bytes)], true))
}
