//! How connections end: in halves, when flushed, at once, or because the loop stops.
//!
//! Three words that are never swapped: *shutdown* ends our half of a stream, *close* ends a socket, *stop* ends the
//! loop. Whatever the way, the same few steps follow, and each is taken once:
//!
//! ```text
//!   shutdown ─► queue empty ─► FIN ─────────────────┐
//!   peer's end read, and told to the handler ───────┴─► both ─► end(Done) ─┐
//!   close ─► queue empty ─► FIN, on_close ─► lingers until the peer's end ─┤
//!   stop ──► queue empty ─► end(Stopped) ──────────────────────────────────┤      in the list of the ended:
//!   error, limit, time-out, abort ─► end(…) with an RST ───────────────────┴────► on_close ─► reaped
//! ```
//!
//! The rule that is kept: what was taken by `send` is handed to the kernel before any of the orderly ends, or the
//! reason says that it was not; and a peer whose stream was cut sees an RST, so that it cannot take a part for the
//! whole.

use crate::connection::{Flags, Phase};
use crate::handler::CloseReason;
use crate::sockets::{Due, Sockets, Source, Stopping, connection_in};
use crate::sys;
use crate::token::Token;
use std::io;

impl Sockets {
    /// Our half ends once everything queued is sent.
    pub fn shutdown(&mut self, token: Token) {
        self.spill(token);
        let Some(conn) = connection_in(&mut self.table, token) else { return };
        if !conn.takes_output() {
            return;
        }
        if conn.flags.has(Flags::FILTERED) {
            self.finish_filter(token);
        }
        self.end_output(token);
    }

    /// The same for a relayed connection, whose output the user cannot end.
    pub fn end_output(&mut self, token: Token) {
        let Some(conn) = connection_in(&mut self.table, token) else { return };
        conn.flags.set(Flags::SHUTDOWN);
        if self.own != token {
            self.mark_dirty(token);
        }
    }

    /// Ends both halves once everything queued is sent; the handler hears `on_close` and nothing else.
    pub fn close(&mut self, token: Token) {
        self.spill(token);
        let Some(source) = self.table.get_mut(token) else { return };
        match &mut **source {
            Source::Connection(conn) => match conn.phase {
                Phase::Connecting => {
                    let reason = if conn.queued() > 0 { CloseReason::Unsent } else { CloseReason::Local };
                    self.end(token, reason);
                }
                Phase::Open => self.begin_close(token),
                Phase::Closing | Phase::Lingering | Phase::Ended => {}
            },
            Source::Listener(_) => self.close_listener(token),
            Source::Datagram(_) => self.close_datagram(token),
            Source::Bell(_) => {}
        }
    }

    /// Ends the connection now with an RST.
    pub fn abort(&mut self, token: Token) {
        self.spill(token);
        match self.connection(token).map(|conn| conn.phase) {
            Some(Phase::Lingering) => {
                if let Some(fd) = self.connection(token).and_then(|conn| conn.fd.as_ref()) {
                    // Best effort, as in `end`.
                    let _ = sys::socket::set_linger_zero(fd);
                }
                self.finish_lingering(token);
            }
            Some(_) => self.end(token, CloseReason::Aborted),
            None => self.close(token),
        }
    }

    fn begin_close(&mut self, token: Token) {
        let Some(conn) = connection_in(&mut self.table, token) else { return };
        if conn.phase == Phase::Open && conn.flags.has(Flags::FILTERED) && !conn.flags.has(Flags::BROKEN) {
            self.finish_filter(token);
        }
        let Some(conn) = connection_in(&mut self.table, token) else { return };
        if conn.phase != Phase::Open {
            return;
        }
        // Output is lost already, the filter's farewell maybe, and this reason says so.
        if conn.flags.has(Flags::BROKEN) {
            let e = conn.take_broken();
            return self.end(token, CloseReason::Error(e));
        }
        conn.phase = Phase::Closing;
        self.drop_unread(token);
        self.cancel_keyed(token);
        // Input is discarded from now on, whatever the handler had asked: a peer that is blocked writing to us
        // would not read what we still have to send.
        if let Some(conn) = connection_in(&mut self.table, token) {
            conn.flags.clear(Flags::PAUSED.or(Flags::GATED));
            if conn.flags.has(Flags::READABLE) {
                self.mark_ready(token);
            }
        }
        if self.own != token {
            self.mark_dirty(token);
        }
    }

    /// What follows when nothing is queued any more: an ended half is told to the peer, a closed connection is
    /// over.
    pub fn drained(&mut self, token: Token) {
        let Some(conn) = connection_in(&mut self.table, token) else { return };
        match conn.phase {
            Phase::Open if conn.flags.has(Flags::SHUTDOWN) => {
                // No shutdown(2) when close(2) follows at once.
                if conn.flags.has(Flags::EOF_DELIVERED) {
                    self.end(token, CloseReason::Done);
                } else if !conn.flags.has(Flags::FIN_SENT) {
                    conn.flags.set(Flags::FIN_SENT);
                    if let Some(Err(e)) = conn.fd.as_ref().map(sys::socket::shutdown_write) {
                        self.shutdown_failed(token, e);
                    }
                }
            }
            Phase::Closing if conn.flags.has(Flags::STOPPED) => {
                if self.read_away(token) {
                    self.end(token, CloseReason::Stopped);
                } else {
                    // Until the stop's deadline.
                    self.retry_later(token);
                }
            }
            Phase::Closing => self.begin_lingering(token),
            _ => {}
        }
    }

    /// ENOTCONN is how the kernel says that nothing is left to end. If an error is the cause, that is what has happened.
    /// If there is none, both halves have ended in order already: ours before the connection was adopted. Then
    /// reading tells the rest.
    fn shutdown_failed(&mut self, token: Token, e: std::io::Error) {
        let Some(conn) = connection_in(&mut self.table, token) else { return };
        let cause = conn.fd.as_ref().and_then(|fd| sys::socket::take_error(fd).ok().flatten());
        match cause {
            Some(cause) => self.broken(token, cause),
            None if e.kind() == std::io::ErrorKind::NotConnected => {}
            None => self.broken(token, e),
        }
    }

    /// The factory has refused the peer; what it may have sent still goes out.
    pub fn turn_away(&mut self, token: Token) {
        self.stats.refused += 1;
        match self.connection(token) {
            Some(conn) if conn.queued() > 0 => self.begin_close(token),
            _ => self.end(token, CloseReason::Local),
        }
    }

    /// Everything is with the kernel: the handler may go. The descriptor waits for the peer's end, because
    /// closing it with input unread, or still to come, would make the kernel send an RST, which may overtake
    /// what was just sent.
    fn begin_lingering(&mut self, token: Token) {
        let Some(conn) = connection_in(&mut self.table, token) else { return };
        if conn.flags.has(Flags::EOF_READ) {
            return self.end(token, CloseReason::Local);
        }
        let timeout = conn.options.close_timeout;
        if !conn.flags.has(Flags::FIN_SENT)
            && let Some(Err(_)) = conn.fd.as_ref().map(sys::socket::shutdown_write)
        {
            // ENOTCONN: the peer has cut the connection. Nothing is left to wait for.
            return self.end(token, CloseReason::Local);
        }
        conn.flags.set(Flags::FIN_SENT.or(Flags::CLOSE_DUE));
        conn.phase = Phase::Lingering;
        self.cancel_watch(token);
        self.deadline_by(token, timeout);
        self.mark_ready(token);
        self.end_relayed(token, &CloseReason::Local);
        self.push_ended(token, CloseReason::Local);
    }

    /// The peer has ended too, or has been given time enough.
    pub fn finish_lingering(&mut self, token: Token) {
        let Some(conn) = connection_in(&mut self.table, token) else { return };
        if conn.phase != Phase::Lingering {
            return;
        }
        conn.phase = Phase::Ended;
        // While `on_close` is still due, its delivery reaps.
        let delivered = !conn.flags.has(Flags::CLOSE_DUE);
        self.cancel_timers(token);
        if delivered {
            self.reaped.push(token);
        }
    }

    /// The connection is over. `on_close` follows in this turn, or in the next one if the turn has settled.
    pub fn end(&mut self, token: Token, reason: CloseReason) {
        self.spill(token);
        let Some(conn) = connection_in(&mut self.table, token) else { return };
        if matches!(conn.phase, Phase::Lingering | Phase::Ended) {
            return;
        }
        // A relayed pair is idle in mid-stream unless the end of the other side was carried to this one.
        let cut_short = matches!(reason, CloseReason::Idle) && conn.relay.is_some() && !conn.flags.has(Flags::SHUTDOWN);
        if (cut_short || reason.cuts(conn.queued()))
            && let Some(fd) = &conn.fd
        {
            // Best effort: without it the peer sees a FIN and may take a cut stream for a whole one.
            let _ = sys::socket::set_linger_zero(fd);
        }
        log::debug!("{token}: {reason}");
        let held = conn.held();
        conn.phase = Phase::Ended;
        conn.flags.set(Flags::CLOSE_DUE);
        conn.output = None;
        conn.unread = None;
        let plain = conn.extras.is_none() && conn.watch.is_none() && conn.relay.is_none();
        self.stats.held -= held as u64;
        if matches!(reason, CloseReason::Connect(_)) {
            self.stats.connect_failures += 1;
        }
        if !plain {
            self.cancel_timers(token);
            self.end_relayed(token, &reason);
        }
        self.push_ended(token, reason);
    }

    fn push_ended(&mut self, token: Token, reason: CloseReason) {
        self.stats.closes += 1;
        self.ended.push_back((token, reason));
    }

    /// The next `on_close` to deliver; its connection may be released when it has been.
    #[inline]
    pub fn take_ended(&mut self) -> Option<(Token, CloseReason)> {
        let (token, reason) = self.ended.pop_front()?;
        if let Some(conn) = connection_in(&mut self.table, token) {
            conn.flags.clear(Flags::CLOSE_DUE);
            if conn.phase == Phase::Ended {
                self.reaped.push(token);
            }
        }
        Some((token, reason))
    }

    /// Writing failed. What the peer sent before it failed can often still be read, so that comes first.
    pub fn broken(&mut self, token: Token, e: io::Error) {
        let Some(conn) = connection_in(&mut self.table, token) else { return };
        let queued = conn.queued();
        conn.output = None;
        self.stats.held -= queued as u64;
        let nothing_to_read = conn.flags.has(Flags::EOF_READ.or(Flags::RELAYED));
        if conn.phase != Phase::Open || nothing_to_read {
            self.end(token, CloseReason::Error(e));
        } else if conn.flags.has(Flags::PAUSED) {
            self.end(token, CloseReason::ErrorUnread(e));
        } else {
            conn.flags.set(Flags::BROKEN.or(Flags::READABLE).or(Flags::CUT_READS));
            conn.flags.clear(Flags::GATED);
            conn.extras().broken = Some(e);
            self.mark_ready(token);
        }
    }

    /// Ends the biggest holders until the loop's memory is within its budget.
    #[inline]
    pub fn enforce_memory_budget(&mut self) {
        if self.is_over_budget() {
            self.end_biggest_holders();
        }
    }

    #[cold]
    fn end_biggest_holders(&mut self) {
        let mut holders: Vec<(usize, Token)> = self
            .table
            .iter()
            .filter_map(|(token, source)| match &**source {
                Source::Connection(conn) => Some((conn.held(), token)),
                _ => None,
            })
            .collect();
        holders.sort_unstable();
        while self.is_over_budget()
            && let Some((_, token)) = holders.pop()
        {
            self.end(token, CloseReason::Memory);
        }
    }

    // ── Stopping ─────────────────────────────────────────────────────────────────────────────────────────────

    pub fn stop(&mut self) {
        self.stopping = match self.stopping {
            Stopping::No => Stopping::Asked,
            Stopping::Asked | Stopping::Cut => Stopping::Cut,
            Stopping::Draining(deadline) => {
                // Or it would cut the next run.
                self.timers.remove(deadline);
                Stopping::Cut
            }
        };
    }

    pub fn is_stopping(&self) -> bool {
        self.stopping != Stopping::No
    }

    /// Nothing new is begun while the loop stops.
    ///
    /// # Errors
    /// It stops.
    pub fn refuse_if_stopping(&self) -> io::Result<()> {
        if self.is_stopping() { Err(io::Error::other("the loop is stopping")) } else { Ok(()) }
    }

    /// Acts upon `stop`: listeners close, connections end as soon as they are flushed; at the second call, or at
    /// the deadline, at once.
    pub fn carry_out_stop(&mut self) {
        match self.stopping {
            Stopping::No | Stopping::Draining(_) => return,
            Stopping::Asked => {
                let deadline = self.timers.insert(self.now + self.stop_timeout, Due::Stop);
                self.stopping = Stopping::Draining(deadline);
            }
            Stopping::Cut => {}
        }
        let cut = self.stopping == Stopping::Cut;
        let tokens: Vec<Token> = self.table.iter().map(|(token, _)| token).collect();
        for token in tokens {
            self.stop_one(token, cut);
        }
    }

    /// Carries a stop on for one socket: now, when it has been flushed, or when it can be read away.
    pub fn stop_one(&mut self, token: Token, cut: bool) {
        let Some(conn) = connection_in(&mut self.table, token) else { return self.close(token) };
        let queued = conn.queued() > 0;
        match conn.phase {
            Phase::Ended => {}
            Phase::Connecting => {
                self.end(token, if queued { CloseReason::Unsent } else { CloseReason::Stopped });
            }
            Phase::Lingering => {
                if self.read_away(token) || cut {
                    self.finish_lingering(token);
                } else {
                    self.retry_later(token);
                }
            }
            Phase::Open if conn.flags.has(Flags::BROKEN) => self.close(token),
            Phase::Open | Phase::Closing if queued && cut => self.end(token, CloseReason::Unsent),
            Phase::Open | Phase::Closing => {
                // A filter has a farewell to say, without which the peer would take the stream for cut.
                let owes_farewell =
                    conn.phase == Phase::Open && conn.flags.has(Flags::FILTERED) && !conn.flags.has(Flags::SHUTDOWN);
                conn.flags.set(Flags::STOPPED);
                if queued || owes_farewell {
                    self.begin_close(token);
                } else if self.read_away(token) || cut {
                    self.end(token, CloseReason::Stopped);
                } else {
                    self.begin_close(token);
                    self.retry_later(token);
                }
            }
        }
    }

    /// Whether nothing is left of what `stop` has to end.
    #[inline]
    pub fn is_stopped(&self) -> bool {
        matches!(self.stopping, Stopping::Draining(_) | Stopping::Cut) && self.nothing_is_left()
    }

    fn nothing_is_left(&self) -> bool {
        self.ended.is_empty() && self.table.iter().all(|(_, source)| matches!(**source, Source::Bell(_)))
    }

    /// Ready for another `run`.
    pub fn finish_stop(&mut self) {
        if let Stopping::Draining(deadline) = self.stopping {
            self.timers.remove(deadline);
        }
        self.forget_doubts();
        self.stopping = Stopping::No;
    }
}

impl CloseReason {
    /// Whether the peer must not take what it has for the whole.
    fn cuts(&self, queued: usize) -> bool {
        match self {
            CloseReason::Done | CloseReason::Local | CloseReason::Stopped | CloseReason::Detached => false,
            CloseReason::Idle => queued > 0,
            // The socket is dead already, or never was alive.
            CloseReason::Error(_) | CloseReason::ErrorUnread(_) | CloseReason::Connect(_) => false,
            CloseReason::Aborted
            | CloseReason::Stalled
            | CloseReason::Overflow
            | CloseReason::InputLimit
            | CloseReason::Memory
            | CloseReason::Unsent
            | CloseReason::Relay => true,
        }
    }
}
