//! What can be set, and what holds when nothing is set.
//!
//! Every queue and every wait in the library has a bound, and every bound stands here with its default and what
//! happens at the limit. The defaults need no help from a handler: a server that sets nothing is bounded in
//! memory and ends peers that overrun it.
//!
//! [`StreamOptions`] belong to a connection (and are inherited from its listener), [`ListenOptions`] to a
//! listener, [`UdpOptions`] to a datagram socket, [`RelayOptions`] to a relayed pair, [`DialOptions`] to a
//! dialer and [`ReactorOptions`] to the loop.
//!
//! Sizes are in bytes and count what is held for one connection, unless their text says otherwise. Times are
//! [`Duration`]s of the monotonic clock, which stands still while the machine is suspended; they end in the first turn
//! after their deadline, never before it. A time-out of zero has passed already: to turn one off, leave it `None`.
//!
//! ```
//! use plimsoll::{ListenOptions, StreamOptions};
//! use std::time::Duration;
//!
//! let stream = StreamOptions::new().with(|o| {
//!     o.high_water = 256 * 1024;
//!     o.low_water = 64 * 1024;
//!     o.idle_timeout = Some(Duration::from_secs(60));
//! });
//! let options = ListenOptions::new().with(|o| {
//!     o.max_connections = Some(10_000);
//!     o.stream = stream;
//! });
//! assert_eq!(options.backlog, 4096);
//! ```

use crate::sys::KeepAlive;
use std::time::Duration;

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;

/// Limits and times of one connection.
///
/// They are set per listener ([`ListenOptions::stream`]), per connection when it is made
/// ([`Net::connect_with`](crate::Net::connect_with)) and at run time ([`Net::options`](crate::Net::options)).
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct StreamOptions {
    /// Queued output, in bytes, above which [`Flow::High`](crate::Flow::High) is answered and, unless
    /// [`read_while_high`](Self::read_while_high), the connection is not read. Default 1 MiB.
    pub high_water: usize,
    /// Queued output, in bytes, at which a connection that was over its high mark counts as drained. At most
    /// the high mark: a larger value acts as the high mark. Default 256 KiB.
    pub low_water: usize,
    /// Queued output, in bytes, over which a further `send` ends the connection with
    /// [`CloseReason::Overflow`](crate::CloseReason::Overflow). One `send` that starts below is taken whole, so
    /// the queue holds at most this and one `send`. Default 64 MiB.
    pub hard_limit: usize,
    /// Input, in bytes, that a handler may leave unconsumed, and so the longest message that it can wait for. When it
    /// is full and more has come, the connection ends with
    /// [`CloseReason::InputLimit`](crate::CloseReason::InputLimit). Default 1 MiB, at least 1.
    pub input_limit: usize,
    /// Queued output, in bytes, that is offered to the kernel at once and not only after the callback.
    /// Default 64 KiB.
    pub eager_flush: usize,
    /// Reads of up to 64 KiB in one turn before the other connections have theirs. Default 4, at least 1.
    pub read_budget: u32,
    /// Goes on reading while the connection's own output is over its high mark. For handlers that forward
    /// elsewhere what they read: with the default, two connections that each wait for the other's output to
    /// drain before they read would wait for ever. Default off.
    pub read_while_high: bool,
    /// Ends the connection with [`CloseReason::Idle`](crate::CloseReason::Idle) when no byte has moved in either
    /// direction for so long. The two sides of a relay share one clock. Moving bytes costs one store, no timer.
    /// Default off.
    pub idle_timeout: Option<Duration>,
    /// Ends the connection with [`CloseReason::Stalled`](crate::CloseReason::Stalled) when output has waited for
    /// so long and the kernel took none of it: the peer does not read. A peer that reads a little now and then is slow,
    /// not stalled. Default off.
    pub stalled_timeout: Option<Duration>,
    /// How long a connection may take to be made, look-up of the name included. Default 10 s.
    pub connect_timeout: Duration,
    /// How long a closed connection may flush, and then wait for its peer's end, before it is cut. Default 5 s.
    pub close_timeout: Duration,
    /// Input, in bytes, that a closed connection discards while it waits for its peer's end, from when its output has
    /// gone out: what is discarded before does not count, and what was sent before and not yet read does. Default
    /// 1 MiB.
    pub discard_limit: usize,
    /// `TCP_NODELAY`: small writes leave at once. The queue gathers what belongs together, so the kernel need
    /// not wait. Default on.
    pub nodelay: bool,
    /// `SO_KEEPALIVE` with its times; `None` leaves it off. Default off.
    pub keep_alive: Option<KeepAlive>,
    /// `SO_SNDBUF` in bytes; `None` leaves the kernel to tune it, which is right nearly always.
    pub send_buffer: Option<usize>,
    /// `SO_RCVBUF` in bytes; `None` leaves the kernel to tune it, which is right nearly always.
    pub receive_buffer: Option<usize>,
}

impl Default for StreamOptions {
    fn default() -> Self {
        StreamOptions {
            high_water: MIB,
            low_water: 256 * KIB,
            hard_limit: 64 * MIB,
            input_limit: MIB,
            eager_flush: 64 * KIB,
            read_budget: 4,
            read_while_high: false,
            idle_timeout: None,
            stalled_timeout: None,
            connect_timeout: Duration::from_secs(10),
            close_timeout: Duration::from_secs(5),
            discard_limit: MIB,
            nodelay: true,
            keep_alive: None,
            send_buffer: None,
            receive_buffer: None,
        }
    }
}

/// What a listener does when it has [`ListenOptions::max_connections`] open.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum AtLimit {
    /// Leave peers in the backlog until a connection ends. They see a connection that is slow to answer.
    #[default]
    Pause,
    /// Accept and close at once. They see at once that they are not served.
    Refuse,
}

/// How to listen.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ListenOptions {
    /// Connections that the kernel may hold for us before it drops the next one's SYN; capped by
    /// `net.core.somaxconn`. Default 4,096.
    pub backlog: u32,
    /// `SO_REUSEADDR`: bind although connections of an earlier run linger in TIME-WAIT. Default on.
    pub reuse_address: bool,
    /// `SO_REUSEPORT`: several sockets share the port and the kernel spreads connections over them. Default off.
    pub reuse_port: bool,
    /// `IPV6_V6ONLY`: an IPv6 listener takes no IPv4 peers. Default off.
    pub only_v6: bool,
    /// Connections of this listener open at one time, those that are closed and linger included; `None` is bounded by
    /// descriptors alone. Default `None`.
    pub max_connections: Option<usize>,
    /// What happens at `max_connections`. Default [`AtLimit::Pause`].
    pub at_limit: AtLimit,
    /// Connections accepted in one turn before other work has its own. Default 64, at least 1.
    pub accept_budget: u32,
    /// For the connections accepted here.
    pub stream: StreamOptions,
}

impl Default for ListenOptions {
    fn default() -> Self {
        ListenOptions {
            backlog: 4096,
            reuse_address: true,
            reuse_port: false,
            only_v6: false,
            max_connections: None,
            at_limit: AtLimit::Pause,
            accept_budget: 64,
            stream: StreamOptions::default(),
        }
    }
}

/// How to exchange datagrams.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct UdpOptions {
    /// Longest datagram that is surely received whole, in bytes; a longer one is delivered cut and marked, unless another
    /// socket of the reactor has asked for more: they share one set of buffers. 64 of this size are reserved, and cost
    /// memory as far as datagrams fill them. Default 2 KiB, at most 1 MiB.
    pub max_datagram: usize,
    /// Datagrams received in one turn before other work has its own. Default 64.
    pub receive_budget: u32,
    /// Datagrams that may wait to be sent. One over it is refused, and the caller told. Default 1,024.
    pub queue_limit: usize,
    /// `SO_REUSEADDR`: several sockets may bind the port and each has every broadcast. Default off.
    pub reuse_address: bool,
    /// `SO_REUSEPORT`. Default off.
    pub reuse_port: bool,
    /// `IPV6_V6ONLY`. Default off.
    pub only_v6: bool,
    /// `SO_BROADCAST`: may send to broadcast addresses. Default on.
    pub broadcast: bool,
}

impl Default for UdpOptions {
    fn default() -> Self {
        UdpOptions {
            max_datagram: 2 * KIB,
            receive_budget: 64,
            queue_limit: 1024,
            reuse_address: false,
            reuse_port: false,
            only_v6: false,
            broadcast: true,
        }
    }
}

/// How [`Net::relay`](crate::Net::relay) joins two connections.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct RelayOptions {
    /// Bytes queued toward one side above which the other side is not read; a read of up to 64 KiB may come on
    /// top. Default 64 KiB: what is not read waits in the kernel, where it costs no copy.
    pub high_water: usize,
    /// Bytes queued toward one side at which the other is read again. Default 0: one write has emptied it.
    pub low_water: usize,
    /// Ends the pair when no byte has moved on either side for so long. Default: each side's own idle time-out.
    pub idle_timeout: Option<Duration>,
}

impl Default for RelayOptions {
    fn default() -> Self {
        RelayOptions { high_water: 64 * KIB, low_water: 0, idle_timeout: None }
    }
}

/// How a dialer connects and reconnects.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct DialOptions {
    /// Wait before the second attempt. Default 100 ms. Each further failure multiplies the wait by two.
    pub first_delay: Duration,
    /// Longest wait between attempts. Default 30 s.
    pub max_delay: Duration,
    /// By how much of its length a wait may be shortened, drawn anew for each, so that the clients of a restarted
    /// server do not come back in step. From 0 to 100, default 50.
    pub jitter_percent: u32,
    /// A connection that was open for so long resets the wait to the first delay. Default 5 s.
    pub stable_after: Duration,
    /// Attempts in a row that may fail before the dialer gives up; `None` never does. Default `None`.
    pub max_failures: Option<u32>,
    /// For the connections made.
    pub stream: StreamOptions,
}

impl Default for DialOptions {
    fn default() -> Self {
        DialOptions {
            first_delay: Duration::from_millis(100),
            max_delay: Duration::from_secs(30),
            jitter_percent: 50,
            stable_after: Duration::from_secs(5),
            max_failures: None,
            stream: StreamOptions::default(),
        }
    }
}

/// How the loop itself behaves.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ReactorOptions {
    /// Ignores SIGPIPE for the whole process, so that a write to a closed pipe is an error and not an end.
    /// Plimsoll's own writes never raise it either way. An ignored signal stays ignored in programs that the
    /// process executes. Default on.
    pub ignore_sigpipe: bool,
    /// Ignores SIGHUP for the whole process, so that a closed terminal does not end a server. Turn it off to
    /// catch SIGHUP elsewhere, or use [`Net::on_signal`](crate::Net::on_signal). Default on.
    pub ignore_sighup: bool,
    /// Polls for so long before the loop blocks: trades a processor for latency (the sleep and the wake-up, some tens of
    /// microseconds). Worth it only on a processor of its own. Default zero: off.
    pub spin: Duration,
    /// Mail that may wait. A post to a full box gives the closure back. Default 65,536.
    pub mail_limit: usize,
    /// Mail, timers and deferred closures run in one turn, each, before other work has its own. Default 1,024.
    pub closure_budget: usize,
    /// Threads for [`Net::offload`](crate::Net::offload), started when needed. Default 4.
    pub workers: usize,
    /// Work that may wait for a thread. Default 256.
    pub work_limit: usize,
    /// Queued output and unconsumed input of all connections, in bytes. Over it the connection that holds most
    /// is ended with [`CloseReason::Memory`](crate::CloseReason::Memory), and the next, until the sum fits. Looked at
    /// once a turn, when it settles, so within a turn the sum may go over. Default off.
    pub memory_budget: Option<usize>,
    /// How long [`Net::stop`](crate::Net::stop) lets connections flush before it cuts them. Default 5 s.
    pub stop_timeout: Duration,
}

impl Default for ReactorOptions {
    fn default() -> Self {
        ReactorOptions {
            ignore_sigpipe: true,
            ignore_sighup: true,
            spin: Duration::ZERO,
            mail_limit: 64 * KIB,
            closure_budget: 1024,
            workers: 4,
            work_limit: 256,
            memory_budget: None,
            stop_timeout: Duration::from_secs(5),
        }
    }
}

/// `Options::new().with(|o| o.backlog = 16)`: the structs may gain fields, so users cannot name them all.
macro_rules! with_builder {
    ($($name:ident),*) => {$(
        impl $name {
            /// The defaults.
            pub fn new() -> Self {
                Self::default()
            }

            /// Changes fields in passing: `::new().with(|o| o.… = …)`.
            #[must_use]
            pub fn with(mut self, change: impl FnOnce(&mut Self)) -> Self {
                change(&mut self);
                self
            }
        }
    )*};
}

with_builder!(StreamOptions, ListenOptions, UdpOptions, RelayOptions, DialOptions, ReactorOptions);
