//! One connection: its descriptor, what the kernel said about it, and what it owns.
//!
//! A connection owns memory only for what is in flight: a queue while output waits, a buffer while input is
//! left unconsumed, and a box of [`Extras`] while something out of the ordinary is going on. An idle one is the
//! struct below and nothing else.
//!
//! ```text
//!                 connect                  close                 flushed
//!   Connecting ────────────► Open ──────────────────► Closing ────────────► Lingering
//!       │                     │  both halves ended,      │ deadline             │ peer's end,
//!       │ refused, timed out  │  error, limit, abort     │                      │ deadline
//!       └──────────► Ended ◄──┴──────────◄───────────────┘                      ▼
//!                      └────────────── on_close, then the end of the turn ──► gone
//! ```
//!
//! A closed connection's `on_close` comes when it starts to linger, since by then all it was given has gone out.
//!
//! This file moves bytes between one descriptor and one connection's memory. What follows from that for marks,
//! callbacks and other connections is decided in `sockets.rs`.

use crate::filter::Filtering;
use crate::intake::READ_BYTES;
use crate::options::StreamOptions;
use crate::output::Output;
use crate::poller::{Interest, Readiness};
use crate::stats::Stats;
use crate::sys::clock::Moment;
use crate::sys::{self, Address, Fd};
use crate::timer::TimerId;
use crate::token::Token;
use bytes::{Bytes, BytesMut};
use std::collections::VecDeque;
use std::io::{self, ErrorKind, IoSlice};
use std::rc::Rc;

/// Bytes handed to the kernel in one flush before the others have their turn.
const FLUSH_BUDGET_BYTES: usize = 4 * 1024 * 1024;

/// Pieces offered to the kernel by one sendmsg(2). At 32 KiB a piece this is 2 MiB, more than a socket buffer
/// takes at once.
const GATHER_LEN: usize = sys::socket::IOV_LIMIT;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd)]
pub(crate) enum Phase {
    /// Being made; output is queued already.
    Connecting,
    /// Both halves may still be in use.
    Open,
    /// `close` or `stop` was called: output is flushed, input discarded, the handler is called for `on_close` only.
    Closing,
    /// Flushed and ended, `on_close` is due or done; waits for the peer's end.
    Lingering,
    /// Over; the descriptor lives until the end of the turn.
    Ended,
}

/// A set of small facts, one bit each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Flags(u32);

macro_rules! flags {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {
        flags!(@ 0; $($(#[$doc])* $name),*);
    };
    (@ $bit:expr; $(#[$doc:meta])* $name:ident $(, $($rest:tt)*)?) => {
        impl Flags { $(#[$doc])* pub const $name: Flags = Flags(1 << ($bit)); }
        flags!(@ $bit + 1; $($($rest)*)?);
    };
    (@ $bit:expr;) => {};
}

flags! {
    /// Input may wait in the kernel: an edge was seen, and no empty or short read since.
    READABLE,
    /// The kernel may have room: cleared by a write that was cut short.
    WRITABLE,
    /// An edge has told of input or of an end, and no short read has come to the end of it: an empty one would
    /// contradict the edge.
    PROMISED,
    /// An urgent mark, an end or an error was seen: a short read no longer means that nothing is left.
    CUT_READS,
    /// A TCP socket; others tell by EAGAIN alone that they are drained.
    TCP,
    /// Interest in OUT is registered (sockets that ask for it only while output waits).
    ASKS_OUT,
    /// The handler asked not to be given input.
    PAUSED,
    /// Own output is over the high mark, so the connection is not read.
    GATED,
    /// A `Flow::High` is unanswered.
    OWES_LOW,
    /// `on_high_water` is due.
    HIGH_DUE,
    /// `on_low_water` is due.
    LOW_DUE,
    /// `on_write_complete` is due.
    COMPLETE_DUE,
    /// `on_open` is due.
    OPEN_DUE,
    /// Unconsumed input is to be offered without new bytes.
    OFFER,
    /// recv(2) has said 0.
    EOF_READ,
    /// The handler (or the relay) knows.
    EOF_DELIVERED,
    /// Our half is to end when the queue is empty.
    SHUTDOWN,
    /// Our FIN is sent.
    FIN_SENT,
    /// Writing failed; what can still be read is read, then the connection ends.
    BROKEN,
    /// Joined to another connection: bytes go there and not to the handler.
    RELAYED,
    /// Bytes pass through a filter.
    FILTERED,
    /// Ends because the loop stops.
    STOPPED,
    /// The kernel reported an error that no call has returned yet.
    FAILED,
    /// Stands in the list of the ended.
    CLOSE_DUE,
    /// Stands in the ready list.
    IN_READY,
    /// Stands in the dirty list.
    IN_DIRTY,
    /// Stands in the list of callbacks due.
    IN_DUE,
    /// Stands in the list of those who hold slices of the read buffer.
    IN_BORROWERS,
    /// Stands in the list of those for whom the kernel is asked again.
    IN_DOUBT,
}

impl Flags {
    pub const fn or(self, other: Flags) -> Flags {
        Flags(self.0 | other.0)
    }

    /// Whether any of `flags` is set.
    #[inline]
    pub fn has(self, flags: Flags) -> bool {
        self.0 & flags.0 != 0
    }

    #[inline]
    pub fn set(&mut self, flags: Flags) {
        self.0 |= flags.0;
    }

    #[inline]
    pub fn clear(&mut self, flags: Flags) {
        self.0 &= !flags.0;
    }

    /// Clears `flags`; whether any was set.
    #[inline]
    pub fn take(&mut self, flags: Flags) -> bool {
        let had = self.has(flags);
        self.clear(flags);
        had
    }
}

/// What only some connections need, and few for long.
#[derive(Debug, Default)]
pub(crate) struct Extras {
    /// Timers armed by the handler, by key.
    pub keyed: Vec<(u32, TimerId)>,
    /// The connection must be made, or must be gone, by then.
    pub deadline: Option<TimerId>,
    /// A transient error that brings no new edge is tried again then.
    pub retry: Option<TimerId>,
    pub attempt: Option<Box<Attempt>>,
    /// When a connection that we began was made.
    pub opened: Option<Moment>,
    pub filter: Option<Box<Filtering>>,
    /// Why writing failed.
    pub broken: Option<io::Error>,
    /// Input discarded while it lingers.
    pub discarded: usize,
    pub dialer: Option<crate::dial::DialToken>,
}

impl Extras {
    fn is_empty(&self) -> bool {
        let Extras { keyed, deadline, retry, attempt, opened, filter, broken, discarded: _, dialer } = self;
        keyed.is_empty()
            && deadline.is_none()
            && retry.is_none()
            && attempt.is_none()
            && opened.is_none()
            && filter.is_none()
            && broken.is_none()
            && dialer.is_none()
    }
}

/// A connection in the making.
#[derive(Debug)]
pub(crate) struct Attempt {
    /// Addresses not yet tried.
    pub remaining: VecDeque<Address>,
    /// Why the last one failed.
    pub last_error: Option<io::Error>,
    /// The turn in which the present socket was made. Events of that turn were fetched before it and speak of
    /// an earlier socket.
    pub since_turn: u64,
}

/// One side of a relayed pair.
#[derive(Debug)]
pub(crate) struct RelayHalf {
    /// Where the bytes read here go.
    pub other: Token,
    pub high_water: usize,
    pub low_water: usize,
}

#[derive(Debug)]
pub(crate) struct Connection {
    /// `None` while a name is looked up, and after `detach`.
    pub fd: Option<Fd>,
    pub flags: Flags,
    pub phase: Phase,
    /// Input is offered only from this many bytes on.
    pub want: u32,
    /// With fewer bytes than this queued a send crosses no mark and no limit. Follows from the options.
    pub quiet: usize,
    /// Bytes asked for by one read when nothing is unread. Follows from the options.
    pub read_limit: usize,
    /// Shared with the listener and its other connections until changed.
    pub options: Rc<StreamOptions>,
    /// Present exactly while output waits, or is being filled.
    pub output: Option<Box<Output>>,
    /// Input that the handler has left. Never empty.
    pub unread: Option<Box<BytesMut>>,
    pub extras: Option<Box<Extras>>,
    /// Present exactly while relayed. Not among the extras, since a relay has many pairs and keeps them for long.
    pub relay: Option<Box<RelayHalf>>,
    pub peer: Address,
    /// When a byte last moved, in either direction.
    pub moved: Moment,
    /// When the kernel last took output, or output began to wait.
    pub taken: Moment,
    /// Looks after the idle and stalled time-outs.
    pub watch: Option<TimerId>,
    /// The listener that accepted it and counts it.
    pub listener: Option<Token>,
}

/// What a flush came to.
#[derive(Debug)]
pub(crate) enum Flushed {
    /// Nothing waits.
    Empty,
    /// The kernel is full; an edge will tell.
    Waiting,
    /// The budget is spent; more could go out.
    More,
    /// The kernel lacks memory, and no edge will tell.
    Starved,
    Failed(io::Error),
}

/// What a read came to.
#[derive(Debug)]
pub(crate) enum Received {
    Bytes,
    /// Nothing is there; an edge will tell.
    Nothing,
    End,
    /// The kernel lacks memory, and no edge will tell.
    Starved,
    Failed(io::Error),
}

impl Connection {
    pub fn new(fd: Option<Fd>, peer: Address, phase: Phase, options: Rc<StreamOptions>, now: Moment) -> Connection {
        let mut flags = Flags::WRITABLE;
        if peer.ip().is_some() {
            flags.set(Flags::TCP);
        }
        Connection {
            fd,
            flags,
            phase,
            want: 0,
            quiet: quiet_below(&options),
            read_limit: read_limit(&options),
            options,
            output: None,
            unread: None,
            extras: None,
            relay: None,
            peer,
            moved: now,
            taken: now,
            watch: None,
            listener: None,
        }
    }

    /// Remembers what the kernel said.
    #[inline]
    pub fn note(&mut self, readiness: Readiness) {
        if readiness == Readiness::INPUT_AND_ROOM {
            // A connection that has room is told so with every input.
            return self.flags.set(Flags::READABLE.or(Flags::WRITABLE).or(Flags::PROMISED));
        }
        if readiness.readable() {
            self.flags.set(Flags::READABLE);
        }
        if readiness.has_input() {
            self.flags.set(Flags::PROMISED);
        }
        if readiness.writable() {
            self.flags.set(Flags::WRITABLE);
        }
        if readiness.cuts_reads_short() {
            self.flags.set(Flags::CUT_READS);
            if readiness.failed() {
                self.flags.set(Flags::FAILED);
            }
        }
    }

    /// Whether input can be read and given to the handler, and its answer written, with nothing else to think of.
    #[inline]
    pub fn is_plain(&self) -> bool {
        const UNUSUAL: Flags = Flags::PAUSED
            .or(Flags::GATED)
            .or(Flags::OPEN_DUE)
            .or(Flags::OFFER)
            .or(Flags::EOF_READ)
            // It takes no output, so what its handler sends must not go through the loop's scratch.
            .or(Flags::SHUTDOWN)
            .or(Flags::BROKEN)
            .or(Flags::RELAYED)
            .or(Flags::FILTERED)
            // What the scratch completes is one with a drain that was not told yet.
            .or(Flags::COMPLETE_DUE)
            .or(Flags::IN_READY);
        self.flags.has(Flags::READABLE)
            && self.flags.has(Flags::WRITABLE)
            && !self.flags.has(UNUSUAL)
            && self.phase == Phase::Open
            && self.want == 0
            && self.output.is_none()
            && self.unread.is_none()
    }

    /// Reads once, up to `limit` bytes, into the spare capacity of `buffer`.
    #[inline(always)]
    pub fn receive(&mut self, buffer: &mut BytesMut, limit: usize, stats: &mut Stats, now: Moment) -> Received {
        let Some(fd) = &self.fd else { return Received::Nothing };
        loop {
            stats.reads += 1;
            match sys::socket::recv(fd, buffer, limit) {
                Ok(0) => {
                    self.flags.clear(Flags::READABLE);
                    self.flags.set(Flags::EOF_READ);
                    return Received::End;
                }
                Ok(n) => {
                    stats.bytes_read += n as u64;
                    self.moved = now;
                    // All that was there has been read, and what comes later brings an edge. Not so after an
                    // urgent mark, an end or an error, nor on sockets that keep message boundaries.
                    let short = n < limit && buffer.len() < buffer.capacity();
                    if short && self.flags.has(Flags::TCP) && !self.flags.has(Flags::CUT_READS) {
                        self.flags.clear(Flags::READABLE.or(Flags::PROMISED));
                    } else if short && !self.flags.has(Flags::CUT_READS) {
                        self.flags.clear(Flags::PROMISED);
                    }
                    return Received::Bytes;
                }
                Err(e) => match receive_failed(e, &mut self.flags, stats) {
                    None => {}
                    Some(received) => return received,
                },
            }
        }
    }

    /// Offers the queue to the kernel until it is empty, the kernel is full or the budget is spent.
    pub fn flush(&mut self, stats: &mut Stats, now: Moment) -> Flushed {
        let (Some(output), Some(fd)) = (&mut self.output, &self.fd) else { return Flushed::Empty };
        let mut budget = FLUSH_BUDGET_BYTES;
        while output.queued() > 0 {
            if budget == 0 {
                return Flushed::More;
            }
            stats.writes += 1;
            let (offered, result) = match output.single() {
                Some(bytes) => (bytes.len(), sys::socket::send(fd, bytes)),
                None => send_gathered(fd, output),
            };
            match result {
                Ok(n) => {
                    stats.bytes_written += n as u64;
                    output.advance(n);
                    budget = budget.saturating_sub(n);
                    self.moved = now;
                    self.taken = now;
                    // A short write has met a full buffer, so that room will bring an edge.
                    if n < offered && self.flags.has(Flags::TCP) {
                        self.flags.clear(Flags::WRITABLE);
                        return Flushed::Waiting;
                    }
                }
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => return self.send_failed(e, stats),
            }
        }
        Flushed::Empty
    }

    /// Offers `data` straight to the kernel, when nothing is queued before it; returns how much it took.
    ///
    /// # Errors
    /// The connection is broken. The kernel tells the cause only once: asked again, it knows of a broken pipe.
    #[inline(always)]
    pub fn write_through(&mut self, data: &[u8], stats: &mut Stats, now: Moment) -> io::Result<usize> {
        let Some(fd) = &self.fd else { return Ok(0) };
        stats.writes += 1;
        match sys::socket::send(fd, data) {
            Ok(n) => {
                stats.bytes_written += n as u64;
                self.moved = now;
                self.taken = now;
                if n < data.len() && self.flags.has(Flags::TCP) {
                    self.flags.clear(Flags::WRITABLE);
                }
                Ok(n)
            }
            Err(e) => self.not_written_through(e, stats),
        }
    }

    #[cold]
    fn not_written_through(&mut self, e: io::Error, stats: &mut Stats) -> io::Result<usize> {
        match e.kind() {
            // A full TCP buffer brings its edge by itself, so asking again is spared.
            ErrorKind::WouldBlock if self.flags.has(Flags::TCP) => {
                stats.writes_full += 1;
                self.flags.clear(Flags::WRITABLE);
            }
            // What passes is met again when the queue is flushed, and is dealt with there.
            ErrorKind::WouldBlock | ErrorKind::Interrupted => {}
            _ if sys::errno::is_shortage(&e) => {}
            _ => return Err(e),
        }
        Ok(0)
    }

    /// The other side of a relay, when input can be read and carried there with nothing else to think of.
    #[inline]
    pub fn plain_relay(&self) -> Option<Token> {
        const UNUSUAL: Flags = Flags::OPEN_DUE.or(Flags::IN_READY).or(Flags::FILTERED).or(Flags::EOF_READ);
        let plain = self.flags.has(Flags::READABLE)
            && !self.flags.has(UNUSUAL)
            && self.phase == Phase::Open
            && self.output.is_none()
            && self.unread.is_none();
        self.relay.as_ref().filter(|_| plain).map(|relay| relay.other)
    }

    /// Whether what a relay carries here can go straight to the kernel.
    #[inline]
    pub fn takes_directly(&self) -> bool {
        self.phase == Phase::Open
            && self.output.is_none()
            && self.flags.has(Flags::WRITABLE)
            && !self.flags.has(Flags::FILTERED)
    }

    /// How much may go through the loop's scratch in a callback that begins now: nothing if more than the handler has to
    /// be thought of when it is written.
    #[inline]
    pub fn scratch_room(&self) -> usize {
        let plain = self.drains_plainly() && self.output.is_none() && !self.flags.has(Flags::FILTERED);
        if plain { self.quiet } else { 0 }
    }

    /// Whether its handler is the only one to be told when the queue has gone out.
    #[inline]
    pub fn drains_plainly(&self) -> bool {
        const UNUSUAL: Flags = Flags::GATED
            .or(Flags::OWES_LOW)
            .or(Flags::COMPLETE_DUE)
            .or(Flags::OPEN_DUE)
            .or(Flags::SHUTDOWN)
            .or(Flags::BROKEN)
            .or(Flags::RELAYED)
            .or(Flags::ASKS_OUT);
        self.flags.has(Flags::WRITABLE) && !self.flags.has(UNUSUAL) && self.phase == Phase::Open
    }

    /// Books what a send(2) of the queue's first piece came to, when that was not all of it.
    pub fn sent(&mut self, sent: io::Result<usize>, stats: &mut Stats, now: Moment) -> Flushed {
        let Some(output) = &mut self.output else { return Flushed::Empty };
        match sent {
            Ok(n) => {
                stats.bytes_written += n as u64;
                stats.held -= n as u64;
                output.advance(n);
                self.moved = now;
                self.taken = now;
                if !self.flags.has(Flags::TCP) {
                    return Flushed::More;
                }
                self.flags.clear(Flags::WRITABLE);
                Flushed::Waiting
            }
            Err(e) if e.kind() == ErrorKind::Interrupted => Flushed::More,
            Err(e) => self.send_failed(e, stats),
        }
    }

    #[cold]
    fn send_failed(&mut self, e: io::Error, stats: &mut Stats) -> Flushed {
        if e.kind() == ErrorKind::WouldBlock {
            stats.writes_full += 1;
            self.flags.clear(Flags::WRITABLE);
            Flushed::Waiting
        } else if sys::errno::is_shortage(&e) {
            Flushed::Starved
        } else {
            Flushed::Failed(e)
        }
    }

    /// Bytes that wait for the kernel.
    #[inline]
    pub fn queued(&self) -> usize {
        self.output.as_ref().map_or(0, |output| output.queued())
    }

    /// Bytes of memory that count against the loop's budget.
    pub fn held(&self) -> usize {
        self.queued() + self.unread_len() + self.undecoded_len()
    }

    /// Input that its filter waits to see more of.
    pub fn undecoded_len(&self) -> usize {
        self.extras.as_ref().and_then(|extras| extras.filter.as_ref()).map_or(0, |filter| filter.wire.len())
    }

    pub fn unread_len(&self) -> usize {
        self.unread.as_ref().map_or(0, |unread| unread.len())
    }

    /// How much input there must be for `on_data`. The input limit may have been lowered since it was asked for,
    /// and more than that can never be there.
    #[inline]
    pub fn wanted(&self) -> usize {
        (self.want as usize).min(self.input_limit())
    }

    pub fn low_water(&self) -> usize {
        self.options.low_water.min(self.options.high_water)
    }

    /// Whether `send` may still take something.
    #[inline]
    pub fn takes_output(&self) -> bool {
        matches!(self.phase, Phase::Open | Phase::Connecting)
            && !self.flags.has(Flags::SHUTDOWN.or(Flags::BROKEN).or(Flags::RELAYED))
    }

    /// Whether its handler may be called, but for `on_close`. One in the making has timers, and can be told things.
    #[inline]
    pub fn hears_callbacks(&self) -> bool {
        matches!(self.phase, Phase::Open | Phase::Connecting)
    }

    /// With a limit of nothing no byte could be read; it acts as one byte.
    #[inline]
    pub fn input_limit(&self) -> usize {
        self.options.input_limit.max(1)
    }

    /// The options have been changed.
    pub fn follow_options(&mut self) {
        self.quiet = quiet_below(&self.options);
        self.read_limit = read_limit(&self.options);
    }

    /// Whether input must stay where it is for now.
    #[inline]
    pub fn is_held_back(&self) -> bool {
        self.flags.has(Flags::PAUSED.or(Flags::GATED))
    }

    /// What epoll is asked for.
    pub fn interest(&self) -> Interest {
        if self.flags.has(Flags::TCP) {
            Interest::STREAM
        } else if self.flags.has(Flags::ASKS_OUT) {
            Interest::QUIET_OUT_WAITING
        } else {
            Interest::QUIET_OUT
        }
    }

    /// Why writing failed, of a connection that is broken.
    pub fn take_broken(&mut self) -> io::Error {
        self.extras().broken.take().unwrap_or_else(|| ErrorKind::BrokenPipe.into())
    }

    /// What the kernel says has failed, if no call has told it yet: of a connection that is not read now.
    pub fn take_failure(&mut self) -> Option<io::Error> {
        if !self.flags.take(Flags::FAILED) {
            return None;
        }
        self.fd.as_ref().and_then(|fd| sys::socket::take_error(fd).ok().flatten())
    }

    pub fn extras(&mut self) -> &mut Extras {
        self.extras.get_or_insert_with(Box::default)
    }

    /// Gives the box of extras back when nothing is left in it.
    pub fn tidy(&mut self) {
        if self.extras.as_ref().is_some_and(|extras| extras.is_empty()) {
            self.extras = None;
        }
    }

    /// Takes what is queued, for a connection that is given away.
    pub fn take_output(&mut self) -> Vec<Bytes> {
        self.output.take().map(|mut output| output.take_pieces()).unwrap_or_default()
    }
}

/// `None`: try again.
#[cold]
#[inline(never)]
fn receive_failed(e: io::Error, flags: &mut Flags, stats: &mut Stats) -> Option<Received> {
    match e.kind() {
        ErrorKind::Interrupted => None,
        ErrorKind::WouldBlock => {
            stats.reads_empty += 1;
            flags.clear(Flags::READABLE);
            Some(Received::Nothing)
        }
        _ if sys::errno::is_shortage(&e) => Some(Received::Starved),
        _ => Some(Received::Failed(e)),
    }
}

/// With a limit of nothing no byte could be read; it acts as one byte.
fn read_limit(options: &StreamOptions) -> usize {
    options.input_limit.clamp(1, READ_BYTES)
}

/// The least number of queued bytes that is not ordinary.
fn quiet_below(options: &StreamOptions) -> usize {
    options.eager_flush.min(options.high_water.saturating_add(1)).min(options.hard_limit.saturating_add(1))
}

/// Several pieces in one call. Apart, so that the list of slices costs the common case no stack.
#[inline(never)]
fn send_gathered(fd: &Fd, output: &Output) -> (usize, io::Result<usize>) {
    let mut slices = [IoSlice::new(&[]); GATHER_LEN];
    let filled = output.slices(&mut slices);
    let slices = &slices[..filled];
    (slices.iter().map(|slice| slice.len()).sum(), sys::socket::send_vectored(fd, slices))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_idle_connection_is_small() {
        // The table's slot and the handler's are 16 bytes each; DESIGN allows 256 in all.
        assert!(size_of::<Connection>() <= 160, "{}", size_of::<Connection>());
    }

    #[test]
    fn flags_are_one_bit_each() {
        assert_eq!(Flags::READABLE.0, 1);
        assert_eq!(Flags::WRITABLE.0, 2);
        let mut flags = Flags::READABLE.or(Flags::TCP);
        assert!(flags.take(Flags::READABLE));
        assert!(!flags.take(Flags::READABLE));
        assert!(flags.has(Flags::TCP));
    }
}
