//! What can be set on a socket and asked of it: setsockopt(2), getsockopt(2) and fcntl(2), each called in one
//! place.
//!
//! Options are numbers in a C interface without types: level, name and value must fit together, and the kernel
//! clamps, doubles or rounds as it pleases. Here every option is one function with a type and a unit. Units are
//! the crate's (durations, bytes); what the kernel makes of them stands at each function.

use super::{Fd, check};
use std::io;
use std::mem::MaybeUninit;
use std::time::Duration;

/// When and how to ask a silent peer whether it is still there (TCP keep-alive, RFC 1122 section 4.2.3.6).
///
/// After `idle` without a segment from the peer, up to `probes` probes are sent, `interval` apart. If none is
/// answered, the connection ends with ETIMEDOUT: `idle + interval * probes` after the last sign of life. While
/// sent bytes wait for their acknowledgement TCP's own retransmission watches over the peer, and no probes are
/// sent.
///
/// Times are whole seconds: they are rounded up, and are at least 1 s and at most 32,767 s. Probes are from 1
/// to 127. What is beyond is cut to these, which are the kernel's limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeepAlive {
    /// Silence before the first probe.
    pub idle: Duration,
    /// Time from one probe to the next.
    pub interval: Duration,
    /// Unanswered probes after which the peer counts as gone.
    pub probes: u32,
}

/// The kernel's longest time between two probes, `MAX_TCP_KEEPIDLE` and `MAX_TCP_KEEPINTVL`.
const KEEP_ALIVE_SECONDS_LIMIT: u64 = 32_767;

/// The kernel's highest number of probes, `MAX_TCP_KEEPCNT`.
const KEEP_ALIVE_PROBES_LIMIT: u32 = 127;

/// What the kernel knows about one TCP connection (the useful part of `struct tcp_info`, tcp(7)).
///
/// A snapshot: by the time it is looked at, the connection has moved on. Figures that an old kernel does not
/// keep are zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TcpInfo {
    /// The state of RFC 793 by Linux's number: 1 established, 2 SYN sent, 3 SYN received, 4 and 5 our end is
    /// sent (FIN-WAIT), 6 TIME-WAIT, 7 closed, 8 the peer's end has come (CLOSE-WAIT), 9 LAST-ACK, 10
    /// listening, 11 CLOSING.
    pub state: u8,
    /// Smoothed round-trip time.
    pub rtt: Duration,
    /// Mean deviation of the round-trip time.
    pub rtt_variance: Duration,
    /// Segments sent again since the connection was made.
    pub retransmits: u32,
    /// Largest segment that is sent, in bytes.
    pub send_mss: u32,
    /// How many segments congestion control lets be under way.
    pub congestion_window: u32,
    /// Segments sent and not yet acknowledged. For a listener: connections waiting to be accepted.
    pub unacked: u32,
    /// Bytes in the kernel's send buffer that have not been sent even once.
    pub unsent_bytes: u64,
    /// The recent rate at which the peer got our bytes, in bytes per second; zero before there was one to measure.
    pub delivery_rate: u64,
    /// Bytes that the peer has acknowledged.
    pub bytes_acked: u64,
    /// Bytes that have come from the peer in order, and one for its end.
    pub bytes_received: u64,
}

/// The head of the kernel's `struct tcp_info`, whose layout grows at the end and never changes. Written down
/// here because libc's own stops short of the last fields in some versions.
#[repr(C)]
#[derive(Clone, Copy)]
struct RawTcpInfo {
    state: u8,
    _ca_state_to_flags: [u8; 7],
    _rto_and_ato: [u32; 2],
    snd_mss: u32,
    _rcv_mss: u32,
    unacked: u32,
    _sacked_to_rcv_ssthresh: [u32; 10],
    rtt: u32,
    rttvar: u32,
    _snd_ssthresh: u32,
    snd_cwnd: u32,
    _advmss_to_rcv_space: [u32; 4],
    total_retrans: u32,
    _pacing_rates: [u64; 2],
    bytes_acked: u64,
    bytes_received: u64,
    _segments: [u32; 2],
    notsent_bytes: u32,
    _min_rtt_and_data_segments: [u32; 3],
    delivery_rate: u64,
}

/// Whether a small segment is sent at once (`true`, TCP_NODELAY) or waits for the acknowledgement of the one
/// before it (Nagle). Accepted connections inherit it from the listening socket.
pub fn set_nodelay(fd: &Fd, on: bool) -> io::Result<()> {
    set(fd, libc::IPPROTO_TCP, libc::TCP_NODELAY, &int(on))
}

/// Whether a listener may bind to a port while connections of an earlier one are in TIME-WAIT; for UDP, whether
/// several sockets may share one port.
pub fn set_reuse_address(fd: &Fd, on: bool) -> io::Result<()> {
    set(fd, libc::SOL_SOCKET, libc::SO_REUSEADDR, &int(on))
}

/// Whether several sockets of one user may bind to one port and share what arrives.
pub fn set_reuse_port(fd: &Fd, on: bool) -> io::Result<()> {
    set(fd, libc::SOL_SOCKET, libc::SO_REUSEPORT, &int(on))
}

/// Whether an IPv6 socket keeps away from IPv4; to be set before bind.
pub fn set_only_v6(fd: &Fd, on: bool) -> io::Result<()> {
    set(fd, libc::IPPROTO_IPV6, libc::IPV6_V6ONLY, &int(on))
}

/// Makes the coming close an abort: unsent bytes are dropped and a TCP peer gets an RST.
pub fn set_linger_zero(fd: &Fd) -> io::Result<()> {
    set(fd, libc::SOL_SOCKET, libc::SO_LINGER, &libc::linger { l_onoff: 1, l_linger: 0 })
}

/// Makes the coming close an ordinary one again.
pub fn clear_linger(fd: &Fd) -> io::Result<()> {
    set(fd, libc::SOL_SOCKET, libc::SO_LINGER, &libc::linger { l_onoff: 0, l_linger: 0 })
}

/// Asks for room for `bytes` in the kernel's send buffer, and ends its automatic growth. The kernel doubles the
/// number for its own book-keeping, and cuts it to `net.core.wmem_max` without a word.
pub fn set_send_buffer(fd: &Fd, bytes: usize) -> io::Result<()> {
    set(fd, libc::SOL_SOCKET, libc::SO_SNDBUF, &int_up_to_limit(bytes))
}

/// As [`set_send_buffer`], for what arrives (`net.core.rmem_max`). For TCP to be set before listen or connect,
/// since the window scale is agreed on in the handshake.
pub fn set_receive_buffer(fd: &Fd, bytes: usize) -> io::Result<()> {
    set(fd, libc::SOL_SOCKET, libc::SO_RCVBUF, &int_up_to_limit(bytes))
}

/// Turns TCP's keep-alive probes on, with these times, or off.
///
/// # Errors
/// EOPNOTSUPP: not a TCP socket. The probes are then still off.
pub fn set_keep_alive(fd: &Fd, keep_alive: Option<KeepAlive>) -> io::Result<()> {
    if let Some(times) = keep_alive {
        let seconds = |time: Duration| {
            let rounded_up = time.as_secs().saturating_add(u64::from(time.subsec_nanos() > 0));
            rounded_up.clamp(1, KEEP_ALIVE_SECONDS_LIMIT) as libc::c_int
        };
        let probes = times.probes.clamp(1, KEEP_ALIVE_PROBES_LIMIT) as libc::c_int;
        set(fd, libc::IPPROTO_TCP, libc::TCP_KEEPIDLE, &seconds(times.idle))?;
        set(fd, libc::IPPROTO_TCP, libc::TCP_KEEPINTVL, &seconds(times.interval))?;
        set(fd, libc::IPPROTO_TCP, libc::TCP_KEEPCNT, &probes)?;
    }
    // Last, so that no probe goes out at the system's times.
    set(fd, libc::SOL_SOCKET, libc::SO_KEEPALIVE, &int(keep_alive.is_some()))
}

/// The kernel's figures about a TCP connection.
///
/// # Errors
/// EOPNOTSUPP or ENOPROTOOPT: not a TCP socket.
pub fn tcp_info(fd: &Fd) -> io::Result<TcpInfo> {
    seam!(tcp_info(fd));
    // SAFETY: every field is an integer.
    let raw: RawTcpInfo = unsafe { get(fd, libc::IPPROTO_TCP, libc::TCP_INFO) }?;
    Ok(TcpInfo {
        state: raw.state,
        rtt: Duration::from_micros(raw.rtt.into()),
        rtt_variance: Duration::from_micros(raw.rttvar.into()),
        retransmits: raw.total_retrans,
        send_mss: raw.snd_mss,
        congestion_window: raw.snd_cwnd,
        unacked: raw.unacked,
        unsent_bytes: raw.notsent_bytes.into(),
        delivery_rate: raw.delivery_rate,
        bytes_acked: raw.bytes_acked,
        bytes_received: raw.bytes_received,
    })
}

/// The error that waits on the socket, if any; taking it clears it (SO_ERROR). How a connection attempt ended
/// is told here.
pub fn take_error(fd: &Fd) -> io::Result<Option<io::Error>> {
    match get_int(fd, libc::SO_ERROR)? {
        0 => Ok(None),
        errno => Ok(Some(io::Error::from_raw_os_error(errno))),
    }
}

/// Whether `listen` was called on it.
pub fn is_listening(fd: &Fd) -> io::Result<bool> {
    get_int(fd, libc::SO_ACCEPTCONN).map(|value| value != 0)
}

/// Whether it carries a stream of bytes (and not datagrams or packets).
///
/// # Errors
/// ENOTSOCK: not a socket.
pub fn is_stream(fd: &Fd) -> io::Result<bool> {
    get_int(fd, libc::SO_TYPE).map(|value| value == libc::SOCK_STREAM)
}

/// Makes a descriptor from elsewhere one of ours: non-blocking, and closed on exec.
///
/// O_NONBLOCK belongs to the open file, so every duplicate of the descriptor, in whatever process, becomes
/// non-blocking too.
pub fn set_nonblocking(fd: &Fd) -> io::Result<()> {
    let flags = control(fd, libc::F_GETFL, 0)?;
    if flags & libc::O_NONBLOCK == 0 {
        control(fd, libc::F_SETFL, flags | libc::O_NONBLOCK)?;
    }
    control(fd, libc::F_SETFD, libc::FD_CLOEXEC).map(drop)
}

/// fcntl(2), for the commands whose argument is a number.
fn control(fd: &Fd, command: libc::c_int, argument: libc::c_int) -> io::Result<libc::c_int> {
    seam!(fcntl(fd, command, argument));
    // SAFETY: none of the commands used here takes a pointer.
    check(unsafe { libc::fcntl(fd.raw(), command, argument) })
}

/// setsockopt(2). The kernel compares the size of `T` with what the option expects.
pub(super) fn set<T: Copy>(fd: &Fd, level: libc::c_int, name: libc::c_int, value: &T) -> io::Result<()> {
    seam!(set(fd, level, name, value));
    let size = size_of::<T>() as libc::socklen_t;
    // SAFETY: the pointer and the size describe `value`, which the kernel only reads and does not keep.
    check(unsafe { libc::setsockopt(fd.raw(), level, name, std::ptr::from_ref(value).cast(), size) }).map(drop)
}

/// getsockopt(2). What the kernel does not fill in is zero.
///
/// # Safety
/// `T` consists of integers: any bits are a value of it.
pub(super) unsafe fn get<T: Copy>(fd: &Fd, level: libc::c_int, name: libc::c_int) -> io::Result<T> {
    let mut value = MaybeUninit::<T>::zeroed();
    let mut size = size_of::<T>() as libc::socklen_t;
    // SAFETY: the pointer and the size describe `value`; the kernel writes no more than `size` bytes.
    check(unsafe { libc::getsockopt(fd.raw(), level, name, value.as_mut_ptr().cast(), &raw mut size) })?;
    // SAFETY: zeroed, then perhaps overwritten; both are values, as this function's caller guarantees.
    Ok(unsafe { value.assume_init() })
}

fn get_int(fd: &Fd, name: libc::c_int) -> io::Result<libc::c_int> {
    seam!(get_int(fd, name));
    // SAFETY: an integer.
    unsafe { get(fd, libc::SOL_SOCKET, name) }
}

pub(super) fn int(on: bool) -> libc::c_int {
    libc::c_int::from(on)
}

fn int_up_to_limit(bytes: usize) -> libc::c_int {
    bytes.try_into().unwrap_or(libc::c_int::MAX)
}

#[cfg(test)]
mod tests {
    use super::super::socket::Family;
    use super::super::{event, socket};
    use super::*;

    fn tcp() -> Fd {
        socket::stream(Family::V4).unwrap()
    }

    fn tcp_option(fd: &Fd, name: libc::c_int) -> i32 {
        // SAFETY: an integer.
        unsafe { get(fd, libc::IPPROTO_TCP, name) }.unwrap()
    }

    #[test]
    fn keep_alive_is_rounded_up_and_held_to_the_kernels_limits() {
        let fd = tcp();
        let times = |idle, interval, probes| Some(KeepAlive { idle, interval, probes });
        let seen = |fd: &Fd| {
            let on = get_int(fd, libc::SO_KEEPALIVE).unwrap();
            (
                on,
                tcp_option(fd, libc::TCP_KEEPIDLE),
                tcp_option(fd, libc::TCP_KEEPINTVL),
                tcp_option(fd, libc::TCP_KEEPCNT),
            )
        };
        set_keep_alive(&fd, times(Duration::from_secs(30), Duration::from_millis(1_001), 4)).unwrap();
        assert_eq!(seen(&fd), (1, 30, 2, 4));
        set_keep_alive(&fd, times(Duration::ZERO, Duration::ZERO, 0)).unwrap();
        assert_eq!(seen(&fd), (1, 1, 1, 1));
        set_keep_alive(&fd, times(Duration::MAX, Duration::MAX, u32::MAX)).unwrap();
        assert_eq!(seen(&fd), (1, 32_767, 32_767, 127));
        set_keep_alive(&fd, None).unwrap();
        assert_eq!(seen(&fd).0, 0);
        let unix = socket::stream(Family::Unix).unwrap();
        assert!(set_keep_alive(&unix, times(Duration::ZERO, Duration::ZERO, 0)).is_err());
    }

    #[test]
    fn switches_switch() {
        let fd = tcp();
        for on in [true, false] {
            set_nodelay(&fd, on).unwrap();
            assert_eq!(tcp_option(&fd, libc::TCP_NODELAY) != 0, on);
            set_reuse_address(&fd, on).unwrap();
            assert_eq!(get_int(&fd, libc::SO_REUSEADDR).unwrap() != 0, on);
            set_reuse_port(&fd, on).unwrap();
            assert_eq!(get_int(&fd, libc::SO_REUSEPORT).unwrap() != 0, on);
        }
        set_only_v6(&socket::stream(Family::V6).unwrap(), true).unwrap();
        assert!(set_only_v6(&fd, true).is_err());
    }

    #[test]
    fn buffers_of_any_size_may_be_asked_for() {
        let fd = tcp();
        set_send_buffer(&fd, 20_000).unwrap();
        assert_eq!(get_int(&fd, libc::SO_SNDBUF).unwrap(), 40_000);
        set_receive_buffer(&fd, 20_000).unwrap();
        assert_eq!(get_int(&fd, libc::SO_RCVBUF).unwrap(), 40_000);
        set_send_buffer(&fd, usize::MAX).unwrap();
        set_receive_buffer(&fd, usize::MAX).unwrap();
    }

    #[test]
    fn a_socket_knows_what_it_is() {
        assert!(!is_stream(&socket::datagram(Family::V6).unwrap()).unwrap());
        assert!(is_stream(&socket::stream(Family::Unix).unwrap()).unwrap());
        let bell = event::create().unwrap();
        assert_eq!(is_stream(&bell).unwrap_err().raw_os_error(), Some(libc::ENOTSOCK));
    }

    #[test]
    fn the_head_of_tcp_info_has_the_kernels_layout() {
        assert_eq!(std::mem::offset_of!(RawTcpInfo, rtt), std::mem::offset_of!(libc::tcp_info, tcpi_rtt));
        assert_eq!(
            std::mem::offset_of!(RawTcpInfo, total_retrans),
            std::mem::offset_of!(libc::tcp_info, tcpi_total_retrans)
        );
        assert_eq!(std::mem::offset_of!(RawTcpInfo, delivery_rate), 160);
    }
}
