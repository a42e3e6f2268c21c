//! Reading: from the kernel's buffer to the handler, and what becomes of input that it leaves.
//!
//! One read buffer serves the whole loop, so that an idle connection owns none. Most handlers consume what they
//! are given, and then no byte is copied. What is left is kept for the connection:
//!
//! ```text
//!   left over       kept as                   next read
//!   nothing         –                         into the loop's buffer
//!   ≤ 4 KiB         a copy of just its size   copied to the front of the loop's buffer, read behind it
//!   more            a buffer of its own       in place, behind what is there
//! ```
//!
//! So the cost of a read is in the new bytes and at most 4 KiB, whatever has piled up: a 1 MiB frame that comes
//! byte by byte costs linear time.
//!
//! [`Sockets::next_step`] is asked again and again what a connection's handler is to be told next, until there
//! is nothing or the connection's budget is spent. It makes the system calls; the reactor makes the callbacks.

use crate::connection::{Connection, Flags, Phase, Received};
use crate::filter::Filter;
use crate::handler::CloseReason;
use crate::sockets::{Served, Sockets, connection_in};
use crate::stats::Stats;
use crate::sys::clock::Moment;
use crate::token::Token;
use bytes::BytesMut;

/// The loop's read buffer, in bytes: large enough that a bulk stream costs few calls, small enough for the
/// processor's second-level cache.
pub(crate) const READ_BYTES: usize = 64 * 1024;

/// A buffer that was split is made whole again when less than this is left of it: not at once, since that costs more
/// than a small message does.
const READ_LEAST_BYTES: usize = READ_BYTES / 2;

/// A leftover up to this size is copied in front of the next read; a larger one keeps a buffer of its own.
const COPIED_LEFTOVER_BYTES: usize = 4 * 1024;

/// What a connection's handler is to be told next.
#[derive(Debug)]
pub(crate) enum Step {
    /// Nothing, for now.
    Idle,
    /// `on_open`.
    Open,
    /// `on_data`, with the loop's read buffer.
    Data,
    /// `on_data`, with the connection's own buffer.
    OwnData(BytesMut),
    /// `on_eof`, with what was left.
    Eof(BytesMut),
    /// Nothing was to be told, but there may be more.
    Again,
}

impl Sockets {
    /// Finds out what to tell the handler next; reads from the kernel when nothing else is due, while `budget`
    /// (in reads) lasts.
    #[inline]
    pub fn next_step(&mut self, token: Token, buffer: &mut BytesMut, budget: &mut u32) -> Step {
        let Some(conn) = connection_in(&mut self.table, token) else { return Step::Idle };
        if conn.is_plain() && *budget > 0 {
            *budget -= 1;
            return match read_plain(conn, buffer, &mut self.stats, self.now) {
                Received::Bytes => {
                    self.scratch_room = conn.quiet;
                    Step::Data
                }
                other => self.read_ended(token, other),
            };
        }
        self.next_unusual_step(token, buffer, budget)
    }

    #[inline(never)]
    fn next_unusual_step(&mut self, token: Token, buffer: &mut BytesMut, budget: &mut u32) -> Step {
        let Some(conn) = connection_in(&mut self.table, token) else { return Step::Idle };
        match conn.phase {
            Phase::Connecting => {
                self.check_connected(token);
                return if self.connection(token).is_some_and(|conn| conn.phase == Phase::Open) {
                    Step::Again
                } else {
                    Step::Idle
                };
            }
            Phase::Closing | Phase::Lingering => {
                self.discard(token, buffer, budget);
                return Step::Idle;
            }
            Phase::Ended => return Step::Idle,
            Phase::Open => {}
        }
        if conn.flags.take(Flags::OPEN_DUE) {
            return Step::Open;
        }
        if conn.flags.has(Flags::RELAYED) {
            self.relay_step(token, buffer, budget);
            return Step::Idle;
        }
        if conn.is_held_back() {
            self.learn_of_failure(token);
            return Step::Idle;
        }
        if conn.flags.has(Flags::OFFER) {
            // Counts like a read: a handler that resumes itself and takes nothing would be called for ever.
            if *budget == 0 {
                self.mark_ready(token);
                return Step::Idle;
            }
            conn.flags.clear(Flags::OFFER);
            if let Some(own) = take_unread_if(conn, |conn| conn.unread_len() >= conn.wanted()) {
                *budget -= 1;
                self.stats.held -= own.len() as u64;
                return Step::OwnData(own);
            }
        }
        if conn.flags.has(Flags::EOF_READ) {
            return self.deliver_eof(token);
        }
        if !conn.flags.has(Flags::READABLE) {
            return Step::Idle;
        }
        if *budget == 0 {
            self.mark_ready(token);
            return Step::Idle;
        }
        *budget -= 1;
        if conn.flags.has(Flags::FILTERED) { self.read_filtered(token, buffer) } else { self.read(token, buffer) }
    }

    /// One read, and what it means.
    #[inline]
    fn read(&mut self, token: Token, buffer: &mut BytesMut) -> Step {
        let Some(conn) = connection_in(&mut self.table, token) else { return Step::Idle };
        if conn.unread.is_some() {
            return self.read_behind(token, buffer);
        }
        refill(buffer);
        let received = conn.receive(buffer, conn.read_limit, &mut self.stats, self.now);
        match received {
            Received::Bytes if buffer.len() >= conn.wanted() => Step::Data,
            Received::Bytes => {
                let kept = Box::new(BytesMut::from(&buffer[..]));
                self.keep(token, kept)
            }
            other => self.read_ended(token, other),
        }
    }

    /// One read behind what the handler has left.
    fn read_behind(&mut self, token: Token, buffer: &mut BytesMut) -> Step {
        let Some(conn) = connection_in(&mut self.table, token) else { return Step::Idle };
        let Some(mut unread) = conn.unread.take() else { return Step::Idle };
        let before = unread.len();
        let room = conn.input_limit().saturating_sub(before).min(READ_BYTES);
        if room == 0 {
            // Full, and more has come (or else an edge would not have brought us here): unless it is the end.
            conn.unread = Some(unread);
            return self.read_beyond_limit(token, buffer);
        }
        let small = before <= COPIED_LEFTOVER_BYTES;
        let target = if small {
            refill(buffer);
            buffer.extend_from_slice(&unread);
            &mut *buffer
        } else {
            // Doubling keeps the copies linear in what comes; the limit bounds it.
            unread.reserve(before.min(room));
            &mut *unread
        };
        let received = conn.receive(target, room, &mut self.stats, self.now);
        let len = target.len();
        match received {
            Received::Bytes if len >= conn.wanted() => {
                self.stats.held -= before as u64;
                if small { Step::Data } else { Step::OwnData(*unread) }
            }
            Received::Bytes => {
                self.stats.held -= before as u64;
                if small {
                    unread.extend_from_slice(&buffer[before..]);
                }
                self.keep(token, unread)
            }
            other => {
                conn.unread = Some(unread);
                self.read_ended(token, other)
            }
        }
    }

    /// A read at the event itself brought no bytes.
    pub fn read_ended_early(&mut self, token: Token, received: Received) -> Served {
        match self.read_ended(token, received) {
            Step::Again => Served::Connection,
            _ => Served::Nobody,
        }
    }

    /// The input limit is reached: one more byte is too many, the end of the stream is not.
    pub fn read_beyond_limit(&mut self, token: Token, buffer: &mut BytesMut) -> Step {
        let Some(conn) = connection_in(&mut self.table, token) else { return Step::Idle };
        refill(buffer);
        match conn.receive(buffer, 1, &mut self.stats, self.now) {
            Received::Bytes => {
                self.end(token, CloseReason::InputLimit);
                Step::Idle
            }
            other => self.read_ended(token, other),
        }
    }

    /// Keeps input for which the handler is not called yet.
    fn keep(&mut self, token: Token, unread: Box<BytesMut>) -> Step {
        self.stats.held += unread.len() as u64;
        if let Some(conn) = connection_in(&mut self.table, token) {
            conn.unread = Some(unread);
        }
        Step::Again
    }

    /// A read that brought no bytes.
    #[cold]
    #[inline(never)]
    fn read_ended(&mut self, token: Token, received: Received) -> Step {
        let Some(conn) = connection_in(&mut self.table, token) else { return Step::Idle };
        let broken = conn.flags.has(Flags::BROKEN);
        match received {
            Received::Bytes => Step::Again,
            Received::Nothing if !broken => {
                self.doubt_input(token);
                Step::Idle
            }
            Received::End if !broken => Step::Again,
            Received::Starved => {
                conn.flags.clear(Flags::READABLE);
                self.retry_later(token);
                Step::Idle
            }
            // All that could still be read has been: now the failure of the other half has its turn.
            Received::Nothing | Received::End | Received::Failed(_) if broken => {
                let e = conn.take_broken();
                self.end(token, CloseReason::Error(e));
                Step::Idle
            }
            Received::Failed(e) => {
                self.end(token, CloseReason::Error(e));
                Step::Idle
            }
            Received::Nothing | Received::End => Step::Idle,
        }
    }

    fn deliver_eof(&mut self, token: Token) -> Step {
        let Some(conn) = connection_in(&mut self.table, token) else { return Step::Idle };
        if conn.flags.has(Flags::EOF_DELIVERED) {
            // No read will tell that the other half has failed too.
            if let Some(e) = conn.take_failure() {
                self.end(token, CloseReason::Error(e));
            }
            return Step::Idle;
        }
        if conn.flags.has(Flags::FILTERED) && !self.filter_is_done(token) {
            return Step::Idle;
        }
        let Some(conn) = connection_in(&mut self.table, token) else { return Step::Idle };
        conn.flags.set(Flags::EOF_DELIVERED);
        let rest = take_unread_if(conn, |_| true).unwrap_or_default();
        self.stats.held -= rest.len() as u64;
        Step::Eof(rest)
    }

    /// Takes back what `on_data` has left of its input.
    #[inline]
    pub fn put_back(&mut self, token: Token, input: &mut BytesMut, own: bool, filtered: bool) {
        if input.is_empty() {
            return;
        }
        if self.connection(token).is_none_or(|conn| conn.phase != Phase::Open) {
            return;
        }
        if filtered != self.is_filtered(token) {
            // It has put a filter under its own connection: what is left is the wire's.
            self.decode(token, input);
            return self.offer(token);
        }
        self.put_back_rest(token, input, own);
    }

    #[inline]
    pub fn is_filtered(&self, token: Token) -> bool {
        self.connection(token).is_some_and(|conn| conn.flags.has(Flags::FILTERED))
    }

    #[cold]
    #[inline(never)]
    fn put_back_rest(&mut self, token: Token, input: &mut BytesMut, own: bool) {
        let Some(conn) = connection_in(&mut self.table, token) else { return };
        // A large leftover keeps its buffer; a small one need not hold on to a large one. Small is also less than a
        // quarter, which is copied at the cost of what was consumed: a limit on bytes is to be one on memory.
        let keep_buffer = own && input.len() > COPIED_LEFTOVER_BYTES.max(self.lent.len() / 4);
        let rest = if keep_buffer { std::mem::take(input) } else { BytesMut::from(&input[..]) };
        // A handler may itself have put bytes into the buffer; that counts like any other input.
        let over = rest.len() > conn.input_limit();
        self.stats.held += rest.len() as u64;
        conn.unread = Some(Box::new(rest));
        if over {
            self.end(token, CloseReason::InputLimit);
        }
    }

    /// A connection that is not read still learns of its failure, and takes what waits unread with it.
    fn learn_of_failure(&mut self, token: Token) {
        let Some(conn) = connection_in(&mut self.table, token) else { return };
        if !conn.flags.has(Flags::PAUSED) {
            return;
        }
        let error = if conn.flags.has(Flags::BROKEN) { conn.extras().broken.take() } else { conn.take_failure() };
        if let Some(e) = error {
            self.end(token, CloseReason::ErrorUnread(e));
        }
    }

    /// Reads and drops what a closed connection's peer still sends.
    fn discard(&mut self, token: Token, buffer: &mut BytesMut, budget: &mut u32) {
        loop {
            let Some(conn) = connection_in(&mut self.table, token) else { return };
            if !conn.flags.has(Flags::READABLE) {
                return;
            }
            if *budget == 0 {
                return self.mark_ready(token);
            }
            *budget -= 1;
            refill(buffer);
            let received = conn.receive(buffer, READ_BYTES, &mut self.stats, self.now);
            let discarded = buffer.len();
            buffer.clear();
            match received {
                // While output waits, the deadline bounds it: a peer may go on sending for as long as it also
                // takes what it is sent.
                Received::Bytes if conn.phase == Phase::Closing => {}
                Received::Bytes => {
                    conn.extras().discarded += discarded;
                    if conn.extras().discarded > conn.options.discard_limit {
                        return self.finish_lingering(token);
                    }
                }
                Received::Nothing => return self.doubt_input(token),
                Received::Starved => return self.retry_later(token),
                Received::End if conn.phase == Phase::Lingering => return self.finish_lingering(token),
                Received::End => return,
                Received::Failed(_) if conn.phase == Phase::Lingering => return self.finish_lingering(token),
                Received::Failed(e) => return self.end(token, CloseReason::Error(e)),
            }
        }
    }

    /// Empties the kernel's receive buffer, within a bound: what is unread when a descriptor is closed makes the
    /// kernel send an RST, and that may cost the peer the last reply. `false`: there was no memory for it, and it is to be
    /// tried again.
    pub fn read_away(&mut self, token: Token) -> bool {
        const READS: u32 = 16;
        let mut buffer = BytesMut::new();
        for _ in 0..READS {
            let Some(conn) = connection_in(&mut self.table, token) else { return true };
            if !conn.flags.has(Flags::READABLE) || conn.fd.is_none() {
                return true;
            }
            refill(&mut buffer);
            match conn.receive(&mut buffer, READ_BYTES, &mut self.stats, self.now) {
                Received::Bytes => {}
                Received::Starved => return false,
                Received::Nothing | Received::End | Received::Failed(_) => return true,
            }
        }
        true
    }

    /// Input is of no use any more, decoded or not.
    pub fn drop_unread(&mut self, token: Token) {
        let Some(conn) = connection_in(&mut self.table, token) else { return };
        let before = conn.held();
        conn.unread = None;
        if let Some(filtering) = conn.extras.as_mut().and_then(|extras| extras.filter.as_mut()) {
            filtering.wire = BytesMut::new();
        }
        self.stats.held -= (before - conn.held()) as u64;
    }

    /// Has a connection's leftover offered without new bytes.
    pub fn offer(&mut self, token: Token) {
        if let Some(conn) = connection_in(&mut self.table, token) {
            conn.flags.set(Flags::OFFER);
            self.mark_ready(token);
        }
    }

    pub fn pause(&mut self, token: Token) {
        let Some(conn) = connection_in(&mut self.table, token) else { return };
        conn.flags.set(Flags::PAUSED);
        // An error that came before is not announced again.
        if conn.flags.has(Flags::FAILED.or(Flags::BROKEN)) {
            self.mark_ready(token);
        }
    }

    pub fn resume(&mut self, token: Token) {
        let Some(conn) = connection_in(&mut self.table, token) else { return };
        if conn.flags.take(Flags::PAUSED) {
            self.offer(token);
        }
    }

    // ── Filters ──────────────────────────────────────────────────────────────────────────────────────────────

    /// Puts a filter under the handler. Input that was read and not consumed counts as the wire's.
    pub fn set_filter(&mut self, token: Token, filter: Box<dyn Filter>) {
        self.spill(token);
        let Some(conn) = connection_in(&mut self.table, token) else { return };
        // What it holds counts on, as the wire's now.
        let wire = take_unread_if(conn, |_| true).unwrap_or_default();
        conn.flags.set(Flags::FILTERED);
        let again = !wire.is_empty();
        conn.extras().filter = Some(Box::new(crate::filter::Filtering { filter, wire }));
        if again {
            self.decode(token, &mut BytesMut::new());
            self.offer(token);
        }
    }

    /// The peer's half has ended on the wire: whether the filter agrees that this is the end. If not, the stream
    /// was cut, and so is the connection.
    pub fn filter_is_done(&mut self, token: Token) -> bool {
        let Some(conn) = connection_in(&mut self.table, token) else { return true };
        let Some(filtering) = conn.extras.as_mut().and_then(|extras| extras.filter.as_mut()) else { return true };
        match filtering.filter.end(&filtering.wire) {
            Ok(()) => true,
            Err(e) => {
                self.end(token, CloseReason::Error(e));
                false
            }
        }
    }

    fn read_filtered(&mut self, token: Token, buffer: &mut BytesMut) -> Step {
        let Some(conn) = connection_in(&mut self.table, token) else { return Step::Idle };
        if conn.unread_len().max(conn.undecoded_len()) >= conn.input_limit() {
            return self.read_beyond_limit(token, buffer);
        }
        refill(buffer);
        match conn.receive(buffer, READ_BYTES, &mut self.stats, self.now) {
            Received::Bytes => {
                self.decode(token, buffer);
                self.offer_if_open(token)
            }
            other => self.read_ended(token, other),
        }
    }

    fn offer_if_open(&mut self, token: Token) -> Step {
        match connection_in(&mut self.table, token) {
            Some(conn) if conn.phase == Phase::Open => {
                conn.flags.set(Flags::OFFER);
                Step::Again
            }
            _ => Step::Idle,
        }
    }

    /// Decodes `input`, behind what was left of the wire; the plain bytes join what the handler has not consumed.
    pub fn decode(&mut self, token: Token, input: &mut BytesMut) {
        let Some(conn) = connection_in(&mut self.table, token) else { return };
        let Some(filtering) = conn.extras.as_mut().and_then(|extras| extras.filter.as_mut()) else { return };
        let mut plain = conn.unread.take().unwrap_or_default();
        let before = plain.len() + filtering.wire.len();
        let mut reply = BytesMut::new();
        let decoded = if filtering.wire.is_empty() {
            let decoded = filtering.filter.decode(input, &mut plain, &mut reply);
            filtering.wire.extend_from_slice(input);
            decoded
        } else {
            filtering.wire.extend_from_slice(input);
            let waited = filtering.wire.len();
            let decoded = filtering.filter.decode(&mut filtering.wire, &mut plain, &mut reply);
            if filtering.wire.len() <= waited / 4 {
                // Nor does the rest of a record hold on to what many took.
                filtering.wire = BytesMut::from(&filtering.wire[..]);
            }
            decoded
        };
        input.clear();
        self.stats.held += (plain.len() + filtering.wire.len()) as u64;
        self.stats.held -= before as u64;
        if !plain.is_empty() {
            conn.unread = Some(plain);
        }
        match decoded {
            Ok(()) => self.push_raw(token, &reply),
            Err(e) => {
                // A farewell such as TLS's alert still goes out, as far as the kernel takes it.
                self.push_raw(token, &reply);
                self.flush_and_tell(token);
                self.end(token, CloseReason::Error(e));
            }
        }
    }
}

/// One read into the loop's buffer, for a connection that is [plain](Connection::is_plain).
#[inline(always)]
pub(crate) fn read_plain(conn: &mut Connection, buffer: &mut BytesMut, stats: &mut Stats, now: Moment) -> Received {
    refill(buffer);
    conn.receive(buffer, conn.read_limit, stats, now)
}

/// Makes the loop's buffer empty and large enough. It costs an allocation only if somebody has kept a slice of it.
#[inline]
pub(crate) fn refill(buffer: &mut BytesMut) {
    buffer.clear();
    if buffer.capacity() < READ_LEAST_BYTES {
        regain(buffer);
    }
}

/// The buffer was split or consumed from the front.
#[inline(never)]
fn regain(buffer: &mut BytesMut) {
    buffer.reserve(READ_BYTES);
}

fn take_unread_if(conn: &mut Connection, test: impl FnOnce(&Connection) -> bool) -> Option<BytesMut> {
    if conn.unread.is_some() && test(conn) { conn.unread.take().map(|unread| *unread) } else { None }
}

/// Where the buffer lies, as addresses.
#[inline]
pub(crate) fn addresses(buffer: &BytesMut) -> std::ops::Range<usize> {
    let start = buffer.as_ptr() as usize;
    start..start + buffer.capacity()
}
