//! What the loop has done so far: plain counters, always on.
//!
//! A counter costs one addition where the thing happens, so there is no switch to turn them on and no build
//! without them. All count from the start of the reactor; subtract two copies for a rate.

/// Counters of one reactor, read through [`Net::stats`](crate::Net::stats).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Passes of the loop.
    pub turns: u64,
    /// Readiness events from epoll.
    pub events: u64,
    /// Events for sockets that were gone by the time their turn came: dropped.
    pub stale_events: u64,
    /// Calls of recv(2).
    pub reads: u64,
    /// Calls of recv(2) that found nothing.
    pub reads_empty: u64,
    /// Bytes received on connections.
    pub bytes_read: u64,
    /// Calls of send(2) and sendmsg(2).
    pub writes: u64,
    /// Calls of send(2) and sendmsg(2) that found no room.
    pub writes_full: u64,
    /// Bytes that the kernel took from connections.
    pub bytes_written: u64,
    /// Connections accepted.
    pub accepts: u64,
    /// Peers turned away: by the handler factory, at the connection limit, or for want of descriptors.
    pub refused: u64,
    /// Connections that could not be accepted: the peer had gone, or the network failed.
    pub accept_errors: u64,
    /// Times that the spare descriptor was spent to turn a peer away.
    pub out_of_descriptors: u64,
    /// Connections begun by us.
    pub connects: u64,
    /// Connections begun by us that were not made.
    pub connect_failures: u64,
    /// Connections that ended, for whatever reason.
    pub closes: u64,
    /// Datagrams received.
    pub datagrams_in: u64,
    /// Datagrams that the kernel took.
    pub datagrams_out: u64,
    /// Datagrams refused because the queue was full, or dropped because the kernel would not have them.
    pub datagrams_dropped: u64,
    /// Timers that ran.
    pub timers: u64,
    /// Mail that ran.
    pub mail: u64,
    /// Most mail that waited at one time.
    pub peak_mail: u64,
    /// Posts that woke the loop: each cost its thread one write(2), and all other posts none.
    pub mail_wakes: u64,
    /// Tells that reached nobody: the token was stale, or the handler of another type.
    pub tells_dropped: u64,
    /// Most bytes queued for output on one connection when the queue was offered to the kernel. What a callback sends
    /// to its own connection, and the kernel takes at once, sees no queue.
    pub peak_queued: u64,
    /// Bytes queued for output or left unconsumed, on all connections, now.
    pub held: u64,
    /// Latest that a timer ran after its deadline, in nanoseconds.
    pub worst_timer_lag_ns: u64,
    /// How late timers ran, in sum, in nanoseconds: divide by `timers`.
    pub total_timer_lag_ns: u64,
    /// Longest turn, from waking to the next wait, in nanoseconds: how long everybody else had to wait.
    pub worst_turn_ns: u64,
    /// Time spent outside the wait, in sum, in nanoseconds.
    pub total_busy_ns: u64,
}
