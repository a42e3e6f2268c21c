//! Relaying: two connections joined, bytes both ways, without their handlers.
//!
//! What is read from one side is written to the other straight out of the read buffer. Only what the kernel does
//! not take is copied, into the other side's queue, and while more than the mark is queued there, this side is
//! not read: its peer feels that as a full window.
//!
//! ```text
//!    client ──► a ──read──► loop's buffer ──write──► b ──► upstream
//!               ▲                            │rest
//!               │ not read while             ▼
//!               └──── queued > high ──── b's queue ──flush──►
//! ```
//!
//! Each side's FIN is carried across when everything before it has been written, so either half may end long
//! before the other. An *abnormal* end of one side aborts the other: a FIN there would make a cut stream look
//! whole. A relayed pair shares one idle clock.

use crate::connection::{Connection, Flags, Phase, Received, RelayHalf};
use crate::handler::CloseReason;
use crate::intake::{READ_BYTES, Step, refill};
use crate::options::RelayOptions;
use crate::sockets::{Served, Sockets, connection_in};
use crate::token::Token;
use bytes::BytesMut;
use std::rc::Rc;

impl Sockets {
    /// Joins two connections; whether both were there to be joined.
    pub fn join(&mut self, a: Token, b: Token, options: &RelayOptions) -> bool {
        let joinable = |sockets: &Sockets, token| {
            sockets.connection(token).is_some_and(|conn| {
                matches!(conn.phase, Phase::Open | Phase::Connecting)
                    && !conn.flags.has(Flags::RELAYED.or(Flags::SHUTDOWN).or(Flags::BROKEN))
            })
        };
        self.spill(a);
        self.spill(b);
        if a == b || !joinable(self, a) || !joinable(self, b) {
            return false;
        }
        self.join_half(a, b, options);
        self.join_half(b, a, options);
        true
    }

    fn join_half(&mut self, token: Token, other: Token, options: &RelayOptions) {
        let Some(conn) = connection_in(&mut self.table, token) else { return };
        conn.flags.set(Flags::RELAYED);
        conn.flags.clear(Flags::PAUSED.or(Flags::GATED).or(Flags::OWES_LOW).or(Flags::OFFER));
        conn.want = 0;
        let high_water = options.high_water;
        conn.relay = Some(Box::new(RelayHalf { other, high_water, low_water: options.low_water.min(high_water) }));
        // An end that its handler had been told of is the other side's to know now.
        conn.flags.clear(Flags::EOF_DELIVERED);
        if options.idle_timeout.is_some() && options.idle_timeout != conn.options.idle_timeout {
            Rc::make_mut(&mut conn.options).idle_timeout = options.idle_timeout;
        }
        if conn.phase == Phase::Open {
            self.watch(token);
        }
        self.mark_ready(token);
    }

    /// The commonest event of a relay: one read, all of which the other side's kernel takes, and nothing behind it.
    #[inline(always)]
    pub fn relay_plain(&mut self, token: Token, other: Token, buffer: &mut BytesMut) -> Served {
        let mut spent = 0;
        if self.connection(other).is_some_and(Connection::takes_directly)
            && let Some(conn) = connection_in(&mut self.table, token)
        {
            spent = 1;
            refill(buffer);
            // Not up to the input limit: that bounds what a handler leaves, and here is none.
            let received = conn.receive(buffer, READ_BYTES, &mut self.stats, self.now);
            let drained = !conn.flags.has(Flags::READABLE);
            if !matches!(received, Received::Bytes) {
                self.relay_read_ended(token, received);
            } else if self.carry(other, buffer) && drained {
                return Served::Nobody;
            }
        }
        self.relay_rest(token, buffer, spent);
        Served::Nobody
    }

    /// [`Sockets::relay_step`] when `spent` of the budget is used up.
    #[inline(never)]
    fn relay_rest(&mut self, token: Token, buffer: &mut BytesMut, spent: u32) {
        let Some(conn) = connection_in(&mut self.table, token) else { return };
        let mut budget = conn.options.read_budget.max(1).saturating_sub(spent);
        self.relay_step(token, buffer, &mut budget);
    }

    /// A read of a relayed connection brought no bytes.
    fn relay_read_ended(&mut self, token: Token, received: Received) {
        match received {
            // The end is carried in the next step.
            Received::Bytes | Received::End => {}
            Received::Nothing => self.doubt_input(token),
            Received::Starved => {
                if let Some(conn) = connection_in(&mut self.table, token) {
                    conn.flags.clear(Flags::READABLE);
                }
                self.retry_later(token);
            }
            Received::Failed(e) => self.end(token, CloseReason::Error(e)),
        }
    }

    /// Carries what has come on one side to the other, while `budget` (in reads) lasts.
    pub fn relay_step(&mut self, token: Token, buffer: &mut BytesMut, budget: &mut u32) {
        loop {
            let Some(conn) = connection_in(&mut self.table, token) else { return };
            let Some(relay) = &conn.relay else { return };
            let (other, high_water) = (relay.other, relay.high_water);
            if conn.unread.is_none() && !conn.flags.has(Flags::READABLE.or(Flags::EOF_READ)) {
                return;
            }
            // The other side has ended in order, so it has had our end; or it is being closed, and what comes now
            // is no longer its to send. Either way nothing is left to carry.
            let carries = |conn: &&Connection| matches!(conn.phase, Phase::Open | Phase::Connecting);
            let Some(queued) = self.connection(other).filter(carries).map(Connection::queued) else { return };
            let Some(conn) = connection_in(&mut self.table, token) else { return };
            if conn.phase != Phase::Open {
                return;
            }
            if queued > high_water {
                return self.fail_unread(token);
            }
            if let Some(unread) = conn.unread.take() {
                self.stats.held -= unread.len() as u64;
                self.carry(other, &unread);
                continue;
            }
            if conn.flags.has(Flags::EOF_READ) {
                return self.carry_end(token, other);
            }
            if !conn.flags.has(Flags::READABLE) {
                return;
            }
            if *budget == 0 {
                return self.mark_ready(token);
            }
            *budget -= 1;
            if conn.undecoded_len() >= conn.input_limit() {
                match self.read_beyond_limit(token, buffer) {
                    Step::Again => continue,
                    _ => return,
                }
            }
            refill(buffer);
            match conn.receive(buffer, READ_BYTES, &mut self.stats, self.now) {
                Received::Bytes if conn.flags.has(Flags::FILTERED) => self.decode(token, buffer),
                Received::Bytes => {
                    let drained = !conn.flags.has(Flags::READABLE);
                    self.carry(other, buffer);
                    if drained {
                        return;
                    }
                }
                ended => self.relay_read_ended(token, ended),
            }
        }
    }

    /// Writes to the other side, and queues what the kernel does not take; whether it took all.
    #[inline(always)]
    fn carry(&mut self, other: Token, data: &[u8]) -> bool {
        let Some(conn) = connection_in(&mut self.table, other) else { return false };
        let direct = conn.takes_directly();
        let written = if direct { conn.write_through(data, &mut self.stats, self.now) } else { Ok(0) };
        let taken = match written {
            Ok(taken) => taken,
            Err(e) => {
                self.broken(other, e);
                return false;
            }
        };
        if taken == data.len() {
            return true;
        }
        self.carry_rest(other, &data[taken..]);
        false
    }

    #[inline(never)]
    fn carry_rest(&mut self, other: Token, rest: &[u8]) {
        if !self.is_filtered(other) {
            return self.push_raw(other, rest);
        }
        if let Err(e) = self.encode(other, rest) {
            self.end(other, CloseReason::Error(e));
        }
    }

    /// One side has ended: so does the other's output, behind what is queued for it.
    fn carry_end(&mut self, token: Token, other: Token) {
        let Some(conn) = connection_in(&mut self.table, token) else { return };
        if conn.flags.has(Flags::EOF_DELIVERED) {
            // No read will tell that the other half has failed too.
            if let Some(e) = conn.take_failure() {
                self.end(token, CloseReason::Error(e));
            }
            return;
        }
        if conn.flags.has(Flags::FILTERED) && !self.filter_is_done(token) {
            return;
        }
        let Some(conn) = connection_in(&mut self.table, token) else { return };
        conn.flags.set(Flags::EOF_DELIVERED);
        let ended = conn.flags.has(Flags::SHUTDOWN) && conn.queued() == 0;
        self.finish_filter(other);
        self.end_output(other);
        if ended {
            self.drained(token);
        }
    }

    /// A side that is not being read because the other is slow still learns of its failure.
    fn fail_unread(&mut self, token: Token) {
        let Some(conn) = connection_in(&mut self.table, token) else { return };
        if let Some(e) = conn.take_failure() {
            self.end(token, CloseReason::ErrorUnread(e));
        }
    }

    /// One side of a pair is over: what that means for the other.
    pub fn end_relayed(&mut self, token: Token, reason: &CloseReason) {
        let Some(other) = self.connection(token).and_then(|conn| conn.relay.as_ref()).map(|relay| relay.other) else {
            return;
        };
        match reason {
            CloseReason::Done | CloseReason::Stopped => {}
            CloseReason::Local | CloseReason::Detached => self.close(other),
            // One clock, one reason.
            CloseReason::Idle => self.end(other, CloseReason::Idle),
            _ => self.end(other, CloseReason::Relay),
        }
    }
}
