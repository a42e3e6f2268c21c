//! The loopback of the real kernel, and how to know that it has delivered.
//!
//! A packet that is sent there lies at the end of a queue of the processor that sends it. As a rule it is taken off
//! before the call returns; on a busy machine a thread of the kernel does it, some time later. Who looks after a fixed
//! time sees one or the other. But the queue keeps its order, and so a datagram to oneself is a probe: when it has
//! come, what was sent before it has come, too.
//!
//! ```text
//!   this processor's queue     SYN ─ data ─ FIN ─ probe ──►      what a packet causes (ACK, RST, the next piece
//!                                            └─ again, behind    of a stream) goes to the end: so some rounds
//!                                               what they caused
//! ```
//!
//! It holds for one processor, so a thread stays where it is while it plays. What TCP puts off by a timer, as an
//! acknowledgement, is not in any queue: [`await_acknowledgement`] asks the socket for it.

use crate::sys::{Fd, check, socket};
use std::io;
use std::mem::MaybeUninit;
use std::net::UdpSocket;
use std::time::{Duration, Instant};

/// How many times a packet may cause a packet before all is still. A refused SYN takes two, a handshake with data
/// behind it four.
const ROUNDS: usize = 8;

/// Longer than any timer that is waited for here; a machine that takes longer has stopped.
const DEADLINE: Duration = Duration::from_secs(10);

/// Linux's number for a connection that is no more.
const CLOSED: u8 = 7;

/// How often what cannot be waited for is looked at.
const GLANCE: Duration = Duration::from_millis(1);

pub struct Loopback {
    probe: UdpSocket,
    /// The processors that the thread could run on before, to be put back. None: it may not choose.
    processors: Option<libc::cpu_set_t>,
}

impl Loopback {
    /// Keeps this thread on the processor that it is on.
    pub fn new() -> io::Result<Loopback> {
        let probe = UdpSocket::bind("127.0.0.1:0")?;
        probe.connect(probe.local_addr()?)?;
        probe.set_read_timeout(Some(DEADLINE))?;
        Ok(Loopback { probe, processors: stay() })
    }

    /// Returns when what this thread has sent has arrived, and what that caused.
    pub fn settle(&self) {
        let mut byte = [0];
        for _ in 0..ROUNDS {
            self.probe.send(&byte).expect("a probe leaves");
            self.probe.recv(&mut byte).expect("a probe comes back");
        }
    }
}

impl Drop for Loopback {
    fn drop(&mut self) {
        if let Some(processors) = &self.processors {
            // SAFETY: the pointer and the size describe `processors`, which the kernel only reads.
            unsafe { libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), processors) };
        }
    }
}

/// Binds this thread to its processor; the answer is where it could run before.
fn stay() -> Option<libc::cpu_set_t> {
    let size = size_of::<libc::cpu_set_t>();
    // SAFETY: a set of bits, for which zero is a value.
    let (mut before, mut only): (libc::cpu_set_t, libc::cpu_set_t) =
        unsafe { (MaybeUninit::zeroed().assume_init(), MaybeUninit::zeroed().assume_init()) };
    // SAFETY: the pointer and the size describe `before`. The second call takes nothing.
    let (known, processor) = unsafe { (libc::sched_getaffinity(0, size, &raw mut before), libc::sched_getcpu()) };
    let processor = usize::try_from(processor).ok().filter(|_| known == 0)?;
    // SAFETY: of a number beyond the set nothing is written.
    unsafe { libc::CPU_SET(processor, &mut only) };
    // SAFETY: the pointer and the size describe `only`, which the kernel only reads.
    (unsafe { libc::sched_setaffinity(0, size, &raw const only) } == 0).then_some(before)
}

/// Returns when the peer has acknowledged everything that was sent on a TCP socket, its end included, or nobody waits
/// for that any more; an acknowledgement may be put off for 40 ms and more.
pub fn await_acknowledgement(fd: &Fd) {
    let is_over = || socket::tcp_info(fd).is_ok_and(|info| info.state == CLOSED);
    until("everything is acknowledged", || unacknowledged(fd) == 0 || is_over());
}

/// Returns when nothing is under way from a TCP socket: what its peer has no room for may still be queued.
pub fn await_rest(fd: &Fd) {
    until("nothing is under way", || socket::tcp_info(fd).is_ok_and(|info| info.unacked == 0));
}

/// The bytes in the send buffer, and one for an end.
fn unacknowledged(fd: &Fd) -> libc::c_int {
    let mut bytes = 0;
    // SAFETY: the request writes an int, and `bytes` is one.
    check(unsafe { libc::ioctl(fd.raw(), libc::TIOCOUTQ, &raw mut bytes) }).expect("a connected socket");
    bytes
}

/// # Panics
/// After the deadline.
pub fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let began = Instant::now();
    while !is_so() {
        assert!(began.elapsed() < DEADLINE, "{what}: not in time");
        std::thread::sleep(GLANCE);
    }
}
