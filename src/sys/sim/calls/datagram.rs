//! Datagrams, many in one call.

use super::{call, on, risk, size};
use crate::sys::Fd;
use crate::sys::datagram::{Inbox, Interface, Outgoing};
use std::io;
use std::net::IpAddr;

pub fn receive(inbox: &mut Inbox, fd: &Fd, max: usize) -> Option<io::Result<usize>> {
    on(16, fd, size, |kernel, id| {
        risk(kernel, libc::ENOMEM)?;
        let told = kernel.datagram_mut(id).ok_or(libc::ENOTSOCK)?.packet_info;
        let mut failed = None;
        let filled = inbox.fill(max, || match kernel.take_datagram(id) {
            Ok(message) => {
                let to = message.to.ip().filter(|_| told).map(|to| to.ip());
                Some((message.data, message.from, to, LOOPBACK))
            }
            Err(errno) => {
                failed = Some(errno);
                None
            }
        });
        if filled == 0 { Err(failed.unwrap_or(libc::EAGAIN)) } else { Ok(filled) }
    })
}

pub fn send_batch(fd: &Fd, batch: &[Outgoing<'_>]) -> Option<io::Result<usize>> {
    on(17, fd, size, |kernel, id| {
        risk(kernel, libc::ENOBUFS)?;
        for (sent, outgoing) in batch.iter().enumerate() {
            match kernel.send_datagram(id, outgoing.to, outgoing.data) {
                Err(errno) if sent == 0 => return Err(errno),
                Err(_) => return Ok(sent),
                Ok(()) => {}
            }
        }
        Ok(batch.len())
    })
}

/// The number of the only interface.
const LOOPBACK: u32 = 1;

pub fn interfaces() -> Option<io::Result<Vec<Interface>>> {
    call(18, |_| {
        Ok(vec![Interface {
            index: LOOPBACK,
            name: "lo".into(),
            address: IpAddr::from([127, 0, 0, 1]),
            broadcast: None,
            loopback: true,
            up: true,
        }])
    })
}
