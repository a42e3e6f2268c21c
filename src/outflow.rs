//! Sending: from `send` to the kernel, and what crossing a mark brings about.
//!
//! `send` appends to the queue of its connection and no more: the queue is offered to the kernel when the
//! callback has returned (its own connection) or when the turn settles (others), so that sixteen replies make
//! one write. Only a queue past the eager-flush size is offered at once, since more gathering would gain
//! nothing and memory would grow.
//!
//! ```text
//!   queued bytes
//!   hard ──────────────────────────────────────────────── one more send: Overflow
//!                      ╭───╮
//!   high ─ ─ ─ ─ ─ ─ ─╱─ ─ ╲─ ─ ─ ─ ─ ─ ─ ─ ─ ─ ─ ─ ─ ─  send answers High; the connection is not read
//!                   ╱       ╲
//!   low  ─ ─ ─ ─ ─╱─ ─ ─ ─ ─ ─╲─ ─ ─ ─ ─ ─ ─ ─ ─ ─ ─ ─ ─  on_low_water; reading goes on
//!   ─────────────╯             ╰──────────────────────── 0: on_write_complete
//! ```
//!
//! The rule that is kept: every `Flow::High` is followed by one `on_low_water` or by `on_close`. A mark is a
//! flag that is checked against the live queue when its callback is due, so a queue that fills and drains
//! within one turn can neither lose the answer nor give it too early.

use crate::connection::{Connection, Flags, Flushed, Phase};
use crate::handler::{CloseReason, Flow};
use crate::sockets::{Sockets, connection_in};
use crate::sys;
use crate::token::Token;
use bytes::{Bytes, BytesMut};
use std::io;

/// What is to be done when a callback's output has been flushed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum After {
    /// Nothing.
    Idle,
    /// There may be more input.
    Readable,
    /// The kernel has taken everything: `on_write_complete`.
    Completed,
    /// Both.
    CompletedReadable,
}

impl Sockets {
    /// Queues a copy of `data`.
    #[inline]
    pub fn send_copy(&mut self, token: Token, data: &[u8]) -> Flow {
        if token == self.own && data.len() < self.scratch_room {
            self.scratch_room -= data.len();
            self.scratch.extend_from_slice(data);
            return Flow::Open;
        }
        self.queue_copy(token, data)
    }

    #[inline(never)]
    fn queue_copy(&mut self, token: Token, data: &[u8]) -> Flow {
        self.spill(token);
        const UNUSUAL: Flags = Flags::SHUTDOWN.or(Flags::BROKEN).or(Flags::RELAYED).or(Flags::FILTERED);
        let Some(conn) = connection_in(&mut self.table, token) else { return Flow::Closed };
        let queued = conn.queued() + data.len();
        if queued >= conn.quiet || conn.phase > Phase::Open || conn.flags.has(UNUSUAL) || data.is_empty() {
            return self.send_unusual(token, data);
        }
        if conn.output.is_none() {
            conn.taken = self.now;
        }
        conn.output.get_or_insert_with(|| self.pool.take()).push_copy(data);
        self.stats.held += data.len() as u64;
        if self.own != token && !conn.flags.has(Flags::IN_DIRTY) {
            conn.flags.set(Flags::IN_DIRTY);
            self.dirty.push_back(token);
        }
        Flow::Open
    }

    /// Queues `data` without copying it.
    pub fn send_shared(&mut self, token: Token, data: Bytes) -> Flow {
        self.spill(token);
        let Some(conn) = connection_in(&mut self.table, token) else { return Flow::Closed };
        let queued = conn.queued();
        if !conn.takes_output() {
            return Flow::Closed;
        }
        if conn.flags.has(Flags::FILTERED) || queued > conn.options.hard_limit {
            return self.send_unusual(token, &data);
        }
        if queued == 0 {
            conn.taken = self.now;
        }
        let len = data.len();
        let borrowed = self.lent.contains(&(data.as_ptr() as usize));
        conn.output.get_or_insert_with(|| self.pool.take()).push_shared(data, borrowed);
        if borrowed && self.own != token && !conn.flags.has(Flags::IN_BORROWERS) {
            conn.flags.set(Flags::IN_BORROWERS);
            self.borrowers.push(token);
        }
        self.pushed(token, len)
    }

    /// Queues bytes that are not subject to a filter or to the limits of `send`: what a filter has made, and
    /// what a relay has read.
    pub fn push_raw(&mut self, token: Token, data: &[u8]) {
        self.spill(token);
        let Some(conn) = connection_in(&mut self.table, token) else { return };
        // Behind an end of ours, said or about to be, a filter has no more replies to give.
        let over = conn.flags.has(Flags::BROKEN.or(Flags::SHUTDOWN)) || conn.phase > Phase::Closing;
        if data.is_empty() || over {
            return;
        }
        if conn.queued() == 0 {
            conn.taken = self.now;
        }
        conn.output.get_or_insert_with(|| self.pool.take()).push_copy(data);
        self.pushed(token, data.len());
    }

    /// Output that waits for the kernel, in bytes.
    pub fn queued(&self, token: Token) -> usize {
        let scratch = if token == self.own { self.scratch.len() } else { 0 };
        self.connection(token).map_or(0, |conn| conn.queued() + scratch)
    }

    /// Queues what an earlier owner had taken and not sent: however much it is, it was taken.
    pub fn push_unsent(&mut self, token: Token, data: Bytes) {
        let Some(conn) = connection_in(&mut self.table, token) else { return };
        // The pieces before it have met an error.
        if !conn.takes_output() {
            return;
        }
        let len = data.len();
        conn.output.get_or_insert_with(|| self.pool.take()).push_shared(data, false);
        self.pushed(token, len);
    }

    /// Something is done to the connection whose callback runs: what it has sent so far joins its queue, and what
    /// it sends from now on too.
    #[inline]
    pub fn spill(&mut self, token: Token) {
        if token == self.own && self.scratch_room > 0 {
            self.spill_scratch(token);
        }
    }

    #[inline(never)]
    fn spill_scratch(&mut self, token: Token) {
        self.scratch_room = 0;
        if self.scratch.is_empty() {
            return;
        }
        if let Some(conn) = connection_in(&mut self.table, token) {
            self.stats.held += self.scratch.len() as u64;
            if conn.output.is_none() {
                conn.taken = self.now;
            }
            conn.output.get_or_insert_with(|| self.pool.take()).push_copy(&self.scratch);
        }
        self.scratch.clear();
    }

    /// What a send amounts to: counts, marks, eager flush.
    #[inline]
    fn pushed(&mut self, token: Token, len: usize) -> Flow {
        self.stats.held += len as u64;
        let Some(conn) = connection_in(&mut self.table, token) else { return Flow::Closed };
        let queued = conn.queued();
        if queued >= conn.quiet {
            return self.pushed_much(token);
        }
        if self.own != token {
            self.mark_dirty(token);
        }
        Flow::Open
    }

    #[cold]
    #[inline(never)]
    fn pushed_much(&mut self, token: Token) -> Flow {
        if self.connection(token).is_some_and(|conn| conn.queued() >= conn.options.eager_flush) {
            self.flush_and_tell(token);
        }
        let Some(conn) = connection_in(&mut self.table, token) else { return Flow::Closed };
        let queued = conn.queued();
        if self.own != token && queued > 0 {
            self.mark_dirty(token);
        }
        let Some(conn) = connection_in(&mut self.table, token) else { return Flow::Closed };
        if conn.phase == Phase::Ended || conn.flags.has(Flags::BROKEN) {
            return Flow::Closed;
        }
        if queued <= conn.options.high_water {
            return Flow::Open;
        }
        self.over_high_water(token);
        Flow::High
    }

    /// The live queue is over the high mark.
    pub fn over_high_water(&mut self, token: Token) {
        let Some(conn) = connection_in(&mut self.table, token) else { return };
        if conn.flags.has(Flags::RELAYED) {
            return;
        }
        if !conn.options.read_while_high {
            conn.flags.set(Flags::GATED);
        }
        if !conn.flags.has(Flags::OWES_LOW) {
            conn.flags.set(Flags::OWES_LOW);
            self.mark_due(token, Flags::HIGH_DUE);
        }
    }

    /// The sends that are rare: nothing, through a filter, over the hard limit, or so large that a copy is
    /// worth avoiding.
    #[cold]
    #[inline(never)]
    fn send_unusual(&mut self, token: Token, data: &[u8]) -> Flow {
        let Some(conn) = connection_in(&mut self.table, token) else { return Flow::Closed };
        let queued = conn.queued();
        if !conn.takes_output() {
            return Flow::Closed;
        }
        if data.is_empty() {
            return if queued > conn.options.high_water { Flow::High } else { Flow::Open };
        }
        if queued > conn.options.hard_limit {
            self.end(token, CloseReason::Overflow);
            return Flow::Closed;
        }
        if conn.flags.has(Flags::FILTERED) {
            return self.send_filtered(token, data);
        }
        let direct = data.len() >= conn.options.eager_flush
            && queued == 0
            && conn.phase == Phase::Open
            && conn.flags.has(Flags::WRITABLE);
        let written = if direct { conn.write_through(data, &mut self.stats, self.now) } else { Ok(0) };
        let taken = match written {
            Ok(taken) => taken,
            Err(e) => {
                self.broken(token, e);
                return Flow::Closed;
            }
        };
        let Some(conn) = connection_in(&mut self.table, token) else { return Flow::Closed };
        if !conn.takes_output() {
            return Flow::Closed;
        }
        if queued == 0 {
            conn.taken = self.now;
        }
        // Even an empty rest makes a queue: its drain is what `on_write_complete` reports.
        conn.output.get_or_insert_with(|| self.pool.take()).push_copy(&data[taken..]);
        self.pushed(token, data.len() - taken)
    }

    /// Offers the queue to the kernel; whether that emptied it.
    pub fn flush(&mut self, token: Token) -> bool {
        self.spill(token);
        let Some(conn) = connection_in(&mut self.table, token) else { return false };
        let before = conn.queued();
        self.stats.peak_queued = self.stats.peak_queued.max(before as u64);
        if !matches!(conn.phase, Phase::Open | Phase::Closing) {
            return false;
        }
        if before > 0 && !conn.flags.has(Flags::WRITABLE) {
            self.keep_waiting(token);
            return false;
        }
        let had_queue = conn.output.is_some();
        let flushed = conn.flush(&mut self.stats, self.now);
        self.stats.held -= (before - conn.queued()) as u64;
        match flushed {
            Flushed::Empty => {
                if let Some(output) = conn.output.take() {
                    self.pool.put(output);
                }
                if had_queue {
                    // An earlier drain that was not told yet is one with this.
                    conn.flags.clear(Flags::COMPLETE_DUE);
                }
                let (flags, open) = (conn.flags, conn.phase == Phase::Open);
                if flags.has(Flags::GATED.or(Flags::OWES_LOW).or(Flags::RELAYED).or(Flags::ASKS_OUT)) {
                    self.fell(token);
                }
                if flags.has(Flags::SHUTDOWN) || !open {
                    self.drained(token);
                }
                had_queue
            }
            rest => {
                self.flush_rest(token, rest);
                false
            }
        }
    }

    /// [`Sockets::flush`] from where no callback can follow at once.
    pub fn flush_and_tell(&mut self, token: Token) {
        if self.flush(token) {
            self.mark_due(token, Flags::COMPLETE_DUE);
        }
    }

    /// Flushes after a callback of this connection, and those that were sent slices of the buffer it was lent.
    #[inline(always)]
    pub fn flush_own(&mut self, token: Token) -> After {
        if self.scratch_room == 0 || !self.borrowers.is_empty() {
            return self.flush_own_unusual(token);
        }
        // Nothing was done to the connection since it was found to be plain, but for what lies in the scratch.
        let Some(conn) = connection_in(&mut self.table, token) else { return After::Idle };
        debug_assert!(conn.takes_output() && conn.output.is_none(), "a verb that does more than send spills first");
        if self.scratch.is_empty() {
            self.scratch_room = 0;
            self.own = Token::NOBODY;
            return if conn.flags.has(Flags::READABLE) { After::Readable } else { After::Idle };
        }
        let Some(fd) = &conn.fd else { return self.flush_own_unusual(token) };
        self.stats.writes += 1;
        match sys::socket::send(fd, &self.scratch) {
            Ok(n) if n == self.scratch.len() => {
                self.stats.bytes_written += n as u64;
                conn.moved = self.now;
                self.scratch.clear();
                self.scratch_room = 0;
                self.own = Token::NOBODY;
                if conn.flags.has(Flags::READABLE) { After::CompletedReadable } else { After::Completed }
            }
            sent => self.flush_own_rest(token, sent),
        }
    }

    /// The kernel has not taken all of the scratch.
    #[cold]
    #[inline(never)]
    fn flush_own_rest(&mut self, token: Token, sent: io::Result<usize>) -> After {
        self.spill_scratch(token);
        self.own = Token::NOBODY;
        let Some(conn) = connection_in(&mut self.table, token) else { return After::Idle };
        let rest = conn.sent(sent, &mut self.stats, self.now);
        self.flush_rest(token, rest);
        After::Readable
    }

    /// Whether `on_write_complete` would be true.
    pub fn is_complete(&self, token: Token) -> bool {
        self.connection(token)
            .is_some_and(|conn| conn.phase == Phase::Open && conn.queued() == 0 && !conn.flags.has(Flags::RELAYED))
    }

    #[inline(never)]
    fn flush_own_unusual(&mut self, token: Token) -> After {
        self.spill(token);
        self.own = Token::NOBODY;
        self.scratch_room = 0;
        if !self.borrowers.is_empty() {
            self.flush_borrowers();
        }
        let Some(conn) = connection_in(&mut self.table, token) else { return After::Idle };
        if conn.output.is_none() {
            if conn.flags.has(Flags::SHUTDOWN) || conn.phase == Phase::Closing {
                self.drained(token);
            }
            return After::Readable;
        }
        if self.flush(token) && self.is_complete(token) { After::CompletedReadable } else { After::Readable }
    }

    #[cold]
    fn flush_borrowers(&mut self) {
        while let Some(token) = self.borrowers.pop() {
            if let Some(conn) = connection_in(&mut self.table, token) {
                conn.flags.clear(Flags::IN_BORROWERS);
            }
            self.flush_and_tell(token);
            // A connection in the making cannot be flushed.
            self.keep_waiting(token);
        }
    }

    /// Flushes what others than its own callback have queued; whether `on_write_complete` is due now.
    ///
    /// Nearly always the queue is one piece, the kernel takes all of it, and no mark was crossed: then nobody but the
    /// handler has to know, and it need not stand in line for that.
    #[inline]
    pub fn flush_dirty(&mut self, token: Token) -> bool {
        let Some(conn) = connection_in(&mut self.table, token) else { return false };
        conn.flags.clear(Flags::IN_DIRTY);
        let plain = conn.drains_plainly();
        let (Some(output), Some(fd)) = (conn.output.as_mut().filter(|_| plain), &conn.fd) else {
            self.flush_and_tell(token);
            return false;
        };
        let Some(data) = output.single().filter(|data| !data.is_empty()) else {
            self.flush_and_tell(token);
            return false;
        };
        let queued = data.len();
        self.stats.peak_queued = self.stats.peak_queued.max(queued as u64);
        self.stats.writes += 1;
        match sys::socket::send(fd, data) {
            Ok(n) if n == queued => {
                self.stats.bytes_written += n as u64;
                self.stats.held -= n as u64;
                conn.moved = self.now;
                output.advance(n);
                if let Some(drained) = conn.output.take() {
                    self.pool.put(drained);
                }
                true
            }
            sent => {
                let rest = conn.sent(sent, &mut self.stats, self.now);
                self.flush_rest(token, rest);
                false
            }
        }
    }

    #[cold]
    #[inline(never)]
    fn flush_rest(&mut self, token: Token, rest: Flushed) {
        match rest {
            Flushed::Empty => {}
            Flushed::Waiting => self.ask_for_room(token),
            Flushed::More => self.mark_dirty(token),
            Flushed::Starved => {
                if let Some(conn) = connection_in(&mut self.table, token) {
                    conn.flags.clear(Flags::WRITABLE);
                }
                self.retry_later(token);
            }
            Flushed::Failed(e) => return self.broken(token, e),
        }
        self.keep_waiting(token);
        self.fell(token);
    }

    /// Output waits, unless the connection has just ended: it must own its memory, and the stalled time-out runs.
    fn keep_waiting(&mut self, token: Token) {
        let Some(conn) = connection_in(&mut self.table, token).filter(|conn| conn.phase <= Phase::Closing) else {
            return;
        };
        let watched = conn.options.stalled_timeout.is_none() || conn.phase == Phase::Connecting;
        // The stop of the loop has a deadline of its own, for all.
        let closing = conn.phase == Phase::Closing && !conn.flags.has(Flags::STOPPED);
        // One that is to be retried, or is in the making, does not wait for an edge.
        let retried = conn.extras.as_ref().is_some_and(|extras| extras.retry.is_some());
        let for_room = !conn.flags.has(Flags::WRITABLE) && conn.phase != Phase::Connecting && !retried;
        let close_timeout = conn.options.close_timeout;
        let has_deadline = conn.extras.as_ref().is_some_and(|extras| extras.deadline.is_some());
        if let Some(output) = &mut conn.output {
            if output.is_borrowing() {
                output.own(&self.lent);
            }
            output.settle();
        }
        if for_room {
            self.doubt(token);
        }
        if !watched {
            self.watch(token);
        }
        if closing && !has_deadline {
            self.deadline_by(token, close_timeout);
        }
    }

    /// The queue has become shorter: whoever waits for that is told.
    fn fell(&mut self, token: Token) {
        let Some(conn) = connection_in(&mut self.table, token) else { return };
        let queued = conn.queued();
        if queued <= conn.low_water() && conn.flags.has(Flags::OWES_LOW.or(Flags::GATED)) {
            self.mark_due(token, Flags::LOW_DUE);
        }
        let Some(conn) = connection_in(&mut self.table, token) else { return };
        if let Some(relay) = &conn.relay
            && queued <= relay.low_water
        {
            let other = relay.other;
            self.mark_ready(other);
        }
        if queued == 0 {
            self.ask_no_room(token);
        }
    }

    /// Sockets that report every send as an edge are asked about room only while output waits.
    fn ask_for_room(&mut self, token: Token) {
        let Some(conn) = connection_in(&mut self.table, token) else { return };
        if conn.flags.has(Flags::TCP.or(Flags::ASKS_OUT)) {
            return;
        }
        conn.flags.set(Flags::ASKS_OUT);
        if !self.follow_interest(token) {
            // Nothing will tell: the queue is offered again after a while, and epoll asked anew.
            if let Some(conn) = connection_in(&mut self.table, token) {
                conn.flags.clear(Flags::ASKS_OUT);
            }
            self.retry_later(token);
        }
    }

    fn ask_no_room(&mut self, token: Token) {
        let Some(conn) = connection_in(&mut self.table, token) else { return };
        if conn.flags.take(Flags::ASKS_OUT) && !self.follow_interest(token) {
            // It goes on hearing of room that nobody waits for, until a queue has gone out once more.
            if let Some(conn) = connection_in(&mut self.table, token) {
                conn.flags.set(Flags::ASKS_OUT);
            }
        }
    }

    /// Has epoll watch a connection for what it asks for now; whether it does.
    fn follow_interest(&mut self, token: Token) -> bool {
        let Some(conn) = connection_in(&mut self.table, token) else { return true };
        let Some(fd) = &conn.fd else { return true };
        let asked = self.poller.modify(fd, conn.interest(), token);
        if let Err(e) = &asked {
            log::debug!("{token}: epoll_ctl: {e}");
        }
        asked.is_ok()
    }

    /// Marks have been moved: they hold for what is queued now.
    pub fn recheck_marks(&mut self, token: Token) {
        let Some(conn) = connection_in(&mut self.table, token) else { return };
        if conn.options.read_while_high && conn.flags.take(Flags::GATED) {
            self.mark_ready(token);
        }
        let Some(conn) = connection_in(&mut self.table, token) else { return };
        if conn.queued() > conn.options.high_water {
            self.over_high_water(token);
        } else {
            self.fell(token);
        }
        if let Some(conn) = connection_in(&mut self.table, token) {
            conn.follow_options();
        }
        if self.connection(token).is_some_and(Connection::is_timed) {
            self.watch(token);
        }
    }

    /// Which of the callbacks due still hold: marks are compared with the queue as it is now.
    pub fn take_due(&mut self) -> Option<(Token, Flags, usize)> {
        let token = self.due.pop_front()?;
        let Some(conn) = connection_in(&mut self.table, token) else { return Some((token, Flags::default(), 0)) };
        if conn.phase == Phase::Open && conn.flags.has(Flags::OPEN_DUE) {
            // Adopted in this turn with output of its own. `on_open` comes first, when the next one dispatches.
            self.due.push_back(token);
            return Some((token, Flags::default(), 0));
        }
        conn.flags.clear(Flags::IN_DUE);
        let mut what = Flags::default();
        let queued = conn.queued();
        let speaks = conn.phase == Phase::Open && !conn.flags.has(Flags::RELAYED);
        if conn.flags.take(Flags::HIGH_DUE) && speaks && queued > conn.options.high_water {
            what.set(Flags::HIGH_DUE);
        }
        if conn.flags.take(Flags::LOW_DUE) && speaks && queued <= conn.low_water() {
            conn.flags.clear(Flags::GATED);
            if conn.flags.take(Flags::OWES_LOW) {
                what.set(Flags::LOW_DUE);
            }
            // What the handler left when it met the high mark is offered again without new bytes.
            conn.flags.set(Flags::OFFER);
            self.mark_ready(token);
        }
        Some((token, what, queued))
    }

    /// Whether `on_write_complete` is due; asked after `on_low_water`, which may have sent more.
    pub fn take_complete(&mut self, token: Token) -> bool {
        let Some(conn) = connection_in(&mut self.table, token) else { return false };
        conn.flags.take(Flags::COMPLETE_DUE) && self.is_complete(token)
    }

    // ── Filters ──────────────────────────────────────────────────────────────────────────────────────────────

    fn send_filtered(&mut self, token: Token, data: &[u8]) -> Flow {
        match self.encode(token, data) {
            Ok(()) => {}
            Err(e) => {
                self.end(token, CloseReason::Error(e));
                return Flow::Closed;
            }
        }
        match self.connection(token) {
            Some(conn) if conn.flags.has(Flags::BROKEN) || conn.phase == Phase::Ended => Flow::Closed,
            Some(conn) if conn.queued() > conn.options.high_water => Flow::High,
            Some(_) => Flow::Open,
            None => Flow::Closed,
        }
    }

    pub fn encode(&mut self, token: Token, data: &[u8]) -> io::Result<()> {
        let Some(conn) = connection_in(&mut self.table, token) else { return Ok(()) };
        let Some(filtering) = conn.extras.as_mut().and_then(|extras| extras.filter.as_mut()) else { return Ok(()) };
        let mut wire = BytesMut::new();
        filtering.filter.encode(data, &mut wire)?;
        self.push_raw(token, &wire);
        Ok(())
    }

    /// Our half ends: a filter may have a farewell of its own (TLS's close_notify), which stands before the FIN.
    pub fn finish_filter(&mut self, token: Token) {
        let Some(conn) = connection_in(&mut self.table, token) else { return };
        // Said already, and perhaps the FIN is out.
        if conn.flags.has(Flags::SHUTDOWN) {
            return;
        }
        let Some(filtering) = conn.extras.as_mut().and_then(|extras| extras.filter.as_mut()) else { return };
        let mut wire = BytesMut::new();
        if let Err(e) = filtering.filter.finish(&mut wire) {
            return self.end(token, CloseReason::Error(e));
        }
        self.push_raw(token, &wire);
    }
}

impl Connection {
    fn is_timed(&self) -> bool {
        self.phase == Phase::Open && (self.options.idle_timeout.is_some() || self.options.stalled_timeout.is_some())
    }
}
