//! Streams: two queues of bytes, and which of the two halves have ended.
//!
//! ```text
//!   send ──► tx ── delivery, as far as there is room ──► rx of the peer ──► recv
//!            │     (for Unix there is no tx)              │
//!            └ bounded: short write, EAGAIN               └ bounded: what does not fit stays in tx
//! ```
//!
//! This file is what a program can do with a stream that it has; how connections begin and end, and what is under
//! way between two of them, is in the file next to it. The order of the tests in each call is the real kernel's
//! (`tcp_recvmsg_locked`, `tcp_sendmsg_locked`, `tcp_poll`, `unix_stream_sendmsg`, `unix_poll`): it decides which
//! of several truths is told.

use super::kernel::{Errno, Event, Id, Kernel, What};
use crate::sys::Address;
use crate::sys::epoll::{ERR, HUP, IN, OUT, PRI, RDHUP};
use std::collections::VecDeque;
use std::io::IoSlice;

/// A write to a Unix stream lies in pieces of about this size in the real kernel (`unix_stream_sendmsg`).
const UNIX_PIECE_BYTES: u64 = 32 * 1024;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    Fresh,
    Listening,
    Connecting,
    Open,
    /// Both ends were told and confirmed, or the connection was cut.
    Closed,
}

/// What became of our end (FIN).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fin {
    No,
    /// It follows behind `tx`.
    Queued,
    /// The peer has it.
    Delivered,
}

/// How a peer from outside reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Manner {
    /// When it is told to.
    ByHand,
    /// Everything, as it comes.
    Takes,
    /// Everything, and sends it back; ends when it is ended.
    Echoes,
}

/// What whoever holds a stream has moved through it, for those who check what they are told of it.
#[cfg(test)]
#[derive(Debug, Clone, Copy, Default)]
pub struct Ledger {
    /// Bytes that were ever read.
    pub read: u64,
    /// When some were last read or taken.
    pub moved_at: u64,
    /// When some were last taken for the peer.
    pub taken_at: u64,
}

#[derive(Debug)]
pub struct Stream {
    pub unix: bool,
    pub state: State,
    pub local: Option<Address>,
    pub remote: Option<Address>,
    pub peer: Option<Id>,
    pub tx: VecDeque<u8>,
    pub tx_limit: usize,
    pub rx: VecDeque<u8>,
    pub rx_limit: usize,
    /// Bytes that were ever put into `rx`.
    pub arrived: u64,
    /// For Unix: where the pieces in `rx` end, counted as `arrived` is. The sender's memory is free when a piece has
    /// been read to its end, and not before.
    pub pieces: VecDeque<u64>,
    /// Bytes that were ever put into `tx`; of a Unix socket, into its peer's `rx`.
    pub sent: u64,
    #[cfg(test)]
    pub ledger: Ledger,
    /// The urgent byte among them.
    pub sends_urgent: Option<u64>,
    /// The urgent byte among those that arrived, until it is read past.
    pub urgent: Option<u64>,
    /// SO_ERROR.
    pub error: Errno,
    pub read_ended: bool,
    pub write_ended: bool,
    pub fin: Fin,
    pub fin_received: bool,
    /// A writer has met a full buffer: room is told by an edge.
    pub no_space: bool,
    pub linger_zero: bool,
    /// Nobody holds it; it lives on for what is still to be sent or heard.
    pub orphan: bool,
    /// Its machine is gone, or the cable: nothing leaves and nothing arrives.
    pub vanished: bool,
    /// It waits in a backlog.
    pub embryo: bool,
    /// A second connect(2) says once more how the first went.
    pub connect_told: bool,
    /// A delivery is on the agenda.
    pub delivering: bool,
    /// What was bound is given back at close.
    pub named: bool,
    pub reuse_port: bool,
    pub only_v6: bool,
    pub backlog: VecDeque<Id>,
    pub backlog_limit: usize,
    pub manner: Manner,
    /// Of an error that has ended it, though nobody may have asked.
    pub cut: Errno,
    /// Held by a peer from outside, whose memory is no concern of ours: it takes what it is given to send.
    pub outside: bool,
    /// What a peer that reads by itself has read.
    pub taken: Vec<u8>,
}

impl Stream {
    pub fn new(unix: bool, tx_limit: usize, rx_limit: usize) -> Stream {
        Stream {
            unix,
            state: State::Fresh,
            local: None,
            remote: None,
            peer: None,
            tx: VecDeque::new(),
            tx_limit,
            rx: VecDeque::new(),
            rx_limit,
            arrived: 0,
            pieces: VecDeque::new(),
            sent: 0,
            #[cfg(test)]
            ledger: Ledger::default(),
            sends_urgent: None,
            urgent: None,
            error: 0,
            read_ended: false,
            write_ended: false,
            fin: Fin::No,
            fin_received: false,
            no_space: false,
            linger_zero: false,
            orphan: false,
            vanished: false,
            embryo: false,
            connect_told: false,
            delivering: false,
            named: false,
            reuse_port: false,
            only_v6: false,
            backlog: VecDeque::new(),
            backlog_limit: 0,
            manner: Manner::ByHand,
            cut: 0,
            outside: false,
            taken: Vec::new(),
        }
    }

    /// The connection is over: every wait ends.
    pub fn finish(&mut self) {
        self.state = State::Closed;
        (self.read_ended, self.write_ended) = (true, true);
        self.tx.clear();
    }

    pub fn take_error(&mut self) -> Option<Errno> {
        match std::mem::take(&mut self.error) {
            0 => None,
            errno => Some(errno),
        }
    }

    /// `sk_stream_is_writeable`: a third is free.
    pub fn has_room(&self) -> bool {
        self.tx_limit.saturating_sub(self.tx.len()) >= self.tx.len() / 2
    }

    fn at_mark(&self) -> bool {
        self.urgent == Some(self.arrived - self.rx.len() as u64)
    }

    fn is_readable(&self) -> bool {
        self.rx.len() > usize::from(self.at_mark())
    }

    fn poll_tcp(&mut self) -> u32 {
        let mut mask = 0;
        if matches!(self.state, State::Fresh | State::Closed) || self.read_ended && self.write_ended {
            mask |= HUP;
        }
        if self.read_ended {
            mask |= IN | RDHUP;
        }
        if self.state != State::Connecting {
            if self.is_readable() {
                mask |= IN;
            }
            if self.write_ended || self.has_room() {
                mask |= OUT;
            } else {
                self.no_space = true;
            }
            if self.urgent.is_some() {
                mask |= PRI;
            }
        }
        mask
    }

    /// `unsent` is what the peer has not read yet.
    fn poll_unix(&self, unread_by_peer: usize) -> u32 {
        let mut mask = 0;
        if self.read_ended && self.write_ended || self.state == State::Fresh {
            mask |= HUP;
        }
        if self.read_ended {
            mask |= IN | RDHUP;
        }
        if !self.rx.is_empty() {
            mask |= IN;
        }
        if unread_by_peer.saturating_mul(4) <= self.tx_limit {
            mask |= OUT;
        }
        mask
    }

    /// Leaves the urgent byte out, if it is the next one.
    pub fn pass_mark(&mut self) {
        if self.at_mark() && !self.rx.is_empty() {
            self.rx.pop_front();
            self.urgent = None;
        }
    }

    /// Some more bytes have come to a Unix stream.
    fn arrive_in_pieces(&mut self, n: usize) {
        let end = self.arrived + n as u64;
        while self.arrived < end {
            self.arrived = end.min(self.arrived + UNIX_PIECE_BYTES);
            self.pieces.push_back(self.arrived);
        }
    }

    /// Whether a piece has been read to its end.
    fn end_pieces(&mut self) -> bool {
        let (before, read) = (self.pieces.len(), self.arrived - self.rx.len() as u64);
        while self.pieces.front().is_some_and(|end| *end <= read) {
            self.pieces.pop_front();
        }
        self.pieces.len() < before
    }

    /// Takes up to `max` bytes from the front of what has arrived. A read ends at the urgent byte, and the next one
    /// leaves it out.
    fn take(&mut self, max: usize, sink: &mut impl FnMut(&[u8])) -> usize {
        self.pass_mark();
        let mut n = self.rx.len().min(max);
        if let Some(mark) = self.urgent {
            n = n.min((mark - (self.arrived - self.rx.len() as u64)) as usize);
        }
        let (front, back) = self.rx.as_slices();
        let cut = n.min(front.len());
        sink(&front[..cut]);
        if n > cut {
            sink(&back[..n - cut]);
        }
        self.rx.drain(..n);
        n
    }
}

impl Kernel {
    pub fn make_stream(&mut self, unix: bool) -> Id {
        let tx_limit = self.chance.within(&self.weather.send_buffer);
        let rx_limit = self.chance.within(&self.weather.receive_buffer);
        self.make(What::Stream(Box::new(Stream::new(unix, tx_limit, rx_limit))))
    }

    /// Of a peer from outside, which takes whatever it is given to send.
    pub fn make_outsider(&mut self, unix: bool) -> Id {
        let id = self.make_stream(unix);
        self.become_outsider(id);
        id
    }

    pub fn become_outsider(&mut self, id: Id) {
        if let Some(stream) = self.stream_mut(id) {
            (stream.outside, stream.tx_limit) = (true, usize::MAX);
        }
    }

    pub fn poll_stream(&mut self, id: Id) -> u32 {
        let Some(stream) = self.stream_mut(id) else { return 0 };
        let told = if stream.state == State::Listening {
            if stream.backlog.is_empty() { 0 } else { IN }
        } else if stream.unix {
            let peer = stream.peer;
            let unread = peer.and_then(|peer| self.stream(peer)).map_or(0, |peer| peer.rx.len());
            self.stream(id).map_or(0, |stream| stream.poll_unix(unread))
        } else {
            stream.poll_tcp()
        };
        let failed = self.stream(id).is_some_and(|stream| stream.error != 0);
        if failed { told | ERR } else { told }
    }

    /// recv(2): hands up to `max` bytes to `sink`.
    ///
    /// # Errors
    /// EAGAIN, ENOTCONN, or what has become of the connection.
    pub fn recv(&mut self, id: Id, max: usize, mut sink: impl FnMut(&[u8])) -> Result<usize, Errno> {
        let stream = self.stream_mut(id).ok_or(libc::ENOTSOCK)?;
        if matches!(stream.state, State::Fresh | State::Listening) {
            return Err(if stream.unix { libc::EINVAL } else { libc::ENOTCONN });
        }
        let was_full = !stream.rx.is_empty();
        let n = stream.take(max, &mut sink);
        if was_full && (!stream.unix || stream.end_pieces()) {
            self.room_made(id);
        }
        #[cfg(test)]
        self.book(id, n, 0);
        let Some(stream) = self.stream_mut(id) else { return Ok(n) };
        if n > 0 || max == 0 {
            return Ok(n);
        }
        // A FIN outranks the error that came after it.
        if !stream.unix && stream.fin_received {
            return Ok(0);
        }
        if let Some(errno) = stream.take_error() {
            return Err(errno);
        }
        if stream.read_ended { Ok(0) } else { Err(libc::EAGAIN) }
    }

    /// A reader has taken something: its peer may go on.
    fn room_made(&mut self, id: Id) {
        let Some(stream) = self.stream(id) else { return };
        let Some(peer) = stream.peer else { return };
        if stream.unix {
            let unread = stream.rx.len();
            // Told whether anybody had met a full buffer or not.
            if self.stream(peer).is_some_and(|peer| unread.saturating_mul(4) <= peer.tx_limit) {
                self.wake(peer, OUT);
            }
        } else {
            self.kick(peer);
        }
    }

    /// send(2), or sendmsg(2) with several parts. With `urgent` the last byte is TCP's urgent one.
    ///
    /// # Errors
    /// EAGAIN, EPIPE, ENOTCONN, or what has become of the connection.
    pub fn send(&mut self, id: Id, parts: &[IoSlice<'_>], urgent: bool) -> Result<usize, Errno> {
        let len: usize = parts.iter().map(|part| part.len()).sum();
        let stream = self.stream_mut(id).ok_or(libc::ENOTSOCK)?;
        if stream.unix {
            if stream.state == State::Fresh {
                return Err(libc::ENOTCONN);
            }
            return if urgent { Err(libc::EOPNOTSUPP) } else { self.send_unix(id, parts, len) };
        }
        if stream.state == State::Connecting && !stream.outside {
            return Err(stream.take_error().unwrap_or(libc::EAGAIN));
        }
        let open = matches!(stream.state, State::Open | State::Connecting);
        if !open || stream.write_ended || stream.error != 0 {
            return Err(stream.take_error().unwrap_or(libc::EPIPE));
        }
        let cut = self.cut_short(id, len);
        let mut taken = 0;
        // With packets that arrive at once there is room again and again, until the peer's buffer is full too.
        while taken < cut {
            let Some(stream) = self.stream_mut(id) else { break };
            let n = (cut - taken).min(stream.tx_limit.saturating_sub(stream.tx.len()));
            if n == 0 || stream.state == State::Closed {
                break;
            }
            push_part(&mut stream.tx, parts, taken, n);
            stream.sent += n as u64;
            taken += n;
            if urgent && taken == len {
                stream.sends_urgent = Some(stream.sent - 1);
            }
            self.kick(id);
        }
        #[cfg(test)]
        self.book(id, 0, taken);
        let Some(stream) = self.stream_mut(id) else { return Ok(taken) };
        if taken < len {
            stream.no_space = true;
        }
        if taken == 0 && len > 0 { Err(libc::EAGAIN) } else { Ok(taken) }
    }

    fn send_unix(&mut self, id: Id, parts: &[IoSlice<'_>], len: usize) -> Result<usize, Errno> {
        let stream = self.stream(id).ok_or(libc::ENOTSOCK)?;
        if stream.write_ended {
            return Err(libc::EPIPE);
        }
        let (peer, limit) = (stream.peer, stream.tx_limit);
        let Some(peer) = peer.filter(|peer| self.stream(*peer).is_some_and(|peer| !peer.read_ended)) else {
            return Err(libc::EPIPE);
        };
        let cut = self.cut_short(id, len);
        let Some(receiver) = self.stream_mut(peer) else { return Err(libc::EPIPE) };
        let n = cut.min(limit.saturating_sub(receiver.rx.len()));
        if n == 0 && len > 0 {
            if let Some(stream) = self.stream_mut(id) {
                stream.no_space = true;
            }
            return Err(libc::EAGAIN);
        }
        push_part(&mut receiver.rx, parts, 0, n);
        receiver.arrive_in_pieces(n);
        if let Some(stream) = self.stream_mut(id) {
            stream.sent += n as u64;
        }
        #[cfg(test)]
        self.book(id, 0, n);
        self.arrived(peer);
        Ok(n)
    }

    /// Enters into a stream's ledger what was read from it, or taken for its peer.
    #[cfg(test)]
    fn book(&mut self, id: Id, read: usize, taken: usize) {
        let now = self.now;
        let Some(stream) = self.stream_mut(id) else { return };
        stream.ledger.read += read as u64;
        if read + taken > 0 {
            stream.ledger.moved_at = now;
        }
        if taken > 0 {
            stream.ledger.taken_at = now;
        }
    }

    /// How much of `len` bytes is looked at, if the weather cuts a write short; room is told later then.
    fn cut_short(&mut self, id: Id, len: usize) -> usize {
        let outside = self.stream(id).is_some_and(|stream| stream.outside);
        if outside || !self.chance.once_in(self.weather.short_writes) {
            return len;
        }
        let later = self.now + self.latency().max(1);
        self.at(later, Event::Room(id));
        self.chance.below(len as u64) as usize
    }

    /// There is room after a write that was cut short without need.
    pub fn find_room(&mut self, id: Id) {
        let Some(stream) = self.stream_mut(id) else { return };
        if stream.unix || stream.no_space && stream.has_room() {
            stream.no_space = false;
            self.wake(id, OUT);
        }
    }

    /// shutdown(2) of the half that sends.
    ///
    /// # Errors
    /// ENOTCONN.
    pub fn shutdown(&mut self, id: Id) -> Result<(), Errno> {
        let stream = self.stream_mut(id).ok_or(libc::ENOTSOCK)?;
        if !stream.unix && !matches!(stream.state, State::Open | State::Connecting) {
            // Those who wait are woken all the same.
            self.wake(id, 0);
            return Err(libc::ENOTCONN);
        }
        stream.write_ended = true;
        if stream.unix {
            let peer = stream.peer;
            if let Some(peer) = peer.filter(|peer| self.stream(*peer).is_some()) {
                if let Some(other) = self.stream_mut(peer) {
                    (other.read_ended, other.fin_received) = (true, true);
                }
                self.wake(peer, 0);
                self.attend_soon(peer);
            }
        } else if stream.fin == Fin::No {
            stream.fin = Fin::Queued;
            self.kick(id);
        }
        // Those who wait are told that the state has changed, the caller too.
        self.wake(id, 0);
        Ok(())
    }

    /// Bytes have been put into a socket's `rx`.
    pub fn arrived(&mut self, id: Id) {
        self.wake(id, IN | PRI);
        self.attend_soon(id);
    }

    // ── Peers that read by themselves ────────────────────────────────────────────────────────────────────────

    pub fn attend_soon(&mut self, id: Id) {
        if self.stream(id).is_some_and(|stream| stream.manner != Manner::ByHand) {
            let soon = self.now + self.latency().max(1);
            self.at(soon, Event::Attend(id));
        }
    }

    pub fn attend(&mut self, id: Id) {
        let Some(stream) = self.stream(id) else { return };
        let echoes = match stream.manner {
            Manner::ByHand => return,
            Manner::Takes => false,
            Manner::Echoes => true,
        };
        let mut taken = Vec::new();
        while self.recv(id, usize::MAX, |bytes| taken.extend_from_slice(bytes)).is_ok_and(|n| n > 0) {}
        if echoes {
            // Cut: then nobody hears the echo.
            let _ = self.send(id, &[IoSlice::new(&taken)], false);
        }
        let Some(stream) = self.stream_mut(id) else { return };
        stream.taken.extend_from_slice(&taken);
        if echoes && stream.fin_received && !stream.write_ended {
            let _ = self.shutdown(id);
        }
    }
}

/// Appends `n` bytes of `parts`, which are taken as one, from `from` on.
fn push_part(queue: &mut VecDeque<u8>, parts: &[IoSlice<'_>], from: usize, n: usize) {
    let (mut skip, mut left) = (from, n);
    for part in parts {
        let start = skip.min(part.len());
        skip -= start;
        let end = part.len().min(start + left);
        queue.extend(&part[start..end]);
        left -= end - start;
    }
}
