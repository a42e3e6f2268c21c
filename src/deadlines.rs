//! The library's own deadlines: idle and stalled connections, connections to be made or gone by a time, and calls
//! to be made again.
//!
//! A deadline that is moved by every byte must cost nothing to move. So the busy path stores the time and no more;
//! the timer, when it is due, compares the stores and comes back later if they are young:
//!
//! ```text
//!   moved ──●────●─────────●──────                    one store per read and write
//!   timer   ├──────────────► due: moved + idle is later: once more ├───────► due: end(Idle)
//! ```
//!
//! The rule that is kept: a connection has at most one timer of each kind, remembers it, and takes it along when it
//! ends.
//!
//! The special problem of the edge that does not come: an edge is told once, so a connection that waits for one waits
//! for ever if there is none. By epoll(7) there always is one, after a write that found no room or a read that found
//! nothing. But what answers in the kernel's place, a sandbox or a tracer, may say EAGAIN for reasons of its own. So those
//! who wait for room, and those whose promised input was not there, stand in a list, and once a second the kernel is
//! asked about each of them anew. An epoll_ctl(2) that changes nothing does that: what is ready is an edge again. The busy
//! path pays a bit in a word that it writes anyway, and a peer that is slow for hours one call a second, and
//! one look at it if it has input that is held back.

use crate::connection::{Flags, Phase};
use crate::handler::CloseReason;
use crate::sockets::{Due, Sockets, Source, Stopping, connection_in};
use crate::timer::TimerId;
use crate::token::Token;
use std::io;
use std::time::Duration;

/// A transient error that brings no new edge (ENOBUFS, ENOMEM) is tried again after this. The kernel frees memory in
/// milliseconds or not at all.
const RETRY_AFTER: Duration = Duration::from_millis(10);

/// An edge that should have come is asked for after this: long enough to cost nothing where none was lost, which is
/// nearly always, and short against every time-out where one was.
const ASK_AGAIN_AFTER: Duration = Duration::from_secs(1);

/// Connections that are asked about in one turn, at a quarter of a microsecond each. The others come in the next, behind
/// whatever else has happened: thousands of peers that do not read hold nobody up.
const ASK_BUDGET: usize = 256;

/// The clock will have moved by then.
const NEXT_TURN: Duration = Duration::from_nanos(1);

impl Sockets {
    /// A timer of the library's own is due.
    pub fn on_due(&mut self, id: TimerId, due: Due) {
        if matches!(due, Due::Stop) {
            // The others are remembered by whom they belong to, who removes them or sets them anew.
            self.timers.remove(id);
        }
        match due {
            Due::Watch(token) => self.watch(token),
            Due::Deadline(token) => self.on_deadline(token),
            Due::Retry(token) => self.on_retry(token),
            Due::Relisten(token) => self.relisten(token),
            Due::AskAgain => self.ask_again(),
            Due::Stop => self.stopping = Stopping::Cut,
            Due::Closure(_) | Due::Keyed(..) | Due::Redial(_) => unreachable!("due to the reactor and not to a socket"),
        }
    }

    /// Idle and stalled time-outs cost the busy path one store each: the timer is not moved when bytes move; it
    /// looks at the stores when it is due, and comes back later if they are young.
    ///
    /// Called when the timer is due, and when one of the two begins to run.
    pub fn watch(&mut self, token: Token) {
        let shared = self.connection(token).and_then(|conn| conn.relay.as_ref()).map(|relay| relay.other);
        let shared = shared.and_then(|other| self.connection(other)).map(|conn| conn.moved);
        let now = self.now;
        let Some(conn) = connection_in(&mut self.table, token) else { return };
        let moved = shared.map_or(conn.moved, |shared| shared.max(conn.moved));
        let idle = conn.options.idle_timeout.map(|timeout| moved + timeout);
        let waits = conn.queued() > 0;
        let stalled = conn.options.stalled_timeout.filter(|_| waits).map(|timeout| conn.taken + timeout);
        if stalled.is_some_and(|at| at <= now) {
            return self.end(token, CloseReason::Stalled);
        }
        if idle.is_some_and(|at| at <= now) {
            return self.end(token, CloseReason::Idle);
        }
        let next = idle.into_iter().chain(stalled).min();
        match (conn.watch, next) {
            (Some(id), Some(next)) => {
                self.timers.reset(id, next);
            }
            (None, Some(next)) => conn.watch = Some(self.timers.insert(next, Due::Watch(token))),
            (Some(_), None) => self.cancel_watch(token),
            (None, None) => {}
        }
    }

    pub fn deadline_by(&mut self, token: Token, after: Duration) {
        let at = self.now + after;
        let Some(conn) = connection_in(&mut self.table, token) else { return };
        let timers = &mut self.timers;
        match conn.extras().deadline {
            Some(id) => {
                timers.reset(id, at);
            }
            None => conn.extras().deadline = Some(timers.insert(at, Due::Deadline(token))),
        }
    }

    fn on_deadline(&mut self, token: Token) {
        self.cancel_deadline(token);
        let Some(conn) = connection_in(&mut self.table, token) else { return };
        match conn.phase {
            Phase::Connecting => self.end(token, CloseReason::Connect(io::ErrorKind::TimedOut.into())),
            Phase::Closing if conn.queued() > 0 => self.end(token, CloseReason::Unsent),
            Phase::Lingering => self.finish_lingering(token),
            // A closed one that has nothing left is being read away, until the stop's deadline.
            Phase::Closing | Phase::Open | Phase::Ended => {}
        }
    }

    /// The kernel lacked memory and will bring no edge when it has some again.
    pub fn retry_later(&mut self, token: Token) {
        let at = self.now + RETRY_AFTER;
        let Some(conn) = connection_in(&mut self.table, token) else { return };
        let extras = conn.extras();
        if extras.retry.is_none() {
            extras.retry = Some(self.timers.insert(at, Due::Retry(token)));
        }
    }

    fn on_retry(&mut self, token: Token) {
        if let Some(Source::Datagram(_)) = self.table.get(token).map(|source| &**source) {
            return self.retry_datagrams(token);
        }
        let stopping = self.is_stopping();
        let Some(conn) = connection_in(&mut self.table, token) else { return };
        if let Some(id) = conn.extras.as_mut().and_then(|extras| extras.retry.take()) {
            self.timers.remove(id);
            conn.tidy();
        }
        if conn.phase == Phase::Connecting {
            return self.try_next_address(token);
        }
        if conn.phase == Phase::Lingering && stopping {
            // The stop had no memory to read it away.
            return self.stop_one(token, false);
        }
        conn.flags.set(Flags::READABLE.or(Flags::WRITABLE));
        self.mark_ready(token);
        self.mark_dirty(token);
    }

    /// The next edge of this connection may not come: the kernel is asked for it after a while.
    pub fn doubt(&mut self, token: Token) {
        let Some(conn) = connection_in(&mut self.table, token) else { return };
        if conn.flags.has(Flags::IN_DOUBT) {
            return;
        }
        conn.flags.set(Flags::IN_DOUBT);
        self.doubted.push_back(token);
        if self.ask_again.is_none() {
            self.ask_again = Some(self.timers.insert(self.now + ASK_AGAIN_AFTER, Due::AskAgain));
        }
    }

    /// A read found nothing: so it should, unless an edge has said otherwise.
    pub fn doubt_input(&mut self, token: Token) {
        if connection_in(&mut self.table, token).is_some_and(|conn| conn.flags.take(Flags::PROMISED)) {
            self.doubt(token);
        }
    }

    /// Asks about some of those who stood in the list when its time came; about the others in the turns that follow. Who
    /// comes to stand in it again is asked about a second later.
    fn ask_again(&mut self) {
        if self.asking == 0 {
            self.asking = self.doubted.len();
        }
        let some = self.asking.min(ASK_BUDGET);
        self.asking -= some;
        for token in self.doubted.drain(..some).collect::<Vec<_>>() {
            let Some(conn) = connection_in(&mut self.table, token) else { continue };
            conn.flags.clear(Flags::IN_DOUBT);
            let waits_for_room = conn.queued() > 0 && !conn.flags.has(Flags::WRITABLE);
            let Some(fd) = conn.fd.as_ref().filter(|_| conn.phase < Phase::Ended) else { continue };
            let asked = self.poller.modify(fd, conn.interest(), token);
            if let Err(e) = &asked {
                log::debug!("{token}: epoll_ctl: {e}");
            }
            if waits_for_room || asked.is_err() {
                self.doubt(token);
            }
        }
        if self.doubted.is_empty() {
            self.forget_doubts();
        } else if let Some(id) = self.ask_again {
            let pause = if self.asking > 0 { NEXT_TURN } else { ASK_AGAIN_AFTER };
            self.timers.reset(id, self.now + pause);
        }
    }

    /// No connection is left of whom to ask.
    pub fn forget_doubts(&mut self) {
        self.doubted.clear();
        self.asking = 0;
        if let Some(id) = self.ask_again.take() {
            self.timers.remove(id);
        }
    }

    pub fn cancel_watch(&mut self, token: Token) {
        if let Some(id) = connection_in(&mut self.table, token).and_then(|conn| conn.watch.take()) {
            self.timers.remove(id);
        }
    }

    pub fn cancel_deadline(&mut self, token: Token) {
        let extras = connection_in(&mut self.table, token).and_then(|conn| conn.extras.as_mut());
        if let Some(id) = extras.and_then(|extras| extras.deadline.take()) {
            self.timers.remove(id);
        }
    }

    pub fn cancel_keyed(&mut self, token: Token) {
        if let Some(extras) = connection_in(&mut self.table, token).and_then(|conn| conn.extras.as_mut()) {
            for (_, id) in extras.keyed.drain(..) {
                self.timers.remove(id);
            }
        }
    }

    pub fn cancel_timers(&mut self, token: Token) {
        self.cancel_watch(token);
        self.cancel_keyed(token);
        self.cancel_deadline(token);
        let extras = connection_in(&mut self.table, token).and_then(|conn| conn.extras.as_mut());
        if let Some(id) = extras.and_then(|extras| extras.retry.take()) {
            self.timers.remove(id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::ListenOptions;
    use crate::reactor::Reactor;
    use crate::sys::fault::{self, Call, Plan};
    use bytes::Bytes;
    use std::net::TcpStream;

    /// How often epoll is asked again in one turn.
    fn asked(reactor: &mut Reactor<()>) -> usize {
        fault::install(Plan::new());
        reactor.turn(Some(Duration::ZERO)).expect("the loop turns");
        fault::remove().expect("the plan").made(Call::EpollModify) as usize
    }

    #[test]
    fn many_that_wait_for_room_are_asked_about_in_turns() {
        const PEERS: usize = ASK_BUDGET + 44;
        let mut reactor = Reactor::new(()).expect("a reactor");
        let options = ListenOptions::new().with(|o| o.stream.send_buffer = Some(16 * 1024));
        let listener = reactor.net.serve_with("127.0.0.1:0", options, |_, _| {}).expect("it listens");
        let address = reactor.net.local_address(listener).and_then(|address| address.ip()).expect("an address");
        let peers: Vec<_> = (0..PEERS).map(|_| TcpStream::connect(address).expect("the backlog takes us")).collect();
        while reactor.net.stats().accepts < PEERS as u64 {
            reactor.turn(Some(Duration::from_secs(10))).expect("the loop turns");
        }
        let block = Bytes::from(vec![7; 1 << 20]);
        for token in reactor.net.tokens() {
            reactor.net.send(token, block.clone());
        }
        reactor.turn(Some(Duration::ZERO)).expect("the loop turns");
        assert_eq!(asked(&mut reactor), 0, "nobody has waited long");
        for _ in 0..3 {
            fault::advance(ASK_AGAIN_AFTER + RETRY_AFTER);
            assert_eq!(asked(&mut reactor), ASK_BUDGET);
            assert_eq!(asked(&mut reactor), PEERS - ASK_BUDGET, "the others in the next turn");
            assert_eq!(asked(&mut reactor), 0, "each once in a second");
        }
        drop(peers);
    }
}
