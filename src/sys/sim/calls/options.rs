//! What can be set and asked on a socket. Options that a simulated network has no use for are taken and forgotten.

use super::super::datagram::Datagram;
use super::super::kernel::{Errno, What};
use super::super::stream::{Fin, State, Stream};
use super::{on, unit};
use crate::sys::{Fd, TcpInfo};
use std::io;

pub fn set<T: Copy>(fd: &Fd, level: libc::c_int, name: libc::c_int, value: &T) -> Option<io::Result<()>> {
    let int = if size_of::<T>() >= size_of::<libc::c_int>() {
        // SAFETY: at least an int's bytes are there; every option begins with an integer.
        unsafe { std::ptr::from_ref(value).cast::<libc::c_int>().read_unaligned() }
    } else {
        0
    };
    on(12, fd, unit, |kernel, id| {
        let node = kernel.node_mut(id).ok_or(libc::EBADF)?;
        let v6 = node.v6;
        match &mut node.what {
            What::Stream(stream) => {
                is_known(level, true, stream.unix, v6)?;
                set_on_stream(stream, level, name, int);
            }
            What::Datagram(datagram) => {
                is_known(level, false, datagram.unix, v6)?;
                set_on_datagram(datagram, level, name, int);
            }
            _ => return Err(libc::ENOTSOCK),
        }
        Ok(())
    })
}

/// Whether a socket of this kind has options of this level.
fn is_known(level: libc::c_int, stream: bool, unix: bool, v6: bool) -> Result<(), Errno> {
    match level {
        libc::SOL_SOCKET => Ok(()),
        _ if unix => Err(libc::EOPNOTSUPP),
        libc::IPPROTO_TCP if !stream => Err(libc::ENOPROTOOPT),
        libc::IPPROTO_IPV6 if !v6 => Err(libc::ENOPROTOOPT),
        _ => Ok(()),
    }
}

fn set_on_stream(stream: &mut Stream, level: libc::c_int, name: libc::c_int, int: libc::c_int) {
    match (level, name) {
        (libc::SOL_SOCKET, libc::SO_LINGER) => stream.linger_zero = int != 0,
        (libc::SOL_SOCKET, libc::SO_REUSEPORT) => stream.reuse_port = int != 0,
        (libc::SOL_SOCKET, libc::SO_SNDBUF) => stream.tx_limit = usize::try_from(int).unwrap_or(0).max(1),
        (libc::SOL_SOCKET, libc::SO_RCVBUF) => stream.rx_limit = usize::try_from(int).unwrap_or(0).max(1),
        (libc::IPPROTO_IPV6, libc::IPV6_V6ONLY) => stream.only_v6 = int != 0,
        _ => {}
    }
}

fn set_on_datagram(datagram: &mut Datagram, level: libc::c_int, name: libc::c_int, int: libc::c_int) {
    match (level, name) {
        (libc::SOL_SOCKET, libc::SO_REUSEADDR | libc::SO_REUSEPORT) => datagram.shared |= int != 0,
        (libc::IPPROTO_IP, libc::IP_PKTINFO) | (libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO) => {
            datagram.packet_info = int != 0;
        }
        (libc::SOL_SOCKET, libc::SO_RCVBUF) => datagram.rx_limit = usize::try_from(int).unwrap_or(0),
        _ => {}
    }
}

pub fn get_int(fd: &Fd, name: libc::c_int) -> Option<io::Result<libc::c_int>> {
    on(
        13,
        fd,
        |int| *int as u64,
        |kernel, id| match (&mut kernel.node_mut(id).ok_or(libc::EBADF)?.what, name) {
            (What::Stream(stream), libc::SO_ERROR) => Ok(stream.take_error().unwrap_or(0)),
            (What::Stream(stream), libc::SO_ACCEPTCONN) => Ok(libc::c_int::from(stream.state == State::Listening)),
            (What::Stream(_), libc::SO_TYPE) => Ok(libc::SOCK_STREAM),
            (What::Datagram(_), libc::SO_TYPE) => Ok(libc::SOCK_DGRAM),
            (What::Stream(_) | What::Datagram(_), _) => Ok(0),
            _ => Err(libc::ENOTSOCK),
        },
    )
}

pub fn tcp_info(fd: &Fd) -> Option<io::Result<TcpInfo>> {
    on(
        14,
        fd,
        |_| 1,
        |kernel, id| {
            let rtt = kernel.weather.latency;
            let socket = matches!(kernel.node(id).map(|node| &node.what), Some(What::Stream(_) | What::Datagram(_)));
            let other = if socket { libc::EOPNOTSUPP } else { libc::ENOTSOCK };
            let stream = kernel.stream(id).filter(|stream| !stream.unix).ok_or(other)?;
            Ok(TcpInfo {
                state: number_of_state(stream),
                rtt,
                rtt_variance: rtt / 2,
                retransmits: 0,
                send_mss: 1_448,
                congestion_window: 10,
                unacked: 0,
                unsent_bytes: stream.tx.len() as u64,
                delivery_rate: 0,
                bytes_acked: stream.sent - stream.tx.len() as u64,
                // The end counts as one.
                bytes_received: stream.arrived + u64::from(stream.fin_received),
            })
        },
    )
}

/// Linux's numbers.
fn number_of_state(stream: &Stream) -> u8 {
    match (stream.state, stream.fin, stream.fin_received) {
        (State::Fresh | State::Closed, ..) => 7,
        (State::Listening, ..) => 10,
        (State::Connecting, ..) => 2,
        (State::Open, Fin::No, false) => 1,
        (State::Open, Fin::No, true) => 8,
        (State::Open, Fin::Queued, false) => 4,
        (State::Open, Fin::Queued, true) => 9,
        (State::Open, Fin::Delivered, _) => 5,
    }
}

pub fn fcntl(fd: &Fd, command: libc::c_int, _argument: libc::c_int) -> Option<io::Result<libc::c_int>> {
    let answer = if command == libc::F_GETFL { libc::O_RDWR | libc::O_NONBLOCK } else { 0 };
    on(15, fd, |_| 1, |_, _| Ok(answer))
}
